"""Definitions of statistics on the columns of a query: which sums to ask for, and where they go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.cube import TARGET_SUMS, Cube
from fairmt.auditing.memory import ratio_columns
from fairmt.auditing.plan import Plan
from fairmt.ledger import Statistic
from fairmt.measures import MEASURES, Atoms


class Sql:
    """A column of a query with the arithmetic that definitions of statistics use.

    Products are kept as their factors, so that equal ones are found however they were written.
    Columns of whole numbers are 0 or 1 here, and are their own squares.
    """

    def __init__(self, *factors: Any) -> None:
        self.factors = factors

    @property
    def expression(self) -> Any:
        return reduce(mul, self.factors)

    @property
    def key(self) -> frozenset[tuple[Any, int]]:
        """The same for equal products."""
        return frozenset(Counter(f.op() for f in self.factors).items())

    @property
    def is_indicator(self) -> bool:
        return all(f.type().is_integer() for f in self.factors)

    def __add__(self, other: Any) -> Sql:
        return Sql(self.expression + _inner(other))

    def __sub__(self, other: Any) -> Sql:
        return Sql(self.expression - _inner(other))

    def __rsub__(self, other: Any) -> Sql:
        return Sql(_inner(other) - self.expression)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, int) and other in (0, 1):
            # What is 0 or 1 for every row is not asked of every row.
            return self if other else 0
        factors = list(self.factors)
        for factor in other.factors if isinstance(other, Sql) else (other,):
            known = [f.op() for f in factors]
            if factor.op() not in known or not factor.type().is_integer():
                factors.append(factor)
        return Sql(*factors)

    __radd__, __rmul__ = __add__, __mul__

    def square(self) -> Sql:
        factors = [f.op().args[0].to_expr() if _is_absolute(f) else f for f in self.factors]
        product = Sql(*factors) * Sql(*factors)
        assert isinstance(product, Sql)
        return product

    def __abs__(self) -> Sql:
        return Sql(self.expression.abs())

    def __ge__(self, other: Any) -> Sql:
        return Sql(self.expression >= _inner(other))

    def __le__(self, other: Any) -> Sql:
        return Sql(self.expression <= _inner(other))

    def __lt__(self, other: Any) -> Sql:
        return Sql(self.expression < _inner(other))

    def __and__(self, other: Any) -> Sql:
        return Sql(self.expression & _inner(other))

    def cast(self, kind: str) -> Sql:
        return Sql(self.expression.cast(kind))


def _inner(value: Any) -> Any:
    return value.expression if isinstance(value, Sql) else value


def _is_absolute(expression: Any) -> bool:
    return type(expression.op()).__name__ == "Abs"


@dataclass
class Sums:
    """Sums to be asked for in one query, each once however often it is needed."""

    names: dict[Any, str] = field(default_factory=dict)
    expressions: dict[str, Any] = field(default_factory=dict)

    def of(self, term: Any) -> str:
        """Name of the sum of a term; 1 summed is the number of rows."""
        if isinstance(term, int):
            return "n"
        term = term if isinstance(term, Sql) else Sql(term)
        return self._named(("sum", term.key), lambda: term.expression.sum())

    def count(self, column: Any) -> str:
        """Name of the number of values that are not null."""
        return self._named(("count", column.op()), column.count)

    def square(self, column: Any) -> str:
        """Name of the sum of squares of a column of whole numbers, whatever they are."""
        wide = column.cast("int64")
        return self._named(("square", column.op()), (wide * wide).sum)

    def _named(self, key: Any, aggregate: Callable[[], Any]) -> str:
        if key not in self.names:
            self.names[key] = f"s{len(self.names)}"
            self.expressions[self.names[key]] = aggregate()
        return self.names[key]


@dataclass
class Places:
    """Names of the sums that make up each part of a cube.

    Attributes
    ----------
    labels : by position of a counted output, sums of observed, actual, predicted and of their
        products with predicted; unweighted and, if there are weights, weighted.
    targets, seen : of regression outputs.
    columns : of the moment columns; None stands for the number of rows.
    mass, mass2, second : of the summed statistics.
    """

    labels: dict[int, list[list[str]]]
    targets: list[list[str]]
    seen: list[str]
    columns: list[str]
    mass: list[str]
    mass2: list[str]
    second: list[list[str]]

    @staticmethod
    def of(plan: Plan, rows: Any, sums: Sums, weighted: bool) -> Places:
        """Ask for everything that a cube of this plan needs."""
        w = Sql(rows["w"]) if weighted else 1
        labels: dict[int, list[list[str]]] = {}
        layout = plan.layout
        for j, (name, i) in enumerate(plan.counted_outputs):
            if layout[name].kind != "detection":
                continue
            o, a, p = (Sql(rows[f"{x}{i}"]) for x in "oap")
            own = [o, a, p, o * p, a * p]
            labels[j] = [[sums.of(x) for x in own]]
            if weighted:
                labels[j].append([sums.of(x * w) for x in [*own, 1]])
        targets, seen = [], []
        for i in plan.targets:
            o, a, p = (Sql(rows[f"{x}{i}"]) for x in "oap")
            seen_p = p * o
            products = (o, seen_p, a, seen_p * p, a * a, seen_p * a, o * abs(p - a))
            assert len(products) == len(TARGET_SUMS)
            targets.append([sums.of(x * w if weighted else x) for x in products])
            seen.append(sums.of(o))
        columns: list[str] = []
        mass: list[str] = []
        mass2: list[str] = []
        second: list[list[str]] = []
        if plan.summed is not None:
            asked = [_terms(plan, rows, s) for s in plan.summed.statistics]
            terms, evidence = [t for t, _ in asked], [e for _, e in asked]
            owner = plan.summed.statistic_of_column.tolist()
            taken = [0] * len(plan.summed)
            expressions = []
            for j in owner:
                term = terms[j][taken[j]]
                taken[j] += 1
                expressions.append(term * w if weighted else term)
                columns.append(sums.of(expressions[-1]))
            for rows_that_count in evidence:
                mass.append(sums.of(rows_that_count * w if weighted else rows_that_count))
                mass2.append(sums.of(rows_that_count * w * w) if weighted else mass[-1])
            for first, last in zip(*ratio_columns(plan), strict=True):
                if first == last:
                    second.append([])
                    continue
                n, d = expressions[first], expressions[last]
                if not weighted and (isinstance(d, int) or d.is_indicator):
                    # The denominator is 0 or 1, and the numerator 0 where it is 0.
                    second.append([sums.of(n.square()), columns[first], columns[last]])
                else:
                    second.append([sums.of(n.square()), sums.of(n * d), sums.of(d.square())])
        return Places(labels, targets, seen, columns, mass, mass2, second)

    def fill(self, plan: Plan, cube: Cube, frame: pd.DataFrame, cell: np.ndarray) -> None:
        """Put the answers into the cube."""

        def total(names: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(cube.rows), len(names)))
            if names:
                values = frame[list(names)].to_numpy(dtype=np.float64, na_value=0.0)
                np.add.at(found, cell, values)
            return found

        for j, kinds in self.labels.items():
            for target, names in zip((cube.counts, cube.masses), kinds, strict=False):
                assert target is not None
                sums = total(names)
                n = sums[:, 5] if len(names) == 6 else cube.rows
                o, a, p, op, ap = sums[:, :5].T
                target[:, :, j] = np.stack(
                    [n - o - p + op, p - op, o - a - op + ap, op - ap, a - ap, ap], 1
                )
        for t, names in enumerate(self.targets):
            cube.targets[:, :, t] = total(names)
        cube.seen = total(self.seen)
        cube.sums, cube.mass, cube.mass2 = (
            total(self.columns), total(self.mass), total(self.mass2)
        )  # fmt: skip
        for j, names in enumerate(self.second):
            if names:
                cube.second[:, j] = total(names)


def _terms(plan: Plan, rows: Any, statistic: Statistic) -> tuple[list[Sql], Sql]:
    """Moment columns and evidence of a summed statistic, as columns of the query."""
    measure, task = MEASURES[statistic.measure], plan.layout[statistic.task]
    start = plan.layout.outputs[task.name].start
    outputs = [task.outputs.index(statistic.output)] if statistic.output else [0]
    if measure.per_task:
        outputs = list(range(task.n_outputs))
    total: list[Sql] | None = None
    evidence: Sql | None = None
    for k in outputs:
        i = start + k
        probability = Sql(rows[f"q{i}"]) if f"q{i}" in rows.columns else None
        o, a, p = (Sql(rows[f"{x}{i}"]) for x in "oap")
        atoms = Atoms(o, a, p, probability)
        own = list(measure.terms(atoms))
        counts = measure.evidence(atoms)
        total = own if total is None else [x + y for x, y in zip(total, own, strict=True)]
        evidence = counts if evidence is None else evidence + counts
    assert total is not None
    assert evidence is not None
    return total, evidence
