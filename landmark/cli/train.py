"""Train an embedder of landmark photos and write it to the run folder.

landmark train model=fishnet loss=arcface
landmark train data=folder data.root=PHOTOS model=resnet101 weights=timm image=s2
landmark train experiment=small_collection data.root=PHOTOS
landmark train loss=arcface 'auxiliary=[supcon]' auxiliary.supcon.weight=0.5 sampler=per_class
landmark train 'auxiliary=[distil]' auxiliary.distil.teacher=STORE
landmark train loss=distil loss.teacher=STORE keep=last    # photos without landmarks
landmark train -m loss=arcface,cosface,adacos model=fishnet,resnet101

The same command with the same hydra.run.dir resumes an interrupted run.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import PositiveInt

from landmark.cli._command import command
from landmark.cli._jobs import run_as_single_job
from landmark.cli._losses import expected_dim, losses, needs_landmarks, plain, teacher_of
from landmark.cli._splits import (
    keep_splits,
    print_notes,
    use_splits_of_init,
    use_splits_to_resume,
)
from landmark.device import Device
from landmark.disk.lock import locked_in_place
from landmark.error import UserError
from landmark.settings import BatchSize, Seed, Workers

PROCESSES_PER_CPU = 4  # more only compete for the CPUs and fill the memory

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from landmark.artifact.descriptors import DescriptorStore
    from landmark.data import LandmarkData
    from landmark.data.source import Source
    from landmark.model.embedder import Embedder
    from landmark.task import RetrievalTask


@dataclass(frozen=True)
class Train:
    """Own settings of a training run; conf/train.yaml describes them."""

    weights: str | None
    init: str | None
    keep_head: bool
    keep: Literal["best", "last"]
    batch_size: BatchSize
    workers: Workers | None
    device: Device | None
    seed: Seed
    save_every_steps: PositiveInt | None
    overwrite: bool


@command(Train, lists={"callback", "auxiliary"})
def main(settings: Train, config: DictConfig) -> float | None:
    """Return the best validation mAP, for sweepers that optimise it."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if hydra.mode == RunMode.MULTIRUN and has_several_processes(config):
        from landmark.task.run_folder import read_result

        run_as_single_job("train", folder)
        return read_result(folder)["best"]
    # The folder of a single run is locked before Hydra writes its .hydra.
    with locked_in_place(folder) if hydra.mode == RunMode.MULTIRUN else nullcontext():
        return train(settings, config, folder)


