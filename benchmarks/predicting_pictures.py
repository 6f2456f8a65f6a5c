"""What predicting pictures costs, thousands at a time and as few as the library takes at once.

python benchmarks/predicting_pictures.py
"""

from __future__ import annotations

import platform
import statistics
import time

import torch

import fairmt
from fairmt import path
from fairmt.models.image import ResidualNetwork

PICTURES, SHAPE = 8192, (3, 32, 32)
ROUNDS = 5


def seconds(model: torch.nn.Module, pictures: torch.Tensor, values: int) -> float:
    """To predict all pictures, so many values of features at once at most."""
    path.VALUES = values
    start = time.perf_counter()
    path.predict_outputs(model, pictures)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ResidualNetwork(SHAPE)
    pictures = torch.randn(PICTURES, model.n_inputs)
    ours, whole = path.VALUES, pictures.numel()
    seconds(model, pictures, ours)
    # In turn, so that whatever else the machine does meets both.
    pairs = [[seconds(model, pictures, v) for v in (whole, ours)] for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python ", end="")
    print(f"{platform.python_version()}, one thread\n")
    print("| at once | seconds, median | ratio |\n|---|---|---|")
    for at, rows in enumerate((PICTURES, ours // model.n_inputs)):
        median = statistics.median(p[at] for p in pairs)
        print(f"| {rows:,} pictures | {median:.2f} | {ratio if at else 1.0:.2f} |")


if __name__ == "__main__":
    main()
