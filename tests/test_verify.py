"""Geometric verification against naive loops, and on pairs of known geometry."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from landmark.error import UserError
from landmark.local import RootSIFT
from landmark.verify import Verifier, match
from landmark.verify.matching import _whole_products
from landmark.verify.models import fit_ransac
from landmark.verify.similarity import a_contrario, promising

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
CONF = Path(__file__).resolve().parents[1] / "conf" / "verify"
MODELS = ["similarity", "affine", "homography", "fundamental"]


def features(points, descriptors, scales=None, angles=None, size=(640, 480), background=None):
    n = len(points)
    return SimpleNamespace(
        keypoints=np.asarray(points, np.float32).reshape(n, 2),
        descriptors=np.asarray(descriptors),
        scores=np.ones(n, np.float32),
        size=size,
        scales=np.ones(n, np.float32) if scales is None else np.asarray(scales, np.float32),
        angles=np.zeros(n, np.float32) if angles is None else np.asarray(angles, np.float32),
        background=background,
    )


def naive_match(a, b, ratio, radius, background):
    """Python floats, one pair at a time."""
    unit_a = [row / np.linalg.norm(row) for row in a.astype(np.float64)]
    unit_b = [row / np.linalg.norm(row) for row in b.astype(np.float64)]
    distances = [[float(np.linalg.norm(x - y)) for y in unit_b] for x in unit_a]
    pairs = []
    for i, row in enumerate(distances):
        j = row.index(min(row))
        column = [other[j] for other in distances]
        if column.index(min(column)) != i:
            continue
        if background is None:
            rival = min([d for m, d in enumerate(row) if m != j], default=math.inf)
            rival_b = min([d for m, d in enumerate(column) if m != i], default=math.inf)
        else:
            rival, rival_b = (math.sqrt(2 - 2 * background[s][m]) for s, m in ((0, i), (1, j)))
        if ratio is not None and row[j] >= ratio * min(rival, rival_b):
            continue
        if radius is None or row[j] <= radius:
            pairs.append([i, j])
    return pairs


@few
@given(
    seeds,
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([None, 0.7, 0.9, 1.0]),
    st.sampled_from([None, 0.5, 1.0]),
    st.booleans(),
    st.sampled_from([1, 7, 64, 10_000]),
)
def test_matches_equal_a_naive_loop_for_blocks_of_any_size(seed, n, m, ratio, radius, pool, block):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 6)), rng.standard_normal((m, 6))
    shared = min(n, m) // 2
    b[:shared] = a[:shared] + 0.2 * rng.standard_normal((shared, 6))
    background = (rng.uniform(0.5, 1, n), rng.uniform(0.5, 1, m)) if pool else None
    found = match(a, b, ratio, radius, background, block)
    assert found.tolist() == naive_match(a, b, ratio, radius, background)
    exchanged = match(b, a, ratio, radius, background and background[::-1], block)
    assert sorted(found.tolist()) == sorted(exchanged[:, ::-1].tolist())


@few
@given(seeds, st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 5, 10_000]))
def test_of_equal_descriptors_each_row_is_matched_once(seed, n, m, block):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (n, 2)) + 1, rng.integers(0, 2, (m, 2)) + 1  # many equal rows
    pairs = match(a, b, ratio=None, block=block)
    assert all(len(set(column)) == len(pairs) for column in pairs.T.tolist())
    directions = [(row / np.gcd.reduce(row)).tolist() for row in np.concatenate([a, b])]
    for i, j in match(a, b, ratio=1.0, block=block):
        assert directions[:n].count(directions[i]) == directions[n:].count(directions[n + j]) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_descriptors_of_each_type_match_by_their_direction(dtype):
    a = np.random.default_rng(0).integers(1, 200, (20, 16)).astype(dtype)
    assert match(a, a[::-1], ratio=0.9).tolist() == [[i, 19 - i] for i in range(20)]


def naive_score(squared_errors, area, hypotheses, sample):
    n = len(squared_errors)
    errors = sorted(math.sqrt(e) for e in squared_errors)
    best = -math.inf
    for k in range(sample + 1, n + 1):
        if errors[k - 1] > 40:
            break
        chance = math.pi * max(errors[k - 1], 2) ** 2 / area
        log_number = math.log(hypotheses) + math.log(math.comb(n, k))
        best = max(best, -(log_number + (k - sample) * math.log(chance)))
    return best


@few
@given(seeds, st.integers(1, 30), st.integers(1, 60), st.sampled_from([1, 3]))
def test_a_contrario_score_equals_its_formula(seed, h, n, sample):
    rng = np.random.default_rng(seed)
    errors = rng.choice([1.0, 10.0, 100.0], (h, 1)) ** 2 * rng.exponential(size=(h, n))
    scores, radii = a_contrario(errors, 300_000, h, sample)
    expected = [naive_score(row, 300_000, h, sample) for row in errors.tolist()]
    assert scores == pytest.approx(expected, rel=1e-9)
    for row, score, radius in zip(errors, scores, radii, strict=True):
        if score > -np.inf:  # the radius is that of the k that gives the score
            k = (row <= radius).sum()
            chance = math.log(math.pi * radius / 300_000)
            again = -math.log(h * math.comb(n, int(k))) - (int(k) - sample) * chance
            assert again == pytest.approx(score)


@few
@given(seeds, st.integers(1, 60), st.integers(2, 60), st.integers(1, 4))
def test_promising_models_include_the_best(seed, h, n, best):
    rng = np.random.default_rng(seed)
    errors = rng.choice([1.0, 5.0, 30.0], (h, 1)) ** 2 * rng.exponential(size=(h, n))
    scores, _ = a_contrario(errors, 300_000, h)
    rows = promising(errors, 300_000, h, best)
    of_rows, _ = a_contrario(errors[rows], 300_000, h)
    count = min(best, h)
    assert np.sort(of_rows)[::-1][:count] == pytest.approx(np.sort(scores)[::-1][:count])


def test_few_of_many_models_are_promising():
    rng = np.random.default_rng(0)
    errors = rng.uniform(0, 500, (200, 200)) ** 2
    errors[:3, :100] = 1
    assert promising(errors, 300_000, 200, 3).tolist() == [0, 1, 2]


def pair(matrix, seed, n=200, outliers=100, noise=0.5, scale=1.0, angle=0.0):
    """Photos whose first n - outliers features agree with the (3, 3) matrix."""
    rng = np.random.default_rng(seed)
    a = rng.uniform((60, 60), (580, 420), (n, 2))
    b = np.concatenate([a, np.ones((n, 1))], axis=1) @ np.asarray(matrix).T
    b = b[:, :2] / b[:, 2:] + noise * rng.standard_normal((n, 2))
    b[n - outliers :] = rng.uniform((0, 0), (640, 480), (outliers, 2))
    descriptors = rng.standard_normal((n, 64)).astype(np.float32)
    scales, angles = rng.uniform(4, 30, n), rng.uniform(0, 360, n)
    order = rng.permutation(n)
    of_b = features(
        b[order],
        descriptors[order],
        (scales * scale * rng.uniform(0.9, 1.1, n))[order],
        ((angles + angle + rng.normal(0, 3, n)) % 360)[order],
    )
    return features(a, descriptors, scales, angles), of_b, order


def similarity_matrix(scale, degrees, x, y):
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]])


AFFINE = np.array([[0.8, 0.1, 30], [-0.15, 0.9, 60], [0, 0, 1]])
HOMOGRAPHY = np.array([[0.9, 0.05, 20], [-0.05, 0.85, 40], [2e-4, -1e-4, 1]])


def mapped(matrix, points):
    points = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.asarray(matrix).T
    return points[:, :2] / points[:, 2:]


def corner_error(model, matrix):
    corners = np.array([[60, 60], [580, 60], [580, 420], [60, 420.0]])
    return np.linalg.norm(mapped(model, corners) - mapped(matrix, corners), axis=1).max()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("scale", "degrees"), [(1.0, 0), (0.5, 20), (2.5, -25), (5.0, 5), (0.25, -10)]
)
def test_a_known_similarity_is_recovered_among_outliers(scale, degrees, seed):
    matrix = similarity_matrix(scale, degrees, 40, -30)
    a, b, order = pair(matrix, seed, scale=scale, angle=degrees, noise=0.5 * min(1, scale))
    result = Verifier()(a, b)
    assert corner_error(result.model, matrix) < 3 * max(1, scale)
    is_true = order[result.matches[:, 1]] < 100
    assert result.is_inlier[is_true].mean() > 0.95
    assert result.is_inlier[~is_true].mean() < 0.1
    assert result.inliers == result.is_inlier.sum()
    assert result.score > 200


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("name", "matrix"),
    [("affine", AFFINE), ("homography", HOMOGRAPHY), ("homography", AFFINE)],
)
def test_a_known_map_is_recovered_among_outliers_with_each_seed(name, matrix, seed):
    a, b, order = pair(matrix, 0)
    result = Verifier(name, threshold=4.0, seed=seed)(a, b)
    assert corner_error(result.model, matrix) < 3
    is_true = order[result.matches[:, 1]] < 100
    assert result.is_inlier[is_true].mean() > 0.95
    assert result.score == result.inliers == result.is_inlier.sum()


def sift(photo):
    points, descriptors = cv2.SIFT_create(500).detectAndCompute(photo, None)
    return features(
        [point.pt for point in points],
        descriptors,
        [point.size for point in points],
        [point.angle for point in points],
        photo.shape[::-1],
    )


@pytest.mark.parametrize(("scale", "degrees"), [(1.3, 20), (0.7, -25), (2.0, 5)])
def test_scales_and_angles_are_those_of_opencv(scale, degrees):
    noise = np.random.default_rng(0).uniform(0, 255, (60, 80)).astype(np.uint8)
    photo = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    matrix = similarity_matrix(scale, degrees, 40 - 160 * (scale - 1), 20 - 120 * (scale - 1))
    warped = cv2.warpAffine(photo, matrix[:2], (640, 480))
    a, b = sift(photo), sift(warped)
    result = Verifier()(a, b)
    assert corner_error(result.model, matrix) < 3
    assert result.inliers > 50
    in_a, in_b = result.matches[result.is_inlier].T
    turns = (b.angles[in_b] - a.angles[in_a] + 180) % 360 - 180
    assert np.median(turns) == pytest.approx(degrees, abs=2)
    assert np.median(b.scales[in_b] / a.scales[in_a]) == pytest.approx(scale, rel=0.1)


def test_a_similarity_is_refined_to_an_affine_map():
    a, b, _ = pair(AFFINE, 0, scale=0.85, angle=-8)
    result = Verifier()(a, b)
    assert corner_error(result.model, AFFINE) < 2


@pytest.mark.parametrize("seed", range(3))
def test_a_fundamental_matrix_explains_two_views_of_a_scene(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-2, -2, 4), (2, 2, 8), (150, 3))
    a = 300 * points[:, :2] / points[:, 2:] + (320, 240)
    turn = similarity_matrix(1, 0, 0, 0)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = 0.98, 0.199, -0.199, 0.98
    seen = points @ turn.T + (0.5, 0.1, 0.2)
    b = 300 * seen[:, :2] / seen[:, 2:] + (320, 240)
    b[100:] = rng.uniform((0, 0), (640, 480), (50, 2))
    descriptors = rng.standard_normal((150, 64))
    result = Verifier("fundamental", threshold=1.0)(
        features(a, descriptors), features(b, descriptors)
    )
    assert result.is_inlier[:100].mean() > 0.95
    assert result.is_inlier[100:].mean() < 0.3
    in_a, in_b = (np.c_[x[:100], np.ones(100)] for x in (a, b))
    lines = in_a @ result.model.T
    distances = np.abs((in_b * lines).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distances) < 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 45), (8.0, 0), (0.1, 0)])
def test_a_similarity_beyond_the_limits_is_no_hypothesis(scale, degrees, seed):
    matrix = similarity_matrix(scale, degrees, 0, 0)
    a, b, _ = pair(matrix, seed, scale=scale, angle=degrees, outliers=0)
    assert Verifier()(a, b).score < 20
    wide = Verifier(max_rotation=60, max_scale=12)(a, b)
    assert wide.score > 200


def test_a_map_that_shrinks_a_photo_to_a_point_is_no_evidence():
    rng = np.random.default_rng(0)
    descriptors = rng.standard_normal((100, 64))
    a = features(rng.uniform((0, 0), (640, 480), (100, 2)), descriptors, np.full(100, 30))
    b = features(rng.uniform((300, 200), (340, 240), (100, 2)), descriptors, np.full(100, 5.1))
    assert Verifier()(a, b).score < 20
    assert Verifier()(b, a).score < 20


@few
@given(seeds, st.integers(2, 60), st.floats(0, 1), st.floats(0.3, 3), st.floats(-29, 29))
def test_exchanging_the_photos_keeps_matches_and_score(seed, n, share, scale, degrees):
    matrix = similarity_matrix(scale, degrees, 10, 20)
    a, b, _ = pair(matrix, seed, n, outliers=int(share * n), scale=scale, angle=degrees)
    forward, backward = Verifier()(a, b), Verifier()(b, a)
    assert sorted(forward.matches.tolist()) == sorted(backward.matches[:, ::-1].tolist())
    assert forward.score == pytest.approx(backward.score, abs=0.05)


@pytest.mark.parametrize("model", MODELS)
def test_equal_inputs_give_equal_results(model):
    a, b, _ = pair(HOMOGRAPHY, 3)
    first, second = Verifier(model)(a, b), Verifier(model)(a, b)
    assert first.score == second.score
    assert np.array_equal(first.model, second.model)
    assert np.array_equal(first.is_inlier, second.is_inlier)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("m", [0, 1, 9])
def test_photos_with_few_features_have_a_score(model, n, m):
    rng = np.random.default_rng(0)
    descriptors = rng.standard_normal((9, 16))
    points = rng.uniform(0, 400, (9, 2))
    a, b = (features(points[:k], descriptors[:k]) for k in (n, m))
    result = Verifier(model)(a, b)
    assert result.matches.shape == (min(n, m), 2)
    assert result.is_inlier.shape == (min(n, m),)
    assert np.isfinite(result.score)
    if min(n, m) < 2:
        assert result.score == result.inliers == 0
        assert result.model is None


@pytest.mark.parametrize("model", MODELS)
def test_photos_without_features_may_have_descriptors_of_no_dimension(model):
    empty = features(np.empty((0, 2)), np.empty((0, 0)))
    assert Verifier(model)(empty, pair(AFFINE, 0)[0]).inliers == 0


@pytest.mark.parametrize("model", MODELS[1:])
def test_other_seeds_draw_other_samples(model):
    rng = np.random.default_rng(0)
    points, descriptors = rng.uniform(0, 400, (2, 150, 2)), rng.standard_normal((150, 64))
    a, b = (features(positions, descriptors) for positions in points)  # outliers alone
    seeds = [0, 1, 2, 2**31 - 1]
    masks = {
        Verifier(model, seed=seed, max_iterations=20)(a, b).is_inlier.tobytes() for seed in seeds
    }
    assert len(masks) > 1


@pytest.mark.filterwarnings("error")
def test_scales_that_are_no_numbers_give_no_hypothesis():
    a, b, _ = pair(np.eye(3), 0)
    expected = Verifier()(a, b).score
    a.scales[:20] = [0, np.nan, np.inf, 0, np.nan] * 4
    b.scales[20:24] = [0, np.nan, np.inf, 0]
    result = Verifier()(a, b)
    assert 0.8 * expected < result.score < 1.2 * expected
    a.scales[:] = 0
    assert Verifier()(a, b).model is None


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_identical_photos_agree_in_all_features(model):
    a, _, _ = pair(AFFINE, 0, n=300)
    result = Verifier(model)(a, a)
    assert result.inliers == len(result.matches) == 300
    assert corner_error(result.model, np.eye(3)) < 0.1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("step", [(1, 0), (0, 1), (2, 1), (0, 0)])
def test_collinear_and_equal_points_raise_no_error(model, step):
    rng = np.random.default_rng(0)
    points = 50 + np.arange(50)[:, None] * np.array(step)
    descriptors = rng.standard_normal((50, 32))
    result = Verifier(model)(features(points, descriptors), features(points + 3, descriptors))
    assert np.isfinite(result.score)
    if result.model is not None:
        assert np.isfinite(result.model).all()


def test_the_bottom_of_both_photos_is_ignored():
    a, b, _ = pair(np.eye(3), 0, outliers=0)
    bottom = a.keypoints[:, 1] >= 0.5 * 480
    result = Verifier(ignore_bottom=0.5)(a, b)
    assert 0 < len(result.matches) <= (~bottom).sum()
    assert not bottom[result.matches[:, 0]].any()
    assert (b.keypoints[result.matches[:, 1], 1] < 240).all()
    everything = Verifier()(a, b).matches
    assert len(everything) == 200


def test_the_pool_is_the_rival_where_chosen():
    a, b, _ = pair(np.eye(3), 0, outliers=0)
    common = np.arange(200) % 2 == 0  # a's features that other photos have too
    a.background = np.where(common, 1.0, 0.2).astype(np.float32)
    b.background = np.full(200, 0.2, np.float32)
    result = Verifier(rival="background", ratio=1.0)(a, b)
    assert result.matches[:, 0].tolist() == np.flatnonzero(~common).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "essential"}, "one of similarity, affine, homography, fundamental"),
        ({"ratio": 1.5}, "ratio=1.5 is not valid"),
        ({"ignore_bottom": 1.0}, "ignore_bottom=1.0 is not valid"),
        ({"model": "affine", "threshold": 0}, "threshold=0 is not valid"),
        ({"threshold": 5.0}, "does not apply to model=similarity"),
        ({"rival": "background", "ratio": None}, "rival=background needs a ratio test"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Verifier(**options)


def test_features_that_lack_something_are_named():
    a, b, _ = pair(AFFINE, 0)
    with pytest.raises(UserError, match="no background, which rival=background needs"):
        Verifier(rival="background")(a, b)
    short = features(b.keypoints, b.descriptors[:, :32])
    with pytest.raises(UserError, match="descriptors of 64 and 32 dimensions cannot be matched"):
        Verifier()(a, short)
    b.scales = None
    with pytest.raises(UserError, match="no scales and angles, which model=similarity needs"):
        Verifier()(a, b)
    assert Verifier("affine")(a, b).inliers > 50


@pytest.mark.parametrize("seed", range(20))
def test_of_two_planes_the_homography_is_that_of_the_larger_one(seed):
    rng = np.random.default_rng(0)
    a = rng.uniform((60, 60), (580, 420), (170, 2))
    a[110:] = rng.uniform((320, 240), (580, 420), (60, 2))
    b = mapped(HOMOGRAPHY, a)
    b[:110] += 0.3 * rng.standard_normal((110, 2))
    b[110:] += (3.0, -3.0) + 0.5 * rng.standard_normal((60, 2))
    descriptors = rng.standard_normal((170, 64))
    a, b = features(a, descriptors), features(b, descriptors)
    result = Verifier("homography", seed=seed)(a, b)
    # A compromise between the planes is 3.7 pixels off.
    assert corner_error(result.model, HOMOGRAPHY) < 1
    errors = np.linalg.norm(mapped(result.model, a.keypoints) - b.keypoints, axis=1)
    assert result.is_inlier.tolist() == (errors[result.matches[:, 0]] <= 5).tolist()


GRAFFITI = Path("/usr/share/doc/opencv-doc/examples/data")


@pytest.fixture(scope="module")
def graffiti():
    """The features of OpenCV's two photos of a wall, and the homography between them."""
    if not (GRAFFITI / "H1to3p.xml").exists():
        pytest.skip("the Debian package opencv-doc is not installed")
    text = (GRAFFITI / "H1to3p.xml").read_text()
    values = text.partition("<data>")[2].partition("</data>")[0].split()
    photos = [cv2.imread(str(GRAFFITI / f"graf{i}.png"))[..., ::-1].copy() for i in (1, 3)]
    return [RootSIFT()(photo) for photo in photos], np.array(values, float).reshape(3, 3)


