"""Describe photos with a trained embedder and write a descriptor store.

landmark extract embedder=RUN/embedder data=folder data.root=PHOTOS split=gallery output=STORE
landmark extract embedder=RUN/embedder split=query output=STORE extract.scales=[1]
landmark extract embedder=RUN/embedder split=train output=STORE devices=8
landmark extract embedder=RUN/embedder split=gallery output=STORE add=true

Defaults: without data= the photos that the run was trained on, without image= its sizes.
The same command resumes where it was stopped.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, NonNegativeFloat, NonNegativeInt, PositiveInt

from landmark.cli._command import command
from landmark.device import Device
from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.extract.extraction import Extraction
    from landmark.extract.group import Group

OF_TRAINING_VIEWS = ("augmentation", "flip")  # of image=: they do nothing to whole photos


@dataclass(frozen=True)
class Extract:
    """Settings of an extraction besides those of its groups.

    Attributes:
        embedder: a run's embedder folder (RUN/embedder) or one of its checkpoints.
        split: which photos; null: all.
        output: the descriptor store to write; null: a new folder under runs/extract.
        overwrite: start over and replace an existing store.
        add: add the photos that an existing store lacks.
        whitening: folder of a whitening applied to every descriptor last.
        batch_size: photos at once.
        workers: processes that decode, for each that describes; null: one a CPU, at most 8.
        device: where the embedder runs.
        devices: processes that share the photos, each with its own GPU where there are any.
        save_every: seconds after which descriptors survive a kill.
        precision: of the forward passes.
        dtype: of the stored vectors.
    """

    embedder: str
    split: Literal["train", "query", "gallery"] | None
    output: str | None
    overwrite: bool
    add: bool
    whitening: str | None
    batch_size: PositiveInt
    workers: NonNegativeInt | None
    device: Device
    devices: PositiveInt
    save_every: NonNegativeFloat
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(str)]
    dtype: Literal["float16", "float32"]

    def __post_init__(self) -> None:
        if self.overwrite and self.add:
            raise UserError("add=true adds to a store, overwrite=true replaces it. Pass one.")


@command(Extract)
def main(settings: Extract, config: DictConfig) -> None:
    """Check the configuration, then extract."""
    from landmark.extract.group import Group

    del settings
    group = Group.from_environment()
    extract(config, Path(group.told(config.output or default_output())), group)


def extract(config: DictConfig, output: Path, group: "Group") -> None:
    """Photos of one split to the descriptor store `output`."""
    from landmark.extract.plan import Plan
    from landmark.extract.storing import store_descriptors
    from landmark.model.persist import embedder_digest, load_embedder

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
        raise UserError(f"data: {embedder} is in no run folder; say which photos with data=…")
    return OmegaConf.load(settings).data
