"""A table of predictions as expressions: what every column of a query is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairmt.auditing.columns import require
from fairmt.auditing.naming import (
    NO,
    THRESHOLD,
    YES,
    find_outputs,
    prediction_name,
    truth_names,
)
from fairmt.auditing.plan import NotionChoice, Plan, make_plan
from fairmt.data.attributes import fit_groups
from fairmt.groups import Attribute, Groups
from fairmt.tasks import Classification, Layout, Regression, Task

BUCKETS = 256
"""Buckets of rows or clusters that are resampled together, see `fairmt.auditing.memory`."""


class Source:
    """A table, and what its columns mean.

    Attributes
    ----------
    table : Ibis table.
    tasks : completed by `fairmt.auditing.engine.preparation.prepare`.
    edges : inner edges of the bands of numeric attributes, completed likewise.
    guessed : tasks whose classes are those of the first rows.
    careful : whether NaN is looked for in columns of floats.
    dialect : where there is no connection, the SQL to be written.
    """

    def __init__(
        self,
        table: Any,
        tasks: Sequence[Task],
        sensitive: Sequence[str],
        *,
        bins: Mapping[str, Sequence[float]] | None = None,
        depth: int = 1,
        weight: str | None = None,
        cluster: str | None = None,
        identifier: str | None = None,
        dialect: str | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("Name at least one task.")
        if not sensitive:
            raise ValueError("Name at least one sensitive attribute.")
        self.table = table
        self.names = list(table.columns)
        self.sensitive = list(sensitive)
        self.depth = depth
        self.weight, self.cluster, self.identifier = weight, cluster, identifier
        self.dialect = dialect
        self.tasks = [find_outputs(t, self.names) for t in tasks]
        self._check_columns()
        self.guessed: set[str] = set()
        self.careful = False
        self.edges: dict[str, tuple[float, ...]] = {}
        for name, edges in (bins or {}).items():
            if name not in self.sensitive:
                raise ValueError(
                    f"bins names '{name}', which is no sensitive attribute {self.sensitive}."
                )
            self.edges[name] = self.bands(name, edges).edges

    def _check_columns(self) -> None:
        columns = [c for c in (self.weight, self.cluster, self.identifier) if c is not None]
        for task in self.tasks:
            columns += truth_names(task, False)
            if not isinstance(task, Classification):
                for k in range(task.n_outputs):
                    name = prediction_name(task, k)
                    if task.kind == "regression" or f"{name}.decision" not in self.names:
                        columns.append(name)
            elif task.name in self.names:
                columns.append(task.name)
        for column in [*self.sensitive, *columns]:
            require(self.names, column)
            kind = self.table[column].type()
            if kind.is_null() or kind.is_unknown():
                raise ValueError(f"Column '{column}' is missing in every row.")

    @staticmethod
    def bands(name: str, edges: Sequence[float]) -> Attribute:
        """The attribute that these edges make."""
        stub = pd.DataFrame({name: [0.0]})
        return fit_groups(stub, [name], {name: list(edges)}).attributes[0]

    @property
    def scored(self) -> list[str]:
        """Tasks that come with probabilities."""
        found = []
        for task in self.tasks:
            if task.kind == "regression" or not task.outputs:
                continue
            given = [prediction_name(task, k) in self.names for k in range(task.n_outputs)]
            if any(given) and not all(given):
                raise ValueError(
                    f"Task '{task.name}': probabilities are given for some outputs only; give "
                    "all or none."
                )
            if all(given):
                found.append(task.name)
        return found

    def plan(self, notions: NotionChoice, groups: Groups | None = None) -> Plan:
        """What is judged. What is asked of the table does not depend on the groups."""
        if groups is None:
            stand_in = tuple(Attribute(c, ("a", "b")) for c in self.sensitive)
            groups = Groups(stand_in, self.depth)
        one_by_one = self.weight is None and self.cluster is None
        layout = Layout(tuple(self.tasks))
        return make_plan(layout, groups, notions, scored=self.scored, one_by_one=one_by_one)

    # -- columns ----------------------------------------------------------------------------

    def is_number(self, name: str) -> bool:
        kind = self.table[name].type()
        return bool(kind.is_numeric() and not kind.is_boolean())

    def supports(self, operation: str) -> bool:
        """Whether the backend, or the dialect, knows an operation of Ibis."""
        import ibis
        import ibis.expr.operations as ops

        if self.dialect is None:
            return bool(self.table.get_backend().has_operation(getattr(ops, operation)))
        column = ibis.table({"x": "float64"}, name="t").x
        example = {"Hash": column.hash, "RandomScalar": ibis.random}
        try:
            ibis.to_sql(example[operation](), dialect=self.dialect)
        except ibis.common.exceptions.OperationNotDefinedError:
            return False
        return True

    def known(self, column: Any, careful: bool | None = None) -> Any:
        """Whether a value is there; in columns of floats what is not finite is missing too.

        NaN is rare where null can be said, and looking for it costs time, so that it is looked
        for (`careful`) only where sums have come out as NaN.
        """
        careful = self.careful if careful is None else careful
        if careful and column.type().is_floating():
            # DuckDB takes isnan() of a Parquet column from its statistics, which leave NaN out.
            return column.notnull() & ((column - column) == 0)
        return column.notnull()

    def attribute(self, name: str) -> Any:
        """What rows are grouped by: a value, or the number of its band."""
        import ibis

        column = self.table[name]
        if name not in self.edges:
            return column
        band: Any = ibis.literal(0, "int8")
        for edge in self.edges[name]:
            band = band + (column >= edge).cast("int8")
        return ibis.cases((self.known(column, careful=True), band), else_=None)

    def decided(self, task: Classification) -> Any:
        """The predicted class, or the position of the most probable one."""
        import ibis

        if task.name in self.names:
            return self.table[task.name]
        columns = [self.table[prediction_name(task, k)] for k in range(task.n_outputs)]
        top = ibis.greatest(*columns)
        return ibis.cases(*((c >= top, k) for k, c in enumerate(columns)), else_=None)

    def atoms(self, task: Task, k: int) -> dict[str, Any]:
        """Observed (o), actual (a), predicted (p), probability (q), if there is one, of output k.

        ``x`` says where the truth cannot be read; ``y`` is a label of whole numbers as it stands.
        """
        if isinstance(task, Regression):
            return self._target(task, k)
        found = self._class(task, k) if isinstance(task, Classification) else self._label(task, k)
        if task.name in self.scored:
            found["q"] = self.table[prediction_name(task, k)].cast("float64")
        return found

    def _target(self, task: Regression, k: int) -> dict[str, Any]:
        truth = self.table[truth_names(task, False)[k]]
        value = self.table[prediction_name(task, k)].cast("float64")
        known, centre, unit = self.known(truth), task.centre[k], 1 / task.scale[k]
        return {
            "o": known.cast("int8"),
            "a": known.ifelse((truth.cast("float64") - centre) * unit, 0.0),
            "p": (value - centre) * unit,
        }

    def _class(self, task: Classification, k: int) -> dict[str, Any]:
        column, decided = self.table[truth_names(task, False)[0]], self.decided(task)
        known = self.known(column)
        own: Any = k
        if task.name in self.names:
            own = _value(decided, task.outputs[k])
        return {
            "o": known.cast("int8"),
            "a": known.ifelse((column == _value(column, task.outputs[k])).cast("int8"), 0),
            "p": (decided == own).cast("int8"),
        }

    def _label(self, task: Task, k: int) -> dict[str, Any]:
        column, name = self.table[truth_names(task, False)[k]], prediction_name(task, k)
        known = self.known(column)
        if column.type().is_string():
            yes, no = column.isin(YES), column.isin(NO)
        else:
            number = column.cast("int8") if column.type().is_boolean() else column
            yes, no = number == 1, number == 0
        if not column.type().is_floating():
            # Comparisons with null are null.
            yes, no = yes.fill_null(False), no.fill_null(False)
        if f"{name}.decision" in self.names:
            decision = self.table[f"{name}.decision"].cast("int8")
        else:
            decision = (self.table[name] > THRESHOLD).cast("int8")
        found = {
            "o": known.cast("int8"),
            "a": (yes if not column.type().is_floating() else known & yes).cast("int8"),
            "p": decision,
            "x": known & ~yes & ~no,
        }
        if column.type().is_integer():
            found["y"] = column
        return found

    def bucket(self) -> Any:
        """The bucket that a row is resampled with: its cluster's, or one by chance."""
        import ibis

        key = self.cluster or self.identifier
        if key is None:
            if not self.supports("RandomScalar"):
                raise ValueError(
                    "This backend has no random numbers to resample rows with: name an "
                    "identifier, or set n_boot=0."
                )
            return (ibis.random() * BUCKETS).floor().cast("int64")
        column = self.table[key]
        if self.supports("Hash"):
            value = column.hash() % BUCKETS
        elif column.type().is_integer():
            # A large prime spreads consecutive numbers over the buckets.
            value = (column.cast("int64") % 1_000_003) * 7919 % BUCKETS
        else:
            raise ValueError(
                f"This backend cannot hash '{key}' to resample by it: name a column of whole "
                "numbers, or set n_boot=0."
            )
        return ((value + BUCKETS) % BUCKETS).cast("int64")


def _value(column: Any, name: str) -> Any:
    """The value behind a class name, in the column's own type."""
    kind = column.type()
    if kind.is_boolean():
        return name == "True"
    return float(name) if kind.is_floating() else int(name) if kind.is_integer() else name
