"""Patches: the cells of an embedder's feature map as local features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from landmark.artifact.local_features import LocalFeatures
from landmark.error import UserError
from landmark.settings import checked

if TYPE_CHECKING:
    from torch import Tensor


class Patches:
    """The cells of the embedder's feature map, or a transformer's patch tokens, strongest first.

    They come from the pass that computes the global descriptor. Pass the embedder to `attach`, then
    the maps of each batch to `from_map`. Equal inputs give equal results: of equal strengths the
    cell that comes first in reading order is the stronger.

    Args:
        top_k: Maximum number of patches a photo: those most similar to its global descriptor.
        project: `neck`: the cells go through the embedder's neck, as the pooled vector does.
            `none`: the channels of the map. `auto`: `neck` if it takes a vector of as many
            channels and reduces it, else `none`.

    Attributes:
        dim: Dimension of the descriptors; None before `attach`.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> neck, backbone = torch.nn.Sequential(), SimpleNamespace(channels=[2])
        >>> embedder = SimpleNamespace(backbone=backbone, neck=neck, embedding_dim=2)
        >>> feature_map = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])  # (1, 2, 1, 2)
        >>> patches = Patches(top_k=1).attach(embedder)
        >>> photo = patches.from_map(feature_map, torch.tensor([[0.0, 1.0]]), [(64, 32)])[0]
        >>> photo.descriptors.tolist(), photo.keypoints.tolist()
        ([[0.0, 1.0]], [[47.5, 15.5]])
    """

    from_maps = True
    columns: Literal[2] = 2
    dtype: Literal["float16"] = "float16"

    @checked
    def __init__(
        self,
        top_k: PositiveInt = 100,
        project: Literal["auto", "neck", "none"] = "auto",
    ) -> None:
        self.top_k = top_k
        self.project = project
        self.dim: int | None = None
        self._neck: Any = None

    def attach(self, embedder: Any) -> Self:  # noqa: ANN401 - local does not import model
        """Read dimensions and neck of the embedder whose maps follow; return self.

        Raises:
            UserError: `project=neck`, but the neck takes other vectors than the map's cells.
        """
        channels = int(embedder.backbone.channels[-1])
        fits = _takes(embedder.neck, channels)
        if self.project == "neck" and not fits:
            raise UserError(
                f"project=neck: the embedder's neck does not take the {channels} channels of its "
                "map. Pass project=none."
            )
        use_neck = fits and (self.project == "neck" or self._reduces(embedder, channels))
        self._neck = embedder.neck if use_neck else None
        self.dim = int(embedder.embedding_dim) if use_neck else channels
        return self

    def _reduces(self, embedder: Any, channels: int) -> bool:  # noqa: ANN401
        return self.project == "auto" and int(embedder.embedding_dim) < channels

    def from_map(
        self,
        maps: "Tensor",
        descriptors: "Tensor",
        sizes: Sequence[tuple[int, int]],
        frames: Sequence[tuple[float, float, float, float]] | None = None,
    ) -> list[LocalFeatures]:
        """Return the patches of each photo of a batch.

        Args:
            maps: (B, C, h, w) the last map of the backbone.
            descriptors: (B, D) global descriptors, before any whitening.
            sizes: (width, height) of each photo in pixels.
            frames: (left, top, right, bottom) of the part of each photo that its map covers, in
                pixels. Defaults to the whole photo.

        Raises:
            ValueError: `attach` was not called, or with an embedder of other maps.
        """
        import torch

        with torch.inference_mode():
            cells = self._cells(maps)
            strengths = _strengths(cells, descriptors)
            # Stable, so that equal strengths are in reading order on every device.
            order = strengths.argsort(dim=1, descending=True, stable=True)[:, : self.top_k]
            kept = torch.take_along_dim(cells, order[:, :, None], dim=1).half().cpu().numpy()
            scores = torch.take_along_dim(strengths, order, dim=1).cpu().numpy()
        if frames is None:
            frames = [(0.0, 0.0, float(width), float(height)) for width, height in sizes]
        rows, columns = np.divmod(order.cpu().numpy(), maps.shape[3])
        shares = np.stack([(columns + 0.5) / maps.shape[3], (rows + 0.5) / maps.shape[2]], axis=2)
        return [
            LocalFeatures(_positions(share, frame), photo, score, size)
            for share, frame, photo, score, size in zip(
                shares, frames, kept, scores, sizes, strict=True
            )
        ]

    def _cells(self, maps: "Tensor") -> "Tensor":
        """Return the unit descriptors of all cells, (B, h w, dim), float32."""
        from torch.nn.functional import normalize

        cells = maps.float().flatten(2).transpose(1, 2)
        if self._neck is not None:
            cells = self._neck(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])
        if cells.shape[2] != self.dim:
            raise ValueError(f"maps of {maps.shape[1]} channels, dim {self.dim}: call attach first")
        return normalize(cells, dim=2)


def _takes(neck: Any, channels: int) -> bool:  # noqa: ANN401
    """Whether a neck maps vectors of `channels` numbers; without parameters it maps any."""
    weight = next(iter(neck.parameters()), None)
    return weight is None or int(weight.shape[-1]) == channels


def _strengths(cells: "Tensor", descriptors: "Tensor") -> "Tensor":
    """Return the cosine of each cell with the descriptor, or with the mean cell, (B, h w)."""
    from torch.nn.functional import normalize

    reference = descriptors.float().to(cells.device)
    if reference.shape[1] != cells.shape[2]:
        reference = normalize(cells.mean(dim=1), dim=1)
    return (cells @ reference[:, :, None]).squeeze(2)


def _positions(
    shares: NDArray[np.float64], frame: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Convert positions within the frame, 0 … 1, to pixels of the photo; (0, 0) is a centre."""
    corner, opposite = np.array(frame[:2]), np.array(frame[2:])
    return (corner + shares * (opposite - corner) - 0.5).astype(np.float32)
