"""Re-ranking by AMES, a fitted transformer over the local descriptors of two photos."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from landmark import pair
from landmark.device import Device
from landmark.pair.scorer import AMESScorer
from landmark.rerank.pair_model import FittedPairReranker
from landmark.settings import checked


class AMES(FittedPairReranker):
    """Re-rank the top results by weight * cosine + (1 - weight) * sigmoid(gamma * score).

    The score of a query and a photo is that of `landmark.pair.AMES`, which fit.py fit=ames fitted
    to a store with local features. A binary model also reads descriptors that are stored as its
    packed bits. See `PairReranker`.

    Args:
        weights: Folder that fit.py wrote.
        local: Name of the local features. None means those of the fit.
        top: Number of results to re-rank; all if there are fewer.
        weight: Weight of the cosine; 1 leaves the ranking as it is. None means that of the fit.
        gamma: Factor of the score. None means that of the fit.
        max_descriptors: Number of descriptors per photo, those of the highest scores.
        precision: 32, or bf16: multiply in bfloat16, faster on CPUs with AMX and on GPUs. Scores
            change by about 2 % of their spread.
        device: Device of the model.

    Raises:
        UserError: `weights` is None or not a fit of AMES, or `local` is not what it was fitted on.

    Source:
        Suma et al.: AMES: Asymmetric and Memory-Efficient Similarity Estimation for Instance-level
        Retrieval. ECCV 2024, arXiv 2408.03282.

    Example:
        >>> AMES()
        Traceback (most recent call last):
        landmark.error.UserError: rerank=ames needs a fitted model. Pass ...
    """

    @checked
    def __init__(
        self,
        weights: str | None = None,
        local: str | None = None,
        top: PositiveInt = 100,
        weight: Annotated[float, Field(ge=0, le=1)] | None = None,
        gamma: NonNegativeFloat | None = None,
        max_descriptors: PositiveInt = 400,
        precision: Literal["32", "bf16"] = "32",
        device: Device = "auto",
    ) -> None:
        super().__init__(
            "ames",
            weights,
            local,
            weight,
            gamma,
            top=top,
            max_descriptors=max_descriptors,
            device=device,
        )
        self.precision = precision

    def prepare(self, descriptors: np.ndarray) -> Tensor:
        """Return stored descriptors (n, d) as the model takes them: unit rows, or packed bits."""
        bits = self.model.meta["model"].get("bits")
        is_packed = descriptors.dtype == np.uint8 and descriptors.shape[1] != self.model.dim
        if bits and is_packed:
            return torch.from_numpy(np.array(descriptors))
        return super().prepare(descriptors)

    def scorer(self, device: torch.device) -> AMESScorer:
        """Return what scores the pairs."""
        model = self.load(pair.AMES, device)
        return AMESScorer(model, bf16=self.precision == "bf16")
