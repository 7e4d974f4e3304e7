"""Inverted lists with our own products against those of faiss."""

import faiss
import numpy as np
import pytest

from landmark.error import UserError
from landmark.search import IVF, IVFPQ, Factory, Flat, blas, coarse, faiss_index
from landmark.search.top_k import recall_at_k


def clustered(seed, rows, dim=32, centres=120):
    """Return unit vectors around random centres; the first rows are queries."""
    random = np.random.default_rng(seed)
    places = random.standard_normal((centres, dim))
    vectors = places[random.integers(0, centres, rows)] + random.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


@pytest.fixture
def own_products(monkeypatch):
    """Take our own products, as on a machine where torch is faster."""
    monkeypatch.setattr(blas, "torch_is_faster", lambda _: True)


def with_faiss(vectors, lists, parameters):
    clustering = faiss.Clustering(vectors.shape[1], lists, parameters)
    clustering.train(vectors, faiss.IndexFlatIP(vectors.shape[1]))
    return faiss.vector_to_array(clustering.centroids).reshape(lists, -1)


@pytest.mark.parametrize(
    ("rows", "lists", "dim", "spherical", "most"),
    [
        (900, 20, 16, True, 256),
        (900, 20, 17, True, 20),  # on a sample
        (60, 60, 8, True, 256),  # as many rows as lists
        (450, 100, 16, False, 256),  # with empty lists, because long centroids attract all rows
        (2000, 200, 12, False, 256),
    ],
)
def test_the_clustering_is_that_of_faiss(rows, lists, dim, spherical, most):
    equal = []
    for seed in range(8):
        vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype("f4")
        if spherical:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        parameters = faiss.ClusteringParameters()
        parameters.niter, parameters.seed, parameters.spherical = 5, 1 + seed, spherical
        parameters.max_points_per_centroid, parameters.min_points_per_centroid = most, 1
        expected = with_faiss(vectors, lists, parameters)
        centroids = coarse.cluster(vectors, lists, parameters)
        equal.append(np.allclose(centroids, expected, atol=1e-5))
        objective, best = ((vectors @ c.T).max(axis=1).sum() for c in (centroids, expected))
        assert objective == pytest.approx(best, rel=0.01)
    # The libraries round products differently, which may decide between two centroids.
    assert sum(equal) >= 7


@pytest.mark.usefixtures("own_products")
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: IVF(n_probe=8, **options),
        lambda **options: IVF(n_probe=8, storage="sq8", **options),
        lambda **options: IVFPQ(n_probe=8, refine=4, code_bytes=8, **options),
    ],
    ids=["float32", "sq8", "pq"],
)
def test_the_recall_is_that_of_faiss(make, monkeypatch):
    own, of_faiss = [], []
    for seed in range(3):
        vectors = clustered(seed, 1600)
        query, gallery = vectors[:100], vectors[100:]
        true, _ = Flat(device="cpu").build(gallery).search(query, 10)
        for recalls, is_own in ((own, True), (of_faiss, False)):
            monkeypatch.setattr(blas, "torch_is_faster", lambda _, is_own=is_own: is_own)
            rows, _ = make(seed=seed, device="cpu").build(gallery).search(query, 10)
            recalls.append(recall_at_k(rows, true))
    assert np.mean(own) == pytest.approx(np.mean(of_faiss), abs=0.01)
    assert np.mean(own) > 0.5


