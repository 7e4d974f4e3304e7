"""The softmax terms of the negatives (all classes but a photo's own), block by block.

Forward and backward each read the centres once and never hold more than a block of cosines. The
backward pass recomputes them and writes the gradient of each block of centres in place, including
that of the centres' normalisation: for a centre w of norm |w|, a photo's unit embedding u and G the
gradient of their cosine c = u · w / |w|,

    dw = sum over photos of G · (u - c · w / |w|) / |w|
    du = sum over centres of G · w / |w|
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from landmark.loss.margin import MarginLoss

# As torch.nn.functional.normalize for vectors of norm 0.
MIN_NORM = 1e-12


@dataclass(frozen=True)
class NegativeLogits:
    """Logits of photos and the centres of n classes, K centres each.

    Attributes:
        loss: Provides scale, sub-centres and `adjust_negatives`.
        unit: Embeddings of unit length, (B, D), float32 or wider.
        centres: (n · K, D), of any norm.
        columns: Index of each photo's own class among the n, (B,); -1 where it is not one of them.
        target: Cosine to the own class after the margin, (B,).
        block_size: Classes per block.
    """

    loss: MarginLoss
    unit: Tensor
    centres: Tensor
    columns: Tensor
    target: Tensor
    block_size: int

    def forward(self, with_sum: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the softmax terms of these classes, each photo's own excluded.

        Args:
            with_sum: Whether to sum the logits, as label smoothing requires.

        Returns:
            Logarithm of the sum of the exponentials of the logits, (B,); sum of the logits, (B,),
            or 0 without `with_sum`; norms of the centres, (n · K,).
        """
        norms = self.unit.new_empty(len(self.centres))
        highest = self.unit.new_full((len(self.unit),), torch.finfo(self.unit.dtype).min)
        total, logits_sum = torch.zeros_like(highest), torch.zeros_like(highest)
        for first, centres, buffers in self._blocks(1 if self.loss.sub_centres == 1 else 2):
            block_norms = norms[first : first + len(centres)]
            products = self._products(centres, buffers[0])
            # After the product, when the block is in the cache.
            torch.linalg.vector_norm(centres, dim=1, out=block_norms).clamp_(min=MIN_NORM)
            logits = self._nearest(products.div_(block_norms / self._factor), buffers[-1])
            if self.loss.changes_negatives:
                adjusted = self.loss.adjust_negatives(logits, self.target[:, None])
                torch.mul(adjusted, self.loss.scale, out=logits)
            own = self._own(first, logits, buffers[-1])
            if with_sum:
                buffers[-1].index_fill_(0, own, 0)
                logits_sum += logits.sum(1)
            buffers[-1].index_fill_(0, own, -torch.inf)
            higher = torch.maximum(highest, logits.amax(1))
            total *= (highest - higher).exp_()
            total += logits.sub_(higher[:, None]).exp_().sum(1)
            highest = higher
        return highest + total.log(), logits_sum, norms

    def backward(
        self,
        norms: Tensor,
        log_sum: Tensor,
        gradient: Tensor,
        smoothing: float | Tensor,
        out: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients from these classes, each photo's own excluded.

        Args:
            norms: Norms of the centres, from `forward`.
            log_sum: Logarithm of the softmax's denominator, own class included, (B,).
            gradient: Gradient of each photo's loss, (B,).
            smoothing: Share of the target that label smoothing gives each class.
            out: Receives the gradient of the centres, (n · K, D), of the centres' dtype.

        Returns:
            Gradients of the unit embeddings, (B, D), and of `target`, (B,).
        """
        unit_grad = torch.zeros_like(self.unit)
        target_grad = torch.zeros_like(self.target)
        weight = (gradient * self.loss.scale)[:, None]
        for first, centres, buffers in self._blocks(2 if self.loss.sub_centres == 1 else 3):
            block_norms = norms[first : first + len(centres)]
            cosines = self._products(centres, buffers[0]).div_(block_norms / self._factor)
            nearest = self._nearest(cosines, buffers[-1])
            adjusted = self._adjusted(nearest) if self.loss.changes_negatives else None
            logits = nearest if adjusted is None else adjusted[-1].detach() * self.loss.scale
            slopes = _view(buffers[1], nearest.shape)
            torch.sub(logits, log_sum[:, None], out=slopes).exp_()
            if self.loss.label_smoothing:
                slopes.sub_(smoothing)
            slopes.mul_(weight)
            buffers[1].index_fill_(0, self._own(first, slopes, buffers[1]), 0)
            if adjusted is not None:
                slopes, block_grad = _through(adjusted, slopes)
                target_grad += block_grad
            if self.loss.sub_centres > 1:
                slopes = _to_nearest(slopes, cosines, nearest)
            radial = torch.mul(cosines, slopes, out=cosines).sum(0)
            radial /= block_norms.square() * self._factor
            slopes = slopes.div_(block_norms)
            unit_grad.addmm_(slopes, centres)
            rows = out[first : first + len(centres)]
            centres_grad = rows if rows.dtype == centres.dtype else torch.empty_like(centres)
            torch.mm(slopes.T, self.unit, out=centres_grad)
            centres_grad.addcmul_(centres, radial[:, None], value=-1)
            if centres_grad is not rows:
                rows.copy_(centres_grad)
        return unit_grad, target_grad

    def _blocks(self, buffers: int) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Yield the first row, the centres (m · K, D) and flat buffers of each block.

        The last element of a buffer belongs to no cosine.
        """
        rows = self.block_size * self.loss.sub_centres
        size = len(self.unit) * min(rows, len(self.centres)) + 1
        space = [self.unit.new_empty(size) for _ in range(buffers)]
        for first in range(0, len(self.centres), rows):
            yield first, self.centres[first : first + rows].to(self.unit.dtype), space

    @property
    def _factor(self) -> float | Tensor:
        """Factor on the cosines of a block: the scale, unless `adjust_negatives` comes before."""
        return 1.0 if self.loss.changes_negatives else self.loss.scale

    def _products(self, centres: Tensor, buffer: Tensor) -> Tensor:
        """Multiply the photos by the block's centres, (B, m · K), in `buffer`."""
        products = _view(buffer, (len(self.unit), len(centres)))
        return torch.mm(self.unit, centres.T, out=products)

    def _nearest(self, cosines: Tensor, buffer: Tensor) -> Tensor:
        """Return the cosine to the nearest centre of each class, (B, m), if K > 1 in `buffer`."""
        if self.loss.sub_centres == 1:
            return cosines
        cosines = cosines.view(len(cosines), -1, self.loss.sub_centres)
        return torch.amax(cosines, 2, out=_view(buffer, cosines.shape[:2]))

    def _own(self, first: int, values: Tensor, buffer: Tensor) -> Tensor:
        """Return where `buffer`, of which `values` (B, m) is a view, has the photos' own classes.

        Photos of other blocks have the last element, so that a GPU need not count the others.
        """
        photos, classes = values.shape
        columns = self.columns - first // self.loss.sub_centres
        in_block = (columns >= 0) & (columns < classes)
        columns += torch.arange(0, photos * classes, classes, device=columns.device)
        return torch.where(in_block, columns, len(buffer) - 1)

    def _adjusted(self, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosines, target and adjusted cosines, connected by an autograd graph."""
        with torch.enable_grad():
            cosines = nearest.clone().requires_grad_()
            target = self.target[:, None].clone().requires_grad_()
            return cosines, target, self.loss.adjust_negatives(cosines, target)


def _view(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first elements of a flat buffer in this shape."""
    return buffer[: math.prod(shape)].view(shape)


def _through(adjusted: tuple[Tensor, Tensor, Tensor], slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Backpropagate `slopes` of adjusted cosines to the cosines (B, m) and the target (B,)."""
    cosines, target, result = adjusted
    cosines_grad, target_grad = torch.autograd.grad(
        result, (cosines, target), slopes, allow_unused=True, materialize_grads=True
    )
    return cosines_grad.contiguous(), target_grad[:, 0]


def _to_nearest(slopes: Tensor, cosines: Tensor, nearest: Tensor) -> Tensor:
    """Route a class's gradient to its nearest centre, split evenly between ties, (B, m · K)."""
    centres = cosines.view(*nearest.shape, -1)
    chosen = (centres == nearest[..., None]).to(slopes.dtype)
    chosen *= (slopes / chosen.sum(2))[..., None]
    return chosen.view(cosines.shape)
