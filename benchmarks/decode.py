"""Decode a 1024 x 768 photo to 512 x 384: at reduced scale, and as the released code does.

    python benchmarks/decode.py [PHOTO ...]

The photos are first made 1024 x 768 JPEGs of quality 90; without any, one is drawn. Prints
milliseconds on one core, the ratio, and the PSNR against full decoding with area resizing.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from landmark.image import decode, resize

SOURCE_SIZE, TARGET_SIZE = (1024, 768), (512, 384)


def draw_photo() -> Image.Image:
    """Draw a photo with smooth light, fine grain and many edges."""
    random = np.random.default_rng(0)
    light = Image.fromarray(random.integers(60, 230, (12, 16, 3), dtype=np.uint8))
    image = light.resize(SOURCE_SIZE, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(160):
        left, top = (int(random.integers(0, side)) for side in SOURCE_SIZE)
        width, height = (int(side) for side in random.integers(10, 90, 2))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        draw.rectangle((left, top, left + width, top + height), fill=colour)
    grain = random.normal(0, 6, (SOURCE_SIZE[1], SOURCE_SIZE[0], 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def ours(path: Path) -> Image.Image:
    return resize(decode(path, TARGET_SIZE), TARGET_SIZE)


def released(path: Path) -> Image.Image:
    """Decode fully, then interpolate without a filter, as cv2.resize does by default."""
    with Image.open(path) as image:
        scale = (SOURCE_SIZE[0] / TARGET_SIZE[0], SOURCE_SIZE[1] / TARGET_SIZE[1])
        matrix = (scale[0], 0, 0, 0, scale[1], 0)
        bilinear = Image.Resampling.BILINEAR
        return image.convert("RGB").transform(TARGET_SIZE, Image.Transform.AFFINE, matrix, bilinear)


def released_filtered(path: Path) -> Image.Image:
    """Decode fully, then resize with pillow's bilinear filter."""
    with Image.open(path) as image:
        return image.convert("RGB").resize(TARGET_SIZE, Image.Resampling.BILINEAR)


def psnr(image: Image.Image, reference: Image.Image) -> float:
    error = np.mean((np.asarray(image, np.float64) - np.asarray(reference, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def milliseconds(method: Callable[[Path], Image.Image], path: Path, repeats: int) -> float:
    """Return the fastest repeat, which other work on the machine disturbs least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        method(path)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    photos = [
        decode(path).resize(SOURCE_SIZE, Image.Resampling.LANCZOS) for path in arguments.photos
    ]
    methods = {
        "ours": ours,
        "released (as cv2)": released,
        "released (filtered)": released_filtered,
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    quality: dict[str, list[float]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        for photo in photos or [draw_photo()]:
            photo.save(path, quality=90)
            reference = decode(path).resize(TARGET_SIZE, Image.Resampling.BOX)
            for name, method in methods.items():
                times[name].append(milliseconds(method, path, arguments.repeats))
                quality[name].append(psnr(method(path), reference))
    for name in methods:
        print(f"{name:<20} {np.mean(times[name]):6.2f} ms   PSNR {np.mean(quality[name]):5.1f} dB")
    for name in list(methods)[1:]:
        print(f"ours is {np.mean(times[name]) / np.mean(times['ours']):.2f} x as fast as {name}")


if __name__ == "__main__":
    main()
