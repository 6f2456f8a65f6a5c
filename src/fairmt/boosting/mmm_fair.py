"""MMMFair: boosting that is fair to several attributes, every round a candidate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor

from fairmt.boosting.costs import Mistreatment
from fairmt.boosting.pareto import nearest
from fairmt.boosting.samme import Settings, boost
from fairmt.boosting.trees import SEGMENTS, BoostedTrees, Target, Trees, targets_of
from fairmt.disparity import MIN_EVIDENCE
from fairmt.estimator import FairMTLearner
from fairmt.evaluator import PathEvaluator
from fairmt.learner_state import state_of
from fairmt.ledger import Ledger, decide
from fairmt.methods.mmm_fair import MultiMaxMistreatment
from fairmt.path import Candidate, Choice, Path, check_wish
from fairmt.store import StoreError, load_state, save_state
from fairmt.tasks import Layout, Task
from fairmt.truths import truths

KIND = "fairmt.mmm_fair/1"
OBJECTIVES = ("accuracy", "balance", "fairness")
_WISHES = ("preference", "tolerance", "utility_budget", "strength")


class MMMFair(FairMTLearner):
    """Boosted trees, fair to several attributes at once, as an estimator.

    Every round raises the weights of its errors, those of the groups that are recognised worst the
    most (`fairmt.boosting.costs`), ever more strongly from round to round. Every round is a
    candidate, measured on held-out rows beside the rounds of the same boosting without costs;
    `choose` picks one and trains nothing. Several tasks have an ensemble each, every label of a
    detection too, and one number of rounds, chosen for all of them together.

    Everything that has to do with tables, predicting and auditing is that of `FairMTLearner`.

    Parameters
    ----------
    tasks, sensitive : see `FairMTLearner`; classification and detection only.
    preference : mapping, optional
        What 'accuracy', 'balance' (every class recognised) and 'fairness' weigh in the choice.
    tolerance, utility_budget, strength : float, optional
        The other ways to choose; at most one of the four is given. See `choose`. Default:
        ``utility_budget=0.01``.
    rounds, tree_depth, learning_rate
        Of the boosting; the learning rate shrinks votes.
    strengths : (float, float)
        λ of the costs in the first round and in the last; it grows geometrically. The published
        method has (1, 1).
    min_evidence : float
        Training rows of a class in a group below which the group is left out of the costs.
    features, drop, bins, depth, weight, split_by, attributes_as_inputs
        See `FairMTLearner`.
    seed : int
        Of the split, and of ties between splits of a tree.

    Attributes
    ----------
    model_ : BoostedTrees, all rounds as arrays.
    path_ : Path, all rounds with their place on the trade-off: the plain ones of the segment
        'plain', the others of the segment 'path'; `epoch` is the number of rounds.
    recalls_ : Tensor (candidates, sides), the recall of every class and of both sides of every
        label on held-out rows, everybody together.
    choice_, schema_, proxies_ : see `FairMTLearner`.
    """

    def __init__(
        self,
        tasks: Sequence[Task | str] | None = None,
        sensitive: Sequence[str] = (),
        *,
        preference: Mapping[str, float] | None = None,
        tolerance: float | None = None,
        utility_budget: float | None = None,
        strength: float | None = None,
        rounds: int = 60,
        tree_depth: int = 3,
        learning_rate: float = 1.0,
        strengths: tuple[float, float] = (0.3, 3.0),
        min_evidence: float = MIN_EVIDENCE,
        features: Sequence[str] | Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        bins: Mapping[str, Sequence[float]] | None = None,
        depth: int = 1,
        weight: str | None = None,
        split_by: str | None = None,
        attributes_as_inputs: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            tasks,
            sensitive,
            method=MultiMaxMistreatment.name,
            notion="equalized_odds",
            tolerance=tolerance,
            utility_budget=utility_budget,
            strength=strength,
            learning_rate=learning_rate,
            strengths=strengths,
            features=features,
            drop=drop,
            bins=bins,
            depth=depth,
            weight=weight,
            split_by=split_by,
            attributes_as_inputs=attributes_as_inputs,
            seed=seed,
        )
        self.preference = preference
        self.rounds = rounds
        self.tree_depth = tree_depth
        self.min_evidence = min_evidence

    # -- fitting ----------------------------------------------------------------------------

    def _fit_stream(self, table: Any, given: Mapping[str, Any]) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__} grows trees on rows in memory and cannot stream a "
            "ParquetTable; pass a frame, for instance pandas.read_parquet(path)."
        )

    def _fit(self, schema: Any, tables: Mapping[str, Any], source: Any = None) -> None:
        """Boost with and without costs, measure every round on held-out rows, and choose."""
        from fairmt.data import proxy_strength, warn_of_proxies

        layout, groups = Layout(schema.tasks), schema.groups
        MultiMaxMistreatment.check(layout, groups)
        low, high = self._check_settings_of_boosting()
        self._check_choice(self._wish())
        self.schema_, self._layout, self._groups = schema, layout, groups
        train, held_out = tables["train"], tables["validation"].join(tables["calibration"])
        self.proxies_ = proxy_strength(train.features, train.attributes, groups)
        warn_of_proxies(self.proxies_, schema.attributes_as_inputs)
        strengths = np.geomspace(low, high, self.rounds)
        pairs = [self._ensembles(target, train, strengths) for target in targets_of(layout)]
        ensembles = dict(zip(SEGMENTS, zip(*pairs, strict=True), strict=True))
        self.model_ = BoostedTrees(layout, ensembles)  # type: ignore[assignment]
        self.pretrained_, self.repairs_ = None, []
        self.ledger_ = Ledger(layout, self._judged(layout))
        self._measure(held_out, strengths)
        self.choose()

    def _check_settings_of_boosting(self) -> tuple[float, float]:
        """Refuse what cannot be boosted; λ in the first and in the last round."""
        for name, least in (("rounds", 1), ("tree_depth", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be {least} or more. Found {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive. Found {self.learning_rate}.")
        low, high = self.strengths or (0.0, 0.0)
        if not (low > 0 and high > 0):
            raise ValueError(f"strengths must be positive. Found {self.strengths}.")
        return low, high

    def _ensembles(self, target: Target, train: Any, strengths: np.ndarray) -> tuple[Trees, Trees]:
        """The plain and the fair ensemble of a target, from the rows that have its label."""
        y = train.labels[:, target.label]
        seen = ~y.isnan()
        labels = y[seen].numpy().astype(np.int64)
        sample = np.ones(len(labels))
        if train.weights is not None:
            sample = train.weights[seen].double().numpy()
        x = np.ascontiguousarray(train.features[seen].numpy())
        weights = sample * np.asarray(target.class_weights)[labels]
        settings = Settings(self.rounds, self.tree_depth, self.learning_rate, self.seed)
        costs = Mistreatment(
            self._groups,
            train.attributes[seen],
            labels,
            sample,
            target.n_classes,
            self.min_evidence,
        )
        plain = boost(x, labels, weights, target.n_classes, settings)
        fair = boost(x, labels, weights, target.n_classes, settings, costs, strengths.tolist())
        return plain, fair

    def _measure(self, held_out: Any, strengths: np.ndarray) -> None:
        """Every round as a candidate, from its outputs on held-out rows."""
        layout, model = self._layout, self._trees
        evaluator = PathEvaluator(self.ledger_, self._groups, held_out, self.seed)
        no_offsets = torch.zeros(layout.n_outputs)
        sides = _Sides(layout, held_out)
        recalls = []
        for segment in SEGMENTS:
            for r, outputs in enumerate(model.staged(segment, held_out.features)):
                strength = float(strengths[r]) if segment == "path" else 0.0
                place = model.place(segment, r + 1)
                outputs = outputs.float()
                evaluator.candidates.append(
                    evaluator.measure(segment, r + 1, strength, place, outputs, no_offsets)
                )
                recalls.append(sides.recalls(outputs))
        self.recalls_, self._shares = torch.stack(recalls), sides.shares
        rows = self._groups.membership(held_out.attributes)[:, 1:].sum(0)
        self.path_ = Path(self.ledger_, self._groups, evaluator.candidates, rows)

    @property
    def _trees(self) -> BoostedTrees:
        return cast(BoostedTrees, self.model_)

    # -- choosing ---------------------------------------------------------------------------

    def choose(
        self,
        *,
        preference: Mapping[str, float] | None = None,
        tolerance: float | None = None,
        utility_budget: float | None = None,
        strength: float | None = None,
    ) -> Choice:
        """Choose another round, without training again.

        Parameters
        ----------
        preference : mapping from 'accuracy', 'balance' and 'fairness' to weights, 0 where absent.
            The round on the Pareto front whose pseudo-weights are nearest. The three losses, on
            held-out rows: the share of errors, and one minus the mean recall of classes (means
            over tasks), and the largest gap between groups (of all tasks and attributes, where
            groups are large enough to tell).
        tolerance, utility_budget, strength : see `fairmt.path.Path.choose`.

        Without an argument the estimator's own setting decides.

        Raises
        ------
        ValueError
            If more than one is given, or one is out of its range.
        """
        given: dict[str, Any] = dict(
            zip(_WISHES, (preference, tolerance, utility_budget, strength), strict=True)
        )
        wish = self._wish() if all(v is None for v in given.values()) else given
        self._check_choice(wish)
        if wish["preference"] is not None:
            self.choice_ = self._preferred(wish["preference"])
        else:
            self.choice_ = self.path_.choose(**{k: wish[k] for k in _WISHES[1:]})
        if not self.choice_.reached:
            warnings.warn(self.choice_.reason, stacklevel=2)
        self._use(self.choice_.point.candidate)
        return self.choice_

    def _wish(self) -> dict[str, Any]:
        wish = {w: getattr(self, w) for w in _WISHES}
        if all(v is None for v in wish.values()):
            wish["utility_budget"] = 0.01
        return wish

    def _check_choice(self, wish: Mapping[str, Any]) -> None:
        if wish["preference"] is None:
            check_wish(**{k: wish[k] for k in _WISHES[1:]})
            return
        if any(wish[k] is not None for k in _WISHES[1:]):
            raise ValueError(f"Give one of {', '.join(_WISHES)}. Found {dict(wish)}.")
        preference = wish["preference"]
        if not isinstance(preference, Mapping) or set(preference) - set(OBJECTIVES):
            raise ValueError(
                f"preference must map some of {list(OBJECTIVES)} to weights. Found {preference!r}."
            )
        weights = list(preference.values())
        if not (all(w >= 0 for w in weights) and sum(weights) > 0):
            raise ValueError(
                f"Weights of a preference must be 0 or more, and not all 0. Found {preference}."
            )

    def losses(self) -> np.ndarray:
        """The losses (candidates, 3) of accuracy, balance and fairness on held-out rows."""
        names = [target.task for target in self._trees.targets]
        width = [target.n_classes for target in self._trees.targets]
        accuracy, balance = [], []
        for recalls, shares in zip(
            self.recalls_.split(width, 1), self._shares.split(width), strict=True
        ):
            accuracy.append((recalls.nan_to_num() * shares).sum(1))
            balance.append(recalls.nanmean(1))
        columns = [1 - _mean_of_tasks(names, part) for part in (accuracy, balance)]
        worst = torch.tensor([p.worst_gap for p in self.path_.points], dtype=torch.float64)
        return torch.stack([*columns, worst], 1).numpy()

    def _preferred(self, preference: Mapping[str, float]) -> Choice:
        path = self.path_
        plain = path.points[path.plain]
        if np.isnan(plain.worst_gap):
            return Choice(
                plain,
                "the plain model; no group has enough labelled held-out rows for a gap to be "
                "judged. More data or coarser groups may help",
                reached=False,
            )
        weights = np.array([preference.get(name, 0.0) for name in OBJECTIVES])
        weights = weights / weights.sum()
        # A model that leaves a class out entirely has no gap in it, and is of no use.
        forgets = (self.recalls_ == 0) & (self.recalls_[path.plain] > 0)
        open_ = [
            p
            for p in path.points
            if p.index == path.plain
            or (p.candidate.segment == "path" and not bool(forgets[p.index].any()))
        ]
        losses = self.losses()[[p.index for p in open_]]
        best = nearest(losses, weights)
        figures = zip(("errors", "balanced error", "largest gap"), losses[best], strict=True)
        return Choice(
            open_[best],
            f"on the Pareto front, the nearest to the preference {dict(preference)} (held-out "
            f"rows: {', '.join(f'{name} {value:.3f}' for name, value in figures)})",
        )

    # -- memory -----------------------------------------------------------------------------

    def save(self, folder: str | FilePath) -> None:
        """Write the estimator with all rounds: safetensors and JSON, no pickle."""
        state = state_of(self)
        ensembles = {
            segment: [
                [t.nodes, t.threshold, t.weight, t.n_classes] for t in self._trees.of(segment)
            ]
            for segment in SEGMENTS
        }
        save_state(
            folder,
            state
            | {"kind": KIND, "ensembles": ensembles}
            | {"recalls": self.recalls_, "shares": self._shares},
        )

    @staticmethod
    def load(folder: str | FilePath) -> MMMFair:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, StoreError
            If there is nothing, or not what was written.
        """
        from fairmt.data import Schema

        state = load_state(folder)
        if state.get("kind") != KIND:
            raise StoreError(f"'{folder}' holds no saved MMMFair.")
        schema = Schema.from_dict(state["schema"])
        found = MMMFair(**{"tasks": schema.tasks} | state["parameters"])
        layout, groups = Layout(schema.tasks), schema.groups
        found.schema_, found._layout, found._groups = schema, layout, groups
        found.model_ = BoostedTrees(  # type: ignore[assignment]
            layout, {s: [Trees(*t) for t in trees] for s, trees in state["ensembles"].items()}
        )
        found.pretrained_, found.repairs_ = None, []
        found.ledger_ = Ledger(layout, state["notions"])
        candidates = [Candidate.from_state(c) for c in state["candidates"]]
        found.path_ = Path(found.ledger_, groups, candidates, state["rows"])
        found.recalls_, found._shares = state["recalls"], state["shares"]
        point = found.path_.points[state["chosen"]]
        found.choice_ = Choice(point, state["reason"], state["reached"])
        found.proxies_ = state["proxies"]
        found._use(point.candidate)
        found._single, found._label_types = state["single"], state["label_types"]
        found.n_features_in_ = state["n_features_in"]
        if state["names_in"] is not None:
            found.feature_names_in_ = np.asarray(state["names_in"], dtype=object)
        return found


