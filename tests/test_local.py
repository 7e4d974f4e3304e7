"""RootSIFT agrees with OpenCV's SIFT and a naive loop, and is the same each time."""

import json
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.error import UserError
from landmark.local import LocalFeatures, RootSIFT


def drawn(seed=0, width=320, height=240, corners=40):
    """A photo with rectangles of all sizes, slightly blurred."""
    import cv2

    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), 128, np.uint8)
    for _ in range(corners):
        x, y = rng.integers(0, (width, height))
        w, h = rng.integers(6, 60, 2)
        photo[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return cv2.GaussianBlur(photo, (0, 0), 0.8)


def arrays(features):
    names = ("keypoints", "descriptors", "scores", "scales", "angles")
    return {name: getattr(features, name) for name in names}


def assert_equal(a, b):
    for name, value in arrays(a).items():
        np.testing.assert_array_equal(value, arrays(b)[name], err_msg=name)
    assert a.size == b.size


def unit(descriptors):
    exact = descriptors.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)


def naive_rootsift(photo, top_k):
    """Each of OpenCV's keypoints: response, position, size and angle, and 128 numbers."""
    import cv2

    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    found = []
    sift = cv2.SIFT.create(enable_precise_upscale=True)
    for keypoint, descriptor in zip(*sift.detectAndCompute(grey, None), strict=True):
        total = sum(map(float, descriptor))
        root = [(float(value) / total) ** 0.5 for value in descriptor]
        row = (-keypoint.response, keypoint.pt[1], keypoint.pt[0], keypoint.size, keypoint.angle)
        found.append((row, root))
    return sorted(found)[:top_k]


@pytest.mark.parametrize(("seed", "top_k"), [(0, 1000), (1, 37), (2, 1)])
def test_features_are_opencvs_with_square_rooted_descriptors(seed, top_k):
    photo = drawn(seed, 160, 120, corners=15)
    expected = naive_rootsift(photo, top_k)
    features = RootSIFT(top_k, dtype="float16")(photo)
    assert len(features) == len(expected) > 0
    rows = np.array([row for row, _ in expected], np.float32)
    np.testing.assert_allclose(features.scores, -rows[:, 0])
    np.testing.assert_allclose(features.keypoints, rows[:, [2, 1]], atol=1e-4)
    np.testing.assert_allclose(features.scales, rows[:, 3], rtol=1e-5)
    np.testing.assert_allclose(features.angles, rows[:, 4] % 360, rtol=1e-5)
    roots = np.array([root for _, root in expected])
    np.testing.assert_allclose(features.descriptors.astype(float), roots, atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(roots, axis=1), 1)
    quantised = RootSIFT(top_k)(photo).descriptors
    np.testing.assert_array_equal(quantised, np.minimum(np.rint(512 * roots), 255))


@pytest.mark.parametrize("seed", range(3))
def test_quantised_descriptors_have_the_cosines_within_five_thousandths(seed):
    photo = drawn(seed)
    noisy = np.clip(photo + np.random.default_rng(seed).normal(0, 20, photo.shape), 0, 255)
    for one in (photo, noisy.astype(np.uint8)):
        exact = np.array([root for _, root in naive_rootsift(one, 200)])
        quantised = unit(RootSIFT(200)(one).descriptors)
        error = np.abs(quantised @ quantised.T - exact @ exact.T)
        assert 0 < error.max() < 0.005
        assert error.mean() < 0.001


@pytest.mark.parametrize("top_k", [1, 10, 11, 100])
def test_the_strongest_features_are_a_prefix_of_all(top_k):
    photo = drawn(corners=200)
    every, few = RootSIFT(10**6)(photo), RootSIFT(top_k)(photo)
    assert len(few) == top_k < len(every)
    assert (np.diff(every.scores) <= 0).all()
    for name, value in arrays(few).items():
        np.testing.assert_array_equal(value, arrays(every)[name][:top_k], err_msg=name)


def test_ties_are_ordered_by_position():
    photo = np.tile(drawn(width=64, height=64, corners=6), (4, 4, 1))
    features = RootSIFT(10**6)(photo)
    rows = np.column_stack(
        [-features.scores, features.keypoints[:, ::-1], features.scales, features.angles]
    )
    assert len(np.unique(features.scores)) < len(features)
    assert sorted(rows.tolist()) == rows.tolist()


