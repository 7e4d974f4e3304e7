"""Train an embedder of landmark photos and write it to the run folder.

landmark train model=fishnet loss=arcface
landmark train data=folder data.root=PHOTOS model=resnet101 weights=timm image=s2
landmark train experiment=small_collection data.root=PHOTOS
landmark train loss=arcface 'auxiliary=[supcon]' auxiliary.supcon.weight=0.5 sampler=per_class
landmark train -m loss=arcface,cosface,adacos model=fishnet,resnet101

The same command with the same hydra.run.dir resumes where it was stopped.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from landmark.cli._command import command, flags
from landmark.cli._jobs import run_as_single_job
from landmark.error import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from landmark.data import LandmarkData
    from landmark.loss.auxiliary import AuxiliaryLosses
    from landmark.task import RetrievalTask


@dataclass(frozen=True)
class Train:
    """Settings of a training run besides those of its groups.

    Attributes:
        weights: null (random), timm (its hub), a local .safetensors or .pth, or package:NAME.
        init: an earlier run's embedder folder or checkpoint to start from; the head starts anew.
        keep_head: start from that run's class centres too.
        keep: which weights become RUN/embedder.
        batch_size: photos a step on each process.
        workers: processes that decode, for each training process; null: one a CPU, at most 8.
        seed: of everything that is drawn.
        save_every_steps: steps between two checkpoints within an epoch; null: epochs only.
        overwrite: start over in a run folder that already contains checkpoints.
    """

    weights: str | None
    init: str | None
    keep_head: bool
    keep: Literal["best", "last"]
    batch_size: PositiveInt
    workers: NonNegativeInt | None
    seed: int
    save_every_steps: PositiveInt | None
    overwrite: bool


@command(Train, lists={"callback", "auxiliary"})
def main(settings: Train, config: DictConfig) -> float | None:
    """Return the best validation mAP, for sweepers that optimise it."""
    del settings
    OmegaConf.resolve(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if HydraConfig.get().mode == RunMode.MULTIRUN and has_several_processes(config):
        from landmark.task.resume import read_result

        run_as_single_job("train", HydraConfig.get().overrides.task, flags(), folder)
        return read_result(folder)
    return train(config, folder)


def train(config: DictConfig, folder: Path) -> float | None:
    """One training run from photos to `folder/embedder`."""
    import json

    import pytorch_lightning as pl
    from pytorch_lightning.utilities import rank_zero_only

    from landmark.data import LandmarkData
    from landmark.data.bad_images import BadImageList
    from landmark.model.persist import describe_embedder
    from landmark.task.checkpoint_file import WholeCheckpointIO
    from landmark.task.classes import KeepClasses, refuse_other_classes
    from landmark.task.finite import StopAtNonFinite
    from landmark.task.quiet import quieten
    from landmark.task.resume import checkpoint_to_resume, clear, is_finished, read_result
    from landmark.task.training import checkpoints, fit, initialise

    if config.keep_head and not config.init:
        raise UserError("keep_head=true: say whose head with init=RUN/embedder")
    quieten()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    began_with = plain(config)
    if is_finished(folder, began_with, config.overwrite):
        print(f"is trained already\nwrote {folder}")
        return read_result(folder)
    if config.overwrite:
        rank_zero_only(clear)(folder)
    resume_from, steps_done = checkpoint_to_resume(folder, began_with)

    source = instantiate(config.data)
    image = instantiate(config.image)
    embedder = instantiate(config.model)(
        pooling=instantiate(config.pooling),
        weights=config.weights,
        image_size=image.representative_size,
    )
    if config.init:
        initialise(embedder, config.init)
    for name in ("image", "test_image"):
        if name in config and config[name].interpolation is None:
            config[name].interpolation = embedder.interpolation
    data = LandmarkData(
        source=source,
        image_format=instantiate(config.image),
        test_format=instantiate(config.get("test_image")),
        sampler=instantiate(config.sampler),
        batch_size=config.batch_size,
        workers=config.workers,
        seed=config.seed,
        bad_images=BadImageList(folder / "bad_images.csv"),
    )
    data.setup("fit")
    refuse_other_classes(resume_from, data.classes)
    loss, auxiliary = losses(config, embedder.embedding_dim, data)
    task = instantiate(config.task)(
        embedder,
        loss,
        instantiate(config.optimizer),
        instantiate(config.schedule),
        embedder_description=describe_embedder(
            model=plain(config.model) | {"image_size": list(image.representative_size)},
            pooling=plain(config.pooling),
            image=plain(config.get("test_image") or config.image),
        ),
        settings=json.dumps(began_with),
        seed=config.seed,
        auxiliary=auxiliary,
        loss_name=HydraConfig.get().runtime.choices["loss"],
    )
    if config.task.freeze_backbone_epochs and config.trainer.strategy == "ddp":
        # A frozen backbone gives no gradients, which DDP must be told.
        config.trainer.strategy = "ddp_find_unused_parameters_true"
    trainer = instantiate(config.trainer)(
        default_root_dir=folder,
        logger=loggers(config, folder, steps_done),
        callbacks=[
            *checkpoints(folder, task.k, config.keep, config.save_every_steps),
            StopAtNonFinite(folder / "checkpoints" / "last.ckpt"),
            KeepClasses(data.classes),
            *callbacks(config),
        ],
        plugins=WholeCheckpointIO(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    if config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: PyTorch synchronises it on GPUs only")
    draw = partial(log_pictures, trainer, task, data, folder)
    try:
        return fit(
            trainer,
            task,
            data,
            folder,
            keep=config.keep,
            resume_from=resume_from,
            choices=chosen(config),
            at_the_end=draw,
        )
    finally:
        finish_loggers()


def losses(
    config: DictConfig, embedding_dim: int, data: "LandmarkData"
) -> tuple["nn.Module", "AuxiliaryLosses"]:
    """The main loss, with its head, and those beside it."""
    from landmark.loss.build import build_auxiliary, build_loss, check_pairs
    from landmark.task.earlier_head import take_over_head

    counts, main = data.class_counts, HydraConfig.get().runtime.choices["loss"]
    head = instantiate(config.head)
    loss = build_loss(instantiate(config.loss), embedding_dim, counts, head)
    weights, makes = {}, {}
    for name, settings in plain(config).get("auxiliary", {}).items():
        if name == main:
            raise UserError(f"auxiliary=[{name}]: is the main loss already; choose another")
        weights[name] = settings.pop("weight")
        makes[name] = instantiate(settings)
    auxiliary = build_auxiliary(makes, weights, embedding_dim, counts)
    check_pairs({main: loss, **auxiliary.losses}, config.sampler.get("photos_per_class", 1))
    if config.keep_head:
        take_over_head(loss, config.init, data.classes)
    return loss, auxiliary


def has_several_processes(config: DictConfig) -> bool:
    """Whether Lightning may start more processes than this one."""
    return config.trainer.devices not in (1, "1") or config.trainer.num_nodes > 1


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration node as dictionaries, lists and values."""
    return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def chosen(config: DictConfig) -> dict[str, str]:
    """The names of the choices, for the summary."""
    choices = HydraConfig.get().runtime.choices
    shown = ("data", "model", "pooling", "loss", "head", "optimizer", "sampler", "image", "trainer")
    start = config.init or config.weights or "random; weights=timm starts from a pretrained network"
    names = {name: str(choices[name]) for name in shown}
    for name, settings in plain(config).get("auxiliary", {}).items():
        names["loss"] += f" + {settings['weight']} {name}"
    return names | {"weights": start}


