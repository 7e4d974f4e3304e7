"""Extract descriptors of photos with a trained embedder and write a descriptor store.

landmark extract embedder=RUN/embedder data=folder data.root=PHOTOS split=gallery output=STORE
landmark extract embedder=RUN/embedder split=query output=STORE extract.scales=[1]
landmark extract embedder=RUN/embedder split=train output=STORE devices=8
landmark extract embedder=RUN/embedder split=gallery output=STORE add=true
landmark extract embedder=RUN/embedder split=gallery output=STORE local=rootsift

local= writes local features into the store; one that has its descriptors gets only them.
data= defaults to the photos that the run was trained on, image= to its image format.
The same command resumes an interrupted extraction.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, NonNegativeFloat, PositiveInt

from landmark.cli._command import command
from landmark.cli._local import local_of_store, requested_local
from landmark.cli._splits import data_of, print_notes, run_of, use_splits_of
from landmark.device import Device, Precision
from landmark.error import UserError
from landmark.settings import BatchSize, Workers

if TYPE_CHECKING:
    from landmark.data.image_table import ImageTable
    from landmark.extract.extraction import Extraction
    from landmark.extract.local import LocalExtraction
    from landmark.model.embedder import Embedder

_TRAINING_VIEW_SETTINGS = ("augmentation", "flip")  # of image=, which extraction ignores


@dataclass(frozen=True)
class Extract:
    """Own settings of an extraction; conf/extract.yaml describes them."""

    embedder: str
    split: Literal["train", "query", "gallery"] | None
    output: str | None
    overwrite: bool
    add: bool
    whitening: str | list[str] | None
    background: str | None
    batch_size: BatchSize
    workers: Workers | None
    device: Device
    devices: PositiveInt
    save_every: NonNegativeFloat
    precision: Annotated[Precision | Literal["auto"], BeforeValidator(str)]
    dtype: Literal["float16", "float32"]

    def __post_init__(self) -> None:
        if self.overwrite and self.add:
            raise UserError("add=true adds to a store, overwrite=true replaces it. Pass one.")


@command(Extract)
def main(settings: Extract, config: DictConfig) -> None:
    """Check the configuration, then extract."""
    # Huge pages for feature maps: a page fault for each 4 KiB of them takes longer than many
    # convolutions. PyTorch reads the variable at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from landmark.processes import broadcast, silence_other_ranks

    output = Path(broadcast(settings.output or str(default_output())))
    with silence_other_ranks():
        print(extract(settings, config, output))


def extract(settings: Extract, config: DictConfig, output: Path) -> str:
    """Write descriptors of a split to the store `output`; return the line to print."""
    from landmark.artifact.adapter import open_projections
    from landmark.extract.extraction import Extraction
    from landmark.extract.plan import Plan
    from landmark.extract.store import write_store
    from landmark.model.persist import embedder_digest, load_embedder

    embedder, description = load_embedder(settings.embedder)
    digest = embedder_digest(settings.embedder)
    whitening = open_projections(settings.whitening) if settings.whitening else None
    if whitening is not None:
        recorded = {"embedder": digest, "whitening": None}
        whitening.check_fits(recorded, embedder.embedding_dim, f"embedder={settings.embedder}")

    image: Any = OmegaConf.create(config.get("image") or description["image"])
    image = OmegaConf.to_container(image)
    image["interpolation"] = image.get("interpolation") or embedder.interpolation
    extraction = Extraction(
        Path(settings.embedder),
        read_table(settings, config, description),
        instantiate(image),
        instantiate(config.extract),
        whitening,
        batch_size=settings.batch_size,
        workers=settings.workers,
        device=settings.device,
        save_every=settings.save_every,
        # Those of queries and gallery photos are what retrieval is to find out.
        landmarks_known=settings.split == "train",
    )
    precision = chosen_precision(settings, extraction, embedder, output)
    extraction = replace(extraction, precision=precision)
    local = local_features(settings, config, output, embedder, digest)
    method = extraction.method
    plan = Plan(
        extraction,
        embedder,
        output,
        settings.dtype,
        {
            "embedder": digest,
            "table": extraction.table.digest,
            "scales": list(method.scales),
            "flip": method.flip,
            "combine": method.combine,
            "image": {key: image[key] for key in image if key not in _TRAINING_VIEW_SETTINGS},
            "split": settings.split,
            "precision": extraction.precision,
            "whitening": whitening.digest if whitening else None,
        },
        overwrite=settings.overwrite,
        add=settings.add,
        devices=settings.devices,
        local=local,
    )
    print(
        f"{len(extraction.table):,} photos, {plan.dim}-d, scales {list(method.scales)}, "
        f"flip {method.flip}"
        + (f", combine {method.combine}" if method.combine != "mean" else "")
        + "".join(f", local {one.name} {one.layout['dim']}-d" for one in local),
        flush=True,
    )
    return write_store(plan)


def chosen_precision(
    settings: Extract, extraction: "Extraction", embedder: "Embedder", output: Path
) -> Precision:
    """Return the precision; with `auto` that of the output, else rank 0 measures it for all."""
    from landmark.extract.precision import measured_precision, recorded_precision
    from landmark.processes import broadcast, rank

    if settings.precision != "auto":
        return str(settings.precision)  # type: ignore[return-value] # YAML reads 32 as a number
    precision: Precision = "32"
    if rank() == 0:
        choice = recorded_precision(output, settings.overwrite)
        choice = choice or measured_precision(extraction, embedder)
        print(choice.line, flush=True)
        precision = choice.precision
    return broadcast(precision)


def local_features(
    settings: Extract, config: DictConfig, output: Path, embedder: "Embedder", digest: str
) -> "tuple[LocalExtraction, ...]":
    """Return the requested local features, and those of a store to which photos are added."""
    requested = requested_local(config, settings.background, embedder, digest)
    if not settings.add:
        return () if requested is None else (requested,)
    name = None if requested is None else requested.name
    recorded = local_of_store(output, embedder, digest, but=name)
    return (*recorded, *([] if requested is None else [requested]))


def read_table(
    settings: Extract, config: DictConfig, description: Mapping[str, Any]
) -> "ImageTable":
    """Read the photos of the split with their sizes; the run's photos keep the run's splits."""
    from landmark.processes import rank, rank_zero_first

    run, data = run_of(Path(settings.embedder)), config.get("data")
    if run is not None:
        data = data or data_of(run)
    if data is None:
        raise UserError(
            f"{settings.embedder} is not in a run folder, so its photos are unknown. Pass "
            "data=<choice>."
        )
    source = instantiate(data)
    if run is not None:
        use_splits_of(run, source, description)
    with rank_zero_first():  # rank 0 caches the sizes that it reads
        table = source.read(settings.split)
        if rank() == 0:
            print_notes(source, sys.stderr)
        return table.with_sizes()


def default_output() -> Path:
    """Return a new folder under runs, or under the folder of this job in a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder == Path.cwd():
        folder = Path("runs/extract") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    # Another command started in the same second may have only its hidden staging folder so far.
    names = ("store" if number == 1 else f"store-{number}" for number in count(1))
    return next(folder / name for name in names if not any(folder.glob(f"*{name}*")))
