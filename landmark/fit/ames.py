"""Fit AMES to a store with local features; distil its binary form from a fitted teacher."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.pair_model import PairModel
from landmark.device import Device
from landmark.disk.digest import digest_of_files
from landmark.error import UserError
from landmark.fit.pair_batches import Photos
from landmark.fit.pair_run import Training
from landmark.fit.pair_training import FittedPair, PairTraining
from landmark.pair import AMES
from landmark.pair.scorer import AMESScorer
from landmark.settings import Seed, checked

_TOKEN_WEIGHT = 10.0  # of the distance of the tokens to the teacher's
_LEAST, _LEAST_OF_STUDENT = 100, 10  # descriptors of a photo in a step
_SAMPLED_ROWS, _ROTATIONS = 20_000, 50


@checked
def fit_ames(
    store: DescriptorStore,
    local: str | None = None,
    bits: Annotated[int, Field(ge=8, multiple_of=8)] | None = None,
    teacher: str | None = None,
    width: PositiveInt = 128,
    heads: PositiveInt = 2,
    layers: PositiveInt = 5,
    hidden: PositiveInt = 1024,
    neighbours: PositiveInt = 300,
    min_positives: PositiveInt = 5,
    min_negatives: PositiveInt = 5,
    triplets: PositiveInt | None = None,
    min_descriptors: PositiveInt | None = None,
    max_descriptors: PositiveInt = 400,
    epochs: PositiveInt = 10,
    steps_per_epoch: PositiveInt | None = None,
    lr: PositiveFloat = 5e-4,
    weight_decay: NonNegativeFloat = 5e-4,
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    hold_out: Annotated[float, Field(gt=0, lt=1)] = 0.25,
    validation_queries: PositiveInt = 50,
    seed: Seed = 0,
    device: Device = "auto",
    staging: Path | None = None,
) -> FittedPair:
    """Learn which pairs of photos show the same landmark, with a transformer on their descriptors.

    See `fit_elvis`, which draws, validates and keeps epochs in the same way.

    With a teacher the loss is the binary cross-entropy + 10 · the mean squared difference of the
    last tokens to the teacher's. The teacher sees all descriptors, up to `max_descriptors`; the
    student the first ones, at least 10. Weights of the teacher's shapes start as the teacher's. The
    bits of a binary model start as those of ITQ.

    Args:
        store: See `fit_elvis`.
        local: See `fit_elvis`.
        bits: Number of bits of a binary model. None means full precision.
        teacher: Folder of a full-precision AMES fitted to these local features.
        width: Dimension of the tokens; that of the teacher.
        heads: Number of attention heads.
        layers: Number of layers.
        hidden: Width of the feed-forward networks.
        neighbours: See `fit_elvis`.
        min_positives: See `fit_elvis`.
        min_negatives: See `fit_elvis`.
        triplets: See `fit_elvis`.
        min_descriptors: See `fit_elvis`. Defaults to 100, of a student 10.
        max_descriptors: See `fit_elvis`.
        epochs: See `fit_elvis`.
        steps_per_epoch: See `fit_elvis`; at least 100.
        lr: See `fit_elvis`.
        weight_decay: See `fit_elvis`.
        warmup: See `fit_elvis`.
        hold_out: See `fit_elvis`.
        validation_queries: See `fit_elvis`; a pair takes much longer.
        seed: See `fit_elvis`.
        device: See `fit_elvis`.
        staging: See `fit_elvis`.

    Raises:
        UserError: As `fit_elvis`, or the teacher is not a full-precision AMES of this width, or was
            fitted to other local features.

    Source:
        Suma et al.: AMES: Asymmetric and Memory-Efficient Similarity Estimation for Instance-level
        Retrieval. ECCV 2024, arXiv 2408.03282. Gong, Lazebnik: Iterative Quantization, CVPR 2011.
    """
    training = Training(
        neighbours=neighbours,
        min_positives=min_positives,
        min_negatives=min_negatives,
        triplets=triplets,
        min_descriptors=min_descriptors or (_LEAST if teacher is None else _LEAST_OF_STUDENT),
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
    fit = PairTraining("ames", store, local, training, staging)
    sizes = {"width": width, "heads": heads, "layers": layers, "hidden": hidden}
    model: dict[str, Any] = {"dim": fit.features.dim, "bits": bits, **sizes}
    taught = None if teacher is None else _teacher(teacher, fit, width)
    recorded = {} if teacher is None else {"teacher": _digest(teacher)}

    def build() -> AMESObjective:
        built = AMES(**model)
        if bits is not None and bits <= fit.features.dim:
            sample = torch.cat(list(fit.sample(_SAMPLED_ROWS))).cpu()
            built.binary_projection.data = itq(sample, built.binary_projection.data)
        if taught is None:
            return AMESObjective(built)
        _start_from(built, taught)
        return AMESObjective(built, taught.to(fit.device))

    return fit.fit(build, model, **recorded)


class AMESObjective:
    """AMES under the binary cross-entropy of its scores, and the distance to a teacher's tokens.

    Args:
        model: The model.
        teacher: A full-precision model. Defaults to none.

    Example:
        >>> objective = AMESObjective(AMES(dim=3, width=8, layers=1, hidden=8))
        >>> photos = Photos(torch.eye(3)[None], torch.zeros(1, 3, dtype=torch.bool), count=3)
        >>> objective.losses(photos, photos, torch.ones(1)).shape
        torch.Size([1])
    """

    def __init__(self, model: AMES, teacher: AMES | None = None) -> None:
        self.model = model
        self._teacher = teacher

    def losses(self, query: Photos, gallery: Photos, labels: Tensor) -> Tensor:
        """Return the loss of each pair, (B,)."""
        (rows, padding), (others, other_padding) = query.first(), gallery.first()
        if self._teacher is None:
            scores = self.model(rows, others, padding, other_padding)
            return functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        tokens = self.model.tokens(rows, others, padding, other_padding)
        scores = self.model.scores_of(tokens)
        losses = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        with torch.no_grad():
            sides = query.rows, gallery.rows, query.padding, gallery.padding
            taught = self._teacher.tokens(*sides)
        m, n, first = rows.shape[1], others.shape[1], 1 + query.rows.shape[1]
        taught = torch.cat([taught[:, : 1 + m], taught[:, first : first + n]], 1)
        # Over the tokens that are not padding, which are 0 in both.
        count = 1 + (~padding).sum(1) + (~other_padding).sum(1)
        distances = (tokens - taught).square().mean(2).sum(1) / count
        return losses + _TOKEN_WEIGHT * distances

    def scorer(self) -> AMESScorer:
        """Return what scores pairs with the current weights."""
        return AMESScorer(self.model)

    def values(self, m: int, n: int) -> int:
        """Return about how many values the backward pass of a pair (m, n) keeps."""
        layers = len(self.model.layers)
        weights = sum(weight.numel() for weight in self.model.parameters())
        # A layer has 8 w² + 2 w h weights, and keeps about 16 w + 2 h values of each token.
        kept = 8 * self.model.width * layers + weights // self.model.width
        return (1 + m + n) * kept


def itq(rows: Tensor, start: Tensor) -> Tensor:
    """Rotate the principal directions of rows so that their signs lose the least: (D, bits).

    Args:
        rows: (n, D), unit rows.
        start: (D, bits), whose first rows give the first rotation.

    Source:
        Gong, Lazebnik: Iterative Quantization: A Procrustean Approach to Learning Binary Codes.
        CVPR 2011, section 2.

    Example:
        >>> rows = torch.tensor([[0.6, 0.8], [-0.6, -0.8], [0.8, -0.6], [-0.8, 0.6]])
        >>> (rows @ itq(rows, torch.eye(2))).abs().round(decimals=3)[0]
        tensor([0.7070, 0.7070])
    """
    bits = start.shape[1]
    _, directions = torch.linalg.eigh((rows.T @ rows).double())
    principal = directions.flip(1)[:, :bits].to(rows.dtype)  # (D, bits)
    projected = rows @ principal
    rotation = torch.linalg.qr(start[:bits])[0]
    for _ in range(_ROTATIONS):
        signs = torch.where(projected @ rotation >= 0, 1.0, -1.0)
        left, _, right = torch.linalg.svd(projected.T @ signs)
        rotation = left @ right
    return principal @ rotation


def _teacher(folder: str, fit: PairTraining, width: int) -> AMES:
    """Return the teacher in training mode, whose gallery rows are not rounded, without gradients.

    Raises:
        UserError: It is not a full-precision AMES of this width, fitted to these local features.
    """
    fitted = PairModel.open(folder, "ames")
    if fitted.meta["model"].get("bits") is not None:
        raise UserError(f"fit.teacher={folder} is binary. Pass a fit without fit.bits.")
    if fitted.meta["local"] != fit.local:
        raise UserError(
            f"fit.teacher={folder} was fitted on the local features {fitted.meta['local']!r}, and "
            f"fit.local is {fit.local!r}. Pass a teacher of the same local features."
        )
    fitted.check_fits(fit.features.dim, fit.features.settings, fit.features.path)
    if (theirs := fitted.meta["model"].get("width", 128)) != width:
        raise UserError(
            f"fit.width={width}, but fit.teacher={folder} has {theirs}. Pass fit.width={theirs}."
        )
    teacher = AMES(**fitted.meta["model"])
    teacher.load_state_dict({key: torch.from_numpy(w) for key, w in fitted.weights.items()})
    return teacher.requires_grad_(False)


def _start_from(student: AMES, teacher: AMES) -> None:
    """Copy the teacher's weights of equal names and shapes."""
    own = student.state_dict()
    shared = {k: w for k, w in teacher.state_dict().items() if k in own and w.shape == own[k].shape}
    student.load_state_dict(shared, strict=False)


def _digest(folder: str) -> str:
    return digest_of_files(Path(folder) / "weights.safetensors")
