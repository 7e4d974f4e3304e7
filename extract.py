"""Describes photos with a trained embedder and writes a descriptor store.

python extract.py embedder=RUN/embedder data=folder data.root=PHOTOS split=gallery output=STORE
python extract.py embedder=RUN/embedder split=query output=STORE extract.scales=[1]
python extract.py --help
"""

from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.command import plain_mistakes, refuse_lists, run
from landmark.mistake import UserMistake


@hydra.main(config_path="conf", config_name="extract", version_base="1.3")
@plain_mistakes
def main(config: DictConfig) -> None:
    """Checks the configuration, then extracts."""
    refuse_lists(HydraConfig.get().overrides.task)
    if config.split not in (None, "train", "query", "gallery"):
        raise UserMistake(f"split={config.split}: choose train, query, gallery or null for all")
    if config.dtype not in ("float16", "float32"):
        raise UserMistake(f"dtype={config.dtype}: choose float16 or float32")
    now = datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    output = Path(config.output or f"runs/extract/{now}/store")
    extract(config, output)
    print(f"wrote {output}")


def extract(config: DictConfig, output: Path) -> None:
    """Photos of one split to the descriptor store `output`."""
    from landmark.artifact.descriptors import DescriptorStore
    from landmark.extract.describe import describe
    from landmark.model.persist import embedder_digest, load_embedder

    embedder, description = load_embedder(config.embedder)
    settings = OmegaConf.create(config.get("image") or description["image"])
    if settings.interpolation is None:
        settings.interpolation = embedder.interpolation
    image = instantiate(settings)
    method = instantiate(config.extract)
    source = instantiate(config.get("data") or data_of_run(Path(config.embedder)))
    table = source.read(config.split).with_sizes()
    print(
        f"{len(table):,} photos, {embedder.embedding_dim}-d, scales {list(method.scales)}, "
        f"flip {method.flip}",
        flush=True,
    )
    with DescriptorStore.writing(
        output,
        ids=table.rows["id"].to_numpy(),
        dim=embedder.embedding_dim,
        dtype=config.dtype,
        landmark_ids=table.landmark_ids,
        overwrite=config.overwrite,
        embedder=embedder_digest(config.embedder),
        table=table.digest,
        scales=list(method.scales),
        flip=method.flip,
        image=OmegaConf.to_container(settings),
        split=config.split,
        whitening=None,
    ) as vectors:
        describe(
            embedder,
            table,
            image,
            method,
            vectors,
            batch_size=config.batch_size,
            workers=config.workers,
            device=config.device,
            precision=str(config.precision),
        )


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
