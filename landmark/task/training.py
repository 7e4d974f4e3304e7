"""One training run: fit, choose the checkpoint, write the embedder, say what happened."""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from landmark.data import LandmarkData
from landmark.error import UserError
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder, write_embedder
from landmark.task.blending import blend
from landmark.task.checkpoint_file import KeepLast
from landmark.task.heads import refuse_processes
from landmark.task.resume import write_result
from landmark.task.retrieval import RetrievalTask
from landmark.task.summary import end_summary, start_summary


def checkpoints(folder: Path, k: int, keep: str, every_steps: int | None) -> list[Checkpoint]:
    """Callbacks that keep `checkpoints/last.ckpt` and, by validation mAP@k, `best.ckpt`.

    Args:
        folder: the run folder.
        k: results a query in the validation's mAP.
        keep: "best" or "last", what becomes the run's embedder.
        every_steps: optimizer steps between two last.ckpt within an epoch; None: at its end alone.

    Raises:
        UserError: `keep` is neither best nor last, or `every_steps` is below 1.
    """
    if keep not in ("best", "last"):
        raise UserError(f"keep={keep}: choose best or last")
    keeping = partial(
        ModelCheckpoint,
        dirpath=folder / "checkpoints",
        save_top_k=1,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    return [
        keeping(filename="best", monitor=f"val/map_at_{k}", mode="max"),
        keeping(filename="last", monitor=None, save_on_train_epoch_end=True),
        KeepLast(folder / "checkpoints" / "last.ckpt", every_steps),
    ]


def initialise(embedder: Embedder, source: str) -> None:
    """Copies the weights of an earlier run's embedder (or checkpoint) into `embedder`.

    Raises:
        UserError: the two differ in architecture; names the first tensor that does.
    """
    earlier, _ = load_embedder(source)
    found, wanted = earlier.state_dict(), embedder.state_dict()
    for name in wanted.keys() | found.keys():
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
            raise UserError(
                f"init={source}: its {name} does not fit this model; "
                "choose the same model, pooling and neck"
            )
    embedder.load_state_dict(found)


def fit(
    trainer: pl.Trainer,
    task: RetrievalTask,
    data: LandmarkData,
    folder: Path,
    *,
    keep: str,
    resume_from: Path | None,
    choices: dict[str, str],
    at_the_end: Callable[[], None] = lambda: None,
) -> float | None:
    """Trains, then writes `folder/embedder` from the checkpoint that `keep` names.

    The first process calls `at_the_end` once all is trained, before the run counts as finished.
    With `max_epochs` 0 nothing is trained and the untrained embedder is written.

    Returns:
        The best validation mAP@k, None without validation.

    Raises:
        UserError: `keep` is best and there is nothing to validate with, or the head cannot serve
            so many processes.
        SystemExit: 143 after SIGTERM, once last.ckpt is written.
    """
    if keep == "best" and not data.has_answers:
        raise UserError(
            "keep=best: no held-out query has a photo of its landmark to find in the held-out "
            "gallery; give the landmarks more photos, or use keep=last"
        )
    refuse_processes(task, trainer)
    _say(start_summary(trainer, task, data, folder, choices, resume_from))
    began = time.perf_counter()
    best = None
    start = copy.deepcopy(task.embedder.backbone.state_dict()) if task.trained_share < 1 else None
    if trainer.max_epochs != 0:
        try:
            trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except SIGTERMException:
            _say("stopped by SIGTERM; the same command goes on from here")
            raise SystemExit(143) from None
        if trainer.interrupted:
            raise KeyboardInterrupt
        chosen = folder / "checkpoints" / f"{keep}.ckpt"
        _load_weights(task.embedder, chosen)
        if start is not None:
            blend(task.embedder.backbone, start, task.trained_share)
        best = _best_score(trainer)
    if trainer.is_global_zero:
        write_embedder(folder / "embedder", task.embedder, task.embedder_description, data.classes)
        if trainer.max_epochs != 0:
            at_the_end()
        _say_skipped(data)
        seconds = round(time.perf_counter() - began, 1)
        write_result(folder, best, task.settings, seconds, resumed=resume_from is not None)
    _say(end_summary(best, task.k, time.perf_counter() - began, folder))
    return best


def _load_weights(embedder: Embedder, path: Path) -> None:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    weights = {
        name.removeprefix("embedder."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("embedder.")
    }
    embedder.load_state_dict(weights)


def _best_score(trainer: pl.Trainer) -> float | None:
    scores = [
        float(callback.best_model_score)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        and callback.monitor
        and callback.best_model_score is not None
    ]
    return scores[0] if scores else None


def _say_skipped(data: LandmarkData) -> None:
    if data.bad_images is not None and (count := data.bad_images.tidy()):
        print(f"left out {count:,} photos that cannot be used: {data.bad_images.file}", flush=True)


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
