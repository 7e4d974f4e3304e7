"""Weights in checkpoints of any training: prefixes, nested dictionaries, copies, other sizes."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from landmark.error import UserError
from landmark.model import Backbone, build_embedder
from landmark.model.persist import describe_embedder, load_embedder, write_embedder
from landmark.pooling import GeM


def below(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def small():
    return timm.create_model("resnet10t", num_classes=10).eval().state_dict()


def loaded(content, path, backbone="resnet10t", **options):
    """Return the backbone's tensors with the weights of a file that contains `content`."""
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return Backbone(backbone, weights=str(path), **options).model.state_dict()


def assert_same(tensors, expected):
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("w.pth", "module."),
        ("w.pt", "_orig_mod."),
        ("w.bin", "module._orig_mod."),
        ("w.ckpt", "backbone."),
        ("w.pth.tar", "model.encoder.trunk."),
        ("w.safetensors", "module."),
        ("w2.safetensors", "_orig_mod.backbone."),
        ("weights", "encoder."),
    ],
)
def test_any_shared_prefix_in_every_kind_of_file(small, tmp_path, file, prefix, capsys):
    assert_same(loaded(below(prefix, small), tmp_path / file), small)
    line = f"weights={tmp_path / file}: 2 tensors are not used: "
    assert capsys.readouterr().err.startswith(line + prefix.replace("_orig_mod.", "") + "fc.")


def test_nested_dictionaries(small, tmp_path):
    forms = [
        {key: small}
        for key in ("model", "model_ema", "state_dict_ema", "teacher", "net", "network", "weights")
    ]
    forms += [
        {"checkpoint": {"net": below("module.", small)}, "epoch": 3},
        {"state_dict": below("model.backbone.", small), "pytorch-lightning_version": "2.0"},
        {"model": below("backbone._orig_mod.", small), "optimizer": {"state": {0: small}}},
        {"model": small, "args": argparse.Namespace(lr=1e-3, output=Path("runs"))},
        {"model": small, "accuracy": np.float64(81.2), "confusion": np.eye(2), "best": np.int64(3)},
        small | {"epoch": 3},
    ]
    for form in forms:
        assert_same(loaded(form, tmp_path / "w.pth"), small)


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("teacher.backbone.", "student.module.backbone."),
        ("model_ema.", "model."),
        ("state_dict_ema.", "state_dict."),
        ("swa_model.module.", "model."),
        ("target_network.", "online_network."),
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_k."),
        ("state_dict.module.base_encoder.", "state_dict.module.momentum_encoder."),
        ("ema.", ""),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_chosen_and_named(small, tmp_path, capsys, chosen, other, first):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in small.items()}
    copies = [below(chosen, small), below(other, zeros)]
    flat = {k: t for copy in (copies if first else copies[::-1]) for k, t in copy.items()}
    content = {}
    for name, tensor in flat.items():
        key, _, rest = name.partition(".")
        content.setdefault(key, {})[rest] = tensor
    assert_same(loaded(content, tmp_path / "w.pth"), small)
    names = (chosen.rstrip("."), other.rstrip(".") or "no prefix")
    assert f"w.pth: loading {names[0]}, not {names[1]}\n" in capsys.readouterr().err


def test_tensors_beside_the_backbone_are_counted(small, tmp_path, capsys):
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last.weight": torch.zeros(2, 2)}
    assert_same(loaded({"teacher": below("backbone.", small) | head}, tmp_path / "w.pth"), small)
    assert capsys.readouterr().err == (
        f"weights={tmp_path / 'w.pth'}: 4 tensors are not used: teacher.head.mlp.0.weight, "
        "teacher.head.last.weight, teacher.backbone.fc.weight, …\n"
    )


def test_files_from_before_batches_were_counted(small, tmp_path):
    old = {name: t for name, t in small.items() if not name.endswith("num_batches_tracked")}
    for form in (old, {"state_dict": below("module.", old)}):
        assert_same(loaded(form, tmp_path / "w.pth"), small)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(small, tmp_path, dtype):
    converted = {name: t.to(dtype) if t.is_floating_point() else t for name, t in small.items()}
    expected = {name: t.to(small[name].dtype) for name, t in converted.items()}
    for file in ("w.pth", "w.safetensors"):
        assert_same(loaded(converted, tmp_path / file), expected)


