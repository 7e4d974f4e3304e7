"""A tiny untrained embedder, a few photos of many shapes, and their extraction."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from landmark.artifact.descriptors import DescriptorStore
from landmark.data import ImageTable
from landmark.data.dataset import ScaledPhotoDataset
from landmark.extract.extraction import Extraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.plan import Plan
from landmark.extract.store import write_store
from landmark.image.format import ImageFormat
from landmark.model.build import build_embedder
from landmark.model.embedder import Embedder
from landmark.model.persist import (
    describe_embedder,
    embedder_digest,
    load_embedder,
    write_embedder,
)
from landmark.pooling import GeM

DIM = 16
IMAGE = {"sizes": [[64, 32], [48, 32], [32, 32], [32, 48], [32, 64]], "smallest": 32}
PHOTOS = 20


def write_embedder_into(folder: Path, seed: int = 0) -> Path:
    """Write a network whose descriptors differ between photos."""
    torch.manual_seed(seed)
    embedder = build_embedder("resnet10t", GeM(), embedding_dim=DIM)
    for module in embedder.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = {
        "_target_": "landmark.model.build.build_embedder",
        "backbone": "resnet10t",
        "embedding_dim": DIM,
    }
    pooling = {"_target_": "landmark.pooling.gem.GeM"}
    image = {"_target_": "landmark.image.format.ImageFormat", **IMAGE, "interpolation": "bilinear"}
    return write_embedder(folder, embedder, describe_embedder(model, pooling, image))


def write_photos(root: Path, count: int = PHOTOS) -> Path:
    """Write `count` photos of all aspect groups into seven folders."""
    random = np.random.default_rng(count)
    for number in range(count):
        width = int(random.integers(30, 60))
        size = width, int(width * (0.6, 0.72, 1.0, 1.4, 1.6)[number % 5])
        patches = Image.fromarray(random.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        file = root / f"{number % 7}" / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        patches.resize(size).save(file)
    return root


def table_of(root: Path) -> ImageTable:
    """Return the table of the photos in `root` by name, with ids, landmarks and sizes."""
    paths = sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    rows = pd.DataFrame({"id": [Path(path).stem for path in paths], "path": paths}, dtype="str")
    rows["landmark_id"] = rows["path"].str.split("/").str[0]
    sizes = [Image.open(root / path).size for path in rows["path"]]
    rows[["width", "height"]] = sizes
    return ImageTable(root, rows.sort_values("id", ignore_index=True))


def extract(world: Path, output: Path, **changes) -> DescriptorStore:
    """Extract the world's photos in this process, with the changes of `plan`."""
    print(write_store(plan(world, output, **changes)))
    return DescriptorStore.open(output)


def write_world(root: Path) -> Path:
    """Write `embedder`, `photos`, and `complete`, the store of an uninterrupted extraction."""
    write_embedder_into(root / "embedder")
    write_photos(root / "photos")
    extract(root, root / "complete")
    return root


@cache
def loaded(embedder: Path) -> Embedder:
    """Return the embedder of a folder, cached."""
    return load_embedder(embedder)[0]


def plan(world: Path, output: Path, **changes) -> Plan:
    """Return the plan of extracting the world's photos to `output`.

    `changes` are fields of Plan or of Extraction.
    """
    embedder = changes.pop("embedder", world / "embedder")
    own = {field.name for field in dataclasses.fields(Plan)}
    table = changes.pop("table", None) or table_of(world / "photos")
    extraction = Extraction(
        embedder,
        table,
        ImageFormat(**IMAGE),
        changes.pop("method", MultiScale((1.0, 1.5))),
        **{
            "batch_size": 4,
            "workers": 0,
            "device": "cpu",
            "save_every": 0.0,
            **{key: changes.pop(key) for key in list(changes) if key not in own},
        },
    )
    settings = {
        "embedder": embedder_digest(embedder),
        "table": table.digest,
        "scales": list(extraction.method.scales),
        "flip": extraction.method.flip,
        "combine": extraction.method.combine,
        "image": IMAGE,
        "split": None,
        "precision": extraction.precision,
        "whitening": extraction.whitening.digest if extraction.whitening else None,
    }
    return Plan(
        extraction,
        loaded(embedder),
        output,
        changes.pop("dtype", "float32"),
        settings,
        **changes,
    )


class UnreadablePhotos(ScaledPhotoDataset):
    """Data set in which some photos are unreadable: those are grey, and their row is -row - 1."""

    bad: frozenset[str] = frozenset()

    def __init__(self, table, image_format, scales):
        super().__init__(table, image_format, scales)
        self._is_bad = table.rows["id"].isin(self.bad).to_numpy()

    def __getitem__(self, row):
        images, row = super().__getitem__(row)
        if self._is_bad[row]:
            return [torch.full_like(image, 128) for image in images], -row - 1
        return images, row


def files_of(store: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a store."""
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}
