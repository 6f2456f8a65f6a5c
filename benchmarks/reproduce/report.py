"""What every reproduction prints: the claim, the published figure, ours, and the difference."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import fairmt

RESULTS = Path(__file__).parents[1] / "results" / "reproduce"
START = time.time()


def interval(values: Sequence[float], percent: bool = False) -> str:
    """Mean over seeds with a 95 % bootstrap interval."""
    found = np.asarray(values, float)
    draws = np.random.default_rng(0).choice(found, (2000, len(found))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    if percent:
        return f"{found.mean():.1%} [{low:.1%}, {high:.1%}]"
    return f"{found.mean():.3f} [{low:.3f}, {high:.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def write(name: str, title: str, *parts: str) -> None:
    """Print a report and keep it in ``benchmarks/results/reproduce/NAME.md``."""
    command = "python " + " ".join([f"benchmarks/reproduce/{name}.py", *sys.argv[1:]])
    head = (
        f"fairmt {fairmt.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; {(time.time() - START) / 60:.1f} minutes on one thread. "
        "Intervals: 95 %, bootstrap over seeds."
    )
    text = "\n\n".join([f"# {title}", f"`{command}`", head, *parts]) + "\n"
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
