"""Black, white and transparency of every kind of pixel, against files written by hand."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from landmark.error import UserError
from landmark.image import decode, read_size
from landmark.image.format import ImageFormat

HEIGHT, WIDTH = 40, 48
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
COLOUR = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
UNIT = RANDOM.random((HEIGHT, WIDTH)).astype(np.float32)
ORDERS = {"<": b"II*\0", ">": b"MM\0*"}
SHORT, LONG, FLOAT = (3, "H"), (4, "I"), (11, "f")
MAXIMUM, LEAST_SAMPLE, LARGEST_SAMPLE = 281, 340, 341


def tiff(values, sample_format=1, order="<", planar=False, compress=False, bits=None, tags=()):
    """Return an uncompressed or deflated TIFF; `tags` adds or replaces {number: (type, values)}."""
    count = values.shape[2] if values.ndim == 3 else 1
    raw = values.astype(values.dtype.newbyteorder(order))
    planes = [raw[..., i].tobytes() for i in range(count)] if planar else [raw.tobytes()]
    planes = [zlib.compress(plane) for plane in planes] if compress else planes
    entries = {
        256: (LONG, [values.shape[1]]),
        257: (LONG, [values.shape[0]]),
        258: (SHORT, [bits or 8 * values.dtype.itemsize] * count),
        259: (SHORT, [8 if compress else 1]),
        262: (SHORT, [2 if count == 3 else 1]),
        273: (LONG, [0] * len(planes)),
        277: (SHORT, [count]),
        278: (LONG, [values.shape[0]]),
        279: (LONG, [len(plane) for plane in planes]),
        284: (SHORT, [2 if planar else 1]),
        339: (SHORT, [sample_format] * count),
    } | dict(tags)

    def encoded(number):
        (_, code), items = entries[number]
        return struct.pack(f"{order}{len(items)}{code}", *items)

    start = 8 + 2 + 12 * len(entries) + 4
    first = start + sum(len(encoded(n)) for n in entries if len(encoded(n)) > 4)
    lengths = np.cumsum([0, *map(len, planes[:-1])])
    entries[273] = (LONG, [first + int(length) for length in lengths])
    table, beyond = b"", b""
    for number in sorted(entries):
        (kind, _), items = entries[number]
        field = encoded(number).ljust(4, b"\0")
        if len(field) > 4:
            beyond, field = beyond + field, struct.pack(f"{order}I", start + len(beyond))
        table += struct.pack(f"{order}HHI", number, kind, len(items)) + field
    header = ORDERS[order] + struct.pack(f"{order}IH", 8, len(entries))
    return header + table + bytes(4) + beyond + b"".join(planes)


def png(values, colour_type, bits=16, transparent=()):
    """Return a PNG of samples of `bits`, with the samples of a transparent colour."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        shifts = np.arange(bits - 1, -1, -1)
        packed = [np.packbits((row[:, None] >> shifts) & 1).tobytes() for row in rows]

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = (values.shape[1], values.shape[0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0))
        + (
            chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
            if transparent
            else b""
        )
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed)))
        + chunk(b"IEND", b"")
    )


def levels(values, white, black=0):
    """Return the expected 8-bit levels."""
    scaled = (values.astype(np.float64) - black) / (white - black)
    return np.clip(np.rint(scaled * 255), 0, 255)


def assert_decoded(folder, content, expected, tolerance=0):
    (folder / "photo.img").write_bytes(content)
    pixels = np.asarray(decode(folder / "photo.img")).astype(float)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.abs(pixels - expected).max() <= tolerance


