"""The scikit-learn face: fit, choose, predict, audit, save and load."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from fairmt.decisions import Recalibration
from fairmt.decoding import (
    decision_columns,
    label_types,
    prediction_columns,
    probability_frames,
    rule_in_numbers,
)
from fairmt.dual import Ramp
from fairmt.evaluator import PathEvaluator
from fairmt.learner_state import restored, state_of
from fairmt.ledger import Ledger
from fairmt.methods import FairMT, PostProcessing, StepMethod, method
from fairmt.models import Frozen, LinearHeads, MultiTask, encoder_for
from fairmt.notions import DEFAULT_NOTIONS, NotionSpec, resolve_notions
from fairmt.path import (
    Candidate,
    Choice,
    Path,
    check_wish,
    judge,
    predict_outputs,
)
from fairmt.recipe import Recipe, pretraining_of, recipe
from fairmt.sampling import Source, TableSource
from fairmt.store import load_state, save_state
from fairmt.tasks import Layout, Task
from fairmt.trainer import Segment, Trainer

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "calibration", "validation")
CANDIDATES = 24
"""Candidates of a path, at least, where its epochs have as many steps."""
GROWTH = 1.2
"""More of them where λ would grow by more than this factor from one to the next."""
STEPS = 800
"""Optimiser steps of the warm-up, and of the path, where epochs are not given."""


def _has_probabilities(learner: FairMTLearner) -> bool:
    """Regression alone has none; before fitting nobody knows."""
    layout = getattr(learner, "_layout", None)
    return layout is None or any(t.kind != "regression" for t in layout.tasks)


class FairMTLearner(BaseEstimator):
    """One fair model for several outcomes.

    Parameters
    ----------
    tasks : sequence of Task, or of strings 'name:kind' or 'name:kind:column,column'
        What to predict. None: one task per column of `y`, its kind read off the values.
    sensitive : sequence of str
        Sensitive attributes, when `fit` is given one frame. Numeric ones are cut into `bins`.
    method : str
        'fairmt', 'symmetric', 'plain', …; `fairmt methods` lists them. One that pre-trains stands
        before plain training; one that post-processes follows it, at several strengths, and needs
        the sensitive attributes at prediction.
    pretraining : str or mapping, optional
        A method of that kind to make the encoder, by name, or with its settings beside 'name'.
    postprocessing : str or mapping, optional
        A method of that kind, likewise by name or with its settings: every candidate of the path
        is joined by a half and a wholly repaired one, which need the attributes at prediction.
    notion : see `fairmt.notions.resolve_notions`.
    tolerance, utility_budget, strength : float, at most one
        How the candidate is chosen from the path, see `Path.choose`; none: ``utility_budget=0.01``.
    epochs, path_epochs : int, optional
        Warm-up without the constraint, at most, and the path after it (the plain reference is
        trained on for as long). Default: as many as make `STEPS` steps, from 6 to 40.
    encoder : 'mlp' or 'attention' (features look at each other), for the columns of the table;
        texts and pictures have encoders of their own, see `fairmt.models.encoder_for`.
    widths, dropout : shape of the encoder.
    batch_size, learning_rate, patience, precision, accelerator, devices
        See `fairmt.trainer.Trainer`; `patience` ends the warm-up early.
    controller : 'path' or 'dual'
        What moves λ after the warm-up: 'path' raises it through `strengths`, so that the whole
        trade-off is seen; 'dual' looks for the λ that `tolerance` needs, driven by hard decisions
        on calibration rows, and says what binds where that is out of reach (`binding_`).
    strengths : (float, float), optional
        λ at the start and at the end of the path. None: the method's own, see
        `StepMethod.strengths`.
    floors : float, optional
        Do no harm: no group's benefit shall fall below the plain model's by more than this.
    balance : float
        Small groups are drawn as if they had this share of the rows, weights back; 0 is off.
    attributes_as_inputs : bool
        Whether the model may use the sensitive attributes themselves. Prediction then needs them.
    features, drop, bins, depth, weight, split_by
        See `fairmt.data.Schema.infer`.
    recalibration : bool
        Refit scale and shift of the probabilities on calibration rows, blind to groups.
    continuous : sequence of str
        Numeric sensitive attributes that the method shall use as numbers, if it can; to judge,
        they are cut into bands all the same.
    options : mapping
        Further arguments of the method.
    seed : int
        Of weights, order and split.
    checkpoint : path
        Folder from which an interrupted fit goes on.

    Attributes
    ----------
    schema_, model_ : the encoding of tables, and the network.
    path_ : Path, all candidates with their place on the trade-off.
    choice_ : the candidate in force, and why.
    repairs_ : list of fitted post-processings, which candidates name by their position.
    binding_ : with the dual, the entries that press hardest, as last seen on calibration rows.
    proxies_ : how well the inputs give each attribute away, .5 (not at all) to 1 (wholly).
    """

    def __init__(
        self,
        tasks: Sequence[Task | str] | None = None,
        sensitive: Sequence[str] = (),
        *,
        method: str = "fairmt",
        pretraining: str | Mapping[str, Any] | None = None,
        postprocessing: str | Mapping[str, Any] | None = None,
        notion: NotionSpec = "default",
        tolerance: float | None = None,
        utility_budget: float | None = None,
        strength: float | None = None,
        epochs: int | None = None,
        path_epochs: int | None = None,
        encoder: str = "mlp",
        widths: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        patience: int | None = 3,
        controller: str = "path",
        strengths: tuple[float, float] | None = None,
        floors: float | None = None,
        balance: float = 0.0,
        attributes_as_inputs: bool = False,
        features: Sequence[str] | Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        bins: Mapping[str, Sequence[float]] | None = None,
        depth: int = 1,
        weight: str | None = None,
        split_by: str | None = None,
        recalibration: bool = False,
        continuous: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        precision: str = "32-true",
        accelerator: str = "cpu",
        devices: int = 1,
        seed: int = 0,
        checkpoint: str | FilePath | None = None,
        progress: bool = False,
    ) -> None:
        self.tasks = tasks
        self.sensitive = sensitive
        self.method = method
        self.pretraining = pretraining
        self.postprocessing = postprocessing
        self.notion = notion
        self.tolerance = tolerance
        self.utility_budget = utility_budget
        self.strength = strength
        self.epochs = epochs
        self.path_epochs = path_epochs
        self.encoder = encoder
        self.widths = widths
        self.dropout = dropout
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.controller = controller
        self.strengths = strengths
        self.floors = floors
        self.balance = balance
        self.attributes_as_inputs = attributes_as_inputs
        self.features = features
        self.drop = drop
        self.bins = bins
        self.depth = depth
        self.weight = weight
        self.split_by = split_by
        self.recalibration = recalibration
        self.continuous = continuous
        self.options = options
        self.precision = precision
        self.accelerator = accelerator
        self.devices = devices
        self.seed = seed
        self.checkpoint = checkpoint
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    # -- fitting ----------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sensitive_features: Any = None,
        sample_weight: Any = None,
        groups: Any = None,
        parts: Mapping[str, np.ndarray] | None = None,
    ) -> FairMTLearner:
        """Train the plain reference and the path, and choose a candidate.

        Parameters
        ----------
        X : frame or array (N, D); with `y` left out, one frame that holds labels and attributes,
            or a `ParquetTable`, whose rows are streamed and whose own parts are used.
        y : frame, mapping of task or column name to array, or array (N,) or (N, K).
        sensitive_features : frame, mapping or array (N,) or (N, A).
        sample_weight : array (N,).
        groups : array (N,), the unit (household, patient) that a split must not tear apart.
        parts : mapping with row positions for 'train', 'calibration' and 'validation'; default:
            a split of all rows in shares .75, .10 and .15.

        Raises
        ------
        ValueError
            For unusable input; the message names the column, row, argument or group.
        """
        from fairmt.data import ParquetTable, Schema, check_leakage, split
        from fairmt.frames import assemble, checked_parts

        if isinstance(X, ParquetTable):
            given = {"y": y, "sensitive_features": sensitive_features, "parts": parts}
            return self._fit_stream(X, given | {"sample_weight": sample_weight, "groups": groups})
        table = assemble(self, X, y, sensitive_features, sample_weight, groups)
        if parts is None:
            unit = None if table.split_by is None else table.frame[table.split_by].to_numpy()
            parts = split(table.frame, fractions=(0.75, 0.10, 0.15, 0.0), unit=unit, seed=self.seed)
        parts = checked_parts(parts, PARTS, len(table.frame))
        frames = {part: table.frame.iloc[parts[part]] for part in PARTS}
        schema = Schema.infer(
            frames["train"],
            table.tasks,
            table.sensitive,
            features=table.features,
            drop=self.drop,
            weight=table.weight,
            split_by=table.split_by,
            bins=self.bins,
            depth=self.depth,
            attributes_as_inputs=self.attributes_as_inputs,
            continuous=self.continuous,
        )
        check_leakage(frames["train"], schema.tasks, schema.table_features)
        tables = {part: schema.encode(frame) for part, frame in frames.items()}
        self._fit(schema, tables)
        self.n_features_in_ = table.n_features
        if table.names_in is not None:
            self.feature_names_in_ = np.asarray(table.names_in, dtype=object)
        self._single = table.single
        self._label_types = label_types(table.frame, schema.tasks)
        return self

    def _fit_stream(self, table: Any, given: Mapping[str, Any]) -> FairMTLearner:
        from fairmt.data import check_leakage
        from fairmt.streaming import open_stream

        stream = open_stream(self, table, given)
        check_leakage(stream.sample, stream.schema.tasks, stream.schema.table_features)
        self._fit(stream.schema, stream.tables, stream.source)
        self.n_features_in_ = len(stream.schema.feature_names)
        self.feature_names_in_ = np.asarray(stream.schema.feature_names, dtype=object)
        self._single = False
        self._label_types = {}
        return self

    def _fit(self, schema: Any, tables: Mapping[str, Any], source: Source | None = None) -> None:
        """Train on encoded tables; with a source of batches, 'train' is a sample of its rows."""
        wish = dict.fromkeys(("tolerance", "utility_budget", "strength")) | self._wish()
        check_wish(**wish)
        torch.manual_seed(self.seed)
        layout, groups = Layout(schema.tasks), schema.groups
        self.schema_, self._layout, self._groups = schema, layout, groups
        found = recipe(
            self.method,
            self.options,
            self.pretraining,
            self.postprocessing,
            self._constraint(),
            schema,
        )
        step = self._prepare(found, schema, tables["train"])
        self.ledger_ = Ledger(layout, self._judged(layout))
        calibration, validation = tables["calibration"], tables["validation"]
        needed = self.recalibration or self.floors is not None or found.after is not None
        if self.controller == "path" and not needed:
            # Nothing else needs the calibration rows, and the choice is the surer with them.
            validation = validation.join(calibration)
        evaluator = PathEvaluator(
            self.ledger_,
            groups,
            validation,
            self.seed,
            calibration if self.recalibration else None,
        )
        trainer = Trainer(
            learning_rate=self.learning_rate,
            precision=self.precision,
            accelerator=self.accelerator,
            devices=self.devices,
            seed=self.seed,
            checkpoint=self.checkpoint,
            progress=self.progress,
        )
        if source is not None and isinstance(step, FairMT):
            step.epoch_rows = source.n_batches * self.batch_size
        if source is None:
            source = TableSource(tables["train"], self.batch_size, self.seed, self.balance, groups)
        trainer.fit(
            step,
            source,
            self._segments(step, source.n_batches, calibration),
            evaluator=evaluator,
            calibration=calibration.batches if self.controller == "dual" else None,
        )
        self.model_ = step.model
        self.repairs_: list[PostProcessing] = []
        if found.after is not None:
            self.repairs_ = evaluator.repair(found.after, self.model_, calibration)
        rows = groups.membership(validation.attributes)[:, 1:].sum(0)
        self.path_ = Path(self.ledger_, groups, evaluator.candidates, rows)
        self.choose()
        if isinstance(step, FairMT):
            self._tell_what_binds(step)

    def _constraint(self) -> dict[str, Any]:
        """What FairMT and its variants take from the learner."""
        settings: dict[str, Any] = {"notion": self.notion, "strength": 0.0}
        if self.controller == "dual":
            settings["tolerance"] = self.tolerance
        if self.floors is not None:
            settings["floor_slack"] = self.floors
        return settings

    def _prepare(self, found: Recipe, schema: Any, train: Any) -> StepMethod:
        """The step, bound to a new network, whose encoder is trained if that comes first."""
        from fairmt.data import proxy_strength, warn_of_proxies

        step, layout, groups = found.step, Layout(schema.tasks), schema.groups
        continuous = [c.name for c in schema.continuous]
        for part in (found.before, found.after):
            if part is not None:
                part.check(layout, groups, continuous)
        if found.after is not None:
            found.after.check_settings(layout)
        if continuous:
            found.method.check(layout, groups, continuous)
        self._check_settings(step)
        self.pretrained_: dict[str, Any] | None = None
        encoder = encoder_for(schema, self.encoder, self.widths, self.dropout)
        if found.before is not None:
            self.pretrained_ = {"name": found.before.name, **found.before.settings()}
            encoder = found.before.fit(
                encoder,
                train,
                groups,
                seed=self.seed,
                checkpoint=None if self.checkpoint is None else f"{self.checkpoint}-encoder",
                progress=self.progress,
            )
            encoder = Frozen(encoder) if found.before.frozen else encoder
        step.setup(_with_heads(encoder, layout), groups, train)
        self._check_notions(step)
        self.proxies_ = proxy_strength(train.features, train.attributes, groups)
        warn_of_proxies(self.proxies_, schema.attributes_as_inputs)
        return step

    def _segments(self, step: StepMethod, n_batches: int, calibration: Any) -> list[Segment]:
        usual = min(40, max(6, round(STEPS / n_batches)))
        epochs = usual if self.epochs is None else self.epochs
        path_epochs = usual if self.path_epochs is None else self.path_epochs
        warmup = Segment("warmup", epochs, lambda epoch: 0.0, patience=self.patience)
        plain = Segment("plain", path_epochs, lambda epoch: 0.0, start="warmup")
        if step.strength is None:
            return [warmup, plain]
        schedule: Callable[[float], float | None] = _left_to_the_dual
        candidates = CANDIDATES
        if self.controller == "path":
            low, high = self.strengths or step.strengths
            schedule = Ramp(epochs, path_epochs, low, high).strength
            candidates = max(CANDIDATES, round(abs(math.log(high / low)) / math.log(GROWTH)))
        begin = None
        if self.floors is not None and isinstance(step, FairMT):

            def begin(method: Any) -> None:
                method.set_floors(calibration.batches())

        looks = math.ceil(candidates / path_epochs) if path_epochs else 1
        path = Segment("path", path_epochs, schedule, start="warmup", begin=begin, looks=looks)
        return [warmup, plain, path]

    def _network(self, schema: Any) -> MultiTask:
        """An untrained network of the shape that was trained."""
        encoder = encoder_for(schema, self.encoder, self.widths, self.dropout)
        if self.pretrained_ is not None:
            before = pretraining_of(self.pretrained_)
            encoder = before.network(encoder)
            encoder = Frozen(encoder) if before.frozen else encoder
        kind, model = method(self.method), _with_heads(encoder, Layout(schema.tasks))
        return kind.adapt(model) if issubclass(kind, StepMethod) else model

    def _judged(self, layout: Layout) -> dict[str, tuple[str, ...]]:
        """What candidates are judged by: the default notions, and those that are trained."""
        trained = resolve_notions(layout.tasks, self.notion)
        return {
            t.name: tuple(dict.fromkeys(DEFAULT_NOTIONS[t.kind] + trained[t.name]))
            for t in layout.tasks
        }

    def _check_settings(self, step: StepMethod) -> None:
        if self.controller not in ("path", "dual"):
            raise ValueError(f"controller must be 'path' or 'dual'. Found {self.controller!r}.")
        if self.strengths is not None and not min(self.strengths) > 0:
            raise ValueError(f"strengths must be positive. Found {tuple(self.strengths)}.")
        if not isinstance(step, FairMT):
            if self.controller == "dual" or self.floors is not None:
                raise ValueError(
                    f"controller='dual' and floors belong to 'fairmt' and 'symmetric'; method "
                    f"'{self.method}' has neither."
                )
            return
        if self.controller == "dual" and self.tolerance is None:
            raise ValueError("controller='dual' looks for a tolerance; give tolerance=.")

    def _check_notions(self, step: StepMethod) -> None:
        if not isinstance(step, FairMT):
            return
        left_out = [t.name for t in self._layout.tasks if not step.ledger.notions[t.name]]
        if left_out:
            warnings.warn(
                f"Notion {self.notion!r} is not defined for the tasks {left_out}; they carry no "
                "constraint. A mapping gives each task its own, 'default' one to every kind.",
                stacklevel=4,
            )

    def _tell_what_binds(self, step: FairMT) -> None:
        self.binding_ = list(step.binding)
        if step.infeasible:
            pressing = "; ".join(f"{e} ({e.violation:.3f} too low)" for e in self.binding_)
            warnings.warn(
                f"Tolerance {self.tolerance} looks out of reach: the constraint stayed at its "
                f"largest strength with gaps left. What binds: {pressing}. Allow these more, "
                "leave them out, or give the model better features for these groups.",
                stacklevel=4,
            )

    # -- choosing ---------------------------------------------------------------------------

    def choose(
        self,
        *,
        tolerance: float | None = None,
        utility_budget: float | None = None,
        strength: float | None = None,
    ) -> Choice:
        """Choose another candidate of the path, without training again; see `Path.choose`.

        Without an argument the learner's own setting decides.
        """
        wish = {
            "tolerance": tolerance,
            "utility_budget": utility_budget,
            "strength": strength,
        }
        if all(v is None for v in wish.values()):
            wish = self._wish()
        self.choice_ = self.path_.choose(**wish)
        if not self.choice_.reached:
            warnings.warn(self.choice_.reason, stacklevel=2)
        self._use(self.choice_.point.candidate)
        return self.choice_

    def _wish(self) -> dict[str, float | None]:
        """How the learner's settings choose a candidate."""
        words = ("tolerance", "utility_budget", "strength")
        wish = {w: getattr(self, w) for w in words}
        return wish if any(v is not None for v in wish.values()) else {"utility_budget": 0.01}

    def _use(self, candidate: Candidate) -> None:
        self.model_.load_state_dict(candidate.weights)
        self.offsets_ = candidate.offsets
        self.recalibration_: Recalibration | None = candidate.recalibration
        self._repair = candidate.repair
        self._after = self.repairs_[candidate.fitted] if candidate.repair else None

    # -- predicting -------------------------------------------------------------------------

    def outputs(self, X: Any) -> torch.Tensor:
        """Fused outputs (N, n_outputs), recalibrated if that was asked for."""
        check_is_fitted(self, "model_")
        from fairmt.frames import as_features

        frame = as_features(self, X)
        needed = self.schema_.attributes_as_inputs or self._after is not None
        return self._outputs(self.schema_.encode(frame, labels=False, attributes=needed))

    def _outputs(self, table: Any) -> torch.Tensor:
        """Fused outputs on encoded rows, recalibrated or repaired as the candidate in force is."""
        outputs = predict_outputs(self.model_, table.features)
        if self.recalibration_ is not None:
            outputs = self.recalibration_.apply(outputs)
        if self._after is not None:
            outputs = self._after.apply(outputs, table.attributes, self._repair)
        return outputs

    def outputs_of(self, index: int, table: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Fused outputs (N, n_outputs) of a candidate on encoded rows, and its decision rule."""
        check_is_fitted(self, "model_")
        self._use(self.path_.candidates[index])
        found = self._outputs(table), self._rule()
        self._use(self.choice_.point.candidate)
        return found

    def _rule(self) -> torch.Tensor:
        if self.recalibration_ is None:
            return self.offsets_
        return self.recalibration_.carry(self.offsets_)

    def predict(self, X: Any) -> Any:
        """Decisions and values: a frame with a column per task, label or target.

        A learner that was fitted with a plain array `y` (N,) gives an array (N,).
        """
        import pandas as pd

        from fairmt.frames import row_index

        outputs = self.outputs(X)
        columns = decision_columns(self._layout, outputs, self._rule(), self._label_types)
        if self._single and len(columns) == 1:
            return next(iter(columns.values()))
        return pd.DataFrame(columns, index=row_index(X))

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Probabilities of classes and labels, a frame per task (N, K).

        A learner that was fitted with a plain array `y` (N,) gives an array (N, K).
        """
        from fairmt.frames import row_index

        outputs = self.outputs(X)
        frames = probability_frames(self._layout, outputs, row_index(X))
        return next(iter(frames.values())).to_numpy() if self._single else frames

    def predict_table(self, X: Any) -> pd.DataFrame:
        """Everything about every row, in the columns that `fairmt.audit` reads.

        Classification: ``task`` and ``task.CLASS``; detection: ``task.LABEL`` and
        ``task.LABEL.decision``; regression: ``task`` or ``task.COLUMN``.
        """
        import pandas as pd

        from fairmt.frames import row_index

        outputs = self.outputs(X)
        columns = prediction_columns(self._layout, outputs, self._rule(), self._label_types)
        return pd.DataFrame(columns, index=row_index(X))

    def decision_rule(self) -> dict[str, dict[str, float]]:
        """The rule that `predict` follows, in numbers.

        Labels: the probability from which on the answer is yes. Classes: the factor by which each
        probability is multiplied before the largest wins.
        """
        check_is_fitted(self, "model_")
        return rule_in_numbers(self._layout, self._rule())

    def score(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> float:
        """Mean over tasks of macro-F1, mean average precision, or R²: higher is better."""
        from fairmt.frames import labels_of
        from fairmt.metrics import utilities

        headline = {"classification": "macro_f1", "detection": "average_precision"}
        labels = labels_of(self, X, y)
        weights = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight))
        found = utilities(self._layout, self.outputs(X), labels, self._rule(), weights)
        return float(
            np.mean([found[t.name][headline.get(t.kind, "r2")] for t in self._layout.tasks])
        )

    def audit(self, frame: Any, **settings: Any) -> Any:
        """Audit the model on a frame with labels and attributes; see `fairmt.audit`."""
        from fairmt.auditing import from_tensors

        check_is_fitted(self, "model_")
        table = self.schema_.encode(frame)
        return from_tensors(
            self._layout,
            self._groups,
            self._outputs(table),
            table.labels,
            table.attributes,
            weights=table.weights,
            clusters=table.units,
            offsets=self._rule(),
            **settings,
        )

    def moments(self, frame: Any, index: int | None = None) -> Any:
        """Moments of a candidate's decisions on a frame, by default of the one in force."""
        table = self.schema_.encode(frame)
        outputs, rule = self.outputs_of(self.choice_.point.index if index is None else index, table)
        return judge(self.ledger_, self._groups, outputs, table, rule)

    # -- memory -----------------------------------------------------------------------------

    def save(self, folder: str | FilePath) -> None:
        """Write the learner with its whole path: safetensors and JSON, whole or not at all."""
        check_is_fitted(self, "model_")
        save_state(folder, state_of(self))

    @staticmethod
    def load(folder: str | FilePath) -> FairMTLearner:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, StoreError
            If there is nothing, or not what was written.
        """
        return restored(load_state(folder), str(folder))


def _with_heads(encoder: Any, layout: Layout) -> MultiTask:
    return MultiTask(encoder, LinearHeads(encoder.n_features, layout), layout)


def _left_to_the_dual(epoch: float) -> None:
    return None


__all__ = ["FairMTLearner"]
