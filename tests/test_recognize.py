"""Votes, suppression, class centres and demotion equal naive loops over photos."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.recognize import Recognizer
from landmark.recognize.centres import centre_cosines, head_centres, mean_centres
from landmark.recognize.recognizer import demoted
from landmark.recognize.suppression import mean_similarity
from landmark.recognize.votes import count_votes
from landmark.search import Flat


def unit(random, count, dim=6):
    vectors = random.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def world(seed, queries=5, photos=24, landmarks=4):
    random = np.random.default_rng(seed)
    codes = random.integers(-1, landmarks, photos)
    return random, unit(random, queries), unit(random, photos), codes


def naive(query, train, codes, k, temperature, rival, own=-1, distractors=None, own_distractor=-1):
    """Return landmark and score of one query by a loop over all train photos."""

    def nearest(photo, n, left_out=-1):
        cosines = [float(photo @ other) for row, other in enumerate(distractors) if row != left_out]
        return np.mean(sorted(cosines, reverse=True)[:n])

    weights = []
    for row, photo in enumerate(train):
        if codes[row] < 0 or row == own:
            continue
        cosine = float(query @ photo)
        if distractors is not None:
            weight = max(cosine, 0) - nearest(photo, 5)
        else:
            weight = 1 - float(((query - photo) ** 2).sum()) if temperature is None else cosine
        weights.append((weight, int(codes[row])))
    weights = sorted(weights, reverse=True)[:k]
    by_landmark = defaultdict(list)
    for weight, code in weights:
        by_landmark[code].append(weight)
    if temperature is None:
        votes = {code: sum(own) for code, own in by_landmark.items()}
    else:
        votes = {
            code: temperature * math.log(sum(math.exp(one / temperature) for one in own))
            for code, own in by_landmark.items()
        }
    winner, *others = sorted(votes, key=votes.get, reverse=True)
    second = votes[others[0]] if others else min(weights)[0]
    score = votes[winner] - rival * second
    if distractors is not None:
        score -= nearest(query, 10, own_distractor)
    return winner, score


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    k=st.integers(1, 12),
    temperature=st.sampled_from([None, 0.05, 0.5]),
    rival=st.sampled_from([0, 0.5]),
    with_distractors=st.booleans(),
)
def test_votes_equal_a_loop_over_the_train_photos(seed, k, temperature, rival, with_distractors):
    random, query, train, codes = world(seed)
    if not (codes >= 0).any():
        return
    distractors = unit(random, 14) if with_distractors else None
    own, own_distractor = random.integers(-1, 24, 5), random.integers(-1, 14, 5)
    recognizer = Recognizer(k=k, candidates=24, temperature=temperature, rival=rival)
    found = recognizer(
        query,
        Flat(device="cpu").build(train),
        codes,
        own_rows=own,
        distractors=None if distractors is None else Flat(device="cpu").build(distractors),
        own_distractor_rows=own_distractor,
    )
    for row in range(5):
        if not any(codes[one] >= 0 and one != own[row] for one in range(24)):
            continue
        winner, score = naive(
            query[row].astype(float),
            train.astype(float),
            codes,
            k,
            temperature,
            rival,
            own[row],
            None if distractors is None else distractors.astype(float),
            own_distractor[row],
        )
        assert found.landmarks[row] == winner
        assert found.scores[row] == pytest.approx(score, abs=1e-5)
        assert own[row] not in found.voters[row].tolist() or own[row] < 0
        voters = found.voters[row][found.voters[row] >= 0]
        assert (codes[voters] >= 0).all()


def test_a_small_temperature_does_not_underflow():
    codes, weights = np.array([[2, 5, 5, -1]]), np.array([[0.9, -0.9, -0.9, 7.0]])
    ballot = count_votes(codes, weights, 1e-4)
    assert ballot.landmarks.tolist() == [2]
    assert ballot.scores[0] == pytest.approx(0.9)
    assert ballot.rivals[0] == pytest.approx(-0.9, abs=1e-3)


def test_a_query_without_a_voter_has_no_prediction():
    train = Flat(device="cpu").build(np.eye(2, dtype="f4"))
    found = Recognizer(k=2)(np.eye(2, dtype="f4"), train, np.array([-1, -1]))
    assert found.landmarks.tolist() == [-1, -1]
    assert np.isneginf(found.scores).all()
    assert (found.voters == -1).all()


def test_inliers_reorder_the_verified_candidates():
    random, query, train, codes = world(3, photos=20)
    codes = np.abs(codes)
    inliers = random.integers(0, 120, (5, 20))
    seen = []

    def count(pairs):
        seen.extend(map(tuple, pairs.tolist()))
        return inliers[pairs[:, 0], pairs[:, 1]]

    recognizer = Recognizer(k=2, verified=6, inliers=2.0, temperature=None, rival=0)
    found = recognizer(query, Flat(device="cpu").build(train), codes, count_inliers=count)
    cosines = query.astype(float) @ train.T.astype(float)
    for row in range(5):
        verified = np.argsort(-cosines[row])[:6]
        assert {one for one in seen if one[0] == row} == {(row, one) for one in verified.tolist()}
        weights = 2 * cosines[row, verified] - 1
        weights = weights + 2 * np.minimum(inliers[row, verified], 70) / 70
        best = np.argsort(-weights)[:2]
        assert found.voters[row].tolist() == verified[best].tolist()
        assert found.inliers[row].tolist() == inliers[row, verified[best]].tolist()
        votes = Counter()
        for weight, photo in zip(weights[best], verified[best], strict=True):
            votes[codes[photo]] += weight
        assert found.scores[row] == pytest.approx(max(votes.values()), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), block=st.sampled_from([3, 8192]))
def test_class_centres_equal_the_mean_of_their_photos(seed, block):
    random, query, train, codes = world(seed, photos=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landmark.recognize.centres._BLOCK_ROWS", block)
        centres = mean_centres(train, codes)
    for code in range(len(centres)):
        own = train[codes == code].astype(float)
        expected = own.sum(axis=0) / np.linalg.norm(own.sum(axis=0)) if len(own) else 0 * train[0]
        np.testing.assert_allclose(centres[code], expected, atol=1e-5)
    asked = random.integers(-1, len(centres), (5, 3))
    expected = np.where(asked < 0, 0, np.einsum("qcd,qd->qc", centres[asked], query))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landmark.recognize.centres._BLOCK_VALUES", block)
        np.testing.assert_allclose(centre_cosines(query, centres, asked), expected, atol=1e-6)
    subcentres = np.stack([centres, -centres], axis=1)
    np.testing.assert_allclose(
        centre_cosines(query, subcentres, asked), np.abs(expected), atol=1e-6
    )


def test_class_centres_add_to_the_weights():
    _, query, train, codes = world(5)
    codes = np.abs(codes)
    index, centres = Flat(device="cpu").build(train), mean_centres(train, codes)
    plain = Recognizer(k=1, temperature=None, rival=0, candidates=24)(query, index, codes)
    found = Recognizer(k=1, temperature=None, rival=0, candidates=24, centres=3.0)(
        query, index, codes, centres=centres
    )
    weights = 2 * query @ train.T - 1 + 3 * (query @ centres.T)[:, codes]
    assert found.voters[:, 0].tolist() == weights.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.scores, weights.max(axis=1), atol=1e-5)
    assert (found.scores != plain.scores).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(1, 9), block=st.sampled_from([2, 65536]))
def test_mean_similarity_equals_a_sort(seed, n, block):
    random = np.random.default_rng(seed)
    photos, distractors = unit(random, 7), unit(random, 6)
    rows, own = random.permutation(7)[:4], random.integers(-1, 6, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landmark.recognize.suppression._BLOCK_ROWS", block)
        found = mean_similarity(photos, Flat(device="cpu").build(distractors), n, rows, own)
    for place, row in enumerate(rows):
        others = np.delete(distractors, own[place], axis=0) if own[place] >= 0 else distractors
        expected = np.sort(photos[row] @ others.T)[::-1][:n].mean()
        assert found[place] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), limit=st.integers(2, 6))
def test_frequent_landmarks_go_below_all_others_in_order_of_their_frequency(seed, limit):
    random = np.random.default_rng(seed)
    codes, scores = random.integers(-1, 5, 20), random.uniform(-3, 3, 20)
    scores[codes < 0] = -np.inf
    found = demoted(codes, scores, limit)
    counts = Counter(codes[codes >= 0].tolist())
    frequent = np.array([code >= 0 and counts[code] >= limit for code in codes])
    np.testing.assert_array_equal(found[~frequent], scores[~frequent])
    rest = found[~frequent & (codes >= 0)]
    assert not frequent.any() or not len(rest) or found[frequent].max() < rest.min()
    for one in np.flatnonzero(frequent):
        for other in np.flatnonzero(frequent):
            assert (found[one] < found[other]) == (counts[codes[one]] > counts[codes[other]])


def test_wrong_settings_are_refused():
    for wrong in ({"k": 0}, {"rival": 2}, {"temperature": 0}, {"demote": 1}, {"inliers": -1}):
        with pytest.raises(UserError, match=f"Recognizer: {next(iter(wrong))}="):
            Recognizer(**wrong)


def saved_head(folder, weight, classes):
    """Write a checkpoint with the head of a run, and the run's list of classes."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "embedder").mkdir()
    checkpoint = folder / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {} if weight is None else {"loss.weight": weight}}, checkpoint)
    rows = "".join(f"{label},{name}\n" for label, name in enumerate(classes))
    (folder / "embedder" / "classes.csv").write_text(f"label,landmark_id\n{rows}")
    return checkpoint


