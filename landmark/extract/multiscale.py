"""Multi-scale descriptors: average a photo's embeddings over several sizes."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from landmark.settings import checked

Scale = Annotated[float, Field(gt=0, le=8)]


class MultiScale:
    """Average a photo's embeddings over scales and flips, and normalise to unit length.

    Args:
        scales: Scale factors of the image size; sides are rounded down to multiples of 32, at least
            128.
        flip: Also describe the horizontally flipped image at each scale.

    Source:
        The winning extraction of the Google Landmark Retrieval Challenge 2019 (Ozaki and Yokoo,
        arXiv 1906.04087): unnormalised embeddings are averaged, then normalised.

    Example:
        >>> photos = [torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 12, 12)]
        >>> colour = lambda images: images.mean((2, 3)) * torch.tensor([3.0, 4.0, 0.0])
        >>> descriptors = MultiScale(scales=(1.0, 1.5))(colour, photos)
        >>> [round(value, 4) for value in descriptors[0].tolist()]
        [0.6, 0.8, 0.0]
    """

    @checked
    def __init__(
        self,
        scales: Annotated[Sequence[Scale], Field(min_length=1)] = (0.75, 1.0, 1.25),
        flip: bool = False,
    ) -> None:
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip

    def __call__(self, embedder: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> Tensor:
        """Return unit-length descriptors (B, D), float32.

        Args:
            embedder: Images (B, 3, h, w) → embeddings (B, D).
            images: The same photos at each scale, (B, 3, h_s, w_s) each.
        """
        total: Tensor | None = None
        for scaled in images:
            for view in (scaled, scaled.flip(-1)) if self.flip else (scaled,):
                embeddings = embedder(view).float()
                total = embeddings if total is None else total + embeddings
        if total is None:
            raise ValueError("images is empty")
        return torch.nn.functional.normalize(total, dim=1)
