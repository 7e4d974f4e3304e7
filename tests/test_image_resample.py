"""Crops of photos at exact sizes, and colours, against pillow."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from landmark.image.augment import View, apply_view
from landmark.image.colour import brightened, contrasted, saturated
from landmark.image.decode import Interpolation, resize
from landmark.image.resample import resample, to_image, to_tensor

INTERPOLATIONS = get_args(Interpolation)
SIDES = st.integers(1, 90)
FACTORS = st.floats(0, 2.5)


def photo_of(width: int, height: int, seed: int = 0, levels=(0, 255)) -> Image.Image:
    least, most = levels
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(least, most + 1, (height, width, 3), dtype=np.uint8))


def apart(pixels: torch.Tensor, image: Image.Image) -> int:
    return int((pixels.int() - to_tensor(image).int()).abs().max())


@settings(max_examples=150, deadline=None)
@given(st.data(), SIDES, SIDES, SIDES, SIDES, st.sampled_from(INTERPOLATIONS))
def test_values_equal_those_of_pillow(data, width, height, new_width, new_height, interpolation):
    # Noise has the steepest edges; "bicubic" would overshoot black and white, which pillow clips
    # after each of its two passes.
    photo = photo_of(width, height, 0, (64, 191) if interpolation == "bicubic" else (0, 255))
    before = np.asarray(photo).copy()
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right = data.draw(st.integers(left + 1, width))
    bottom = data.draw(st.integers(top + 1, height))
    box, size = (left, top, right, bottom), (new_width, new_height)
    found = resample(photo, size, interpolation, box)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, new_height, new_width))
    assert found.is_contiguous()
    if interpolation in ("area", "lanczos"):
        assert apart(found, resize(photo, size, interpolation, box)) == 0
    else:
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        assert apart(found, photo.crop(box).resize(size, filters[interpolation])) <= 2
    assert np.array_equal(np.asarray(photo), before)


def test_a_fractional_box_is_rounded_to_pixels():
    photo = photo_of(40, 30)
    whole = resample(photo, (16, 16), "bilinear", (3, 4, 20, 21))
    assert torch.equal(resample(photo, (16, 16), "bilinear", (3.4, 3.6, 19.6, 21.4)), whole)
    single = resample(photo, (2, 2), "bilinear", (39.9, 29.9, 40.0, 30.0))
    assert torch.equal(single, to_tensor(photo)[:, 29:, 39:].expand(3, 2, 2))


def test_photos_in_several_blocks_of_memory():
    photo = photo_of(3000, 2200)
    assert apart(resample(photo, (64, 48)), resize(photo, (64, 48))) <= 2
    assert torch.equal(resample(photo, photo.size), to_tensor(photo))


def test_pixels_outlive_the_photo():
    whole = resample(photo_of(50, 40), (50, 40))
    part = resample(photo_of(50, 40), (20, 20))
    _ = [photo_of(50, 40, seed) for seed in range(1, 20)]
    assert torch.equal(whole, to_tensor(photo_of(50, 40)))
    assert torch.equal(part, resample(photo_of(50, 40), (20, 20)))


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, FACTORS, st.integers(0, 9))
def test_colours_equal_those_of_pillow(width, height, factor, seed):
    photo = photo_of(width, height, seed)
    for ours, theirs in (
        (brightened, ImageEnhance.Brightness),
        (contrasted, ImageEnhance.Contrast),
        (saturated, ImageEnhance.Color),
    ):
        assert apart(ours(to_tensor(photo), factor), theirs(photo).enhance(factor)) == 0


def test_a_view_with_all_augmentations_equals_pillow():
    photo = photo_of(60, 40)
    view = View(
        box=(-0.1, 0.1, 0.9, 1.0),
        flip=True,
        brightness=1.2,
        contrast=0.8,
        saturation=0.5,
        erased=(0.0, 0.0, 0.25, 0.5),
    )
    found = apply_view(photo, view, (80, 60), "bilinear", (0.0, 0.0, 60.0, 40.0))
    expected = Image.new("RGB", (80, 60))
    expected.paste(photo.crop((0, 4, 54, 40)).resize((72, 60), Image.Resampling.BILINEAR), (8, 0))
    for enhancer, factor in (
        (ImageEnhance.Brightness, 1.2),
        (ImageEnhance.Contrast, 0.8),
        (ImageEnhance.Color, 0.5),
    ):
        expected = enhancer(expected).enhance(factor)
    expected.paste((128, 128, 128), (0, 0, 20, 30))
    assert apart(found, expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) <= 3


def test_tensor_and_image_conversions_are_inverse():
    photo = photo_of(31, 17)
    assert np.array_equal(np.asarray(to_image(to_tensor(photo))), np.asarray(photo))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_same_size_changes_nothing(interpolation):
    photo = photo_of(12, 9)
    assert torch.equal(resample(photo, (12, 9), interpolation), to_tensor(photo))
