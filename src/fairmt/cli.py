"""The shell face: ``fairmt demo | train | choose | predict | audit | datasets | methods | …``."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fairmt.bench_cli import bench_app

if TYPE_CHECKING:
    import pandas as pd

    from fairmt.estimator import FairMTLearner

QUOTING = (
    "Names that hold ':' or ',' go into double quotes inside the argument, a quote is doubled: "
    "--task '\"a:b\":regression'."
)
app = typer.Typer(
    name="fairmt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fairness for several outcomes at once: train, choose, predict, audit.\n\n"
    "FairMT as formulated in this library (the idea: arXiv 2512.00469).",
)
datasets_app = typer.Typer(no_args_is_help=True, help="The catalog of real data sets.")
app.add_typer(datasets_app, name="datasets")
app.add_typer(bench_app, name="bench")
out = Console()
err = Console(stderr=True)

Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help=f"NAME:KIND[:COLUMN,COLUMN…]; once per task. {QUOTING}"),
]
Names = Annotated[list[str] | None, typer.Option(help="A,B or several times.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Tolerance = Annotated[float | None, typer.Option(help="Every gap at most this.")]
Budget = Annotated[
    float | None, typer.Option(help="Smallest shortfall at this relative loss of utility.")
]
Strength = Annotated[float | None, typer.Option(help="The candidate of this λ.")]


def main() -> None:
    """Entry point; errors are one sentence on stderr, and an exit status other than 0."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(130)
    except (ValueError, ImportError, ArithmeticError, OSError) as error:
        err.print(f"[bold red]Error:[/] {_plain(str(error))}", highlight=False)
        sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, UserWarning):
        err.print(f"[yellow]Note:[/] {_plain(str(message))}", highlight=False)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


# -- train, choose, demo --------------------------------------------------------------------


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path(
        "fairmt-demo"
    ),
    rows: Annotated[int, typer.Option(help="Made-up people.")] = 20_000,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Train the plain model and FairMT on made-up people with a known bias, side by side."""
    from fairmt.config import read_source

    frame, described, source = read_source(f"generated:{rows}:{seed}")
    settings = described | {"seed": seed, "progress": not as_json}
    _train(frame, settings, source, out_dir, as_json, overwrite=True)


@app.command()
def train(
    table: Annotated[
        str | None, typer.Argument(help="CSV or Parquet file, folder of Parquet, or catalog:NAME.")
    ] = None,
    task: Tasks = None,
    sensitive: Names = None,
    features: Names = None,
    drop: Names = None,
    bins: Annotated[
        list[str] | None, typer.Option(help="COLUMN:EDGE,EDGE…: bands of a numeric attribute.")
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Column of sample weights.")] = None,
    split_by: Annotated[
        str | None, typer.Option(help="Column of the unit (household, patient) kept together.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="See `fairmt methods`.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE: a further setting of the method.")
    ] = None,
    pretraining: Annotated[
        str | None, typer.Option(help="Method of that kind that makes the encoder first.")
    ] = None,
    postprocessing: Annotated[
        str | None, typer.Option(help="Method of that kind that follows; needs the attributes.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="mlp or attention.")] = None,
    notion: Annotated[list[str] | None, typer.Option(help="NOTION, or TASK=NOTION.")] = None,
    tolerance: Tolerance = None,
    utility_budget: Budget = None,
    strength: Strength = None,
    controller: Annotated[str | None, typer.Option(help="path or dual.")] = None,
    floors: Annotated[float | None, typer.Option(help="Do no harm, within this.")] = None,
    depth: Annotated[int | None, typer.Option(help="Intersections of so many attributes.")] = None,
    continuous: Annotated[
        list[str] | None, typer.Option(help="Sensitive attributes that are used as numbers.")
    ] = None,
    attributes_as_inputs: Annotated[
        bool | None, typer.Option(help="The model may use the attributes; prediction needs them.")
    ] = None,
    recalibration: Annotated[bool | None, typer.Option(help="Recalibrate probabilities.")] = None,
    epochs: int | None = None,
    path_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    balance: float | None = None,
    seed: int | None = None,
    rows: Annotated[int | None, typer.Option(help="Use the first so many rows only.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the same words; flags go first.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the results.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train on a table; write the model, metrics.json and report.html to --out."""
    flags = {
        "table": table,
        "task": task,
        "sensitive": sensitive,
        "features": features,
        "drop": drop,
        "bins": bins,
        "weight": weight,
        "split_by": split_by,
        "method": method,
        "option": option,
        "pretraining": pretraining,
        "postprocessing": postprocessing,
        "encoder": encoder,
        "notion": notion,
        "tolerance": tolerance,
        "utility_budget": utility_budget,
        "strength": strength,
        "controller": controller,
        "floors": floors,
        "depth": depth,
        "continuous": continuous,
        "attributes_as_inputs": attributes_as_inputs,
        "recalibration": recalibration,
        "epochs": epochs,
        "path_epochs": path_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "balance": balance,
        "seed": seed,
        "rows": rows,
        "out": None if out_dir is None else str(out_dir),
    }
    from fairmt.config import learner_settings, merge, read_source

    words = merge(config, flags)
    if words.get("table") is None:
        raise ValueError("Name a table: a CSV or Parquet file, or catalog:NAME.")
    if words.get("out") is None:
        raise ValueError("Name the folder of the results with --out.")
    frame, described, source = read_source(words["table"], words.get("rows"))
    settings = described | learner_settings(words) | {"progress": not as_json}
    _train(frame, settings, source, Path(words["out"]), as_json, overwrite)


