"""Joined stores and ensembles equal a plain computation in memory."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact import ensemble as ensemble_module
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.ensemble import ensemble
from landmark.artifact.join import join
from landmark.error import UserError
from landmark.rerank.stores import Stores

MADE = {"embedder": "e", "whitening": None, "scales": [1.0], "split": "train"}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path, ids, dim=4, seed=0, dtype="float32", landmarks=None, **meta):
    vectors = unit(np.random.default_rng(seed).standard_normal((len(ids), dim))).astype(dtype)
    DescriptorStore.write(path, ids, vectors, landmarks, **{**MADE, "table": f"t{seed}", **meta})
    return DescriptorStore.open(path)


def test_joined_stores_are_concatenated(tmp_path):
    one = write(tmp_path / "1", ["a", "b"], seed=1, landmarks=["x", "y"])
    two = write(tmp_path / "2", ["c"], seed=2, split="gallery")
    three = write(tmp_path / "3", ["e", "d"], seed=3, table=["t3", "t4"], landmarks=["x", None])
    pd.DataFrame({"id": ["bad"], "path": ["bad.jpg"]}).to_csv(two.path / "skipped.csv", index=False)
    assert join(tmp_path / "o", [store.path for store in (one, two, three)]) == 5
    joined = DescriptorStore.open(tmp_path / "o")
    assert joined.ids.tolist() == ["a", "b", "c", "e", "d"]
    assert joined.landmark_ids.tolist() == ["x", "y", "", "x", ""]
    expected = np.concatenate([one.vectors, two.vectors, three.vectors])
    np.testing.assert_array_equal(joined.vectors, expected)
    assert joined.meta["table"] == ["t1", "t2", "t3", "t4"]
    assert joined.meta["split"] is None
    assert joined.skipped["id"].tolist() == ["bad"]
    assert {key: joined.meta[key] for key in ("embedder", "whitening", "scales")} == {
        "embedder": "e",
        "whitening": None,
        "scales": [1.0],
    }
    Stores.open(tmp_path / "o", one.path)


def test_a_store_of_an_earlier_version_is_joined_as_the_mean_of_its_scales(tmp_path):
    write(tmp_path / "1", ["a"])
    write(tmp_path / "2", ["b"], combine="mean")
    assert join(tmp_path / "o", [tmp_path / "1", tmp_path / "2"]) == 2
    assert join(tmp_path / "p", [tmp_path / "2", tmp_path / "1"]) == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"embedder": "f"}, r'a different embedder \("f", now "e"\)'),
        ({"whitening": "w"}, "a different whitening"),
        ({"scales": [1.0, 2.0]}, r"a different scales \(\[1.0, 2.0\], now \[1.0\]\)"),
        ({"flip": True}, "a different flip"),
        ({"combine": "max"}, r'a different combine \("max", now "mean"\)'),
        ({"dtype": "float16"}, "a different dtype"),
        ({"ids": ["b", "z"]}, r"photo 'b' is also in .*1 \(1 such photos"),
    ],
)
def test_stores_with_different_settings_are_not_joined(tmp_path, other, words):
    write(tmp_path / "1", ["a", "b"])
    write(tmp_path / "2", **{"ids": ["c", "d"], **other})
    with pytest.raises(UserError, match=words) as caught:
        join(tmp_path / "o", [tmp_path / "1", tmp_path / "2"])
    assert str(caught.value).startswith(str(tmp_path / "2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_an_existing_store_is_kept(tmp_path):
    write(tmp_path / "1", ["a"])
    write(tmp_path / "2", ["b"])
    with pytest.raises(UserError, match="already exists"):
        join(tmp_path / "1", [tmp_path / "1", tmp_path / "2"])
    join(tmp_path / "1", [tmp_path / "1", tmp_path / "2"], overwrite=True)
    assert DescriptorStore.open(tmp_path / "1").ids.tolist() == ["a", "b"]
    with pytest.raises(UserError, match="needs two or more stores"):
        join(tmp_path / "o", [tmp_path / "1"])


@settings(max_examples=15, deadline=None)
@given(
    dims=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
    half=st.booleans(),
)
def test_an_ensemble_is_the_weighted_concatenation(tmp_path_factory, dims, count, seed, half):
    folder = tmp_path_factory.mktemp("ensemble")
    random = np.random.default_rng(seed)
    ids, weights = [f"p{i}" for i in range(count)], random.uniform(0.1, 2, len(dims))
    parts, orders = [], []
    for number, dim in enumerate(dims):
        order = random.permutation(count)
        vectors = unit(random.standard_normal((count, dim))).astype("float16" if half else "f4")
        stored = [ids[row] for row in order]
        landmarks = [f"l{row}" for row in order] if number == 1 else None
        DescriptorStore.write(folder / str(number), stored, vectors[order], landmarks, embedder="e")
        parts.append(vectors.astype(float))
        orders.append(order)
    paths = [folder / str(number) for number in range(len(dims))]
    assert ensemble(folder / "o", paths, weights.tolist()) == sum(dims)
    made = DescriptorStore.open(folder / "o")
    expected = np.array(
        [
            np.concatenate(
                [w * p[row] / np.linalg.norm(p[row]) for w, p in zip(weights, parts, strict=True)]
            )
            for row in orders[0]
        ]
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert made.ids.tolist() == [ids[row] for row in orders[0]]
    np.testing.assert_allclose(made.vectors, expected, atol=1e-3 if half else 1e-6)
    assert made.dtype == ("float16" if half else "float32")
    assert (made.landmark_ids is None) == (len(dims) < 2)
    assert len(dims) < 2 or made.landmark_ids.tolist() == [f"l{row}" for row in orders[0]]


def test_an_ensemble_does_not_depend_on_the_block_size(tmp_path, monkeypatch):
    ids = [f"p{i}" for i in range(11)]
    stores = [write(tmp_path / str(seed), ids, seed=seed) for seed in range(2)]
    paths = [store.path for store in stores]
    ensemble(tmp_path / "one-block", paths)
    monkeypatch.setattr(ensemble_module, "_BLOCK_ROWS", 3)
    ensemble(tmp_path / "blocks", paths)
    one, several = (DescriptorStore.open(tmp_path / name) for name in ("one-block", "blocks"))
    np.testing.assert_array_equal(one.vectors, several.vectors)


def test_the_recipes_six_models_give_3072_dimensions(tmp_path):
    for seed in range(6):
        write(tmp_path / f"{seed}", ["a", "b"], dim=512, seed=seed, embedder=f"e{seed}")
    paths = [str(tmp_path / f"{seed}") for seed in range(6)]
    assert ensemble(tmp_path / "o", paths, [0.5, 1, 1, 0.5, 1, 1]) == 3072
    made = DescriptorStore.open(tmp_path / "o")
    lengths = np.linalg.norm(made.vectors.reshape(2, 6, 512), axis=2)
    np.testing.assert_allclose(lengths / lengths[:, 1:2], [[0.5, 1, 1, 0.5, 1, 1]] * 2, rtol=1e-5)
    assert [member["embedder"] for member in made.meta["members"]] == [f"e{i}" for i in range(6)]


def test_queries_and_gallery_must_be_the_same_ensemble(tmp_path):
    for name in ("query", "gallery"):
        for seed in range(2):
            write(tmp_path / f"{name}{seed}", ["a", "b"], seed=seed, embedder=f"e{seed}")
        paths = [tmp_path / f"{name}{seed}" for seed in range(2)]
        ensemble(tmp_path / name, paths, [1.0, 0.5])
        ensemble(tmp_path / f"{name}-equal", paths)
        ensemble(tmp_path / f"{name}-turned", paths[::-1], [0.5, 1.0])
    Stores.open(tmp_path / "query", tmp_path / "gallery")
    for name in ("query-equal", "query-turned"):
        with pytest.raises(UserError, match="has embedder"):
            Stores.open(tmp_path / name, tmp_path / "gallery")
    write(tmp_path / "unknown", ["a", "b"], embedder=None)
    ensemble(tmp_path / "unknown-too", [tmp_path / "unknown", tmp_path / "query1"])
    assert DescriptorStore.open(tmp_path / "unknown-too").meta["embedder"] is None


@pytest.mark.parametrize(
    ("ids", "landmarks", "weights", "words"),
    [
        ("ab", None, [1.0], "1 weights for 2 stores"),
        ("ab", None, [1.0, 0.0], "Pass positive numbers"),
        ("ab", None, [1.0, float("nan")], "Pass positive numbers"),
        ("ac", None, None, r"2 lacks 1 photos of .*1, such as 'b'"),
        ("abc", None, None, r"1 lacks 1 photos of .*2, such as 'c'"),
        ("ba", ["x", "x"], None, r"2: photo 'b' has landmark x, and y in another store"),
    ],
)
def test_an_inconsistent_ensemble_is_refused(tmp_path, ids, landmarks, weights, words):
    write(tmp_path / "1", ["a", "b"], landmarks=["x", "y"])
    write(tmp_path / "2", list(ids), landmarks=landmarks)
    with pytest.raises(UserError, match=words):
        ensemble(tmp_path / "o", [tmp_path / "1", tmp_path / "2"], weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_landmark_that_one_store_lacks_comes_from_another(tmp_path):
    ids = ["a", "b", "c", "d"]
    write(tmp_path / "one", ids, landmarks=["x", "", "", "y"])
    write(tmp_path / "two", ids, seed=1, landmarks=["", "z", "", "y"])
    write(tmp_path / "three", ids, seed=2, landmarks=[None, "z", None, None])
    write(tmp_path / "four", ids, seed=3)
    ensemble(tmp_path / "out", [tmp_path / name for name in ("one", "two", "three", "four")])
    assert DescriptorStore.open(tmp_path / "out").landmark_ids.tolist() == ["x", "z", "", "y"]
    write(tmp_path / "other", ids, seed=4, landmarks=["", "w", "", ""])
    paths = [tmp_path / name for name in ("one", "two", "other")]
    with pytest.raises(UserError, match="'b' has landmark w, and z in another store"):
        ensemble(tmp_path / "contradiction", paths)


@pytest.mark.parametrize("dims", [(4, 3), (4, 8), (1, 2)])
def test_stores_of_other_dimensions_are_one_line(tmp_path, dims):
    for name, dim in zip("ab", dims, strict=True):
        write(tmp_path / name, [f"{name}1", f"{name}2"], dim=dim)
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(UserError, match=f"b has {dims[1]} dimensions and .*a has {dims[0]}"):
        join(tmp_path / "out", paths)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"b has {dims[1]} dimensions"):
        Stores.open(tmp_path / "a", paths)


@pytest.mark.parametrize("key", ["embedder", "whitening"])
def test_a_mixed_gallery_is_found_behind_a_store_that_records_nothing(tmp_path, key):
    write(tmp_path / "unknown", ["a"], embedder=None)
    write(tmp_path / "one", ["b"], **{key: "1"})
    write(tmp_path / "two", ["c"], **{key: "2"})
    paths = [tmp_path / name for name in ("unknown", "one", "two")]
    with pytest.raises(UserError, match=f"{key} 2, and .*one has 1"):
        Stores.open(tmp_path / "unknown", paths)
    with pytest.raises(UserError, match=key):
        join(tmp_path / "out", paths[1:])
    assert len(Stores.open(tmp_path / "unknown", paths, allow_mixed=True).gallery) == 3