def train(settings: Train, config: DictConfig, folder: Path) -> float | None:  # noqa: PLR0912, PLR0915
    """Run one training, from photos to `folder/embedder`."""
    import pytorch_lightning as pl
    from pytorch_lightning.utilities import rank_zero_only

    from landmark.data import LandmarkData
    from landmark.data.bad_images import BadImageList
    from landmark.data.run_splits import SPLIT_TABLE
    from landmark.loss.nested import validated_dims
    from landmark.model.persist import describe_embedder
    from landmark.task import run_folder
    from landmark.task.checkpoints import (
        AtomicCheckpointIO,
        BeforeFirstCheckpoint,
        RecordRun,
        checkpoint_callbacks,
    )
    from landmark.task.logging import silence_lightning, start_summary
    from landmark.task.nan_guard import NanGuard
    from landmark.task.restore_head import restore_head
    from landmark.task.training import (
        Run,
        check_batch_size,
        check_fit,
        fit,
        initialize_weights,
    )

    # --- checks: everything that can fail in a second fails here ---
    silence_lightning()
    recorded = plain(config)
    source = instantiate(config.data)
    if not settings.overwrite and run_folder.is_finished(folder, recorded):
        if source.root.is_dir():
            use_splits_to_resume(folder, None, source)
        print(f"{folder} is up to date (same settings); nothing to do.\nwrote {folder}")
        return run_folder.read_result(folder)["best"]
    resume_from, steps_done = None, 0
    if not settings.overwrite:
        resume_from, steps_done = run_folder.checkpoint_to_resume(folder, recorded)
    make_trainer = partial(instantiate(config.trainer), **trainer_options(settings, config))
    with constructor_errors("trainer"):
        bare_trainer = make_trainer(logger=False, enable_checkpointing=False)
    teacher = teacher_of(config)
    check_before_data(settings, config, bare_trainer, teacher)
    pl.seed_everything(settings.seed, workers=True, verbose=False)

    if resume_from is not None:
        use_splits_to_resume(folder, resume_from, source)

    # --- model ---
    image_settings = with_sizes(recorded["image"], source)
    test_settings = with_sizes(recorded.get("test_image") or recorded["image"], source)
    image_size = instantiate(image_settings).representative_size
    embedder = instantiate(config.model)(
        pooling=instantiate(config.pooling),
        weights=settings.weights,
        image_size=image_size,
    )
    if config.loss.get("nested"):
        validated_dims(plain(config.loss)["nested"], embedder.embedding_dim)
    if settings.init:
        initialize_weights(embedder, settings.init)
        if resume_from is None:
            use_splits_of_init(Path(settings.init), source, config.data)

    # --- data ---
    bad_images = folder / "bad_images.csv"
    if settings.overwrite:
        rank_zero_only(bad_images.unlink)(missing_ok=True)
    # interpolation defaults to the backbone's.
    for options in (image_settings, test_settings):
        options["interpolation"] = options["interpolation"] or embedder.interpolation
    data = LandmarkData(
        source=source,
        image_format=instantiate(image_settings),
        test_format=instantiate(test_settings),
        sampler=instantiate(config.sampler),
        batch_size=settings.batch_size,
        workers=settings.workers,
        seed=settings.seed,
        bad_images=BadImageList(bad_images),
        teacher=teacher,
        needs_landmarks=needs_landmarks(config),
    )
    data.setup("fit")
    rank_zero_only(print_notes)(source, sys.stdout)  # standard error is for errors
    run_folder.check_same_classes(resume_from, data.classes)

    # --- loss and head ---
    loss, auxiliary = losses(config, embedder.embedding_dim, data.class_counts, teacher)
    if settings.keep_head:
        restore_head(loss, str(settings.init), data.classes)
    task = instantiate(config.task)(
        embedder,
        loss,
        instantiate(config.optimizer),
        instantiate(config.schedule),
        auxiliary=auxiliary,
        loss_name=HydraConfig.get().runtime.choices["loss"],
        seed=settings.seed,
    )

    # --- trainer ---
    embedder_yaml = describe_embedder(
        model=recorded["model"] | {"image_size": list(image_size)},
        pooling=recorded["pooling"],
        image=test_settings,
        split_table=SPLIT_TABLE,
    )
    check_fit(bare_trainer, task, data, settings.keep)
    check_batch_size(embedder, settings.batch_size)
    precision = chosen_precision(
        config, bare_trainer, embedder, image_size, settings.batch_size, resume_from
    )
    run = Run(
        folder, recorded, embedder_yaml, settings.keep, resume_from, same_command(settings, folder)
    )
    if settings.overwrite:
        rank_zero_only(run_folder.clear)(folder)
    callbacks = [instantiate(callback) for callback in (config.get("callback") or {}).values()]
    if resume_from is None or not (folder / SPLIT_TABLE).is_file():
        callbacks.append(BeforeFirstCheckpoint(partial(keep_splits, folder, source)))
        if bare_trainer.max_epochs == 0:  # without a checkpoint
            rank_zero_only(keep_splits)(folder, source)
    trainer = make_trainer(
        precision=precision,
        default_root_dir=folder,
        logger=loggers(config, folder, steps_done),
        callbacks=[
            *checkpoint_callbacks(folder, task.k, settings.save_every_steps),
            NanGuard(folder / "checkpoints" / "last.ckpt"),
            RecordRun(recorded, embedder_yaml, data.classes, str(precision)),
            *callbacks,
        ],
        plugins=AtomicCheckpointIO(),
    )

    # --- fit, write RUN/embedder ---
    summary = start_summary(trainer, task, data, folder, chosen(config), resume_from)
    rank_zero_only(print)(summary + hint(settings, resume_from), flush=True)
    try:
        return fit(trainer, task, data, run, partial(log_pictures, trainer, task, data, folder))
    finally:
        finish_loggers()


