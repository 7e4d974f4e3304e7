"""Embedder: photos to embeddings."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landmark.error import UserError
from landmark.model.backbone import Backbone, Features


def pool(pooling: nn.Module, features: Features) -> Tensor:
    """Gives a pooling what it takes, the features or their one map: (B, C)."""
    if getattr(pooling, "takes", "map") == "features":
        return pooling(features)
    if len(features.maps) != 1:
        raise UserError(
            f"{type(pooling).__name__} pools one map, but the backbone gives {len(features.maps)}: "
            "name one in model.stages, or choose pooling=gem_stages"
        )
    return pooling(features.maps[0])


def pooled_dim(pooling: nn.Module, backbone: Backbone) -> int:
    """Dimension of the pooled vector, from pooling a small map of the backbone's channels."""
    channels = backbone.class_token_channels
    token = None if channels is None else torch.zeros(1, channels)
    with torch.no_grad():
        return pool(
            pooling, Features([torch.zeros(1, c, 8, 8) for c in backbone.channels], token)
        ).shape[1]


class Embedder(nn.Module):
    """Backbone, pooling and neck: photos (B, 3, h, w) → embeddings (B, embedding_dim).

    Photos are uint8, or floating point from 0 to 1; they are normalised here, on the device, with
    the mean and standard deviation that the backbone was trained with. Embeddings are not of unit
    length.

    Args:
        backbone: photos → features.
        pooling: features or map → vector (see `landmark.pooling`).
        neck: vector → embedding.
        embedding_dim: dimension of the neck's output.
        channels_last: memory layout of photos and weights; most networks run faster with it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        pooling: nn.Module,
        neck: nn.Module,
        embedding_dim: int,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.neck = neck
        self.embedding_dim = embedding_dim
        self.interpolation: str = backbone.data_config["interpolation"]
        for name in ("mean", "std"):
            values = torch.tensor(backbone.data_config[name], dtype=torch.float32)
            self.register_buffer(name, values.view(1, 3, 1, 1))
        self._batchnorm_frozen = False
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def normalise(self, images: Tensor) -> Tensor:
        """Photos of uint8 or of 0 … 1 to the backbone's mean 0 and deviation 1."""
        if images.dtype == torch.uint8:
            own = images.to(self.mean.dtype, memory_format=self.memory_format)
            return own.sub_(self.mean * 255.0).div_(self.std * 255.0)
        images = images.to(self.mean.dtype, memory_format=self.memory_format)
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, embedding_dim)."""
        return self.neck(pool(self.pooling, self.backbone(self.normalise(images))))

    def freeze_batchnorm(self, affine: bool = False) -> None:
        """Keeps the backbone's BatchNorm statistics as they are from now on, also in training.

        Args:
            affine: freeze their weights and biases too.
        """
        self._batchnorm_frozen = True
        for module in self._batchnorms():
            module.eval()
            if affine:
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Embedder":
        """Training or evaluation mode; frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self._batchnorm_frozen:
            for module in self._batchnorms():
                module.eval()
        return self

    def _batchnorms(self) -> list[nn.Module]:
        return [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
