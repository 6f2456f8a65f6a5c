"""Correlation penalty: scores should not be linearly related to membership."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fairmt.groups import Groups
from fairmt.measures import safe
from fairmt.methods.scores import ScorePenalty
from fairmt.tasks import Layout, Task
from fairmt.truths import truths


class Correlation(ScorePenalty):
    """``d(g, others) = r²``, of score and the group's indicator, a mean over the task's outputs.

    r² is the share of the score's variance that the group explains, a difference of means that no
    shrinking of the scores can lower. Beutel et al. (2019) penalise the absolute correlation; ours
    is squared, for any number of groups.

    With ``partial=True`` both are first cleared of the output's own label by linear regression,
    in closed form from second moments: the groups may then differ as far as their labels do. This
    sees labelled rows only. Of several classes each is cleared of its own indicator alone.

    Parameters
    ----------
    strength : float
        λ. Small groups explain little variance: raise it for them.
    partial : bool
    """

    name: ClassVar[str] = "correlation"
    summary: ClassVar[str] = "penalises the squared correlation of scores and groups"
    source: ClassVar[str] = "after Beutel et al. (AIES 2019)"
    limits: ClassVar[str] = "sees differences of means alone; a group weighs by its share"

    def __init__(
        self,
        encoder: nn.Module | None = None,
        heads: nn.Module | Mapping[str, nn.Module] | None = None,
        tasks: Sequence[Task] | Layout | None = None,
        groups: Groups | None = None,
        *,
        strength: float = 1.0,
        partial: bool = False,
    ) -> None:
        self.partial = partial
        super().__init__(encoder, heads, tasks, groups, strength=strength)

    def distances(self, scores: Tensor, own: Tensor, others: Tensor, labels: Tensor) -> Tensor:
        everyone = torch.ones_like(scores)
        observed, y = everyone, None
        if self.partial:
            observed, y = truths(self.layout, labels, scores.dtype)
        known = own + others

        def total(column: Tensor, weights: Tensor) -> Tensor:
            return self.reduce((observed * column).T @ weights)

        n = total(everyone, known)
        share = total(everyone, own) / safe(n)

        def covariance(a: Tensor, b: Tensor) -> Tensor:
            mean_a, mean_b = total(a, known) / safe(n), total(b, known) / safe(n)
            return total(a * b, known) / safe(n) - mean_a * mean_b

        def with_group(a: Tensor) -> Tensor:
            return total(a, own) / safe(n) - share * total(a, known) / safe(n)

        # A common shift changes nothing but the digits that the differences keep.
        mean = self.reduce(scores.detach().sum(0)) / self.reduce(everyone.sum(0))
        s = scores - mean
        cross, of_score, of_group = with_group(s), covariance(s, s), share * (1 - share)
        if y is not None:
            of_label = safe(covariance(y, y))
            score_label, group_label = covariance(s, y), with_group(y)
            cross = cross - score_label * group_label / of_label
            of_score = of_score - score_label**2 / of_label
            of_group = of_group - group_label**2 / of_label
        return self.mean_of_task(cross**2 / safe(of_score * of_group))
