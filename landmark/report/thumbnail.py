"""Make thumbnails of photos."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from landmark.error import UserError
from landmark.image.decode import decode, read_size, resize
from landmark.report.photos import Photo

_QUALITY = 72
_THREADS = 4


def thumbnail(photo: Photo, side: int) -> Image.Image:
    """Decode a photo, or its box, with its longer side reduced to at most `side` pixels.

    Raises:
        UserError: The file is missing, not an image, or damaged.
    """
    width, height = read_size(photo.path)
    if photo.box is not None:
        left, top, right, bottom = photo.box
        width, height = max(1, round(right - left)), max(1, round(bottom - top))
    scale = min(1.0, side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return resize(decode(photo.path, size, photo.box), size, "bicubic")


def data_uris(photos: Sequence[Photo | None], side: int) -> list[str | UserError]:
    """Encode the thumbnail of each photo as a JPEG `data:` URI, or return the error."""

    def encoded(photo: Photo | None) -> str | UserError:
        if photo is None:
            return UserError("the store does not record where its photos are")
        file = io.BytesIO()
        try:
            # An empty comment: pillow would copy the photo's comment.
            thumbnail(photo, side).save(file, "JPEG", quality=_QUALITY, optimize=True, comment=b"")
        except UserError as error:
            return error
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(encoded, photos))
