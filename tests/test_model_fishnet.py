"""FishNet against the published definitions and reference outputs."""

import json
import zlib

import numpy as np
import pytest
import timm
import torch

import landmark.model  # noqa: F401 - registers FishNet
from landmark.error import UserError

SIZES = {"2x3x96x128": 0, "1x3x224x224": 1}  # inputs of the reference and their seeds


def reference_tensor(key, shape):
    """Return an entry of the reference's state dict, as its README defines it."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, "int64")
    r = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype("float32")
    if key.endswith("running_var"):
        return 1 + 0.5 * np.abs(r)
    if key.endswith("running_mean"):
        return 0.1 * r
    if len(shape) == 1 and key.endswith(("weight", "bias")):
        return (1 if key.endswith("weight") else 0) + 0.1 * r
    return r * np.sqrt(2 / np.prod(shape[1:])).astype("float32")


def published(shared, depth):
    path = shared / "reference" / "fishnet" / f"fishnet{depth}_state_dict.json"
    return [(key, tuple(shape)) for key, shape in json.loads(path.read_text())]


def reference_state(shared, depth=99):
    entries = published(shared, depth)
    return {key: torch.from_numpy(reference_tensor(key, shape)) for key, shape in entries}


def reference_input(size):
    shape = tuple(int(side) for side in size.split("x"))
    x = np.random.default_rng(SIZES[size]).standard_normal(shape).astype("float32")
    return torch.from_numpy(x)


@pytest.fixture(scope="module")
def network(shared):
    model = timm.create_model("fishnet99", num_classes=1000)
    model.load_state_dict(reference_state(shared), strict=True)
    return model.eval()


@pytest.mark.parametrize(("depth", "millions"), [(99, 16.62), (150, 24.96), (201, 44.58)])
def test_names_shapes_and_order_equal_the_published_ones(shared, depth, millions):
    with torch.device("meta"):
        model = timm.create_model(f"fishnet{depth}", num_classes=1000)
    state = [(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert state == published(shared, depth)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_logits_and_features_equal_the_reference(shared, network, size):
    reference = np.load(shared / "reference" / "fishnet" / "fishnet99_reference.npz")
    x = reference_input(size)
    features = network.forward_features(x)
    logits = network.forward_head(features)
    # Some entries are near 0, so the tolerance is relative to their neighbours.
    want = reference[f"logits_{size}"]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    if f"features_{size}" in reference:
        want = reference[f"features_{size}"]
        np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@torch.no_grad()
def test_channels_last_computes_the_same(network):
    x = reference_input("2x3x96x128")
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last), network(x), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_four_stages_are_intermediate_features(network):
    x = reference_input("2x3x96x128")
    last, maps = network.forward_intermediates(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (info["num_chs"], 96 // info["reduction"], 128 // info["reduction"])
        for info in network.feature_info
    ]
    assert torch.equal(last, maps[-1])
    assert torch.equal(maps[-1], network.forward_features(x))
    seen = {}
    names = [info["module"] for info in network.feature_info]
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output.clone()})
        )
    early = network.forward_intermediates(x, [1, -4], stop_early=True, intermediates_only=True)
    assert set(seen) == set(names[:2])
    assert torch.equal(early[0], maps[1])
    assert torch.equal(early[1], maps[0])
    network(x)
    for name, feature_map in zip(names, maps, strict=True):
        assert torch.equal(seen[name], feature_map)


@torch.no_grad()
def test_without_classes_the_output_is_the_pooled_features(shared, network):
    x = reference_input("2x3x96x128")
    headless = timm.create_model("fishnet99", num_classes=0).eval()
    state = reference_state(shared)
    headless.load_state_dict({k: v for k, v in state.items() if not k.startswith("fish.fish.9.4")})
    want = network.forward_features(x).mean((2, 3))
    torch.testing.assert_close(headless(x), want)
    torch.testing.assert_close(
        network.forward_head(network.forward_features(x), pre_logits=True), want
    )
    headless.reset_classifier(7)
    assert headless(x).shape == (2, 7)
    assert headless.get_classifier().out_channels == 7
    headless.reset_classifier(0, "")
    torch.testing.assert_close(headless(x), network.forward_features(x))


def test_invalid_sizes_are_refused_with_the_valid_ones(network):
    with pytest.raises(UserError, match=r"work: 128x160, 96x160\.$"):
        network(torch.zeros(1, 3, 100, 160))
    with pytest.raises(UserError, match=r"work: 32x64\.$"):
        network(torch.zeros(1, 3, 10, 64))


def test_every_parameter_has_a_gradient():
    model = timm.create_model("fishnet99", num_classes=3)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_fishnet_is_registered_with_timm():
    assert set(timm.list_models("fishnet*")) == {"fishnet99", "fishnet150", "fishnet201"}
    config = timm.data.resolve_model_data_config(timm.create_model("fishnet99"))
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["interpolation"] == "bilinear"
    maps = timm.create_model("fishnet99", features_only=True)(torch.rand(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [320, 832, 1600, 1056]
