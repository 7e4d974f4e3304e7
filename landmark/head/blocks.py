"""The classes that are not a photo's own, block by block: their part of the softmax.

Forward and backward each go once over the centres and never hold more than a block of cosines. The
backward pass computes them anew and writes the gradient of each block of centres where it belongs,
with that of the centres' normalisation in it: for a centre w of length |w|, a photo's unit
embedding u and G the gradient of their cosine c = u · w / |w|,

    dw = sum over photos of G · (u - c · w / |w|) / |w|
    du = sum over centres of G · w / |w|
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from landmark.loss.margin import MarginLoss

# As torch.nn.functional.normalize does with a vector of no length.
_SHORTEST = 1e-12


@dataclass(frozen=True)
class Others:
    """Photos and the centres of some classes, n of them with K centres each.

    Attributes:
        loss: says scale, sub-centres and what becomes of a cosine.
        unit: embeddings of unit length, (B, D), float32 or wider.
        centres: (n · K, D), of any length.
        columns: place of each photo's own class among the n, (B,); -1 where it is none of them.
        target: cosine to the own class after the margin, (B,).
        block: classes looked at in one go.
    """

    loss: MarginLoss
    unit: Tensor
    centres: Tensor
    columns: Tensor
    target: Tensor
    block: int

    def forward(self, with_sum: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The classes' part of the softmax.

        Args:
            with_sum: whether the sum of the logits is wanted, which label smoothing needs.

        Returns:
            Logarithm of the sum of the exponentials of the other classes' logits, (B,); sum of
            these logits, (B,), 0 if not wanted; lengths of the centres, (n · K,).
        """
        lengths = self.unit.new_empty(len(self.centres))
        highest = self.unit.new_full((len(self.unit),), torch.finfo(self.unit.dtype).min)
        total, logits_sum = torch.zeros_like(highest), torch.zeros_like(highest)
        for first, centres, room in self._blocks(1):
            found = lengths[first : first + len(centres)]
            torch.linalg.vector_norm(centres, dim=1, out=found).clamp_(min=_SHORTEST)
            logits = self._nearest(self._cosines(centres, found, room[0]))
            if not self.loss.others_stay:
                logits = self.loss.of_others(logits, self.target[:, None])
            logits.mul_(self.loss.scale)
            if with_sum:
                self._fill_own(logits, first, 0)
                logits_sum += logits.sum(1)
            self._fill_own(logits, first, -torch.inf)
            higher = torch.maximum(highest, logits.amax(1))
            total *= (highest - higher).exp_()
            total += logits.sub_(higher[:, None]).exp_().sum(1)
            highest = higher
        return highest + total.log(), logits_sum, lengths

    def backward(
        self, lengths: Tensor, log_sum: Tensor, gradient: Tensor, share: float, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradients that come from the other classes.

        Args:
            lengths: of the centres, from `forward`.
            log_sum: logarithm of the whole softmax's denominator, own class included, (B,).
            gradient: of each photo's loss, (B,).
            share: of the label that every class gets by label smoothing.
            out: the gradient of the centres is written here, (n · K, D), of the centres' dtype.

        Returns:
            Gradients of the unit embeddings, (B, D), and of `target`, (B,).
        """
        of_unit = torch.zeros_like(self.unit)
        of_target = torch.zeros_like(self.target)
        slope = (gradient * self.loss.scale)[:, None]
        for first, centres, room in self._blocks(2):
            found = lengths[first : first + len(centres)]
            cosines = self._cosines(centres, found, room[0])
            nearest = self._nearest(cosines)
            logits = room[1][: nearest.numel()].view(nearest.shape)
            if self.loss.others_stay:
                torch.mul(nearest, self.loss.scale, out=logits)
                changed = None
            else:
                changed = self._changed(nearest)
                torch.mul(changed[-1].detach(), self.loss.scale, out=logits)
            slopes = logits.sub_(log_sum[:, None]).exp_()
            if share:
                slopes.sub_(share)
            slopes.mul_(slope)
            self._fill_own(slopes, first, 0)
            if changed is not None:
                slopes, of_block = _through(changed, slopes)
                of_target += of_block
            if self.loss.sub_centres > 1:
                slopes = _to_nearest(slopes, cosines, nearest)
            radial = torch.mul(cosines, slopes, out=cosines).sum(0).div_(found.square())
            slopes = slopes.div_(found)
            of_unit.addmm_(slopes, centres)
            part = out[first : first + len(centres)]
            written = part if part.dtype == centres.dtype else torch.empty_like(centres)
            torch.mm(slopes.T, self.unit, out=written)
            written.addcmul_(centres, radial[:, None], value=-1)
            if written is not part:
                part.copy_(written)
        return of_unit, of_target

    def _blocks(self, rooms: int) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """First row, centres (m · K, D) and flat work space of each block."""
        rows = self.block * self.loss.sub_centres
        space = len(self.unit) * min(rows, len(self.centres))
        room = [self.unit.new_empty(space) for _ in range(rooms)]
        for first in range(0, len(self.centres), rows):
            yield first, self.centres[first : first + rows].to(self.unit.dtype), room

    def _cosines(self, centres: Tensor, lengths: Tensor, room: Tensor) -> Tensor:
        """Cosines of the photos to the block's centres, (B, m · K), in `room`."""
        shape = (len(self.unit), len(centres))
        cosines = room[: shape[0] * shape[1]].view(shape)
        return torch.mm(self.unit, centres.T, out=cosines).div_(lengths)

    def _nearest(self, cosines: Tensor) -> Tensor:
        """The cosine to the nearest centre of each class, (B, m)."""
        if self.loss.sub_centres == 1:
            return cosines
        return cosines.view(len(cosines), -1, self.loss.sub_centres).amax(2)

    def _fill_own(self, values: Tensor, first: int, fill: float) -> None:
        """Puts `fill` where a photo meets its own class; no GPU waits for it."""
        places = self.columns - first // self.loss.sub_centres
        here = ((places >= 0) & (places < values.shape[1]))[:, None]
        places = places.clamp(0, values.shape[1] - 1)[:, None]
        values.scatter_(1, places, values.gather(1, places).masked_fill_(here, fill))

    def _changed(self, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines, target and what the loss makes of the cosines, with a graph between them."""
        with torch.enable_grad():
            cosines = nearest.clone().requires_grad_()
            target = self.target[:, None].clone().requires_grad_()
            return cosines, target, self.loss.of_others(cosines, target)


def _through(changed: tuple[Tensor, Tensor, Tensor], slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the cosines (B, m) and of the target (B,) from those of the changed cosines."""
    cosines, target, result = changed
    of_cosines, of_target = torch.autograd.grad(
        result, (cosines, target), slopes, allow_unused=True, materialize_grads=True
    )
    return of_cosines.contiguous(), of_target[:, 0]


def _to_nearest(slopes: Tensor, cosines: Tensor, nearest: Tensor) -> Tensor:
    """Hands a class's gradient to its nearest centre; equally near ones share it, (B, m · K)."""
    centres = cosines.view(*nearest.shape, -1)
    chosen = (centres == nearest[..., None]).to(slopes.dtype)
    chosen *= (slopes / chosen.sum(2))[..., None]
    return chosen.view(cosines.shape)
