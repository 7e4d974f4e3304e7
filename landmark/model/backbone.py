"""Backbone: images to feature maps, with any timm model."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.model.create import create_timm_model
from landmark.model.relup import raise_activations
from landmark.model.trace import drop_parts, trace_shapes, unused_parts
from landmark.model.weights import load_weights
from landmark.settings import checked

# Rate of dropout or stochastic depth.
Rate = Annotated[float, Field(ge=0, lt=1)]


class Features(NamedTuple):
    """Output of a backbone, and the argument of poolings with `takes = "features"`.

    Attributes:
        maps: Maps of the requested stages, each (B, C_i, h_i, w_i), in that order; without stages
            only the last map.
        class_token: (B, C); None if the model has no class token.
    """

    maps: list[Tensor]
    class_token: Tensor | None


class Backbone(nn.Module):
    """Any timm model, convolutional or transformer: (B, 3, h, w) → Features.

    For a transformer, images whose sides are not multiples of the patch are padded with the mean
    colour on the right and below. Parameters that only a classifier would use are removed.

    Args:
        name: Name in timm.
        stages: Indices of the maps to return (timm's `forward_intermediates`: stages of a
            convolutional network, blocks of a transformer; negative from the last). None means
            the map of timm's `forward_features`.
        image_size: (width, height) of the images, or one side. Sets the size of architectures with
            a fixed size; others ignore it.
        drop_path: Rate of stochastic depth.
        weights: See `landmark.model.weights`.
        relup: Smallest activation of a ResNet's first three stages, see `raise_activations`. None
            leaves them as they are.

    Raises:
        UserError: See `create_timm_model`, `load_weights` and `raise_activations`; a stage does not
            exist; the model's output is not a map. In the forward pass: the size is not supported.
    """

    @checked
    def __init__(
        self,
        name: str,
        stages: Annotated[Sequence[int], Field(min_length=1)] | None = None,
        image_size: tuple[PositiveInt, PositiveInt] | PositiveInt | None = None,
        drop_path: Rate = 0.0,
        weights: str | None = None,
        relup: NonNegativeFloat | None = None,
    ) -> None:
        super().__init__()
        self.model: Any
        self.name = name
        self.stages = None if stages is None else [int(stage) for stage in stages]
        if isinstance(image_size, int):
            image_size = (image_size, image_size)
        self.model = create_timm_model(name, image_size, drop_path, pretrained=weights == "timm")
        if relup is not None:
            raise_activations(self.model, name, relup)
        self.data_config = resolve_model_data_config(self.model)
        self._read_layout(image_size)
        features, unused = self._trace()
        self.channels = [feature_map.shape[1] for feature_map in features.maps]
        token = features.class_token
        self.class_token_channels = None if token is None else token.shape[1]
        unneeded = unused_parts(self.model, {path.removeprefix("model.") for path in unused})
        if weights not in (None, "timm"):
            load_weights(self.model, name, weights, unneeded)
        drop_parts(self.model, unneeded)

    def _read_layout(self, image_size: tuple[int, int] | None) -> None:
        """Read the input size and the output layout that the model declares."""
        config = self.model.pretrained_cfg
        self.dynamic = bool(getattr(self.model, "dynamic_img_size", False))
        self.native_size = tuple(self.data_config["input_size"][-2:])  # (height, width)
        self.fixed = bool(config.get("fixed_input_size")) and not self.dynamic
        if self.fixed and image_size is not None:
            self.native_size = (image_size[1], image_size[0])
        self.channels_last_output = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        info = list(getattr(self.model, "feature_info", ()))
        self.reduction = int(info[-1]["reduction"]) if info else 1
        self.prefix_tokens = getattr(self.model, "num_prefix_tokens", None)
        self.has_class_token = getattr(self.model, "cls_token", None) is not None

    def _trace(self) -> tuple[Features, set[str]]:
        try:
            outputs, unused = trace_shapes(self, *self.native_size)
        except (AssertionError, AttributeError, TypeError) as error:
            if self.stages is None:
                raise
            raise UserError(
                f"model.stages={self.stages} is not available from {self.name} ({error}). "
                "Pass other stages or null."
            ) from error
        return Features(*outputs), unused

    def forward(self, x: Tensor) -> Features:
        """Compute the features of normalised images (B, 3, h, w)."""
        if self.dynamic:
            x = self._pad(x)
        if not self.fixed or tuple(x.shape[-2:]) == self.native_size:
            return self._features(x)
        try:
            return self._features(x)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width = self.native_size
            raise UserError(
                f"{self.name} does not support images of {x.shape[-1]}x{x.shape[-2]} (width x "
                f"height), only of {width}x{height}. Choose that image size or another backbone."
            ) from error

    def _pad(self, x: Tensor) -> Tensor:
        """Pad to complete patches; 0 is the mean colour of a normalised image."""
        below, right = -x.shape[-2] % self.reduction, -x.shape[-1] % self.reduction
        return functional.pad(x, (0, right, 0, below)) if below or right else x

    def _features(self, x: Tensor) -> Features:
        height, width = x.shape[-2:]
        if self.stages is None:
            last = self.model.forward_features(x)
            maps = [self._as_map(last, height, width)]
        else:
            last, maps = self.model.forward_intermediates(
                x, indices=self.stages, norm=True, stop_early=True
            )
        token = last[:, 0] if self.has_class_token and last.ndim == 3 else None
        return Features(maps, token)

    def _as_map(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens (B, n, C) or (B, h, w, C) → (B, C, h, w)."""
        if not isinstance(x, Tensor) or x.ndim not in (3, 4):
            raise UserError(f"{self.name} returns no feature map. Choose another backbone.")
        if x.ndim == 4:
            return x.permute(0, 3, 1, 2) if self.channels_last_output else x
        # Models that normalise after pooling have tokens that are not normalised yet.
        x = getattr(self.model, "fc_norm", nn.Identity())(x)
        rows, columns = -(-height // self.reduction), -(-width // self.reduction)
        prefix = x.shape[1] - rows * columns if self.prefix_tokens is None else self.prefix_tokens
        if prefix < 0 or prefix + rows * columns != x.shape[1]:
            raise UserError(f"the tokens of {self.name} form no grid. Choose another backbone.")
        return x[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
