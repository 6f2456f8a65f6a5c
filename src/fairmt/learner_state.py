"""A fitted learner as a state that `fairmt.store` can keep, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from fairmt.ledger import Ledger
from fairmt.methods import PostProcessing, method
from fairmt.path import Candidate, Choice, Path
from fairmt.store import StoreError
from fairmt.tasks import Layout

if TYPE_CHECKING:
    from fairmt.estimator import FairMTLearner

KIND = "fairmt.learner/2"
# Tasks stand in the schema; the others matter to training alone.
_LEFT_OUT = ("tasks", "checkpoint", "options")


def state_of(learner: FairMTLearner) -> dict[str, Any]:
    """Everything that predicting, choosing and auditing need: the whole path, no row of data."""
    parameters = {k: v for k, v in learner.get_params(deep=False).items() if k not in _LEFT_OUT}
    return {
        "kind": KIND,
        "parameters": _jsonable(parameters),
        "schema": learner.schema_.to_dict(),
        "notions": {k: list(v) for k, v in learner.ledger_.notions.items()},
        "candidates": [c.state_dict() for c in learner.path_.candidates],
        "rows": learner.path_.rows,
        "chosen": learner.choice_.point.index,
        "reason": learner.choice_.reason,
        "reached": learner.choice_.reached,
        "proxies": dict(learner.proxies_),
        "single": learner._single,
        "label_types": dict(learner._label_types),
        "n_features_in": learner.n_features_in_,
        "pretrained": learner.pretrained_,
        "repairs": [{"name": r.name, "state": r.state_dict()} for r in learner.repairs_],
        "names_in": list(getattr(learner, "feature_names_in_", [])) or None,
    }


def restored(state: Mapping[str, Any], where: str) -> FairMTLearner:
    """Inverse of `state_of`.

    Raises
    ------
    StoreError
        If the state is that of something else.
    """
    from fairmt.data import Schema
    from fairmt.estimator import FairMTLearner

    found = str(state.get("kind"))
    if found != KIND:
        if found.startswith(KIND.partition("/")[0] + "/"):
            raise StoreError(
                f"'{where}' holds a learner of the format {found}; this version reads {KIND}. "
                "Train it again, or load it with the version that saved it."
            )
        raise StoreError(f"'{where}' holds no saved learner.")
    schema = Schema.from_dict(state["schema"])
    learner = FairMTLearner(**{"tasks": schema.tasks} | state["parameters"])
    layout, groups = Layout(schema.tasks), schema.groups
    learner.schema_, learner._layout, learner._groups = schema, layout, groups
    learner.pretrained_ = state["pretrained"]
    learner.repairs_ = [_repair(r) for r in state["repairs"]]
    learner.model_ = learner._network(schema)
    learner.ledger_ = Ledger(layout, state["notions"])
    candidates = [Candidate.from_state(c) for c in state["candidates"]]
    learner.path_ = Path(learner.ledger_, groups, candidates, state["rows"])
    point = learner.path_.points[state["chosen"]]
    learner.choice_ = Choice(point, state["reason"], state["reached"])
    learner.proxies_ = state["proxies"]
    learner._use(candidates[state["chosen"]])
    learner._single = state["single"]
    learner._label_types = state["label_types"]
    learner.n_features_in_ = state["n_features_in"]
    if state["names_in"] is not None:
        learner.feature_names_in_ = np.asarray(state["names_in"], dtype=object)
    return learner


def _repair(state: Mapping[str, Any]) -> PostProcessing:
    """A fitted post-processing."""
    found = method(state["name"])()
    assert isinstance(found, PostProcessing)
    found.load_state_dict(state["state"])
    return found


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, FilePath):
        return str(value)
    return value
