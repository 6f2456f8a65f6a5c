"""The shell face of the benchmark: ``fairmt bench run | one | show | compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fairmt.bench.configuration import Configuration
    from fairmt.bench.store import ResultStore

bench_app = typer.Typer(no_args_is_help=True, help="Compare methods under one protocol.")
out = Console()
err = Console(stderr=True)

Out = Annotated[Path, typer.Option("--out", help="Folder of the results; grows over runs.")]
Workers = Annotated[int, typer.Option(help="Processes on this machine.")]
Storage = Annotated[
    str | None,
    typer.Option(help="List of runs shared by several machines, as sqlite:///… or postgresql://…"),
]
Accelerator = Annotated[str, typer.Option(help="What networks are trained on: cpu, cuda.")]


@bench_app.command("run")
def run(
    suite: str,
    out_dir: Out = Path("bench"),
    workers: Workers = 1,
    storage: Storage = None,
    accelerator: Accelerator = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many seeds.")] = None,
    data: Annotated[str | None, typer.Option(help="Only these problems: A,B.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods: A,B.")] = None,
) -> None:
    """Make the results of a suite that are not there yet. It may be stopped and gone on with."""
    from fairmt.bench.store import ResultStore
    from fairmt.bench.suites import suite as named

    found = named(suite)
    runs = [
        c
        for c in found.runs
        if (seeds is None or c.seed < seeds)
        and (data is None or c.problem in data.split(","))
        and (methods is None or c.method in methods.split(","))
    ]
    if not runs:
        raise ValueError(
            f"No run of '{suite}' is left by --seeds, --data and --methods; its problems are "
            f"{list(found.problems)}."
        )
    out.print(f"{found.what}; cost: {found.cost}.", highlight=False)
    _make(runs, ResultStore(out_dir), workers, storage, accelerator)


@bench_app.command("one")
def one(
    data: Annotated[str, typer.Option(help="A problem: acs, diabetes130, …")],
    method: Annotated[str, typer.Option(help="See `fairmt methods`.")],
    out_dir: Out = Path("bench"),
    variant: Annotated[str, typer.Option(help="missing:SHARE, shift, intersections, …")] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the method, the value as JSON.")
    ] = None,
    controller: Annotated[str, typer.Option(help="Of FairMT's λ: path, or dual.")] = "path",
    postprocessing: Annotated[
        str | None, typer.Option(help="Method of that kind that follows the path.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be given often. [0]")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="The first so many seeds.")] = None,
    epochs: int | None = None,
    path_epochs: int | None = None,
    workers: Workers = 1,
    accelerator: Accelerator = "cpu",
) -> None:
    """One contestant on one problem: makes a row of a leaderboard again."""
    from fairmt.bench.configuration import Configuration
    from fairmt.bench.store import ResultStore

    if seed and seeds is not None:
        raise ValueError("Give --seed, for seeds by number, or --seeds, for the first so many.")
    options = []
    for text in option or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option takes KEY=VALUE. Found '{text}'.")
        options.append((key, json.loads(value)))
    runs = [
        Configuration(
            data,
            method,
            s,
            variant,
            tuple(options),
            controller,
            epochs,
            path_epochs,
            postprocessing,
        )
        for s in (seed or range(seeds or 1))
    ]
    store = ResultStore(out_dir)
    _make(runs, store, workers, None, accelerator)
    table = Table()
    for column in ("seed", "hypervolume", "Δm", "gap", "shortfall"):
        table.add_column(column)
    for config in runs:
        row = store.get(config)
        if "ceiling" in row:
            out.print(f"Seed {config.seed}, the ceiling against the plain model: {row['ceiling']}")
            continue
        if "noise_floor" in row:
            out.print(f"Seed {config.seed}, what chance alone shows: {row['noise_floor']}")
            continue
        at = row["budget"]["0.01"]
        table.add_row(
            str(config.seed),
            f"{row['volume'][0]:.3f}",
            f"{at['delta_m'][0]:+.1%}",
            *(f"{at[k][0] / at['plain'][k][0] - 1:+.0%}" for k in ("gap", "shortfall")),
        )
    if not table.rows:
        return
    out.print(table)
    out.print("Δm, gap and shortfall: of the candidate that utility_budget=0.01 picks, test rows.")


@bench_app.command("show")
def show(
    suite: str,
    out_dir: Out = Path("bench"),
    page: Annotated[
        Path | None, typer.Option(help="Write the leaderboard, pictures beside.")
    ] = None,
) -> None:
    """The leaderboard of a suite, from the results that are there."""
    from fairmt.bench.leaderboard import Leaderboard
    from fairmt.bench.page import Page
    from fairmt.bench.store import ResultStore
    from fairmt.bench.suites import suite as named

    board = Leaderboard(named(suite), ResultStore(out_dir))
    if not board.results:
        raise FileNotFoundError(
            f"No result of '{suite}' in '{out_dir}'. Make them: fairmt bench run {suite} --out "
            f"{out_dir}"
        )
    if page is None:
        out.print(Page(board).markdown(), highlight=False, markup=False, soft_wrap=True)
        return
    from fairmt.bench.pictures import critical_difference, frontiers

    text, pictures = Page(board).markdown(), page.parent / f"{page.stem}_pictures"
    for problem in board.results:
        picture = pictures / f"{problem.replace('/', '-').replace(':', '-')}.png"
        frontiers(board, problem, picture)
        heading = f"## {problem}\n"
        text = text.replace(
            heading, f"{heading}\n![Frontiers on {problem}]({pictures.name}/{picture.name})\n"
        )
    found = board.ranks()
    if found.n:
        critical_difference(found, pictures / "ranks.png")
        text += f"\n## Ranks\n\n![Mean ranks of the methods]({pictures.name}/ranks.png)\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    out.print(f"Wrote {page}", highlight=False)


@bench_app.command("compare")
def compare(
    a: str,
    b: str,
    out_dir: Out = Path("bench"),
    suite: Annotated[str, typer.Option(help="Whose results are compared.")] = "core",
) -> None:
    """Two methods, problem by problem: the paired difference of hypervolumes."""
    from fairmt.bench.leaderboard import Leaderboard, difference
    from fairmt.bench.store import ResultStore
    from fairmt.bench.suites import suite as named

    board = Leaderboard(named(suite), ResultStore(out_dir))
    table = Table(title=f"Hypervolume of {a} less that of {b}")
    for column in ("problem", "seeds", "difference [95 %]"):
        table.add_column(column)
    for problem, by_method in board.results.items():
        own, other = by_method.get(a, {}), by_method.get(b, {})
        found = difference(own, other)
        if found is not None:
            table.add_row(problem, str(len(set(own) & set(other))), str(found))
    if not table.rows:
        raise FileNotFoundError(
            f"'{out_dir}' holds no problem of '{suite}' on which both '{a}' and '{b}' stand."
        )
    out.print(table)


def _make(
    runs: Sequence[Configuration],
    store: ResultStore,
    workers: int,
    storage: str | None,
    accelerator: str,
) -> None:
    """Make what is left, with a bar; failures are told at the end, one line each."""
    from fairmt.bench.queue import run_all

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
    ) as bar:
        task = bar.add_task("runs", total=len(runs))
        failed = run_all(
            runs,
            store,
            workers=workers,
            storage=storage,
            accelerator=accelerator,
            show=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for cause in failed:
        err.print(f"[bold red]Failed:[/] {cause}", highlight=False)
    if failed:
        raise typer.Exit(1)
