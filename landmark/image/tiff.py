"""Read the TIFFs that pillow alone reads wrongly: sideways greyscale and some 16-bit colour."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

_BITS, _ORIENTATION, _MAXIMUM, _PLANAR = 258, 274, 281, 284
_SEPARATE = 2
_SIDEWAYS = {5, 6, 7, 8}


def load_tiff(image: TiffImagePlugin.TiffImageFile, path: str | Path) -> Image.Image:
    """Load the pixels of a TIFF, upright; those of 16-bit colour become 8-bit by their range.

    White is 65535, or the largest number of as many bits as tag MaxSampleValue: 4095 for 12 bits.

    Args:
        image: Opened file, whose pixels are not loaded yet.
        path: The file.

    Returns:
        The image itself, or one of its size and mode.

    Raises:
        ValueError: Pillow reads only the high bytes of this file, and its range needs the others.
    """
    if image.tag_v2.get(_ORIENTATION, 1) in _SIDEWAYS:
        image.filename = ""  # else pillow maps the file into memory with the sides exchanged
    if not _is_deep_colour(image):
        image.load()
        return image
    _name_planes(image)
    image.load()
    maximum = max(image.tag_v2.get(_MAXIMUM, (65535,)))
    bits = max(int(maximum).bit_length(), 8)
    if bits >= 16:
        return image
    with TiffImagePlugin.TiffImageFile(path) as low:
        _name_planes(low)
        _swap_bytes(low)
        low.load()
        values = np.asarray(image).astype(np.float64) * 256 + np.asarray(low)
    pixels = np.clip(np.rint(values * (255 / (2**bits - 1))), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8), image.mode)


def _is_deep_colour(image: TiffImagePlugin.TiffImageFile) -> bool:
    bits = image.tag_v2.get(_BITS, (1,))
    return image.mode in ("RGB", "RGBA", "CMYK") and set(bits) == {16}


def _name_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Correct pillow's description of uncompressed planes, which it takes for 8-bit ones."""
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    image.tile = [
        _with_mode(tile, f"{mode};16{order}")
        if tile.codec_name == "raw" and len(mode := _mode(tile)) == 1
        else tile
        for tile in image.tile
    ]


def _swap_bytes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Have pillow read the other byte of each sample."""
    if image.tag_v2.get(_PLANAR) == _SEPARATE and image.tile[0].codec_name == "libtiff":
        raise ValueError("it has compressed planes of fewer than 16 bits in 16")
    native = "B" if sys.byteorder == "little" else "L"
    other = {"L": "B", "B": "L", "N": native}
    image.tile = [
        _with_mode(tile, mode[:-1] + other[mode[-1]])
        for tile, mode in ((tile, _mode(tile)) for tile in image.tile)
    ]


def _mode(tile: ImageFile._Tile) -> str:
    """Return the layout of a tile in the file, such as "RGB;16L"."""
    return str(tile.args[0]) if isinstance(tile.args, tuple) else str(tile.args)


def _with_mode(tile: ImageFile._Tile, mode: str) -> ImageFile._Tile:
    rest = tile.args[1:] if isinstance(tile.args, tuple) else ()
    return tile._replace(args=(mode, *rest))
