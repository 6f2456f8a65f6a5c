"""The regularisers of the package fairret, on every class and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fairmt.groups import Groups
from fairmt.ledger import probabilities
from fairmt.methods.base import Batch, StepMethod
from fairmt.models import MultiTask
from fairmt.tasks import Layout, Task
from fairmt.truths import truths

STATISTICS = ("PositiveRate", "TruePositiveRate", "FalsePositiveRate", "PositivePredictiveValue",
              "FalseOmissionRate", "Accuracy", "FalseNegativeFalsePositiveFraction")  # fmt: skip
LOSSES = ("NormLoss", "LSELoss")


class Fairret(StepMethod):
    """``Σ_t w_t L_t + λ mean_c fairret(statistic_c)`` over classes, labels and attributes c.

    fairret compares the statistic of every group with that of everybody, on probabilities:
    ``NormLoss`` is the sum over groups of ``|s_g / s − 1|``, ``LSELoss`` a smooth maximum (Buyl,
    Defrance and De Bie, ICLR 2024), here divided by the number of groups. fairret knows one
    binary outcome; here every class of a classification (of two classes the second) and every
    label is one. Groups without evidence in the batch are left out, rows with missing labels or
    attributes too; sample weights count. Sums are those of a process's own rows.

    fairret's projection losses are not offered: they need cvxpy and batches of one size.

    Parameters
    ----------
    strength : float
        λ.
    statistic : str or sequence of str
        Names of fairret's statistics, see `STATISTICS`; of several the mean is taken.
    loss : str
        'NormLoss' or 'LSELoss'.

    Raises
    ------
    ImportError
        If fairret is absent.
    """

    name: ClassVar[str] = "fairret"
    summary: ClassVar[str] = "regularisers of the package fairret on relative gaps of rates"
    tasks: ClassVar[tuple[str, ...]] = ("classification", "detection")
    claims: ClassVar[tuple[str, ...]] = ("equalized_odds",)
    source: ClassVar[str] = "Buyl, Defrance and De Bie (ICLR 2024); package fairret, MIT"
    limits: ClassVar[str] = "relative gaps: rates near 0 weigh most; small groups are noisy"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        statistic: str | Sequence[str] = ("TruePositiveRate", "FalsePositiveRate"),
        loss: str = "NormLoss",
    ) -> None:
        names = (statistic,) if isinstance(statistic, str) else tuple(statistic)
        unknown = sorted(set(names) - set(STATISTICS))
        if unknown or not names:
            raise ValueError(f"Unknown statistic {unknown}; expected some of {list(STATISTICS)}.")
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {list(LOSSES)}. Found {loss!r}.")
        try:
            import fairret.loss
            import fairret.statistic
        except ImportError as error:
            raise ImportError(
                "Method 'fairret' wraps the package fairret: pip install 'fairmt[fairret]'."
            ) from error
        kind = getattr(fairret.loss, loss)
        self._losses = [kind(getattr(fairret.statistic, name)()) for name in names]
        self._needs_labels = [name != "PositiveRate" for name in names]
        self.strength = strength
        super().__init__(encoder, heads, tasks, groups)

    def setup(self, model: MultiTask, groups: Groups, data: Any = None) -> None:
        super().setup(model, groups, data)
        self._columns = [
            start + k
            for task in self.layout.tasks
            if task.kind in self.tasks
            for start in (self.layout.outputs[task.name].start,)
            for k in range(task.n_outputs)
            if not (task.kind == "classification" and task.n_outputs == 2 and k == 0)
        ]

    def penalty(self, z: Tensor, outputs: Tensor, batch: Batch) -> Tensor | None:
        chance = probabilities(self.layout, outputs)
        observed, actual = truths(self.layout, batch.labels, outputs.dtype)
        member = self.groups.membership(batch.attributes, outputs.dtype)[:, 1:]
        if batch.weights is not None:
            member = member * batch.weights.to(outputs.dtype).unsqueeze(1)
        found = outputs.new_zeros(())
        for partition in self.groups.partitions:
            own = member[:, partition.groups]
            for column in self._columns:
                rows = (observed[:, column] > 0) & (own.sum(1) > 0)
                one = self._one(chance[rows, column, None], own[rows], actual[rows, column, None])
                found = found + one / own.shape[1]
        n = len(self.groups.partitions) * len(self._columns) * len(self._losses)
        return found / n

    def _one(self, chance: Tensor, member: Tensor, actual: Tensor) -> Tensor:
        """Sum over the statistics of one binary outcome under one attribute."""
        total = chance.new_zeros(())
        for loss, needs_labels in zip(self._losses, self._needs_labels, strict=True):
            given = (actual,) if needs_labels else ()
            # fairret compares with everybody, each row once: weights must come in by hand.
            everybody = loss.statistic(chance, member.sum(1, keepdim=True), *given)
            some = loss.statistic.denom(chance, member, *given) > 0
            if int(some.sum()) > 1 and bool(everybody > 0):
                total = total + loss(
                    chance, member[:, some], *given, pred_as_logit=False, target_statistic=everybody
                )
        return total
