"""Print docs/notions.md, the table of notions and of the tests that stand behind each cell.

python scripts/notion_table.py > docs/notions.md
"""

from __future__ import annotations

import sys

from fairmt.measures import MEASURES, Measure
from fairmt.notions import (
    CONTRADICTIONS,
    DEFAULT_NOTIONS,
    NOTIONS,
    Notion,
)

TEST_FILE = "tests/core/test_notions.py"
MODES = ("hard", "soft")
CHECKS = {
    "by hand": "test_rates_equal_a_case_worked_out_by_hand",
    "other libraries": "test_rates_equal_those_of_other_libraries",
    "gradient": "test_gradient_of_the_soft_rate_equals_differences",
    "in parts": "test_parts_merged_in_any_order_give_the_sums_of_the_whole",
}
"""Column of the table -> test, parametrised over all cells."""

INTRODUCTION = """\
# Notions of fairness

<!-- Written by scripts/notion_table.py; a test compares the two. -->

A *notion* says what is asked for, and which *statistics* judge it for each kind of task. A
statistic is a ratio, or a function, of sums over the rows of a group. Training uses soft decisions,
which have gradients; audits use hard ones; the definition is the same.

*Better* is the orientation: where more (or less) is better, a group's violation counts from the
best-served group of its attribute. Where neither is, it is a distance on both sides, from the rate
of everybody or from zero. Rows with a missing label count for no statistic that needs it; rows with
a missing attribute count for none of that attribute's groups.

For a classification task that names a favourable class, equal opportunity and demographic parity
look at that class alone, and of its predicted rate more is better. Of two classes nothing is said
twice: the false alarm rate of one is what the recall of the other leaves, and predicted rate and
calibration are judged for the second class."""


def better(measure: Measure) -> str:
    """The orientation in words."""
    if measure.distance:
        return "neither (0): a distance, from zero"
    if measure.orientation == 0:
        centre = {"pooled": "everybody's rate", "zero": "zero"}[measure.centre]
        return f"neither (0): from {centre}"
    return {1: "more (+1)", -1: "less (−1)"}[measure.orientation]


def test_ids(kind: str, notion: str, check: str) -> list[str]:
    """The parameters of a cell in one of the `CHECKS`, as pytest writes them."""
    cell = f"{kind}-{notion}"
    return [cell] if check == "gradient" else [f"{mode}-{cell}" for mode in MODES]


def _definitions(notion: Notion) -> list[str]:
    lines = [
        "| kind of task | statistic | what it is | better | range |",
        "|---|---|---|---|---|",
    ]
    for kind, names in notion.measures.items():
        for name in names:
            m = MEASURES[name]
            span = "0 to 1" if m.bounded else "open"
            lines.append(f"| {kind} | {name} | {m.sentence} | {better(m)} | {span} |")
    return lines


def _tests() -> list[str]:
    lines = [
        f"| notion | kind of task | {' | '.join(CHECKS)} |",
        "|---" * (2 + len(CHECKS)) + "|",
    ]
    for notion in NOTIONS.values():
        for kind in notion.measures:
            cells = [
                ", ".join(f"`[{i}]`" for i in test_ids(kind, notion.name, check))
                for check in CHECKS
            ]
            lines.append(f"| {notion.name} | {kind} | {' | '.join(cells)} |")
    return lines


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for notion in NOTIONS.values():
        parts.append(f"## {notion.name}\n\n{notion.sentence}")
        parts.append("\n".join(_definitions(notion)))
    defaults = "\n".join(f"- {kind}: {', '.join(names)}" for kind, names in DEFAULT_NOTIONS.items())
    parts.append(f'## What `notion="default"` asks for\n\n{defaults}')
    pairs = "\n".join(f"- {a} and {b}" for a, b in CONTRADICTIONS)
    parts.append(
        "## What cannot be had together\n\nWhere base rates differ between groups, no useful "
        "predictor meets both of a pair; training for both is refused, auditing both is not.\n\n"
        + pairs
    )
    tests = "\n".join(f"- {column}: `{TEST_FILE}::{test}`" for column, test in CHECKS.items())
    parts.append(
        "## The tests behind each cell\n\nEvery cell is worked out by hand, compared with other "
        "libraries on random rows (missing labels, missing attributes, weights, a shifted decision "
        "rule), differentiated by finite differences, and summed in parts. A cell without one of "
        f"them fails.\n\n{tests}"
    )
    parts.append("\n".join(_tests()))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
