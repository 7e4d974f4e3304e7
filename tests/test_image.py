"""Decoding: modes, orientation, reduced scale, boxes, and undecodable files."""

import io
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from landmark.error import UserError
from landmark.image import decode, read_size, resize

FORMATS = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 95},
}


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def photo_like(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth image with a few hard edges."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image).copy()
    for _ in range(6):
        top, left = random.integers(0, height - 40), random.integers(0, width - 40)
        pixels[top : top + 40, left : left + 30] = random.integers(0, 256, 3)
    return Image.fromarray(pixels)


def saved(folder: Path, image: Image.Image, kind: str, **options) -> Path:
    path = folder / "photo.jpg"  # pillow ignores the extension
    image.save(path, kind, **options)
    return path


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.fixture
def a_few_pixels_do(monkeypatch):
    monkeypatch.setattr(sys.modules["landmark.image.decode"], "SMALLEST_SIDE", 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 20), st.integers(8, 20), st.integers(0, 99))
def test_alpha_is_composited_over_white(tmp_path_factory, height, width, seed):
    folder = tmp_path_factory.mktemp("alpha")
    pixels = noise(height, width, 4, seed)
    alpha = pixels[..., 3:] / 255
    path = saved(folder, Image.fromarray(pixels, "RGBA"), "PNG")
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(decode(path), float) - expected).max() <= 1
    grey = np.ascontiguousarray(pixels[..., 2:])
    path = saved(folder, Image.fromarray(grey, "LA"), "PNG")
    expected = np.repeat(grey[..., :1] * alpha + 255 * (1 - alpha), 3, axis=2)
    assert np.abs(np.asarray(decode(path), float) - expected).max() <= 1


def test_palette_with_transparency(tmp_path, a_few_pixels_do):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    path = saved(tmp_path, image, "PNG", transparency=bytes([255, 0, 128]))
    expected = [[255, 0, 0], [255, 255, 255], [127, 127, 255]]
    assert np.abs(np.asarray(decode(path))[0].astype(int) - expected).max() <= 1
    path = saved(tmp_path, image, "GIF")
    assert np.asarray(decode(path))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_transparent_colour_of_an_rgb_png(tmp_path, a_few_pixels_do):
    image = Image.fromarray(np.array([[[9, 9, 9], [200, 10, 30]]], np.uint8))
    path = saved(tmp_path, image, "PNG", transparency=(9, 9, 9))
    assert np.asarray(decode(path))[0].tolist() == [[255, 255, 255], [200, 10, 30]]


def test_deep_grey_is_scaled_down(tmp_path, a_few_pixels_do):
    values = np.array([[0, 257, 32768, 65535, 300]], np.uint16)
    expected = np.rint(values / 257).astype(int)[0]
    for kind in ("PNG", "TIFF"):
        path = saved(tmp_path, Image.fromarray(values), kind)
        assert np.asarray(decode(path))[0, :, 1].tolist() == expected.tolist()
    for top, factor in ((1.0, 255.0), (255.0, 1.0), (65535.0, 1 / 257)):
        floats = np.linspace(0, top, 7, dtype=np.float32)[None]
        path = saved(tmp_path, Image.fromarray(floats), "TIFF")
        expected = np.rint(floats[0].astype(np.float64) * factor)
        assert np.asarray(decode(path))[0, :, 0].tolist() == expected.tolist()


def test_one_bit_and_greyscale(tmp_path, a_few_pixels_do):
    bits = np.array([[True, False, True]])
    path = saved(tmp_path, Image.fromarray(bits), "PNG")
    assert np.asarray(decode(path))[0, :, 2].tolist() == [255, 0, 255]
    grey = noise(5, 4, 1)[..., 0]
    path = saved(tmp_path, Image.fromarray(grey), "PNG")
    assert np.array_equal(np.asarray(decode(path)), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])  # JPEG: pillow writes Adobe's inverted CMYK
