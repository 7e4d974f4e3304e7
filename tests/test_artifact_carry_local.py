"""Local features of joined, concatenated, whitened and stacked stores are those of the photos."""

import pickle

import numpy as np
import pytest
from test_artifact_local_features import assert_same, some_features

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.artifact.stacked import StackedStores
from landmark.artifact.whitening import Whitening
from landmark.cli.store import store as run
from landmark.error import UserError

IDS = {"one": "abc", "two": "de", "three": "f", "again": "cab"}


def photo(name, background=False):
    """Return the features of the photo `name`: a few, or none."""
    seed = ord(name) - 97
    return some_features(seed, (3 * seed) % 5, background=background)


def write(path, ids=None, local=("rootsift",), top_k=5, seed=0, pool=None, recorded=None):
    ids = list(ids or IDS[path.name])
    vectors = np.random.default_rng(seed).standard_normal((len(ids), 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    DescriptorStore.write(path, ids, vectors, embedder="e")
    store = DescriptorStore.open(path)
    for name in local:
        settings = {"local": {"top_k": top_k}, "pool": recorded or pool}
        with LocalFeatureWriter.writing(
            store, name, 8, background=pool is not None, **settings
        ) as writer:
            writer.append_all([photo(one, pool is not None) for one in ids])
            if pool is not None:
                (writer.folder / "pool.npz").write_text(pool)
    return store


def check(features, ids, background=False):
    assert len(features) == len(ids)
    for row, name in enumerate(ids):
        assert_same(features[row], photo(name, background))


def test_joined_stores_have_the_local_features_that_all_have(tmp_path):
    write(tmp_path / "one", local=("rootsift", "xfeat"))
    write(tmp_path / "two", local=("rootsift", "aliked"))
    write(tmp_path / "three")
    line = run(["join", *(str(tmp_path / name) for name in ("o", "one", "two", "three"))])
    assert line == (
        f"wrote {tmp_path / 'o'}: 6 photos of 3 stores, with local features rootsift; left out: "
        "local features aliked, xfeat, which some stores lack or have with other settings"
    )
    joined = DescriptorStore.open(tmp_path / "o")
    check(joined.local("rootsift"), joined.ids)
    assert (
        joined.local("rootsift").settings
        == DescriptorStore.open(tmp_path / "one").local("rootsift").settings
    )
    assert [path.name for path in (tmp_path / "o" / "local").iterdir()] == ["rootsift"]


@pytest.mark.parametrize("changed", [{"top_k": 6}, {"pool": "p"}, {"local": ()}])
def test_local_features_of_other_settings_are_not_joined(tmp_path, changed):
    write(tmp_path / "one")
    write(tmp_path / "two", **changed)
    line = run(["join", *(str(tmp_path / name) for name in ("o", "one", "two"))])
    assert "left out: local features rootsift, which some" in line
    assert not (tmp_path / "o" / "local").exists()


def test_local_features_of_different_pools_are_not_joined(tmp_path):
    for name, pool in (("one", "p"), ("two", "q")):
        write(tmp_path / name, pool=pool, recorded="own")
    line = run(["join", *(str(tmp_path / name) for name in ("o", "one", "two"))])
    assert "left out: local features rootsift" in line
    stores = [DescriptorStore.open(tmp_path / name) for name in ("one", "two")]
    check(StackedStores(stores).local("rootsift"), "abcde", background=True)


def test_a_joined_store_has_the_pool(tmp_path):
    for name, recorded in (("one", "own"), ("two", "digest")):
        write(tmp_path / name, pool="p", recorded=recorded)
    run(["join", *(str(tmp_path / name) for name in ("o", "one", "two"))])
    features = DescriptorStore.open(tmp_path / "o").local("rootsift")
    check(features, "abcde", background=True)
    assert (features.path / "pool.npz").read_text() == "p"


def test_a_whitened_store_shares_the_files_of_its_local_features(tmp_path):
    store = write(tmp_path / "one", pool="p")
    Whitening(np.full(4, 0.1), np.eye(4)[:, :3], {"embedder": "e"}).write(tmp_path / "w")
    line = run(["apply", *(str(tmp_path / name) for name in ("w", "one", "o"))])
    assert line.endswith("3 photos, 4 → 3-d, with local features rootsift")
    features = DescriptorStore.open(tmp_path / "o").local("rootsift")
    check(features, "abc", background=True)
    for file in features.path.iterdir():
        assert file.samefile(store.local("rootsift").path / file.name)


def test_an_ensemble_keeps_the_local_features_of_each_name_in_its_own_order(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "again", local=("rootsift", "xfeat"), seed=1, pool="p")
    line = run(["ensemble", *(str(tmp_path / name) for name in ("o", "one", "again"))])
    assert line.endswith("8-d of 2 stores, with local features rootsift, xfeat")
    store = DescriptorStore.open(tmp_path / "o")
    check(store.local("rootsift"), "abc")
    check(store.local("xfeat"), "abc", background=True)
    assert (store.path / "local" / "xfeat" / "pool.npz").read_text() == "p"


def test_info_lists_local_features(tmp_path):
    store = write(tmp_path / "one", local=("rootsift", "xfeat"))
    lines = run(["info", str(tmp_path / "one")]).splitlines()[-2:]
    count = sum(len(photo(name)) for name in "abc")
    size = sum(file.stat().st_size for file in store.local("xfeat").path.iterdir()) / 1e6
    for line, name in zip(lines, ("rootsift", "xfeat"), strict=True):
        assert line.startswith(
            f"local       {name}: {count} features, {count / 3:.1f} a photo, {size:.1f} MB, "
        )
        assert '"top_k": 5' in line


@pytest.mark.parametrize("damaged", ["keypoints.npy", "meta.json"])
def test_damaged_local_features_stop_a_join_and_leave_no_store(tmp_path, damaged):
    write(tmp_path / "one")
    file = write(tmp_path / "two").local("rootsift").path / damaged
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="is damaged"):
        run(["join", *(str(tmp_path / name) for name in ("o", "one", "two"))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_stacked_local_features_number_rows_through_all_stores(tmp_path):
    stacked = StackedStores([write(tmp_path / name) for name in ("one", "two", "three")])
    features = stacked.local("rootsift")
    check(features, "abcdef")
    assert features.settings["local"] == {"top_k": 5}
    assert [len(one) for one in features] == [len(photo(name)) for name in "abcdef"]
    text = pickle.dumps(features)
    assert len(text) < 2000
    check(pickle.loads(text), "abcdef")
    for row in (-1, 6):
        with pytest.raises(IndexError, match=f"row {row} is outside the 6 photos"):
            features[row]


def test_stacked_local_features_of_two_kinds_are_refused(tmp_path):
    stores = [write(tmp_path / "one"), write(tmp_path / "two", top_k=6)]
    with pytest.raises(
        UserError, match=r"two/local/rootsift was made with a different local\.top_k \(6, now 5\)"
    ):
        StackedStores(stores).local("rootsift")
    stores = [stores[0], write(tmp_path / "three", local=("xfeat",))]
    with pytest.raises(UserError, match=r"three has no local features 'rootsift', only xfeat"):
        StackedStores(stores).local("rootsift")
