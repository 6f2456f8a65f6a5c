"""Task losses together with their derivatives by the outputs, in closed form.

The same losses as `fairmt.tasks.Losses` gives, for methods that start from gradients at the
outputs. All tasks share one pass over the (B, n_outputs) matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmt.constants import Constant
from fairmt.distributed import all_sum, joint, world_size
from fairmt.losses import Losses
from fairmt.measures import safe
from fairmt.tasks import Detection, Family, Layout, Regression


class LossGradients:
    """``(losses (T,), derivatives (B, n_outputs))`` from fused outputs and what labels say.

    Every output belongs to one task; its derivative is that of this task's loss.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        owner = layout.task_of_output()
        fused = [task for family in layout.families for task in family.tasks]
        # The class columns of a row count as one entry.
        share = [
            1 / t.n_outputs if t.kind == "classification" else 1.0 for t in fused for _ in t.outputs
        ]
        self._owner, self._share = Constant(owner), Constant(share)
        self._weighted = any(t.output_weights for t in fused)
        weights = [w for t in fused for w in (t.output_weights or (1.0,) * t.n_outputs)]
        positive = [
            p
            for t in fused
            for p in ((isinstance(t, Detection) and t.positive_weights) or (1.0,) * t.n_outputs)
        ]
        self._output_weights, self._positive = Constant(weights), Constant(positive)
        self._any_positive = any(p != 1.0 for p in positive)
        # Concordance is no mean over rows: its derivative is left to autograd.
        self._recorded = [
            (f, Losses(Layout(f.tasks))) for f in layout.families if _loss_of(f) == "ccc"
        ]

    def __call__(
        self,
        outputs: Tensor,
        labels: Tensor,
        truths: tuple[Tensor, Tensor],
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Losses over all processes' rows, and what this process has in their derivative.

        As in `fairmt.distributed.joint`, the derivative is R times that of this process's part.

        Parameters
        ----------
        outputs : without a graph; the derivative is part of the answer.
        truths : observed and actual (B, n_outputs), see `fairmt.truths.truths`.
        """
        layout = self.layout
        observed, actual = truths
        losses, slopes = torch.empty_like(outputs), torch.empty_like(outputs)
        for parts in zip(
            layout.families, *map(layout.by_family, (outputs, actual, losses, slopes)), strict=True
        ):
            self._fill(*parts)
        entries = self._entries(observed, actual, weights)
        owner = self._owner.on(outputs.device)
        sums = torch.stack([(entries * losses).sum(0), entries.sum(0) * self._share.like(outputs)])
        by_task = sums.new_zeros(2, len(layout.tasks)).index_add_(1, owner, sums)
        numerator, denominator = all_sum(by_task)
        denominator = safe(denominator)
        slopes *= entries
        slopes *= (world_size() / denominator).index_select(0, owner)
        found = numerator / denominator
        for family, recorded in self._recorded:
            own = outputs[:, family.outputs].detach().requires_grad_()
            with torch.enable_grad():
                loss = recorded(own, labels[:, family.labels], weights, joint)
                (slope,) = torch.autograd.grad(loss.sum(), own)
            slopes[:, family.outputs] = slope
            found[list(family.task_index)] = loss.detach()
        return found, slopes

    def _fill(self, family: Family, o: Tensor, actual: Tensor, loss: Tensor, slope: Tensor) -> None:
        """Loss and slope of every entry, as if all were observed."""
        if family.kind == "classification":
            shape = (len(o), len(family.tasks), family.tasks[0].n_outputs)
            o, a = o.view(shape), actual.view(shape)
            log_p = (o - o.amax(2, keepdim=True)).clamp_(min=torch.finfo(o.dtype).min)
            p = log_p.exp()
            total = p.sum(2, keepdim=True)
            torch.div(p, total, out=slope.view(shape)).sub_(a)
            torch.mul(total.log_() - log_p, a, out=loss.view(shape))
        elif family.kind == "detection":
            # log(1 + exp(o)), and beyond 50 o, which is the same in double precision.
            rest = F.softplus(o, threshold=50.0)
            if self._any_positive:
                positive = self._positive.like(o)[family.outputs] * actual
                negative = 1 - actual
                torch.sub((positive + negative) * rest, positive * o, out=loss)
                torch.sub((positive + negative) * torch.sigmoid(o), positive, out=slope)
            else:
                torch.addcmul(rest, o, actual, value=-1, out=loss)
                torch.sub(torch.sigmoid(o), actual, out=slope)
        elif _loss_of(family) == "mse":
            torch.sub(o, actual, out=slope)
            torch.mul(slope, slope, out=loss)
            slope *= 2
        elif _loss_of(family) == "huber":
            loss.copy_(F.huber_loss(o, actual, reduction="none"))
            torch.sub(o, actual, out=slope).clamp_(-1, 1)
        else:
            loss.zero_()
            slope.zero_()

    def _entries(self, observed: Tensor, actual: Tensor, weights: Tensor | None) -> Tensor:
        """Weight of every row and output in the mean, 0 where the label is missing."""
        if weights is not None:
            observed = observed * weights.to(observed.dtype).unsqueeze(1)
        if not self._weighted:
            return observed
        of_output = self._output_weights.like(observed).expand_as(actual)
        if any(family.kind == "classification" for family in self.layout.families):
            of_output = of_output.clone()
            for family in self.layout.families:
                if family.kind == "classification":
                    # A row weighs what its class weighs.
                    shape = (len(family.tasks), family.tasks[0].n_outputs)
                    own = of_output[:, family.outputs].unflatten(1, shape)
                    own.copy_((own * actual[:, family.outputs].unflatten(1, shape)).sum(2, True))
        return observed * of_output


def _loss_of(family: Family) -> str | None:
    task = family.tasks[0]
    return task.loss if isinstance(task, Regression) else None
