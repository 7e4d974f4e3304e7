"""Check and reduce the photo that a local feature is given."""

import multiprocessing
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_photo(photo: NDArray[Any]) -> None:
    """Check that the array is a photo (H, W, 3), uint8 RGB.

    Raises:
        ValueError: It has another shape or dtype, or no pixels.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ValueError(f"a photo of dtype {photo.dtype} and shape {photo.shape}")


def reduced(pixels: NDArray[Any], max_side: int) -> NDArray[Any]:
    """Reduce pixels (H, W) or (H, W, 3) to a longer side of `max_side`; smaller ones stay."""
    import cv2

    height, width = pixels.shape[:2]
    scale = max_side / max(width, height)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def in_photo(
    keypoints: NDArray[np.floating], from_size: tuple[int, int], to_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Convert keypoints (n, 2) of a resized photo to pixels of the photo; sizes (width, height).

    Example:
        >>> in_photo(np.array([[0.0, 1.0]]), (20, 10), (40, 40)).tolist()
        [[0.5, 5.5]]
    """
    zoom = np.array(to_size) / np.array(from_size)
    # The centre of the top-left pixel is (0, 0), its corner (-0.5, -0.5).
    return ((keypoints + 0.5) * zoom - 0.5).astype(np.float32)


def limit_threads() -> None:
    """Use one OpenCV thread in worker processes: they already share the cores photo by photo.

    The value is 0, not 1: after a fork, 1 would wait forever for the threads of the parent.
    """
    if multiprocessing.parent_process() is not None:
        import cv2

        cv2.setNumThreads(0)
