"""Read the size of a photo from its header, and its pixels at the smallest sufficient scale."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from landmark.error import UserError
from landmark.image.file_types import HEIF_SUFFIXES, INSTALL_HEIF, PROGRAMS, register_heif
from landmark.image.modes import is_deep, scale_transparency, to_8_bits, to_rgb
from landmark.image.tiff import load_tiff

Size = tuple[int, int]
Box = tuple[float, float, float, float]
Interpolation = Literal["bilinear", "bicubic", "area", "lanczos"]

SMALLEST_SIDE = 8  # nothing can be recognised on a shorter side
ADVICE = "Replace it, remove it, or pass data.bad_image=skip."

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}
_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_size(path: str | Path) -> Size:
    """Return (width, height) of the upright photo, reading only the file's header.

    Raises:
        UserError: The file is missing, not an image or beyond pillow's limit on pixels, or a side
            is shorter than `SMALLEST_SIDE`.
    """
    with _opened(path) as image:
        return _upright_size(image.size, _orientation(image))


def decode(path: str | Path, size: Size | None = None, box: Box | None = None) -> Image.Image:
    """Return the photo as an RGB image, upright (EXIF orientation applied) and cropped to `box`.

    `to_8_bits` and `to_rgb` say what black, white and transparency are in each kind of file.

    Args:
        path: Image in any format that pillow reads, regardless of its extension.
        size: (width, height) to which the result will be resized. A JPEG is then decoded at the
            smallest of the scales 1, 1/2, 1/4, 1/8 (by omitting DCT coefficients, not pixels) at
            which the crop is at least this large. The result has that scale; `resize` makes the
            size exact.
        box: (left, top, right, bottom) in pixels of the upright photo at full scale.

    Raises:
        UserError: The file is missing, not an image, broken or beyond pillow's limit on pixels, a
            side is shorter than `SMALLEST_SIDE`, or the box lies outside the photo.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        full_width, full_height = _upright_size(image.size, orientation)
        if size is not None:
            _reduce(image, size, box, orientation)
        loaded = _loaded(image, path)
        # Before the crop: the range of some images depends on all of their values.
        pixels = to_8_bits(loaded) if is_deep(loaded) else loaded
        turn = _TURNS.get(orientation)
        upright = pixels if turn is None else pixels.transpose(turn)
        if box is not None:
            scale = (upright.width / full_width, upright.height / full_height)
            upright = upright.crop(_scaled_box(box, scale, upright.size, path))
        return to_rgb(upright)


def decoded_size(path: str | Path, size: Size | None, box: Box | None = None) -> Size:
    """Return the (width, height) at which `decode` reads the file, before the crop to `box`.

    Two sizes with the same result share one decoded photo. Only the header is read.

    Raises:
        UserError: As `read_size`.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        if size is not None:
            _reduce(image, size, box, orientation)
        return _upright_size(image.size, orientation)


def _loaded(image: Image.Image, path: str | Path) -> Image.Image:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return load_tiff(image, path)
    scale_transparency(image)
    image.load()
    return image


def resize(
    image: Image.Image,
    size: Size,
    interpolation: Interpolation = "bilinear",
    box: Box | None = None,
) -> Image.Image:
    """Return `box` of the image at exactly `size`, antialiased. `box` defaults to the entire image.

    Shrinking by a factor above three first averages blocks of pixels, which is faster and looks the
    same (pillow's `reducing_gap`).
    """
    if image.size == tuple(size) and (box is None or tuple(box) == (0, 0, *image.size)):
        return image
    return image.resize(size, _RESAMPLING[interpolation], box=box, reducing_gap=3.0)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with _identified(path) as image:
            _check_usable(image, path)
            yield image
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {ADVICE}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(
            f"{path} has more pixels than is safe to decode ({limit:,}). {ADVICE}"
        ) from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pillow's plugins raise many kinds of errors on damaged files
        reason = _unidentified(path) if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path} cannot be decoded ({reason}). {ADVICE}") from error


def _check_usable(image: Image.Image, path: str | Path) -> None:
    if image.format in PROGRAMS:
        raise UserError(
            f"{path} cannot be decoded ({image.format} is a program that pillow would run). "
            f"{ADVICE}"
        )
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(
            f"{path} is only {image.width} x {image.height} pixels, fewer than {SMALLEST_SIDE} on "
            f"a side. {ADVICE}"
        )


def _identified(path: str | Path) -> Image.Image:
    """Open a file, as HEIF only if pillow does not know its format: most photos need no plugin."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if not register_heif():
            raise
        return Image.open(path)


def _unidentified(path: str | Path) -> str:
    if Path(path).suffix.lower() in HEIF_SUFFIXES and not register_heif():
        return f"HEIF: {INSTALL_HEIF}"
    return "not an image that pillow reads"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; always 1 for TIFF, which pillow rotates on loading."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    try:
        # PngImageFile.getexif would read the complete file: EXIF may follow the pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # pillow raises many kinds of errors on a damaged EXIF block
        return 1
    return orientation if orientation in _TURNS else 1


def _upright_size(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


def _reduce(image: Image.Image, size: Size, box: Box | None, orientation: int) -> None:
    """Set the smallest scale of a JPEG whose `box` is at least `size`; other formats: no-op."""
    width, height = _upright_size(image.size, orientation)
    part_width, part_height = (width, height) if box is None else (box[2] - box[0], box[3] - box[1])
    if part_width <= 0 or part_height <= 0:
        return
    draft_size = (
        min(width, math.ceil(size[0] * width / part_width)),
        min(height, math.ceil(size[1] * height / part_height)),
    )
    image.draft("RGB", _upright_size(draft_size, orientation))


def _scaled_box(
    box: Box, scale: tuple[float, float], size: Size, path: str | Path
) -> tuple[int, int, int, int]:
    left, right = (min(max(round(x * scale[0]), 0), size[0]) for x in (box[0], box[2]))
    top, bottom = (min(max(round(y * scale[1]), 0), size[1]) for y in (box[1], box[3]))
    if left >= right or top >= bottom:
        raise UserError(
            f"{path}: the box {tuple(box)} lies outside the photo. Check the table's boxes."
        )
    return left, top, right, bottom
