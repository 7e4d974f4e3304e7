"""Draw the front and a side wall of a toy landmark as flat pictures."""

import numpy as np
from numpy.random import Generator
from PIL import Image
from PIL.ImageDraw import Draw

from landmark.toy.design import Design, shaded, to_image
from landmark.toy.ornament import (
    UNIT,
    Box,
    draw_columns,
    draw_door,
    draw_emblem,
    draw_opening,
    draw_roof,
)

MARGIN = 0.16


def draw_front(design: Design, random: Generator) -> Image.Image:
    """Return the front (RGBA, transparent around it), `UNIT` pixels per width of the body.

    The ground is the lower edge, and the body starts `MARGIN` widths from the left edge.
    """
    # Centre and height of each tower.
    towers = {x: design.tower_height * (1.15 if x == 0.5 else 1) for x in design.tower_places}
    tops = [tower + design.tower_width * 1.3 for tower in towers.values()]
    tallest = max([design.height + design.roof_height, *tops])
    width, height = round((1 + 2 * MARGIN) * UNIT), round((tallest + 0.05) * UNIT)
    image = Image.new("RGBA", (width, height))
    draw, left = Draw(image), MARGIN * UNIT
    body = (left, height - design.height * UNIT, left + UNIT, height)
    behind = {x: tower for x, tower in towers.items() if tower > design.height + 0.3}
    for x, tower in behind.items():
        _draw_tower(image, design, x, tower, random)
    draw_roof(draw, design.style.roof, body, design.roof_height * UNIT, design.style.roof_colour)
    _draw_body(image, design, body, design.bays, random)
    draw_door(draw, design, body)
    for x, tower in towers.items():
        if x not in behind:
            _draw_tower(image, design, x, tower, random)
    draw_emblem(draw, design, body)
    return image


def draw_side(design: Design, random: Generator) -> Image.Image:
    """Return a side wall (RGBA, opaque), as high as the body and darker than the front."""
    width, height = round(design.depth * UNIT), round(design.height * UNIT)
    image = Image.new("RGBA", (width, height))
    bays = max(1, round(design.bays * design.depth))
    _draw_body(image, design, (0, 0, width, height), bays, random)
    return Image.blend(image, Image.new("RGBA", image.size, (20, 20, 34, 255)), 0.25)


def _draw_body(image: Image.Image, design: Design, box: Box, bays: int, random: Generator) -> None:
    """Draw wall, windows, ledges and columns into the box."""
    _draw_wall(image, design, box, random)
    draw = Draw(image)
    left, top, right, bottom = box
    cell_width, cell_height = (right - left) / bays, (bottom - top) / design.floors
    half, tall = cell_width * design.window[0] / 2, cell_height * design.window[1]
    for floor in range(design.floors):
        base = bottom - floor * cell_height
        sill = base - (cell_height - tall) / 2
        for bay in range(bays):
            if bay not in design.blind[floor]:
                centre = left + (bay + 0.5) * cell_width
                draw_opening(draw, design, (centre - half, sill - tall, centre + half, sill))
        if floor + 1 in design.cornices:
            ledge = base - cell_height
            draw.rectangle((left, ledge, right, ledge + UNIT * 0.02), fill=design.style.trim_colour)
    if design.style.columns != "none":
        draw_columns(draw, design, box, bays)


def _draw_wall(image: Image.Image, design: Design, box: Box, random: Generator) -> None:
    left, top, right, bottom = (round(edge) for edge in box)
    width, height = max(1, right - left), max(1, bottom - top)
    wall = Image.new("RGB", (width, height), design.wall_colour)
    draw, dark, kind = Draw(wall), shaded(design.wall_colour, 0.82), design.style.wall
    course = UNIT // (28 if kind == "bricks" else 14)
    if kind == "stripes":
        for y in range(0, height, 2 * course):
            draw.rectangle((0, y, width, y + course), fill=design.panel)
    elif kind != "plain":
        for row, y in enumerate(range(0, height, course)):
            draw.line((0, y, width, y), fill=dark, width=1)
            for x in range((row % 2) * course, width, 2 * course):
                draw.line((x, y, x, y + course), fill=dark, width=1)
    stains = random.normal(0, 9, (max(2, height // 24), max(2, width // 24))).astype(np.float32)
    soft = Image.fromarray(stains).resize((width, height), Image.Resampling.BICUBIC)
    grain = np.asarray(soft)[..., None] + random.normal(0, 4, (height, width, 1))
    image.paste(to_image(np.asarray(wall) + grain).convert("RGBA"), (left, top))


def _draw_tower(
    image: Image.Image, design: Design, place: float, height: float, random: Generator
) -> None:
    width = design.tower_width * UNIT
    left, top = (MARGIN + place - design.tower_width / 2) * UNIT, image.height - height * UNIT
    box = (left, top, left + width, image.height)
    draw = Draw(image)
    draw_roof(draw, design.tower_roof, box, width * 1.2, design.style.roof_colour)
    _draw_wall(image, design, box, random)
    centre, half = (box[0] + box[2]) / 2, width * 0.16
    for window in range(design.tower_windows):
        y = top + UNIT * (0.05 + 0.17 * window)
        draw_opening(draw, design, (centre - half, y, centre + half, y + UNIT * 0.12))
    draw.rectangle((left, top, box[2], top + UNIT * 0.02), fill=design.style.trim_colour)
