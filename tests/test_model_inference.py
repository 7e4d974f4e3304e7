"""The copy for inference computes what the embedder computes, which is not changed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from landmark.model.build import build_embedder
from landmark.model.inference import (
    ConvolutionWithActivation,
    _fuse,
    for_inference,
    fusible_layers,
    rounded_kernels,
)
from landmark.pooling import GeM

CPU = torch.device("cpu")


def embedder_of(name, **options):
    """Return an embedder whose BatchNorm has statistics like those of a training."""
    torch.manual_seed(0)
    embedder = build_embedder(name, GeM(), embedding_dim=32, **options)
    for module in embedder.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return embedder.eval()


def images_of(embedder, count=3):
    generator = torch.Generator().manual_seed(1)
    shape = embedder.backbone.native_size if embedder.backbone.fixed else (64, 96)
    return torch.randint(0, 256, (count, 3, *shape), dtype=torch.uint8, generator=generator)


def norms_of(embedder):
    return sum(isinstance(module, nn.BatchNorm2d) for module in embedder.backbone.modules())


# Name, BatchNorms that stay: those that do not follow a convolution, or whose input has other uses.
NETWORKS = [
    ("tf_efficientnet_lite0", 0),
    ("resnet10t", 0),
    ("test_resnet", 0),
    ("regnety_002", 0),
    ("resnetv2_50", 17),
    ("dla34", 0),
    ("ghostnet_100", 0),
    ("vit_tiny_patch16_224", 0),
]


@pytest.mark.parametrize(("name", "left"), NETWORKS)
@torch.inference_mode()
def test_embeddings_stay_and_the_embedder_is_not_changed(name, left):
    embedder = embedder_of(name)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    images = images_of(embedder)
    want = embedder(images)
    fused = for_inference(embedder, CPU)
    torch.testing.assert_close(fused(images), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    assert norms_of(fused) == left
    after = embedder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "left"), [("resnet10t", 7), ("resnext50_32x4d", 36), ("tf_efficientnet_lite0", 49)]
)
@torch.inference_mode()
def test_a_gpu_fuses_batchnorm_only_with_relu(name, left, monkeypatch):
    def convolution_relu(images, weight, bias, *settings):
        return nn.functional.conv2d(images, weight, bias, *settings).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution_relu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    embedder = embedder_of(name)
    images = images_of(embedder)
    want = embedder(images)
    fused = copy.deepcopy(embedder)
    for layers in fusible_layers(embedder.backbone):
        _fuse(fused.backbone, layers, torch.device("cuda"), torch.float32)
    torch.testing.assert_close(fused(images), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    assert norms_of(fused) == left


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t"])
@torch.inference_mode()
def test_bfloat16_is_no_further_from_float32_than_autocast(name):
    embedder = embedder_of(name)
    images = images_of(embedder, 32)  # the largest error of three is a matter of chance
    want = embedder(images).double()
    fused = for_inference(embedder, CPU, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = fused(images).double(), embedder(images).double()
    cosine = nn.functional.cosine_similarity
    assert float(cosine(ours, want).min()) > 1 - 1.5 * float((1 - cosine(plain, want)).max())


class Branches(nn.Module):
    """A convolution that two layers read, one that is called twice, and one that fuses."""

    def __init__(self):
        super().__init__()
        self.native_size = (8, 8)
        self.read_twice, self.called_twice, self.fuses = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.act = nn.ReLU()

    def forward(self, x):
        read = self.read_twice(x)
        x = self.norms[0](read) + read
        x = self.norms[1](self.called_twice(self.called_twice(x)))
        return self.act(self.norms[2](self.fuses(x)))


def test_only_outputs_with_one_reader_fuse():
    (found,) = fusible_layers(Branches())
    assert (found.convolution, found.norm, found.activation) == ("fuses", "norms.2", "act")


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.SiLU()])
@torch.inference_mode()
def test_a_convolution_with_activation_equals_both(activation):
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        pytest.skip("oneDNN is not in this PyTorch")
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    images = 5 * torch.randn(2, 4, 9, 12)
    want = convolution(images) if activation is None else activation(convolution(images))
    ours = ConvolutionWithActivation(convolution, activation, torch.float32)(images)
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5)


@given(
    size=st.tuples(st.integers(7, 20), st.integers(7, 20)),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 2, 3]),
    dilation=st.sampled_from([1, 1, 2]),
    depthwise=st.booleans(),
)
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_tensorflow_padding_needs_no_padded_copy(size, kernel, stride, dilation, depthwise):
    torch.manual_seed(0)
    groups = 4 if depthwise else 1
    convolution = Conv2dSame(4, 4, kernel, stride=stride, dilation=dilation, groups=groups)
    images = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    fused = ConvolutionWithActivation(convolution, nn.ReLU6(), torch.float32)
    want = nn.functional.relu6(convolution(images))
    torch.testing.assert_close(fused(images), want, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_rounding_keeps_the_sum_of_a_kernel(channels, side, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(3, channels, side, side, generator=generator)
    rounded = rounded_kernels(weight, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    # Every weight is one of the two neighbours of what it was to represent.
    largest = weight.abs().amax((2, 3), keepdim=True)
    assert bool(((rounded.float() - weight).abs() <= largest * 2**-7).all())
    error = (rounded.double() - weight.double()).sum((2, 3)).abs()
    smallest = weight.abs().amin((2, 3))
    # What is left is half a unit of the last weight, which the carried error may have enlarged.
    assert bool((error <= (smallest + largest[..., 0, 0] * 2**-8) * 2**-8 + 1e-5 * scale).all())
