"""Each re-ranker against reference results and against its definition, photo by photo."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.rerank import (
    DBA,
    EGT,
    AlphaQE,
    AQEDecay,
    Diffusion,
    KReciprocal,
    OnlineDiffusion,
    RankFusion,
    SuperGlobal,
    TwoStage,
)
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.voting import Votes, soft_vote, vote
from landmark.score.ground_truth import landmark_codes
from landmark.search import IVF, Flat
from landmark.search.faiss_index import FaissIndex

seeds = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def expected(shared):
    return np.load(shared / "reference/rerank/expected.npz")


@pytest.fixture(scope="module")
def reference(shared):
    inputs = np.load(shared / "reference/rerank/inputs.npz")
    return Retrieval.from_search(
        inputs["query"], inputs["gallery"], 100, Flat(), inputs["train"], inputs["train_landmark"]
    )


def unit(random, rows: int, dim: int = 6) -> np.ndarray:
    vectors = random.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def small_retrieval(seed: int, queries: int, gallery: int, k: int, train: int = 0) -> Retrieval:
    random = np.random.default_rng(seed)
    known = {}
    if train:
        landmarks = random.choice(["arch", "bay", "castle"], train)
        known = {"train": unit(random, train), "train_landmark_ids": landmarks}
    return Retrieval.from_search(
        unit(random, queries), unit(random, gallery), k, Flat(block_rows=16), **known
    )


def searched(query, gallery, k):
    return Flat().build(gallery).search(query, k)


def naive_expansion(descriptor, neighbours, alpha, include):
    summed = descriptor.astype("f8") * include
    for neighbour in neighbours.astype("f8"):
        summed = summed + max(float(descriptor.astype("f8") @ neighbour), 0.0) ** alpha * neighbour
    return summed / np.linalg.norm(summed)


def test_alpha_qe_equals_the_reference(reference, expected):
    for n, alpha in ((10, 3), (5, 0)):
        found = AlphaQE(n=n, alpha=alpha)(reference)
        wanted = expected[f"query_expansion_alpha{alpha}_n{n}"]
        np.testing.assert_allclose(found.query, wanted, atol=1e-6)
        np.testing.assert_array_equal(found.rows, searched(wanted, reference.gallery, 100)[0])


@given(seeds, st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=30, deadline=None)
def test_alpha_qe_equals_its_definition(seed, gallery, n, alpha):
    before = small_retrieval(seed, 5, gallery, 12)
    after = AlphaQE(n=n, alpha=alpha)(before)
    for i, query in enumerate(before.query):
        rows = [row for row in before.rows[i, :n] if row >= 0]
        wanted = naive_expansion(query, before.gallery[rows], alpha, include=True)
        np.testing.assert_allclose(after.query[i], wanted, atol=1e-5)
    rows, scores = searched(after.query, before.gallery, 12)
    np.testing.assert_array_equal(after.rows, rows)
    np.testing.assert_allclose(after.scores, scores, rtol=1e-6)


def test_alpha_qe_needs_enough_results():
    with pytest.raises(UserError, match="Pass k=10 or more"):
        AlphaQE(n=10)(small_retrieval(0, 2, 30, 5))
    AlphaQE(n=10)(small_retrieval(0, 2, 5, 5))  # the complete gallery


@given(seeds, st.integers(1, 40), st.integers(1, 12), st.sampled_from([0.0, 3.0]))
@settings(max_examples=30, deadline=None)
def test_dba_equals_its_definition(seed, gallery, n, alpha):
    before = small_retrieval(seed, 4, gallery, 8)
    after = DBA(n=n, alpha=alpha)(before)
    cosines = before.gallery.astype("f8") @ before.gallery.T.astype("f8")
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :n]
    for i, descriptor in enumerate(before.gallery):
        wanted = naive_expansion(descriptor, before.gallery[nearest[i]], alpha, include=False)
        np.testing.assert_allclose(after.gallery[i], wanted, atol=1e-5)
    np.testing.assert_array_equal(after.query, before.query)
    np.testing.assert_array_equal(after.rows, searched(before.query, after.gallery, 8)[0])


def test_dba_preserves_half_precision():
    random = np.random.default_rng(0)
    gallery = unit(random, 50).astype("f2")
    after = DBA(n=3)(Retrieval.from_search(unit(random, 4), gallery, 9, Flat()))
    assert after.gallery.dtype == np.float16
    whole = DBA(n=3)(Retrieval.from_search(unit(random, 4), gallery.astype("f4"), 9, Flat()))
    np.testing.assert_allclose(after.gallery, whole.gallery, atol=2e-3)


def naive_vote(photo, train, landmarks, k):
    cosines = train.astype("f8") @ photo.astype("f8")
    votes: dict = {}
    for row in np.argsort(-cosines, kind="stable")[:k]:
        votes[landmarks[row]] = votes.get(landmarks[row], 0) + cosines[row] / k
    best = max(votes, key=votes.get)
    return best, votes[best]


def test_soft_votes_equal_the_reference(reference, expected):
    for photos, name in ((reference.query, "query"), (reference.gallery, "gallery")):
        votes = soft_vote(photos, reference.train_index, reference.train_landmark_ids, 3)
        np.testing.assert_array_equal(votes.landmarks, expected[f"vote_{name}_landmark"])
        np.testing.assert_allclose(votes.scores, expected[f"vote_{name}_score"], atol=1e-6)


@given(seeds, st.integers(1, 20), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_soft_votes_equal_their_definition(seed, train, k):
    random = np.random.default_rng(seed)
    photos, known = unit(random, 8), unit(random, train)
    landmarks = random.integers(0, 4, train)
    votes = soft_vote(photos, Flat().build(known), landmarks, k)
    for i, photo in enumerate(photos):
        landmark, score = naive_vote(photo, known, landmarks, k)
        assert votes.landmarks[i] == landmark
        assert votes.scores[i] == pytest.approx(score, abs=1e-6)


@given(
    seed=seeds,
    k=st.integers(1, 6),
    temperature=st.sampled_from([None, 0.07, 0.5]),
    matched=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_votes_with_a_temperature_and_inliers_equal_their_definition(seed, k, temperature, matched):
    random = np.random.default_rng(seed)
    landmarks = random.integers(-1, 3, (8, k))
    cosines = -np.sort(-random.uniform(-1, 1, (8, k)), axis=1)
    inliers = random.integers(0, 140, (8, k)) if matched else None
    voters = np.arange(k) < random.integers(1, k + 1, (8, 1))
    votes = vote(landmarks, cosines, temperature, inliers, voters)
    for i in range(8):
        shares: dict = {}
        for place in np.flatnonzero(voters[i]):
            weight = cosines[i, place]
            if temperature is not None:
                weight = np.exp((weight - 1) / temperature)
            if matched:
                weight += min(inliers[i, place], 70) / 70
            landmark = landmarks[i, place]
            shares[landmark] = shares.get(landmark, 0.0) + weight / k
        assert votes.scores[i] == pytest.approx(max(shares.values()))
        assert shares[votes.landmarks[i]] == pytest.approx(max(shares.values()))


def test_two_stage_applies_the_temperature_to_the_votes():
    before = small_retrieval(0, 6, 60, 20, train=40)
    codes = landmark_codes(before.train_landmark_ids)
    for temperature in (None, 0.05):
        votes = [
            soft_vote(photos, before.train_index, codes, 5, temperature)
            for photos in (before.query, before.gallery)
        ]
        two_stage = TwoStage(k=5, temperature=temperature)
        wanted, _ = two_stage.rerank(before.rows, before.scores, *votes)
        np.testing.assert_array_equal(two_stage(before).rows, wanted)


def test_two_stage_equals_the_reference(reference, expected):
    for threshold, name in ((None, "0"), (0.6, "06"), (1.2, "12")):
        found = TwoStage(threshold=threshold)(reference)
        np.testing.assert_array_equal(found.rows, expected[f"two_stage_threshold{name}"])


def naive_two_stage(row, query, gallery, threshold, sort, insert):
    """Return the new ranking of one query (landmark, score)."""
    landmark, score = query
    listed = [r for r in row if r >= 0]
    positives = [r for r in listed if gallery.landmarks[r] == landmark]
    others = [r for r in listed if gallery.landmarks[r] != landmark]
    if not sort:
        cut = 1 + max((listed.index(r) for r in positives), default=-1)
        positives, others = listed[:cut], listed[cut:]
    new = [
        r
        for r in range(len(gallery.landmarks))
        if insert
        and gallery.landmarks[r] == landmark
        and r not in listed
        and (threshold is None or score + gallery.scores[r] > threshold)
    ]
    new.sort(key=lambda r: (-gallery.scores[r], r))
    ranking = (positives + new + others)[: len(row)]
    return ranking + [-1] * (len(row) - len(ranking))


@given(
    seed=seeds,
    gallery=st.integers(1, 60),
    k=st.integers(1, 20),
    threshold=st.sampled_from([None, 0.6, 1.2]),
    sort=st.booleans(),
    insert=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_two_stage_equals_its_definition(seed, gallery, k, threshold, sort, insert):
    random = np.random.default_rng(seed)
    before = small_retrieval(seed, 7, gallery, k)
    query, voted = (
        Votes(random.integers(0, 5, n), random.integers(-2, 10, n) / 8) for n in (7, gallery)
    )
    two_stage = TwoStage(threshold=threshold, sort=sort, insert=insert)
    rows, scores = two_stage.rerank(before.rows, before.scores, query, voted)
    for i, row in enumerate(before.rows.tolist()):
        vote = (query.landmarks[i], query.scores[i])
        assert rows[i].tolist() == naive_two_stage(row, vote, voted, threshold, sort, insert)
        listed = scores[i][rows[i] >= 0]
        assert np.isfinite(listed).all()
        assert (np.diff(listed) <= 0).all()
    assert (scores[rows < 0] == -np.inf).all()


def test_two_stage_needs_train_photos():
    with pytest.raises(UserError, match="Pass train=STORE"):
        TwoStage()(small_retrieval(0, 2, 9, 5))
    known = small_retrieval(0, 2, 9, 5, train=4)
    with pytest.raises(UserError, match="no photo of train=STORE has a landmark"):
        TwoStage()(replace(known, train_landmark_ids=np.array(["", None, "", ""], object)))


def test_rerankers_chain_and_do_not_modify_their_input():
    before = small_retrieval(0, 6, 40, 10, train=30)
    copies = before.query.copy(), before.gallery.copy(), before.rows.copy(), before.scores.copy()
    after = TwoStage()(AlphaQE(n=3)(DBA(n=3)(before)))
    for value, copy in zip(
        (before.query, before.gallery, before.rows, before.scores), copies, strict=True
    ):
        np.testing.assert_array_equal(value, copy)
    assert after.rows.shape == before.rows.shape
    assert all(len(set(row)) == len(row) for row in after.rows.tolist())
    assert after.train is before.train


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AlphaQE(n=0), "AlphaQE: n=0 is not valid. Pass a whole number > 0"),
        (lambda: AlphaQE(n=2.5), "AlphaQE: n=2.5 is not valid. Pass a whole number"),
        (lambda: AlphaQE(alpha=-1), "AlphaQE: alpha=-1 is not valid. Pass a number >= 0"),
        (lambda: AlphaQE(alpha=float("nan")), "AlphaQE: alpha=nan is not valid. Pass a number"),
        (lambda: AQEDecay(n=True), "AQEDecay: n=true is not valid. Pass a whole number"),
        (lambda: DBA(n=0), "DBA: n=0"),
        (lambda: Diffusion(n_trunc=0), "Diffusion: n_trunc=0"),
        (lambda: Diffusion(kd=1), "Diffusion: kd=1 is not valid. Pass a whole number >= 2"),
        (lambda: Diffusion(alpha=1.0), "Diffusion: alpha=1.0 is not .* number >= 0 and < 1"),
        (lambda: Diffusion(iterations=0), "Diffusion: iterations=0"),
        (lambda: OnlineDiffusion(kq=0), "OnlineDiffusion: kq=0"),
        (lambda: EGT(k=0), "EGT: k=0"),
        (lambda: EGT(threshold="high"), "EGT: threshold=high is not valid. Pass a number"),
        (lambda: EGT(threshold=-2), "EGT: threshold=-2 is not valid. Pass a number >= -1"),
        (lambda: KReciprocal(k1=0), "KReciprocal: k1=0"),
        (lambda: KReciprocal(lambda_value=2), "KReciprocal: lambda_value=2"),
        (lambda: SuperGlobal(beta=-0.1), "SuperGlobal: beta=-0.1"),
        (lambda: RankFusion(method="sum"), "RankFusion: method=sum .* reciprocal_rank, score_sum"),
        (lambda: RankFusion(steps="egt"), "RankFusion: steps=egt is not valid. Pass a list"),
        (lambda: TwoStage(k=0), "TwoStage: k=0"),
        (lambda: TwoStage(threshold="x"), "TwoStage: threshold=x is not valid. Pass a number"),
        (lambda: TwoStage(threshold=float("inf")), "TwoStage: threshold=inf is not valid"),
        (lambda: TwoStage(temperature=0), "TwoStage: temperature=0 is not .* number >= 0.0001"),
    ],
)
def test_settings_out_of_range_are_named(make, words):
    with pytest.raises(UserError, match=f"^{words}"):
        make()


def test_a_retrieval_must_be_consistent():
    good = small_retrieval(0, 3, 9, 4)
    with pytest.raises(ValueError, match="do not match"):
        Retrieval(good.query, good.gallery, good.rows[:2], good.scores)
    with pytest.raises(ValueError, match="differ"):
        Retrieval(good.query[:, :2], good.gallery, good.rows, good.scores)
    with pytest.raises(ValueError, match=r"index of \(8, 6\) and gallery \(9, 6\) differ"):
        replace(good, index=Flat().build(good.gallery[1:]))
    with pytest.raises(ValueError, match="must be passed together"):
        Retrieval(good.query, good.gallery, good.rows, good.scores, train=good.gallery)


def test_a_retrieval_searches_exactly_where_it_has_no_index():
    good = small_retrieval(0, 3, 9, 4)
    bare = Retrieval(good.query, good.gallery, good.rows, good.scores)
    np.testing.assert_array_equal(bare.searched().rows, good.rows)


def test_another_gallery_gets_an_index_of_the_same_kind_and_the_old_one_is_freed(tmp_path):
    photos = unit(np.random.default_rng(0), 70)
    search = IVF(n_lists=2, n_probe=2, index=str(tmp_path / "index"))
    before = Retrieval.from_search(photos[:5], photos[5:], 9, search)
    old = weakref.ref(before.index._index)
    saved = (tmp_path / "index/index.json").read_bytes()
    after = before.searched(gallery=photos[:-5])
    assert isinstance(after.index, FaissIndex)
    assert after.index.gallery is after.gallery
    np.testing.assert_array_equal(after.rows, searched(photos[:5], photos[:-5], 9)[0])
    assert (tmp_path / "index/index.json").read_bytes() == saved
    assert old() is not None
    del before
    assert old() is None


def test_the_train_index_is_built_once_for_all_steps(monkeypatch):
    built = []
    build = IVF.build
    monkeypatch.setattr(
        IVF, "build", lambda search, gallery: built.append(gallery) or build(search, gallery)
    )
    random = np.random.default_rng(0)
    train, landmarks = unit(random, 30), random.integers(0, 4, 30)
    retrieval = Retrieval.from_search(
        unit(random, 4), unit(random, 50), 9, IVF(n_lists=1), train, landmarks
    )
    assert [gallery is train for gallery in built] == [False]
    after = TwoStage()(AlphaQE(n=2)(DBA(n=2)(TwoStage()(retrieval))))
    assert after.train_index is retrieval.train_index
    assert sum(gallery is train for gallery in built) == 1
    other = replace(after, train=train[:9], train_landmark_ids=landmarks[:9])
    assert other.train_index.gallery is other.train