@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "vit_pwee_patch16_reg1_gap_256"])
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_position_embeddings_are_resampled_as_in_timm(tmp_path, name, prefix):
    """With a class token, with register tokens and without a class token."""
    file = timm.create_model(name, num_classes=5, img_size=128).state_dict()
    tensors = loaded(below(prefix, file), tmp_path / "w.pth", name)
    model = timm.create_model(name, num_classes=0)
    grid = model.patch_embed.grid_size
    tokens = 0 if model.no_embed_class else model.num_prefix_tokens
    positions = resample_abs_pos_embed(file["pos_embed"], grid, num_prefix_tokens=tokens)
    assert tensors["pos_embed"].shape != file["pos_embed"].shape
    used = {k: t for k, t in tensors.items() if k in file and not k.startswith("head")}
    assert_same(used, file | {"pos_embed": positions})


def test_embedder_folders_and_checkpoints_of_runs(small, tmp_path):
    embedder = build_embedder("resnet10t", GeM(), embedding_dim=8)
    description = describe_embedder(
        {"_target_": "landmark.model.build_embedder", "backbone": "resnet10t", "embedding_dim": 8},
        {"_target_": "landmark.pooling.GeM"},
        {},
    )
    expected = embedder.backbone.model.state_dict()
    folder = write_embedder(tmp_path / "embedder", embedder, description)
    assert_same(Backbone("resnet10t", weights=str(folder)).model.state_dict(), expected)
    state = below("embedder.", embedder.state_dict()) | {"loss.centres": torch.zeros(3, 8)}
    assert_same(loaded({"state_dict": state}, tmp_path / "last.ckpt"), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(small, tmp_path, value):
    broken = small["layer1.0.conv1.weight"].clone()
    broken[0, 0, 0, 0] = value
    one = small | {"layer1.0.conv1.weight": broken}
    every = {k: torch.full_like(t, value) if t.ndim else t for k, t in small.items()}
    for content, name in ((one, "layer1.0.conv1.weight"), (every, "conv1.0.weight")):
        with pytest.raises(UserError, match=rf"w\.pth: {name} contains NaN or infinite values"):
            loaded(content, tmp_path / "w.pth")


def test_an_embedder_that_is_not_finite_is_refused(tmp_path):
    embedder = build_embedder("resnet10t", GeM(), embedding_dim=8)
    with torch.no_grad():
        embedder.neck[0].weight[1, 2] = torch.nan
    write_embedder(tmp_path / "embedder", embedder, "")
    with pytest.raises(UserError, match=r"embedder: neck\.0\.weight contains NaN or infinite"):
        load_embedder(tmp_path / "embedder")


def test_integers_are_not_read_as_weights(small, tmp_path):
    with pytest.raises(UserError, match=r"conv1\.0\.weight contains int8, not floating-point"):
        loaded({name: t.to(torch.int8) for name, t in small.items()}, tmp_path / "w.pth")


def test_the_message_has_the_first_names_of_the_file(small, tmp_path):
    with pytest.raises(
        UserError,
        match=r"89 of 100 tensors of resnet18 are missing: conv1\.weight.*Its first tensors are "
        r"features\.conv1\.0\.weight, .*\. Pass weights of resnet18\.$",
    ):
        loaded(
            {f"features.{k}": t for k, t in small.items() if "bn" not in k},
            tmp_path / "w.pth",
            "resnet18",
        )


def test_whole_models_are_refused_and_named(tmp_path):
    model = timm.create_model("resnet10t", num_classes=2)
    for content in (model, {"model": model}, {"state_dict": model.state_dict(), "model": model}):
        with pytest.raises(UserError, match=r"w\.pth cannot be read: .*\(timm\.layers\."):
            loaded(content, tmp_path / "w.pth")


def test_files_that_are_something_else_are_named(small, tmp_path):
    torch.save(small, tmp_path / "whole.pth")
    save_file(small, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        (tmp_path / f"cut_{name}").write_bytes((tmp_path / name).read_bytes()[:4096])
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.bin").write_text("<html>sign in</html>")
    for name, message in {
        "cut_whole.pth": "cannot be read",
        "cut_whole.safetensors": "cannot be read as safetensors",
        "lfs.pth": "is a pointer of Git LFS",
        "page.bin": "cannot be read",
        ".": "is a folder",
    }.items():
        with pytest.raises(UserError, match=message):
            Backbone("resnet10t", weights=str(tmp_path / name))
