"""Peak memory of training from Parquet, at one size and at three times that size.

    python benchmarks/parquet_memory.py [--rows 1000000 3000000] [--columns 100]

Writes synthetic tables to a temporary folder, trains a short run on each in a process of its own,
and prints the peak resident memory of each and their ratio. Memory is bounded if the ratio stays
near 1: the table's size must not show.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS_PER_FILE = 250_000
ROWS_PER_GROUP = 65_536
N_CATEGORICAL = 10
TARGET_RATIO, TARGET_MIB = 1.1, 2048


def write(folder: Path, rows: int, columns: int) -> None:
    """A table of labels, attributes, households and features, `columns` in all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    folder.mkdir()
    own = ("income", "job", "moved", "sex", "origin", "household")
    n_numeric = columns - len(own) - N_CATEGORICAL
    weights = rng.normal(size=n_numeric) / np.sqrt(n_numeric)
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        n = min(ROWS_PER_FILE, rows - first)
        x = rng.normal(size=(n, n_numeric))
        score = x @ weights
        sex, origin = rng.integers(0, 2, n), rng.integers(0, 4, n)
        score = score - 0.5 * (origin == 3)
        noise = rng.normal(size=(n, 3))
        table = {f"x{k}": x[:, k] for k in range(n_numeric)}
        levels = np.array([f"level {v}" for v in range(12)])
        table |= {f"c{k}": levels[rng.integers(0, 12, n)] for k in range(N_CATEGORICAL)}
        table["income"] = np.where(rng.random(n) < 0.2, np.nan, 30 + 9 * score + noise[:, 0])
        table["job"] = np.array(["manual", "office", "lead"])[
            np.digitize(score + noise[:, 1], [-0.5, 1.0])
        ]
        table["moved"] = (score + noise[:, 2] > 0.8).astype(float)
        table["sex"] = np.array(["men", "women"])[sex]
        table["origin"] = np.array(["north", "south", "east", "west"])[origin]
        table["household"] = (first + np.arange(n)) // 3
        pq.write_table(
            pa.table(table), folder / f"part-{number:03d}.parquet", row_group_size=ROWS_PER_GROUP
        )


def train(folder: Path, held_out: int) -> None:
    """A short run; prints what it took as JSON."""
    import torch

    from fairmt import FairMTLearner
    from fairmt.data import ParquetTable

    torch.set_num_threads(1)
    start = time.perf_counter()
    table = ParquetTable(folder, split_by="household", held_out=held_out)
    learner = FairMTLearner(
        ["income:regression", "job:classification", "moved:detection"],
        ["sex", "origin"],
        epochs=1,
        path_epochs=1,
        batch_size=4096,
    )
    learner.fit(table)
    print(
        json.dumps(
            {
                "rows": table.rows,
                "peak_mib": peak_mib(),
                "seconds": time.perf_counter() - start,
                "delta_m": learner.choice_.point.delta_m,
            }
        )
    )


def peak_mib() -> float:
    """Peak resident memory of this process."""
    try:
        # The kernel hands a parent's peak on to its children in getrusage, but not here.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000_000, 3_000_000])
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=50_000)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.held_out)
        return 0
    print(f"$ python {' '.join(sys.argv)}")
    _print_versions()
    peaks = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "table"
            write(folder, rows, options.columns)
            size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
            own = [sys.executable, __file__, "--train", str(folder)]
            found = subprocess.run(
                [*own, "--held-out", str(options.held_out)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        result = json.loads(found.stdout.splitlines()[-1])
        peaks.append(result["peak_mib"])
        print(
            f"{rows:>9,} rows x {options.columns} columns, {size:,.0f} MiB of Parquet: "
            f"peak {result['peak_mib']:,.0f} MiB, {result['seconds']:.0f} s for three epochs, "
            f"train {result['rows']['train']:,}, validation {result['rows']['validation']:,}, "
            f"Δm {result['delta_m']:+.2%}"
        )
    ratio = peaks[1] / peaks[0]
    good = ratio <= TARGET_RATIO and max(peaks) <= TARGET_MIB
    print(
        f"ratio {ratio:.3f} (target {TARGET_RATIO} or less), largest peak {max(peaks):,.0f} MiB "
        f"(target {TARGET_MIB:,} or less): {'met' if good else 'MISSED'}"
    )
    return 0 if good else 1


def _print_versions() -> None:
    from importlib.metadata import version

    names = ("torch", "pyarrow", "pandas", "numpy")
    versions = ", ".join(f"{n} {version(n)}" for n in names)
    print(f"Python {platform.python_version()}, {versions}, {platform.platform()}")


if __name__ == "__main__":
    sys.exit(main())