@pytest.mark.parametrize("order", ORDERS)
def test_samples_of_16_bits(tmp_path, order):
    """Grey is rounded; of colour pillow keeps the high byte, which is within one level."""
    assert_decoded(tmp_path, tiff(GREY, order=order), levels(GREY, 65535))
    assert_decoded(tmp_path, tiff(COLOUR, order=order), levels(COLOUR, 65535), 1)
    assert_decoded(tmp_path, png(GREY, 0), levels(GREY, 65535))
    assert_decoded(tmp_path, png(COLOUR, 2), levels(COLOUR, 65535), 1)
    dark = GREY >> 6  # a dark photo stays dark: no tag says that it uses 10 bits
    assert_decoded(tmp_path, tiff(dark, order=order), levels(dark, 65535))
    assert_decoded(tmp_path, png(dark, 0), levels(dark, 65535))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_colour_in_separate_planes(tmp_path, order, compress):
    options = {"order": order, "planar": True, "compress": compress}
    assert_decoded(tmp_path, tiff(COLOUR, **options), levels(COLOUR, 65535), 1)
    small = (COLOUR >> 8).astype(np.uint8)
    assert_decoded(tmp_path, tiff(small, **options), small.astype(float))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_16_as_the_file_declares(tmp_path, order, bits):
    white = 2**bits - 1
    for full, compress in ((GREY, False), (COLOUR, False), (COLOUR, True)):
        values = full >> (16 - bits)
        declared = {MAXIMUM: (SHORT, [white] * (3 if values.ndim == 3 else 1))}
        content = tiff(values, order=order, compress=compress, tags=declared)
        assert_decoded(tmp_path, content, levels(values, white))
    values = COLOUR >> (16 - bits)
    content = tiff(values, order=order, planar=True, tags={MAXIMUM: (SHORT, [white] * 3)})
    assert_decoded(tmp_path, content, levels(values, white))


def test_the_largest_value_of_one_photo_is_not_its_white(tmp_path):
    """MaxSampleValue is often a statistic: it tells the number of bits, no more."""
    values = GREY >> 4
    for largest in (2100, 3999, 4095):
        content = tiff(values, tags={MAXIMUM: (SHORT, [largest])})
        assert_decoded(tmp_path, content, levels(values, 4095))


def test_packed_12_bits_and_netpbm(tmp_path):
    values = GREY >> 4
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    ).astype(np.uint8)
    content = tiff(packed.reshape(HEIGHT, -1), bits=12, tags={256: (LONG, [WIDTH])})
    assert_decoded(tmp_path, content, levels(values, 4095))
    for white in (100, 1000, 4095, 65535):
        grey, colour = (values.astype(int) % (white + 1) for values in (GREY, COLOUR))
        kind = ">u2" if white > 255 else "u1"
        header = f"{WIDTH} {HEIGHT} {white}\n".encode()
        assert_decoded(
            tmp_path, b"P5 " + header + grey.astype(kind).tobytes(), levels(grey, white), 1
        )
        content = b"P6 " + header + colour.astype(kind).tobytes()
        assert_decoded(tmp_path, content, levels(colour, white), 1)


@pytest.mark.parametrize(
    ("kind", "white"), [(np.int16, 32767), (np.int32, 2**31 - 1), (np.uint32, 2**32 - 1)]
)
def test_signed_and_32_bit_integers(tmp_path, kind, white):
    values = RANDOM.integers(0, white, (HEIGHT, WIDTH), endpoint=True).astype(kind)
    values[:3] = np.array([0, 1, white], kind)[:, None]
    if white != 2**32 - 1:
        values[3] = -5
    content = tiff(values, sample_format=1 if kind is np.uint32 else 2)
    assert_decoded(tmp_path, content, levels(values, white))


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
@pytest.mark.parametrize("white", [255, 65535])
def test_narrower_values_in_32_bits(tmp_path, kind, white):
    values = (GREY.astype(int) % (white + 1)).astype(kind)
    values[0, 0] = 2**31 - 1  # one bad pixel
    content = tiff(values, sample_format=2 if kind is np.int32 else 1)
    assert_decoded(tmp_path, content, levels(values, white))


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floating_point(tmp_path, white):
    values = UNIT * np.float32(white)
    assert_decoded(tmp_path, tiff(values, 3), levels(values, white))
    overshooting = values * np.float32(1.1) - np.float32(0.05 * white)  # as resampling leaves it
    assert_decoded(tmp_path, tiff(overshooting, 3), levels(overshooting, white))
    outlier = values.copy()
    outlier[5, 7] = 1e9
    assert_decoded(tmp_path, tiff(outlier, 3), levels(outlier, white))
    holes, filled = values.copy(), values.copy()
    holes[0], holes[1], holes[2] = np.nan, np.inf, -np.inf
    filled[0], filled[1], filled[2] = 0, white, 0
    assert_decoded(tmp_path, tiff(holes, 3), levels(filled, white))


