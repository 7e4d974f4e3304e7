"""Convert any pixel mode that pillow reads to 8-bit RGB."""

import numpy as np
from PIL import Image

_WITH_ALPHA = {"LA", "PA", "La", "RGBA", "RGBa"}
_DEEP = {"I", "F"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB.

    Transparent pixels (LA, RGBA, palettes with transparency) are composited over white, as in a
    browser. 16-bit values are divided by 257, so that 65535 becomes 255. Floating-point values
    count as 0..1 if none exceeds 1, else as 0..255 if none exceeds 255, else as 0..65535.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _DEEP or image.mode.startswith("I;16"):
        return _from_deep(image).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        top = values.max(initial=0.0)
        factor = 255.0 if top <= 1 else (1.0 if top <= 255 else 1 / 257)
    else:
        factor = 1 / 257
    return Image.fromarray(np.clip(np.rint(values * factor), 0, 255).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
