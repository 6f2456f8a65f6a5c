"""The queries of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairmt.auditing.cube import SCORE_BINS
from fairmt.auditing.engine.source import Source
from fairmt.auditing.engine.terms import Places, Sums
from fairmt.auditing.naming import prediction_name, truth_names
from fairmt.auditing.plan import Plan
from fairmt.tasks import Classification, Detection, Layout, Regression, Task


@dataclass
class Queries:
    """Queries of an audit, and where their answers go.

    Attributes
    ----------
    tables : by classification task, rows by attributes, truth and decision.
    everything : sums by attributes (and bucket), or None where the first of `tables` has them.
    histograms : by fused output, rows by attributes and bin of the probability.
    asked : names of the sums that can be NaN.
    checks : pairs of sums that are equal where every row can be counted.
    faults : how many rows have which fault; asked only where two such sums differ, or one is NaN.
    """

    tables: dict[str, Any]
    everything: Any
    histograms: dict[int, Any]
    places: Places
    asked: list[str]
    checks: list[tuple[str, str]]
    faults: Any


def build(source: Source, plan: Plan, *, resample: bool, scores: bool) -> Queries:
    """Everything that is asked of the table.

    Sums go along with the first count of truth by decision, unless rows are put into buckets,
    which counts do not need.
    """
    layout = plan.layout
    grouped = resample and plan.summed is not None
    keys = [f"attribute{i}" for i in range(len(source.sensitive))]
    needed = _summed_outputs(plan)
    rows = _rows(source, layout, needed, grouped)
    sums = Sums()
    places = Places.of(plan, rows, sums, weighted=source.weight is not None)
    faults = _faults(source, layout, rows, needed)
    checks = _checks(source, layout, rows, sums, needed)
    ask = dict(sums.expressions)
    tables: dict[str, Any] = {}
    for i, task in enumerate(layout.tasks):
        if not isinstance(task, Classification):
            continue
        count = {"n": rows.count()}
        if source.weight is not None:
            count["mass"] = rows["w"].sum()
        if not grouped and not tables:
            count |= ask
            ask = {}
        by = rows.group_by(*keys, f"truth{i}", f"decision{i}")
        tables[task.name] = by.aggregate(**count)
    everything = None
    if ask or not tables:
        everything = rows.group_by(*keys, *(["bucket"] if grouped else [])).aggregate(
            n=rows.count(), **ask
        )
    histograms = {
        layout.outputs[t.name].start + k: _histogram(source, t, k)
        for t in layout.tasks
        if scores and t.name in source.scored
        for k in range(t.n_outputs)
    }
    count_faults = None
    if faults:
        count_faults = rows.aggregate(
            **{s: wrong.cast("int8").sum() for s, wrong in faults.items()}
        )
    asked = [n for n, e in sums.expressions.items() if e.type().is_floating()]
    return Queries(tables, everything, histograms, places, asked, checks, count_faults)


def _summed_outputs(plan: Plan) -> set[int]:
    """Fused outputs whose atoms are summed; the others are counted only."""
    layout = plan.layout
    needed = {
        layout.outputs[t.name].start + k
        for t in layout.tasks
        for k in range(t.n_outputs)
        if not isinstance(t, Classification)
    }
    for s in plan.summed.statistics if plan.summed is not None else ():
        task = layout[s.task]
        own = [task.outputs.index(s.output)] if s.output else range(task.n_outputs)
        needed |= {layout.outputs[task.name].start + k for k in own}
    return needed


def _rows(source: Source, layout: Layout, needed: set[int], resample: bool) -> Any:
    """The table in columns of plain names: attributes, atoms, weight, bucket, truths."""
    columns: dict[str, Any] = {
        f"attribute{i}": source.attribute(c) for i, c in enumerate(source.sensitive)
    }
    for task in layout.tasks:
        for k in range(task.n_outputs):
            i = layout.outputs[task.name].start + k
            if i in needed:
                columns |= {f"{name}{i}": value for name, value in source.atoms(task, k).items()}
    if source.weight is not None:
        columns["w"] = source.table[source.weight].cast("float64")
    if resample:
        columns["bucket"] = source.bucket()
    for i, task in enumerate(layout.tasks):
        if isinstance(task, Classification):
            columns[f"truth{i}"] = source.table[truth_names(task, False)[0]]
            columns[f"decision{i}"] = source.decided(task)
    return source.table.select(**columns)


def _histogram(source: Source, task: Task, k: int) -> Any:
    atoms = source.atoms(task, k)
    columns = {f"attribute{i}": source.attribute(c) for i, c in enumerate(source.sensitive)}
    keys = [*columns, "bin"]
    columns |= {name: atoms[name] for name in "oaq"}
    if source.weight is not None:
        columns["w"] = source.table[source.weight].cast("float64")
    last = SCORE_BINS - 1
    band = (atoms["q"] * SCORE_BINS).floor().cast("int64")
    columns["bin"] = (band > last).ifelse(last, band)
    rows = source.table.select(**columns)
    seen, actual = rows["o"], rows["a"]
    if source.weight is not None:
        seen, actual = seen * rows["w"], actual * rows["w"]
    return rows.group_by(*keys).aggregate(
        n=rows.count(),
        seen=seen.sum(),
        probability=(seen * rows["q"]).sum(),
        actual=actual.sum(),
    )


def _checks(
    source: Source, layout: Layout, rows: Any, sums: Sums, needed: set[int]
) -> list[tuple[str, str]]:
    """Pairs of sums that tell whether there are faults, at little cost."""
    found = []
    for task in layout.tasks:
        for k in range(task.n_outputs):
            i = layout.outputs[task.name].start + k
            if i not in needed or isinstance(task, Classification):
                pass
            elif isinstance(task, Regression):
                # NaN shows in the sums themselves.
                found.append((sums.count(rows[f"p{i}"]), "n"))
            else:
                found += _label_checks(source, task, k, rows, sums, i)
            if i in needed and task.name in source.scored:
                q = rows[f"q{i}"]
                inside = source.known(q) & (q >= 0) & (q <= 1)
                found.append((sums.of(inside.cast("int8")), "n"))
    if source.weight is not None:
        w = rows["w"]
        found.append((sums.of((source.known(w) & (w >= 0)).cast("int8")), "n"))
    return found


def _label_checks(
    source: Source, task: Task, k: int, rows: Any, sums: Sums, i: int
) -> list[tuple[str, str]]:
    """Whole numbers are 0 and 1 if they sum to the sum of their squares, which is quick."""
    found = [(sums.count(rows[f"p{i}"]), "n")]
    decision = f"{prediction_name(task, k)}.decision"
    if decision in source.names and not source.table[decision].type().is_boolean():
        found.append((sums.square(rows[f"p{i}"]), sums.of(rows[f"p{i}"])))
    if f"y{i}" in rows.columns:
        found.append((sums.square(rows[f"y{i}"]), sums.of(rows[f"a{i}"])))
    else:
        found.append((sums.of((~rows[f"x{i}"]).cast("int8")), "n"))
    return found


def _faults(source: Source, layout: Layout, rows: Any, needed: set[int]) -> dict[str, Any]:
    """What to say of a row, and when it must be said."""
    found: dict[str, Any] = {}
    for task in layout.tasks:
        for k in range(task.n_outputs):
            i, name = layout.outputs[task.name].start + k, prediction_name(task, k)
            if i not in needed:
                continue
            if isinstance(task, Regression):
                found[f"Prediction '{name}' is missing or infinite"] = ~source.known(rows[f"p{i}"])
            elif task.name in source.scored:
                p = rows[f"q{i}"]
                inside = source.known(p) & (p >= 0) & (p <= 1)
                found[f"Probability '{name}' is outside [0, 1]"] = ~inside
            if isinstance(task, Detection):
                found[f"Decision of '{name}' is not 0 or 1"] = ~rows[f"p{i}"].isin([0, 1])
                column = truth_names(task, False)[k]
                found[f"Label '{column}' is neither 0 or 1 nor yes or no"] = rows[f"x{i}"]
    if source.weight is not None:
        w = rows["w"]
        found[f"Weight '{source.weight}' is missing or negative"] = ~(source.known(w) & (w >= 0))
    return {sentence: wrong.fill_null(True) for sentence, wrong in found.items()}