def test_constant_floating_point(tmp_path):
    for value, expected in ((-1, 0), (0, 0), (0.5, 128), (1, 255), (128, 128), (255, 255)):
        content = tiff(np.full((HEIGHT, WIDTH), value, np.float32), 3)
        assert_decoded(tmp_path, content, np.full((HEIGHT, WIDTH), float(expected)))


@pytest.mark.parametrize(("black", "white"), [(None, 1000.0), (-1.0, 1.0), (100.0, 300.0)])
def test_floating_point_ranges_that_the_file_declares(tmp_path, black, white):
    least = 0.0 if black is None else black
    values = (least + UNIT * (white - least)).astype(np.float32)
    tags = {LARGEST_SAMPLE: (FLOAT, [white])}
    tags |= {} if black is None else {LEAST_SAMPLE: (FLOAT, [black])}
    assert_decoded(tmp_path, tiff(values, 3, tags=tags), levels(values, white, least), 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((16, 16), np.nan, np.float32), "no pixel has a finite value"),
        (np.full((16, 16), 1e7, np.float32), "floating-point values reach 1e.07"),
        (np.zeros((16, 16), np.float64), "not an image that pillow reads"),
        (np.zeros((16, 16, 3), np.float32), "not an image that pillow reads"),
    ],
)
def test_unknown_ranges_and_types_are_refused(tmp_path, values, reason):
    (tmp_path / "deep.tif").write_bytes(tiff(values, 3))
    with pytest.raises(UserError, match=rf"deep\.tif cannot be decoded \(.*{reason}.*\)\. "):
        decode(tmp_path / "deep.tif")


def test_white_is_zero(tmp_path):
    inverted = {262: (SHORT, [0])}
    assert_decoded(tmp_path, tiff(GREY, tags=inverted), 255 - levels(GREY, 65535))
    assert_decoded(tmp_path, tiff(UNIT, 3, tags=inverted), levels(1 - UNIT, 1), 1)
    small = (GREY >> 8).astype(np.uint8)
    assert_decoded(tmp_path, tiff(small, tags=inverted), 255.0 - small)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white(tmp_path, bits):
    values = GREY >> (16 - bits)
    values[3] = 1
    expected = np.where(values == 1, 255, levels(values, 2**bits - 1))
    assert_decoded(tmp_path, png(values, 0, bits, transparent=(1,)), expected)


def test_a_transparent_colour_of_16_bits_is_white(tmp_path):
    for colour in ((65535, 0, 300), (200, 10, 30), (1000, 2000, 3000)):
        values = COLOUR.copy()
        values[3] = colour
        expected = levels(values, 65535)
        expected[3] = 255
        assert_decoded(tmp_path, png(values, 2, transparent=colour), expected, 1)


@pytest.mark.parametrize("extra", [1, 2])
def test_alpha_in_tiff(tmp_path, extra):
    """ExtraSamples 1 is alpha that the samples are multiplied with, 2 is plain alpha."""
    alpha = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)
    for full in (GREY[..., None] >> 8, COLOUR >> 8):
        samples = np.minimum(full, alpha) if extra == 1 else full
        values = np.concatenate([samples, alpha], axis=2).astype(np.uint8)
        share = alpha / 255
        expected = samples * (1 if extra == 1 else share) + 255 * (1 - share)
        expected = np.broadcast_to(expected, (HEIGHT, WIDTH, 3))
        kind = {262: (SHORT, [2 if samples.shape[2] == 3 else 1]), 338: (SHORT, [extra])}
        assert_decoded(tmp_path, tiff(values, tags=kind), expected, 3)


