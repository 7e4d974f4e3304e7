"""Folders as people have them: every file is used, refused in one line, or counted."""

import os
import shutil
import sys
from types import ModuleType
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from landmark.data import Folder
from landmark.error import UserError
from landmark.image import decode, file_types

NFC, NFD = normalize("NFC", "café"), normalize("NFD", "café")
LISTED = [
    f"{landmark}/{number}.jpg,{split}"
    for landmark in "abc"
    for number, split in enumerate(["train", "train", "query", "gallery"])
]


def photo(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path.name)))
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Write twelve photos of three landmarks."""
    for landmark in "abc":
        for number in range(4):
            photo(tmp_path / "photos" / landmark / f"{number}.jpg")
    return tmp_path / "photos"


def write_splits(root, lines, name="splits.csv", header="path,split", encoding="utf-8"):
    (root / name).write_bytes("\n".join([header, *lines, ""]).encode(encoding))


def paths(root):
    return set(Folder(root).read().rows["path"])


@pytest.mark.parametrize("suffix", ["avif", "WEBP", "jp2", "Ppm", "tga", "qoi", "MPO", "jpe"])
def test_photos_of_every_format_are_read(root, suffix, capfd):
    photo(root / "a" / f"more.{suffix}")
    assert f"a/more.{suffix}" in paths(root)
    assert decode(root / "a" / f"more.{suffix}").size == (32, 24)
    assert capfd.readouterr().err == ""


def test_photos_in_subfolders_belong_to_the_first_folder(root, capfd):
    photo(root / "b" / "2019" / "may" / "x.jpg")
    photo(root / "d" / "2020" / "y.jpg")
    rows = Folder(root).read().rows.set_index("path")
    assert rows["landmark_id"]["b/2019/may/x.jpg"] == "b"
    assert rows["landmark_id"]["d/2020/y.jpg"] == "d"
    said = f"{root}: 14 files of 4 landmarks; in subfolders: 2 (the landmark is the first folder "
    assert capfd.readouterr().err == f"{said}of the path)\n"


@pytest.fixture
def suffixes(monkeypatch):
    """Let a test register formats; return the extensions of pillow, without those of plugins."""
    Image.init()
    own = {suffix: name for suffix, name in Image.EXTENSION.items() if name != "HEIF"}
    monkeypatch.setattr(Image, "EXTENSION", own)
    for cached in (file_types.register_heif, file_types.photo_suffixes):
        cached.cache_clear()
    yield own
    for cached in (file_types.register_heif, file_types.photo_suffixes):
        cached.cache_clear()


def test_what_is_not_used_is_counted_by_kind(root, suffixes, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for number in range(4):
        (root / "a" / f"{number}.jpg").rename(root / "a" / f"IMG_{number}.HEIC")
    for name in ("b/film.mp4", "b/sketch.eps", "b/IMG_1", "c/St. Peter", "b/data.h5", "e/n.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"1")
    photo(root / "top.jpg")
    assert len(paths(root)) == 8
    said = capfd.readouterr().err
    assert said.startswith(
        f"{root}: 18 files of 2 landmarks; not used: 4 .heic (pip install pillow-heif), "
        "2 without a suffix, "
    )
    for part in ("1 at the top level", "1 .mp4", "1 .eps", "1 .h5", "1 .txt", "no photos in a, e"):
        assert part in said
    assert len(said.splitlines()) == 1
    (root / "b" / "x.heic").write_bytes(b"1")
    with pytest.raises(UserError, match=r"cannot be decoded \(HEIF: pip install pillow-heif\)"):
        decode(root / "b" / "x.heic")


def test_other_ranks_do_not_repeat_the_notice(root, capfd, monkeypatch):
    (root / "a" / "x.mp4").write_bytes(b"1")
    for variables in ({"LOCAL_RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}):
        with monkeypatch.context() as launched:
            for name, value in variables.items():
                launched.setenv(name, value)
            Folder(root).read()
        assert capfd.readouterr().err == ""


def test_many_kinds_are_cut_short(root, capfd):
    for number in range(12):
        (root / "a" / f"x.k{number}").write_bytes(b"1")
    Folder(root).read()
    assert capfd.readouterr().err.rstrip().endswith(", 4 other kinds")


def test_what_systems_leave_beside_photos_is_not_mentioned(root, capfd):
    before = paths(root)
    for folder in ("__MACOSX/a", "@eaDir", "a/@eaDir", ".git", "a/.cache", "$RECYCLE.BIN"):
        photo(root / folder / "0.jpg")
    for name in ("a/.DS_Store", "a/Thumbs.db", "a/._0.jpg", ".hidden.jpg", "Desktop.ini"):
        (root / name).write_bytes(b"")
    assert paths(root) == before
    assert capfd.readouterr().err == ""


def test_links_are_followed_but_not_in_a_circle(root, capfd):
    for link, target in (("a/up", ".."), ("self", "."), ("a/b", "../b"), ("b/a", "../a")):
        (root / link).symlink_to(target)
    (root / "d").symlink_to("c")
    (root / "a" / "link.jpg").symlink_to("0.jpg")
    (root / "a" / "gone.jpg").symlink_to("gone")  # named when it is decoded
    os.mkfifo(root / "c" / "pipe.jpg")  # opening it would wait for ever
    found = paths(root)
    assert {"d/0.jpg", "a/b/0.jpg", "b/a/0.jpg", "a/link.jpg", "a/gone.jpg"} <= found
    assert "c/pipe.jpg" not in found
    assert max(path.count("/") for path in found) <= 3
    said = capfd.readouterr().err
    assert "link(s) to a parent folder" in said
    assert "2 not a regular file" in said  # it is in c and in d


def test_pictures_of_runs_are_not_photos(root, capfd):
    for run in ("runs/train/1", "a/run"):
        (root / run / ".hydra").mkdir(parents=True)
        photo(root / run / "pictures" / "hardest.png")
    assert len(paths(root)) == 12
    assert "not used: 2 run folder(s)" in capfd.readouterr().err


def test_folders_of_splits_are_not_landmarks(root):
    for split, landmark in (("train", "a"), ("train", "b"), ("Test", "c")):
        shutil.move(root / landmark, root / split / landmark)
    with pytest.raises(UserError, match="folders Test, train are named after splits, not landmark"):
        Folder(root).read()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"a/p\xe9.jpg", r"'a/p\udce9.jpg' is not UTF-8"),
        (b"caf\xe9/1.jpg", r"'caf\udce9/1.jpg' is not UTF-8"),
        (b"a/x\ny.jpg", r"'a/x\ny.jpg' contains a control character"),
        (b"a\tb/1.jpg", r"'a\tb/1.jpg' contains a control character"),
    ],
)
def test_names_that_tables_cannot_hold_are_named(root, name, reason):
    file = os.fsencode(root) + b"/" + name
    os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120 - of bytes
    shutil.copy(root / "a" / "0.jpg", file)
    with pytest.raises(UserError) as caught:
        Folder(root).read()
    assert str(caught.value) == f"{root}: the name of the file {reason}. Rename it."
    str(caught.value).encode()  # printable anywhere


def test_names_in_two_unicode_forms_are_named(root):
    (root / "a").rename(root / NFC)
    (root / "b").rename(root / NFD)
    with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9' are one name in two Unicod"):
        Folder(root).read()
    (root / NFC).rename(root / "a")
    (root / "a" / "0.jpg").rename(root / "a" / f"{NFC}.jpg")
    (root / "a" / "1.jpg").rename(root / "a" / f"{NFD}.jpg")
    with pytest.raises(UserError, match=r"'a/cafe\\u0301\.jpg' and 'a/caf\\xe9\.jpg' are one name"):
        Folder(root).read()


@pytest.mark.parametrize(("disk", "listed"), [(NFC, NFD), (NFD, NFC)])
def test_names_are_compared_in_one_unicode_form(root, disk, listed):
    (root / "a").rename(root / disk)
    (root / disk / "0.jpg").rename(root / disk / f"{disk}.jpg")
    lines = [line.replace("a/", f"{listed}/").replace("/0", f"/{listed}") for line in LISTED[:4]]
    write_splits(root, [*lines, *LISTED[4:]])
    rows = Folder(root).read().rows
    row = rows[rows["path"] == f"{disk}/{disk}.jpg"].iloc[0]
    assert (row["id"], row["landmark_id"], row["split"]) == (f"{NFC}/{NFC}.jpg", NFC, "train")


def test_listed_files_are_used_whatever_their_suffix(root, capfd):
    (root / "a" / "0.jpg").rename(root / "a" / "IMG.HEIC")
    (root / "b" / "0.jpg").rename(root / "b" / "IMG")
    (root / "c" / "0.jpg").rename(root / "c" / ".jpg_large")
    others = [line for line in LISTED if "/0" not in line]
    write_splits(root, ["a/IMG.HEIC,query", "b/IMG,train", "c/.jpg_large,gallery", *others])
    rows = Folder(root).read().rows.set_index("path")
    assert rows.loc["a/IMG.HEIC", ["landmark_id", "split"]].tolist() == ["a", "query"]
    assert rows.loc["b/IMG", "split"] == "train"
    assert rows.loc["c/.jpg_large", "split"] == "gallery"
    assert decode(root / "a" / "IMG.HEIC").size == (32, 24)
    assert capfd.readouterr().err == ""
    photo(root / "top.jpg")
    write_splits(root, [*LISTED, "top.jpg,train"])
    with pytest.raises(UserError, match=r"lists a/0.jpg, which does not exist \(3 such photos"):
        Folder(root).read()
    for name, back in (
        ("a/IMG.HEIC", "a/0.jpg"),
        ("b/IMG", "b/0.jpg"),
        ("c/.jpg_large", "c/0.jpg"),
    ):
        (root / name).rename(root / back)
    with pytest.raises(UserError, match=r"lists top.jpg, which is in no landmark's folder"):
        Folder(root).read()


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"encoding": "utf-8-sig"}, LISTED),
        ({"name": "Splits.CSV"}, LISTED),
        ({"header": "Path, Split"}, LISTED),
        ({"header": "n,path,split"}, [f"1,{line}" for line in LISTED]),
        ({}, [line.replace("/", "\\") for line in LISTED]),
        ({}, [f"./{line}" for line in LISTED]),
        ({}, [line.replace("train", " Train ") for line in LISTED]),
        ({"header": "path,split\r"}, [f"{line}\r" for line in LISTED]),
    ],
)
def test_splits_are_read_in_the_forms_that_people_write(root, options, lines):
    write_splits(root, lines, **options)
    rows = Folder(root).read().rows
    assert sorted(rows["path"] + "," + rows["split"]) == sorted(LISTED)
    write_splits(root, [f"{root}/{line}" for line in LISTED])
    assert len(paths(root)) == 12


@pytest.mark.parametrize(
    ("options", "lines", "reason"),
    [
        ({"encoding": "utf-16"}, LISTED, "is not UTF-8 (byte 0xff). Save it as CSV in UTF-8."),
        ({"encoding": "latin-1"}, ["a/é.jpg,train"], "is not UTF-8 (byte 0xe9)"),
        ({}, [*LISTED, "a,b,c"], "cannot be read as a table (Error tokenizing"),
        ({}, [*LISTED, '"a/0.jpg,train'], "EOF inside string"),
        ({}, ['"a/0.jpg,train', 'a/1.jpg",train'], "contains a line break. Check the quotes"),
        ({"header": "path;split"}, [], "(columns: path;split). Separate the columns by commas."),
        ({"header": "path\tsplit"}, [], "Separate the columns by commas."),
        ({}, ["/etc/passwd,train"], "path '/etc/passwd' is outside the data root"),
        ({}, ["a/../../x.jpg,train"], "is outside the data root"),
        ({}, [LISTED[0], f"./{LISTED[0]}"], "lists a/0.jpg more than once"),
        ({}, [*LISTED[:-1], "c/3.jpg"], "c/3.jpg has split ''"),
    ],
)
def test_other_lists_of_splits_are_refused_in_one_line(root, options, lines, reason):
    write_splits(root, lines, **options)
    with pytest.raises(UserError) as caught:
        Folder(root).read()
    assert str(caught.value).startswith(f"{root}/splits.csv")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heif_is_read_where_its_plugin_is_installed(root, suffixes, monkeypatch, capfd):
    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: suffixes.update({".heic": "PNG"})
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    photo(root / "a" / "IMG.HEIC", format="PNG")
    assert "a/IMG.HEIC" in paths(root)
    assert capfd.readouterr().err == ""


def test_the_suffixes_are_those_of_the_decoders_of_pillow():
    suffixes = file_types.photo_suffixes()
    assert suffixes >= {".avif", ".bmp", ".gif", ".jp2", ".jpg", ".png", ".ppm", ".psd", ".tga"}
    assert suffixes >= {".dds", ".ico", ".jpeg", ".mpo", ".pcx", ".qoi", ".tif", ".webp"}
    # Programs, films, and formats of which Pillow reads the header alone.
    assert not suffixes & {".eps", ".ps", ".pdf", ".mpg", ".wmf", ".h5", ".grib", ".bufr", ".txt"}
