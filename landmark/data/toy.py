"""A synthetic world of landmarks, rendered on first read: small, fast, free of copyright."""

import math
from pathlib import Path
from typing import Annotated, Unpack

import pandas as pd
from pydantic import Field, PositiveInt

from landmark.data.folder import folder_rows
from landmark.data.source import ListedSource, SplitOptions
from landmark.settings import checked
from landmark.toy import ToyWorld


class Toy(ListedSource):
    """Rendered photos of synthetic facades, reproducible from the settings.

    Photos of a landmark differ by viewpoint, distance, light, obstacles, blur, noise, crop and
    JPEG quality; two or three landmarks share a style and differ in proportions and ornaments.

    Args:
        root: Folder of cached worlds, each in a subfolder named after its settings.
        landmarks: Number of landmarks.
        photos: Photos of each landmark.
        styles: Number of styles. Defaults to two for every five landmarks.
        scale: Factor on the photos' sides, about 320 × 240 at 1.
        **options: See `SplitOptions`; `seed` also draws the world.
    """

    image_sizes = ([96, 96],)  # a network learns from random weights on a CPU in minutes

    @checked
    def __init__(
        self,
        root: str | Path = "toy",
        *,
        landmarks: Annotated[int, Field(gt=0, le=100_000)] = 30,
        photos: Annotated[int, Field(gt=0, le=10_000)] = 20,
        styles: PositiveInt | None = None,
        scale: Annotated[float, Field(gt=0, le=16)] = 1.0,
        **options: Unpack[SplitOptions],
    ) -> None:
        super().__init__(root, **options)
        styles = math.ceil(landmarks * 0.4) if styles is None else styles
        self.world = ToyWorld(landmarks, photos, self.seed, styles, scale)
        self.root = self.world.folder(self.root)

    def _list(self) -> pd.DataFrame:
        return folder_rows(self.world.make(self.root.parent))
