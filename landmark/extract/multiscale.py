"""One descriptor a photo from several sizes of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from landmark.error import UserError


class MultiScale:
    """Averages a photo's embeddings over scales (and its mirror image), then unit length.

    Args:
        scales: factors on the image's size; sides are floored to multiples of 32, at least 128.
        flip: describes the mirror image at each scale as well.

    Raises:
        UserError: no scale, or one that is not positive.

    Source:
        The extraction of the first place of the Google Landmark Retrieval Challenge 2019:
        unnormalised embeddings averaged, then unit length.
    """

    def __init__(self, scales: Sequence[float] = (0.75, 1.0, 1.25), flip: bool = False) -> None:
        if not scales or any(scale <= 0 for scale in scales):
            raise UserError(
                f"extract.scales={list(scales)}: give one or more positive factors, "
                "say [0.75,1,1.25]"
            )
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = bool(flip)

    def __call__(self, embedder: nn.Module, images: Sequence[Tensor]) -> Tensor:
        """Unit-length descriptors (B, D), float32.

        Args:
            embedder: images (B, 3, h, w) → embeddings (B, D).
            images: the same photos once a scale, each (B, 3, h_s, w_s).
        """
        total: Tensor | None = None
        for scaled in images:
            for view in (scaled, scaled.flip(-1)) if self.flip else (scaled,):
                embeddings = embedder(view).float()
                total = embeddings if total is None else total + embeddings
        if total is None:
            raise ValueError("no images given")
        return torch.nn.functional.normalize(total, dim=1)
