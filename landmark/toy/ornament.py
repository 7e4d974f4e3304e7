"""Parts of a toy landmark: openings, columns, doors, roofs, emblems."""

import numpy as np
from PIL.ImageDraw import ImageDraw

from landmark.toy.design import Colour, Design, shaded

UNIT = 360  # pixels per width of the body
Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_opening(draw: ImageDraw, design: Design, box: Box) -> None:
    """Draw a framed window in the style of the design into the box."""
    frame = UNIT * 0.008
    _fill_opening(draw, design.style.opening, box, design.style.trim_colour)
    inner = (box[0] + frame, box[1] + frame, box[2] - frame, box[3] - frame)
    if inner[2] > inner[0] and inner[3] > inner[1]:
        _fill_opening(draw, design.style.opening, inner, (44, 50, 62))


def draw_door(draw: ImageDraw, design: Design, body: Box) -> None:
    """Draw the door at the foot of the body."""
    left, top, right, bottom = body
    half, tall = design.door[0] * (right - left) / 2, design.door[1] * (bottom - top)
    x, edge = left + (right - left) * design.door_place, UNIT * 0.02
    kind = design.style.opening if design.style.opening != "oval" else "round_arch"
    frame = (x - half - edge, bottom - tall - edge, x + half + edge, bottom)
    _fill_opening(draw, kind, frame, design.style.trim_colour)
    leaf = shaded(design.style.roof_colour, 0.7)
    _fill_opening(draw, kind, (x - half, bottom - tall, x + half, bottom), leaf)
    draw.line((x, bottom - tall * 0.7, x, bottom), fill=(30, 24, 20), width=2)


def _fill_opening(draw: ImageDraw, kind: str, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    arch = min((right - left) / 2, (bottom - top) * 0.6)
    if kind == "oval":
        draw.ellipse(box, fill=colour)
    elif kind == "round_arch":
        draw.rectangle((left, top + arch, right, bottom), fill=colour)
        draw.pieslice((left, top, right, top + 2 * arch), 180, 360, fill=colour)
    elif kind == "pointed_arch":
        shoulders = [(left, bottom), (left, top + arch), ((left + right) / 2, top)]
        draw.polygon([*shoulders, (right, top + arch), (right, bottom)], fill=colour)
    else:
        draw.rectangle(box, fill=colour)


def draw_columns(draw: ImageDraw, design: Design, box: Box, bays: int) -> None:
    """Draw columns between the bays, over the height of the box."""
    left, top, right, bottom = box
    half = UNIT * (0.008 if design.style.columns == "pilasters" else 0.016)
    light, dark = design.style.trim_colour, shaded(design.style.trim_colour, 0.7)
    for edge in range(bays + 1):
        x = left + (right - left) * edge / bays
        draw.rectangle((x - half, top, x + half, bottom), fill=light)
        if design.style.columns == "columns":
            draw.rectangle((x + half * 0.2, top, x + half, bottom), fill=dark)
            draw.rectangle((x - half * 1.6, top, x + half * 1.6, top + half), fill=light)


def draw_roof(draw: ImageDraw, kind: str, body: Box, rise: float, colour: Colour) -> None:
    """Draw a roof, `rise` pixels high, onto the upper edge of the body."""
    left, top, right, _ = body
    width, middle, ridge = right - left, (left + right) / 2, top - rise
    over = width * 0.04
    if kind == "gable":
        points = [(left - over, top), (middle, ridge), (right + over, top)]
        draw.polygon(points, fill=colour, outline=shaded(colour, 0.6), width=3)
    elif kind == "pyramid":
        half = width * 0.32
        draw.polygon([(middle - half, top), (middle, ridge), (middle + half, top)], fill=colour)
        draw.line((middle, ridge, middle, top), fill=shaded(colour, 0.7), width=3)
    elif kind == "dome":
        half = min(width / 2, rise * 0.8)
        dome = (middle - half, ridge, middle + half, top + rise * 0.6)
        draw.pieslice(dome, 180, 360, fill=colour, outline=shaded(colour, 0.6), width=2)
        draw.rectangle((middle - half, top - rise * 0.2, middle + half, top), fill=colour)
    elif kind == "mansard":
        inset = width * 0.12
        points = [(left, top), (left + inset, ridge), (right - inset, ridge), (right, top)]
        draw.polygon(points, fill=colour, outline=shaded(colour, 0.7), width=3)
    elif kind == "pagoda":
        for tier in range(3):
            half, base = width * (0.56 - 0.15 * tier), top - rise * tier / 3
            points = [(middle - half, base), (middle - half * 0.6, base - rise / 3)]
            points += [(middle + half * 0.6, base - rise / 3), (middle + half, base)]
            draw.polygon(points, fill=shaded(colour, 1 - 0.12 * tier))
    elif kind == "battlement":
        step = width / 13
        draw.rectangle((left, top - step * 0.8, right, top), fill=shaded(colour, 0.9))
        for tooth in range(0, 13, 2):
            x = left + tooth * step
            draw.rectangle((x, top - step * 1.8, x + step, top), fill=colour)
    else:
        draw.rectangle((left - over, top - rise * 0.12, right + over, top), fill=colour)


def draw_emblem(draw: ImageDraw, design: Design, body: Box) -> None:
    """Draw the landmark's emblem onto the body."""
    left, top, right, bottom = body
    x = left + (right - left) * design.emblem_place[0]
    y = bottom - (bottom - top) * design.emblem_place[1]
    half = design.emblem_size * UNIT / 2
    disc = (x - half, y - half, x + half, y + half)
    dark, light = shaded(design.style.roof_colour, 0.6), design.style.trim_colour
    if design.emblem == "clock":
        draw.ellipse(disc, fill=(240, 236, 220), outline=dark, width=5)
        draw.line((x, y, x, y - half * 0.7), fill=(20, 20, 20), width=4)
        draw.line((x, y, x + half * 0.5, y), fill=(20, 20, 20), width=4)
    elif design.emblem == "rose":
        draw.ellipse(disc, fill=dark, outline=light, width=5)
        for angle in np.arange(0, np.pi, np.pi / 4):
            dx, dy = half * np.cos(angle), half * np.sin(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=light, width=3)
    elif design.emblem == "cross":
        draw.rectangle((x - half * 0.2, y - half, x + half * 0.2, y + half), fill=dark)
        draw.rectangle((x - half * 0.7, y - half * 0.5, x + half * 0.7, y - half * 0.1), fill=dark)
    elif design.emblem == "diamond":
        for r, colour in ((half, light), (half / 2, dark)):
            draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour)
    elif design.emblem == "banner":
        draw.rectangle((x - half * 0.4, y - half, x + half * 0.4, y + half), fill=dark)
        draw.rectangle((x - half * 0.4, y - half * 0.2, x + half * 0.4, y + half * 0.2), fill=light)