def check_before_data(
    settings: Train, config: DictConfig, trainer: "pl.Trainer", teacher: "DescriptorStore | None"
) -> None:
    """Check early what needs neither photos nor weights."""
    import numpy as np
    import torch

    from landmark.task.restore_head import find_checkpoint

    if settings.keep_head and not settings.init:
        raise UserError("keep_head=true needs a run to take the head from. Pass init=RUN/embedder.")
    if settings.init and not Path(settings.init).exists():
        raise UserError(f"init={settings.init} does not exist. Pass RUN/embedder or a checkpoint.")
    if settings.keep_head:
        find_checkpoint(Path(str(settings.init)))
    if config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise UserError(
            "trainer.sync_batchnorm=true: PyTorch synchronises BatchNorm on GPUs only. Pass false."
        )
    check_logger()
    check_trainer(config, trainer)
    losses(
        config,
        embedding_dim=expected_dim(config),
        class_counts=np.full(10, 2),
        teacher=teacher,
    )
    with constructor_errors("optimizer"):
        optimizer = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    instantiate(config.schedule)(optimizer, 1)
    monitors = [f"val/map_at_{config.task.k}", "val/top_1", "train/loss"]
    for name, callback in (config.get("callback") or {}).items():
        if callback.get("monitor", monitors[0]) not in monitors:
            raise UserError(
                f"callback.{name}.monitor={callback.monitor} is not a metric of this run. Pass one "
                f"of {', '.join(monitors)}."
            )


def check_trainer(config: DictConfig, trainer: "pl.Trainer") -> None:
    """Check the number of processes and the length of the training."""
    from landmark.device import usable_cpus

    is_cpu = trainer.strategy.root_device.type == "cpu"
    if is_cpu and trainer.num_devices > PROCESSES_PER_CPU * usable_cpus():
        raise UserError(
            f"trainer.devices={config.trainer.devices} is more than {PROCESSES_PER_CPU} processes "
            f"for each of {usable_cpus()} CPUs. Pass fewer."
        )
    has_end = config.trainer.max_steps > 0 or config.trainer.max_epochs != -1
    schedule = config.schedule
    is_constant = schedule._target_.endswith(".constant") and not schedule.get("warmup")
    if not (has_end or is_constant):
        raise UserError(
            "trainer.max_epochs=-1 trains without an end, but the schedule depends on it. Pass "
            "trainer.max_steps, or schedule=constant schedule.warmup=0."
        )


@contextmanager
def constructor_errors(group: str) -> Iterator[None]:
    """Raise errors of a library's constructor as user errors that name the group."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"{group}: {error}") from error


def trainer_options(settings: Train, config: DictConfig) -> dict[str, Any]:
    """Return trainer arguments that follow from other settings."""
    from landmark.device import torch_device

    options: dict[str, Any] = {
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    if config.trainer.precision == "auto":
        if has_several_processes(config):
            raise UserError(
                f"trainer.precision=auto measures in one process, not in trainer.devices="
                f"{config.trainer.devices}. Pass trainer.precision=bf16-mixed or 32-true."
            )
        options["precision"] = "32-true"  # until it is measured
    if config.task.freeze_backbone_epochs and config.trainer.strategy == "ddp":
        # A frozen backbone has no gradients, an error in plain DDP.
        options["strategy"] = "ddp_find_unused_parameters_true"
    if settings.device is not None:
        device = torch_device(settings.device)
        options["accelerator"] = device.type
        if ":" in settings.device:
            options["devices"] = [device.index]
    return options


def chosen_precision(
    config: DictConfig,
    trainer: "pl.Trainer",
    embedder: "Embedder",
    image_size: tuple[int, int],
    batch_size: int,
    resume_from: Path | None,
) -> str | int | None:
    """Return trainer.precision; with `auto` that of the run to resume, else the measured one."""
    from landmark.model.weights_file import read_checkpoint
    from landmark.task.precision import measured_precision

    if config.trainer.precision != "auto":
        return config.trainer.precision
    if resume_from is not None:
        precision = read_checkpoint(resume_from, mmap=True)["precision"]
        print(f"trainer.precision=auto: {precision}, as the run was begun.", flush=True)
        return precision
    if trainer.max_epochs == 0:
        return "32-true"
    device = trainer.strategy.root_device
    precision, line = measured_precision(embedder, image_size, batch_size, device)
    print(line, flush=True)
    return precision


def with_sizes(options: dict[str, Any], source: "Source") -> dict[str, Any]:
    """Copy the settings of an image format; its sizes default to the data's."""
    if options.get("sizes", ()) is None:
        from landmark.image.format import XS

        return options | {"sizes": [list(size) for size in source.image_sizes or XS]}
    return dict(options)


