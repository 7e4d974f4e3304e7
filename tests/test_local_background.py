"""The background pool equals a naive loop, and leaves out what may show the same place."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.local import BackgroundPool, LocalFeatures, pool_rows
from landmark.verify import Verifier

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
DTYPES = ["uint8", "float16"]


def photo(descriptors, background=None):
    count = len(descriptors)
    rng = np.random.default_rng(count)
    return LocalFeatures(
        rng.uniform(0, 60, (count, 2)).astype(np.float32),
        descriptors,
        np.ones(count, np.float32),
        (64, 64),
        scales=np.ones(count, np.float32),
        angles=np.zeros(count, np.float32),
        background=background,
    )


def drawn(rng, count, dim=8, dtype="uint8"):
    if dtype == "uint8":
        return photo(rng.integers(0, 256, (count, dim)).astype(np.uint8))
    return photo(rng.standard_normal((count, dim)).astype(np.float16))


def unit(rows):
    exact = np.asarray(rows, np.float64)
    return exact / np.linalg.norm(exact, axis=-1, keepdims=True)


def single(row):
    """A photo whose only feature the pool keeps."""
    return photo(np.asarray([row], np.float16))


@few
@given(seeds, st.sampled_from(DTYPES), st.integers(1, 20))
def test_similarity_is_the_best_cosine_with_the_pool(seed, dtype, count):
    rng = np.random.default_rng(seed)
    photos = [drawn(rng, 1, dtype=dtype) for _ in range(5)]
    features = drawn(rng, count, dtype=dtype)
    naive = [
        max(float(x @ unit(other.descriptors[0])) for other in photos)
        for x in unit(features.descriptors)
    ]
    similarity = BackgroundPool(photos).similarity(features)
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, naive, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_photo_itself_is_left_out(dtype):
    rng = np.random.default_rng(0)
    photos = [drawn(rng, 40, dtype=dtype) for _ in range(4)]
    similarity = BackgroundPool(photos).similarity(photos[1])
    without = BackgroundPool([photos[0], photos[2], photos[3]])
    np.testing.assert_array_equal(similarity, without.similarity(photos[1]))


def test_photos_of_the_same_landmark_are_left_out():
    pool = BackgroundPool([single([1, 0, 0]), single([0, 1, 0]), single([0, 0, 1])], ["a", "b", ""])
    features = photo(np.array([[10, 8, 4]], np.float16))
    x = unit([10, 8, 4])
    assert pool.similarity(features) == pytest.approx(x[0], abs=1e-3)
    assert pool.similarity(features, "a") == pytest.approx(x[1], abs=1e-3)
    assert pool.similarity(features, "") == pytest.approx(x[0], abs=1e-3)


@pytest.mark.parametrize(("landmark_id", "left_out"), [(None, 2), ("a", 1), ("other", 1)])
def test_the_globally_nearest_photos_are_left_out(landmark_id, left_out):
    """Of 40 photos 2 where the landmark is unknown, and 1 of other landmarks where it is known."""
    angles = np.linspace(0.1, 1.4, 40)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ids = ["a", "a"] + ["b"] * 38
    pool = BackgroundPool([single(row) for row in circle], ids, circle)
    similarity = pool.similarity(single([1, 0]), landmark_id, np.array([1.0, 0.0]))
    first = left_out + 2 * (landmark_id == "a")
    assert similarity == pytest.approx(circle[first, 0], abs=1e-3)


def test_a_pool_is_written_and_read(tmp_path):
    rng = np.random.default_rng(0)
    photos = [drawn(rng, count) for count in (30, 0, 7)]
    pool = BackgroundPool(photos, ["a", "", "é"], unit(rng.standard_normal((3, 5))), top_k=10)
    pool.save(tmp_path / "pool.npz")
    opened = BackgroundPool.open(tmp_path / "pool.npz")
    assert opened.digest == pool.digest == pickle.loads(pickle.dumps(pool)).digest
    features = drawn(rng, 9)
    for arguments in [(), ("a",), ("é", unit(np.ones(5))), (None, unit(np.ones(5)))]:
        np.testing.assert_array_equal(
            opened.similarity(features, *arguments), pool.similarity(features, *arguments)
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool.npz"]


def test_the_digest_changes_with_everything_that_changes_the_result():
    rng = np.random.default_rng(0)
    photos = [drawn(rng, 30) for _ in range(3)]
    vectors = unit(rng.standard_normal((3, 5)))
    digests = {
        BackgroundPool(*arguments, **keywords).digest
        for arguments, keywords in [
            ((photos,), {}),
            ((photos[::-1],), {}),
            ((photos, ["a", "b", "c"]), {}),
            ((photos, ["a", "b", "c"], vectors), {}),
            ((photos,), {"top_k": 5}),
            ((photos,), {"top_k": 5, "seed": 1}),
        ]
    }
    assert len(digests) == 6
    assert BackgroundPool(photos).digest == BackgroundPool(photos).digest


def test_at_most_top_k_features_of_each_photo_are_kept(tmp_path):
    photos = [drawn(np.random.default_rng(0), count) for count in (9, 40)]
    BackgroundPool(photos, top_k=12).save(tmp_path / "pool.npz")
    with np.load(tmp_path / "pool.npz") as file:
        assert np.diff(file["offsets"]).tolist() == [9, 12]
        kept = {row.tobytes() for row in file["descriptors"][9:]}
    assert len(kept) == 12
    assert kept <= {row.tobytes() for row in photos[1].descriptors}


def test_the_rows_of_a_pool_are_seeded_and_distinct():
    rows = pool_rows(1000)
    assert len(set(rows.tolist())) == 96
    assert rows.tolist() == sorted(rows.tolist()) == pool_rows(1000).tolist()
    assert rows.tolist() != pool_rows(1000, seed=1).tolist()
    assert pool_rows(5).tolist() == [0, 1, 2, 3, 4]


def test_the_pool_is_the_rival_of_the_ratio_test():
    rng = np.random.default_rng(0)
    rows = rng.integers(40, 216, (24, 32))
    one, other = (
        photo((rows + rng.integers(-30, 31, rows.shape)).astype(np.uint8)) for _ in range(2)
    )
    common = rows[:12] + rng.integers(-9, 10, (12, 32))
    pool = BackgroundPool([photo(row[None].astype(np.uint8)) for row in common])
    one, other = (photo(each.descriptors, pool.similarity(each)) for each in (one, other))
    assert len(Verifier(ratio=1.0)(one, other).matches) == 24
    result = Verifier(ratio=1.0, rival="background")(one, other)
    assert result.matches.tolist() == [[row, row] for row in range(12, 24)]


def test_a_photo_without_features_has_no_similarities():
    pool = BackgroundPool([single([1, 0])])
    assert pool.similarity(photo(np.empty((0, 2), np.float16))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BackgroundPool([]), "none of the 0 photos of the pool has local features"),
        (
            lambda: BackgroundPool([single([1, 0]), single([1, 0, 0])]),
            "2 dimensions in float16 and 3 dimensions in float16",
        ),
        (lambda: BackgroundPool([single([1, 0])], top_k=0), "top_k=0 is not valid"),
        (
            lambda: BackgroundPool([single([1, 0])]).similarity(single([1, 0, 0])),
            "local features of 3 dimensions cannot be compared with a pool of 2",
        ),
        (
            lambda: BackgroundPool([single([1, 0])], ["a"]).similarity(single([0, 1]), "a"),
            "none of the 1 photos of the pool shows another place",
        ),
        (
            lambda: BackgroundPool([single([1, 0])], None, np.ones((1, 3))).similarity(
                single([0, 1]), None, np.ones(2)
            ),
            "global descriptors of 3 dimensions, the photo 2",
        ),
        (lambda: BackgroundPool.open("missing.npz"), "missing.npz is not a background pool"),
    ],
)
def test_bad_input_gives_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "text", "array", "offsets", "later"])
def test_a_damaged_file_gives_one_line(tmp_path, damage):
    file = tmp_path / "pool.npz"
    BackgroundPool([single([1, 0]), single([0, 1])]).save(file)
    with np.load(file) as stored:
        arrays = dict(stored)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "text":
        file.write_text("text")
    elif damage == "array":
        np.savez(file, schema=1)
    elif damage == "offsets":
        np.savez(file, **{**arrays, "offsets": np.array([0, 1, 7])})
    else:
        np.savez(file, **{**arrays, "schema": 99})
    with pytest.raises(UserError, match=r"pool.npz (is damaged|was written by a later)") as error:
        BackgroundPool.open(file)
    assert "\n" not in str(error.value)
