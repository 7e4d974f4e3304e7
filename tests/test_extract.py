"""Descriptors equal those of single photos; bad photos are skipped; stores are extended."""

import numpy as np
import pandas as pd
import pytest
import torch
from extraction_world import (
    DIM,
    IMAGE,
    PHOTOS,
    UnreadablePhotos,
    extract,
    files_of,
    plan,
    table_of,
    write_embedder_into,
    write_world,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore, id_rows, meta_text
from landmark.artifact.partial_store import PartialStore, recorded_settings
from landmark.artifact.whitening import Whitening
from landmark.error import UserError
from landmark.extract import extraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.store import write_store
from landmark.image.format import ImageFormat
from landmark.model.persist import load_embedder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def select_rows(table, rows):
    """Return some rows of a table."""
    return type(table)(table.root, table.rows.iloc[list(rows)].reset_index(drop=True))


def test_descriptors_equal_those_of_single_photos(world):
    table, image_format = table_of(world / "photos"), ImageFormat(**IMAGE)
    embedder, _ = load_embedder(world / "embedder")
    store = DescriptorStore.open(world / "complete")
    assert store.ids.tolist() == table.rows["id"].tolist()
    assert store.landmark_ids.tolist() == table.rows["landmark_id"].tolist()
    groups = table.groups(image_format)
    assert len(set(groups)) == 5
    for row, path in enumerate(table.rows["path"]):
        sizes = [image_format.scaled_size(int(groups[row]), scale) for scale in (1.0, 1.5)]
        with torch.no_grad():
            total = sum(
                embedder(image[None])
                for image in image_format.images(str(table.root / path), sizes, None)
            )[0]
        expected = (total / total.norm()).numpy()
        np.testing.assert_allclose(store.vectors[row], expected, atol=1e-5)
    apart = np.linalg.norm(store.vectors[:, None] - store.vectors, axis=2)
    assert apart[~np.eye(PHOTOS, dtype=bool)].min() > 1e-3  # no two photos are confused


def test_the_maximum_of_the_scales_has_unit_length_at_each(world, tmp_path):
    table, image_format = table_of(world / "photos"), ImageFormat(**IMAGE)
    embedder, _ = load_embedder(world / "embedder")
    method = MultiScale((1.0, 1.5), flip=True, combine="max")
    store = extract(world, tmp_path / "s", method=method)
    assert store.meta["combine"] == "max"
    groups = table.groups(image_format)
    for row, path in enumerate(table.rows["path"][:8]):
        sizes = [image_format.scaled_size(int(groups[row]), scale) for scale in (1.0, 1.5)]
        largest = np.full(DIM, -np.inf)
        for image in image_format.images(str(table.root / path), sizes, None):
            for view in (image, image.flip(-1)):
                with torch.no_grad():
                    embedding = embedder(view[None])[0].double().numpy()
                for place, value in enumerate(embedding / np.linalg.norm(embedding)):
                    largest[place] = max(largest[place], value)
        expected = largest / np.linalg.norm(largest)
        np.testing.assert_allclose(store.vectors[row], expected, atol=1e-5)
    assert np.abs(store.vectors - DescriptorStore.open(world / "complete").vectors).max() > 0.01


def test_descriptors_that_are_not_finite_are_refused(world, tmp_path):
    broken = write_embedder_into(tmp_path / "broken")
    made = plan(world, tmp_path / "s", embedder=broken)
    with torch.no_grad():
        made.embedder.neck[0].weight[0] = torch.nan
    with pytest.raises(UserError, match=r"000\.jpg: the descriptor has length nan"):
        write_store(made)
    assert not (tmp_path / "s").exists()


BAD = frozenset(["000", "012", "013", "019"])


@pytest.fixture
def unreadable(monkeypatch):
    """Make four photos unreadable."""
    monkeypatch.setattr(UnreadablePhotos, "bad", BAD)
    monkeypatch.setattr(extraction, "ScaledPhotoDataset", UnreadablePhotos)


def test_unreadable_photos_are_skipped_and_no_row_shifts(world, tmp_path, unreadable, capsys):
    store, complete = extract(world, tmp_path / "s"), DescriptorStore.open(world / "complete")
    rows = [row for row, photo in enumerate(complete.ids) if photo not in BAD]
    assert store.ids.tolist() == complete.ids[rows].tolist()
    assert store.landmark_ids.tolist() == complete.landmark_ids[rows].tolist()
    # The grey photos are in the same batches, so that rounding is the same.
    np.testing.assert_array_equal(store.vectors, complete.vectors[rows])
    assert "Skipped 4 photos" in capsys.readouterr().out
    skipped = pd.read_csv(tmp_path / "s" / "skipped.csv", dtype=str)
    paths = table_of(world / "photos").rows.set_index("id")["path"]
    assert skipped["id"].tolist() == sorted(BAD)
    assert skipped["path"].tolist() == paths[sorted(BAD)].tolist()
    assert store.skipped.equals(skipped)


def test_a_store_without_readable_photos_is_not_written(world, tmp_path, unreadable):
    table = table_of(world / "photos")
    bad = select_rows(table, np.flatnonzero(table.rows["id"].isin(BAD)))
    with pytest.raises(UserError, match="none of the 4 photos can be read"):
        extract(world, tmp_path / "s", table=bad)
    assert list(tmp_path.iterdir()) == []


def test_photos_that_became_readable_are_added(world, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr(UnreadablePhotos, "bad", BAD)
        context.setattr(extraction, "ScaledPhotoDataset", UnreadablePhotos)
        extract(world, tmp_path / "s")
        context.setattr(UnreadablePhotos, "bad", frozenset(["012"]))
        store = extract(world, tmp_path / "s", add=True)
    assert store.ids[-3:].tolist() == ["000", "013", "019"]
    assert store.skipped["id"].tolist() == ["012"]
    assert extract(world, tmp_path / "s", add=True).ids[-1] == "012"
    assert not (tmp_path / "s" / "skipped.csv").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_missing_photos_are_extracted(world, tmp_path, monkeypatch, capsys, dtype):
    table = table_of(world / "photos")
    old_rows, new_rows = [4, 2, 18], [0, 1, 3, *range(5, 18), 19]
    old = extract(world, tmp_path / "s", table=select_rows(table, old_rows), dtype=dtype)
    old_vectors, old_digest = np.array(old.vectors), old.meta["table"]
    described = []
    add = PartialStore.add
    monkeypatch.setattr(
        PartialStore,
        "add",
        lambda work, rows, vectors: described.extend(rows) or add(work, rows, vectors),
    )
    store = extract(world, tmp_path / "s", add=True, dtype=dtype)
    assert len(described) == len(new_rows)
    assert "Adding 17 photos to the 3 of" in capsys.readouterr().out
    ids = table.rows["id"].to_numpy(dtype=str)
    assert store.ids.tolist() == ids[[*old_rows, *new_rows]].tolist()
    landmarks = table.rows["landmark_id"].to_numpy(dtype=str)
    assert store.landmark_ids.tolist() == landmarks[[*old_rows, *new_rows]].tolist()
    np.testing.assert_array_equal(store.vectors[:3], old_vectors)
    complete = DescriptorStore.open(world / "complete").vectors
    np.testing.assert_allclose(store.vectors[3:], complete[new_rows], atol=1e-3)
    assert store.meta["table"] == [old_digest, table.digest]
    before = files_of(tmp_path / "s")
    extract(world, tmp_path / "s", add=True, dtype=dtype)
    assert "s is up to date (all photos present); nothing to do." in capsys.readouterr().out
    assert files_of(tmp_path / "s") == before


def test_photos_that_are_not_in_the_table_are_kept(world, tmp_path, capsys):
    table = table_of(world / "photos")
    extract(world, tmp_path / "s", table=select_rows(table, range(10)))
    store = extract(world, tmp_path / "s", add=True, table=select_rows(table, range(6, 14)))
    assert store.ids.tolist() == table.rows["id"][:14].tolist()
    assert "6 of its photos are not in the table; they are kept." in capsys.readouterr().out


def test_adding_to_a_missing_store_writes_it(world, tmp_path):
    extract(world, tmp_path / "s", add=True)
    assert files_of(tmp_path / "s") == files_of(world / "complete")


def test_other_settings_and_other_landmarks_are_not_added(world, tmp_path):
    table = table_of(world / "photos")
    extract(world, tmp_path / "s", table=select_rows(table, range(10)))
    before = files_of(tmp_path / "s")
    with pytest.raises(UserError, match="a different dtype"):
        extract(world, tmp_path / "s", add=True, dtype="float16")
    moved = select_rows(table, range(PHOTOS))
    moved.rows.loc[[3, 4], "landmark_id"] = "other"
    with pytest.raises(UserError, match=r"'003' has landmark 3, and other in .* \(2 such"):
        extract(world, tmp_path / "s", add=True, table=moved)
    assert files_of(tmp_path / "s") == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_descriptors_are_whitened_last(world, tmp_path):
    random = np.random.default_rng(0)
    whitening = Whitening(
        random.standard_normal(DIM) / 9, random.standard_normal((DIM, 5)), {"method": "pca"}
    )
    store = extract(world, tmp_path / "s", whitening=whitening)
    complete = DescriptorStore.open(world / "complete")
    projected = (complete.vectors - whitening.mean) @ whitening.projection
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(store.vectors, expected, atol=1e-6)
    assert store.meta["whitening"] == whitening.digest


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_rows_are_written_in_place_in_any_order(tmp_path_factory, data):
    count = data.draw(st.integers(1, 12))
    skipped = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    order = data.draw(st.permutations(range(count)))
    folder = tmp_path_factory.mktemp("work") / ".s.partial"
    folder.mkdir()
    output = folder.parent / "s"
    vectors = np.eye(16, dtype=np.float32)[:count]
    assert recorded_settings(folder) is None
    PartialStore.create(folder, output, count, 16, "float32", {"scales": (1,)})
    for start in range(0, count, 3):
        assert recorded_settings(folder) == {"scales": [1]}
        work = PartialStore(folder)
        rows = np.array(order[start : start + 3])
        assert len(work.remaining([rows])) == 1
        signed = np.array([-row - 1 if row in skipped else row for row in rows])
        work.add(signed, vectors[rows])
        assert work.done == start
        work.save()
        assert work.remaining([rows]) == []
    assert set(work.skipped) == skipped
    names = np.array([f"p{row}" for row in range(count)])
    listed = pd.DataFrame({"id": names[work.skipped], "path": names[work.skipped]})
    work.finish(output, id_rows(output, names, None), meta_text("float32", {}), listed)
    store = DescriptorStore.open(output)
    kept = [row for row in range(count) if row not in skipped]
    assert store.ids.tolist() == names[kept].tolist()
    np.testing.assert_array_equal(store.vectors, vectors[kept])
    assert not folder.exists()


def test_a_partial_store_with_missing_rows_is_not_finished(tmp_path):
    folder = tmp_path / ".s.partial"
    folder.mkdir()
    work = PartialStore.create(folder, tmp_path / "s", 2, 4, "float32", {})
    work.add(np.array([1]), np.eye(4, dtype=np.float32)[:1])
    work.save()
    nothing = pd.DataFrame({"id": [], "path": []})
    with pytest.raises(RuntimeError, match="1 rows have no descriptor"):
        work.finish(tmp_path / "s", id_rows("s", ["a", "b"], None), "{}", nothing)
    assert not (tmp_path / "s").exists()
    with pytest.raises(UserError, match="does not contain a stopped extraction"):
        PartialStore(tmp_path)
