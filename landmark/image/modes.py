"""Convert any pixel mode that pillow reads to 8-bit RGB."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

# TIFF tags.
_BITS, _PHOTOMETRIC, _MAXIMUM, _SAMPLE_FORMAT = 258, 262, 281, 339
_LEAST_SAMPLE, _LARGEST_SAMPLE = 340, 341
_SIGNED = 2
# (upper bound of 99.9 % of the values, white), where a file does not declare its range.
_FLOAT_WHITE = ((8, 1.0), (2 * 255, 255.0), (2 * 65535, 65535.0))
_INTEGER_WHITE = ((2 * 255, 255.0), (2 * 65535, 65535.0))


# Of PNG: pillow scales samples to 8 bits, but not the transparent colour.
_TRANSPARENT: dict[Any, Callable[[int], int]] = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "RGB;16B": lambda value: value >> 8,
}


def scale_transparency(image: Image.Image) -> None:
    """Scale the transparent colour of an opened PNG as pillow scales its samples on loading."""
    colour = image.info.get("transparency")
    if colour is None or not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return
    scale = _TRANSPARENT.get(image.tile[0].args)
    if scale is not None:
        is_grey = isinstance(colour, int)
        image.info["transparency"] = scale(colour) if is_grey else tuple(map(scale, colour))


def is_deep(image: Image.Image) -> bool:
    """Return whether pixels are single numbers of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of mode I;16, I or F in mode L, or LA if a value is transparent.

    Black is 0, and white is the first of these that the file has:

    1. TIFF tag SMaxSampleValue (floating point; black is SMinSampleValue, if present); or the
       largest number of as many bits as MaxSampleValue (integers): 4095 for 12 bits.
    2. The largest number of the file's type if that has at most 16 bits (BitsPerSample): 65535,
       4095 for 12 bits, 32767 if signed. PPM files declare their own white.
    3. For types of 32 bits the range that contains 99.9 % of the values, so that a few outliers do
       not matter: 0 to 1 (up to 8, floating point only), 0 to 255 (up to 510), 0 to 65535 (up to
       131,070), else the largest number of the type (integers only).

    Values beyond black and white are clipped, NaN is black. TIFF's WhiteIsZero is inverted.

    Raises:
        ValueError: No value is finite, or floating-point values exceed these ranges.
    """
    values = _values(image)
    black, white = _range(image, values)
    scaled = (np.nan_to_num(values, nan=black, posinf=white, neginf=black) - black) / (
        white - black
    )
    if _tag(image, _PHOTOMETRIC) == 0:
        scaled = 1 - scaled
    pixels = np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.fromarray(np.stack([pixels, alpha], axis=2), "LA")
    return Image.fromarray(pixels)


def _values(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image)
    if image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _SAMPLE_FORMAT) != _SIGNED:
        values = values.view(np.uint32)  # pillow reads unsigned numbers as signed
    return values.astype(np.float64)


def _range(image: Image.Image, values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the values of black and white."""
    if image.mode == "F":
        least, largest = _tag(image, _LEAST_SAMPLE), _tag(image, _LARGEST_SAMPLE)
        if largest is not None and largest > (least or 0):
            return float(least or 0), float(largest)
        return 0.0, _white_of_most(values, _FLOAT_WHITE, None)
    signed = _tag(image, _SAMPLE_FORMAT) == _SIGNED
    bits = int(_tag(image, _BITS) or (32 if image.mode == "I" and image.format != "PPM" else 16))
    maximum = int(_tag(image, _MAXIMUM) or _tag(image, _LARGEST_SAMPLE) or 0)
    largest = 2.0 ** (bits - signed) - 1
    if 0 < maximum < largest:
        return 0.0, 2.0 ** max(maximum.bit_length(), 8) - 1
    return 0.0, largest if bits <= 16 else _white_of_most(values, _INTEGER_WHITE, largest)


def _white_of_most(
    values: NDArray[np.float64], whites: tuple[tuple[int, float], ...], largest: float | None
) -> float:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel has a finite value")
    most = float(np.quantile(finite, 0.999, method="lower"))
    for bound, white in whites:
        if most <= bound:
            return white
    if largest is None:
        raise ValueError(
            f"its floating-point values reach {most:.6g} and no tag SMaxSampleValue declares white"
        )
    return largest


def _tag(image: Image.Image, number: int) -> Any:  # noqa: ANN401
    """Return the value of a TIFF tag, the first one of several; None without it."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any other mode in mode RGB.

    Transparent pixels (LA, RGBA, palettes with transparency) are composited over white, as in a
    browser. CMYK is converted without, CIELAB with a colour profile (D50 to sRGB); colour profiles
    of files are ignored, as in the training of published networks.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(*profiles, "LAB", "RGB")
        return transform.apply(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
