"""A margin loss over some or all classes, and its gradients, without the (B, C) cosines."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from landmark import processes
from landmark.head.negatives import NegativeLogits
from landmark.loss.margin import MarginLoss

# Blocks should fit the caches of a CPU; on other devices many small kernels are slow.
_CPU_BLOCK, _DEVICE_BLOCK = 4096, 65_536


@dataclass(frozen=True)
class ClassShard:
    """The classes of the softmax that this process computes.

    Attributes:
        loss: Holds this process's centres as `weight`.
        block: Classes computed at a time. None means 4,096 on the CPU and 65,536 elsewhere.
        first: Class of the first row of `weight`.
        sampled: Classes in this step, counted from `first`, ascending, (n,). None means all.
        is_parallel: Whether the other processes have the other classes, for the photos of all.
    """

    loss: MarginLoss
    block: int | None = None
    first: int = 0
    sampled: Tensor | None = None
    is_parallel: bool = False

    @property
    def block_size(self) -> int:
        """Classes computed at a time."""
        default = _CPU_BLOCK if self.loss.weight.device.type == "cpu" else _DEVICE_BLOCK
        return self.block or default

    @property
    def ranks(self) -> int:
        """Number of processes that share the classes."""
        return processes.rank_and_size()[1] if self.is_parallel else 1

    def smoothing(self) -> float | Tensor:
        """Return the share of the target that label smoothing gives each class of the softmax.

        A tensor where only the ranks together know the number of classes: reading it would stall a
        GPU.
        """
        if self.sampled is None:
            return self.loss.label_smoothing / self.loss.num_classes
        if self.ranks == 1:
            return self.loss.label_smoothing / len(self.sampled)
        count = self.loss.weight.new_tensor(len(self.sampled), dtype=torch.float64)
        return count.new_tensor(self.loss.label_smoothing) / self.total(count)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, …) of all ranks, (ranks · B, …)."""
        return processes.gather(rows) if self.is_parallel else rows

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of values of one shape."""
        return processes.total(values) if self.is_parallel else values

    def own(self, rows: Tensor) -> Tensor:
        """Return this rank's rows (B, …) of gathered ones (ranks · B, …)."""
        if not self.is_parallel:
            return rows
        rank, world_size = processes.rank_and_size()
        return rows.chunk(world_size)[rank]

    def columns(self, labels: Tensor) -> Tensor:
        """Return the index of each label among this process's classes, -1 where it has none."""
        rows = labels - self.first
        is_here = (rows >= 0) & (rows < len(self.loss.weight) // self.loss.sub_centres)
        if self.sampled is not None:  # which includes the class of every label
            rows = torch.searchsorted(self.sampled, rows)
        return torch.where(is_here, rows, -1)

    def rows(self) -> Tensor | None:
        """Return the rows of `weight` in this step, (n · K,). None means all."""
        if self.sampled is None or self.loss.sub_centres == 1:
            return self.sampled
        within = torch.arange(self.loss.sub_centres, device=self.sampled.device)
        return (self.sampled[:, None] * self.loss.sub_centres + within).flatten()


def photo_losses(shard: ClassShard, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross entropy of each of this process's photos over the classes of all ranks.

    The gradient of `weight` is the mean over the ranks of the gradients of their losses, as DDP
    would average it; where only some classes are sampled it is a sparse tensor.

    Args:
        shard: The classes that this process computes.
        embeddings: (B, D), float32 or wider.
        norms: Of the embeddings, (B,).
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
        own = TargetLogit(units, centres, columns, loss.sub_centres)
        with torch.enable_grad():
            cosine = shard.own(shard.total(own.cosine)).detach().requires_grad_()
            norms = norms.detach().requires_grad_()
            target = loss.target_margin(cosine, labels, norms)
        targets = shard.gather(target.detach())
        negatives = NegativeLogits(loss, units, centres, columns, targets, shard.block_size)
        log_sums, logits_sum, centre_norms = negatives.forward(loss.label_smoothing > 0)

        parts = shard.gather(log_sums[None])  # (ranks, ranks · B)
        logit = target.detach() * loss.scale
        log_sum = torch.logaddexp(shard.own(parts.logsumexp(0)), logit)
        losses = log_sum - (1 - loss.label_smoothing) * logit
        smoothing: float | Tensor = 0.0
        if loss.label_smoothing:
            smoothing = shard.smoothing()
            losses = losses - smoothing * (shard.own(shard.total(logits_sum)) + logit)

        ctx.shard, ctx.rows, ctx.own, ctx.smoothing = shard, rows, own, smoothing
        ctx.margin = (cosine, norms, target)
        ctx.save_for_backward(units, weight, None if rows is None else centres)
        ctx.state = (columns, targets, centre_norms, logit, log_sum)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """Compute the gradients of embeddings, norms and centres."""
        shard, rows, own, smoothing = ctx.shard, ctx.rows, ctx.own, ctx.smoothing
        loss = shard.loss
        units, weight, centres = ctx.saved_tensors
        centres = weight.detach() if centres is None else centres
        columns, targets, centre_norms, logit, log_sum = ctx.state
        with torch.autocast(units.device.type, enabled=False):
            negatives = NegativeLogits(loss, units, centres, columns, targets, shard.block_size)
            of_centres = torch.empty_like(centres)
            of_units, of_targets = negatives.backward(
                centre_norms,
                shard.gather(log_sum),
                shard.gather(gradient),
                smoothing,
                of_centres,
            )
            of_logit = (logit - log_sum).exp() - (1 - loss.label_smoothing) - smoothing
            of_target = gradient * loss.scale * of_logit
            if loss.changes_negatives:
                of_target = of_target + shard.own(shard.total(of_targets))
            cosine, norms, target = ctx.margin
            of_cosine, of_norms = torch.autograd.grad(
                target,
                (cosine, norms),
                of_target,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            own.backward(shard.gather(of_cosine), of_units, of_centres)
            of_unit = shard.own(shard.total(of_units))
            if shard.ranks > 1:
                of_centres /= shard.ranks
        if rows is not None:
            of_centres = torch.sparse_coo_tensor(
                rows[None], of_centres, weight.shape, check_invariants=False, is_coalesced=True
            )
        return None, of_unit, of_norms, of_centres, None


class TargetLogit:
    """The cosines of photos to their own classes among this process's, and their backward pass.

    Attributes:
        cosine: To the nearest centre of the own class, (B,); 0 where another rank has the class.
    """

    def __init__(self, unit: Tensor, centres: Tensor, columns: Tensor, sub_centres: int) -> None:
        self._unit = unit
        self._is_here = columns >= 0
        within = torch.arange(sub_centres, device=columns.device)
        self._rows = columns.clamp(min=0)[:, None] * sub_centres + within  # (B, K)
        # A process without classes has no row to read.
        own = centres[self._rows] if len(centres) else unit.new_zeros(*self._rows.shape, 1)
        own = own.to(unit.dtype)
        self._norms = own.norm(dim=2).clamp(min=1e-12)
        self._directions = own / self._norms[..., None]  # (B, K, D)
        self._cosines = (self._directions * unit[:, None]).sum(2)
        self.cosine = torch.where(self._is_here, self._cosines.amax(1), 0)

    def backward(self, gradient: Tensor, of_unit: Tensor, of_centres: Tensor) -> None:
        """Add the effect of `gradient` (B,) to the gradients of unit embeddings and centres."""
        if not len(of_centres):
            return
        nearest = (self._cosines == self._cosines.amax(1, keepdim=True)).to(gradient.dtype)
        slopes = nearest * (torch.where(self._is_here, gradient, 0) / nearest.sum(1))[:, None]
        of_unit += (slopes[..., None] * self._directions).sum(1)
        tangent = self._unit[:, None] - self._cosines[..., None] * self._directions
        tangent *= (slopes / self._norms)[..., None]
        of_centres.index_add_(0, self._rows.flatten(), tangent.flatten(0, 1).to(of_centres.dtype))
