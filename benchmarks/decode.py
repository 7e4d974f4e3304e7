"""Decoding a 1024 x 768 photo to 512 x 384: at reduced scale, and the seed solution's way.

    python benchmarks/decode.py [PHOTO ...]

Photos given are first made 1024 x 768 JPEGs of quality 90; without any, one is drawn. Prints
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

FULL, WANTED = (1024, 768), (512, 384)


def drawn_photo() -> Image.Image:
    """Smooth light, fine grain and many edges."""
    random = np.random.default_rng(0)
    light = Image.fromarray(random.integers(60, 230, (12, 16, 3), dtype=np.uint8))
    image = light.resize(FULL, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(160):
        left, top = (int(random.integers(0, side)) for side in FULL)
        width, height = (int(side) for side in random.integers(10, 90, 2))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        draw.rectangle((left, top, left + width, top + height), fill=colour)
    grain = random.normal(0, 6, (FULL[1], FULL[0], 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def ours(path: Path) -> Image.Image:
    return resize(decode(path, WANTED), WANTED)


def seeds_way(path: Path) -> Image.Image:
    """Full decoding, then bilinear interpolation without a filter, as cv2.resize does it."""
    with Image.open(path) as image:
        scale = (FULL[0] / WANTED[0], FULL[1] / WANTED[1])
        matrix = (scale[0], 0, 0, 0, scale[1], 0)
        bilinear = Image.Resampling.BILINEAR
        return image.convert("RGB").transform(WANTED, Image.Transform.AFFINE, matrix, bilinear)


def seeds_way_filtered(path: Path) -> Image.Image:
    """Full decoding, then pillow's bilinear resizing."""
    with Image.open(path) as image:
        return image.convert("RGB").resize(WANTED, Image.Resampling.BILINEAR)


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def milliseconds(way: Callable[[Path], Image.Image], path: Path, repeats: int) -> float:
    """The fastest of the repeats: what the machine's other work least disturbed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        way(path)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    photos = [decode(path).resize(FULL, Image.Resampling.LANCZOS) for path in arguments.photos]
    ways = {"ours": ours, "seed (as cv2)": seeds_way, "seed (filtered)": seeds_way_filtered}
    times: dict[str, list[float]] = {name: [] for name in ways}
    quality: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        for photo in photos or [drawn_photo()]:
            photo.save(path, quality=90)
            expected = decode(path).resize(WANTED, Image.Resampling.BOX)
            for name, way in ways.items():
                times[name].append(milliseconds(way, path, arguments.repeats))
                quality[name].append(psnr(way(path), expected))
    for name in ways:
        print(f"{name:<16} {np.mean(times[name]):6.2f} ms   PSNR {np.mean(quality[name]):5.1f} dB")
    for name in list(ways)[1:]:
        print(f"ours is {np.mean(times[name]) / np.mean(times['ours']):.2f} x as fast as {name}")


if __name__ == "__main__":
    main()
