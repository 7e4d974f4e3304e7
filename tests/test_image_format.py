"""Aspect groups, sizes, and how a photo becomes a tensor."""

from bisect import bisect_right
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from test_configs import choices, node

from landmark.cli._signature import read_signature
from landmark.error import UserError
from landmark.image import ImageFormat, LongestSide
from landmark.image.augment import AUGMENTATIONS, AugmentationName, draw_view

S2 = [[512, 352], [512, 384], [448, 448], [384, 512], [352, 512]]
SIDES = st.integers(1, 2000)
PUBLISHED = {
    "ss2": "480x320 480x352 384x384 352x480 320x480",
    "s2": "512x352 512x384 448x448 384x512 352x512",
    "sm2": "736x512 704x544 608x608 544x704 512x736",
    "m2": "800x544 800x608 704x704 608x800 544x800",
    "l2": "800x544 800x608 800x800 608x800 544x800",
}


def settings_of(name: str, kind: type = ImageFormat) -> dict:
    content = OmegaConf.to_container(node("image", name))
    assert content.pop("_target_") == f"landmark.image.{kind.__name__}"
    return content


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("format") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC).save(path)
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20))
def test_groups_equal_a_naive_loop(sides):
    image_format = ImageFormat(S2)
    widths, heights = np.array(sides).T
    expected = [bisect_right([0.67, 0.77, 1.33, 1.5], height / width) for width, height in sides]
    assert image_format.groups(widths, heights).tolist() == expected
    assert not ImageFormat([[224, 224]]).groups(widths, heights).any()


def test_a_ratio_equal_to_a_cut_belongs_to_the_narrower_group():
    image_format = ImageFormat(S2)
    groups = image_format.groups(np.array([300, 100, 100, 100, 2]), np.array([200, 77, 133, 67, 3]))
    assert groups.tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    image_format = ImageFormat(**settings_of(name))
    assert " ".join(f"{width}x{height}" for width, height in image_format.sizes) == PUBLISHED[name]
    sizes = np.array(image_format.sizes)
    assert image_format.groups(sizes[:, 0], sizes[:, 1]).tolist() != [0] * 5
    assert np.all(np.diff(sizes[:, 1] / sizes[:, 0]) >= 0)


@pytest.mark.parametrize("choice", choices("image"))
def test_yaml_lists_the_constructors_keys_and_defaults(choice):
    kind = LongestSide if choice.startswith("longest") else ImageFormat
    content = settings_of(choice, kind)
    parameters = read_signature(f"landmark.image.{kind.__name__}").parameters
    assert content.keys() == parameters.keys()
    own = {"sizes", "augmentation", "multiple", "smallest"}
    for name in content.keys() - own:
        default = parameters[name].default
        assert content[name] == (list(default) if isinstance(default, tuple) else default)
    kind(**content)


def test_every_augmentation_has_ranges():
    assert set(AUGMENTATIONS) == set(get_args(AugmentationName))


def test_scaled_sizes():
    image_format = ImageFormat(**settings_of("l2"))
    assert [image_format.scaled_size(0, scale) for scale in (0.75, 1, 1.25, 0.1)] == [
        (576, 384),
        (800, 544),
        (992, 672),
        (128, 128),
    ]
    assert ImageFormat(**settings_of("px518")).scaled_size(0, 0.75) == (378, 378)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sizes": [[9, 9], [8, 8]]}, r"cuts=\[0.67, .* does not fit 2 sizes. Pass 1 ascending"),
        ({"sizes": S2, "cuts": (0.7, 0.6, 1, 2)}, "ascending"),
        ({"sizes": S2, "augmentation": "hard"}, "augmentation=hard is not valid. Pass one of none"),
        ({"sizes": S2, "fit": "pad"}, "one of squash, crop"),
        ({"sizes": S2, "interpolation": "nearest"}, "one of bilinear, bicubic, area, lanczos"),
        ({"sizes": S2, "flip": 2.0}, "flip=2.0 is not valid. Pass a number >= 0 and <= 1 or null"),
        ({"sizes": S2, "multiple": 0}, "multiple=0 is not valid"),
        ({"sizes": S2, "smallest": -1}, "smallest=-1 is not valid"),
        ({"sizes": [[9]]}, r"a list of one or more, each \[width, height\]"),
        ({"sizes": [[9, 0]]}, "width, height"),
        ({"sizes": []}, "one or more"),
    ],
)
def test_invalid_settings_are_named(options, match):
    with pytest.raises(UserError, match=match):
        ImageFormat(**options)


