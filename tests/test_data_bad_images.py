"""Unusable photos are an error, or are skipped, listed, and shift no row."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from landmark.data import Folder
from landmark.data.bad_images import BadImageList, reason_of, skipped_row
from landmark.data.dataset import PhotoDataset, ScaledPhotoDataset
from landmark.error import UserError
from landmark.image import ImageFormat

SQUARE = ImageFormat([[16, 16]])
WIDE_AND_TALL = ImageFormat([[32, 16], [16, 32]], cuts=[1.0])


def truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def bomb(path):
    # A PNG whose header promises 40,000 x 40,000 pixels.
    Image.new("RGB", (64, 64)).save(path.with_suffix(".png"))
    data = bytearray(path.with_suffix(".png").read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.with_suffix(".png").unlink()
    path.write_bytes(data)


SPOIL = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_text("<html>not found</html>"),
    "bomb": bomb,
    "one pixel": lambda path: Image.new("RGB", (1, 1)).save(path),
    "7 px wide": lambda path: Image.new("RGB", (7, 90)).save(path),
}


@pytest.fixture
def photos(tmp_path):
    """Write nine noisy photos of three landmarks; photo k of a landmark is wide for even k."""
    random = np.random.default_rng(0)
    for landmark in "abc":
        (tmp_path / "photos" / landmark).mkdir(parents=True)
        for number in range(3):
            size = (40, 60, 3) if number % 2 == 0 else (60, 40, 3)
            pixels = random.integers(0, 256, size, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / landmark / f"{number}.jpg")
    return tmp_path / "photos"


def source(root, bad_image="skip"):
    return Folder(root, query_fraction=0, gallery_fraction=0, bad_image=bad_image)


@pytest.mark.parametrize("kind", SPOIL)
def test_by_default_the_first_bad_photo_is_named(photos, kind):
    SPOIL[kind](photos / "b" / "1.jpg")
    table = source(photos, "error").read("train")
    with pytest.raises(UserError, match=r"b/1\.jpg .*\. Replace it, .*data\.bad_image=skip\."):
        list(PhotoDataset(table, WIDE_AND_TALL))


@pytest.mark.parametrize("kind", SPOIL)
def test_skipping_removes_the_row_or_marks_it(photos, kind):
    SPOIL[kind](photos / "b" / "1.jpg")
    whole = source(photos).read("train")
    table = whole.with_sizes()
    if kind == "truncated":  # its header is complete
        assert len(table) == 9
        row = table.rows["path"].tolist().index("b/1.jpg")
        rows = [row for _, _, row in PhotoDataset(table, WIDE_AND_TALL)]
        assert rows == [skipped_row(row) if k == row else k for k in range(9)]
        _, scaled_row = ScaledPhotoDataset(table, WIDE_AND_TALL, [0.5, 1])[row]
        assert scaled_row == skipped_row(row)
    else:
        assert table.rows["path"].tolist() == [p for p in whole.rows["path"] if p != "b/1.jpg"]
        assert table.skipped["path"].tolist() == ["b/1.jpg"]
        with pytest.raises(ValueError, match="with_sizes"):
            whole.groups(WIDE_AND_TALL)


def test_a_bad_photo_shifts_no_other_row(photos):
    """The pixels of each good row are those of its path, whatever photos before it are bad."""
    clean = list(PhotoDataset(source(photos).read("train"), SQUARE))
    truncated(photos / "a" / "1.jpg")
    (photos / "b" / "0.jpg").write_bytes(b"")
    table = source(photos).read("train")
    dirty = list(PhotoDataset(table, SQUARE))
    bad = {table.rows["path"].tolist().index(path) for path in ("a/1.jpg", "b/0.jpg")}
    for row, (before, after) in enumerate(zip(clean, dirty, strict=True)):
        if row in bad:
            assert after[2] == skipped_row(row)
            assert after[0].unique().tolist() == [128]
        else:
            assert after[2] == row
            assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_the_next_good_photo_of_its_shape_replaces_it(photos, workers, tmp_path):
    truncated(photos / "a" / "0.jpg")
    table = source(photos).read("train").with_sizes()
    noted = BadImageList(tmp_path / "bad.csv")
    labels = np.repeat([0, 1, 2], 3)
    dataset = PhotoDataset(table, WIDE_AND_TALL, labels, train=True, bad_images=noted)
    loader = DataLoader(dataset, batch_sampler=[[0, 2], [1, 4]], num_workers=workers)
    (images, got_labels, rows), (_, _, others) = loader
    assert rows.tolist() == [2, 2]
    assert got_labels.tolist() == [0, 0]
    assert not torch.equal(images[0], torch.full_like(images[0], 128))
    assert others.tolist() == [1, 4]
    assert noted.tidy() == 1
    listed = pd.read_csv(noted.file)
    assert listed["path"].tolist() == ["a/0.jpg"]
    assert "cannot be decoded" in listed["reason"][0]


def test_all_photos_bad_is_an_error(photos):
    for path in photos.glob("*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 9 photos can be used \(a/0\.jpg cannot be"):
        source(photos).read("train").with_sizes()
    dataset = PhotoDataset(source(photos).read("train"), SQUARE, train=True)
    with pytest.raises(UserError, match="all other photos of its aspect group cannot be decoded"):
        assert dataset[0]


@pytest.mark.parametrize("kind", SPOIL)
def test_a_reason_has_neither_path_nor_advice(photos, kind):
    SPOIL[kind](photos / "b" / "1.jpg")
    with pytest.raises(UserError) as caught:
        PhotoDataset(source(photos, "error").read("train"), SQUARE)[4]
    reason = reason_of(str(caught.value), f"{photos}/b/1.jpg")
    assert reason.startswith(("cannot be decoded (", "is only ", "has more pixels"))
    assert not reason.endswith(".")
    assert "bad_image" not in reason


def test_a_skipped_row_is_its_own_inverse():
    assert [skipped_row(skipped_row(row)) for row in (0, 7)] == [0, 7]
    assert max(skipped_row(row) for row in range(9)) < 0


def test_lines_of_several_processes_do_not_interleave(tmp_path):
    program = (
        "import sys; from landmark.data.bad_images import BadImageList\n"
        "notes = BadImageList(sys.argv[1])\n"
        "for k in range(200): notes.note(f'photo,{k}', f'path {k}', 'line\\nbreak ' + 'x' * 99)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "bad.csv")]
    started = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    notes = BadImageList(tmp_path / "bad.csv")
    assert notes.tidy() == notes.tidy() == 200
    frame = pd.read_csv(notes.file)
    assert set(frame["id"]) == {f"photo,{k}" for k in range(200)}
    assert frame["reason"].str.startswith("line break x").all()