def _train(
    frame: pd.DataFrame,
    settings: Mapping[str, Any],
    source: Mapping[str, Any],
    folder: Path,
    as_json: bool,
    overwrite: bool = False,
) -> None:
    from fairmt.data import split
    from fairmt.runs import FRACTIONS, Tested, new_learner, write_run

    _check_folder(folder, overwrite)
    checkpoint = folder / "checkpoint"
    learner = new_learner(dict(settings) | {"checkpoint": checkpoint})
    unit = None if learner.split_by is None else _column(frame, learner.split_by)
    parts = split(frame, fractions=FRACTIONS, unit=unit, seed=learner.seed)
    try:
        learner.fit(frame, parts=parts)
    except KeyboardInterrupt:
        if checkpoint.exists():
            err.print(f"The last checkpoint is in '{checkpoint}'; the same command goes on there.")
        raise
    test = frame.iloc[parts["test"]]
    run = dict(source) | {
        "rows": len(frame),
        "parts": {part: len(rows) for part, rows in parts.items()},
        "fractions": list(FRACTIONS),
        "split_by": learner.split_by,
        "seed": learner.seed,
        "rule": _rule(learner),
    }
    found = write_run(folder, learner, Tested.of(learner, test), run, test)
    _remove(checkpoint)
    _print_run(found, folder, as_json)


def _rule(learner: FairMTLearner) -> dict[str, Any]:
    """How the candidate was chosen."""
    words = ("tolerance", "utility_budget", "strength")
    return {w: getattr(learner, w) for w in words if getattr(learner, w) is not None}


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"'{folder}' is a file; name a folder with --out.")
    names = {p.name for p in folder.iterdir()} if folder.exists() else set()
    if names - {"checkpoint", ".checkpoint-old"} and not (overwrite and "run.json" in names):
        raise FileExistsError(
            f"'{folder}' is not empty. Choose another folder, remove it, or replace an earlier "
            "run with --overwrite."
        )


