"""A margin loss over some or all classes, and its gradients, without the (B, C) cosines."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from landmark.head.blocks import Others
from landmark.head.group import Alone
from landmark.loss.margin import MarginLoss


@dataclass(frozen=True)
class Classes:
    """The classes of the softmax that this process looks at.

    Attributes:
        loss: holds this process's centres as `weight`.
        group: the processes that have the other classes.
        first: class of the first row of `weight`.
        chosen: rows of classes in `weight`, ascending, (n,); None: all of them.
        block: classes looked at in one go.
    """

    loss: MarginLoss
    group: Alone
    first: int
    chosen: Tensor | None
    block: int

    def of_all_processes(self) -> int:
        """Number of classes in the softmax."""
        if self.chosen is None:
            return self.loss.num_classes
        return int(self.group.total(self.chosen.new_tensor(len(self.chosen))))

    def columns(self, labels: Tensor) -> Tensor:
        """Place of each label among this process's classes, -1 where it is none of them."""
        rows = labels - self.first
        here = (rows >= 0) & (rows < len(self.loss.weight) // self.loss.sub_centres)
        if self.chosen is not None:  # every label's class is chosen
            rows = torch.searchsorted(self.chosen, rows)
        return torch.where(here, rows, -1)

    def rows(self) -> Tensor | None:
        """Rows of `weight` that are looked at, (n · K,); None: all of them."""
        if self.chosen is None or self.loss.sub_centres == 1:
            return self.chosen
        within = torch.arange(self.loss.sub_centres, device=self.chosen.device)
        return (self.chosen[:, None] * self.loss.sub_centres + within).flatten()


def photo_losses(classes: Classes, embeddings: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each of this process's photos over the classes of all processes.

    The gradient of `weight` is the mean over the processes of those that their losses give, as DDP
    would make it; where only some classes are chosen it is a sparse tensor.

    Args:
        classes: what of the softmax this process computes.
        embeddings: (B, D), float32 or wider.
        lengths: of the embeddings, (B,).
        labels: (B,).

    Returns:
        (B,).
    """
    weight = classes.loss.weight
    dtype = torch.promote_types(embeddings.dtype, weight.dtype)
    unit = functional.normalize(embeddings.to(dtype))
    return _Blockwise.apply(classes, unit, lengths.to(dtype), weight, labels)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        classes: Classes,
        unit: Tensor,
        lengths: Tensor,
        weight: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """The loss of each photo."""
        loss, group = classes.loss, classes.group
        rows = classes.rows()
        centres = weight.detach() if rows is None else weight.detach()[rows]
        units, columns = group.gather(unit), classes.columns(group.gather(labels))
        own = _Own(units, centres, columns, loss.sub_centres)
        with torch.enable_grad():
            cosine = group.mine(group.total(own.cosine)).detach().requires_grad_()
            lengths = lengths.detach().requires_grad_()
            target = loss.with_margin(cosine, labels, lengths)
        targets = group.gather(target.detach())
        others = Others(loss, units, centres, columns, targets, classes.block)
        log_sums, logits_sum, centre_lengths = others.forward(loss.label_smoothing > 0)

        parts = group.gather(log_sums[None])  # (processes, processes · B)
        logit = target.detach() * loss.scale
        log_sum = torch.logaddexp(group.mine(parts.logsumexp(0)), logit)
        losses = log_sum - (1 - loss.label_smoothing) * logit
        share = 0.0
        if loss.label_smoothing:
            share = loss.label_smoothing / classes.of_all_processes()
            losses = losses - share * (group.mine(group.total(logits_sum)) + logit)

        ctx.classes, ctx.rows, ctx.own, ctx.share = classes, rows, own, share
        ctx.margin = (cosine, lengths, target)
        ctx.save_for_backward(units, weight, None if rows is None else centres)
        ctx.state = (columns, targets, centre_lengths, logit, log_sum)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """The gradients of embeddings, lengths and centres."""
        classes, rows, own, share = ctx.classes, ctx.rows, ctx.own, ctx.share
        loss, group = classes.loss, classes.group
        units, weight, centres = ctx.saved_tensors
        centres = weight.detach() if centres is None else centres
        columns, targets, centre_lengths, logit, log_sum = ctx.state
        with torch.autocast(units.device.type, enabled=False):
            others = Others(loss, units, centres, columns, targets, classes.block)
            of_centres = torch.empty_like(centres)
            of_units, of_targets = others.backward(
                centre_lengths, group.gather(log_sum), group.gather(gradient), share, of_centres
            )
            own_class = (logit - log_sum).exp() - (1 - loss.label_smoothing) - share
            of_target = gradient * loss.scale * own_class
            if not loss.others_stay:
                of_target = of_target + group.mine(group.total(of_targets))
            cosine, lengths, target = ctx.margin
            of_cosine, of_lengths = torch.autograd.grad(
                target,
                (cosine, lengths),
                of_target,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            own.backward(group.gather(of_cosine), of_units, of_centres)
            of_unit = group.mine(group.total(of_units))
            if group.count > 1:
                of_centres /= group.count
        if rows is not None:
            of_centres = torch.sparse_coo_tensor(
                rows[None], of_centres, weight.shape, check_invariants=False, is_coalesced=True
            )
        return None, of_unit, of_lengths, of_centres, None


class _Own:
    """The photos' own classes among this process's: their cosines, and the way back.

    Attributes:
        cosine: to the nearest centre of the own class, (B,); 0 where the class is elsewhere.
    """

    def __init__(self, unit: Tensor, centres: Tensor, columns: Tensor, sub_centres: int) -> None:
        self._unit = unit
        self._here = columns >= 0
        within = torch.arange(sub_centres, device=columns.device)
        self._rows = columns.clamp(min=0)[:, None] * sub_centres + within  # (B, K)
        # A process without any class has no row to look at.
        found = centres[self._rows] if len(centres) else unit.new_zeros(*self._rows.shape, 1)
        found = found.to(unit.dtype)
        self._lengths = found.norm(dim=2).clamp(min=1e-12)
        self._directions = found / self._lengths[..., None]  # (B, K, D)
        self._cosines = (self._directions * unit[:, None]).sum(2)
        self.cosine = torch.where(self._here, self._cosines.amax(1), 0)

    def backward(self, gradient: Tensor, of_unit: Tensor, of_centres: Tensor) -> None:
        """Adds to the gradients of unit embeddings and centres what `gradient` (B,) makes."""
        if not len(of_centres):
            return
        nearest = (self._cosines == self._cosines.amax(1, keepdim=True)).to(gradient.dtype)
        slopes = nearest * (torch.where(self._here, gradient, 0) / nearest.sum(1))[:, None]
        of_unit += (slopes[..., None] * self._directions).sum(1)
        turned = self._unit[:, None] - self._cosines[..., None] * self._directions
        turned *= (slopes / self._lengths)[..., None]
        of_centres.index_add_(0, self._rows.flatten(), turned.flatten(0, 1).to(of_centres.dtype))
