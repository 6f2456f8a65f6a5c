"""What imports cost, beside torch's: each in fresh interpreters, in turn.

python benchmarks/import_cost.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

import fairmt

STATEMENTS = ("import torch", "import fairmt", "from fairmt import FairMT, MLP, Groups")
ROUNDS = 7


def main() -> None:
    times: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    for _ in range(ROUNDS):
        for statement in STATEMENTS:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[statement].append(time.perf_counter() - start)
    torch = statistics.median(times["import torch"])
    print(f"fairmt {fairmt.__version__}, Python {platform.python_version()}\n")
    print("| statement | seconds, median | ratio |\n|---|---|---|")
    for statement, own in times.items():
        median = statistics.median(own)
        print(f"| `{statement}` | {median:.2f} | {median / torch:.2f} |")


if __name__ == "__main__":
    main()
