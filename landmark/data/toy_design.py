"""What the toy world's landmarks look like: styles that several share, and one design each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Colour = tuple[int, int, int]
T = TypeVar("T")

ROOFS = ("gable", "dome", "battlement", "mansard", "pagoda", "pyramid", "flat")
OPENINGS = ("rectangle", "round_arch", "pointed_arch", "oval")
COLUMNS = ("none", "pilasters", "columns")
WALLS = ("plain", "bricks", "stripes", "blocks")
EMBLEMS = ("none", "clock", "rose", "cross", "diamond", "banner")
_STONES: tuple[Colour, ...] = (
    (196, 178, 148),
    (172, 98, 74),
    (214, 208, 198),
    (182, 138, 92),
    (140, 132, 126),
    (206, 186, 128),
    (158, 112, 102),
    (178, 190, 176),
)
_ROOFINGS: tuple[Colour, ...] = (
    (120, 66, 52),
    (72, 84, 96),
    (84, 128, 112),
    (176, 142, 70),
    (62, 56, 60),
)


@dataclass(frozen=True)
class Style:
    """What two or three landmarks have in common."""

    roof: str
    opening: str
    columns: str
    wall: str
    wall_colour: Colour
    trim_colour: Colour
    roof_colour: Colour


@dataclass(frozen=True)
class Tower:
    """A tower of the facade; lengths in widths of the body."""

    centre: float
    width: float
    height: float
    roof: str
    windows: int


@dataclass(frozen=True)
class Design:
    """One landmark; lengths in widths of the body unless said otherwise.

    Attributes:
        height: of the body.
        depth: of the body, for its side walls.
        roof_height: above the body.
        floors, bays: rows and columns of windows.
        window: (width, height) of a window as shares of its cell.
        blind: for each floor the bays without a window.
        door: (width, height) as shares of the body's; the door stands at `door_place` (0..1).
        towers: drawn over the body.
        emblem: sign on the facade, of `emblem_size`, its centre at `emblem_place`.
        cornices: after which floors a ledge runs.
        panel: colour of the bands between the floors.
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
    towers: tuple[Tower, ...]
    emblem: str
    emblem_size: float
    emblem_place: tuple[float, float]
    cornices: frozenset[int]
    wall_colour: Colour
    panel: Colour


def draw_colour(random: np.random.Generator, least: int, most: int) -> Colour:
    """Draw any colour whose channels lie in least ... most - 1."""
    red, green, blue = random.integers(least, most, 3)
    return int(red), int(green), int(blue)


def draw_style(random: np.random.Generator) -> Style:
    """Draw the traits of one style."""
    wall = _varied(_choice(random, _STONES), 10, random)
    return Style(
        roof=_choice(random, ROOFS),
        opening=_choice(random, OPENINGS),
        columns=_choice(random, COLUMNS),
        wall=_choice(random, WALLS),
        wall_colour=wall,
        trim_colour=_varied(_mixed(wall, (244, 238, 224), random.uniform(0.3, 0.8)), 8, random),
        roof_colour=_varied(_choice(random, _ROOFINGS), 10, random),
    )


def draw_design(style: Style, random: np.random.Generator) -> Design:
    """Draw a landmark of a style: proportions, openings, towers, ornaments, a shade of colour."""
    floors, bays = int(random.integers(1, 5)), int(random.integers(3, 9))
    height = float(random.uniform(0.45, 1.25))
    wall = _varied(style.wall_colour, 16, random)
    return Design(
        style=style,
        height=height,
        depth=float(random.uniform(0.4, 1.0)),
        roof_height=float(random.uniform(0.15, 0.45)),
        floors=floors,
        bays=bays,
        window=(float(random.uniform(0.3, 0.75)), float(random.uniform(0.4, 0.8))),
        blind=tuple(_blind_bays(bays, random) for _ in range(floors)),
        door=(float(random.uniform(0.1, 0.28)), float(random.uniform(0.2, 0.45))),
        door_place=float(_choice(random, (0.5, 0.5, 0.5, 0.25, 0.75))),
        towers=_draw_towers(style, height, random),
        emblem=_choice(random, EMBLEMS),
        emblem_size=float(random.uniform(0.1, 0.22)),
        emblem_place=(
            float(_choice(random, (0.5, 0.5, 0.3, 0.7))),
            float(random.uniform(0.6, 0.9)),
        ),
        cornices=frozenset(
            floor for floor in range(1, floors + 1) if floor == floors or random.random() < 0.5
        ),
        wall_colour=wall,
        panel=_varied(_mixed(wall, style.roof_colour, random.uniform(0.0, 0.5)), 12, random),
    )


def _blind_bays(bays: int, random: np.random.Generator) -> frozenset[int]:
    """Every second, the outer, or any bays without window: marks that a viewer can count."""
    kind = int(random.integers(5))
    if kind == 0:
        return frozenset(range(int(random.integers(2)), bays, 2))
    if kind == 1:
        return frozenset({0, bays - 1})
    if kind == 2:
        return frozenset(np.flatnonzero(random.random(bays) < 0.35).tolist())
    return frozenset()


def _draw_towers(style: Style, height: float, random: np.random.Generator) -> tuple[Tower, ...]:
    places = _choice(
        random, ((), (), (0.5,), (0.08, 0.92), (0.08, 0.92), (0.1,), (0.9,), (0.08, 0.5, 0.92))
    )
    width = float(random.uniform(0.12, 0.26))
    rise = height + float(random.uniform(0.15, 0.8))
    roof = _choice(random, (style.roof, "pyramid", "dome", "battlement"))
    windows = int(random.integers(1, 5))
    return tuple(
        Tower(place, width, rise * (1.15 if place == 0.5 else 1.0), roof, windows)
        for place in places
    )


def _choice(random: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(random.integers(len(options)))]


def _varied(colour: Colour, spread: float, random: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) + random.normal(0, spread, 3), 0, 255)
    return int(red), int(green), int(blue)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
