"""Summaries at the start and end of a training run, in place of Lightning's messages."""

import logging
import warnings
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from landmark.data import LandmarkData
from landmark.task.retrieval import RetrievalTask

_EXPECTED_WARNINGS = (
    ".*Experiment logs directory",
    ".*LeafSpec",
    ".*does not have many workers",
    ".*smaller than the logging",
    ".*dataloader is not resumable",  # the batch sampler resumes
    ".*Checkpoint directory",
    ".*overrides the configure_model",  # shards class centres before they are averaged
)


def silence_lightning() -> None:
    """Silence Lightning's info logs and expected warnings; train prints its own summary."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for pattern in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)


def start_summary(
    trainer: pl.Trainer,
    task: RetrievalTask,
    data: LandmarkData,
    folder: Path,
    choices: dict[str, str],
    resume_from: Path | None,
) -> str:
    """Return choices, data, sizes, steps and the folder of a run, one per line."""
    rows = dict(choices)
    landmarks = f"of {data.num_classes:,}" if data.num_classes else "without"
    rows["photos"] = (
        f"{len(data.train_table):,} train {landmarks} landmarks, "
        f"{len(data.query_labels):,} validation queries in {len(data.gallery_labels):,}"
    )
    rows["sizes"] = " ".join(f"{width}x{height}" for width, height in data.image_format.sizes)
    rows["parameters"] = (
        f"{_millions(task.embedder)} embedder, {_millions(task.loss)} head, "
        f"{task.embedder.embedding_dim}-d"
    )
    steps = data.steps_per_epoch(trainer.world_size) // trainer.accumulate_grad_batches
    rows["steps"] = (
        f"{trainer.max_epochs} epochs of {steps:,}, "
        f"{data.batch_size * trainer.world_size * trainer.accumulate_grad_batches} photos each"
    )
    rows["device"] = (
        f"{trainer.world_size} × {trainer.strategy.root_device.type}, {trainer.precision}"
    )
    if resume_from is not None:
        rows["resumes"] = str(resume_from)
    rows["folder"] = str(folder)
    return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def end_summary(best: float | None, k: int, seconds: float, folder: Path) -> str:
    """Return the wall time, the best validation metric, and last the folder."""
    lines = [f"trained in {seconds:.0f} s"]
    if best is not None:
        lines.append(f"best validation mAP@{k} {best:.4f}")
    return "\n".join([*lines, f"wrote {folder}"])


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} M"