def loggers(config: DictConfig, folder: Path, steps_done: int) -> list:
    """metrics.csv always, going on where the checkpoint is, and the chosen logger beside it."""
    from pytorch_lightning.loggers import CSVLogger

    from landmark.task.history import carry_on_metrics
    from landmark.task.resume import lasting_name

    table = CSVLogger(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)
    if steps_done:
        carry_on_metrics(table, folder / "metrics.csv", steps_done)
    choice = HydraConfig.get().runtime.choices["logger"]
    if choice == "csv":
        return [table]
    options = {"id": lasting_name(folder), "resume": "allow"} if choice == "wandb" else {}
    return [table, instantiate(config.logger)(save_dir=folder, **options)]


def log_pictures(
    trainer: "pl.Trainer", task: "RetrievalTask", data: "LandmarkData", folder: Path
) -> None:
    """Draws the run's pictures and hands them to the loggers that show pictures."""
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
                logger.experiment.flush()  # the fit has closed the file


def finish_loggers() -> None:
    """Ends this job's run, so that the next job of a sweep begins one of its own."""
    if HydraConfig.get().runtime.choices["logger"] == "wandb":
        import wandb

        wandb.finish()


def callbacks(config: DictConfig) -> list:
    """The chosen callbacks, in the order given."""
    return [instantiate(callback) for callback in (config.get("callback") or {}).values()]
