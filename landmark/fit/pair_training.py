"""Fit a pair model to a store with local features: data, validation and a stopped fit."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.folder import damage, read_json, write_json
from landmark.artifact.local_features import ids_digest, local_names
from landmark.artifact.pair_model import Method, PairModel
from landmark.artifact.partial_store import clear
from landmark.device import torch_device
from landmark.disk.atomic import atomic_file
from landmark.disk.differences import as_recorded, check_same_settings
from landmark.error import UserError
from landmark.fit.pair_batches import Descriptors
from landmark.fit.pair_run import Objective, Run, Training
from landmark.fit.pair_validation import (
    TOP,
    Choice,
    HeldOut,
    held_out_rows,
    landmark_codes,
    local_name,
)
from landmark.fit.triplets import Triplets, check_anchors, nearest_photos
from landmark.processes import notice

_SETTINGS, _CHECKPOINT = "settings.json", "checkpoint.pt"
# Anchors of a step: of a large store, of a small one at least, and in how many parts it is divided.
_TRIPLETS, _LEAST_TRIPLETS, _PARTS = 200, 20, 50
_LEAST_STEPS: dict[Method, int] = {"elvis": 50, "ames": 100}  # of an epoch


class FittedPair(PairModel):
    """A pair model with the summary of its fit."""

    def summary(self, _: DescriptorStore) -> str:
        """Describe the fit in one line."""
        held, chosen = self.meta["held_out"], f"weight {self.meta['weight']:g}"
        if self.meta["weight"] == 1:
            chosen += f" (the pair model does not help: rerank={self.method} keeps the ranking)"
        else:
            chosen += f"   gamma {self.meta['gamma']:g}"
        return (
            f"{held['photos']:,} held-out photos: mAP@{TOP} {held['search']:.3f} → "
            f"{held['reranked']:.3f}   epoch {self.meta['epoch']}   {chosen}"
        )


class PairTraining:
    """The fit of a pair model: data, validation, steps and checkpoints.

    Args:
        method: `elvis` or `ames`.
        store: Descriptors with landmarks and local features.
        local: Name of the local features; None if there is one kind.
        training: How it is trained.
        staging: Folder of checkpoints, from which a stopped fit resumes. None means none.

    Raises:
        UserError: The store has no landmarks, too few, or no such local features; or the stopped
            fit had other settings.
    """

    def __init__(
        self,
        method: Method,
        store: DescriptorStore,
        local: str | None,
        training: Training,
        staging: Path | None,
    ) -> None:
        self.method, self.store, self.training, self.staging = method, store, training, staging
        self.local = local_name(store, local_names(store.path), local, method)
        self.features = store.local(self.local)
        self.device = torch_device(training.device)
        self._codes = landmark_codes(store, method)
        self._descriptors = Descriptors(self.features, training.max_descriptors, self.device)

    def sample(self, most: int) -> Iterator[Tensor]:
        """Yield the descriptors of photos of the fit, in a seeded order, `most` rows in total."""
        held = self._held_rows()
        rows = np.setdiff1d(np.flatnonzero(self._codes >= 0), held)
        for row in np.random.default_rng([self.training.seed, 3]).permutation(rows).tolist():
            part = self._descriptors.one(row)[:most]
            most -= len(part)
            yield part
            if not most:
                return

    def _held_rows(self) -> NDArray[np.int64]:
        return held_out_rows(self._codes, self.training.hold_out, self.training.seed)

    def fit(
        self,
        build: Callable[[], Objective],
        model: dict[str, Any],
        **recorded: Any,  # noqa: ANN401
    ) -> FittedPair:
        """Train and return the weights of the best epoch.

        Args:
            build: Returns the objective, whose model has its initial weights.
            model: Keywords of the model's constructor, for fit.yaml.
            **recorded: Other settings for fit.yaml.
        """
        settings = {"method": self.method, "local": self.local, "model": model, **recorded}
        settings |= {"training": asdict(self.training), "store": self._source()}
        self._check_staging(settings)
        held = HeldOut.search(
            self.store,
            self._held_rows(),
            self._codes,
            self.training.validation_queries,
            self.training.seed,
            self.training.device,
        )
        triplets = self._triplets(held.rows)
        size, steps = self._sizes(len(triplets.anchors))
        self._announce(triplets, held, size, steps)
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            objective = build()
        objective.model.to(self.device)
        run = Run(objective, self.training, self._descriptors, triplets, size, steps)
        self._train(run, held)
        return self._fitted(run, held, settings)

    def _train(self, run: Run, held: HeldOut) -> None:
        """Run the epochs that are not done, and keep the best one."""
        search = float(held.search_precisions().mean())
        if held.is_saturated:
            notice(
                f"fit={self.method}: held-out photos find each other without the pair model "
                f"(mAP@{TOP} {search:.4f}), as those a network was trained on do, so they cannot "
                "choose the best epoch. The last one is kept, with a weight that does not harm "
                "them. Fit to photos that the network was not trained on to choose both."
            )
        if self.staging is not None and run.load(self.staging / _CHECKPOINT):
            notice(f"Resuming: {run.epoch} of {self.training.epochs} epochs are done.")
        while run.epoch < self.training.epochs:
            loss = run.train_epoch()
            run.objective.model.eval()
            choice = None
            if not held.is_saturated or run.epoch == self.training.epochs:
                choice = held.choose(held.scores(run.objective.scorer(), self._descriptors.one))
            run.record(loss, choice)
            if self.staging is not None:
                run.save(self.staging / _CHECKPOINT)
            measured = (
                ""
                if choice is None
                else (f"   held-out mAP@{TOP} {choice.map:.4f} (search {search:.4f})")
            )
            notice(f"epoch {run.epoch}/{self.training.epochs}   loss {loss:.4f}{measured}")

    def _fitted(self, run: Run, held: HeldOut, settings: dict[str, Any]) -> FittedPair:
        """Return the best epoch; with a weight of 1 if its measured gain may be chance."""
        names = ("weight", "gamma", "map", "gains", "is_measured")
        choice = Choice(*(run.best[name] for name in names))
        meta = {key: value for key, value in settings.items() if key != "method"}
        meta |= {
            "local_settings": self.features.settings,
            "weight": 1.0 if choice.is_measured and choice.gain.low <= 0 else choice.weight,
            "gamma": choice.gamma,
            "epoch": run.best["epoch"],
            "held_out": {
                **held.recorded(),
                "search": float(held.search_precisions().mean()),
                "reranked": choice.map,
                "gain": list(choice.gain),
                "weight": choice.weight,
                "gamma": choice.gamma,
            },
            "curve": run.curve,
        }
        weights = {
            key: np.ascontiguousarray(value.cpu().numpy())
            for key, value in run.best["model"].items()
        }
        return FittedPair(self.method, weights, meta)

    def _triplets(self, held: NDArray[np.int64]) -> Triplets:
        codes = self._codes.copy()
        codes[held] = -1
        rows = np.flatnonzero(codes >= 0)
        options = self.training
        near = nearest_photos(self.store, rows, options.neighbours, self.staging, options.device)
        least = options.min_positives, options.min_negatives
        triplets = Triplets(near, codes, *least)
        try:
            check_anchors(triplets, self.store.path, *least, options.neighbours)
        except UserError:
            if self.staging is not None:
                clear(self.staging)
            raise
        return triplets

    def _sizes(self, anchors: int) -> tuple[int, int]:
        """Return the triplets of a step and the steps of an epoch."""
        size = self.training.triplets
        if size is None:
            size = min(_TRIPLETS, max(_LEAST_TRIPLETS, anchors // _PARTS))
        least = _LEAST_STEPS[self.method]
        steps = self.training.steps_per_epoch or max(least, math.ceil(anchors / size))
        return size, steps

    def _announce(self, triplets: Triplets, held: HeldOut, size: int, steps: int) -> None:
        counts = held.recorded()
        notice(
            f"{len(triplets.anchors):,} anchors of {triplets.landmarks():,} landmarks   "
            f"{self.training.epochs} epochs of {steps:,} steps of {size} triplets   held out: "
            f"{counts['photos']:,} photos of {counts['landmarks']:,} landmarks"
        )

    def _source(self) -> dict[str, Any]:
        """Return what identifies the store."""
        keys = ("embedder", "whitening", "table")
        source = {key: self.store.meta.get(key) for key in keys}
        return {**source, "photos": len(self.store), "ids": ids_digest(self.store.rows["id"])}

    def _check_staging(self, settings: dict[str, Any]) -> None:
        """Record the settings, or compare them with those of a stopped fit.

        Raises:
            UserError: A setting differs.
        """
        if self.staging is None:
            return
        file, requested = self.staging / _SETTINGS, as_recorded(settings)
        if file.is_file():
            with damage(file, f"Remove {self.staging}."):
                recorded = read_json(file)
            if (self.staging / _CHECKPOINT).is_file():
                check_same_settings(
                    recorded,
                    dict.fromkeys(recorded) | requested,
                    f"{self.staging} contains a stopped fit",
                    "Use the same settings to resume, or pass overwrite=true to start over.",
                )
            if recorded == requested:
                return
        clear(self.staging)
        with atomic_file(file) as temporary:
            write_json(temporary, requested)