def test_orientations_of_a_keypoint_are_neighbouring_features():
    features = RootSIFT()(drawn())
    places = np.column_stack([features.keypoints, features.scales])
    _, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
    assert counts.max() > 1
    for start, count in zip(first, counts, strict=True):
        rows = slice(start, start + count)
        assert (places[rows] == places[start]).all()
        assert (np.diff(features.angles[rows]) > 0).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_result_does_not_depend_on_the_number_of_threads(threads):
    import cv2

    photo, before = drawn(3, 640, 480, 200), cv2.getNumThreads()
    try:
        cv2.setNumThreads(threads)
        first, second = RootSIFT(300)(photo), RootSIFT(300)(photo)
        cv2.setNumThreads(1)
        alone = RootSIFT(300)(photo)
    finally:
        cv2.setNumThreads(before)
    assert_equal(first, second)
    assert_equal(first, alone)


def in_worker(feature, photo):
    import cv2

    return feature(photo), cv2.getNumThreads()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_uses_one_thread_and_returns_the_same(method):
    import cv2

    photo, feature, before = drawn(4), RootSIFT(50), cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        here = feature(photo)  # starts the threads that a fork does not inherit
        assert cv2.getNumThreads() == 2
        with multiprocessing.get_context(method).Pool(1) as pool:
            there, threads = pool.apply_async(in_worker, (feature, photo)).get(60)
    finally:
        cv2.setNumThreads(before)
    assert threads == 1
    assert_equal(here, there)


def shares(a, b, expected, tolerance):
    """The share of matches of a in b that are within `tolerance` of the expected position."""
    similarity = unit(a.descriptors) @ unit(b.descriptors).T
    best = similarity.argmax(axis=1)
    is_sure = similarity.max(axis=1) > 0.95
    distance = np.linalg.norm(b.keypoints[best] - expected(a.keypoints), axis=1)
    assert is_sure.sum() > 30
    return (distance[is_sure] < tolerance).mean(), best[is_sure], is_sure


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotated_photo_has_rotated_features(quarters):
    photo = drawn(5)
    a, b = RootSIFT(200)(photo), RootSIFT(400)(np.rot90(photo, quarters).copy())
    (width, height), centre = a.size, np.array(a.size) / 2 - 0.5
    turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), quarters)  # counterclockwise

    def expected(keypoints):
        return (keypoints - centre) @ turn.T + (np.array(b.size) / 2 - 0.5)

    assert b.size == ((height, width) if quarters % 2 else (width, height))
    share, best, is_sure = shares(a, b, expected, tolerance=1)
    assert share > 0.9
    change = (a.angles[is_sure] - b.angles[best]) % 360
    assert abs(np.median(change) - 90 * quarters) < 3
    np.testing.assert_allclose(np.median(b.scales[best] / a.scales[is_sure]), 1, atol=0.02)


@pytest.mark.parametrize("zoom", [0.5, 0.7, 1.5, 2])
def test_a_resized_photo_has_resized_features(zoom):
    import cv2

    photo = drawn(6, 400, 300)
    size = round(400 * zoom), round(300 * zoom)
    mode = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    a, b = RootSIFT(200)(photo), RootSIFT(600)(cv2.resize(photo, size, interpolation=mode))

    share, best, is_sure = shares(a, b, lambda k: (k + 0.5) * zoom - 0.5, tolerance=2 * zoom)
    assert share > 0.7
    assert abs(np.median(b.scales[best] / a.scales[is_sure]) / zoom - 1) < 0.1


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 601), (1000, 320)])
def test_keypoints_are_in_pixels_of_the_given_photo(width, height):
    import cv2

    photo = drawn(7, width, height, corners=100)
    limit = 256
    size = round(width * limit / max(width, height)), round(height * limit / max(width, height))
    reduced = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    a = RootSIFT(300, max_side=limit)(photo)
    b = RootSIFT(300, max_side=limit)(reduced)
    assert a.size == (width, height)
    assert b.size == size
    zoom = np.array([width, height]) / size
    # The colours of `reduced` are rounded before they become grey: features differ slightly.
    distance = np.linalg.norm(
        a.keypoints[:, None] - ((b.keypoints + 0.5) * zoom - 0.5)[None], axis=2
    )
    assert np.median(distance.min(axis=1)) < 0.1
    same = distance.argmin(axis=1)[distance.min(axis=1) < 0.1]
    scales = a.scales[distance.min(axis=1) < 0.1] / b.scales[same]
    np.testing.assert_allclose(np.median(scales), np.sqrt(zoom.prod()), rtol=0.01)
    assert (a.keypoints >= -0.5).all()
    assert (a.keypoints <= np.array(a.size) - 0.5).all()


