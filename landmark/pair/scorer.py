"""Score one query against many gallery photos: each photo is described once, then paired."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from landmark.pair.ames import AMES
from landmark.pair.chamfer import chamfer
from landmark.pair.elvis import ELViS
from landmark.pair.kernel import LARGEST_CORNER, best_masses, with_dust

Description = tuple[Tensor, ...]  # first axis: the rows of a photo


class PairScorer(Protocol):
    """Describes photos, and scores a query against gallery photos by their descriptions.

    Scores do not depend on the other photos of a call beyond rounding; on the CPU not at all.
    """

    def describe(self, rows: Tensor, is_gallery: bool) -> Description:
        """Describe a photo by its descriptors (n, D), unit rows; each row by itself."""

    def scores(self, query: Description, gallery: Sequence[Description]) -> Tensor:
        """Score a query against gallery photos, (B,)."""


class ChamferScorer:
    """Scores of `chamfer`.

    Args:
        dust: Similarity of every row to the dust. None means no dust.

    Example:
        >>> scorer = ChamferScorer()
        >>> query, gallery = (scorer.describe(torch.eye(3), side) for side in (False, True))
        >>> scorer.scores(query, [gallery, gallery]).round(decimals=2)
        tensor([5.7000, 5.7000])
    """

    def __init__(self, dust: float | None = 0.0) -> None:
        self.dust = dust

    def describe(self, rows: Tensor, is_gallery: bool) -> Description:
        """Describe a photo by its descriptors (n, D), unit rows."""
        if not is_cpu(rows):
            return (rows,)
        return (with_dust(rows, self.dust, self.dust or 0.0, not is_gallery),)

    def scores(self, query: Description, gallery: Sequence[Description]) -> Tensor:
        """Score a query against gallery photos, (B,)."""
        if is_cpu(query[0]):
            has_dust = self.dust is not None
            votes = (best_masses(query[0], one[0], has_dust) for one in gallery)
            return torch.stack([by_row.sum() + by_column.sum() for by_row, by_column in votes])
        (batch,), padding = _padded(gallery)
        return chamfer(_repeated(query[0], batch), batch, None, padding, self.dust)


class ELViSScorer:
    """Scores of ELViS.

    Args:
        model: The model.

    Example:
        >>> scorer = ELViSScorer(ELViS(dim=3).eval())
        >>> with torch.no_grad():
        ...     query, gallery = (scorer.describe(torch.eye(3), side) for side in (False, True))
        ...     scorer.scores(query, [gallery, gallery]).shape
        torch.Size([2])
    """

    def __init__(self, model: ELViS) -> None:
        self.model = model
        self._corner = float(model.corner.detach())

    def describe(self, rows: Tensor, is_gallery: bool) -> Description:
        """Describe a photo by its descriptors (n, D), unit rows."""
        projected, dust = self.model.project(rows)
        if not self._in_kernel(rows):
            return projected, dust
        return (with_dust(projected, dust, self._corner, not is_gallery),)

    def scores(self, query: Description, gallery: Sequence[Description]) -> Tensor:
        """Score a query against gallery photos, (B,)."""
        if self._in_kernel(query[0]):
            votes = [torch.cat(best_masses(query[0], one[0], has_dust=True)) for one in gallery]
            counts = [len(vote) for vote in votes]
            return torch.stack([f.sum() for f in self.model.votes(torch.cat(votes)).split(counts)])
        (rows, dust), padding = _padded(gallery)
        own_rows, own_dust = (_repeated(one, rows) for one in query)
        return self.model.score(own_rows, own_dust, rows, dust, None, padding)

    def _in_kernel(self, rows: Tensor) -> bool:
        return is_cpu(rows) and abs(self._corner) <= LARGEST_CORNER


class AMESScorer:
    """Scores of AMES.

    Args:
        model: The model, in evaluation mode.
        bf16: Multiply in bfloat16; the tokens stay in float32.

    Example:
        >>> scorer = AMESScorer(AMES(dim=3, width=8, layers=2, hidden=16).eval())
        >>> with torch.no_grad():
        ...     query, gallery = (scorer.describe(torch.eye(3), side) for side in (False, True))
        ...     scorer.scores(query, [gallery, gallery]).shape
        torch.Size([2])
    """

    def __init__(self, model: AMES, bf16: bool = False) -> None:
        self.model = model
        self.bf16 = bf16

    def describe(self, rows: Tensor, is_gallery: bool) -> Description:
        """Describe a photo by its descriptors (n, D) or, for a binary model, packed bits."""
        if rows.dtype == torch.uint8:
            return (self.model.project_bits(unpacked(rows)),)
        return (self.model.project(rows, is_gallery),)

    def scores(self, query: Description, gallery: Sequence[Description]) -> Tensor:
        """Score a query against gallery photos, (B,)."""
        device = query[0].device.type
        with torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext():
            if is_cpu(query[0]):
                scores = [self.model.score_rows(query[0][None], one[None]) for (one,) in gallery]
                return torch.cat(scores).float()
            (batch,), padding = _padded(gallery)
            return self.model.score_rows(_repeated(query[0], batch), batch, None, padding).float()


def is_cpu(rows: Tensor) -> bool:
    """Whether pairs of these rows are scored one by one; other devices take padded batches."""
    return rows.device.type == "cpu"


def unpacked(bits: Tensor) -> Tensor:
    """Return packed bits (…, n) uint8 as ±1, (…, 8 n) float32; the highest bit of a byte first.

    Example:
        >>> unpacked(torch.tensor([0b10100000], dtype=torch.uint8)).tolist()
        [1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0]
    """
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    ones = (bits[..., None] >> places) & 1
    return ones.flatten(-2).float() * 2 - 1


def _padded(photos: Sequence[Description]) -> tuple[list[Tensor], Tensor]:
    """Return descriptions as padded batches (B, N, …), and their padding (B, N)."""
    counts = torch.tensor([len(photo[0]) for photo in photos], device=photos[0][0].device)
    batches = [
        torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        for parts in zip(*photos, strict=True)
    ]
    places = torch.arange(batches[0].shape[1], device=counts.device)
    return batches, places >= counts[:, None]


def _repeated(query: Tensor, batch: Tensor) -> Tensor:
    return query.expand(len(batch), *query.shape)
