"""Draws the toy world's photos into a folder, the same bytes for the same settings."""

import multiprocessing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from landmark.data.toy_design import draw_design, draw_style
from landmark.data.toy_facade import draw_front, draw_side
from landmark.data.toy_photo import take_photo
from landmark.device import usable_cpus
from landmark.disk.atomic import atomic_folder
from landmark.disk.digest import digest_of
from landmark.error import UserError

# Part of the folder's name: raise it when the drawing changes, so that no old world is taken.
_DRAWING = 1
_STYLE, _DESIGN, _PHOTO = 1, 2, 3


@dataclass(frozen=True)
class ToyWorld:
    """The settings that a world's photos depend on.

    Attributes:
        landmarks: number of landmarks.
        photos: photos of each.
        seed: of everything drawn.
        styles: number of architectural styles, shared in turn.
        scale: of the photos' sides, about 320 × 240 at 1.
    """

    landmarks: int
    photos: int
    seed: int
    styles: int
    scale: float

    def folder(self, root: Path) -> Path:
        """Return where below `root` this world lies."""
        return root / digest_of({"drawing": _DRAWING, **asdict(self)})

    def make(self, root: Path) -> Path:
        """Draw the world where it is not there yet, one process a core; return its folder.

        The folder appears when it is whole. Of several processes that draw at once one wins.
        """
        folder = self.folder(root)
        if folder.is_dir():
            return folder
        try:
            with atomic_folder(folder) as temporary:
                self._draw(temporary)
        except UserError:
            if not folder.is_dir():  # else another process was faster
                raise
        return folder

    def _draw(self, folder: Path) -> None:
        """Draw every landmark's photos into `folder/<landmark>/<photo>.jpg`."""
        draw = partial(draw_landmark, self, folder)
        bar = partial(
            tqdm, total=self.landmarks, desc="draw toy world", unit="landmark", disable=None
        )
        processes = min(usable_cpus(), self.landmarks)
        if processes == 1 or self.landmarks * self.photos < 32:
            for number in bar(range(self.landmarks), disable=True):
                draw(number)
            return
        method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        with multiprocessing.get_context(method).Pool(processes) as pool:
            for _ in bar(pool.imap_unordered(draw, range(self.landmarks)), leave=False):
                pass


def draw_landmark(world: ToyWorld, folder: Path, number: int) -> None:
    """Draw one landmark's photos; each depends on the world, its landmark and its number alone."""
    style = draw_style(np.random.default_rng((world.seed, _STYLE, number % world.styles)))
    random = np.random.default_rng((world.seed, _DESIGN, number))
    design = draw_design(style, random)
    front, side = draw_front(design, random), draw_side(design, random)
    own = folder / f"{number:0{len(str(world.landmarks - 1))}d}"
    own.mkdir()
    for photo in range(world.photos):
        random = np.random.default_rng((world.seed, _PHOTO, number, photo))
        image, quality = take_photo(design, front, side, random, world.scale)
        image.save(own / f"{photo:0{len(str(world.photos - 1))}d}.jpg", quality=quality)
