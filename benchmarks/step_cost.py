"""What a FairMT step costs beside a plain step and TorchJD's, in time and in memory.

FairMT trains the same encoder and the same fused heads with the same optimiser on the same
synthetic batches as the plain step; a step is zero_grad, forward, gradients and optimiser. Each
method takes turns with the plain step, so that a slow spell of the machine hits both, and the ratio
is the median over rounds. On a machine that is shared, `--clock cpu` counts processor time;
with `--device cuda` a step lasts until the device has done it.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py --tasks 3 40
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import torch
from torch import Tensor, nn

import fairmt
from fairmt.groups import Attribute, Groups
from fairmt.losses import Losses
from fairmt.methods import FairMT, Plain, StepMethod
from fairmt.models import MLP, LinearHeads
from fairmt.tasks import Classification, Detection, Layout, Regression, Task

GROUPS = Groups(
    (
        Attribute("sex", ("a", "b")),
        Attribute("race", ("a", "b", "c", "d", "e")),
        Attribute("age", ("a", "b", "c", "d")),
    )
)
SHARES = ((0.5, 0.5), (0.55, 0.2, 0.15, 0.07, 0.03), (0.3, 0.3, 0.25, 0.15))

Batch = dict[str, Tensor]
Step = Callable[[Batch], object]
Clock = Callable[[], float]

CLOCKS: dict[str, Clock] = {"wall": perf_counter, "cpu": process_time}


def tasks_of(n: int, classes: int, labels: int) -> list[Task]:
    """Classification, detection and regression in turn."""
    tasks: list[Task] = []
    for i in range(n):
        if i % 3 == 0:
            tasks.append(Classification(f"class{i}", tuple(f"c{k}" for k in range(classes))))
        elif i % 3 == 1:
            tasks.append(Detection(f"label{i}", tuple(f"l{i}.{k}" for k in range(labels))))
        else:
            tasks.append(Regression(f"value{i}"))
    return tasks


def make_batches(layout: Layout, inputs: int, rows: int, n: int, missing: float) -> list[Batch]:
    """Random features; labels that depend on them and on the groups, some missing."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, layout.n_outputs, generator=random) / inputs**0.5
    batches = []
    for _ in range(n):
        x = torch.randn(rows, inputs, generator=random)
        codes = torch.stack(
            [
                torch.multinomial(torch.tensor(share), rows, replacement=True, generator=random)
                for share in SHARES
            ],
            1,
        )
        noise = torch.randn(rows, layout.n_outputs, generator=random)
        score = x @ mixing + noise - 0.2 * codes.sum(1, keepdim=True)
        labels = {}
        for task in layout.tasks:
            s = score[:, layout.outputs[task.name]]
            if task.kind == "classification":
                y = s.argmax(1, keepdim=True).float()
            else:
                y = (s > 0).float() if task.kind == "detection" else s.clone()
            labels[task.name] = y.masked_fill(
                torch.rand(y.shape, generator=random) < missing, torch.nan
            )
        codes = codes.masked_fill(torch.rand(codes.shape, generator=random) < missing, -1)
        batches.append({"features": x, "labels": layout.pack(labels), "attributes": codes})
    return batches


def on(device: str, batch: Batch) -> Batch:
    return {k: v.to(device) for k, v in batch.items()}


def method_step(method: StepMethod) -> Step:
    """One step of a method with Adam."""
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-3)

    def step(batch: Batch) -> object:
        optimiser.zero_grad(set_to_none=True)
        log = method.step(batch)
        optimiser.step()
        return log

    return step


def torchjd_step(layout: Layout, encoder: nn.Module, n_features: int) -> Step:
    """One step of TorchJD's mtl_backward with UPGrad on the plain task losses.

    Heads and losses are separate, as its own examples have them: through fused ones it would
    go backwards once per task.
    """
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    device = next(encoder.parameters()).device
    heads = [nn.Linear(n_features, task.n_outputs).to(device) for task in layout.tasks]
    losses_of = [Losses(Layout((task,))) for task in layout.tasks]
    labels_of = [layout.labels[task.name] for task in layout.tasks]
    aggregator = UPGrad()
    shared = list(encoder.parameters())
    own = [list(head.parameters()) for head in heads]
    optimiser = torch.optim.Adam([*shared, *(p for ps in own for p in ps)], lr=1e-3)

    def step(batch: Batch) -> object:
        optimiser.zero_grad(set_to_none=True)
        z = encoder(batch["features"])
        losses = [
            loss(head(z), batch["labels"][:, columns]).sum()
            for head, loss, columns in zip(heads, losses_of, labels_of, strict=True)
        ]
        mtl_backward(losses, z, tasks_params=own, shared_params=shared)
        jac_to_grad(shared, aggregator)
        optimiser.step()
        return losses

    return step