def has_several_processes(config: DictConfig) -> bool:
    """Whether Lightning may start more processes than this one."""
    return config.trainer.devices not in (1, "1") or config.trainer.num_nodes > 1


def chosen(config: DictConfig) -> dict[str, str]:
    """Return the names of the choices, for the summary."""
    choices = HydraConfig.get().runtime.choices
    groups = (
        "data",
        "model",
        "pooling",
        "loss",
        "head",
        "optimizer",
        "sampler",
        "image",
        "trainer",
    )
    names = {name: str(choices[name]) for name in groups}
    for name, options in plain(config).get("auxiliary", {}).items():
        names["loss"] += f" + {options['weight']} {name}"
    return names | {"weights": config.init or config.weights or "random"}


def same_command(settings: Train, folder: Path) -> str:
    """Describe the command that resumes this run: a run without hydra.run.dir has a new folder."""
    hydra = HydraConfig.get()
    is_sweep = hydra.mode == RunMode.MULTIRUN
    key, value = ("hydra.sweep.dir", hydra.sweep.dir) if is_sweep else ("hydra.run.dir", folder)
    command = "the same command"
    if not any(override.lstrip("+").startswith(f"{key}=") for override in hydra.overrides.hydra):
        command += f" with {key}={value}"
    return f"{command} without overwrite=true" if settings.overwrite else command


def hint(settings: Train, resume_from: Path | None) -> str:
    """Return advice for a run from random weights, else an empty string."""
    if settings.init or settings.weights or resume_from is not None:
        return ""
    return (
        "\n\nRandom weights start at chance and learn slowly: expect a mAP@100 of 0.2 to 0.3 on\n"
        "the drawn world after these epochs, and days of training on real photos. To start from\n"
        "trained weights pass weights=timm, weights=FILE (.safetensors or .pth),\n"
        "weights=package:NAME or init=RUN/embedder.\n"
    )


def loggers(config: DictConfig, folder: Path, steps_done: int) -> list:
    """Return the loggers: metrics.csv, continued from the checkpoint, and the chosen one."""
    from pytorch_lightning.loggers import CSVLogger

    from landmark.task.run_folder import restore_metrics, run_name

    table = CSVLogger(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)
    if steps_done:
        restore_metrics(table, folder / "metrics.csv", steps_done)
    choice = HydraConfig.get().runtime.choices["logger"]
    if choice == "csv":
        return [table]
    options = {"id": run_name(folder), "resume": "allow"} if choice == "wandb" else {}
    return [table, instantiate(config.logger)(save_dir=folder, **options)]


def log_pictures(
    trainer: "pl.Trainer", task: "RetrievalTask", data: "LandmarkData", folder: Path
) -> None:
    """Draw the run's pictures and log them to TensorBoard or wandb."""
    import numpy as np
    from PIL import Image
    from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

    from landmark.report.run_pictures import draw_pictures

    for name, file in draw_pictures(folder, task, data).items():
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key=name, images=[str(file)])
            elif isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(Image.open(file).convert("RGB"))
                logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
                logger.experiment.flush()  # fit has closed the file


def check_logger() -> None:
    """Check that the chosen logger is installed."""
    choice = HydraConfig.get().runtime.choices["logger"]
    packages = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}
    needed = packages.get(str(choice), ())
    if needed and not any(find_spec(name) for name in needed):
        raise UserError(
            f"logger={choice} needs the package {needed[0]}. Run pip install {needed[0]}, or pass "
            "logger=csv."
        )


def finish_loggers() -> None:
    """Finish the wandb run, so that the next job of a sweep starts its own."""
    if HydraConfig.get().runtime.choices["logger"] == "wandb":
        import wandb

        wandb.finish()
