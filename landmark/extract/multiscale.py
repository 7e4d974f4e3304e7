"""Multi-scale descriptors: combine a photo's embeddings over several sizes."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from landmark.settings import checked

Scale = Annotated[float, Field(gt=0, le=8)]
Combine = Literal["mean", "max"]


class MultiScale:
    """Combine a photo's embeddings over scales and flips, and normalise to unit length.

    Args:
        scales: Scale factors of the image size; sides are rounded down to multiples of 32, at least
            128.
        flip: Also describe the horizontally flipped image at each scale.
        combine: `mean`: the mean of the embeddings as they are. `max`: the largest value of each
            component over the embeddings, each of unit length.

    Source:
        mean: the winning extraction of the Google Landmark Retrieval Challenge 2019 (Ozaki and
        Yokoo, arXiv 1906.04087). max: Shao et al.: Global Features are All You Need for Image
        Retrieval and Reranking. ICCV 2023, section 3.2 (SuperGlobal's Scale-GeM, p → ∞).

    Example:
        >>> photos = [torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 12, 12)]
        >>> colour = lambda images: images.mean((2, 3)) * torch.tensor([3.0, 4.0, 0.0])
        >>> descriptors = MultiScale(scales=(1.0, 1.5))(colour, photos)
        >>> [round(value, 4) for value in descriptors[0].tolist()]
        [0.6, 0.8, 0.0]
        >>> views = iter([torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])])
        >>> descriptors = MultiScale((1.0, 1.5), combine="max")(lambda _: next(views), photos)
        >>> [round(value, 4) for value in descriptors[0].tolist()]  # of (0.6, 1)
        [0.5145, 0.8575]
    """

    @checked
    def __init__(
        self,
        scales: Annotated[Sequence[Scale], Field(min_length=1)] = (0.75, 1.0, 1.25),
        flip: bool = False,
        combine: Combine = "mean",
    ) -> None:
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip
        self.combine = combine

    def __call__(self, embedder: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> Tensor:
        """Return unit-length descriptors (B, D), float32.

        Args:
            embedder: Images (B, 3, h, w) → embeddings (B, D).
            images: The same photos at each scale, (B, 3, h_s, w_s) each.
        """
        combined: Tensor | None = None
        for scaled in images:
            for view in (scaled, scaled.flip(-1)) if self.flip else (scaled,):
                embeddings = embedder(view).float()
                if self.combine == "max":
                    embeddings = normalize(embeddings, dim=1)
                combined = embeddings if combined is None else self._both(combined, embeddings)
        if combined is None:
            raise ValueError("images is empty")
        return normalize(combined, dim=1)

    def _both(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b) if self.combine == "max" else a + b
