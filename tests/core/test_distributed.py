"""Two processes on halves of a batch do what one process does on the whole."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from fairmt.distributed import all_sum, average_gradients, joint, world_size
from fairmt.losses import Losses
from fairmt.methods import STEPS
from fairmt.methods.fairmt import FairMT

from .hand_cases import NAN
from .test_methods import LAYOUT, PEOPLE, Data, batch, gradients, model

N_STEPS = 3
FAIR: dict[str, Any] = {"strength": 1.5, "min_evidence": 3.0, "tolerance": 0.01}
SCENARIOS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    # method, heads, settings, whether the processes get unequal numbers of rows
    "plain": ("plain", "linear", {}, True),
    "group DRO": ("group_dro", "linear", {}, True),
    "fairmt": ("fairmt", "linear", FAIR, False),
    "fairmt, heads of its own": ("fairmt", "small networks", FAIR, False),
    "fairmt, symmetric, plain sum": ("symmetric", "linear", FAIR | {"proxy": None}, True),
    "fairmt, heads of its own, plain sum": (
        "fairmt",
        "small networks",
        FAIR | {"proxy": None, "max_decay": 0.0},
        True,
    ),
    **{
        name: (name, "linear", {"strength": 2.0}, True)
        for name in ("f_ferm", "gap", "mmd", "correlation", "cooper")
    },
    "gramian": ("gramian", "linear", {}, True),
    "scalarised": ("scalarised", "linear", {}, True),
}


def train_batch(step: int) -> Data:
    """Rows of the second half lack a task and a group."""
    data = batch(step)
    data["labels"]["ill"][30:] = NAN
    data["attributes"]["race"][30:][data["attributes"]["race"][30:] == 1] = 2
    return data


def rows_of(rank: int | None, unequal: bool, n: int = 60) -> slice:
    if rank is None:
        return slice(0, n)
    cut = n // 3 if unequal else n // 2
    return slice(0, cut) if rank == 0 else slice(cut, n)


def cut(data: Data, rows: slice) -> Data:
    def take(x: Any) -> Any:
        return {k: v[rows] for k, v in x.items()} if isinstance(x, dict) else x[rows]

    return {key: take(value) for key, value in data.items()}


def train(name: str, rank: int | None) -> dict[str, Any]:
    """Gradients of some steps with plain gradient descent between them, and a calibration."""
    method, heads, settings, unequal = SCENARIOS[name]
    m = model(heads)
    step = STEPS[method](**settings)
    step.setup(m, PEOPLE)
    found = []
    for i in range(N_STEPS):
        m.zero_grad()
        step.step(cut(train_batch(i), rows_of(rank, unequal)))
        found.append(gradients(m))
        with torch.no_grad():
            for p, g in zip(m.parameters(), found[-1], strict=True):
                p.sub_(0.1 * g)
    result: dict[str, Any] = {"gradients": found}
    if isinstance(step, FairMT):
        whole = batch(9, n=500)
        parts = [whole] if rank is None else [cut(whole, slice(rank, 500, 2))]
        result["slack"] = float(step.calibrate(parts)["slack"])
        result["binding"] = [str(entry) for entry in step.binding]
        result["rates"] = step.ledger.rates(step.moments(parts).sums)
    return result


def part_of_losses(rank: int | None) -> dict[str, Tensor]:
    data = batch(4)
    rows = rows_of(rank, True)
    labels = LAYOUT.pack(data["labels"])[rows]
    outputs = torch.randn(60, LAYOUT.n_outputs, generator=torch.Generator().manual_seed(0))
    outputs = outputs.double()[rows].requires_grad_()
    losses = Losses(LAYOUT)(outputs, labels, data["weights"][rows], joint)
    losses.square().sum().backward()
    assert outputs.grad is not None
    return {"losses": losses.detach(), "gradient": outputs.grad}


def sums(rank: int) -> dict[str, Any]:
    own = torch.tensor([1.0, 10.0]) * (rank + 1)
    own.requires_grad_()
    total = joint(own)
    (total**2).sum().backward()
    unused, used = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
    frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    used.grad = torch.tensor([4.0 * rank])
    if rank == 0:
        unused.grad = torch.ones(2)
    average_gradients([unused, frozen, used])
    return {
        "world": world_size(),
        "all_sum": all_sum(own),
        "joint": total.detach(),
        "gradient": own.grad,
        "averaged": [unused.grad, used.grad],
        "frozen": frozen.grad,
    }


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {name: train(name, rank) for name in SCENARIOS}
    torch.save(
        {"methods": found, "losses": part_of_losses(rank), "sums": sums(rank)},
        Path(folder) / f"{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_step_like_one_on_their_joint_batch(
    name: str, processes: list[dict[str, Any]]
) -> None:
    expected = train(name, None)
    for found in (p["methods"][name] for p in processes):
        for a, b in zip(found["gradients"], expected["gradients"], strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, s in SCENARIOS.items() if s[0] == "fairmt"])
def test_two_processes_calibrate_like_one_on_all_rows(
    name: str, processes: list[dict[str, Any]]
) -> None:
    expected = train(name, None)
    for found in (p["methods"][name] for p in processes):
        torch.testing.assert_close(found["rates"], expected["rates"], rtol=1e-12, atol=1e-12)
        assert found["slack"] == pytest.approx(expected["slack"], abs=1e-9)
        assert found["binding"] == expected["binding"]


@pytest.mark.slow
def test_losses_are_those_of_the_joint_batch_and_gradients_average_to_its_own(
    processes: list[dict[str, Any]],
) -> None:
    expected = part_of_losses(None)
    for p in processes:
        torch.testing.assert_close(p["losses"]["losses"], expected["losses"])
    together = torch.cat([p["losses"]["gradient"] for p in processes]) / 2
    torch.testing.assert_close(together, expected["gradient"])


@pytest.mark.slow
def test_joint_sums_hand_each_process_twice_its_part_of_the_gradient(
    processes: list[dict[str, Any]],
) -> None:
    for p in (x["sums"] for x in processes):
        assert p["world"] == 2
        assert p["all_sum"].tolist() == p["joint"].tolist() == [3.0, 30.0]
        assert not p["all_sum"].requires_grad
        # d(Σ total²) = 2 · total, twice.
        assert p["gradient"].tolist() == [12.0, 120.0]
        assert [g.tolist() for g in p["averaged"]] == [[0.5, 0.5], [2.0]]
        assert p["frozen"] is None


def test_one_process_is_left_as_it_is() -> None:
    x = torch.ones(2, requires_grad=True)
    assert world_size() == 1
    assert all_sum(x) is x
    assert joint(x) is x
    p = torch.nn.Parameter(torch.zeros(1))
    average_gradients([p])
    assert p.grad is None
