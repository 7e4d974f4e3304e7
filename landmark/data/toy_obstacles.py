"""What stands between the camera and a toy landmark: trees, people, cars, lamp posts."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from landmark.data.toy_camera import Camera
from landmark.data.toy_design import draw_colour
from landmark.data.toy_ornament import shaded


def draw_obstacles(image: Image.Image, camera: Camera, random: np.random.Generator) -> None:
    """Draw what stands between the camera and the landmark."""
    draw = ImageDraw.Draw(image)
    foot = min(image.height * 1.02, max(camera.pixel((0.5, 0.0, 0.0))[1], image.height * 0.75))
    things: tuple[Callable[..., None], ...] = (_tree, _people, _car, _post, _people, _tree)
    for _ in range(int(random.integers(0, 3))):
        thing = things[random.integers(len(things))]
        thing(draw, image.size, foot + random.uniform(0, 0.1) * image.height, random)


def _tree(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], foot: float, random: np.random.Generator
) -> None:
    x, tall = random.uniform(0, size[0]), random.uniform(0.3, 0.8) * size[1]
    trunk = tall * 0.04
    draw.rectangle((x - trunk, foot - tall * 0.6, x + trunk, foot), fill=(70, 52, 40))
    green = shaded((72, 108, 54), random.uniform(0.5, 1.3))
    for _ in range(14):
        half = tall * random.uniform(0.07, 0.15)
        cx, cy = x + random.normal(0, tall * 0.12), foot - tall * random.uniform(0.5, 0.95)
        blob = (cx - half, cy - half, cx + half, cy + half)
        draw.ellipse(blob, fill=shaded(green, random.uniform(0.8, 1.15)))


def _people(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], foot: float, random: np.random.Generator
) -> None:
    tall = random.uniform(0.12, 0.42) * size[1]
    for _ in range(int(random.integers(1, 5))):
        x, ground = random.uniform(0, size[0]), foot + random.uniform(0, 0.05) * size[1]
        shirt = draw_colour(random, 20, 240)
        half, head = tall * 0.13, tall * 0.075
        draw.rectangle(
            (x - half * 0.7, ground - tall * 0.5, x + half * 0.7, ground), fill=(40, 42, 60)
        )
        torso = (x - half, ground - tall * 0.85, x + half, ground - tall * 0.42)
        draw.rounded_rectangle(torso, radius=half * 0.6, fill=shirt)
        skin = shaded((224, 178, 140), random.uniform(0.4, 1.05))
        draw.ellipse((x - head, ground - tall, x + head, ground - tall * 0.83), fill=skin)


def _car(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], foot: float, random: np.random.Generator
) -> None:
    x, wide = random.uniform(-0.1, 0.8) * size[0], random.uniform(0.25, 0.5) * size[0]
    tall = wide * 0.22
    paint = draw_colour(random, 20, 230)
    draw.rounded_rectangle((x, foot - tall, x + wide, foot - tall * 0.15), radius=6, fill=paint)
    cabin = [(x + wide * 0.2, foot - tall), (x + wide * 0.3, foot - tall * 1.8)]
    cabin += [(x + wide * 0.7, foot - tall * 1.8), (x + wide * 0.85, foot - tall)]
    draw.polygon(cabin, fill=shaded(paint, 0.6))
    for centre in (x + wide * 0.22, x + wide * 0.78):
        draw.ellipse(
            (centre - tall * 0.3, foot - tall * 0.5, centre + tall * 0.3, foot), fill=(24, 24, 24)
        )


def _post(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], foot: float, random: np.random.Generator
) -> None:
    x, tall = random.uniform(0, size[0]), random.uniform(0.5, 0.9) * size[1]
    draw.rectangle((x - 2, foot - tall, x + 2, foot), fill=(50, 52, 56))
    draw.ellipse((x - 7, foot - tall - 10, x + 7, foot - tall + 4), fill=(236, 228, 190))
