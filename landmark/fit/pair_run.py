"""The steps, epochs and checkpoints of the fit of a pair model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from landmark.artifact.folder import damage
from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.fit.pair_batches import Descriptors, Photos
from landmark.fit.pair_validation import Choice
from landmark.fit.triplets import Triplets
from landmark.pair.scorer import PairScorer
from landmark.task.schedule import cosine

_VALUES_TOGETHER = 2**27  # of a backward pass: 512 MB


class Objective(Protocol):
    """What is fitted: a model, its loss for pairs, and its scorer."""

    @property
    def model(self) -> nn.Module:
        """The model that is fitted."""

    def losses(self, query: Photos, gallery: Photos, labels: Tensor) -> Tensor:
        """Return the loss of each pair, (B,); labels (B,) are 1 for the same landmark, else 0."""

    def scorer(self) -> PairScorer:
        """Return what scores pairs with the current weights."""

    def values(self, m: int, n: int) -> int:
        """Return about how many values the backward pass of a pair (m, n) keeps."""


@dataclass(frozen=True)
class Training:
    """How a pair model is trained; see `landmark.fit.elvis.fit_elvis`."""

    neighbours: int
    min_positives: int
    min_negatives: int
    triplets: int | None
    min_descriptors: int
    max_descriptors: int
    epochs: int
    steps_per_epoch: int | None
    lr: float
    weight_decay: float
    warmup: float
    hold_out: float
    validation_queries: int
    seed: int
    device: str

    def __post_init__(self) -> None:
        if self.min_descriptors >= self.max_descriptors:
            raise UserError(
                f"fit.min_descriptors={self.min_descriptors} is not below "
                f"fit.max_descriptors={self.max_descriptors}. Pass a smaller one."
            )


class Run:
    """Model, optimizer and schedule of a fit, and its best epoch."""

    def __init__(
        self,
        objective: Objective,
        training: Training,
        descriptors: Descriptors,
        triplets: Triplets,
        size: int,
        steps: int,
    ) -> None:
        self.objective, self._training = objective, training
        self._descriptors, self._triplets = descriptors, triplets
        self._size, self._steps = size, steps
        self.epoch = 0
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self._optimizer = torch.optim.AdamW(
            [weight for weight in objective.model.parameters() if weight.requires_grad],
            lr=training.lr,
            weight_decay=training.weight_decay,
        )
        total = steps * training.epochs
        self._schedule = cosine(self._optimizer, total, final_lr=0.0, warmup=training.warmup)

    def train_epoch(self) -> float:
        """Take the steps of the next epoch; return the mean loss.

        Raises:
            UserError: It is not finite.
        """
        # From seed and epoch, so that a resumed fit draws the same.
        random = np.random.default_rng([self._training.seed, 4, self.epoch])
        self.objective.model.train()
        bar = tqdm(
            self._batches(random), f"epoch {self.epoch + 1}", self._steps, False, disable=None
        )
        loss = float(np.mean([self.step(*batch) for batch in bar]))
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became NaN or infinite in epoch {self.epoch + 1}. Pass a fit.lr below "
                f"{self._training.lr:g}."
            )
        self.epoch += 1
        return loss

    def _batches(
        self, random: np.random.Generator
    ) -> Iterator[tuple[Photos, Photos]]:  # fmt: skip
        """Yield the photos of the pairs of each step: anchors, positives and negatives."""
        anchors, wanted = self._triplets.anchors, self._size * self._steps
        passes = math.ceil(wanted / len(anchors))
        order = np.concatenate([random.permutation(anchors) for _ in range(passes)])[:wanted]
        limits = self._training.min_descriptors, self._training.max_descriptors
        for part in order.reshape(self._steps, self._size):
            drawn = np.concatenate(self._triplets.draw(part, random))
            m, n = random.integers(*limits, 2).tolist()
            query = self._descriptors.batch(self._triplets.rows(part), m)
            yield query.repeated(), self._descriptors.batch(drawn, n)

    def step(self, query: Photos, gallery: Photos) -> float:
        """Take one step on pairs, the first half of the same landmark; return the loss.

        The backward pass is in blocks of pairs of bounded memory.
        """
        pairs = len(query)
        labels = torch.zeros(pairs, device=query.rows.device)
        labels[: pairs // 2] = 1
        together = max(1, _VALUES_TOGETHER // self.objective.values(*_lengths(query, gallery)))
        total = 0.0
        self._optimizer.zero_grad()
        for first in range(0, pairs, together):
            part = slice(first, first + together)
            loss = self.objective.losses(query[part], gallery[part], labels[part]).sum() / pairs
            loss.backward()
            total += float(loss.detach())
        self._optimizer.step()
        self._schedule.step()
        return total

    def record(self, loss: float, choice: Choice | None) -> None:
        """Record an epoch, and its weights if held-out photos were ranked and it is the best."""
        self.curve.append({"loss": loss} if choice is None else {"loss": loss, "map": choice.map})
        if choice is None or (self.best and choice.map <= self.best["map"]):
            return
        self.best = {
            "epoch": self.epoch,
            "map": choice.map,
            "weight": choice.weight,
            "gamma": choice.gamma,
            "gains": choice.gains.tolist(),
            "is_measured": choice.is_measured,
            "model": {k: v.clone() for k, v in self.objective.model.state_dict().items()},
        }

    def save(self, file: Path) -> None:
        """Write the state after an epoch."""
        state = {key: getattr(self, key) for key in ("epoch", "curve", "best")}
        for key, part in self._parts().items():
            state[key] = part.state_dict()
        with atomic_file(file) as temporary:
            torch.save(state, temporary)

    def load(self, file: Path) -> bool:
        """Restore the state after the last complete epoch; return whether there is one.

        Raises:
            UserError: The file is damaged.
        """
        if not file.is_file():
            return False
        with damage(file, f"Remove {file.parent}."):
            try:
                device = next(self.objective.model.parameters()).device
                state = torch.load(file, map_location=device, weights_only=True)
            except RuntimeError as error:
                raise ValueError(" ".join(str(error).split())) from error
        for key in ("epoch", "curve", "best"):
            setattr(self, key, state[key])
        for key, part in self._parts().items():
            part.load_state_dict(state[key])
        return True

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.objective.model,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }


def _lengths(query: Photos, gallery: Photos) -> tuple[int, int]:
    return tuple(min(side.count, side.rows.shape[1]) for side in (query, gallery))  # type: ignore[return-value]