def _column(frame: pd.DataFrame, name: str) -> Any:
    from fairmt.data.schema import require_column

    require_column(frame, name)
    return frame[name].to_numpy()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _print_run(found: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    from fairmt.runs import comparison

    if as_json:
        out.print_json(json.dumps(found))
        return
    table = Table(title=f"Test part, {found['test_rows']:,} rows nobody chose by")
    table.add_column("")
    for column in ("plain", found["method"], "change"):
        table.add_column(column, justify="right")
    for row in comparison(found):
        figures = [f"{row[k]:.4f}" if row[k] is not None else "–" for k in ("plain", "fair")]
        change = "–" if row["change"] is None else f"{row['change']:+.1%}"
        table.add_row(_plain(row["name"]), *figures, change)
    out.print(table)
    if not found["chosen"]["is_plain"]:
        out.print(
            f"Chosen: {_plain(found['chosen']['reason'])}. On the test part utility changes by "
            f"{found['delta_m']:+.1%} (mean over tasks).",
            highlight=False,
        )
    else:
        out.print(f"Chosen: {_plain(found['chosen']['reason'])}.", highlight=False)
    pages = [n for n in ("metrics.json", "report.html") if (folder / n).exists()]
    out.print(f"Written to {folder}: model, {', '.join(pages)}.", highlight=False)


@app.command()
def choose(
    folder: Annotated[Path, typer.Argument(help="Folder that `fairmt train` wrote.")],
    tolerance: Tolerance = None,
    utility_budget: Budget = None,
    strength: Strength = None,
    table: Annotated[
        str | None, typer.Option(help="The table, where it has moved; the report needs its rows.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose another candidate of a finished run, without training again."""
    from fairmt.config import test_rows
    from fairmt.runs import Tested, load_learner, write_run

    run = _run_of(folder)
    learner = load_learner(folder / "model")
    wish = {"tolerance": tolerance, "utility_budget": utility_budget, "strength": strength}
    learner.set_params(**wish)
    learner.choose()
    run["rule"] = _rule(learner)
    rows = test_rows(run, table)
    if rows is None:
        err.print(
            "The table is not where it was; metrics.json is up to date, the report is left out. "
            "Name the table with --table to have it written."
        )
    found = write_run(folder, learner, Tested.load(folder / "test"), run, rows)
    _print_run(found, folder, as_json)


def _run_of(folder: Path) -> dict[str, Any]:
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"'{folder}' holds no finished run (run.json).") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"'{folder / 'run.json'}' is damaged: {error}.") from error
    run.pop("schema", None)
    return dict(run)


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="Folder that `fairmt train` wrote.")],
    table: Annotated[str, typer.Argument(help="CSV or Parquet with the features.")],
    out_file: Annotated[Path, typer.Option("--out", help="Parquet or CSV file to write.")],
) -> None:
    """Predict every row of a table, in its order."""
    from fairmt.data import read_table
    from fairmt.files import write_table
    from fairmt.runs import load_learner

    learner = load_learner(folder / "model")
    predictions = learner.predict_table(read_table(table))
    write_table(out_file, predictions)
    out.print(f"{len(predictions):,} rows written to {out_file}.", highlight=False)


# -- audit ----------------------------------------------------------------------------------


