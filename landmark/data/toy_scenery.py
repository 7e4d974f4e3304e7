"""What stands around a toy landmark: sky, far things, ground."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from landmark.data.toy_camera import Camera
from landmark.data.toy_design import Colour, draw_colour
from landmark.data.toy_ornament import shaded

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((70, 130, 210), (190, 215, 240)),
    ((110, 160, 220), (225, 232, 240)),
    ((170, 176, 184), (214, 216, 218)),
    ((226, 228, 230), (240, 240, 240)),
    ((90, 80, 130), (246, 170, 110)),
    ((60, 70, 110), (250, 210, 170)),
)
_NIGHTS: tuple[tuple[Colour, Colour], ...] = (
    ((8, 10, 26), (30, 34, 60)),
    ((16, 20, 50), (90, 60, 70)),
)
_GROUNDS: tuple[Colour, ...] = (
    (96, 128, 66),
    (150, 146, 138),
    (176, 160, 128),
    (84, 84, 90),
    (90, 120, 140),
    (208, 206, 204),
)


def smooth_noise(
    size: tuple[int, int], grain: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Return (height, width) noise of unit spread whose blots are about `grain` pixels wide."""
    small = random.standard_normal((size[1] // grain + 2, size[0] // grain + 2))
    picture = Image.fromarray(small.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def draw_background(camera: Camera, night: bool, random: np.random.Generator) -> Image.Image:
    """Return an RGB photo of sky, clouds, a far horizon and the ground, without the landmark."""
    width, height = camera.size
    choices = _NIGHTS if night else _SKIES
    upper, lower = (np.array(c, np.float32) for c in choices[random.integers(len(choices))])
    horizon = float(np.clip(camera.horizon(), 0.1 * height, 1.5 * height))
    share = np.clip(np.arange(height, dtype=np.float32) / horizon, 0, 1)[:, None, None]
    sky = np.broadcast_to(upper + (lower - upper) * share, (height, width, 3)).copy()
    if random.random() < 0.6:
        clouds = np.clip(smooth_noise(camera.size, int(random.integers(20, 70)), random), 0, 1)
        cover = np.float32(random.uniform(0.2, 0.9)) * clouds[..., None]
        sky += (np.float32(60 if night else 240) - sky) * cover
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    _draw_far_things(ImageDraw.Draw(image), camera.size, horizon, random)
    _paste_ground(image, horizon, random)
    return image


def _draw_far_things(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    horizon: float,
    random: np.random.Generator,
) -> None:
    """Hills, or a row of other houses, or woods behind the landmark."""
    width, height = size
    kind = int(random.integers(4))
    colour = draw_colour(random, 60, 180)
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


def _paste_ground(image: Image.Image, horizon: float, random: np.random.Generator) -> None:
    top = max(0, round(horizon))
    width, height = image.width, image.height - top
    if height <= 0:
        return
    base = np.array(_GROUNDS[random.integers(len(_GROUNDS))], np.float32)
    shade = smooth_noise((width, height), 12, random)[..., None] * 12
    slope = np.linspace(0.9, 1.1, height, dtype=np.float32)[:, None, None]
    ground = np.clip(base * slope + shade, 0, 255).astype(np.uint8)
    image.paste(Image.fromarray(ground), (0, top))
