"""The step's gradients, taken in closed form, equal those of a slow and obvious implementation.

The slow one loops over tasks, statistics and groups, records every operation, and leaves all
derivatives to autograd. Everything is in double precision, so that agreement is to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairmt.groups import Attribute, Groups
from fairmt.history import DecayedMoments
from fairmt.ledger import Ledger, Statistic, atoms_of
from fairmt.loss_gradients import LossGradients
from fairmt.losses import Losses
from fairmt.measures import MEASURES
from fairmt.methods import FairMT
from fairmt.models import MLP, LinearHeads
from fairmt.moments import Moments
from fairmt.notions import NOTIONS, resolve_notions
from fairmt.soft import SoftMoments
from fairmt.tasks import Classification, Detection, Layout, Regression, Task
from fairmt.truths import truths

TASKS: tuple[Task, ...] = (
    Regression("value", ("u", "v"), weight=2.0, centre=(1.0, -1.0), scale=(2.0, 0.5)),
    Classification("two", ("a", "b")),
    Detection("marks", ("x", "y", "z"), positive_weights=(1.0, 3.0, 0.7)),
    Classification("three", ("a", "b", "c"), output_weights=(1.0, 2.0, 0.5)),
    Detection("one", ("p",), weight=0.5),
    Regression("robust", loss="huber"),
    Regression("agreement", ("m", "n"), loss="ccc"),
)
LAYOUT = Layout(TASKS)
ATTRIBUTES = (Attribute("sex", ("a", "b")), Attribute("race", ("a", "b", "c", "d")))
ROWS, INPUTS, STEPS = 60, 6, 4
STRENGTH, TEMPERATURE, TOLERANCE, SLACK = 1.7, 0.4, 0.03, 0.01
MIN_EVIDENCE, TARGET = 4.0, 60.0


def make_batches(groups: Groups, weighted: bool) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    batches = []
    for step in range(STEPS):
        x = 2 * draw(ROWS, INPUTS) - 1
        codes = torch.stack(
            [(draw(ROWS) * len(a.categories)).long() for a in groups.attributes], 1
        ).masked_fill(draw(ROWS, len(groups.attributes)) < 0.1, -1)
        labels = {}
        for task in TASKS:
            if task.kind == "classification":
                y = (draw(ROWS, 1) * task.n_outputs).floor()
            elif task.kind == "detection":
                y = (draw(ROWS, task.n_outputs) < 0.4).double()
            else:
                y = x[:, :1] + draw(ROWS, task.n_outputs)
            labels[task.name] = y.masked_fill(draw(*y.shape) < 0.2, torch.nan)
        if step == 2:
            labels["three"].fill_(torch.nan)
        batch = {"features": x, "labels": LAYOUT.pack(labels), "attributes": codes}
        batches.append(batch | ({"weights": 0.5 + draw(ROWS)} if weighted else {}))
    return batches


@dataclass
class Memory:
    """Decayed sums of one statistic in one group."""

    numerator: Tensor | float = 0.0
    denominator: Tensor | float = 0.0
    mass: float = 0.0
    mass2: float = 0.0
    length: float = 0.0
    seen: float = 0.0


@dataclass
class Slow:
    """One FairMT step after the other, as the formulas are written."""

    encoder: nn.Module
    heads: LinearHeads
    groups: Groups
    statistics: tuple[Statistic, ...]
    offsets: Tensor
    directionality: float = 0.8
    sharpness: float = 3.0
    full_evidence: float = 200.0
    standard_errors: float = 0.0
    max_decay: float = 0.99
    balanced: bool = True
    smoothing: float = 0.9
    refresh: int = 1
    floors: Tensor | None = None
    memory: dict[tuple[int, int], Memory] = field(default_factory=dict)
    waiting: dict[tuple[int, int], Memory] = field(default_factory=dict)
    last: Tensor | None = None
    steps: int = 0

    def step(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Gradients of the encoder's and the heads' parameters."""
        z = self.encoder(batch["features"])
        outputs = self.heads(z)
        w = batch.get("weights", torch.ones(ROWS, dtype=torch.float64))
        loss = sum(
            task.weight * one
            for task, one in zip(TASKS, Losses(LAYOUT)(outputs, batch["labels"], w), strict=True)
        )
        total = loss + STRENGTH * self.constraint(outputs, batch, w)
        own = list(self.heads.parameters())
        (delta,) = torch.autograd.grad(total, outputs, retain_graph=True)
        objectives = []
        for task in TASKS:
            at = torch.zeros_like(delta)
            at[:, LAYOUT.outputs[task.name]] = delta[:, LAYOUT.outputs[task.name]]
            objectives.append(torch.autograd.grad(outputs, [z, *own], at, retain_graph=True))
        weights = torch.ones(len(TASKS), dtype=torch.float64)
        if self.balanced and self.steps % self.refresh:
            assert self.last is not None
            weights = self.last
        elif self.balanced:
            norm = torch.stack(
                [(ROWS * (g[0] ** 2).sum() + sum((p**2).sum() for p in g[1:])) for g in objectives]
            ).sqrt()
            # A task without labels in the batch must not get an infinite weight.
            weights = 1 / norm.clamp(min=1e-3 * float(norm.mean()))
            weights = weights / weights.mean()
            if self.last is not None:
                kept = self.smoothing**self.refresh
                weights = kept * self.last + (1 - kept) * weights
            self.last = weights
        dz = sum(u * g[0] for u, g in zip(weights, objectives, strict=True))
        of_heads = [
            sum(u * g[i] for u, g in zip(weights, objectives, strict=True))
            for i in range(1, 1 + len(own))
        ]
        of_encoder = torch.autograd.grad(z, list(self.encoder.parameters()), dz)
        self.steps += 1
        return [*of_encoder, *of_heads]

    def constraint(self, outputs: Tensor, batch: dict[str, Tensor], w: Tensor) -> Tensor:
        member = [torch.ones(ROWS, dtype=torch.float64)]
        for partition in self.groups.partitions:
            sizes = [len(self.groups.attributes[m].categories) for m in partition.members]
            for cell in range(math.prod(sizes)):
                inside = torch.ones(ROWS, dtype=torch.float64)
                rest = cell
                for m, size in zip(reversed(partition.members), reversed(sizes), strict=True):
                    inside = inside * (batch["attributes"][:, m] == rest % size)
                    rest //= size
                member.append(inside)
        rates: dict[tuple[int, int], Tensor] = {}
        evidence: dict[tuple[int, int], float] = {}
        for j, statistic in enumerate(self.statistics):
            n, d, rows = self.terms(statistic, outputs, batch["labels"])
            for g, inside in enumerate(member):
                now = Memory(
                    (w * inside * n).sum(),
                    (w * inside * d).sum(),
                    float((w * inside * rows).sum()),
                    float((w**2 * inside * rows).sum()),
                )
                rates[j, g], evidence[j, g] = self.remember(j, g, now)
            if self.max_decay:
                for g in range(len(member)):
                    rates[j, g], evidence[j, g] = self.decayed(j, g)
        return self.worst_case(rates, evidence)

    def terms(
        self, statistic: Statistic, outputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Numerator, denominator and evidence of every row."""
        task = LAYOUT[statistic.task]
        at = LAYOUT.outputs[task.name]
        o, y = outputs[:, at], labels[:, LAYOUT.labels[task.name]]
        known = (~y.isnan()).double()
        truth = torch.nan_to_num(y)
        if task.kind == "classification":
            truth = torch.stack(
                [(truth[:, 0] == k) * known[:, 0] for k in range(task.n_outputs)], 1
            )
            known = known.expand(-1, task.n_outputs)
            soft = torch.softmax((o + self.offsets[at]) / TEMPERATURE, 1)
            hard = nn.functional.one_hot((o + self.offsets[at]).argmax(1), task.n_outputs).double()
        elif task.kind == "detection":
            soft = torch.sigmoid((o + self.offsets[at]) / TEMPERATURE)
            hard = (o + self.offsets[at] > 0).double()
        else:
            assert isinstance(task, Regression)
            centre = torch.tensor(task.centre, dtype=torch.float64)
            truth = known * (truth - centre) / torch.tensor(task.scale, dtype=torch.float64)
            soft = hard = o
        if statistic.measure == "accuracy":
            return (truth * soft).sum(1), known[:, 0], known[:, 0]
        k = 0 if task.n_outputs == 1 else task.outputs.index(statistic.output or "")
        a, s, x, h = truth[:, k], known[:, k], soft[:, k], hard[:, k]
        one = torch.ones(ROWS, dtype=torch.float64)
        found: dict[str, tuple[Tensor, Tensor, Tensor]] = {
            "recall": (a * x, a, a),
            "false alarm rate": ((s - a) * x, s - a, s - a),
            "true negative rate": ((s - a) * (1 - x), s - a, s - a),
            "precision": (a * x, s * x, s * h),
            "label accuracy": (a * x + (s - a) * (1 - x), s, s),
            "predicted rate": (x, one, one),
            "mean prediction": (x, one, one),
            "mean squared error": (s * (x - a) ** 2, s, s),
            "mean absolute error": (s * (x - a).abs(), s, s),
            "mean residual": (s * (x - a), s, s),
        }
        return found[statistic.measure]

    def remember(self, j: int, g: int, now: Memory) -> tuple[Tensor, float]:
        """The batch's own rate and evidence; with memory, the sums wait for their decay."""
        evidence = now.mass**2 / now.mass2 if now.mass2 > 0 else 0.0
        if self.max_decay:
            old = self.memory.setdefault((j, g), Memory())
            old.seen += (evidence - old.seen) / (self.steps + 1)
            self.waiting[j, g] = now
        return _rate(now), evidence

    def decayed(self, j: int, g: int) -> tuple[Tensor, float]:
        """The rate and evidence from decayed sums; the gradient is the batch's, lengthened."""
        fellows = [0]
        for partition in self.groups.partitions:
            own = range(partition.groups.start + 1, partition.groups.stop + 1)
            if g in own:
                fellows = list(own)
        seen = [self.memory[j, f].seen for f in fellows if self.memory[j, f].seen > 1e-3]
        scarcest = min(seen) if seen else 0.0
        beta = min(max((TARGET - scarcest) / (TARGET + scarcest), 0.0), self.max_decay)
        old, now = self.memory[j, g], self.waiting[j, g]
        old.length = beta * old.length + 1
        values = {}
        for name in ("numerator", "denominator"):
            new, before = getattr(now, name), getattr(old, name)
            values[name] = beta * before + new.detach() + old.length * (new - new.detach())
            setattr(old, name, values[name].detach())
        old.mass = beta * old.mass + now.mass
        old.mass2 = beta**2 * old.mass2 + now.mass2
        return _rate(Memory(**values)), old.mass**2 / old.mass2 if old.mass2 > 0 else 0.0

    def worst_case(
        self, rates: dict[tuple[int, int], Tensor], evidence: dict[tuple[int, int], float]
    ) -> Tensor:
        entries: list[tuple[float, Tensor]] = []
        n_partitions = len(self.groups.partitions)
        for j, statistic in enumerate(self.statistics):
            measure = MEASURES[statistic.measure]
            weight = LAYOUT[statistic.task].weight / n_partitions
            for partition in self.groups.partitions:
                own = range(partition.groups.start + 1, partition.groups.stop + 1)
                known = [g for g in own if evidence[j, g] >= MIN_EVIDENCE]
                omega = {
                    g: weight / len(own) * min(1.0, evidence[j, g] / self.full_evidence) ** 2
                    if self.full_evidence
                    else weight / len(own)
                    for g in known
                }
                found = self.violations(j, measure.orientation, known, rates, evidence)
                if found:
                    entries += [(omega[g], v) for g, v in zip(known, found, strict=True)]
                for g in known:
                    if self.floors is not None and measure.orientation:
                        floor = self.floors[g - 1, j]
                        if not floor.isnan():
                            fall = floor - measure.orientation * rates[j, g] - SLACK
                            entries.append((omega[g], torch.relu(fall)))
        if not entries:
            return torch.zeros((), dtype=torch.float64)
        omegas = torch.tensor([e[0] for e in entries], dtype=torch.float64)
        share, v = omegas / omegas.sum(), torch.stack([e[1] for e in entries])
        kappa = self.sharpness * math.sqrt(STRENGTH)
        if math.isinf(kappa):
            return v.max()
        if kappa == 0:
            return (share * v).sum()
        return (share * (kappa * v).exp()).sum().log() / kappa

    def violations(
        self,
        j: int,
        orientation: int,
        known: list[int],
        rates: dict[tuple[int, int], Tensor],
        evidence: dict[tuple[int, int], float],
    ) -> list[Tensor]:
        measure = MEASURES[self.statistics[j].measure]

        def error(g: int) -> float:
            n = evidence[j, g] + 4
            p = (float(rates[j, g].detach().clamp(0, 1)) * evidence[j, g] + 2) / n
            return p * (1 - p) / n if measure.bounded else 0.0

        found = []
        if orientation == 0:
            centre = rates[j, 0].detach() if measure.centre == "pooled" else 0.0
            for g in known:
                noise = self.standard_errors * math.sqrt(error(g) + error(0))
                found.append(torch.relu((rates[j, g] - centre).abs() - TOLERANCE - noise))
        elif len(known) >= 2:
            benefits = {g: orientation * rates[j, g] for g in known}
            best = max(known, key=lambda g: float(benefits[g].detach()))
            top = benefits[best]
            top = (1 - self.directionality) * top + self.directionality * top.detach()
            for g in known:
                if g == best:
                    found.append(torch.zeros((), dtype=torch.float64))
                    continue
                noise = self.standard_errors * math.sqrt(error(g) + error(best))
                found.append(torch.relu(top - benefits[g] - TOLERANCE - noise))
        return found


def _rate(sums: Memory) -> Tensor:
    numerator, denominator = sums.numerator, sums.denominator
    assert isinstance(numerator, Tensor)
    assert isinstance(denominator, Tensor)
    return numerator / denominator if float(denominator.detach()) > 0 else numerator * 0.0


def model() -> tuple[nn.Module, LinearHeads]:
    torch.manual_seed(11)
    encoder, heads = MLP(INPUTS, (9, 7)).double(), LinearHeads(7, LAYOUT).double()
    with torch.no_grad():
        heads.weight *= 2.0
    return encoder, heads


DEFAULT = "default"
OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "symmetric": {"directionality": 0.0},
    "directional": {"directionality": 1.0},
    "mean": {"sharpness": 0.0},
    "maximum": {"sharpness": math.inf},
    "sharp": {"sharpness": 30.0},
    "standard errors": {"standard_errors": 0.3},
    "evidence of no weight": {"full_evidence": 0.0},
    "evidence mostly full": {"full_evidence": 12.0},
    "no memory": {"max_decay": 0.0},
    "no proxy": {"balanced": False},
    "a Gramian at every other step": {"refresh": 2},
    "floors": {"floors": True},
    "floors, mean": {"floors": True, "sharpness": 0.0},
    "intersections": {"depth": 2},
    "offsets": {"offsets": True},
    "equalized odds": {"notion": "equalized_odds"},
    "precision": {"notion": "predictive_parity"},
    "accuracy": {"notion": "accuracy_parity"},
    "parity": {"notion": "demographic_parity", "offsets": True},
    "squared errors": {"notion": "error_parity"},
    "absolute errors": {"notion": "absolute_error_parity"},
    "several notions": {
        "notion": {
            "classification": ("equalized_odds", "accuracy_parity"),
            "detection": ("accuracy_parity", "demographic_parity"),
            "regression": ("bias_parity", "error_parity"),
        },
        "offsets": True,
    },
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain rows", "weighted rows"])
@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_of_a_step_equal_those_of_autograd(option: str, weighted: bool) -> None:
    settings = dict(OPTIONS[option])
    notion, depth = settings.pop("notion", DEFAULT), settings.pop("depth", 1)
    shifted, floored = settings.pop("offsets", False), settings.pop("floors", False)
    balanced = settings.get("balanced", True)
    groups = Groups(ATTRIBUTES, depth)
    batches = make_batches(groups, weighted)
    fast = FairMT(
        *model(),
        LAYOUT,
        groups,
        notion=notion,
        strength=STRENGTH,
        temperature=TEMPERATURE,
        tolerance=TOLERANCE,
        min_evidence=MIN_EVIDENCE,
        evidence_target=TARGET,
        floor_slack=SLACK,
        proxy="balance" if balanced else None,
        **{"refresh": 1} | {k: v for k, v in settings.items() if k != "balanced"},
    )
    random = torch.Generator().manual_seed(5)
    offsets = torch.randn(LAYOUT.n_outputs, generator=random, dtype=torch.float64) * shifted
    fast.set_offsets(offsets)
    floors = None
    if floored:
        floors = torch.rand(groups.n_groups, len(fast.ledger), generator=random).double()
        floors = floors.masked_fill(floors < 0.3, torch.nan)
        fast.constraint.set_floors(floors)
    encoder, heads = model()
    slow = Slow(encoder, heads, groups, fast.ledger.statistics, offsets, floors=floors, **settings)
    twins = [*encoder.parameters(), *heads.parameters()]
    constrained = 0.0
    for batch in batches:
        fast.model.zero_grad()
        log = fast.step(batch)
        constrained += float(log["constraint"])
        expected = slow.step(batch)
        for ours, theirs in zip(fast.model.parameters(), expected, strict=True):
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad, theirs, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            for ours, twin in zip(fast.model.parameters(), twins, strict=True):
                assert ours.grad is not None
                ours.sub_(ours.grad, alpha=0.05)
                twin.copy_(ours)
    assert constrained > 0


@pytest.mark.parametrize("notion", NOTIONS)
def test_every_measure_goes_back_to_the_outputs_as_autograd_does(notion: str) -> None:
    groups = Groups(ATTRIBUTES)
    batch = make_batches(groups, True)[0]
    ledger = Ledger(LAYOUT, resolve_notions(TASKS, notion))
    random = torch.Generator().manual_seed(1)
    outputs = torch.randn(ROWS, LAYOUT.n_outputs, generator=random, dtype=torch.float64)
    offsets = torch.randn(LAYOUT.n_outputs, generator=random, dtype=torch.float64)
    member = groups.membership(batch["attributes"], torch.float64)
    w, labels = batch["weights"], batch["labels"]
    soft = SoftMoments(ledger, member, outputs, truths(LAYOUT, labels), offsets, TEMPERATURE, w)
    leaf = outputs.clone().requires_grad_()
    recorded = ledger.moments(member, atoms_of(ledger, leaf, labels, offsets, TEMPERATURE), w)
    for name in ("sums", "mass", "mass2"):
        torch.testing.assert_close(
            getattr(soft.moments, name), getattr(recorded, name).detach(), rtol=1e-12, atol=1e-12
        )
    rates = ledger.rates(recorded.sums)
    at_rates = torch.randn(rates.shape, generator=random, dtype=torch.float64)
    (expected,) = torch.autograd.grad(rates, leaf, at_rates)
    sums = soft.moments.sums
    found = soft.gradient(ledger.through_rates(sums, ledger.rates(sums), at_rates))
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_their_derivatives_equal_those_of_autograd(weighted: bool) -> None:
    for batch in make_batches(Groups(ATTRIBUTES), weighted):
        random = torch.Generator().manual_seed(2)
        outputs = 3 * torch.randn(ROWS, LAYOUT.n_outputs, generator=random, dtype=torch.float64)
        labels, w = batch["labels"], batch.get("weights")
        leaf = outputs.clone().requires_grad_()
        expected = Losses(LAYOUT)(leaf, labels, w)
        (slopes,) = torch.autograd.grad(expected.sum(), leaf)
        losses, found = LossGradients(LAYOUT)(outputs, labels, truths(LAYOUT, labels), w)
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(found, slopes, rtol=1e-9, atol=1e-13)


def test_a_class_that_is_ruled_out_has_no_derivative() -> None:
    layout = Layout((Classification("three", ("a", "b", "c")),))
    outputs = torch.tensor([[0.3, -torch.inf, 1.0]], dtype=torch.float64)
    labels = torch.tensor([[2.0]], dtype=torch.float64)
    losses, slopes = LossGradients(layout)(outputs, labels, truths(layout, labels))
    p = math.exp(0.3) / (math.exp(0.3) + math.exp(1.0))
    torch.testing.assert_close(slopes, torch.tensor([[p, 0.0, -p]], dtype=torch.float64))
    assert float(losses) == pytest.approx(-math.log(1 - p))


def test_what_memory_returns_is_not_changed_by_the_next_batch() -> None:
    groups = Groups(ATTRIBUTES)
    ledger = Ledger(LAYOUT, resolve_notions(TASKS, DEFAULT))
    history = DecayedMoments(ledger, groups, TARGET)
    random = torch.Generator().manual_seed(4)
    shape = (1 + groups.n_groups, len(ledger))

    def moments() -> Moments:
        mass = 10 * torch.rand(shape, generator=random)
        return Moments(torch.rand(shape[0], ledger.n_columns, generator=random), mass, mass)

    first = history.update(moments())
    kept = first.sums.clone(), first.mass.clone(), first.mass2.clone()
    history.update(moments())
    for now, before in zip((first.sums, first.mass, first.mass2), kept, strict=True):
        assert torch.equal(now, before)
