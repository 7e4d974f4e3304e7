"""Describes photos with a trained embedder and writes a descriptor store.

python extract.py embedder=RUN/embedder data=folder data.root=PHOTOS split=gallery output=STORE
python extract.py embedder=RUN/embedder split=query output=STORE extract.scales=[1]
python extract.py embedder=RUN/embedder split=train output=STORE devices=8
python extract.py embedder=RUN/embedder split=gallery output=STORE add=true
python extract.py --help
"""

from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.command import plain_mistakes, refuse_lists, run
from landmark.mistake import UserMistake
from landmark.setting_types import refuse_wrong_arguments, refuse_wrong_settings

if TYPE_CHECKING:
    from landmark.extract.extraction import Extraction
    from landmark.extract.group import Group

# Settings that go to no constructor and that `check` does not see to, and what they are.
OWN_SETTINGS = {
    "embedder": str,
    "output": str | None,
    "overwrite": bool,
    "add": bool,
    "whitening": str | None,
    "device": str,
}
OF_TRAINING_VIEWS = ("augmentation", "flip")  # of image=: they do nothing to whole photos


@hydra.main(config_path="conf", config_name="extract", version_base="1.3")
@plain_mistakes
def main(config: DictConfig) -> None:
    """Checks the configuration, then extracts."""
    refuse_lists(HydraConfig.get().overrides.task)
    check(config)
    from landmark.extract.group import Group

    group = Group.from_environment()
    extract(config, Path(group.told(config.output or default_output())), group)


def check(config: DictConfig) -> None:
    """Refuses wrong settings before anything heavy is imported."""
    refuse_wrong_settings(config, OWN_SETTINGS)
    if config.split not in (None, "train", "query", "gallery"):
        raise UserMistake(f"split={config.split}: choose train, query, gallery or null for all")
    if config.dtype not in ("float16", "float32"):
        raise UserMistake(f"dtype={config.dtype}: choose float16 or float32")
    if str(config.precision) not in ("32", "bf16", "16"):
        raise UserMistake(f"precision={config.precision}: choose 32, bf16 or 16")
    for key, least in (("devices", 1), ("batch_size", 1), ("workers", 0), ("save_every", 0)):
        kinds = (int, float) if key == "save_every" else int
        if key == "workers" and config.workers is None:
            continue
        if not isinstance(config[key], kinds) or config[key] < least:
            raise UserMistake(f"{key}={config[key]}: give a number, {least} or more")
    if config.overwrite and config.add:
        raise UserMistake("add=true: adds to a store, overwrite=true replaces it; choose one")


def extract(config: DictConfig, output: Path, group: "Group") -> None:
    """Photos of one split to the descriptor store `output`."""
    from landmark.extract.plan import Plan
    from landmark.extract.storing import store_descriptors
    from landmark.model.persist import embedder_digest, load_embedder

    refuse_wrong_arguments(config)
    embedder, description = load_embedder(config.embedder)
    image = OmegaConf.create(config.get("image") or description["image"])
    if image.interpolation is None:
        image.interpolation = embedder.interpolation
    digest = embedder_digest(config.embedder)
    extraction = extraction_of(config, image, group)
    method, whitening = extraction.method, extraction.whitening
    of_whole_photos = [key for key in image if key not in OF_TRAINING_VIEWS]
    if whitening is not None:
        recorded = {"embedder": digest, "whitening": None}
        whitening.check_fits(recorded, embedder.embedding_dim, f"embedder={config.embedder}")
    plan = Plan(
        extraction,
        embedder,
        output,
        config.dtype,
        {
            "embedder": digest,
            "table": extraction.table.digest,
            "scales": list(method.scales),
            "flip": method.flip,
            "image": OmegaConf.to_container(OmegaConf.masked_copy(image, of_whole_photos)),
            "split": config.split,
            "precision": extraction.precision,
            "whitening": whitening.digest if whitening else None,
        },
        overwrite=config.overwrite,
        add=config.add,
        devices=config.devices,
    )
    if group.is_first:
        print(
            f"{len(extraction.table):,} photos, {plan.dim}-d, scales {list(method.scales)}, "
            f"flip {method.flip}",
            flush=True,
        )
    store_descriptors(plan, group)


def extraction_of(config: DictConfig, image: DictConfig, group: "Group") -> "Extraction":
    """What is described and how; reads the photos' table and sizes."""
    from landmark.extract.extraction import Extraction
    from landmark.extract.whitening import Whitening

    source = instantiate(config.get("data") or data_of_run(Path(config.embedder)))
    method, image_format = instantiate(config.extract), instantiate(image)
    with group.first_goes_ahead():  # it remembers the sizes that it reads
        table = source.read(config.split).with_sizes()
    return Extraction(
        Path(config.embedder),
        table,
        image_format,
        method,
        Whitening.open(config.whitening) if config.whitening else None,
        batch_size=config.batch_size,
        workers=config.workers,
        device=config.device,
        precision=str(config.precision),
        save_every=config.save_every,
    )


def default_output() -> Path:
    """A new place below runs, or below the folder of this job in a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder == Path.cwd():
        folder = Path("runs/extract") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    # Another may have begun in the same second: its hidden folder lies there.
    names = ("store" if number == 1 else f"store-{number}" for number in count(1))
    return next(folder / name for name in names if not any(folder.glob(f"*{name}*")))


def data_of_run(embedder: Path) -> DictConfig:
    """The data that the run of `RUN/embedder` (or `RUN/checkpoints/….ckpt`) was trained on."""
    settings = embedder.resolve().parent.parent / ".hydra" / "config.yaml"
    if embedder.is_dir():
        settings = embedder.resolve().parent / ".hydra" / "config.yaml"
    if not settings.is_file():
        raise UserMistake(f"data: {embedder} is in no run folder; say which photos with data=…")
    return OmegaConf.load(settings).data


if __name__ == "__main__":
    run(main)
