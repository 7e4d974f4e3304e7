"""Photos in their original proportions."""

from importlib.util import find_spec

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landmark.error import UserError
from landmark.image import LongestSide


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([(1024, 32), (480, 16)]))
def test_the_size_of_a_group_is_the_photos_scaled_and_rounded(width, height, choice):
    side, multiple = choice
    image = LongestSide(side, multiple=multiple, smallest=64)
    group = image.groups(np.array([width]), np.array([height]))[0]
    scale = side / max(width, height)
    expected = tuple(
        max(round(pixels * scale / multiple) * multiple, 64) for pixels in (width, height)
    )
    assert image.size(int(group)) == expected
    assert image.scaled_size(int(group), 1.0) == expected
    halved = tuple(max(pixels // 2 // multiple * multiple, 64) for pixels in expected)
    assert image.scaled_size(int(group), 0.5) == halved


def test_photos_are_read_at_their_groups_size(tmp_path):
    Image.new("RGB", (600, 400)).save(tmp_path / "photo.jpg")
    image = LongestSide(256)
    assert not image.is_uniform
    group = int(image.groups(np.array([600]), np.array([400]))[0])
    assert image.image(tmp_path / "photo.jpg", image.size(group)).shape == (3, 160, 256)
    assert image.train_image(tmp_path / "photo.jpg", group, 0).shape == (3, 160, 256)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"side": 0}, "side=0 is not valid. Pass a whole number > 0"),
        ({"augmentation": "hard"}, "augmentation=hard is not valid"),
        ({"multiple": 0}, "multiple=0 is not valid"),
    ],
)
def test_invalid_settings_are_named(options, match):
    with pytest.raises(UserError, match=match):
        LongestSide(**options)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"side": 1024}, (1024, 1024)),
        ({"side": 500}, (512, 512)),
        ({"side": 500, "multiple": 14, "smallest": 14}, (504, 504)),
        ({"side": 40}, (128, 128)),
    ],
)
def test_a_network_of_one_size_uses_the_square(options, size):
    assert LongestSide(**options).representative_size == size


def test_a_network_trained_on_original_proportions_has_a_size(scripts, tmp_path):
    settings = [
        "data.landmarks=4",
        "data.photos=6",
        "data.scale=0.3",
        "model=resnet10t",
        "model.embedding_dim=8",
        "image=longest1024",
        "image.side=72",
        "image.smallest=32",
        "trainer=cpu",
        "trainer.max_epochs=0",
        "workers=0",
        "keep=last",
        "hydra.run.dir=run",
    ]
    scripts.run("train.py", *settings, cwd=tmp_path)
    description = yaml.safe_load((tmp_path / "run" / "embedder" / "embedder.yaml").read_text())
    assert description["model"]["image_size"] == [64, 64]
    if all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))):
        export = ["embedder=run/embedder", "output=file.onnx", "opset=18"]
        assert "checked" in scripts.run("export.py", *export, cwd=tmp_path).stdout
