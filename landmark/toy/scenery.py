"""The surroundings of a toy landmark: sky, horizon and ground behind it, obstacles in front."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageDraw import Draw, ImageDraw

from landmark.toy.camera import Camera, Size
from landmark.toy.design import draw_colour, palette, shaded, to_image

# Pairs of the upper and lower colour of a sky.
_SKIES = palette(
    "4682d2 bed7f0 6ea0dc e1e8f0 aab0b8 d6d8da e2e4e6 f0f0f0 5a5082 f6aa6e 3c466e fad2aa"
)
_NIGHTS = palette("080a1a 1e223c 101432 5a3c46")
_GROUNDS = palette("608042 96928a b0a080 54545a 5a788c d0cecc")


def smooth_noise(size: Size, grain: int, random: Generator) -> NDArray[np.float32]:
    """Return smooth noise (height, width) with details about `grain` pixels wide."""
    small = random.standard_normal((size[1] // grain + 2, size[0] // grain + 2))
    picture = Image.fromarray(small.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def draw_background(camera: Camera, night: bool, random: Generator) -> Image.Image:
    """Return an RGB photo of sky, clouds, horizon and ground, without the landmark."""
    width, height = camera.size
    skies = np.array(_NIGHTS if night else _SKIES, np.float32).reshape(-1, 2, 3)
    upper, lower = skies[random.integers(len(skies))]
    horizon = float(np.clip(camera.row(camera.rotation[2] * [1, 0, 1]), 0.1 * height, 1.5 * height))
    share = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None, None]
    sky = np.broadcast_to(upper + (lower - upper) * share, (height, width, 3)).copy()
    if random.random() < 0.6:
        clouds = np.clip(smooth_noise(camera.size, int(random.integers(20, 70)), random), 0, 1)
        cover = np.float32(random.uniform(0.2, 0.9)) * clouds[..., None]
        sky += (np.float32(60 if night else 240) - sky) * cover
    image = to_image(sky)
    _draw_distance(Draw(image), camera.size, horizon, random)
    _paste_ground(image, horizon, random)
    return image


def _draw_distance(draw: ImageDraw, size: Size, horizon: float, random: Generator) -> None:
    """Draw hills, a row of houses, woods or nothing behind the landmark."""
    width, height = size
    kind, colour = random.integers(4), draw_colour(random, 60, 180)
    if kind == 0:
        steps = np.linspace(0, width, 9)
        tops = horizon - random.uniform(0, 0.25 * height, 9)
        outline = list(zip(steps.tolist(), tops.tolist(), strict=True))
        draw.polygon([(0, horizon), *outline, (width, horizon)], fill=colour)
    elif kind == 1:
        x = 0.0
        while x < width:
            wide, tall = random.uniform(0.06, 0.2) * width, random.uniform(0.08, 0.4) * height
            wall = shaded(colour, random.uniform(0.6, 1.3))
            draw.rectangle((x, horizon - tall, x + wide, horizon), fill=wall)
            for y in np.arange(horizon - tall + 6, horizon - 6, 14):
                draw.line((x + 4, y, x + wide - 4, y), fill=shaded(wall, 0.7), width=4)
            x += wide
    elif kind == 2:
        for x in random.uniform(0, width, 24):
            half = random.uniform(0.04, 0.09) * width
            green = shaded((70, 100, 56), random.uniform(0.5, 1.1))
            draw.ellipse((x - half, horizon - 2 * half, x + half, horizon + half), fill=green)


def _paste_ground(image: Image.Image, horizon: float, random: Generator) -> None:
    top = max(0, round(horizon))
    width, height = image.width, image.height - top
    if height <= 0:
        return
    base = np.array(_GROUNDS[random.integers(len(_GROUNDS))], np.float32)
    shade = smooth_noise((width, height), 12, random)[..., None] * 12
    slope = np.linspace(0.9, 1.1, height, dtype=np.float32)[:, None, None]
    image.paste(to_image(base * slope + shade), (0, top))


def draw_obstacles(image: Image.Image, camera: Camera, random: Generator) -> None:
    """Draw up to two obstacles between the camera and the landmark."""
    draw = Draw(image)
    foot = max(camera.row([0.5, 0.0, 0.0] - camera.position), image.height * 0.75)
    foot = min(image.height * 1.02, foot)
    obstacles = (_tree, _people, _car, _post, _people, _tree)
    for _ in range(random.integers(0, 3)):
        obstacle = obstacles[random.integers(len(obstacles))]
        obstacle(draw, image.size, foot + random.uniform(0, 0.1) * image.height, random)


def _tree(draw: ImageDraw, size: Size, foot: float, random: Generator) -> None:
    x, tall = random.uniform(0, size[0]), random.uniform(0.3, 0.8) * size[1]
    trunk = tall * 0.04
    draw.rectangle((x - trunk, foot - tall * 0.6, x + trunk, foot), fill=(70, 52, 40))
    green = shaded((72, 108, 54), random.uniform(0.5, 1.3))
    for _ in range(14):
        half = tall * random.uniform(0.07, 0.15)
        cx, cy = x + random.normal(0, tall * 0.12), foot - tall * random.uniform(0.5, 0.95)
        leaves = shaded(green, random.uniform(0.8, 1.15))
        draw.ellipse((cx - half, cy - half, cx + half, cy + half), fill=leaves)


def _people(draw: ImageDraw, size: Size, foot: float, random: Generator) -> None:
    tall = random.uniform(0.12, 0.42) * size[1]
    for _ in range(random.integers(1, 5)):
        x, ground = random.uniform(0, size[0]), foot + random.uniform(0, 0.05) * size[1]
        shirt = draw_colour(random, 20, 240)
        half, head, hip = tall * 0.13, tall * 0.075, tall * 0.13 * 0.7
        draw.rectangle((x - hip, ground - tall * 0.5, x + hip, ground), fill=(40, 42, 60))
        torso = (x - half, ground - tall * 0.85, x + half, ground - tall * 0.42)
        draw.rounded_rectangle(torso, radius=half * 0.6, fill=shirt)
        skin = shaded((224, 178, 140), random.uniform(0.4, 1.05))
        draw.ellipse((x - head, ground - tall, x + head, ground - tall * 0.83), fill=skin)


def _car(draw: ImageDraw, size: Size, foot: float, random: Generator) -> None:
    x, wide = random.uniform(-0.1, 0.8) * size[0], random.uniform(0.25, 0.5) * size[0]
    tall, wheel = wide * 0.22, wide * 0.22 * 0.3
    paint = draw_colour(random, 20, 230)
    draw.rounded_rectangle((x, foot - tall, x + wide, foot - tall * 0.15), radius=6, fill=paint)
    cabin = [(x + wide * 0.2, foot - tall), (x + wide * 0.3, foot - tall * 1.8)]
    cabin += [(x + wide * 0.7, foot - tall * 1.8), (x + wide * 0.85, foot - tall)]
    draw.polygon(cabin, fill=shaded(paint, 0.6))
    for cx in (x + wide * 0.22, x + wide * 0.78):
        draw.ellipse((cx - wheel, foot - tall * 0.5, cx + wheel, foot), fill=(24, 24, 24))


def _post(draw: ImageDraw, size: Size, foot: float, random: Generator) -> None:
    x, tall = random.uniform(0, size[0]), random.uniform(0.5, 0.9) * size[1]
    draw.rectangle((x - 2, foot - tall, x + 2, foot), fill=(50, 52, 56))
    draw.ellipse((x - 7, foot - tall - 10, x + 7, foot - tall + 4), fill=(236, 228, 190))
