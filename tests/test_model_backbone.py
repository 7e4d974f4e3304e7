"""Backbones: feature maps of timm's models, convolutional and transformer."""

import pytest
import timm
import torch

from landmark.error import UserError
from landmark.model import Backbone, build_embedder
from landmark.pooling import ClassTokenAndGeM, GeM, Stages


def bare(backbone):
    """Return timm's model with the backbone's weights."""
    model = timm.create_model(backbone.name, num_classes=0).eval()
    model.load_state_dict(backbone.model.state_dict(), strict=False)
    return model


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
@torch.no_grad()
def test_feature_map_of_a_convolutional_network(name):
    backbone = Backbone(name).eval()
    x = torch.rand(2, 3, 64, 96)
    features = backbone(x)
    torch.testing.assert_close(features.maps[0], bare(backbone).forward_features(x))
    assert features.maps[0].shape == (2, *backbone.channels, 2, 3)
    assert features.class_token is None


@torch.no_grad()
def test_feature_map_of_a_channels_last_network():
    backbone = Backbone("mambaout_femto").eval()
    x = torch.rand(1, 3, 64, 96)
    want = bare(backbone).forward_features(x)
    assert want.shape == (1, 2, 3, backbone.channels[0])
    torch.testing.assert_close(backbone(x).maps[0], want.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
@torch.no_grad()
def test_tokens_become_a_map_and_a_class_token(name):
    backbone = Backbone(name).eval()
    x = torch.rand(1, 3, *backbone.native_size)
    tokens = bare(backbone).forward_features(x)
    grid = x.shape[-1] // 16
    features = backbone(x)
    prefix = tokens.shape[1] - grid**2
    for row, column in ((0, 0), (0, 3), (grid - 1, 2)):
        want = tokens[:, prefix + row * grid + column]
        torch.testing.assert_close(features.maps[0][:, :, row, column], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.class_token, tokens[:, 0], rtol=1e-4, atol=1e-4)
    assert backbone(torch.rand(2, 3, 64, 96)).maps[0].shape == (2, tokens.shape[2], 4, 6)


@torch.no_grad()
def test_sizes_not_divisible_by_the_patch_are_padded_with_the_mean():
    backbone = Backbone("vit_small_patch14_dinov2", stages=[0]).eval()
    x = torch.rand(1, 3, 64, 96)
    padded = torch.zeros(1, 3, 70, 98)
    padded[:, :, :64, :96] = x
    features = backbone(x)
    assert features.maps[0].shape[-2:] == (5, 7)
    torch.testing.assert_close(features.maps[0], backbone(padded).maps[0])


@pytest.mark.parametrize(
    ("name", "stages", "pooling"),
    [
        ("resnet18", [2], GeM()),
        ("fishnet99", None, Stages()),
        ("tf_efficientnet_lite0", None, GeM()),
        ("convnext_atto", None, GeM()),
        ("mobilenetv3_small_050", None, GeM()),
        ("vit_tiny_patch16_224", [2], ClassTokenAndGeM()),
        ("vit_tiny_patch16_224", None, Stages((-2, -1))),
    ],
)
def test_every_parameter_has_a_gradient(name, stages, pooling):
    """Distributed training stops at parameters without a gradient."""
    embedder = build_embedder(name, pooling, stages=stages, embedding_dim=16)
    embedder(torch.rand(2, 3, 64, 96)).square().sum().backward()
    assert [key for key, p in embedder.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_stages_equal_those_of_timm():
    backbone = Backbone("resnet18", stages=[1, -2]).eval()
    x = torch.rand(1, 3, 64, 96)
    want = timm.create_model("resnet18", features_only=True, out_indices=(1, 3)).eval()
    want.load_state_dict(backbone.model.state_dict(), strict=False)
    for got, expected in zip(backbone(x).maps, want(x), strict=True):
        torch.testing.assert_close(got, expected)
    assert backbone.channels == [64, 256]


def test_a_fixed_size_is_named_and_can_be_set():
    with pytest.raises(UserError, match="only of 224x224"):
        Backbone("mixer_s32_224")(torch.rand(1, 3, 96, 128))
    backbone = Backbone("mixer_s32_224", image_size=(128, 96))
    assert backbone(torch.rand(1, 3, 96, 128)).maps[0].shape[-2:] == (3, 4)
    with pytest.raises(UserError, match="only of 128x96"):
        backbone(torch.rand(1, 3, 128, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19"}, "Did you mean resnet18"),
        ({"name": "resnet18.nonsense"}, r"resnet18\.a1_in1k"),
        ({"name": "resnet18", "stages": [7]}, r"out of range \(0 to 4\)"),
        ({"name": "vgg11", "drop_path": 0.1}, "drop_path"),
        ({"name": "crossvit_tiny_240"}, "no feature map"),
        ({"name": "resnet18", "stages": []}, r"Backbone: stages=\[\] is not valid"),
        ({"name": "resnet18", "drop_path": 1.0}, "Backbone: drop_path=1.0 is not valid"),
        ({"name": "resnet18", "image_size": (96,)}, r"Backbone: image_size=\(96,\) is not valid"),
    ],
)
def test_invalid_arguments_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Backbone(**options)


def test_preprocessing_is_that_of_the_model():
    assert Backbone("tf_efficientnet_lite0").data_config["mean"] == (0.5, 0.5, 0.5)
    assert Backbone("resnet18").data_config["std"] == (0.229, 0.224, 0.225)
