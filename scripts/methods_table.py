"""Print docs/methods/README.md: every method with what it says of itself.

python scripts/methods_table.py > docs/methods/README.md
"""

from __future__ import annotations

from pathlib import Path

from fairmt.methods import METHODS, Method

PAGES = Path(__file__).parents[1] / "docs" / "methods"
SHARED = {
    "fairmt": "../concepts.md",
    "symmetric": "references.md",
    "plain": "references.md",
    "balanced": "references.md",
    "single": "references.md",
    "group_dro": "references.md",
    "gap": "penalties.md",
    "mmd": "penalties.md",
    "wasserstein": "penalties.md",
    "correlation": "penalties.md",
    "gramian": "task_weighting.md",
    "scalarised": "task_weighting.md",
    "fairret": "wrapped.md",
    "cooper": "wrapped.md",
    "group_thresholds": "thresholds.md",
    "pmrl_joint": "pmrl.md",
}
"""Pages of methods that have none of their own name."""
KINDS = {
    "step": "turn a batch into gradients; `FairMTLearner(method=…)`, or a loop of your own",
    "pre-training": "make the encoder; `method=…` before plain training, or `pretraining=…` before "
    "any step",
    "post-processing": "change a trained model's outputs; `method=…` after plain training, at ten "
    "strengths, or `postprocessing=…` after any step's path",
    "estimator": "are models of their own, with `fit` and `predict`",
}


def page(name: str) -> str:
    """Link to a method's page, from docs/methods."""
    return SHARED.get(name, f"{name}.md")


def table() -> str:
    """The whole page."""
    lines = [
        "# Methods",
        "",
        "Written by `scripts/methods_table.py` from what the methods say of themselves; the shell "
        "prints the same with `fairmt methods`. What a step costs: "
        "[method_cost](../../benchmarks/results/method_cost.md). What became of each paper's "
        "claim: [reproductions](../../benchmarks/results/reproduce). Which one is ahead: "
        "[benchmark](../benchmark.md).",
    ]
    for kind, words in KINDS.items():
        lines += ["", f"## {kind[0].upper()}{kind[1:]}", "", f"These {words}.", ""]
        lines += ["| method | what | tasks | attributes | cannot | source |"]
        lines += [f"|{'---|' * 6}"]
        lines += [row(m) for m in METHODS.values() if m.kind == kind]
    return "\n".join(lines)


def row(m: type[Method]) -> str:
    """A line of the table."""
    tasks = "all" if len(m.tasks) == 3 else ", ".join(m.tasks) or "–"
    cells = [f"[{m.name}]({page(m.name)})", m.summary, tasks, m.attributes, m.limits, m.source]
    return f"| {' | '.join(c or '–' for c in cells)} |"


if __name__ == "__main__":
    print(table())  # noqa: T201
