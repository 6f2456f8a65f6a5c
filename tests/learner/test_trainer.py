"""The loop: resume, damage, divergence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fairmt import MLP, FairMT, LinearHeads
from fairmt.data import Bundle, Schema
from fairmt.dual import Ramp
from fairmt.evaluator import PathEvaluator
from fairmt.methods import STEPS, StepMethod
from fairmt.models import MultiTask
from fairmt.sampling import TableSource
from fairmt.store import StoreError
from fairmt.tasks import Layout
from fairmt.trainer import Segment, Trainer, TrainingDiverged


class Killed(Exception):
    pass


def build(
    people: Bundle, name: str = "fairmt", **settings: Any
) -> tuple[StepMethod, TableSource, PathEvaluator]:
    torch.manual_seed(0)
    schema = Schema.infer(
        people.frame, people.tasks, people.sensitive, features=dict(people.features)
    )
    table = schema.encode(people.frame)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, (16,), dropout=0.1)
    method = STEPS[name](**settings)
    method.setup(MultiTask(encoder, LinearHeads(16, layout), layout), schema.groups, table[:1500])
    ledger = getattr(method, "ledger", None)
    if ledger is None:
        probe = FairMT(strength=0.0)
        probe.setup(method.model, schema.groups)
        ledger = probe.ledger
    evaluator = PathEvaluator(ledger, schema.groups, table[1500:2000])
    return method, TableSource(table[:1500], 128, 0, 0.1, schema.groups), evaluator


SEGMENTS = [
    Segment("warmup", 2, lambda e: 0.0),
    Segment("plain", 2, lambda e: 0.0, start="warmup"),
    Segment("path", 2, Ramp(2, 2, 0.5, 4.0).strength, start="warmup", looks=3),
]


@pytest.mark.parametrize(("name", "kill"), [("fairmt", 17), ("fairmt", 53), ("group_dro", 61)])
def test_a_run_killed_inside_an_epoch_ends_bitwise_equal(
    people: Bundle, tmp_path: Path, name: str, kill: int
) -> None:
    def trainer(folder: Path | None) -> Trainer:
        return Trainer(progress=False, checkpoint=folder, checkpoint_every=5, clip=1.0)

    method, source, evaluator = build(people, name, strength=0.0)
    trainer(None).fit(method, source, SEGMENTS, evaluator=evaluator)

    again, source, partial = build(people, name, strength=0.0)
    step, steps = again.step, 0

    def dying(batch: Mapping[str, Any], scale: float = 1.0) -> Any:
        nonlocal steps
        steps += 1
        if steps == kill:
            raise Killed
        return step(batch, scale)

    again.step = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer(tmp_path / "c").fit(again, source, SEGMENTS, evaluator=partial)

    resumed, source, other = build(people, name, strength=0.0)
    torch.manual_seed(99)
    trainer(tmp_path / "c").fit(resumed, source, SEGMENTS, evaluator=other)
    for a, b in zip(method.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(evaluator.candidates) == len(other.candidates) == 10
    for c, d in zip(evaluator.candidates, other.candidates, strict=True):
        assert torch.equal(c.utilities, d.utilities)
        assert torch.equal(c.moments.sums, d.moments.sums)
        assert torch.equal(c.offsets, d.offsets)


def test_a_checkpoint_of_another_run_is_refused(people: Bundle, tmp_path: Path) -> None:
    method, source, evaluator = build(people, strength=0.0)
    Trainer(progress=False, checkpoint=tmp_path / "c").fit(
        method, source, SEGMENTS[:1], evaluator=evaluator
    )
    method, source, evaluator = build(people, "plain")
    with pytest.raises(StoreError, match="belongs to another run"):
        Trainer(progress=False, checkpoint=tmp_path / "c").fit(
            method, source, SEGMENTS[:1], evaluator=evaluator
        )


def test_a_full_disk_leaves_the_last_good_checkpoint(
    people: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fairmt.store as store

    method, source, evaluator = build(people, strength=0.0)
    folder = tmp_path / "c"
    original, calls = store._digest, 0

    def full(path: Path) -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        return original(path)

    monkeypatch.setattr(store, "_digest", full)
    trainer = Trainer(progress=False, checkpoint=folder, checkpoint_every=3)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(method, source, SEGMENTS, evaluator=evaluator)
    monkeypatch.undo()
    state = store.load_state(folder)
    assert state["position"] == [0, 0, 6]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_nan_features_stop_with_their_cause_or_are_skipped(people: Bundle) -> None:
    method, source, evaluator = build(people, strength=0.0)
    source.table.features[7, 2] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"features \[2\] hold NaN"):
        Trainer(progress=False).fit(method, source, SEGMENTS[:1], evaluator=evaluator)
    method, source, evaluator = build(people, strength=0.0)
    source.table.features[7, 2] = float("nan")
    trainer = Trainer(progress=False, on_nan="skip")
    trainer.fit(method, source, SEGMENTS[:1], evaluator=evaluator)
    assert trainer.skipped >= 1
    assert all(bool(torch.isfinite(p).all()) for p in method.model.parameters())


def test_accumulated_batches_give_the_gradient_of_their_mean(people: Bundle) -> None:
    method, source, _ = build(people, "plain")
    method.model.eval()
    batches = list(source.batches(0))[:2]
    for batch in batches:
        method.step(batch, 0.5)
    joint = [p.grad.clone() for p in method.parameters() if p.grad is not None]
    apart = []
    for batch in batches:
        method.model.zero_grad()
        method.step(batch)
        apart.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    for g, a, b in zip(joint, *apart, strict=True):
        assert torch.allclose(g, (a + b) / 2, atol=1e-7)


def test_early_stopping_ends_the_warm_up(people: Bundle) -> None:
    class Flat:
        def evaluate(self, segment: str, epoch: float, method: StepMethod) -> dict[str, float]:
            self.epochs = epoch
            return {"score": 1.0}

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    method, source, _ = build(people, "plain")
    flat = Flat()
    Trainer(progress=False).fit(
        method, source, [Segment("warmup", 30, lambda e: 0.0, patience=2)], evaluator=flat
    )
    assert flat.epochs == 3


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(people: Bundle, precision: str) -> None:
    method, source, _ = build(people, strength=1.0)
    if precision == "64-true":
        method.model.double()
    Trainer(progress=False, precision=precision).fit(method, source, [Segment("warmup", 1)])
    assert all(bool(torch.isfinite(p).all()) for p in method.model.parameters())


def test_a_loop_of_ones_own_with_calibration(people: Bundle) -> None:
    """The face for people with a loop of their own: documented batch, own optimiser, dual."""
    torch.manual_seed(0)
    schema = Schema.infer(
        people.frame, people.tasks, people.sensitive, features=dict(people.features)
    )
    table = schema.encode(people.frame)
    layout = Layout(schema.tasks)
    encoder = MLP(schema.n_inputs, (16,))
    heads = {t.name: torch.nn.Linear(16, t.n_outputs) for t in schema.tasks}
    fair = FairMT(encoder, heads, schema.tasks, schema.groups, tolerance=0.05)
    optimiser = torch.optim.Adam(fair.parameters(), 1e-3)
    start = fair.strength
    for batch in table[:1000].batches(100):
        labels = layout.unpack(batch["labels"])
        codes = {a.name: batch["attributes"][:, i] for i, a in enumerate(schema.groups.attributes)}
        optimiser.zero_grad()
        log = fair.step({"features": batch["features"], "labels": labels, "attributes": codes})
        torch.nn.utils.clip_grad_norm_(fair.parameters(), 1.0)
        optimiser.step()
    found = fair.calibrate(table[1000:2000].batches(250))
    assert {"loss", "constraint", "worst"} <= set(log)
    assert found["slack"] > 0
    assert fair.strength is not None
    assert start is not None
    assert fair.strength > start


def test_figures_reach_the_loggers(people: Bundle, tmp_path: Path) -> None:
    from lightning_fabric.loggers import CSVLogger

    method, source, evaluator = build(people, strength=1.0)
    logger = CSVLogger(tmp_path, name="log")
    Trainer(progress=False, loggers=[logger]).fit(
        method, source, [Segment("warmup", 2, lambda e: 1.0)], evaluator=evaluator
    )
    logger.finalize("success")
    written = "".join(p.read_text() for p in tmp_path.rglob("metrics.csv"))
    assert "warmup/loss" in written
    assert "warmup/worst" in written
    assert "warmup/strength" in written


TWO = """
import sys, torch
from fairmt import MLP, LinearHeads
from fairmt.data import Schema, generate
from fairmt.methods import FairMT
from fairmt.models import MultiTask
from fairmt.sampling import TableSource
from fairmt.tasks import Layout
from fairmt.trainer import Segment, Trainer

