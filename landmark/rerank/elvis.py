"""Re-ranking by ELViS, a fitted model of pairs of photos."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from landmark import pair
from landmark.device import Device
from landmark.pair.scorer import ELViSScorer
from landmark.rerank.pair_model import FittedPairReranker
from landmark.settings import checked


class ELViS(FittedPairReranker):
    """Re-rank the top results by weight * cosine + (1 - weight) * sigmoid(gamma * score).

    The score of a query and a photo is that of `landmark.pair.ELViS`, which fit.py fit=elvis fitted
    to a store with local features. See `PairReranker`.

    Args:
        weights: Folder that fit.py wrote.
        local: Name of the local features. None means those of the fit.
        top: Number of results to re-rank; all if there are fewer.
        weight: Weight of the cosine; 1 leaves the ranking as it is. None means that of the fit.
        gamma: Factor of the score. None means that of the fit.
        max_descriptors: Number of descriptors per photo, those of the highest scores.
        device: Device of the model.

    Raises:
        UserError: `weights` is None or not a fit of ELViS, or `local` is not what it was fitted on.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603.

    Example:
        >>> ELViS()
        Traceback (most recent call last):
        landmark.error.UserError: rerank=elvis needs a fitted model. Pass ...
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
        device: Device = "auto",
    ) -> None:
        super().__init__(
            "elvis",
            weights,
            local,
            weight,
            gamma,
            top=top,
            max_descriptors=max_descriptors,
            device=device,
        )

    def scorer(self, device: torch.device) -> ELViSScorer:
        """Return what scores the pairs."""
        return ELViSScorer(self.load(pair.ELViS, device))
