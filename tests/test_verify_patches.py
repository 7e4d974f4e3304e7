"""Patches over the background against naive loops, and evidence from several scores."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.verify import Evidence, PatchVerifier
from landmark.verify.transport import transport

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def photo(rng, count, dim=6, background=True, shared=None):
    descriptors = unit(rng.standard_normal((count, dim)))
    if shared is not None:
        rows = min(count, len(shared)) // 2
        descriptors[:rows] = unit(shared[:rows] + 0.1 * rng.standard_normal((rows, dim)))
    return SimpleNamespace(
        keypoints=rng.uniform(0, 100, (count, 2)).astype(np.float32),
        descriptors=descriptors.astype(np.float16),
        size=(100, 100),
        scales=None,
        angles=None,
        background=rng.uniform(0, 0.8, count).astype(np.float32) if background else None,
    )


def pair(seed, n, m):
    rng = np.random.default_rng(seed)
    a = photo(rng, n)
    return a, photo(rng, m, shared=a.descriptors.astype(np.float64))


def naive_margins(a, b):
    x, y = (unit(one.descriptors.astype(np.float64)).tolist() for one in (a, b))
    return [
        [
            sum(p * q for p, q in zip(row, other, strict=True))
            - max(float(a.background[i]), float(b.background[j]))
            for j, other in enumerate(y)
        ]
        for i, row in enumerate(x)
    ]


def naive_matches(margins):
    pairs = []
    for i, row in enumerate(margins):
        j = row.index(max(row))
        column = [other[j] for other in margins]
        if column.index(max(column)) == i:
            pairs.append((i, j))
    return pairs


def naive_transport(similarities, dust, temperature, iterations):
    """Log-domain Sinkhorn in float64 with the dust as a row and a column."""
    n, m = similarities.shape
    z = np.full((n + 1, m + 1), dust, np.float64)
    z[:n, :m] = similarities
    z *= temperature
    c = -math.log(n + m)
    log_a, log_b = np.full(n + 1, c), np.full(m + 1, c)
    log_a[-1], log_b[-1] = c + math.log(m), c + math.log(n)
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    for _ in range(iterations):
        u = log_a - np.logaddexp.reduce(z + v, axis=1)
        v = log_b - np.logaddexp.reduce(z + u[:, None], axis=0)
    return np.exp(z + u[:, None] + v - c)[:n, :m]


@few
@given(seeds, sizes, sizes, st.sampled_from([0.0, 0.5]), st.sampled_from([1.0, 10.0, 40.0]))
def test_transport_equals_the_log_domain(seed, n, m, dust, temperature):
    rng = np.random.default_rng(seed)
    similarities = rng.uniform(-2, 1, (n, m)).astype(np.float32)
    mass = transport(similarities, dust, temperature, 10)
    expected = naive_transport(similarities, dust, temperature, 10)
    np.testing.assert_allclose(mass, expected, atol=1e-4)


def test_transport_is_that_of_the_reference(shared):
    with np.load(shared / "reference/pair/chamfer.npz") as file:
        reference = dict(file)
    for number, dust in enumerate(reference["dust"].tolist()):
        for row in range(2):
            query = reference["query"][row][~reference["query_padding"][row]]
            gallery = reference["gallery"][row][~reference["gallery_padding"][row]]
            mass = transport(query @ gallery.T, dust)
            score = mass.max(axis=0).sum() + mass.max(axis=1).sum()
            expected = reference["score_without_padding"][number, row]
            assert score == pytest.approx(expected, abs=5e-6)


@few
@given(seeds, sizes, sizes)
def test_margins_equal_a_naive_loop(seed, n, m):
    a, b = pair(seed, n, m)
    result = PatchVerifier()(a, b)
    margins = naive_margins(a, b)
    assert result.matches.tolist() == [list(one) for one in naive_matches(margins)]
    of_matches = [margins[i][j] for i, j in result.matches.tolist()]
    assert result.score == pytest.approx(sum(max(one, 0) for one in of_matches), abs=1e-4)
    assert result.is_inlier.tolist() == [one > 0 for one in of_matches]
    assert result.inliers == result.is_inlier.sum()
    assert result.model is None


@few
@given(seeds, sizes, sizes, st.sampled_from([1, 10]))
def test_the_score_of_transport_is_the_mass_of_the_maxima(seed, n, m, iterations):
    a, b = pair(seed, n, m)
    verifier = PatchVerifier("transport", temperature=10, iterations=iterations)
    mass = naive_transport(np.array(naive_margins(a, b)), 0.0, 10, iterations)
    expected = mass.max(axis=0).sum() + mass.max(axis=1).sum()
    assert verifier(a, b).score == pytest.approx(expected, abs=1e-3)
    assert verifier(a, b).matches.tolist() == PatchVerifier()(a, b).matches.tolist()


@few
@given(seeds, sizes, sizes)
def test_exchanging_the_photos_exchanges_the_matches(seed, n, m):
    a, b = pair(seed, n, m)
    one, other = PatchVerifier()(a, b), PatchVerifier()(b, a)
    assert PatchVerifier().symmetric
    assert one.score == pytest.approx(other.score, abs=1e-5)
    assert one.matches.tolist() == sorted(other.matches[:, ::-1].tolist())


def test_patches_that_the_background_shows_are_no_evidence():
    a, b = pair(0, 12, 12)
    for one in (a, b):
        one.background[:] = 1.01
    result = PatchVerifier()(a, b)
    assert (result.score, result.inliers) == (0, 0)
    assert (
        PatchVerifier("transport", temperature=10)(a, b).score
        < PatchVerifier("transport", temperature=10)(*pair(0, 12, 12)).score
    )


def test_patches_of_the_bottom_are_ignored():
    a, b = pair(3, 12, 12)
    for one in (a, b):
        one.keypoints[:, 1] = [95, 85] * 6
    result = PatchVerifier(ignore_bottom=0.1)(a, b)
    assert len(result.matches)
    assert (result.matches % 2 == 1).all()
    assert len(PatchVerifier(ignore_bottom=0.5)(a, b).matches) == 0


@pytest.mark.parametrize("score", ["margins", "transport"])
def test_a_photo_without_patches_has_the_score_0(score):
    rng = np.random.default_rng(0)
    result = PatchVerifier(score)(photo(rng, 0), photo(rng, 3))
    assert (result.score, result.inliers, result.matches.shape) == (0, 0, (0, 2))


def test_features_without_background_or_of_another_kind_give_one_line():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"no background.*background=own"):
        PatchVerifier()(photo(rng, 3), photo(rng, 3, background=False))
    with pytest.raises(UserError, match="descriptors of 6 and 7 dimensions"):
        PatchVerifier()(photo(rng, 3), photo(rng, 3, dim=7))


@few
@given(seeds, st.integers(2, 30))
def test_evidence_is_the_sum_of_standardised_scores(seed, count):
    rng = np.random.default_rng(seed)
    null = {"cosine": rng.normal(0.5, 0.1, count), "patches": rng.exponential(3, count)}
    scores = {"cosine": rng.normal(0.6, 0.1, 5), "patches": rng.exponential(9, 5)}
    evidence = Evidence.fit(null, {"cosine": 1.0, "patches": 0.5})
    expected = [
        sum(
            weight * (float(scores[name][row]) - null[name].mean()) / null[name].std()
            for name, weight in (("cosine", 1.0), ("patches", 0.5))
        )
        for row in range(5)
    ]
    np.testing.assert_allclose(evidence(scores), expected)
    again = Evidence(**evidence.settings())
    np.testing.assert_array_equal(again(scores), evidence(scores))
    assert Evidence.fit(null)(null).mean() == pytest.approx(0, abs=1e-9)


def test_evidence_names_a_score_that_is_missing_or_constant():
    null = {"cosine": np.array([0.1, 0.2]), "patches": np.array([1.0, 1.0])}
    with pytest.raises(UserError, match="score 'patches' has a spread of 0"):
        Evidence.fit(null)
    evidence = Evidence.fit({"cosine": null["cosine"]})
    with pytest.raises(UserError, match="score 'patches'"):
        evidence(null)
    with pytest.raises(UserError, match="score 'cosine'"):
        evidence({})
