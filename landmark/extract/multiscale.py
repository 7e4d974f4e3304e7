"""One descriptor per photo from several sizes of it."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from landmark.settings import checked


class MultiScale:
    """Average a photo's embeddings over scales (and its mirror image), then to unit length.

    Args:
        scales: Factors on the image's size; sides are floored to multiples of 32, at least 128.
        flip: Describe the mirror image at each scale as well.

    Source:
        The extraction of the first place of the Google Landmark Retrieval Challenge 2019 (Ozaki
        and Yokoo, arXiv 1906.04087): unnormalised embeddings averaged, then unit length.

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
        scales: Annotated[Sequence[PositiveFloat], Field(min_length=1)] = (0.75, 1.0, 1.25),
        flip: bool = False,
    ) -> None:
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip

    def __call__(self, embedder: nn.Module, images: Sequence[Tensor]) -> Tensor:
        """Return unit-length descriptors (B, D), float32.

        Args:
            embedder: Images (B, 3, h, w) → embeddings (B, D).
            images: The same photos once per scale, each (B, 3, h_s, w_s).
        """
        total: Tensor | None = None
        for scaled in images:
            for view in (scaled, scaled.flip(-1)) if self.flip else (scaled,):
                embeddings = embedder(view).float()
                total = embeddings if total is None else total + embeddings
        if total is None:
            raise ValueError("no images given")
        return torch.nn.functional.normalize(total, dim=1)
