"""Fit a linear adapter to a descriptor store: universal adaptation without the network."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from landmark.artifact.adapter import Adapter
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.device import Device, torch_device
from landmark.error import UserError
from landmark.fit.held_out import Held, Quality, held_out, landmark_codes, quality
from landmark.fit.whitening import mean_and_covariance
from landmark.loss import CosFace
from landmark.loss.build import build_loss
from landmark.loss.classifier import ClassifierLoss
from landmark.processes import notice
from landmark.settings import BatchSize, Seed, checked
from landmark.task.imprinting import imprint

_CHUNK_ROWS = 8192  # read from the store together
_GROWTH = 1.15  # between the epochs that are measured
# Adam moves an entry of the matrix by at most `lr` a step: so few steps say little.
_LEAST_EPOCHS, _LEAST_STEPS = 20, 320
# Sum of mAP and 1-nn of photos that the network has learned, and the steps for their store.
_SATURATED, _FEW_STEPS = 1.98, 40


@checked
def fit_linear(
    store: DescriptorStore,
    dim: PositiveInt | None = None,
    loss: Callable[..., nn.Module] | None = None,
    scale: PositiveFloat = 5.0,
    epochs: NonNegativeInt | None = None,
    max_epochs: PositiveInt | None = None,
    patience: PositiveInt = 8,
    folds: Annotated[int, Field(ge=1, le=20)] = 3,
    trained_share: Annotated[float, Field(gt=0, le=1)] = 0.7,
    lr: PositiveFloat = 1e-3,
    weight_decay: NonNegativeFloat = 1e-6,
    batch_size: BatchSize = 128,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
) -> Adapter:
    """Learn a matrix that tells the landmarks of the stored descriptors apart.

    One Linear without bias and unit length, under a loss with class centres. It starts at the
    identity, or with a smaller `dim` at the principal directions, and the result is `trained_share`
    of the learned matrix and the rest of this start: landmarks that it was not fitted to then gain
    too, instead of losing what the network distinguishes.

    The number of epochs is chosen on held-out photos (see `held_out`): a third of the landmarks,
    and a third of the photos of the others. Then the adapter is fitted to all photos. Held-out
    photos that find each other before the fit, as those a network was trained on do, say nothing
    about other photos: the fit then takes 40 steps, and a notice says so.

    Vectors are read from the store in chunks of about 8,192 rows, each in the order of the file.
    The memory is that of a chunk, and of a matrix, centres and their optimizer for each fold.

    Args:
        store: N descriptors (D,) with landmarks. Photos without a landmark are left out.
        dim: Dimension d of the result, at most D. Defaults to D.
        loss: Constructor of a loss with class centres. Defaults to the softmax of cosines.
        scale: Factor on the cosines of the default loss.
        epochs: Number of epochs. Defaults to the best one of the held-out photos.
        max_epochs: Largest number of epochs to try. Defaults to 20, or more if these are fewer than
            320 steps.
        patience: Stop after so many measurements without a better one, if they took 320 steps.
        folds: Fits with other held-out photos; the mean of their measurements chooses.
        trained_share: Share of the learned matrix in the result.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
        batch_size: Photos per step.
        dropout: Share of the entries of each vector that are zero in a step.
        seed: Seed of centres, order, dropout and held-out photos.
        device: Device of the fit.

    Raises:
        UserError: The store has no landmarks, or fewer than two with five photos, `dim` exceeds D,
            or the loss has no class centres.

    Source:
        Kordopatis-Zilos et al., ILIAS: Instance-Level Image Retrieval At Scale, CVPR 2025 (the
        linear adapter). Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022,
        equation 1 (`trained_share`).
    """
    if dim is not None and dim > store.dim:
        raise UserError(
            f"fit.dim={dim} is more than the {store.dim} dimensions of {store.path}. Pass "
            f"{store.dim} or less."
        )
    codes = landmark_codes(store)
    make = loss or partial(CosFace, margin=0.0, scale=scale)
    start = _start(store, dim or store.dim)
    settings = _Settings(
        make, lr, weight_decay, batch_size, dropout, trained_share, seed, torch_device(device)
    )
    curve: list[Quality] = []
    if epochs is None:
        limits = _limits(int((codes >= 0).sum()), batch_size, max_epochs, patience)
        curve = _curve(store, codes, start, settings, limits, folds)
        epochs = _chosen(curve, math.ceil(int((codes >= 0).sum()) / batch_size))
    fit = _Fit(store, codes, np.flatnonzero(codes >= 0), start, settings)
    for _ in tqdm(range(epochs), "fit", unit="epoch", leave=False, disable=None):
        fit.epoch()
    return Adapter(
        fit.weight.cpu().numpy(),
        {
            **{key: store.meta.get(key) for key in ("embedder", "whitening", "table")},
            "dim": dim or store.dim,
            "photos": int((codes >= 0).sum()),
            "landmarks": int(codes.max()) + 1,
            "epochs": epochs,
            **settings.recorded(),
            "curve": [point.recorded() for point in curve],
        },
    )


@dataclass(frozen=True)
class _Settings:
    """How a matrix is learned; see `fit_linear`."""

    make: Callable[..., nn.Module]
    lr: float
    weight_decay: float
    batch_size: int
    dropout: float
    trained_share: float
    seed: int
    device: torch.device

    def recorded(self) -> dict[str, Any]:
        """Return the settings for fit.yaml."""
        keys = ("lr", "weight_decay", "batch_size", "dropout", "trained_share", "seed")
        options = dict(self.make.keywords) if isinstance(self.make, partial) else {}
        make = self.make.func if isinstance(self.make, partial) else self.make
        return {
            "loss": {"name": make.__name__, **options},
            **{key: getattr(self, key) for key in keys},
        }


class _Fit:
    """A matrix (d, D) and the class centres of the loss, learned epoch by epoch.

    Args:
        store: Descriptors.
        codes: (N,) landmark of each row, 0 …; -1 for none.
        rows: Rows to fit to, ascending.
        start: (d, D).
        settings: See `fit_linear`.
    """

    def __init__(
        self,
        store: DescriptorStore,
        codes: NDArray[np.int64],
        rows: NDArray[np.int64],
        start: Tensor,
        settings: _Settings,
    ) -> None:
        self._vectors, self._settings = store.vectors, settings
        self._rows = rows
        _, labels = np.unique(codes[rows], return_inverse=True)
        self._labels = torch.from_numpy(labels)
        self._start = start.to(settings.device)
        self._matrix = nn.Parameter(self._start.clone())
        self._order = np.random.default_rng(settings.seed)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self._loss = _with_centres(settings.make, len(start), np.bincount(labels))
            self._loss.to(settings.device)
            self._imprint()
            self._random_state = torch.get_rng_state()
        self._optimizer = torch.optim.Adam(
            [self._matrix, *self._loss.parameters()],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def _imprint(self) -> None:
        """Set each class centre to the mean direction of its landmark's photos."""
        dim, source_dim = self._start.shape
        linear = nn.Linear(source_dim, dim, bias=False)
        linear.weight = nn.Parameter(self._start, requires_grad=False)
        labels = self._labels.to(self._settings.device)
        imprint(
            linear,
            self._loss,
            (
                (torch.from_numpy(self._read(block)), labels[block], labels[block])
                for block in row_blocks(len(self._rows))
            ),
        )

    def _read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Read some of the rows to fit to, ascending."""
        return np.asarray(self._vectors[self._rows[rows]], np.float32)

    @property
    def weight(self) -> Tensor:
        """The matrix, drawn towards its start: (d, D)."""
        return torch.lerp(self._start, self._matrix.detach(), self._settings.trained_share)

    def epoch(self) -> None:
        """Take one step for each batch of the photos, in a new order."""
        with torch.random.fork_rng():
            torch.set_rng_state(self._random_state)
            for vectors, labels in self._batches():
                self._step(vectors.to(self._settings.device), labels.to(self._settings.device))
            self._random_state = torch.get_rng_state()

    def _step(self, vectors: Tensor, labels: Tensor) -> None:
        embeddings = functional.normalize(vectors @ self._matrix.T, dim=1)
        self._optimizer.zero_grad()
        self._loss(embeddings, labels).backward()
        self._optimizer.step()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield vectors (B, D), some of their entries zero, and labels (B,) in a random order.

        A chunk of this order is read in the order of the file. Dropout is drawn on the CPU, so that
        it is the same on any device.
        """
        order = self._order.permutation(len(self._rows))
        size = self._settings.batch_size
        chunk_rows = max(1, _CHUNK_ROWS // size) * size
        for first in range(0, len(order), chunk_rows):
            chunk = order[first : first + chunk_rows]
            ascending = np.sort(chunk)
            vectors = torch.from_numpy(self._read(ascending))
            position = np.searchsorted(ascending, chunk)
            for start in range(0, len(chunk), size):
                batch = torch.from_numpy(position[start : start + size])
                labels = self._labels[torch.from_numpy(chunk[start : start + size])]
                yield functional.dropout(vectors[batch], self._settings.dropout), labels


def _with_centres(
    make: Callable[..., nn.Module], dim: int, counts: NDArray[np.int64]
) -> ClassifierLoss:
    """Construct the loss for the landmarks.

    Raises:
        UserError: It has no class centres.
    """
    loss = build_loss(make, dim, counts)
    if not isinstance(loss, ClassifierLoss):
        name = type(loss).__module__.rpartition(".")[2]
        raise UserError(
            f"loss@fit.loss={name} has no class centres, which fit=linear learns with the matrix. "
            "Choose a loss such as cosface or arcface."
        )
    return loss


def _start(store: DescriptorStore, dim: int) -> Tensor:
    """Return the identity, or the `dim` leading directions of the descriptors: (dim, D)."""
    if dim == store.dim:
        return torch.eye(dim)
    mean, covariance = mean_and_covariance(store)
    _, directions = np.linalg.eigh(covariance + np.outer(mean, mean))  # about the origin
    return torch.from_numpy(np.ascontiguousarray(directions[:, ::-1][:, :dim].T, np.float32))


@dataclass(frozen=True)
class _Limits:
    """When the measurements end.

    Attributes:
        epochs: Largest number of epochs.
        patience: Measurements without a better one,
        patience_epochs: if they took so many epochs.
    """

    epochs: int
    patience: int
    patience_epochs: int

    def reached(self, curve: Sequence[Quality]) -> bool:
        """Return whether no better measurement is to be expected."""
        best = int(np.argmax([point.score for point in curve]))
        epochs = curve[-1].epoch - curve[best].epoch
        return len(curve) - 1 - best >= self.patience and epochs >= self.patience_epochs


def _limits(photos: int, batch_size: int, max_epochs: int | None, patience: int) -> _Limits:
    """Return when the measurements of a store of so many photos end."""
    epochs = math.ceil(_LEAST_STEPS / math.ceil(photos / batch_size))
    return _Limits(max_epochs or max(_LEAST_EPOCHS, epochs), patience, epochs)


def _chosen(curve: Sequence[Quality], steps: int) -> int:
    """Return the number of epochs, each of so many steps."""
    if curve[0].score < _SATURATED:
        return max(curve, key=lambda point: point.score).epoch
    epochs = math.ceil(_FEW_STEPS / steps)
    notice(
        f"fit=linear: held-out photos find each other before the fit (mAP {curve[0].map:.4f}, 1-nn "
        f"{curve[0].nearest:.4f}), as those a network was trained on do, so they do not choose the "
        f"number of epochs. It is fit.epochs={epochs}, {_FEW_STEPS} steps."
    )
    return epochs


def _measured_epochs(last: int) -> Iterator[int]:
    """Yield the epochs to measure, each about 15 % more than the one before."""
    epoch = 0
    while epoch < last:
        epoch = min(last, max(epoch + 1, int(epoch * _GROWTH)))
        yield epoch


def _curve(
    store: DescriptorStore,
    codes: NDArray[np.int64],
    start: Tensor,
    settings: _Settings,
    limits: _Limits,
    folds: int,
) -> list[Quality]:
    """Fit without the held-out photos of each fold; return their mean quality by epoch."""
    parts: list[Held] = [held_out(codes, settings.seed, fold) for fold in range(folds)]
    fits = [_Fit(store, codes, held.fitted, start, settings) for held in parts]

    def measure(epoch: int) -> Quality:
        pairs = zip(parts, fits, strict=True)
        return Quality.mean(epoch, [quality(store, codes, h.rows, f.weight) for h, f in pairs])

    curve, done = [measure(0)], 0
    bar = tqdm(total=limits.epochs, desc="held-out photos", unit="epoch", leave=False, disable=None)
    with bar:
        for epoch in _measured_epochs(limits.epochs):
            for fit in fits:
                for _ in range(done, epoch):
                    fit.epoch()
            curve.append(measure(epoch))
            bar.update(epoch - done)
            done = epoch
            if limits.reached(curve):
                break
    return curve
