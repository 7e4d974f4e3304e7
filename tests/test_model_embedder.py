"""The embedder: normalisation, necks, frozen BatchNorm, saving and loading."""

import hashlib

import pytest
import torch
import yaml
from torch import nn
from torchvision.transforms.v2.functional import normalize, to_dtype

from landmark.error import UserError
from landmark.model import (
    build_embedder,
    embedder_digest,
    embedder_state,
    load_embedder,
    write_embedder,
)
from landmark.model.persist import describe_embedder
from landmark.pooling import GeM

MODEL = {
    "_target_": "landmark.model.build.build_embedder",
    "_partial_": True,
    "backbone": "resnet18",
    "embedding_dim": 16,
    "weights": "timm",
}
POOLING = {"_target_": "landmark.pooling.gem.GeM", "p": 2.5}
IMAGE = {"sizes": [[96, 64]]}
DESCRIPTION = describe_embedder(MODEL, POOLING, IMAGE)


def small(**options):
    return build_embedder("resnet18", GeM(2.5), embedding_dim=16, **options)


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)


def test_images_are_normalised_as_in_the_backbones_training(images):
    embedder = small()
    want = normalize(
        to_dtype(images, torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(embedder.normalise(images), want)
    torch.testing.assert_close(embedder.normalise(images / 255), want)


@pytest.mark.parametrize("channels_last", [True, False])
@torch.no_grad()
def test_embedding_equals_neck_of_pooled_feature_map(images, channels_last):
    embedder = small(channels_last=channels_last).eval()
    features = embedder.backbone.model.forward_features(embedder.normalise(images))
    pooled = features.clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5)
    linear, norm = embedder.neck
    want = nn.functional.linear(pooled, linear.weight, linear.bias)
    want = (want - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(embedder(images), want, rtol=1e-4, atol=1e-5)


def test_necks(images):
    assert small()(images).shape == (3, 16)
    plain = small(neck="none").eval()
    assert plain.embedding_dim == 512
    assert plain(images).shape == (3, 512)
    torch.testing.assert_close(
        plain(images), plain.pooling(plain.backbone(plain.normalise(images)).maps[0])
    )
    dropout, linear, norm = small(dropout=0.3, neck_bias=False).neck
    assert dropout.p == 0.3
    assert linear.bias is None
    assert isinstance(norm, nn.BatchNorm1d)
    with pytest.raises(UserError, match="linear_batchnorm"):
        small(neck="nonsense")


@pytest.mark.parametrize(
    "options",
    [
        {"neck": "linear"},
        {"embedding_dim": 0},
        {"dropout": 1.0},
        {"drop_path": -0.1},
        {"neck_bias": 1},
        {"stages": []},
        {"image_size": [96, 0]},
        {"image_size": "big"},
    ],
)
def test_settings_out_of_range_are_named(options):
    with pytest.raises(UserError, match=f"^build_embedder: {next(iter(options))}="):
        build_embedder("resnet18", GeM(), **options)


@torch.no_grad()
def test_embed_of_features_equals_forward(images):
    embedder = small().eval()
    features = embedder.features(images)
    assert torch.equal(features.maps[0], embedder.backbone(embedder.normalise(images)).maps[0])
    assert torch.equal(embedder.embed(features), embedder(images))


def test_frozen_batchnorm_remains_frozen(images):
    embedder = small()
    embedder.freeze_batchnorm()
    embedder.train()
    before = {k: v.clone() for k, v in embedder.state_dict().items()}
    embedder(images).square().sum().backward()
    after = embedder.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"neck.1.running_mean", "neck.1.running_var", "neck.1.num_batches_tracked"}
    assert embedder.backbone.model.bn1.weight.grad is not None
    assert embedder.backbone.model.conv1.weight.grad is not None
    assert embedder.neck[1].weight.grad is not None


def trained():
    """Return an embedder whose tensors all differ from the initial ones."""
    embedder = small().eval()
    with torch.no_grad():
        for tensor in embedder.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return embedder


@torch.no_grad()
def test_a_saved_and_loaded_embedder_computes_the_same(images, tmp_path):
    embedder, folder = trained(), tmp_path / "run" / "embedder"
    write_embedder(folder, embedder, DESCRIPTION)
    assert sorted(p.name for p in folder.iterdir()) == ["embedder.yaml", "weights.safetensors"]
    write_embedder(folder, embedder, DESCRIPTION, classes=["17", "a,b"])
    assert (folder / "classes.csv").read_text().splitlines() == [
        "label,landmark_id",
        "0,17",
        '1,"a,b"',
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["embedder"]
    again, description = load_embedder(folder)
    assert not again.training
    assert torch.equal(again(images), embedder(images))
    assert description["image"] == IMAGE
    assert description["pooling"] == POOLING
    assert "weights" not in description["model"]
    content = (folder / "weights.safetensors").read_bytes() + (
        folder / "embedder.yaml"
    ).read_bytes()
    assert embedder_digest(folder) == hashlib.sha256(content).hexdigest()[:16]


@torch.no_grad()
def test_a_checkpoint_is_loaded_as_an_embedder(images, tmp_path):
    embedder = trained()
    checkpoint = {
        "embedder_yaml": DESCRIPTION,
        "state_dict": {
            **{f"embedder._orig_mod.{k}": v for k, v in embedder_state(embedder).items()},
            "loss.weight": torch.zeros(9, 16),
        },
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again, _ = load_embedder(tmp_path / "last.ckpt")
    assert torch.equal(again(images), embedder(images))


def test_anything_but_an_embedder_is_refused(tmp_path):
    folder = write_embedder(tmp_path / "e", trained(), DESCRIPTION)
    description = yaml.safe_load((folder / "embedder.yaml").read_text())
    for change, message in (
        ({"pooling": {"_target_": "os.system", "command": "true"}}, "outside this package"),
        ({"pooling": {"_target_": "landmark.pooling.gem.Nothing"}}, "is not in landmark"),
        ({"model": description["model"] | {"embedding_dim": 8}}, "size mismatch"),
        ({"model": description["model"] | {"nonsense": 8}}, "nonsense"),
    ):
        (folder / "embedder.yaml").write_text(yaml.safe_dump(description | change))
        with pytest.raises(UserError, match=message):
            load_embedder(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        load_embedder(folder)
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        embedder_digest(folder)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of train\.py"):
        load_embedder(tmp_path / "foreign.ckpt")
