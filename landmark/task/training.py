"""One training run: fit, choose the checkpoint, write the embedder, say what happened."""

import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from landmark.data import LandmarkData
from landmark.mistake import UserMistake
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder, write_embedder
from landmark.task.retrieval import RetrievalTask
from landmark.task.summary import end_summary, start_summary


def checkpoints(folder: Path, k: int, keep: str) -> list[ModelCheckpoint]:
    """Callbacks that keep `checkpoints/last.ckpt` and, by validation mAP@k, `best.ckpt`.

    Raises:
        UserMistake: `keep` is neither best nor last.
    """
    if keep not in ("best", "last"):
        raise UserMistake(f"keep={keep}: choose best or last")
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
    ]


def initialise(embedder: Embedder, source: str) -> None:
    """Copies the weights of an earlier run's embedder (or checkpoint) into `embedder`.

    Raises:
        UserMistake: the two differ in architecture; names the first tensor that does.
    """
    earlier, _ = load_embedder(source)
    found, wanted = earlier.state_dict(), embedder.state_dict()
    for name in wanted.keys() | found.keys():
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape:
            raise UserMistake(
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
) -> float | None:
    """Trains, then writes `folder/embedder` from the checkpoint that `keep` names.

    With `max_epochs` 0 nothing is trained and the untrained embedder is written.

    Returns:
        The best validation mAP@k, None without validation.

    Raises:
        UserMistake: `keep` is best and there is nothing to validate with.
    """
    if keep == "best" and not data.has_validation:
        raise UserMistake("keep=best: the data has no held-out queries and gallery; use keep=last")
    _say(start_summary(trainer, task, data, folder, choices, resume_from))
    began = time.perf_counter()
    best = None
    if trainer.max_epochs != 0:
        trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        chosen = folder / "checkpoints" / f"{keep}.ckpt"
        _load_weights(task.embedder, chosen)
        best = _best_score(trainer)
    if trainer.is_global_zero:
        write_embedder(folder / "embedder", task.embedder, task.embedder_description, data.classes)
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


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
