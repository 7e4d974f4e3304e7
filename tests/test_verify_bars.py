"""Watermark bars are found and ignored; features at equal positions count once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_verify import AFFINE, MODELS, corner_error, features, pair

from landmark.verify import Verifier
from landmark.verify.positions import count_positions, equal_positions

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
BAR = np.random.default_rng(99).standard_normal((40, 64)).astype(np.float32)
ALONG = np.random.default_rng(98).uniform((10, 6), (400, 40), (40, 2))  # along and from the edge


def with_bar(photo, edge="lower", zoom=1.0, rows=slice(None)):
    """Add a bar of the same structure at an edge of the photo."""
    width, height = photo.size
    along, from_edge = (ALONG[rows] * zoom).T
    x, y = {
        "lower": (along, height - 0.5 - from_edge),
        "upper": (along, from_edge - 0.5),
        "left": (from_edge - 0.5, along),
        "right": (width - 0.5 - from_edge, along),
    }[edge]
    return features(
        np.concatenate([photo.keypoints, np.stack([x, y], axis=1)]),
        np.concatenate([photo.descriptors, BAR[rows]]),
        np.concatenate([photo.scales, np.full(len(x), 8 * zoom)]),
        np.concatenate([photo.angles, np.zeros(len(x))]),
        photo.size,
    )


def another_place(seed, size=(640, 480)):
    rng = np.random.default_rng(seed)
    points = rng.uniform((10, 10), np.array(size) - 10, (150, 2))
    return features(points, rng.standard_normal((150, 64)).astype("f4"), size=size)


@pytest.mark.parametrize("edge", ["lower", "upper", "left", "right"])
@pytest.mark.parametrize("zoom", [1.0, 0.9, 1.3])
@pytest.mark.parametrize("model", MODELS)
def test_a_bar_at_any_edge_is_no_evidence(model, edge, zoom):
    a, b = with_bar(another_place(0), edge), with_bar(another_place(1, (600, 500)), edge, zoom)
    assert Verifier(model, ignore_bars=False)(a, b).inliers >= 35
    result = Verifier(model)(a, b)
    assert result.inliers < 10
    assert (result.matches < 150).all()
    assert len(result.is_inlier) == len(result.matches)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", MODELS[:3])
def test_a_place_behind_a_bar_is_verified_by_the_rest(model, seed):
    a, b, _ = pair(AFFINE, seed, n=60, outliers=40, scale=0.85, angle=-8)
    alone = Verifier(model)(a, b)
    with_bars = with_bar(a), with_bar(b)
    result = Verifier(model)(*with_bars)
    assert corner_error(Verifier(model, ignore_bars=False)(*with_bars).model, AFFINE) > 40
    assert corner_error(result.model, AFFINE) < 8
    assert result.inliers == pytest.approx(alone.inliers, abs=3)


@pytest.mark.parametrize("model", MODELS)
def test_near_duplicates_with_and_without_a_bar_keep_all_their_matches(model):
    photo = another_place(0)
    copy = features(photo.keypoints, photo.descriptors, photo.scales, photo.angles, photo.size)
    assert Verifier(model)(photo, copy).inliers == 150
    assert Verifier(model)(with_bar(photo), with_bar(copy)).inliers == 190


def test_structure_near_an_edge_at_another_distance_to_it_is_no_bar():
    a, b = another_place(0), another_place(1)
    a, b = with_bar(a), with_bar(b)
    b.keypoints[150:, 1] -= 20  # within the strip, but elsewhere
    assert Verifier()(a, b).inliers >= 35


def test_a_bar_in_two_parts_that_moved_apart_is_ignored():
    a, b = with_bar(another_place(0)), with_bar(another_place(1))
    right = a.keypoints[150:, 0] > 200
    b.keypoints[150:][right, 0] += 150
    assert Verifier(ignore_bars=False)(a, b).inliers >= 15
    assert Verifier()(a, b).inliers < 10


# --- equal positions ---


@few
@given(seeds, st.integers(0, 40), st.integers(1, 4))
def test_groups_are_those_of_a_dictionary(seed, m, values):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-values, values, (2, m, 2)).astype(np.float32)
    a[a == 0] *= rng.choice([-1, 1])  # -0 equals 0
    first, groups = equal_positions(a, b)
    seen = {}
    for row, key in enumerate(zip(map(tuple, a.tolist()), map(tuple, b.tolist()), strict=True)):
        seen.setdefault(key, []).append(row)
    expected = sorted(seen.values())
    assert first.tolist() == [rows[0] for rows in expected]
    assert [np.flatnonzero(groups == g).tolist() for g in range(len(first))] == expected
    fewest = min(len({tuple(row) for row in x.tolist()}) for x in (a, b))
    assert count_positions(a, b) == fewest


@pytest.mark.parametrize("model", MODELS)
def test_orientations_of_one_keypoint_count_once(model):
    a, b, _ = pair(AFFINE, 2, scale=0.85, angle=-8)
    once = Verifier(model)(a, b)
    rng = np.random.default_rng(0)
    more = rng.standard_normal((200, 64)).astype(np.float32)
    at = np.argsort(np.argsort(b.descriptors[:, 0]))  # rows of b in the order of a
    order = np.argsort(np.argsort(a.descriptors[:, 0]))
    of_a = np.argsort(order)[at]  # the row of a that each row of b shows

    def doubled(photo, extra):
        return features(
            np.tile(photo.keypoints, (2, 1)),
            np.concatenate([photo.descriptors, extra]),
            np.tile(photo.scales, 2),
            np.concatenate([photo.angles, photo.angles + 90]) % 360,
        )

    twice = Verifier(model)(doubled(a, more), doubled(b, more[of_a]))
    assert len(twice.matches) == 2 * len(once.matches)
    assert twice.inliers == pytest.approx(once.inliers, abs=2)
    assert twice.is_inlier.sum() == pytest.approx(2 * once.is_inlier.sum(), abs=4)
    if model == "similarity":  # twice the hypotheses
        assert twice.score == pytest.approx(once.score - np.log(2), abs=2)
    counted = Verifier(model, distinct=False)(doubled(a, more), doubled(b, more[of_a]))
    assert counted.inliers > 1.8 * once.inliers


def test_identical_photos_with_most_features_near_an_edge_stay_verified():
    photo = another_place(0)
    low = photo.keypoints[:100]
    low[:, 1] = 420 + low[:, 1] / 480 * 59  # two thirds of the features lie in the strip
    assert Verifier()(photo, photo).inliers == 150
