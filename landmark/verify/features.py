"""What verification reads of a photo's local features."""

from typing import Protocol

import numpy as np


class Features(Protocol):
    """Local features of a photo.

    Attributes:
        keypoints: (n, 2) x, y in pixels.
        descriptors: (n, d) integers or floats; compared by their cosine.
        size: (width, height) of the photo in pixels.
        scales: (n,) diameter of each feature in pixels; None where the method has none.
        angles: (n,) orientation in degrees, from the x axis towards the y axis (down); None where
            the method has none.
        background: (n,) best cosine with a pool of features of other photos; None without a pool.
    """

    @property
    def keypoints(self) -> np.ndarray: ...  # noqa: D102

    @property
    def descriptors(self) -> np.ndarray: ...  # noqa: D102

    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def scales(self) -> np.ndarray | None: ...  # noqa: D102

    @property
    def angles(self) -> np.ndarray | None: ...  # noqa: D102

    @property
    def background(self) -> np.ndarray | None: ...  # noqa: D102
