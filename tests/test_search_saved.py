"""Indexes on disk: opened again, appended to, refused where they do not belong."""

import json

import faiss
import numpy as np
import pytest

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, Factory, saved


def unit_rows(seed, rows, dim=16):
    """Nearly of unit length, rounded so that every inner product is exact in float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.round(256 * vectors) / 256).astype("f4")


GALLERY, QUERY = unit_rows(0, 700), unit_rows(1, 20)


@pytest.fixture
def added(monkeypatch):
    """The first row of every filling of an index."""
    from landmark.search import build, indexed

    starts = []

    def counting(index, gallery, first, block_rows):
        starts.append(first)
        build.add(index, gallery, first, block_rows)

    monkeypatch.setattr(indexed, "add", counting)
    return starts


@pytest.mark.parametrize(
    "make",
    [
        lambda **given: IVF(n_lists=10, n_probe=2, **given),
        lambda **given: IVF(storage="sq8", **given),
        lambda **given: IVFPQ(code_bytes=4, **given),
        lambda **given: HNSW(storage="float16", **given),
        lambda **given: Factory("IVF8,PQ4x4", **given),
    ],
    ids=["ivf", "ivf-sq8", "ivfpq", "hnsw", "factory"],
)
def test_an_index_is_opened_as_it_was_saved(tmp_path, added, make):
    path = tmp_path / "deep" / "index"
    first = make(index=str(path))(QUERY, GALLERY, 9)
    assert sorted(file.name for file in path.iterdir()) == ["index.faiss", "index.json"]
    assert [file.name for file in path.parent.iterdir()] == ["index"]
    again = make(index=str(path))(QUERY, GALLERY.copy(), 9)
    np.testing.assert_array_equal(again, first)
    if not isinstance(make(), HNSW):  # threads may change its graph
        np.testing.assert_array_equal(make()(QUERY, GALLERY, 9), first)
    assert added[:1] == [0]
    assert len(added) == (1 if isinstance(make(), HNSW) else 2)  # the one without a folder


@pytest.mark.parametrize("stacked", [False, True])
def test_rows_at_the_end_are_added_to_a_saved_index(tmp_path, added, stacked):
    path = tmp_path / "index"
    IVF(n_lists=10, index=str(path))(QUERY, GALLERY[:500], 9)
    grown = StackedVectors([GALLERY[:510], GALLERY[510:]]) if stacked else GALLERY
    found = IVF(n_lists=10, n_probe=10, index=str(path))(QUERY, grown, 9)
    assert added == [0, 500]
    np.testing.assert_array_equal(found[0], IVF(n_lists=1)(QUERY, GALLERY, 9)[0])
    assert faiss.read_index(str(path / "index.faiss")).ntotal == 700
    found_again = IVF(n_lists=10, n_probe=10, index=str(path))(QUERY, GALLERY, 9)
    np.testing.assert_array_equal(found_again, found)
    assert added == [0, 500, 0]  # the last is that of n_lists=1


@pytest.mark.parametrize(
    ("search", "gallery", "words"),
    [
        (IVF(n_lists=11), GALLERY, "n_lists is 10 there and 11 here"),
        (IVF(n_lists=10, seed=1), GALLERY, "seed is 0 there and 1 here"),
        (IVF(n_lists=10, train_rows=600), GALLERY, "train_rows is None there and 600 here"),
        (IVF(n_lists=10, storage="sq8"), GALLERY, "storage is float32 there and sq8 here"),
        (IVFPQ(n_lists=10), GALLERY, "search is ivf there and ivfpq here"),
        (IVF(n_lists=10), GALLERY.astype("f2"), "gallery dtype is float32 there and float16"),
        (IVF(n_lists=10), GALLERY[:, :8].copy(), "gallery dim is 16 there and 8 here"),
        (IVF(n_lists=10), GALLERY[:600], "first 700 vectors are others"),
        (IVF(n_lists=10), np.roll(GALLERY, 1, axis=0), "first 700 vectors are others"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_index_of_something_else_is_refused_by_the_key_that_differs(
    tmp_path, search, gallery, words
):
    path = tmp_path / "index"
    IVF(n_lists=10, index=str(path))(QUERY, GALLERY, 9)
    before = {file: file.read_bytes() for file in path.iterdir()}
    search.index = str(path)
    with pytest.raises(UserError, match=words):
        search(QUERY[:, : gallery.shape[1]], gallery, 9)
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_settings_of_the_search_alone_may_differ(tmp_path):
    path = str(tmp_path / "index")
    IVF(n_lists=10, index=path)(QUERY, GALLERY, 9)
    found = IVF(n_lists=10, n_probe=10, refine=3, block_rows=7, index=path)(QUERY, GALLERY, 9)
    np.testing.assert_array_equal(found[0], IVF(n_lists=1)(QUERY, GALLERY, 9)[0])


def test_the_folder_is_that_of_the_first_gallery_alone(tmp_path):
    path, train = tmp_path / "index", unit_rows(2, 300)
    search = IVF(n_lists=5, n_probe=5, index=str(path))
    for _ in range(2):
        for gallery in (GALLERY, train):
            rows = search(QUERY, gallery, 9)[0]
            np.testing.assert_array_equal(rows, IVF(n_lists=1)(QUERY, gallery, 9)[0])
    assert json.loads((path / "index.json").read_text())["gallery"]["rows"] == 700


def _damage(name, change):
    def damage(path):
        (path / name).write_bytes(change((path / name).read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damage("index.json", lambda data: data[:40]), "index.json is damaged"),
        (_damage("index.json", lambda _: b"[]"), "index.json is damaged"),
        (_damage("index.json", lambda d: d.replace(b'"schema": 1', b'"schema": 9')), "later"),
        (_damage("index.faiss", lambda data: data[:100]), "index.faiss is damaged"),
        (_damage("index.faiss", lambda _: b"nothing"), "index.faiss is damaged"),
        (lambda path: (path / "index.faiss").unlink(), "index.faiss is damaged"),
        (lambda path: (path / "index.json").unlink(), "holds no saved index"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path, damage, words):
    path = tmp_path / "index"
    IVF(n_lists=5, index=str(path))(QUERY, GALLERY, 9)
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        IVF(n_lists=5, index=str(path))(QUERY, GALLERY, 9)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_index_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    IVF(n_lists=5, index=str(one))(QUERY, GALLERY, 9)
    IVF(n_lists=5, index=str(other))(QUERY, GALLERY[:600], 9)
    (one / "index.faiss").write_bytes((other / "index.faiss").read_bytes())
    with pytest.raises(UserError, match=r"is not the one of index\.json"):
        IVF(n_lists=5, index=str(one))(QUERY, GALLERY, 9)


def test_a_taken_place_is_refused_before_anything_is_built(tmp_path, added):
    (tmp_path / "photo.jpg").touch()
    for place in (tmp_path, tmp_path / "photo.jpg", tmp_path / "photo.jpg" / "index"):
        with pytest.raises(UserError, match=r"photo|holds no saved"):
            IVF(index=str(place))(QUERY, GALLERY, 9)
    assert added == []
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_digest_is_of_the_values_in_order():
    expected = saved.digest(GALLERY)
    assert saved.digest(StackedVectors([GALLERY[:3], GALLERY[3:]])) == expected
    assert saved.digest(GALLERY, 500) == saved.digest(GALLERY[:500]) != expected
    assert saved.digest(GALLERY[::-1]) != expected