people = generate(1200, seed=1)
torch.manual_seed(0)
schema = Schema.infer(people.frame, people.tasks, people.sensitive, features=dict(people.features))
table, layout = schema.encode(people.frame), Layout(schema.tasks)
method = FairMT(strength=1.0)
method.setup(MultiTask(MLP(schema.n_inputs, (8,)), LinearHeads(8, layout), layout), schema.groups)
trainer = Trainer(progress=False, devices=int(sys.argv[1]), strategy=sys.argv[2])
trainer.fit(method, TableSource(table, 120), [Segment("warmup", 2, lambda e: 1.0)])
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
if rank == 0:
    weights = [p.detach().flatten() for p in method.model.parameters()]
    torch.save(torch.cat(weights), sys.argv[3])
"""


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_trains(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    script = tmp_path / "train.py"
    script.write_text(TWO)
    for devices, strategy in (("1", "auto"), ("2", "ddp")):
        subprocess.run(
            [sys.executable, str(script), devices, strategy, str(tmp_path / f"{devices}.pt")],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=180,
        )
    one = torch.load(tmp_path / "1.pt", weights_only=True)
    two = torch.load(tmp_path / "2.pt", weights_only=True)
    assert torch.allclose(one, two, atol=2e-4)
    assert float((one - two).abs().mean()) < 2e-5