def make_steps(layout: Layout, arguments: argparse.Namespace) -> dict[str, Callable[[], Step]]:
    """By name, what builds a model and returns its step."""

    def parts() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        encoder = MLP(arguments.inputs, arguments.widths)
        heads = LinearHeads(arguments.widths[-1], layout)
        return encoder.to(arguments.device), heads.to(arguments.device)

    makers: dict[str, Callable[[], Step]] = {
        "plain": lambda: method_step(Plain(*parts(), layout, GROUPS)),
        "FairMT": lambda: method_step(FairMT(*parts(), layout, GROUPS, strength=1.0)),
        # The plain objective with FairMT's closed-form loss gradients: what these alone are worth.
        "FairMT, all off": lambda: method_step(
            FairMT(*parts(), layout, GROUPS, strength=0.0, proxy=None)
        ),
    }
    if not arguments.no_torchjd:
        makers["TorchJD UPGrad"] = lambda: torchjd_step(layout, parts()[0], arguments.widths[-1])
    return makers


def time_pair(
    plain: Step, other: Step, batches: list[Batch], rounds: int, warmup: int, clock: Clock
) -> tuple[list[float], list[float]]:
    """Milliseconds of every plain step and of every other step, in turn."""
    times: tuple[list[float], list[float]] = [], []
    steps = plain, other
    for i in range(warmup + rounds):
        batch = batches[i % len(batches)]
        # Who goes first changes, for the second finds the batch in the cache.
        for which in (0, 1) if i % 2 else (1, 0):
            start = clock()
            steps[which](batch)
            if batch["features"].is_cuda:
                torch.cuda.synchronize()
            if i >= warmup:
                times[which].append(1e3 * (clock() - start))
    return times


def peak_memory(make: Callable[[], Step], batches: list[Batch]) -> int:
    """Largest number of bytes that torch held at once: model, optimiser, and three steps."""
    if batches[0]["features"].is_cuda:
        # What libraries set up on first use belongs to nobody.
        make()(batches[0])
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step = make()
        for batch in batches[:3]:
            step(batch)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step = make()
        for batch in batches[:3]:
            step(batch)
    kineto = profile.profiler.kineto_results if profile.profiler is not None else None
    assert kineto is not None
    changes = [(e.start_ns(), e.nbytes()) for e in kineto.events() if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda c: c[0]):
        held += change
        peak = max(peak, held)
    return peak


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def report(n_tasks: int, arguments: argparse.Namespace) -> None:
    layout = Layout(tuple(tasks_of(n_tasks, arguments.classes, arguments.labels)))
    batches = make_batches(layout, arguments.inputs, arguments.batch, 16, arguments.missing)
    batches = [on(arguments.device, batch) for batch in batches]
    makers = make_steps(layout, arguments)
    clock = CLOCKS[arguments.clock]
    plain_memory = peak_memory(makers["plain"], batches)
    print(f"\n{n_tasks} tasks, {layout.n_outputs} outputs, {GROUPS.n_groups} groups")
    print(
        f"{'':16}{'ms':>8}{'quartiles':>18}{'plain ms':>10}{'ratio':>8}{'quartiles':>16}"
        f"{'MiB':>9}{'ratio':>7}"
    )
    for name in [name for name in makers if name != "plain"]:
        plain, own = time_pair(
            makers["plain"](),
            makers[name](),
            batches,
            arguments.rounds,
            arguments.warmup,
            clock,
        )
        low, middle, high = quartiles(own)
        # A ratio per round: both steps of a round met the same machine.
        ratio_low, ratio, ratio_high = quartiles([o / p for o, p in zip(own, plain, strict=True)])
        memory = peak_memory(makers[name], batches)
        print(
            f"{name:16}{middle:8.2f}{f'{low:.2f} - {high:.2f}':>18}"
            f"{statistics.median(plain):10.2f}"
            f"{ratio:8.2f}{f'{ratio_low:.2f} - {ratio_high:.2f}':>16}"
            f"{memory / 2**20:9.2f}{memory / plain_memory:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[3, 40])
    parser.add_argument("--classes", type=int, default=3, help="of a classification task")
    parser.add_argument("--labels", type=int, default=4, help="of a detection task")
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--missing", type=float, default=0.1, help="share of labels and codes")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-torchjd", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("command:", " ".join(sys.argv))
    print(
        f"fairmt {fairmt.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} thread(s), "
        f"{torch.backends.cpu.get_cpu_capability()}"
        + (f", {torch.cuda.get_device_name()}" if arguments.device == "cuda" else "")
    )
    for n_tasks in arguments.tasks:
        report(n_tasks, arguments)


if __name__ == "__main__":
    main()
