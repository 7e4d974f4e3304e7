"""Fit ELViS to a store with local features."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from landmark.artifact.descriptors import DescriptorStore
from landmark.device import Device
from landmark.fit.pair_batches import Photos
from landmark.fit.pair_run import Training
from landmark.fit.pair_training import FittedPair, PairTraining
from landmark.pair import ELViS
from landmark.pair.scorer import ELViSScorer
from landmark.settings import Seed, checked

_VOTE_BIAS = -5.0  # votes of about 0.01, so that the score of a photo is a few units


@checked
def fit_elvis(
    store: DescriptorStore,
    local: str | None = None,
    width: PositiveInt = 128,
    neighbours: PositiveInt = 300,
    min_positives: PositiveInt = 5,
    min_negatives: PositiveInt = 5,
    triplets: PositiveInt | None = None,
    min_descriptors: PositiveInt = 100,
    max_descriptors: PositiveInt = 400,
    epochs: PositiveInt = 10,
    steps_per_epoch: PositiveInt | None = None,
    lr: PositiveFloat = 5e-4,
    weight_decay: NonNegativeFloat = 5e-4,
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    hold_out: Annotated[float, Field(gt=0, lt=1)] = 0.25,
    validation_queries: PositiveInt = 200,
    seed: Seed = 0,
    device: Device = "auto",
    staging: Path | None = None,
) -> FittedPair:
    """Learn which pairs of photos show the same landmark, from their local descriptors.

    Each step draws anchors, and for each a photo of its landmark and one of another landmark among
    its nearest, with a probability proportional to similarity³. The loss is the binary
    cross-entropy of both pairs. Each step sees another number of descriptors, the strongest ones.

    Some landmarks are held out. After each epoch some of their photos are searched among the others
    and re-ranked; the epoch, the weight of the cosine and the factor of the score with the highest
    mAP are kept. If the 80 % interval of what they add to the search, chosen on one half of these
    landmarks and measured on the other, includes 0, the weight is 1: re-ranking then leaves the
    ranking as it is.

    Photos that a network was trained on are found without a pair model, with a mAP of 0.98 or more,
    and cannot choose the best. A notice says so; the last epoch is kept, gamma is 0.4 / the mean
    difference of the scores of photos of one landmark and of others, and the weight is the least
    one, from 0.5 on, that costs these photos at most 0.002 mAP.

    Args:
        store: Descriptors with landmarks and local features.
        local: Name of the local features. None means the only ones.
        width: Dimension of the projected descriptors.
        neighbours: Nearest photos of an anchor from which pairs are drawn.
        min_positives: Photos of its landmark that an anchor has among them.
        min_negatives: Photos of other landmarks that it has among them.
        triplets: Anchors of a step. Defaults to 200, of small stores to 1/50 of the anchors, at
            least 20.
        min_descriptors: Least number of descriptors of a photo in a step.
        max_descriptors: All steps have fewer; photos with fewer give all that they have.
        epochs: Number of epochs.
        steps_per_epoch: Steps of an epoch. Defaults to one pass over the anchors, at least 50.
        lr: Learning rate of AdamW, at the end of the warm-up; then a cosine to 0.
        weight_decay: Weight decay of AdamW.
        warmup: Fraction of the steps with a linear warm-up.
        hold_out: Fraction of the landmarks that are held out, of large stores about 10,000 photos.
        validation_queries: Held-out photos that are re-ranked after each epoch.
        seed: Seed of weights, draws and held-out landmarks.
        device: Device of the fit.
        staging: Folder of checkpoints, from which a stopped fit resumes. None means none.

    Raises:
        UserError: The store has no landmarks, no or several local features, or no anchor.

    Source:
        Suma et al.: ELViS. ICLR 2026, arXiv 2603.28603. The start differs: see `started`.
    """
    training = Training(
        neighbours=neighbours,
        min_positives=min_positives,
        min_negatives=min_negatives,
        triplets=triplets,
        min_descriptors=min_descriptors,
        max_descriptors=max_descriptors,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        hold_out=hold_out,
        validation_queries=validation_queries,
        seed=seed,
        device=device,
    )
    fit = PairTraining("elvis", store, local, training, staging)
    model: dict[str, Any] = {"dim": fit.features.dim, "width": width}
    return fit.fit(lambda: ELViSObjective(started(ELViS(**model))), model)


def started(model: ELViS) -> ELViS:
    """Return the model with votes that rise with the mass, and a logit that rises with the score.

    With the published biases of 0, LayerNorm removes the size of a mass, so that all votes are
    equal; and with random signs the logit may fall with the score, which re-ranking then reads
    upside down. On small stores hundreds of steps pass before this is learned, or it is not.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> votes = started(ELViS(dim=3)).votes(torch.tensor([0.1, 0.9]))
        >>> bool(votes[0] < votes[1])
        True
    """
    torch.nn.init.uniform_(model.vote_hidden.bias, -1, 1)
    torch.nn.init.constant_(model.vote_output.bias, _VOTE_BIAS)
    with torch.no_grad():
        low, high = model.votes(torch.tensor([0.1, 0.9]))
        if low > high:
            model.vote_output.weight.neg_()
        model.loss_hidden.weight.abs_()
        model.loss_output.weight.abs_()
    return model


class ELViSObjective:
    """ELViS under the binary cross-entropy of its logits.

    Example:
        >>> objective = ELViSObjective(ELViS(dim=3))
        >>> photos = Photos(torch.eye(3)[None], torch.zeros(1, 3, dtype=torch.bool), count=3)
        >>> objective.losses(photos, photos, torch.ones(1)).shape
        torch.Size([1])
    """

    def __init__(self, model: ELViS) -> None:
        self.model = model

    def losses(self, query: Photos, gallery: Photos, labels: Tensor) -> Tensor:
        """Return the loss of each pair, (B,)."""
        (rows, padding), (others, other_padding) = query.first(), gallery.first()
        logits = self.model.logits(self.model(rows, others, padding, other_padding))
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def scorer(self) -> ELViSScorer:
        """Return what scores pairs with the current weights."""
        return ELViSScorer(self.model)

    def values(self, m: int, n: int) -> int:
        """Return about how many values the backward pass of a pair (m, n) keeps."""
        return 10 * m * n + (m + n) * 6 * self.model.proj_linear.out_features
