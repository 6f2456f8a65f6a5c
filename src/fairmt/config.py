"""The shell's words, from flags or a YAML file, as a table and settings of the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairmt.data import Bundle, datasets, generate, load, read_table, split
from fairmt.frames import parse_task, split_quoted, unquote
from fairmt.runs import digest

if TYPE_CHECKING:
    import pandas as pd

LISTS = ("task", "sensitive", "continuous", "option", "features", "drop", "bins", "notion")
PASSED_ON = (
    "weight", "split_by", "method", "tolerance", "utility_budget", "strength", "controller",
    "floors", "depth", "attributes_as_inputs", "recalibration", "epochs", "path_epochs",
    "batch_size", "learning_rate", "balance", "seed", "pretraining",
    "postprocessing", "encoder",
)  # fmt: skip
CATALOG = "catalog:"
GENERATED = "generated:"


def merge(config: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Words of a YAML file, overruled by the flags that were given.

    Raises
    ------
    ValueError
        For a word that no flag has, naming the nearest ones.
    """
    words: dict[str, Any] = {}
    if config is not None:
        words = _read_yaml(config, flags)
    words |= {k: v for k, v in flags.items() if v is not None}
    for key in LISTS:
        if isinstance(words.get(key), str):
            words[key] = [words[key]]
    return words


def _read_yaml(config: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    from difflib import get_close_matches

    import yaml

    if not config.exists():
        raise FileNotFoundError(f"No configuration at '{config}'.")
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"'{config}' is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{config}' must be a mapping from words to values.")
    words = {str(k).replace("-", "_"): v for k, v in content.items()}
    if "tasks" in words:
        words["task"] = words.pop("tasks")
    for word in words:
        if word not in flags:
            near = get_close_matches(word, list(flags), 3)
            hint = f" Did you mean {near}?" if near else f" Known words: {sorted(flags)}."
            raise ValueError(f"'{config}' has the unknown word '{word}'.{hint}")
    return words


def names_of(values: Sequence[str] | None) -> list[str]:
    """'A,B' and repeated flags as one list; double quotes protect commas."""
    return [unquote(part) for value in values or () for part in split_quoted(str(value), ",")]


def parse_bins(values: Any) -> dict[str, tuple[float, ...]]:
    """'COLUMN:EDGE,EDGE', several times, or a mapping."""
    if isinstance(values, Mapping):
        return {str(k): tuple(float(e) for e in v) for k, v in values.items()}
    bins: dict[str, tuple[float, ...]] = {}
    for value in values or ():
        parts = split_quoted(str(value), ":")
        try:
            name, edges = parts
            bins[unquote(name)] = tuple(float(e) for e in edges.split(","))
        except ValueError:
            raise ValueError(f"bins {value!r}: expected COLUMN:EDGE,EDGE.") from None
    return bins


def parse_options(values: Any) -> dict[str, Any]:
    """'KEY=VALUE' of a method, several times, the value as JSON or a word; or a mapping."""
    import json

    if isinstance(values, Mapping):
        return dict(values)
    options: dict[str, Any] = {}
    for text in values:
        key, equals, value = str(text).partition("=")
        if not equals:
            raise ValueError(f"option '{text}': expected KEY=VALUE.")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def parse_notion(values: Any) -> Any:
    """'NOTION', 'NOTION,NOTION', or 'TASK=NOTION', several times."""
    if isinstance(values, Mapping):
        return dict(values)
    by_task: dict[str, list[str]] = {}
    plain: list[str] = []
    for value in values:
        parts = split_quoted(str(value), "=")
        if len(parts) == 2:
            by_task.setdefault(unquote(parts[0]), []).extend(names_of([parts[1]]))
        else:
            plain += names_of([value])
    if by_task and plain:
        raise ValueError(
            f"Give either one notion for all tasks ({plain}) or TASK=NOTION for each, not both."
        )
    if by_task:
        return by_task
    return plain[0] if len(plain) == 1 else plain


def learner_settings(words: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `FairMTLearner`."""
    settings = {k: words[k] for k in PASSED_ON if words.get(k) is not None}
    if words.get("task"):
        settings["tasks"] = [parse_task(t) for t in words["task"]]
    if words.get("sensitive"):
        settings["sensitive"] = names_of(words["sensitive"])
    if words.get("continuous"):
        settings["continuous"] = names_of(words["continuous"])
    if words.get("option"):
        settings["options"] = parse_options(words["option"])
    if words.get("features"):
        given = words["features"]
        settings["features"] = dict(given) if isinstance(given, Mapping) else names_of(given)
    if words.get("drop"):
        settings["drop"] = names_of(words["drop"])
    if words.get("bins"):
        settings["bins"] = parse_bins(words["bins"])
    if words.get("notion"):
        settings["notion"] = parse_notion(words["notion"])
    return settings


def read_source(
    table: str, rows: int | None = None
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """A table by path, catalog:NAME or generated:ROWS:SEED.

    Returns
    -------
    The frame, settings of the learner that are known of it, and where it came from.
    """
    source: dict[str, Any] = {"source": table, "table": table, "first_rows": rows}
    described: dict[str, Any] = {}
    if table.startswith(CATALOG):
        name = table[len(CATALOG) :]
        if name not in datasets():
            raise ValueError(f"The catalog has no '{name}'; it has {datasets()}.")
        bundle = load(name)
        frame, described = bundle.frame, bundle.learner_settings()
    elif table.startswith(GENERATED):
        bundle = _generated(table)
        frame, described = bundle.frame, bundle.learner_settings()
    else:
        frame = read_table(table)
        source |= {"source": Path(table).name, "sha256": digest(table)}
    if rows is not None:
        frame = frame.iloc[:rows]
    return frame.reset_index(drop=True), described, source


def _generated(table: str) -> Bundle:
    n, _, seed = table[len(GENERATED) :].partition(":")
    try:
        return generate(int(n), seed=int(seed or 0))
    except ValueError as error:
        raise ValueError(f"'{table}': expected generated:ROWS:SEED ({error}).") from None


def test_rows(run: Mapping[str, Any], table: str | None) -> pd.DataFrame | None:
    """The test rows of a finished run, read again; None where its table is gone.

    Raises
    ------
    ValueError
        If the table is not the one of the run.
    """
    where = table or run["table"]
    if not where.startswith((CATALOG, GENERATED)) and not Path(where).exists():
        if table is not None:
            raise FileNotFoundError(f"No table at '{table}'.")
        return None
    frame, _, source = read_source(where, run["first_rows"])
    if len(frame) != run["rows"] or source.get("sha256") != run.get("sha256"):
        raise ValueError(
            f"'{where}' is not the table that the run was made with (it has {len(frame):,} rows, "
            f"or other content; {run['rows']:,} rows are expected)."
        )
    unit = None if run["split_by"] is None else frame[run["split_by"]].to_numpy()
    parts = split(frame, fractions=run["fractions"], unit=unit, seed=run["seed"])
    return frame.iloc[parts["test"]]