def test_the_centres_of_a_trained_head_are_those_of_its_landmarks(tmp_path):
    weight = torch.arange(1.0, 25).reshape(6, 4)  # 3 classes, 2 sub-centres
    head = saved_head(tmp_path / "run", weight, ["bay", "arch", "gate"])
    centres = head_centres(head, np.array(["arch", "tower", "bay"]), dim=4)
    expected = weight.numpy() / np.linalg.norm(weight.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(centres[0], expected[2:4], atol=1e-6)
    np.testing.assert_allclose(centres[1], 0)
    np.testing.assert_allclose(centres[2], expected[:2], atol=1e-6)


def test_a_head_that_does_not_fit_is_one_line(tmp_path):
    names = np.array(["arch"])
    head = saved_head(tmp_path / "run", torch.ones(2, 4), ["bay", "gate"])
    with pytest.raises(UserError, match="centres of 4 dimensions, and the descriptors have 6"):
        head_centres(head, names, dim=6)
    with pytest.raises(UserError, match="knows none of the landmarks"):
        head_centres(head, names, dim=4)
    without = saved_head(tmp_path / "other", None, ["arch"])
    with pytest.raises(UserError, match="has no class centres"):
        head_centres(without, names, dim=4)
    with pytest.raises(UserError, match="is not an embedder of a finished run"):
        head_centres(tmp_path / "run" / "embedder", names, dim=4)