def test_a_format_accepts_the_lists_of_a_composed_configuration():
    config = OmegaConf.create({"sizes": S2, "cuts": [0.5, 0.6, 0.7, 0.8]})
    image = ImageFormat(config.sizes, config.cuts)
    assert image.sizes == [tuple(size) for size in S2]
    assert image.representative_size == (512, 352)


def test_squash_keeps_the_complete_photo_and_crop_keeps_proportions(tmp_path):
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, :100], pixels[:, 200:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "flag.png")
    squashed = ImageFormat([[60, 60]]).image(tmp_path / "flag.png", (60, 60))
    assert (squashed.dtype, tuple(squashed.shape)) == (torch.uint8, (3, 60, 60))
    assert squashed[:, 30, 5].tolist() == [255, 0, 0]
    assert squashed[:, 30, 55].tolist() == [0, 0, 255]
    cropped = ImageFormat([[60, 60]], fit="crop").image(tmp_path / "flag.png", (60, 60))
    assert cropped[:, :, 2:-2].sum() == 0


def test_images_of_several_sizes_equal_single_images(photo):
    image_format = ImageFormat([[96, 64]])
    sizes = [(96, 64), (64, 32), (128, 96)]
    for size, image in zip(sizes, image_format.images(photo, sizes), strict=True):
        assert torch.equal(image, image_format.image(photo, size))
        assert tuple(image.shape) == (3, size[1], size[0])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_augmentation_depends_only_on_the_seed(photo, augmentation, fit):
    image_format = ImageFormat([[96, 64]], augmentation=augmentation, fit=fit)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = image_format.train_image(photo, 0, (1, 2, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(6)
    assert torch.equal(first, image_format.train_image(photo, 0, (1, 2, 3)))
    others = [image_format.train_image(photo, 0, (1, 2, row)) for row in range(4, 8)]
    assert all(image.shape == first.shape == (3, 64, 96) for image in others)
    same = all(torch.equal(first, image) for image in others)
    assert same == (augmentation == "none")


def test_without_augmentation_the_training_image_equals_the_test_image(photo):
    image_format = ImageFormat([[96, 64]])
    assert torch.equal(image_format.train_image(photo, 0, 7), image_format.image(photo, (96, 64)))


def test_flip(photo):
    plain, mirrored = (ImageFormat([[96, 64]], flip=flip) for flip in (0.0, 1.0))
    assert torch.equal(mirrored.train_image(photo, 0, 1), plain.train_image(photo, 0, 1).flip(2))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["soft", "middle", "strong"]), st.integers(0, 10**6))
def test_augmentation_stays_within_its_ranges(name, seed):
    augmentation = AUGMENTATIONS[name]
    view = draw_view(augmentation, np.random.default_rng(seed))
    sides = np.array(view.box[2:]) - view.box[:2]
    if name == "strong":
        assert min(view.box) >= 0
        assert max(view.box) <= 1 + 1e-9
        least, most = augmentation.area
        assert least - 1e-9 <= sides.prod() <= most + 1e-9
    else:
        assert np.all(np.abs(sides - 1) <= augmentation.crop + 1e-9)
        low, high = np.minimum(0, 1 - sides), np.maximum(0, 1 - sides)
        assert np.all((low - 1e-9 <= view.box[:2]) & (np.array(view.box[:2]) <= high + 1e-9))
    assert abs(view.brightness - 1) <= augmentation.brightness
    assert abs(view.shear) <= augmentation.shear


def test_pixels_outside_the_photo_are_black(tmp_path):
    Image.new("RGB", (200, 200), "white").save(tmp_path / "white.png")
    image_format = ImageFormat([[100, 100]], augmentation="soft")
    views = AUGMENTATIONS["soft"]
    for seed in range(12):
        image = image_format.train_image(tmp_path / "white.png", 0, seed)
        box = draw_view(views, np.random.default_rng(seed)).box
        shares = [min(1.0, 1 / (box[side + 2] - box[side])) for side in (0, 1)]
        dark = float((image == 0).float().mean())
        assert dark == pytest.approx(1 - shares[0] * shares[1], abs=0.02)
