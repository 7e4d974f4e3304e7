"""Take a photo of a toy landmark: viewpoint, scenery, light, obstacles, defects."""

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter
from PIL.ImageDraw import Draw

from landmark.toy.camera import draw_camera, paste_building
from landmark.toy.design import Design, to_image
from landmark.toy.scenery import draw_background, draw_obstacles, smooth_noise

_SIZES = ((320, 240), (320, 240), (320, 212), (240, 320), (240, 320), (212, 320), (280, 280))
_WATERMARKS = ("(c) photo stock", "12 08 2009", "www.travel.example", "IMG_2041")


def take_photo(
    design: Design, front: Image.Image, side: Image.Image, random: Generator, scale: float = 1.0
) -> tuple[Image.Image, int]:
    """Return an RGB photo and the JPEG quality with which to save it.

    Args:
        design: Design of the landmark.
        front: Picture of its front.
        side: Picture of its side wall.
        random: Random generator of everything that differs between photos.
        scale: Factor on the photo's sides, about 320 × 240 at 1.
    """
    width, height = _SIZES[random.integers(len(_SIZES))]
    stretch = scale * random.uniform(0.95, 1.05)
    size = (round(width * stretch), round(height * stretch))
    camera = draw_camera(design, size, random)
    night = random.random() < 0.08
    photo = draw_background(camera, night, random)
    building = Image.new("RGBA", size)
    paste_building(building, camera, front, side)
    photo.paste(_lit(building, night, random), (0, 0), building)
    draw_obstacles(photo, camera, random)
    photo = _developed(photo, random)
    if random.random() < 0.12:
        _stamp(photo, random)
    return photo, int(random.integers(35, 93))


def _lit(building: Image.Image, night: bool, random: Generator) -> Image.Image:
    """Return the building lit by lamps at night, by the sun with a cast shadow, or evenly."""
    pixels = np.asarray(building.convert("RGB")).astype(np.float32)
    height, width = pixels.shape[:2]
    if night:
        lamps = np.linspace(0.25, 1.0, height, dtype=np.float32)[:, None]
        lamps = lamps * np.exp(smooth_noise((width, height), width // 3, random) * 0.4)
        light = lamps[..., None] * np.array([1.0, 0.78, 0.5], np.float32)
        pixels *= light * np.float32(random.uniform(0.6, 1.1))
    elif random.random() < 0.5:
        angle, place = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.8)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        across = (x / width - place) * math.cos(angle) + (y / height - place) * math.sin(angle)
        shade = np.clip(across * np.float32(30) + np.float32(0.5), 0, 1)
        pixels *= 1 - np.float32(random.uniform(0.15, 0.45)) * shade[..., None]
    return to_image(pixels)


def _developed(photo: Image.Image, random: Generator) -> Image.Image:
    """Apply haze, colour cast, exposure, contrast, fading, blur and noise."""
    levels = np.repeat(np.arange(256.0)[None] / 255, 3, axis=0)
    if random.random() < 0.15:
        haze = random.uniform(0.6, 0.95, (3, 1))
        levels += (haze - levels) * random.uniform(0.1, 0.35)
    warmth = random.normal(0, 0.08)
    gains = np.array([[1 + warmth], [1 + random.normal(0, 0.03)], [1 - warmth]])
    exposed = np.clip(levels * gains * np.exp(random.normal(0, 0.15)), 0, 1)
    curve = exposed ** np.exp(random.normal(0, 0.18))
    photo = photo.point(np.rint(curve * 255).astype(int).ravel().tolist())
    if random.random() < 0.06:
        tint = (0, 0, 0) if random.random() < 0.5 else (14, 4, -18)
        grey = photo.convert("L")
        photo = Image.merge("RGB", [grey.point(lambda v, by=by: v + by) for by in tint])
    if random.random() < 0.4:
        photo = photo.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.3)))
    noise = random.standard_normal((photo.height, photo.width, 1), np.float32)
    return to_image(np.asarray(photo) + noise * np.float32(random.gamma(1.2, 3.0)))


def _stamp(photo: Image.Image, random: Generator) -> None:
    """Draw a frame around the photo, or a watermark onto it."""
    draw = Draw(photo)
    if random.random() < 0.3:
        draw.rectangle((0, 0, photo.width - 1, photo.height - 1), outline="white", width=8)
        return
    place = (random.uniform(0, 0.5) * photo.width, random.uniform(0.05, 0.9) * photo.height)
    text = _WATERMARKS[random.integers(len(_WATERMARKS))]
    draw.text(place, text, fill=(255, 255, 255), font_size=18)