class _Sides:
    """Everybody's recalls on one set of rows: of classes, and of both sides of every label.

    Attributes
    ----------
    shares : Tensor (sides,), the share of each among the rows with the target's label.
    """

    def __init__(self, layout: Layout, table: Any) -> None:
        self._layout, self._targets = layout, targets_of(layout)
        observed, actual = truths(layout, table.labels, torch.float64)
        self._member = self._by_side(actual, observed - actual)
        if table.weights is not None:
            self._member = self._member * table.weights[:, None]
        self._mass = self._member.sum(0)
        self.shares = torch.cat(
            [m / m.sum() for m in self._mass.split([t.n_classes for t in self._targets])]
        )

    def _by_side(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Of classes each output, of a label the negative side and the positive one."""
        parts = []
        for target in self._targets:
            is_label = target.outputs.stop - target.outputs.start == 1
            parts += [negative[:, target.outputs]] if is_label else []
            parts.append(positive[:, target.outputs])
        return torch.cat(parts, 1)

    def recalls(self, outputs: Tensor) -> Tensor:
        """Recall (sides,) of the decisions that follow from outputs; NaN where nobody is."""
        given = decide(self._layout, outputs.double())
        return (self._member * self._by_side(given, 1 - given)).sum(0) / self._mass


def _mean_of_tasks(names: Sequence[str], values: Sequence[Tensor]) -> Tensor:
    """The mean over tasks of the mean over their targets."""
    found = [
        torch.stack([v for n, v in zip(names, values, strict=True) if n == name]).mean(0)
        for name in dict.fromkeys(names)
    ]
    return torch.stack(found).mean(0)
