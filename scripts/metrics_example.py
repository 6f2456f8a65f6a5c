"""docs/examples/metrics.json: what a short run on made-up people writes, in full.

python scripts/metrics_example.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = (
    "train generated:4000:0 --epochs 4 --path-epochs 4 --task job:classification "
    "--task income:regression --notion default --drop household,region,housing,health,transport"
)


def main() -> None:
    target = Path(__file__).parents[1] / "docs" / "examples" / "metrics.json"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run(
            [sys.executable, "-m", "fairmt.cli", *COMMAND.split(), "--out", str(run)], check=True
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "metrics.json", target)


if __name__ == "__main__":
    main()
