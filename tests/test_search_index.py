"""Approximate searches against faiss, and against exact search where they probe everything."""

import weakref

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, Factory, Flat, RaBitQ, blas
from landmark.search.faiss_index import FaissSearch
from landmark.search.top_k import recall_at_k, rescore


def unit_rows(seed, rows, dim=16):
    """Return vectors of about unit length, rounded so that inner products are exact in float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.round(256 * vectors) / 256).astype("f4")


GALLERY, QUERY = unit_rows(0, 900), unit_rows(1, 40)


def search_with_faiss(description, parameters, seed, rows, centres=None):
    """Search with faiss only: train on the documented sample and add all rows in one call.

    `centres` replace those of faiss, which they must equal up to rounding.
    """
    index = faiss.index_factory(16, description, faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(seed).choice(900, rows, replace=False, shuffle=False)
    if (ivf := faiss.try_extract_index_ivf(index)) is not None:
        ivf.cp.seed = 1 + seed
    index.train(np.ascontiguousarray(GALLERY[np.sort(drawn)]))
    if centres is not None:
        np.testing.assert_allclose(ivf.quantizer.reconstruct_n(), centres, atol=3e-7)
        ivf.quantizer.reset()
        ivf.quantizer.add(centres)
    index.add(GALLERY)
    faiss.ParameterSpace().set_index_parameters(index, parameters)
    scores, found = index.search(QUERY, 25)
    return found, scores


@pytest.mark.parametrize(
    ("search", "description", "parameters"),
    [
        (IVF(n_lists=20, n_probe=3), "IVF20,Flat", "nprobe=3"),
        (IVF(n_lists=20, n_probe=3, storage="float16"), "IVF20,SQfp16", "nprobe=3"),
        (IVF(n_lists=20, n_probe=3, storage="sq8"), "IVF20,SQ8", "nprobe=3"),
        (IVF(n_probe=5, train_rows=700, seed=3), "IVF23,Flat", "nprobe=5"),
        (IVFPQ(n_lists=8, n_probe=4, code_bytes=8, refine=0), "IVF8,PQ8np", "nprobe=4"),
        (IVFPQ(refine=0, n_probe=6), "IVF23,PQ2np", "nprobe=6"),
        (RaBitQ(n_lists=8, n_probe=4, refine=0), "RR,IVF8,RaBitQ", "nprobe=4"),
        (RaBitQ(bits=4, n_probe=6, refine=0), "RR,IVF23,RaBitQ4", "nprobe=6"),
        (RaBitQ(fast_scan=True, n_lists=8, n_probe=8, refine=0), "RR,IVF8,RaBitQfs", "nprobe=8"),
        (Factory(["IVF12", "SQ4"], parameters={"nprobe": 2}), "IVF12,SQ4", "nprobe=2"),
        (Factory("SQ8"), "SQ8", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("own_products", [False, True], ids=["faiss", "own"])
def test_an_index_equals_faiss(search, description, parameters, own_products, monkeypatch):
    monkeypatch.setattr(blas, "torch_is_faster", lambda _: own_products)
    search.block_rows = 128
    index = search.build(GALLERY)
    rows, scores = index.search(QUERY, 25)
    drawn, centres = search.train_rows or 900, None
    if own_products and isinstance(search, RaBitQ):  # its codes multiply the rounding of centres
        centres = faiss.extract_index_ivf(index._index).quantizer.reconstruct_n()
    expected, expected_scores = search_with_faiss(
        description, parameters, search.seed, drawn, centres
    )
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores[expected < 0], -np.inf)
    np.testing.assert_allclose(scores[expected >= 0], expected_scores[expected >= 0], atol=1e-6)
    # Photos with the same code have the same score; only their order may differ.
    for own, other, values in zip(rows, expected, scores, strict=True):
        tied = np.isin(values, values[1:][values[1:] == values[:-1]])
        tied |= values == values[-1]  # the tie may continue after the last one
        np.testing.assert_array_equal(own[~tied], other[~tied])


@pytest.mark.parametrize(
    "search",
    [
        IVF(n_lists=20, n_probe=20),
        IVF(n_lists=20, n_probe=20, storage="float16", refine=2),
        IVF(n_lists=20, n_probe=20, storage="sq8", refine=3),
        IVFPQ(n_lists=4, n_probe=4, code_bytes=8, refine=20),
        RaBitQ(n_lists=4, n_probe=4, refine=90),
        RaBitQ(n_lists=4, n_probe=4, bits=9, fast_scan=True, refine=20),
        HNSW(ef_search=900, ef_construction=200),
        HNSW(ef_search=900, storage="sq8", refine=5),
        Factory("OPQ4_8,IVF8,PQ4np", parameters={"nprobe": 8}, refine=90),
    ],
    ids=lambda search: f"{type(search).__name__}-{search.refine}",
)
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_an_index_that_probes_everything_is_exact(search, dtype):
    gallery = GALLERY.astype(dtype)
    rows, scores = search.build(gallery).search(QUERY, 10)
    expected, expected_scores = Flat(device="cpu").build(gallery).search(QUERY, 10)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-3 if not search.refine else 1e-6)


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    queries=st.integers(0, 9),
    k=st.integers(1, 70),
    kind=st.sampled_from([IVF, HNSW, IVFPQ, RaBitQ]),
    stacked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_gallery_of_any_size_is_indexed(seed, count, queries, k, kind, stacked):
    """With refine the scores are exact; few photos make one list, so all are returned."""
    gallery = np.random.default_rng(seed).integers(-2, 3, (count, 6)).astype("f4")
    query = np.random.default_rng(seed + 1).integers(-2, 3, (queries, 6)).astype("f4")
    products = query.astype("f8") @ gallery.astype("f8").T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    given_gallery = gallery
    if stacked:
        given_gallery = StackedVectors([gallery[: count // 2].astype("f2"), gallery[count // 2 :]])
    rows, scores = kind(refine=count).build(given_gallery).search(query, k)
    assert rows.shape == scores.shape == (queries, k)
    found = min(k, count)
    assert (rows[:, found:] == -1).all()
    assert (scores[:, found:] == -np.inf).all()
    if kind is not HNSW:  # a graph of equal photos need not be connected
        np.testing.assert_array_equal(rows[:, :found], expected)
        np.testing.assert_array_equal(scores[:, :found], np.take_along_axis(products, expected, 1))


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), more=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_candidates_are_sorted_by_exact_scores(seed, k, more):
    random = np.random.default_rng(seed)
    gallery = random.integers(-2, 3, (30, 4)).astype("f2")
    query = random.integers(-2, 3, (5, 4)).astype("f4")
    candidates = np.array([random.permutation(30)[: k + more] for _ in range(5)])
    candidates[random.random(candidates.shape) < 0.2] = -1
    rows, scores = rescore(query, gallery, candidates, k)
    for number in range(5):
        listed = [
            (-float(query[number] @ gallery[row].astype("f4")), int(row))
            for row in candidates[number]
            if row >= 0
        ]
        best = sorted(listed)[:k]
        best += [(np.inf, -1)] * (k - len(best))
        assert rows[number].tolist() == [row for _, row in best]
        assert scores[number].tolist() == [-score for score, _ in best]


def test_an_index_builds_the_same_kind_for_another_gallery():
    index = IVF(n_lists=1, refine=2).build(GALLERY)
    assert index.gallery is GALLERY
    train = unit_rows(5, 300)
    other = index.settings.build(train)
    for built, gallery in ((index, GALLERY), (other, train)):
        expected = Flat().build(gallery).search(QUERY, 3)
        np.testing.assert_array_equal(built.search(QUERY, 3)[0], expected[0])
    assert (other.settings.n_lists, other.settings.refine) == (1, 2)


@pytest.mark.parametrize("search", [Flat(), IVF(n_lists=1), HNSW()], ids=lambda s: type(s).__name__)
def test_an_index_is_freed_with_its_variable(search):
    gallery = GALLERY.copy()
    index = search.build(gallery)
    index.search(QUERY, 3)
    references = [weakref.ref(value) for value in (index, gallery)]
    if isinstance(search, FaissSearch):
        references.append(weakref.ref(index._index))
    del index, gallery
    assert [reference() for reference in references] == [None] * len(references)


def test_an_empty_gallery_builds_an_empty_index():
    rows, scores = IVFPQ(n_lists=3, code_bytes=4).build(GALLERY[:0]).search(QUERY, 2)
    assert (rows == -1).all()
    assert (scores == -np.inf).all()


def test_wider_settings_double_until_everything_is_probed():
    search, seen = IVF(n_lists=10, n_probe=3, refine=2), []
    while search is not None:
        seen.append((search.n_probe, search.refine))
        search = search.wider(rows=100, k=10)
    assert seen == [(3, 2), (6, 4), (12, 8), (12, 16)]


def search_of_no_lists():
    return Factory("Flat", parameters={"nprobe": 3}).build(GALLERY)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IVF(n_lists=0), "n_lists=0"),
        (lambda: IVF(n_probe=0), "n_probe=0"),
        (
            lambda: IVF(storage="float8"),
            r"storage=float8 is not .* one of float32, float16, sq8",
        ),
        (lambda: IVF(refine=-1), "refine=-1"),
        (lambda: IVF(device="gpu"), "device=gpu"),
        (lambda: HNSW(train_rows=0), "train_rows=0"),
        (lambda: IVFPQ(seed=-1), "seed=-1"),
        (lambda: HNSW(neighbours=1), "neighbours=1"),
        (lambda: HNSW(ef_search=0), "ef_search=0"),
        (lambda: IVFPQ(code_bytes=5).build(GALLERY), "code_bytes=5 does not divide.*1, 2, 4"),
        (lambda: Factory("IVF4,Nonsense").build(GALLERY), "rejects IVF4,Nonsense"),
        (lambda: Factory("PQ4x10").build(GALLERY), "rejects training on 900 rows.*1024"),
        (lambda: search_of_no_lists().search(QUERY, 3), "rejects nprobe=3"),
    ],
)
def test_an_invalid_setting_is_named(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_seed_determines_the_index():
    gallery = unit_rows(7, 2000)
    found = [IVFPQ(refine=0, seed=seed).build(gallery).search(QUERY, 20)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_defaults_give_39_photos_per_list():
    lists = [IVF().factory_string(rows, 16) for rows in (1, 38, 78, 1000, 100_000)]
    assert lists == ["IVF1,Flat", "IVF1,Flat", "IVF2,Flat", "IVF25,Flat", "IVF1265,Flat"]
    sizes = [
        IVFPQ().factory_string(1, dim).partition("PQ")[2].removesuffix("np")
        for dim in (512, 100, 7, 3072)
    ]
    assert sizes == ["64", "10", "1", "384"]


@pytest.mark.parametrize("dim", [16, 21])
@pytest.mark.parametrize("fast_scan", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 9])
def test_bytes_of_rabitq_are_those_of_faiss(bits, fast_scan, dim):
    search = RaBitQ(bits=bits, fast_scan=fast_scan)
    description = search.factory_string(100, dim)
    index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
    assert faiss.extract_index_ivf(index).code_size == search.bytes_of(dim)


@pytest.mark.parametrize("bits", [0, 10, 1.5])
def test_bits_of_rabitq_are_checked(bits):
    with pytest.raises(UserError, match=f"RaBitQ: bits={bits} is not valid. Pass a whole number"):
        RaBitQ(bits=bits)


def test_more_bits_of_rabitq_raise_the_recall():
    gallery, query = (
        np.random.default_rng(seed).standard_normal((rows, 64)).astype("f4")
        for seed, rows in ((0, 600), (1, 30))
    )
    expected, _ = Flat().build(gallery).search(query, 10)
    recalls = []
    for bits in (1, 3, 9):
        index = RaBitQ(bits=bits, n_lists=4, n_probe=4, refine=0).build(gallery)
        recalls.append(recall_at_k(index.search(query, 10)[0], expected))
    assert 0.3 < recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] > 0.98