def test_cmyk(tmp_path, kind):
    inks = np.zeros((32, 64, 4), np.uint8)
    inks[:, :32] = (10, 200, 60, 30)
    inks[:, 32:] = (220, 20, 90, 0)
    path = saved(tmp_path, Image.fromarray(inks, "CMYK"), kind, **FORMATS[kind])
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    difference = np.abs(np.asarray(decode(path), float) - expected)
    assert difference[:, 4:28].max() <= 4
    assert difference[:, 36:60].max() <= 4


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, kind, orientation):
    image = photo_like(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image, kind, exif=exif, **FORMATS[kind])
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert read_size(path) == expected.size == decode(path).size
    assert np.array_equal(np.asarray(decode(path)), np.asarray(expected))
    assert expected.size == ((64, 96) if orientation > 4 else (96, 64))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_counts_as_upright(tmp_path):
    path = saved(tmp_path, photo_like(64, 48), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    assert read_size(path) == decode(path).size == (64, 48)


@settings(max_examples=15, deadline=None)
@given(st.integers(64, 700), st.integers(64, 700), st.integers(32, 300), st.integers(32, 300))
def test_reduced_decoding_uses_the_smallest_sufficient_scale(
    tmp_path_factory, width, height, wanted_width, wanted_height
):
    path = saved(tmp_path_factory.mktemp("draft"), photo_like(width, height), "JPEG", quality=90)
    size = decode(path, (wanted_width, wanted_height)).size
    scales = [8, 4, 2, 1]
    fits = [s for s in scales if width // s >= wanted_width and height // s >= wanted_height]
    scale = fits[0] if fits else 1
    assert size == (-(-width // scale), -(-height // scale))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(512, 384), (400, 300), (256, 192), (200, 200)])
def test_reduced_decoding_is_visually_lossless(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, photo_like(1024, 768), "JPEG", quality=90, exif=exif)
    size = size if orientation == 1 else size[::-1]
    full = decode(path)
    expected = full.resize(size, Image.Resampling.BOX)
    ours = psnr(resize(decode(path, size), size), expected)
    plain = psnr(full.resize(size, Image.Resampling.BILINEAR), expected)
    assert ours > min(34, plain - 0.5)


def test_a_box_is_cropped_at_every_scale(tmp_path):
    path = saved(tmp_path, photo_like(800, 600), "JPEG", quality=95)
    box = (100.4, 49.6, 500.5, 450.4)
    full = decode(path, box=box)
    assert np.array_equal(np.asarray(full), np.asarray(decode(path))[50:450, 100:500])
    reduced = decode(path, (100, 100), box)
    assert reduced.size == (100, 101)
    assert psnr(reduced, full.resize(reduced.size, Image.Resampling.BOX)) > 30
    with pytest.raises(UserError, match=r"photo.jpg: the box .* lies outside the photo"):
        decode(path, box=(900, 0, 950, 50))


def test_the_message_names_an_undecodable_file(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"gone.jpg does not exist"):
        decode(tmp_path / "gone.jpg")
    (tmp_path / "text.jpg").write_text("not a photo")
    for function in (decode, read_size):
        with pytest.raises(UserError, match=r"text.jpg cannot be decoded .not an image"):
            function(tmp_path / "text.jpg")
    buffer = io.BytesIO()
    photo_like(400, 300).save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(UserError, match=r"half.jpg cannot be decoded"):
        decode(tmp_path / "half.jpg")
    assert read_size(tmp_path / "half.jpg") == (400, 300)
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue())
    Image.new("RGB", (7, 300)).save(tmp_path / "thin.png")
    for function in (decode, read_size):
        with pytest.raises(UserError, match=r"thin.png is only 7 x 300 pixels"):
            function(tmp_path / "thin.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"half.jpg has more pixels"):
        read_size(tmp_path / "half.jpg")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation_is_decoded(tmp_path, kind):
    first, *others = (Image.new("RGB", (32, 24), colour) for colour in ("red", "lime", "blue"))
    path = saved(tmp_path, first, kind, save_all=True, append_images=others)
    assert read_size(path) == (32, 24)
    assert np.abs(np.asarray(decode(path)).mean(axis=(0, 1)) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("name", ["drawing.eps", "photo.jpg", "drawing"])
def test_a_program_is_refused_before_it_runs(tmp_path, name):
    lines = ["%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 100 100", "%%EndComments", "showpage"]
    (tmp_path / name).write_text("\n".join([*lines, ""]))
    with Image.open(tmp_path / name) as image:
        assert image.format == "EPS"
    for function in (decode, read_size):
        with pytest.raises(UserError, match=rf"{name} cannot be decoded \(EPS is a program that"):
            function(tmp_path / name)


@pytest.mark.parametrize("kind", ["AVIF", "BLP", "BMP", "DDS", "ICNS", "JPEG2000", "PCX", "QOI"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_of_any_format_is_one_line(tmp_path, kind):
    image = photo_like(64, 64)
    content = saved(tmp_path, image.convert("P") if kind == "BLP" else image, kind).read_bytes()
    random = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(content)
        damaged[random.integers(0, min(len(content), 200))] = random.integers(0, 256)
        path = tmp_path / "photo.jpg"
        path.write_bytes(damaged[: random.integers(0, len(content))] if number % 3 else damaged)
        for function in (decode, read_size):
            with suppress(UserError):
                function(path)


def test_the_limit_on_pixels_holds_for_every_format(tmp_path, monkeypatch):
    for kind in ("AVIF", "JPEG2000", "PPM", "TGA", "QOI"):
        path = saved(tmp_path, photo_like(64, 64), kind)
        with monkeypatch.context() as limited:
            limited.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
            for function in (decode, read_size):
                with pytest.raises(UserError, match=r"photo.jpg has more pixels than is safe"):
                    function(path)


def test_real_photos(shared):
    """Real .jpg files (JPEG, WebP, greyscale) decode to the size that `read_size` returns."""
    photos = sorted((shared / "photos").glob("*/*"))[::60]
    assert photos
    for path in photos:
        image = decode(path)
        assert (image.mode, image.size) == ("RGB", read_size(path))