@pytest.mark.parametrize("ratio", [0.9, 0.95])
def test_the_homography_of_opencvs_example_is_found_with_each_seed(graffiti, ratio):
    (a, b), matrix = graffiti
    width, height = a.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    for seed in range(20):
        model = Verifier("homography", ratio=ratio, seed=seed)(a, b).model
        errors = np.linalg.norm(mapped(model, corners) - mapped(matrix, corners), axis=1)
        assert errors.max() <= 3, seed


def way_of_2019(a, b, seed=0):
    """Nearest neighbours by a KD-tree, affine RANSAC of 20 pixels and 1000 trials, in numpy."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.descriptors, b.descriptors)]
    distances, nearest = KDTree(unit[1]).query(unit[0], distance_upper_bound=0.8)
    rows = np.flatnonzero(np.isfinite(distances))
    of_a, of_b = a.keypoints[rows], b.keypoints[nearest[rows]]
    homogeneous = np.c_[of_a, np.ones(len(of_a))]
    rng, best = np.random.default_rng(seed), 0
    for _ in range(1000):
        sample = rng.choice(len(rows), 3, replace=False)
        affine, *_ = np.linalg.lstsq(homogeneous[sample], of_b[sample], rcond=None)
        errors = np.linalg.norm(homogeneous @ affine - of_b, axis=1)
        best = max(best, int((errors < 20).sum()))
    return best


INLIERS_2019 = {
    "model": "affine",
    "mutual": False,
    "ignore_bars": False,
    "distinct": False,
    "ratio": None,
    "radius": 0.8,
    "threshold": 20.0,
    "estimator": "ransac",
    "confidence": 0.999999,
}


@pytest.mark.parametrize("seed", range(4))
def test_the_inliers_of_2019_are_those_of_a_kd_tree_and_plain_ransac(seed):
    rng = np.random.default_rng(seed)
    a, b, _ = pair(AFFINE, seed, n=120, outliers=40)
    # Several features of one photo have the same nearest neighbour: all of them count.
    near = a.descriptors[:30] + 0.02 * rng.standard_normal((30, 64))
    a = features(
        np.concatenate([a.keypoints, a.keypoints[:30] + 3]),
        np.concatenate([a.descriptors, near]),
    )
    found = Verifier(**INLIERS_2019)(a, b)
    assert len(found.matches) == 150
    assert found.inliers == found.score
    # The outliers lie within 20 pixels of one model or another.
    assert found.inliers == pytest.approx(way_of_2019(a, b), abs=2)
    assert found.inliers >= 110


def test_the_choice_by_name_has_these_settings():
    choice = yaml.safe_load((CONF / "inliers_2019.yaml").read_text())
    assert {key: choice[key] for key in choice if key != "defaults"} == INLIERS_2019


@pytest.mark.parametrize("with_torch", [True, False])
def test_products_of_whole_numbers_are_exact(with_torch, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 300, 128)).astype(np.uint8)
    if with_torch:
        import torch

        before = torch.get_float32_matmul_precision()
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = _whole_products(a.astype("f4"), b.astype("f4"))
    assert (found == a.astype(np.int64) @ b.astype(np.int64).T).all()
    if with_torch:
        assert torch.get_float32_matmul_precision() == before


def test_matches_on_which_opencv_fails_are_fitted_with_other_samples():
    # Two groups on nearly straight lines: seed 0 draws a sample of which OpenCV finds no model.
    points = np.array(
        [
            [136.89803, 332.45938, 148.97697, 251.84375],
            [521.4112, 298.70312, 356.33224, 218.90625],
            [532.4836, 305.86356, 346.26645, 224.21875],
            [144.95065, 320.1844, 155.01645, 243.34375],
            [136.89803, 335.52814, 151.9967, 258.21875],
            [525.4375, 315.0698, 337.20724, 231.65625],
            [155.01645, 331.43646, 175.14803, 251.84375],
            [535.5033, 310.97812, 348.2796, 230.59375],
            [202.32565, 438.8427, 330.1612, 311.34375],
            [149.98355, 314.04688, 163.06908, 233.78125],
            [513.3586, 295.63437, 349.2862, 217.84375],
            [39.25987, 347.80313, 213.39803, 226.34375],
        ]
    )
    results = [fit_ransac(points[:, :2], points[:, 2:], "fundamental", 6.0) for _ in range(2)]
    model, is_inlier = results[0]
    assert is_inlier.sum() >= 8
    assert model.shape == (3, 3)
    np.testing.assert_array_equal(model, results[1][0])


def test_opencv_failing_with_every_seed_means_no_model(monkeypatch):
    seeds = []

    def fail(*_, params):
        seeds.append(params.randomGeneratorState)
        raise cv2.error("assertion failed")

    monkeypatch.setattr(cv2, "findHomography", fail)
    points = np.random.default_rng(0).uniform(0, 100, (9, 2))
    model, is_inlier = fit_ransac(points, points, "homography", 5.0, seed=2**31 - 1)
    assert model is None
    assert not is_inlier.any()
    assert len(set(seeds)) == len(seeds) == 5
