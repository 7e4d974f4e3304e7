"""Draw the photos of a toy world into a folder, the same bytes for the same settings."""

import multiprocessing
import re
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from landmark.device import usable_cpus
from landmark.disk.atomic import atomic_folder
from landmark.disk.digest import digest_of
from landmark.disk.lock import locked
from landmark.error import UserError
from landmark.toy.design import draw_design, draw_style
from landmark.toy.facade import draw_front, draw_side
from landmark.toy.photo import take_photo

# Part of the folder's name. Bump when the renderer changes, to invalidate cached worlds.
_RENDERER_VERSION = 1
_STYLE, _DESIGN, _PHOTO = 1, 2, 3  # streams of random numbers
_START_METHOD = "fork" if sys.platform == "linux" else None
_PHOTOS_PER_POOL = 32  # below this, starting processes takes longer than drawing
_WORLD = re.compile(r"[0-9a-f]{16}")  # name of a world's folder
_UNFINISHED = re.compile(rf"\.{_WORLD.pattern}\..+")  # temporary sibling of one


@dataclass(frozen=True)
class ToyWorld:
    """The settings that determine the photos of a toy world.

    Attributes:
        landmarks: Number of landmarks.
        photos: Photos of each landmark.
        seed: Seed of the drawing.
        styles: Number of architectural styles, assigned to the landmarks in turn.
        scale: Factor on the photos' sides, about 320 × 240 at 1.
    """

    landmarks: int
    photos: int
    seed: int
    styles: int
    scale: float

    def folder(self, root: Path) -> Path:
        """Return the folder of this world below `root`."""
        return root / digest_of({"drawing": _RENDERER_VERSION, **asdict(self)})

    def make(self, root: Path) -> Path:
        """Draw the world with one process per CPU unless its folder exists; return the folder.

        The folder appears only when complete. Of several processes that need the same world, one
        draws it and the others wait.

        Raises:
            UserError: `root` contains something other than worlds, such as somebody's photos.
        """
        folder = self.folder(root)
        if not folder.is_dir():
            _check_own(root)
            with locked(folder, wait=True):
                self._draw_unless_drawn(folder)
        return folder

    def _draw_unless_drawn(self, folder: Path) -> None:
        """Draw the world unless another process has drawn it: before the lock, or without one."""
        try:
            if not folder.is_dir():
                with atomic_folder(folder) as temporary:
                    self._draw(temporary)
        except UserError:
            if not folder.is_dir():
                raise

    def _draw(self, folder: Path) -> None:
        draw, count = partial(draw_landmark, self, folder), self.landmarks
        processes = min(usable_cpus(), count)
        if processes == 1 or count * self.photos < _PHOTOS_PER_POOL:
            for number in range(count):
                draw(number)
            return
        with multiprocessing.get_context(_START_METHOD).Pool(processes) as pool:
            drawn = pool.imap_unordered(draw, range(count))
            bar = tqdm(drawn, "draw toy world", count, unit="landmark", leave=False, disable=None)
            for _ in bar:
                pass


def _check_own(root: Path) -> None:
    """Check that `root` is missing, empty, or contains only worlds and hidden files beside them."""
    if not root.is_dir():
        return
    names = sorted(path.name for path in root.iterdir())
    worlds = [name for name in names if _WORLD.fullmatch(name)]
    foreign = [name for name in names if name not in worlds and not _UNFINISHED.fullmatch(name)]
    if worlds:  # a file manager may have added its own, such as .DS_Store
        foreign = [name for name in foreign if not name.startswith(".")]
    if foreign:
        raise UserError(
            f"data.root={root} contains other files, such as {foreign[0]}; the toy world is drawn "
            "only into a folder of its own. Pass data=folder to use the photos in data.root, or "
            "another data.root."
        )


def draw_landmark(world: ToyWorld, folder: Path, number: int) -> None:
    """Draw the photos of one landmark into `folder/<landmark>/<photo>.jpg`.

    A photo depends only on the seed, the styles, the scale, its landmark and its number.
    """
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