def test_a_keypoint_is_at_the_centre_of_a_blob():
    y, x = np.mgrid[:101, :141]
    blob = 255 * np.exp(-((x - 80) ** 2 + (y - 40) ** 2) / (2 * 6**2))
    photo = np.repeat(blob.astype(np.uint8)[..., None], 3, axis=2)
    for repeat in (1, 4):  # with and without reduction
        given = photo.repeat(repeat, axis=0).repeat(repeat, axis=1)
        features = RootSIFT(max_side=141)(given)
        expected = (np.array([80, 40]) + 0.5) * repeat - 0.5
        np.testing.assert_allclose(features.keypoints[0], expected, atol=0.1 * repeat)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 500), (2, 2), (16, 16), (3, 2000), (2000, 1), (240, 320)]
)
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_photo_without_structure_has_no_features(shape, dtype):
    features = RootSIFT(dtype=dtype)(np.full((*shape, 3), 200, np.uint8))
    assert isinstance(features, LocalFeatures)
    assert len(features) == 0
    assert {name: value.shape for name, value in arrays(features).items()} == {
        "keypoints": (0, 2),
        "descriptors": (0, 128),
        "scores": (0,),
        "scales": (0,),
        "angles": (0,),
    }
    assert features.descriptors.dtype == dtype
    assert features.size == shape[::-1]


@pytest.mark.parametrize(
    "photo",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 20, 3), np.uint8),
    ],
)
def test_an_array_that_is_not_a_photo_is_an_error(photo):
    with pytest.raises(ValueError, match="a photo of dtype"):
        RootSIFT()(photo)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("top_k", 0, "a whole number > 0"),
        ("top_k", 1.5, "a whole number > 0"),
        ("max_side", 31, "a whole number >= 32"),
        ("contrast_threshold", 0, "a number > 0"),
        ("dtype", "float32", "one of uint8, float16"),
    ],
)
def test_a_wrong_setting_names_the_key(key, value, words):
    with pytest.raises(UserError, match=f"{key}={value} is not valid. Pass {words}"):
        RootSIFT(**{key: value})


def test_a_higher_contrast_threshold_leaves_fewer_features():
    photo = drawn()
    counts = [len(RootSIFT(10**6, contrast_threshold=t)(photo)) for t in (0.02, 0.04, 0.2)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("used", [False, True])
def test_a_feature_can_be_pickled(used):
    feature, photo = RootSIFT(20), drawn()
    if used:
        feature(photo)
    assert_equal(pickle.loads(pickle.dumps(feature))(photo), feature(photo))


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_features_are_stored_and_read(tmp_path, dtype):
    DescriptorStore.write(tmp_path / "store", ["a", "b", "c"], np.eye(3, dtype="f4"))
    store = DescriptorStore.open(tmp_path / "store")
    feature = RootSIFT(60, dtype=dtype)
    photos = [drawn(8), np.zeros((50, 60, 3), np.uint8), drawn(9, 200, 500)]
    with LocalFeatureWriter.writing(
        store, "rootsift", feature.dim, feature.dtype, feature.columns, top_k=60
    ) as writer:
        writer.append_all(map(feature, photos))
    read = store.local("rootsift")
    assert read.counts.tolist() == [60, 0, 60]
    for row, photo in enumerate(photos):
        assert_equal(read[row], feature(photo))


def test_opencv_is_imported_by_the_first_photo_only():
    code = (
        "import sys, json; from landmark.local import RootSIFT; RootSIFT();"
        "print(json.dumps([name for name in ('cv2', 'torch') if name in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(result.stdout) == []
