"""The 2019 recipe's image sizes, optimizer and training batches, as the benchmarks use them."""

from pathlib import Path

import torch
import yaml

from landmark.data import ImageTable, LandmarkData
from landmark.image import ImageFormat
from landmark.sampler import Aspect


def image_sizes(name: str) -> list[list[int]]:
    """Return the sizes of conf/image/NAME.yaml."""
    file = Path(__file__).parents[1] / "conf" / "image" / f"{name}.yaml"
    return yaml.safe_load(file.read_text())["sizes"]


def sgd(parameters) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-5)


def training_data(source, batch_size: int, workers: int) -> LandmarkData:
    """Return training data in S2 sizes, batched by aspect group."""
    image = ImageFormat(image_sizes("s2"), augmentation="soft", interpolation="bilinear")
    data = LandmarkData(source, image, Aspect, batch_size=batch_size, workers=workers, seed=0)
    data.setup("fit")
    return data


def first_photos(source, count: int) -> ImageTable:
    """Return the table of the source's first `count` photos, with their sizes."""
    table = source.read(None).with_sizes()
    return ImageTable(table.root, table.rows.iloc[:count].reset_index(drop=True))
