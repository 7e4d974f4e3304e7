"""Trains an embedder of landmark photos and writes it to the run folder.

python train.py model=fishnet loss=arcface
python train.py data=folder data.root=PHOTOS model=resnet101 weights=timm image=s2
python train.py experiment=small_collection data.root=PHOTOS
python train.py -m loss=arcface,cosface,adacos model=fishnet,resnet101
python train.py --help
"""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.command import plain_mistakes, refuse_lists, run


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
@plain_mistakes
def main(config: DictConfig) -> float | None:
    """Returns the best validation mAP, for sweepers that optimise it."""
    refuse_lists(HydraConfig.get().overrides.task, chains={"callback"})
    OmegaConf.resolve(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    return train(
        config, folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    )


def train(config: DictConfig, folder: Path) -> float | None:
    """One training run from photos to `folder/embedder`."""
    import json

    import pytorch_lightning as pl

    from landmark.data import LandmarkData
    from landmark.model.persist import describe_embedder
    from landmark.task.resume import checkpoint_to_resume
    from landmark.task.training import checkpoints, fit, initialise

    quieten()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    began_with = settings(config)
    resume_from = checkpoint_to_resume(folder, began_with, config.overwrite)

    source = instantiate(config.data)
    image = instantiate(config.image)
    embedder = instantiate(config.model)(
        pooling=instantiate(config.pooling), weights=config.weights, image_size=image.size(0)
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
    )
    data.setup("fit")
    loss = instantiate(config.loss)(
        embedding_dim=embedder.embedding_dim, num_classes=data.num_classes
    )
    task = instantiate(config.task)(
        embedder,
        loss,
        instantiate(config.optimizer),
        instantiate(config.schedule),
        embedder_description=describe_embedder(
            model=plain(config.model) | {"image_size": list(image.size(0))},
            pooling=plain(config.pooling),
            image=plain(config.get("test_image") or config.image),
        ),
        settings=json.dumps(began_with),
    )
    if config.task.freeze_backbone_epochs and config.trainer.strategy == "ddp":
        # A frozen backbone gives no gradients, which DDP must be told.
        config.trainer.strategy = "ddp_find_unused_parameters_true"
    trainer = instantiate(config.trainer)(
        default_root_dir=folder,
        logger=loggers(config, folder),
        callbacks=[*checkpoints(folder, task.k, config.keep), *callbacks(config)],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    return fit(
        trainer,
        task,
        data,
        folder,
        keep=config.keep,
        resume_from=resume_from,
        choices=chosen(config),
    )


def quieten() -> None:
    """Leaves out what Lightning says of itself: the run has a summary of its own."""
    import logging
    import warnings

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for words in (
        ".*Experiment logs directory",
        ".*LeafSpec",
        ".*does not have many workers",
        ".*smaller than the logging",
    ):
        warnings.filterwarnings("ignore", words)


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration node as dictionaries, lists and values."""
    return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def settings(config: DictConfig) -> dict[str, Any]:
    """What a resumed run must have in common with its beginning."""
    return {key: value for key, value in plain(config).items() if key not in ("overwrite",)}


def chosen(config: DictConfig) -> dict[str, str]:
    """The names of the choices, for the summary."""
    choices = HydraConfig.get().runtime.choices
    shown = ("data", "model", "pooling", "loss", "optimizer", "sampler", "image", "trainer")
    start = config.init or config.weights or "random; weights=timm starts from a pretrained network"
    return {name: str(choices[name]) for name in shown} | {"weights": start}


def loggers(config: DictConfig, folder: Path) -> list:
    """metrics.csv always, and the chosen logger beside it."""
    from pytorch_lightning.loggers import CSVLogger

    table = CSVLogger(save_dir=folder, name="", version="", flush_logs_every_n_steps=10)
    if HydraConfig.get().runtime.choices["logger"] == "csv":
        return [table]
    return [table, instantiate(config.logger)(save_dir=folder)]


def callbacks(config: DictConfig) -> list:
    """The chosen callbacks, in the order given."""
    return [instantiate(callback) for callback in (config.get("callback") or {}).values()]


if __name__ == "__main__":
    run(main)