@app.command()
def audit(
    table: Annotated[str, typer.Argument(help="Predictions: CSV or Parquet.")],
    task: Tasks = None,
    sensitive: Names = None,
    truth: Annotated[
        str | None, typer.Option(help="Table of labels and attributes, rows in the same order.")
    ] = None,
    bins: Annotated[list[str] | None, typer.Option(help="COLUMN:EDGE,EDGE…")] = None,
    weight: str | None = None,
    cluster: Annotated[str | None, typer.Option(help="Unit that is resampled together.")] = None,
    identifier: Annotated[str | None, typer.Option(help="Column of distinct values.")] = None,
    notion: Names = None,
    tolerance: Tolerance = None,
    depth: int = 1,
    n_boot: Annotated[int, typer.Option(help="Bootstrap replicates.")] = 200,
    engine: Annotated[
        str | None, typer.Option(help="memory or duckdb; by default by the table's size.")
    ] = None,
    seed: int = 0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Report: .html, .json or .md.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit anybody's predictions."""
    from fairmt.auditing import audit as run_audit
    from fairmt.config import names_of, parse_bins

    result = run_audit(
        table,
        tasks=task or [],
        sensitive=names_of(sensitive),
        truth=truth,
        bins=parse_bins(bins),
        depth=depth,
        weight=weight,
        cluster=cluster,
        identifier=identifier,
        tolerance=tolerance,
        n_boot=n_boot,
        engine=engine,
        seed=seed,
        notions=names_of(notion) or "all",
        title=f"Audit of {Path(table).name}",
    )
    if out_file is not None:
        writers = {".html": result.to_html, ".json": result.to_json, ".md": result.to_markdown}
        if out_file.suffix.lower() not in writers:
            raise ValueError(f"--out must end in .html, .json or .md. Found '{out_file}'.")
        writers[out_file.suffix.lower()](out_file)
    if as_json:
        out.print_json(result.to_json())
        return
    for finding in result.findings:
        out.print(f"• {_plain(finding)}", highlight=False)
    if out_file is not None:
        out.print(f"Written to {out_file}.", highlight=False)


# -- catalog and methods --------------------------------------------------------------------


@datasets_app.command("list")
def datasets_list(as_json: Json = False) -> None:
    """The data sets, one line each."""
    from fairmt.data import card, datasets

    cards = [card(name) for name in datasets()]
    if as_json:
        out.print_json(json.dumps([_card(c) for c in cards]))
        return
    table = Table()
    for column in ("name", "title", "rows", "tasks", "sensitive"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    for c in cards:
        rows = f"{c.rows:,}"
        table.add_row(c.name, c.title, rows, ", ".join(c.tasks), ", ".join(c.sensitive))
    out.print(table)


@datasets_app.command("show")
def datasets_show(name: str, as_json: Json = False) -> None:
    """The card of a data set."""
    from fairmt.data import card

    c = card(name)
    if as_json:
        out.print_json(json.dumps(_card(c)))
        return
    out.print(f"[bold]{_plain(c.title)}[/]  ({c.name})")
    for label, text in (
        ("Origin", c.origin),
        ("Licence", c.licence),
        ("Citation", c.citation),
        ("Rows", f"{c.rows:,} of the recommended population"),
        ("Tasks", ", ".join(c.tasks)),
        ("Sensitive", ", ".join(c.sensitive)),
        ("Split unit", c.unit),
        ("Download", "verified" if c.verified else "unverified: nobody could check it yet"),
        ("Files", ", ".join(s.path for s in c.sources)),
    ):
        out.print(f"  {label}: {_plain(text)}", highlight=False)
    out.print("  Traps:")
    for trap in c.traps:
        out.print(f"    • {_plain(trap)}", highlight=False)


@datasets_app.command("fetch")
def datasets_fetch(name: str) -> None:
    """Download a data set's files, unless FAIRMT_DATA has them."""
    from fairmt.data import card
    from fairmt.data.catalog import locate

    for path in locate(card(name)):
        out.print(str(path), highlight=False)


def _card(card: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


@app.command()
def methods(as_json: Json = False) -> None:
    """The methods: kind, task types, attributes, and what each cannot do."""
    from fairmt.methods import METHODS

    rows = [
        {
            "name": m.name,
            "kind": m.kind,
            "what": m.summary,
            "tasks": ", ".join(m.tasks),
            "attributes": m.attributes,
            "limits": m.limits,
            "source": m.source,
        }
        for m in METHODS.values()
    ]
    if as_json:
        out.print_json(json.dumps(rows))
        return
    table = Table(show_lines=True)
    for column in ("name", "kind", "what", "tasks", "attributes", "limits"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(row[c.header] for c in table.columns))  # type: ignore[index]
    out.print(table)


if __name__ == "__main__":
    main()
