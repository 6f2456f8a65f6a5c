"""Results of runs: a JSON file each, and all of them as one DuckDB table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairmt.bench.configuration import Configuration


class ResultStore:
    """A folder with a file per run, named by the run's content.

    Files are written whole or not at all, by any number of processes; a run that has its file is
    not made again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def cache(self) -> Path:
        """Where runs keep what others can use."""
        return self.folder / "cache"

    def path(self, config: Configuration) -> Path:
        """Where the result of a run stands, or will."""
        name = f"{config.problem.replace('/', '-').replace(':', '-')}_{config.method}"
        return self.folder / "runs" / f"{name}_{config.seed}_{config.id}.json"

    def has(self, config: Configuration) -> bool:
        return self.path(config).exists()

    def put(self, config: Configuration, row: dict[str, Any]) -> None:
        """Keep the result of a run."""
        path = self.path(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(row, allow_nan=True))
        os.replace(partial, path)

    def get(self, config: Configuration) -> dict[str, Any]:
        """The result of a run.

        Raises
        ------
        FileNotFoundError
            If it was not made yet.
        """
        path = self.path(config)
        if not path.exists():
            raise FileNotFoundError(
                f"No result of {config.contestant} on {config.problem}, seed {config.seed}, in "
                f"'{self.folder}'. Make it: {config.command()}"
            )
        row: dict[str, Any] = json.loads(path.read_text())
        return row

    def rows(self) -> Iterator[dict[str, Any]]:
        """All results, in the order of their names."""
        for path in sorted((self.folder / "runs").glob("*.json")):
            row = json.loads(path.read_text())
            # Ceiling and noise floor are no contestants and have figures of their own.
            if "places" in row:
                yield row

    def table(self) -> Any:
        """All results as a DuckDB relation, a row per run, for queries of one's own.

        Raises
        ------
        ImportError
            Without DuckDB.
        """
        import pandas as pd

        try:
            import duckdb
        except ImportError as error:
            raise ImportError(
                "Queries over results need DuckDB: pip install 'fairmt[bench]'."
            ) from error
        flat = pd.DataFrame([_flat(row) for row in self.rows()])
        return duckdb.connect().from_df(flat)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level, with the figures on the rows as they are."""
    config = Configuration.from_dict(row["config"])
    found = {
        "id": row["id"],
        "data": config.data,
        "variant": config.variant,
        "method": config.contestant,
        "seed": config.seed,
        "device": row.get("device", "cpu"),
        "made": row["made"],
        **{f"{name}_version": version for name, version in row["versions"].items()},
        "seconds": row["seconds"],
        "entries": row["entries"],
        "hypervolume": row["volume"][0],
        "plain_gap": row["plain"]["gap"],
        "plain_shortfall": row["plain"]["shortfall"],
    }
    for budget, chosen in row["budget"].items():
        for name in ("delta_m", "gap", "shortfall", "worst", "best", "level_down"):
            found[f"{name}_at_{budget}"] = chosen[name][0]
    for tolerance, judged in row.get("tolerance_kept", {}).items():
        found[f"satisfied_{tolerance}"] = judged["satisfied"]
    return found
