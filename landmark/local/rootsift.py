"""RootSIFT: OpenCV's SIFT with square-rooted descriptors."""

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from landmark.artifact.local_features import LocalFeatures
from landmark.local.photo import check_photo, in_photo, limit_threads, reduced
from landmark.settings import checked

if TYPE_CHECKING:
    import cv2

# Values exceed 255 / 512 only where one of the 128 bins holds a quarter of the L1 norm.
_UINT8_SCALE = 512


class RootSIFT:
    """Keypoints and RootSIFT descriptors of a photo, strongest first.

    The result does not depend on the number of threads: equal responses are ordered by position,
    size and angle. A keypoint with several dominant orientations gives one feature for each, with
    equal coordinates and in successive rows; each counts towards `top_k`, since OpenCV does not say
    which is the strongest. Count equal coordinates once when counting matched keypoints.

    Args:
        top_k: Maximum number of features; those with the strongest responses are kept.
        max_side: Longer side in pixels to which larger photos are reduced. Keypoints and scales are
            in pixels of the given photo.
        contrast_threshold: OpenCV's contrastThreshold; higher values leave fewer keypoints.
        dtype: Dtype of the descriptors. uint8 stores 512 times the value, rounded, at most 255:
            normalised to unit length again, their cosines are within 0.005 of the exact ones.
            float16 stores the unit vectors.

    Source:
        Lowe: Distinctive Image Features from Scale-Invariant Keypoints. IJCV 2004. Arandjelović,
        Zisserman: Three things everyone should know to improve object retrieval. CVPR 2012, section
        3: descriptors are divided by their L1 norm and square-rooted. Schönberger, Frahm:
        Structure-from-Motion Revisited. CVPR 2016: COLMAP stores them in the same uint8.

    Example:
        >>> photo = np.zeros((90, 120, 3), np.uint8)
        >>> photo[30:60, 40:80] = 255
        >>> features = RootSIFT(top_k=3)(photo)
        >>> features.descriptors.shape, features.descriptors.dtype.name, features.size
        ((3, 128), 'uint8', (120, 90))
    """

    dim = 128
    columns: Literal[4] = 4

    @checked
    def __init__(
        self,
        top_k: PositiveInt = 1000,
        max_side: Annotated[int, Field(ge=32)] = 1024,
        contrast_threshold: PositiveFloat = 0.04,
        dtype: Literal["uint8", "float16"] = "uint8",
    ) -> None:
        self.top_k = top_k
        self.max_side = max_side
        self.contrast_threshold = contrast_threshold
        self.dtype: Literal["uint8", "float16"] = dtype

    def __call__(self, photo: NDArray[np.uint8]) -> LocalFeatures:
        """Return the features of a photo (H, W, 3), uint8 RGB; none (n = 0) without structure.

        Raises:
            ValueError: The photo has another shape or dtype, or no pixels.
        """
        check_photo(photo)
        limit_threads()
        import cv2

        height, width = photo.shape[:2]
        grey = reduced(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), self.max_side)
        # One pass: `compute` for the best alone may begin at another octave and differ slightly.
        # OpenCV keeps all of equal response at the limit, so that the order below decides.
        keypoints, descriptors = self._sift.detectAndCompute(grey, None)
        columns = np.array(
            [(*k.pt, k.size, k.angle, k.response) for k in keypoints], np.float32
        ).reshape(-1, 5)
        x, y, sizes, angles, responses = columns.T
        best = np.lexsort((angles, sizes, x, y, -responses))[: self.top_k]
        zoom = np.array([width / grey.shape[1], height / grey.shape[0]])
        return LocalFeatures(
            keypoints=in_photo(columns[best, :2], grey.shape[1::-1], (width, height)),
            descriptors=self._stored(descriptors[best] if len(best) else np.empty((0, self.dim))),
            scores=responses[best],
            size=(width, height),
            scales=(sizes[best] * math.sqrt(zoom.prod())).astype(np.float32),
            angles=angles[best] % 360,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out OpenCV's object, which cannot be pickled."""
        return {key: value for key, value in vars(self).items() if key != "_sift"}

    @cached_property
    def _sift(self) -> "cv2.SIFT":
        import cv2

        # Without the precise upscale positions are a quarter of a pixel off.
        return cv2.SIFT.create(
            nfeatures=self.top_k,
            contrastThreshold=self.contrast_threshold,
            enable_precise_upscale=True,
        )

    def _stored(self, sift: np.ndarray) -> NDArray[Any]:
        root = root_sift(sift)
        if self.dtype == "uint8":
            return np.minimum(np.rint(root * _UINT8_SCALE), 255).astype(np.uint8)
        return root.astype(np.float16)


def root_sift(sift: np.ndarray) -> NDArray[np.float32]:
    """Divide SIFT descriptors (n, 128) by their L1 norm and take the square root: unit vectors.

    Example:
        >>> root_sift(np.array([[9, 16, 0, 0]])).tolist()
        [[0.6000000238418579, 0.800000011920929, 0.0, 0.0]]
    """
    sums = sift.sum(axis=1, keepdims=True, dtype=np.float32)
    return np.sqrt(sift.astype(np.float32) / np.maximum(sums, 1e-12))