def test_lab(tmp_path):
    """Against colours computed from the definition of CIELAB (D50) and sRGB."""
    for lab, expected in {
        (50, 0, 0): (118.4, 118.4, 118.4),
        (50, 10, -10): (129.6, 113.0, 135.7),
        (80, 5, 20): (218.3, 194.4, 161.2),
        (60, 40, 30): (217.0, 113.7, 94.3),
        (100, 0, 0): (255, 255, 255),
    }.items():
        sample = np.array([round(lab[0] * 2.55), *lab[1:]]).astype(np.int16).astype(np.uint8)
        values = np.broadcast_to(sample, (16, 16, 3))
        content = tiff(values, tags={262: (SHORT, [8])})
        assert_decoded(tmp_path, content, np.broadcast_to(np.array(expected), (16, 16, 3)), 1.5)


def test_ycbcr_tiff(tmp_path):
    values = (COLOUR >> 8).astype(np.uint8)
    y, blue, red = np.moveaxis(values.astype(float), 2, 0) - [[[0]], [[128]], [[128]]]
    expected = np.stack(
        [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=2
    )
    content = tiff(values, tags={262: (SHORT, [6]), 530: (SHORT, [1, 1])})
    assert_decoded(tmp_path, content, np.clip(expected, 0, 255), 2)


def test_colour_profiles_change_nothing(tmp_path):
    from PIL import ImageCms

    image = Image.fromarray((COLOUR >> 8).astype(np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        image.save(tmp_path / "profile.img", kind, icc_profile=profile, **options)
        assert np.array_equal(np.asarray(decode(tmp_path / "profile.img")), np.asarray(image))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_every_kind_of_tiff_is_upright(tmp_path, orientation, compress):
    turn = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    turned = {274: (SHORT, [orientation])}
    small, fine = (GREY >> 8).astype(np.uint8), COLOUR >> 4
    for values, expected, tags in (
        (small, small.astype(float), {}),
        (GREY, levels(GREY, 65535), {}),
        (UNIT, levels(UNIT, 1), {}),
        ((COLOUR >> 8).astype(np.uint8), (COLOUR >> 8).astype(float), {}),
        (fine, levels(fine, 4095), {MAXIMUM: (SHORT, [4095] * 3)}),
    ):
        sample_format = 3 if values is UNIT else 1
        content = tiff(values, sample_format, compress=compress, tags=turned | tags)
        assert_decoded(tmp_path, content, np.rot90(expected, turn))
        assert read_size(tmp_path / "photo.img") == np.rot90(expected, turn).shape[1::-1]


def test_a_crop_has_the_range_of_its_photo(tmp_path):
    """The dark corner of a photo from 0 to 255 does not become a photo from 0 to 1."""
    values = UNIT * 255
    values[:16, :16] = UNIT[:16, :16]
    (tmp_path / "photo.tif").write_bytes(tiff(values, 3))
    whole = decode(tmp_path / "photo.tif")
    for box in ((0, 0, 16, 16), (4, 2, 20, 30)):
        crop = decode(tmp_path / "photo.tif", box=box)
        assert np.array_equal(np.asarray(crop), np.asarray(whole.crop(box)))
    image = ImageFormat([[16, 16]], smallest=8)
    part = image.image(tmp_path / "photo.tif", (16, 16), box=(0, 0, 16, 16))
    assert np.array_equal(part.permute(1, 2, 0).numpy(), np.asarray(whole)[:16, :16])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF"])
def test_truncated_files_are_refused(tmp_path, kind):
    Image.fromarray((COLOUR >> 8).astype(np.uint8)).save(tmp_path / "whole.img", kind)
    content = (tmp_path / "whole.img").read_bytes()
    for share in (0.4, 0.6, 0.9):
        (tmp_path / "cut.img").write_bytes(content[: int(len(content) * share)])
        for size in (None, (8, 8)):
            with pytest.raises(UserError, match=r"cut\.img cannot be decoded \("):
                decode(tmp_path / "cut.img", size)
