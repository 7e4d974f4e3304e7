"""Saved indexes are loaded, appended to, and refused for other galleries."""

import json

import faiss
import numpy as np
import pytest

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, Factory, RaBitQ, faiss_index, saved


def unit_rows(seed, rows, dim=16):
    """Return vectors of about unit length, rounded so that inner products are exact in float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.round(256 * vectors) / 256).astype("f4")


GALLERY, QUERY = unit_rows(0, 700), unit_rows(1, 20)


@pytest.fixture
def added_rows(monkeypatch):
    """Record the first row of every call that adds to an index."""
    starts, add = [], faiss_index.add

    def counting(index, gallery, first, block_rows):
        starts.append(first)
        add(index, gallery, first, block_rows)

    monkeypatch.setattr(faiss_index, "add", counting)
    return starts


@pytest.mark.parametrize(
    "make",
    [
        lambda **given: IVF(n_lists=10, n_probe=2, **given),
        lambda **given: IVF(storage="sq8", **given),
        lambda **given: IVFPQ(code_bytes=4, **given),
        lambda **given: RaBitQ(bits=3, **given),
        lambda **given: RaBitQ(fast_scan=True, **given),
        lambda **given: HNSW(storage="float16", **given),
        lambda **given: Factory("IVF8,PQ4x4", **given),
    ],
    ids=["ivf", "ivf-sq8", "ivfpq", "rabitq", "rabitq-fs", "hnsw", "factory"],
)
def test_a_saved_index_is_loaded_unchanged(tmp_path, added_rows, make):
    path = tmp_path / "deep" / "index"
    first = make(index=str(path)).build(GALLERY).search(QUERY, 9)
    assert sorted(file.name for file in path.iterdir()) == ["index.faiss", "index.json"]
    assert [file.name for file in path.parent.iterdir()] == ["index"]
    again = make(index=str(path)).build(GALLERY.copy()).search(QUERY, 9)
    np.testing.assert_array_equal(again, first)
    if not isinstance(make(), HNSW):  # threads may change its graph
        np.testing.assert_array_equal(make().build(GALLERY).search(QUERY, 9), first)
    assert added_rows[:1] == [0]
    assert len(added_rows) == (1 if isinstance(make(), HNSW) else 2)  # the index without a folder


@pytest.mark.parametrize("stacked", [False, True])
def test_appended_rows_are_added_to_a_saved_index(tmp_path, added_rows, stacked):
    path = tmp_path / "index"
    IVF(n_lists=10, index=str(path)).build(GALLERY[:500]).search(QUERY, 9)
    grown = StackedVectors([GALLERY[:510], GALLERY[510:]]) if stacked else GALLERY
    found = IVF(n_lists=10, n_probe=10, index=str(path)).build(grown).search(QUERY, 9)
    assert added_rows == [0, 500]
    np.testing.assert_array_equal(found[0], IVF(n_lists=1).build(GALLERY).search(QUERY, 9)[0])
    assert faiss.read_index(str(path / "index.faiss")).ntotal == 700
    found_again = IVF(n_lists=10, n_probe=10, index=str(path)).build(GALLERY).search(QUERY, 9)
    np.testing.assert_array_equal(found_again, found)
    assert added_rows == [0, 500, 0]  # the last one is n_lists=1


@pytest.mark.parametrize(
    ("search", "gallery", "words"),
    [
        (IVF(n_lists=11), GALLERY, r"a different n_lists \(10, now 11\)"),
        (IVF(n_lists=10, seed=1), GALLERY, r"a different seed \(0, now 1\)"),
        (IVF(n_lists=10, train_rows=600), GALLERY, r"a different train_rows \(null, now 600\)"),
        (IVF(n_lists=10, storage="sq8"), GALLERY, r"storage \(.float32., now .sq8.\)"),
        (
            IVFPQ(n_lists=10),
            GALLERY,
            r"search \(.ivf., now .ivfpq.\)",
        ),
        (
            IVF(n_lists=10),
            GALLERY.astype("f2"),
            r"gallery dtype \(.float32., now .float16.\)",
        ),
        (IVF(n_lists=10), GALLERY[:, :8].copy(), r"a different gallery dim \(16, now 8\)"),
        (IVF(n_lists=10), GALLERY[:600], "first 700 vectors differ"),
        (IVF(n_lists=10), np.roll(GALLERY, 1, axis=0), "first 700 vectors differ"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_index_of_another_gallery_is_refused_with_the_different_key(
    tmp_path, search, gallery, words
):
    path = tmp_path / "index"
    IVF(n_lists=10, index=str(path)).build(GALLERY).search(QUERY, 9)
    before = {file: file.read_bytes() for file in path.iterdir()}
    search.index = str(path)
    with pytest.raises(UserError, match=words):
        search.build(gallery)
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_settings_of_the_search_may_differ(tmp_path):
    path = str(tmp_path / "index")
    IVF(n_lists=10, index=path).build(GALLERY).search(QUERY, 9)
    found = (
        IVF(n_lists=10, n_probe=10, refine=3, block_rows=7, index=path)
        .build(GALLERY)
        .search(QUERY, 9)
    )
    np.testing.assert_array_equal(found[0], IVF(n_lists=1).build(GALLERY).search(QUERY, 9)[0])


def test_indexes_of_the_same_kind_are_not_saved(tmp_path):
    path, train = tmp_path / "index", unit_rows(2, 300)
    index = IVF(n_lists=5, n_probe=5, index=str(path)).build(GALLERY)
    for _ in range(2):
        other = index.settings.build(train)
        for built, gallery in ((index, GALLERY), (other, train)):
            rows = built.search(QUERY, 9)[0]
            np.testing.assert_array_equal(rows, IVF(n_lists=1).build(gallery).search(QUERY, 9)[0])
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
        (lambda path: (path / "index.json").unlink(), "is not a saved index"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path, damage, words):
    path = tmp_path / "index"
    IVF(n_lists=5, index=str(path)).build(GALLERY).search(QUERY, 9)
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        IVF(n_lists=5, index=str(path)).build(GALLERY).search(QUERY, 9)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_of_index_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    IVF(n_lists=5, index=str(one)).build(GALLERY).search(QUERY, 9)
    IVF(n_lists=5, index=str(other)).build(GALLERY[:600]).search(QUERY, 9)
    (one / "index.faiss").write_bytes((other / "index.faiss").read_bytes())
    with pytest.raises(UserError, match=r"does not match index\.json"):
        IVF(n_lists=5, index=str(one)).build(GALLERY).search(QUERY, 9)


def test_an_existing_folder_is_refused_before_building(tmp_path, added_rows):
    (tmp_path / "photo.jpg").touch()
    for place in (tmp_path, tmp_path / "photo.jpg", tmp_path / "photo.jpg" / "index"):
        with pytest.raises(UserError, match=r"photo|is not a saved index"):
            IVF(index=str(place)).build(GALLERY).search(QUERY, 9)
    assert added_rows == []
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_digest_depends_on_the_values_and_their_order():
    expected = saved.digest(GALLERY)
    assert saved.digest(StackedVectors([GALLERY[:3], GALLERY[3:]])) == expected
    assert saved.digest(GALLERY, 500) == saved.digest(GALLERY[:500]) != expected
    assert saved.digest(GALLERY[::-1]) != expected
