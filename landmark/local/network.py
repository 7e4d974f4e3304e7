"""Local features that a network detects and describes; weights inside a package of the extra."""

from abc import ABC, abstractmethod
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.local_features import LocalFeatures
from landmark.error import UserError
from landmark.local.photo import check_photo, in_photo, limit_threads, reduced

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class NetworkFeature(ABC):
    """Keypoints and descriptors of a photo by a network, strongest first.

    Equal photos give equal features on one device; other devices and numbers of threads round
    differently. The network is loaded by the first photo, from the installed package alone, and is
    not pickled.

    Attributes:
        dim: Dimension of the descriptors, which have unit length.
        dtype: Their dtype.
        columns: Columns of keypoints.npy: x and y.
        on_device: The network runs on the device that `to` sets, the CPU by default.
        packages: What must be installed.
    """

    dim: ClassVar[int]
    dtype: ClassVar[Literal["float16"]] = "float16"
    columns: ClassVar[Literal[2]] = 2
    on_device: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]]

    def __init__(self, top_k: int, max_side: int) -> None:
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            names = " and ".join(name.replace("_", "-") for name in missing)
            raise UserError(f"{type(self).__name__} needs {names}. Install landmark[local].")
        self.top_k = top_k
        self.max_side = max_side
        self.device: str | torch.device = "cpu"

    def to(self, device: "str | torch.device") -> Self:
        """Move the network to a device, and return the feature."""
        self.device = device
        if "_network" in vars(self):
            self._network.to(device)
        return self

    def __call__(self, photo: NDArray[np.uint8]) -> LocalFeatures:
        """Return the features of a photo (H, W, 3), uint8 RGB; none (n = 0) without structure.

        Raises:
            ValueError: The photo has another shape or dtype, or no pixels.
        """
        import torch

        check_photo(photo)
        limit_threads()
        height, width = photo.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(reduced(photo, self.max_side)))
        with torch.inference_mode():
            image = pixels.to(self.device).permute(2, 0, 1)[None].float() / 255
            keypoints, descriptors, scores, size = self._detect(image)
        return LocalFeatures(
            keypoints=in_photo(keypoints.cpu().numpy(), size, (width, height)),
            descriptors=descriptors.cpu().numpy().astype(np.float16),
            scores=scores.cpu().numpy(),
            size=(width, height),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network: another process loads it from the package."""
        return {key: value for key, value in vars(self).items() if key != "_network"}

    @cached_property
    def _network(self) -> "nn.Module":
        return self._load().to(self.device).eval()

    @abstractmethod
    def _load(self) -> "nn.Module":
        """Return the network with its weights, on the CPU."""

    @abstractmethod
    def _detect(self, image: "Tensor") -> "tuple[Tensor, Tensor, Tensor, tuple[int, int]]":
        """Detect and describe the strongest features.

        Args:
            image: (1, 3, h, w) float32 RGB in [0, 1].

        Returns:
            Keypoints (n, 2) and the (width, height) in whose pixels they are; descriptors (n, dim);
            scores (n,): in the order keypoints, descriptors, scores, size.
        """
