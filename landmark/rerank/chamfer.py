"""Re-ranking by the Chamfer similarity of local descriptors, without training."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from landmark.device import Device
from landmark.pair.scorer import ChamferScorer
from landmark.rerank.pair_model import PairReranker
from landmark.settings import checked


class Chamfer(PairReranker):
    """Re-rank the top results by weight * cosine + (1 - weight) * sigmoid(gamma * score).

    The score of a query and a photo is the Chamfer similarity of their local descriptors on
    transported similarities, see `landmark.pair.chamfer`. Nothing is learned. See `PairReranker`.

    Args:
        local: Name of the local features.
        top: Number of results to re-rank; all if there are fewer.
        weight: Weight of the cosine. 1 leaves the ranking as it is.
        gamma: Factor of the score.
        max_descriptors: Number of descriptors per photo, those of the highest scores.
        dust: Similarity of each descriptor to the dust. None means no dust.
        device: Device that scores the pairs.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603: the baseline Chamfer with transport.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from landmark.rerank.retrieval import Retrieval
        >>> photos = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
        >>> local = [SimpleNamespace(descriptors=one) for one in (np.eye(3), -np.eye(3), np.eye(3))]
        >>> retrieval = Retrieval(
        ...     photos[:1], photos[1:], np.array([[0, 1]]), np.array([[0.8, 0.6]], np.float32),
        ...     query_local={"patches": local[:1]}, gallery_local={"patches": local[1:]})
        >>> result = Chamfer(weight=0.5, gamma=1.0)(retrieval)
        >>> result.rows.tolist(), result.scores.round(2).astype(str).tolist()
        ([[1, 0]], [['0.8', '0.8']])
    """

    @checked
    def __init__(
        self,
        local: str = "patches",
        top: PositiveInt = 100,
        weight: Annotated[float, Field(ge=0, le=1)] = 0.5,
        gamma: NonNegativeFloat = 0.02,
        max_descriptors: PositiveInt = 400,
        dust: Annotated[float, Field(ge=-1, le=1)] | None = 0.0,
        device: Device = "auto",
    ) -> None:
        super().__init__("chamfer", local, top, weight, gamma, max_descriptors, device)
        self.dust = dust

    def scorer(self, device: torch.device) -> ChamferScorer:  # noqa: ARG002 - it has no weights
        """Return what scores the pairs."""
        return ChamferScorer(self.dust)
