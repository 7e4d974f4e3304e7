"""The appearance of the toy landmarks: shared styles, and a design for each landmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]
Option = TypeVar("Option")


def palette(codes: str) -> tuple[Colour, ...]:
    """Return the colours of hexadecimal codes separated by blanks.

    Example:
        >>> palette("ff0000 0000ff")
        ((255, 0, 0), (0, 0, 255))
    """
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


ROOFS = ("gable", "dome", "battlement", "mansard", "pagoda", "pyramid", "flat")
OPENINGS = ("rectangle", "round_arch", "pointed_arch", "oval")
COLUMNS = ("none", "pilasters", "columns")
WALLS = ("plain", "bricks", "stripes", "blocks")
EMBLEMS = ("none", "clock", "rose", "cross", "diamond", "banner")
_STONES = palette("c4b294 ac624a d6d0c6 b68a5c 8c847e ceba80 9e7066 b2beb0")
_ROOFINGS = palette("784234 485460 548070 b08e46 3e383c")
_NEAR_WHITE = (244, 238, 224)
_TOWER_PLACES = ((), (), (0.5,), (0.08, 0.92), (0.08, 0.92), (0.1,), (0.9,), (0.08, 0.5, 0.92))


@dataclass(frozen=True)
class Style:
    """Traits that several landmarks share."""

    roof: str
    opening: str
    columns: str
    wall: str
    wall_colour: Colour
    trim_colour: Colour
    roof_colour: Colour


@dataclass(frozen=True)
class Design:
    """The design of a landmark; lengths are in widths of the body unless stated otherwise.

    Attributes:
        height: Height of the body.
        depth: Depth of the body, the width of its side walls.
        roof_height: Height of the roof above the body.
        floors, bays: Rows and columns of windows.
        window: (width, height) of a window as fractions of its cell.
        blind: Bays without a window, for each floor.
        door: (width, height) of the door as fractions of the body's.
        door_place: Centre of the door, 0 to 1 from the left.
        tower_places: Centres of the towers, which are alike; one in the middle is higher.
        tower_windows: Number of windows of a tower.
        emblem: Kind of the sign on the facade.
        emblem_size: Width of the sign.
        emblem_place: Centre of the sign as fractions of the body, from the left and the ground.
        cornices: Floors with a ledge above, counted from 1.
        panel: Colour of the bands between the floors.
    """

    style: Style
    height: float
    depth: float
    roof_height: float
    floors: int
    bays: int
    window: tuple[float, float]
    blind: tuple[frozenset[int], ...]
    door: tuple[float, float]
    door_place: float
    tower_places: tuple[float, ...]
    tower_width: float
    tower_height: float
    tower_roof: str
    tower_windows: int
    emblem: str
    emblem_size: float
    emblem_place: tuple[float, float]
    cornices: frozenset[int]
    wall_colour: Colour
    panel: Colour


def draw_style(random: Generator) -> Style:
    """Draw the traits of one style."""
    wall = _varied(_choice(random, _STONES), 10, random)
    return Style(
        roof=_choice(random, ROOFS),
        opening=_choice(random, OPENINGS),
        columns=_choice(random, COLUMNS),
        wall=_choice(random, WALLS),
        wall_colour=wall,
        trim_colour=_varied(_mixed(wall, _NEAR_WHITE, random.uniform(0.3, 0.8)), 8, random),
        roof_colour=_varied(_choice(random, _ROOFINGS), 10, random),
    )


def draw_design(style: Style, random: Generator) -> Design:
    """Draw a landmark in a style: proportions, openings, towers, ornaments, a shade of colour."""
    floors, bays = int(random.integers(1, 5)), int(random.integers(3, 9))
    height = random.uniform(0.45, 1.25)
    wall = _varied(style.wall_colour, 16, random)
    return Design(
        style=style,
        height=height,
        depth=random.uniform(0.4, 1.0),
        roof_height=random.uniform(0.15, 0.45),
        floors=floors,
        bays=bays,
        window=(random.uniform(0.3, 0.75), random.uniform(0.4, 0.8)),
        blind=tuple(_blind_bays(bays, random) for _ in range(floors)),
        door=(random.uniform(0.1, 0.28), random.uniform(0.2, 0.45)),
        door_place=_choice(random, (0.5, 0.5, 0.5, 0.25, 0.75)),
        tower_places=_choice(random, _TOWER_PLACES),
        tower_width=random.uniform(0.12, 0.26),
        tower_height=height + random.uniform(0.15, 0.8),
        tower_roof=_choice(random, (style.roof, "pyramid", "dome", "battlement")),
        tower_windows=int(random.integers(1, 5)),
        emblem=_choice(random, EMBLEMS),
        emblem_size=random.uniform(0.1, 0.22),
        emblem_place=(_choice(random, (0.5, 0.5, 0.3, 0.7)), random.uniform(0.6, 0.9)),
        cornices=frozenset(n for n in range(1, floors + 1) if n == floors or random.random() < 0.5),
        wall_colour=wall,
        panel=_varied(_mixed(wall, style.roof_colour, random.uniform(0.0, 0.5)), 12, random),
    )


def _blind_bays(bays: int, random: Generator) -> frozenset[int]:
    """Draw the bays without a window: every second one, the outer ones, random ones or none."""
    match int(random.integers(5)):
        case 0:
            return frozenset(range(int(random.integers(2)), bays, 2))
        case 1:
            return frozenset({0, bays - 1})
        case 2:
            return frozenset(np.flatnonzero(random.random(bays) < 0.35).tolist())
    return frozenset()


def draw_colour(random: Generator, low: int, high: int) -> Colour:
    """Draw a colour whose channels are in low … high - 1."""
    red, green, blue = random.integers(low, high, 3).tolist()
    return red, green, blue


def shaded(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker for a factor below 1."""
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


def to_image(pixels: NDArray[np.floating]) -> Image.Image:
    """Return pixels (height, width, 3), clipped to 0 … 255, as an RGB image."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _choice(random: Generator, options: Sequence[Option]) -> Option:
    return options[int(random.integers(len(options)))]


def _varied(colour: Colour, spread: float, random: Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) + random.normal(0, spread, 3), 0, 255)
    return int(red), int(green), int(blue)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
