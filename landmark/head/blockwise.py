"""A margin loss over some or all classes, and its gradients, without the (B, C) cosines."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from landmark.head.class_shard import ClassShard
from landmark.head.gradient import gradient_memory
from landmark.head.negatives import MIN_NORM, NegativeLogits


def photo_losses(shard: ClassShard, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross entropy of this process's photos over the classes of all ranks.

    The gradient of `weight` is the mean over the ranks of the gradients of their losses, as DDP
    would average it; it is a sparse tensor if the classes are sampled.

    Args:
        shard: The classes that this process computes.
        embeddings: (B, D), float32 or wider.
        norms: Norms of the embeddings, (B,).
        labels: (B,).

    Returns:
        (B,).
    """
    weight = shard.loss.weight
    dtype = torch.promote_types(embeddings.dtype, weight.dtype)
    unit = functional.normalize(embeddings.to(dtype))
    return _Blockwise.apply(shard, unit, norms.to(dtype), weight, labels)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        shard: ClassShard,
        unit: Tensor,
        norms: Tensor,
        weight: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Compute the loss of each photo."""
        loss, rows = shard.loss, shard.rows()
        centres = weight.detach() if rows is None else weight.detach()[rows]
        units, columns = shard.gather(unit), shard.columns(shard.gather(labels))
        target_logit = TargetLogit(units, centres, columns, loss.sub_centres)
        with torch.enable_grad():
            cosine = shard.own(shard.total(target_logit.cosine)).detach().requires_grad_()
            norms = norms.detach().requires_grad_()
            target = loss.target_margin(cosine, labels, norms)
        targets = shard.gather(target.detach())
        negatives = NegativeLogits(loss, units, centres, columns, targets, shard.block_size)
        with shard.products():
            log_sums, logits_sum, centre_norms = negatives.forward(loss.label_smoothing > 0)

        parts = shard.gather(log_sums[None])  # (ranks, ranks · B)
        logit = target.detach() * loss.scale
        log_sum = torch.logaddexp(shard.own(parts.logsumexp(0)), logit)
        losses = log_sum - (1 - loss.label_smoothing) * logit
        smoothing: float | Tensor = 0.0
        if loss.label_smoothing:
            smoothing = shard.smoothing()
            losses = losses - smoothing * (shard.own(shard.total(logits_sum)) + logit)

        ctx.shard, ctx.rows, ctx.smoothing = shard, rows, smoothing
        ctx.target_logit = target_logit
        ctx.margin = (cosine, norms, target)
        ctx.save_for_backward(units, weight, None if rows is None else centres)
        ctx.state = (columns, targets, centre_norms, logit, log_sum)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """Compute the gradients of embeddings, norms and centres."""
        shard, rows, smoothing = ctx.shard, ctx.rows, ctx.smoothing
        loss = shard.loss
        units, weight, centres = ctx.saved_tensors
        centres = weight.detach() if centres is None else centres
        columns, targets, centre_norms, logit, log_sum = ctx.state
        with torch.autocast(units.device.type, enabled=False):
            negatives = NegativeLogits(loss, units, centres, columns, targets, shard.block_size)
            centres_grad = gradient_memory(loss, centres)
            log_sums, gradients = shard.gather(log_sum), shard.gather(gradient)
            with shard.products():
                units_grad, targets_grad = negatives.backward(
                    centre_norms, log_sums, gradients, smoothing, centres_grad
                )
            logit_grad = (logit - log_sum).exp() - (1 - loss.label_smoothing) - smoothing
            target_grad = gradient * loss.scale * logit_grad
            if loss.changes_negatives:
                target_grad = target_grad + shard.own(shard.total(targets_grad))
            cosine, norms, target = ctx.margin
            cosine_grad, norms_grad = torch.autograd.grad(
                target,
                (cosine, norms),
                target_grad,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            ctx.target_logit.backward(shard.gather(cosine_grad), units_grad, centres_grad)
            unit_grad = shard.own(shard.total(units_grad))
            if shard.ranks > 1:
                centres_grad /= shard.ranks
        if rows is not None:
            centres_grad = torch.sparse_coo_tensor(
                rows[None], centres_grad, weight.shape, check_invariants=False, is_coalesced=True
            )
        return None, unit_grad, norms_grad, centres_grad, None


class TargetLogit:
    """The cosines of photos to their own classes, and the backward pass of this rank's classes.

    Attributes:
        cosine: Cosine to the nearest centre of the own class, (B,); 0 for classes of other ranks.
    """

    def __init__(self, unit: Tensor, centres: Tensor, columns: Tensor, sub_centres: int) -> None:
        self._unit = unit
        self._is_local = columns >= 0
        within = torch.arange(sub_centres, device=columns.device)
        self._rows = columns.clamp(min=0)[:, None] * sub_centres + within  # (B, K)
        # A process without classes has no row to read.
        own = centres[self._rows] if len(centres) else unit.new_zeros(*self._rows.shape, 1)
        own = own.to(unit.dtype)
        self._norms = own.norm(dim=2).clamp(min=MIN_NORM)
        self._directions = own / self._norms[..., None]  # (B, K, D)
        self._cosines = (self._directions * unit[:, None]).sum(2)
        self.cosine = torch.where(self._is_local, self._cosines.amax(1), 0)

    def backward(self, gradient: Tensor, unit_grad: Tensor, centres_grad: Tensor) -> None:
        """Add the effect of `gradient` (B,) to the gradients of unit embeddings and centres."""
        if not len(centres_grad):
            return
        nearest = (self._cosines == self._cosines.amax(1, keepdim=True)).to(gradient.dtype)
        slopes = nearest * (torch.where(self._is_local, gradient, 0) / nearest.sum(1))[:, None]
        unit_grad += (slopes[..., None] * self._directions).sum(1)
        tangent = self._unit[:, None] - self._cosines[..., None] * self._directions
        tangent *= (slopes / self._norms)[..., None]
        tangent = tangent.flatten(0, 1).to(centres_grad.dtype)
        centres_grad.index_add_(0, self._rows.flatten(), tangent)