@pytest.mark.usefixtures("own_products")
def test_a_seed_determines_the_index(tmp_path):
    gallery = clustered(0, 2000)
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        IVFPQ(code_bytes=8, seed=seed, index=str(tmp_path / name), device="cpu").build(gallery)
        files.append((tmp_path / name / "index.faiss").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.usefixtures("own_products")
def test_more_lists_to_probe_than_there_are_is_exact_search():
    vectors = clustered(1, 700)
    index = IVF(n_lists=9, n_probe=50, device="cpu").build(vectors)
    rows, _ = index.search(vectors[:50], 10)
    np.testing.assert_array_equal(
        rows, Flat(device="cpu").build(vectors).search(vectors[:50], 10)[0]
    )
    index.settings = index.settings.replaced(n_probe=1)
    assert (index.search(vectors[:50], 10)[0][:, 0] == np.arange(50)).all()


@pytest.mark.usefixtures("own_products")
def test_a_saved_index_is_extended_and_searched_with_own_products(tmp_path):
    vectors, path = clustered(2, 1500), str(tmp_path / "index")
    search = IVF(n_probe=38, index=path, device="cpu")
    search.build(vectors[:1000])
    index = search.build(vectors)
    rows, _ = index.search(vectors[:40], 5)
    assert index._index.ntotal == 1500
    np.testing.assert_array_equal(
        rows, Flat(device="cpu").build(vectors).search(vectors[:40], 5)[0]
    )


@pytest.mark.usefixtures("own_products")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_one_line(value, monkeypatch):
    gallery = clustered(0, 900)
    gallery[5, 3] = value
    messages = []
    for is_own in (True, False):
        monkeypatch.setattr(blas, "torch_is_faster", lambda _, is_own=is_own: is_own)
        with pytest.raises(UserError, match="input contains NaN's or Inf's") as caught:
            IVF(device="cpu").build(gallery)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("own_products")
@pytest.mark.parametrize(
    "description",
    [
        "Flat",
        "HNSW8",
        "PQ4",
        "OPQ4,IVF4,PQ4",
        "PCA16,IVF4,Flat",
        "IVF16_HNSW8,Flat",
        "IVF4(PQ4x4),Flat",
        "IVF4,PQ4x4fs",
    ],
)
def test_other_indexes_stay_with_faiss(description):
    index = faiss.index_factory(32, description, faiss.METRIC_INNER_PRODUCT)
    assert not coarse.is_faster(index, 10**6)
    assert coarse.is_faster(faiss.index_factory(32, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT), 1)
    assert not coarse.is_faster(faiss.index_factory(32, "IVF4,Flat"), 10**6)  # L2


def test_the_work_decides_where_torch_is_faster(monkeypatch):
    """Training compares each row ten times, adding once, and searching each query once."""
    work = []
    monkeypatch.setattr(blas, "torch_is_faster", work.append)
    monkeypatch.setattr(blas, "warn_if_slow", lambda work_: work.append(-work_))
    gallery = clustered(0, 1000)
    IVF(n_lists=20, block_rows=600, device="cpu").build(gallery).search(gallery[:70], 5)
    pairs = 20 * 32
    assert work == [-10_000 * pairs, 10_000 * pairs, 600 * pairs, 400 * pairs, 70 * pairs]


@pytest.mark.usefixtures("own_products")
def test_gpus_cluster_and_search_with_faiss(monkeypatch):
    for name in ("train", "search"):
        monkeypatch.setattr(coarse, name, lambda *_: pytest.fail("own products"))
    gallery = clustered(0, 1000)
    monkeypatch.setattr(faiss_index.gpu, "gpus_of", lambda _: [0])
    monkeypatch.setattr(faiss_index.gpu, "on_gpus", lambda index, _: faiss.clone_index(index))
    monkeypatch.setattr(faiss, "index_cpu_to_gpus_list", lambda index, *_: index, raising=False)
    monkeypatch.setattr(faiss, "GpuParameterSpace", faiss.ParameterSpace, raising=False)
    rows, _ = IVF(n_lists=20, device="cuda").build(gallery).search(gallery[:9], 1)
    assert rows[:, 0].tolist() == list(range(9))


@pytest.mark.usefixtures("own_products")
def test_a_factory_string_of_plain_lists_equals_ivf():
    gallery = clustered(3, 1200)
    ivf = IVF(n_lists=30, n_probe=4, device="cpu").build(gallery)
    factory = Factory("IVF30,Flat", parameters={"nprobe": 4}, device="cpu").build(gallery)
    for one, other in zip(ivf.search(gallery, 7), factory.search(gallery, 7), strict=True):
        np.testing.assert_array_equal(one, other)
