"""Embedder: images to embeddings."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landmark.error import UserError
from landmark.model.backbone import Backbone, Features


def pool(pooling: nn.Module, features: Features) -> Tensor:
    """Pool the features, or their only map if the pooling takes a map: (B, C)."""
    if getattr(pooling, "takes", "map") == "features":
        return pooling(features)
    if len(features.maps) != 1:
        raise UserError(
            f"{type(pooling).__name__} pools one map, but the backbone returns "
            f"{len(features.maps)}. Name one in model.stages, or choose pooling=gem_stages."
        )
    return pooling(features.maps[0])


class Embedder(nn.Module):
    """Backbone, pooling and neck: images (B, 3, h, w) → embeddings (B, embedding_dim).

    Images are uint8, or floating point from 0 to 1; they are normalised here, on the device, with
    the mean and standard deviation of the backbone's training. Embeddings are not of unit length.

    Args:
        backbone: Images to features.
        pooling: Features or map to vector (see `landmark.pooling`).
        neck: Vector to embedding.
        embedding_dim: Dimension of the neck's output.
        channels_last: Memory layout of images and weights; most networks run faster with it.
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
        """Normalise images, uint8 or 0 … 1, with the mean and deviation of the backbone's training.

        The result has the embedder's floating-point type and memory layout.
        """
        converted = images.to(self.mean.dtype, memory_format=self.memory_format)
        if images.dtype == torch.uint8:
            return converted.sub_(self.mean * 255.0).div_(self.std * 255.0)
        return self.standardise(converted)

    def standardise(self, images: Tensor) -> Tensor:
        """Subtract the mean from images of 0 … 1 and divide by the standard deviation."""
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> Features:
        """Compute the backbone's features of images (B, 3, h, w)."""
        return self.backbone(self.normalise(images))

    def embed(self, features: Features) -> Tensor:
        """Pool features and project them: (B, embedding_dim)."""
        return self.neck(pool(self.pooling, features))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the embeddings (B, embedding_dim) of images (B, 3, h, w)."""
        return self.embed(self.features(images))

    def freeze_batchnorm(self) -> None:
        """Keep the statistics of the backbone's BatchNorm from now on, also in training."""
        self._batchnorm_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Embedder":
        """Set training or evaluation mode; frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self._batchnorm_frozen:
            for module in self.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
