"""One training run: initial weights, fit, embedder of the chosen checkpoint, result."""

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from landmark.data import LandmarkData
from landmark.error import UserError
from landmark.model.embedder import Embedder
from landmark.model.persist import load_embedder, write_embedder
from landmark.model.weights_file import part_of_checkpoint, read_checkpoint
from landmark.task import heads
from landmark.task.first_validation import check_validations
from landmark.task.interrupt import StopOnInterrupt
from landmark.task.logging import end_summary
from landmark.task.retrieval import RetrievalTask
from landmark.task.run_folder import write_result

Keep = Literal["best", "last"]


@dataclass(frozen=True)
class Run:
    """Folder, settings and checkpoints of a run.

    Attributes:
        folder: Run folder.
        settings: Settings as dictionaries, lists and values.
        embedder_yaml: Text of embedder.yaml.
        keep: Checkpoint that becomes `folder/embedder`.
        resume_from: Checkpoint to resume from. None means a new run.
        same_command: The command that resumes the run, as messages describe it.
    """

    folder: Path
    settings: dict[str, Any]
    embedder_yaml: str
    keep: Keep
    resume_from: Path | None
    same_command: str = "the same command"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from after a stop."""
        return self.folder / "checkpoints" / "last.ckpt"

    def stopped(self, how: str) -> str:
        """Return the message of a stop, such as "interrupted; the same command resumes"."""
        return f"{how}; {self.same_command} resumes" if self.last.is_file() else how


def initialize_weights(embedder: Embedder, init: str) -> None:
    """Copy the weights of an earlier run's embedder folder or checkpoint into `embedder`.

    Raises:
        UserError: The architectures differ; names a tensor that does.
    """
    earlier, _ = load_embedder(init)
    saved, expected = earlier.state_dict(), embedder.state_dict()
    for name in expected.keys() | saved.keys():
        if name not in saved or name not in expected or saved[name].shape != expected[name].shape:
            raise UserError(
                f"init={init}: tensor {name} does not fit this model. Choose the same model, "
                "pooling and neck."
            )
    embedder.load_state_dict(saved)


@torch.no_grad()
def interpolate(backbone: nn.Module, start: Mapping[str, Tensor], share: float) -> None:
    """Replace each weight by `share` · trained + (1 - share) · start, in place.

    Fine-tuning on a few hundred photos then forgets less of what the pretrained network
    distinguishes. Running statistics of BatchNorm are averaged too, which is exact if training
    froze them (`task.freeze_batchnorm=true`).

    Args:
        backbone: Trained backbone.
        start: Its state dict before training.
        share: Share of the trained weights, in (0, 1].

    Source:
        Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022, equation 1.
    """
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.lerp(start[name].to(tensor), tensor, share))


def check_fit(trainer: pl.Trainer, task: RetrievalTask, data: LandmarkData, keep: Keep) -> None:
    """Check early what would otherwise fail after hours of training.

    Raises:
        UserError: No step or, for keep=best, no validation would run, or a head does not support
            the trainer's processes.
    """
    check_validations(trainer, data, keep)
    heads.check_trainer(task, trainer)


def check_batch_size(embedder: Embedder, batch_size: int) -> None:
    """Check that the neck can learn from the batches: BatchNorm needs two vectors or more.

    The samplers yield batches of two photos or more unless `batch_size` is 1. BatchNorm of a
    backbone normalises over the positions of a map too.

    Raises:
        UserError: `batch_size` is 1 and the neck has BatchNorm.
    """
    if batch_size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in embedder.neck.modules()):
        raise UserError(
            "batch_size=1: BatchNorm in the neck needs two photos or more. Pass batch_size=2 or "
            "more, or model.neck=none."
        )


def fit(
    trainer: pl.Trainer,
    task: RetrievalTask,
    data: LandmarkData,
    run: Run,
    before_result: Callable[[], None] = lambda: None,
) -> float | None:
    """Train, then write `RUN/embedder` from the checkpoint that `run.keep` names.

    Rank 0 calls `before_result` after training, before the run is marked as finished. With
    `max_epochs` 0 the untrained embedder is written.

    Returns:
        The best validation mAP@k, None without validation.

    Raises:
        SystemExit: 143 after SIGTERM, once last.ckpt is written.
        KeyboardInterrupt: After Ctrl-C, once last.ckpt is written.
    """
    began = time.perf_counter()
    best, kept = None, run.keep
    start = copy.deepcopy(task.embedder.backbone.state_dict()) if task.trained_share < 1 else None
    if trainer.max_epochs != 0:
        _train(trainer, task, data, run)
        best = _best_score(trainer.checkpoint_callbacks)
        kept = _load_kept(task.embedder, run, best)
        if start is not None:
            interpolate(task.embedder.backbone, start, task.trained_share)
    if trainer.is_global_zero:
        write_embedder(run.folder / "embedder", task.embedder, run.embedder_yaml, data.classes)
        if trainer.max_epochs != 0:
            try:
                before_result()
            except (OSError, UserError) as error:  # pictures: they never lose a training
                print(f"{run.folder}: no pictures ({error}).", file=sys.stderr, flush=True)
        _print_skipped(data)
        seconds = round(time.perf_counter() - began, 1)
        resumed = run.resume_from is not None
        write_result(run.folder, best, run.settings, seconds, resumed=resumed, kept=kept)
    _print(end_summary(best, task.k, time.perf_counter() - began, run.folder))
    return best


def _train(trainer: pl.Trainer, task: RetrievalTask, data: LandmarkData, run: Run) -> None:
    """Run the trainer; stop on SIGTERM and Ctrl-C with a message."""
    interrupt = StopOnInterrupt(run.last)
    trainer.callbacks.append(interrupt)  # type: ignore[attr-defined]
    try:
        with interrupt.handling(trainer):
            trainer.fit(task, datamodule=data, ckpt_path=run.resume_from, weights_only=True)
    except SystemExit as stop:  # Lightning raises it in place of KeyboardInterrupt too
        if not interrupt.happened:
            if not isinstance(stop, SIGTERMException):
                raise
            _print(run.stopped("interrupted by SIGTERM"))
            raise SystemExit(143) from None
    if interrupt.happened or interrupt.requested:
        if not trainer.is_global_zero:
            raise SystemExit(0)  # rank 0 reports the interrupt
        raise KeyboardInterrupt(run.stopped("interrupted"))


def _load_kept(embedder: Embedder, run: Run, best: float | None) -> Keep:
    """Load the checkpoint that `run.keep` names, else the last one: a training is never lost.

    Returns:
        Name of the loaded checkpoint; last also for the weights in memory, if none can be read.
    """
    problem = "no validation has a score"
    file = run.folder / "checkpoints" / f"{run.keep}.ckpt"
    if run.keep == "last" or best is not None:
        try:
            embedder.load_state_dict(part_of_checkpoint(read_checkpoint(file), "embedder"))
        except (UserError, KeyError, RuntimeError):
            problem = f"{file} is {'damaged' if file.is_file() else 'missing'}"
        else:
            return run.keep
    try:
        embedder.load_state_dict(part_of_checkpoint(read_checkpoint(run.last), "embedder"))
        source = str(run.last)
    except (UserError, KeyError, RuntimeError):
        source = "the last step"
    _print(f"keep={run.keep}: {problem}. {run.folder / 'embedder'} has the weights of {source}.")
    return "last"


def _best_score(callbacks: Sequence[pl.Callback]) -> float | None:
    scores = [
        float(callback.best_model_score)
        for callback in callbacks
        if isinstance(callback, ModelCheckpoint)
        and callback.monitor
        and callback.best_model_score is not None
        and math.isfinite(callback.best_model_score)
    ]
    return scores[0] if scores else None


def _print_skipped(data: LandmarkData) -> None:
    if data.bad_images is not None and (count := data.bad_images.tidy()):
        print(
            f"Skipped {count:,} photos that cannot be used, listed in {data.bad_images.file}.",
            flush=True,
        )


@rank_zero_only
def _print(text: str) -> None:
    print(text, flush=True)
