"""What faiss cannot build for inner products, or only with noise, is one line or silence."""

import faiss
import numpy as np
import pytest

from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, Auto, Factory, Flat, saved
from landmark.search.recall import measure_recall
from landmark.search.top_k import recall_at_k


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


RANDOM = np.random.default_rng(0)
GALLERY = unit(RANDOM.standard_normal((600, 32)) + 0.3)
QUERY = unit(GALLERY[:40] + 0.1 * RANDOM.standard_normal((40, 32)))


@pytest.mark.parametrize(
    "description",
    ["HNSW16_PQ8", "HNSW16,PQ8", "NSG16,PQ8", "HNSW16_PQ8,RFlat", "HNSW16_2+PQ8", "RR16,HNSW8_PQ4"],
)
def test_an_index_of_l2_distances_is_refused_by_name(description):
    with pytest.raises(UserError, match="for L2 distances, not inner products") as caught:
        Factory(description).build(GALLERY)
    assert description in str(caught.value)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("HNSW0", "HNSW0 is not valid. Pass HNSW with a whole number >= 2"),
        ("HNSW1", ">= 2"),
        ("NSG1", ">= 2"),
        ("IVF0,Flat", "IVF0 is not valid"),
        ("HNSW99999999999", "<= 2147483647"),
        ("PQ8x99", "Pass 1 to 24 bits"),
        ("IDMap,Flat", "IDMap has no use"),
        ("HNSW16,IDMap2", "IDMap has no use"),
    ],
)
def test_a_description_is_checked_before_anything_starts(description, words):
    with pytest.raises(UserError, match=r"search\.description=") as caught:
        Factory(description)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("IVF1000000000,Flat", "rejects training on 600 rows (IVF1000000000 has 1000000000"),
        ("IVF4,PQ8x20", "PQ8x20 has 1048576 clusters"),
        ("PQ5", "its parts must divide the dimension"),
        ("LSH", "it exists for L2 distances only"),
        ("IMI2x4,Flat", "it exists for L2 distances only"),
        ("Flat,Flat", "it is not a faiss factory string"),
        ("PCA64,Flat", "PCA matrix cannot output 64 dimensions from 32"),
        ("IVF4(PQ8x4),Flat", "16 clusters need 16 or more training rows"),
    ],
)
def test_what_faiss_rejects_is_one_line_without_cpp(description, words):
    with pytest.raises(UserError) as caught:
        Factory(description).build(GALLERY)
    text = str(caught.value)
    assert words in text
    assert text.startswith("search.description: ")
    assert not any(word in text for word in ("\n", ".cpp", "faiss::", "failed"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HNSW(ef_search=10**12), "ef_search=1000000000000 is not valid"),
        (lambda: HNSW(ef_construction=2**31), "ef_construction=2147483648"),
        (lambda: HNSW(neighbours=10**9), "neighbours=1000000000"),
        (lambda: IVF(n_probe=2**31), "n_probe=2147483648"),
        (lambda: IVFPQ(n_lists=2**40), "n_lists"),
        (lambda: IVF(seed=2**31), "seed=2147483648"),
        (lambda: Auto(seed=2**31 - 1), "seed=2147483647"),
        (lambda: Factory("HNSW8", parameters={"efSearch": 10**12}), "parameters.efSearch"),
        (lambda: Factory("IVF4,Flat", parameters={"nprobe": 0}), "parameters.nprobe=0"),
        (lambda: Factory("IVF4,Flat", parameters={"nprobe": "all"}), "parameters.nprobe=all"),
        (lambda: Factory("IVF4,Flat", parameters={"nprobe": float("nan")}), "nprobe=nan"),
    ],
)
def test_a_setting_beyond_faiss_s_integers_is_refused(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "search", [HNSW(ef_search=2**31 - 1), Factory("HNSW32", {"efSearch": 2**31 - 1})]
)
def test_the_largest_ef_search_is_exhaustive(search):
    rows, _ = search.build(GALLERY).search(QUERY, 10)
    np.testing.assert_array_equal(rows, Flat(device="cpu").build(GALLERY).search(QUERY, 10)[0])


@pytest.mark.parametrize(
    "description", ["PQ8x4", "IVF4,PQ8x4", "RQ2x4", "RR16,PQ4x4", "OPQ1_4,PQ1x4"]
)
def test_training_on_few_rows_prints_nothing(capfd, description):
    Factory(description).build(GALLERY[:300, :16].copy())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("description", ["PCA16,Flat", "PCAW16,Flat", "L2norm,PCA8,Flat"])
def test_scores_of_centred_vectors_are_inner_products(description):
    rows, scores = Factory(description).build(GALLERY).search(QUERY, 10)
    true = np.take_along_axis(QUERY @ GALLERY.T, rows, axis=1)
    np.testing.assert_allclose(scores, true, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_saved_index_of_another_metric_is_refused(tmp_path):
    path = tmp_path / "index"
    IVF(n_lists=4, index=str(path)).build(GALLERY)
    other = faiss.index_factory(32, "IVF4,Flat", faiss.METRIC_L2)
    other.train(GALLERY)
    other.add(GALLERY)
    faiss.write_index(other, str(path / saved.INDEX))
    with pytest.raises(UserError, match=r"index\.faiss does not match index\.json"):
        IVF(n_lists=4, index=str(path)).build(GALLERY)


@pytest.mark.parametrize(
    "search",
    [IVF(n_lists=20, n_probe=2), HNSW(neighbours=2, ef_search=1), IVFPQ(refine=1, code_bytes=4)],
)
def test_the_recall_is_the_share_of_true_results(search):
    index = search.build(GALLERY)
    rows, _ = index.search(QUERY, 10)
    true, _ = Flat(device="cpu").build(GALLERY).search(QUERY, 10)
    recall = measure_recall(index, QUERY, rows)
    assert recall.value == pytest.approx(recall_at_k(rows, true))
    assert (recall.k, recall.queries) == (10, 40)


def test_the_order_of_ties_does_not_lower_the_recall():
    gallery = np.repeat(GALLERY[:3], 200, 0)
    index = IVF(n_lists=1).build(gallery)
    rows = np.array([[399, 398, 397]])  # exact search returns 200, 201, 202
    assert measure_recall(index, GALLERY[1:2], rows).value == 1
    assert measure_recall(index, GALLERY[1:2], np.array([[399, 0, -1]])).value == pytest.approx(
        1 / 3
    )


def test_an_exact_search_has_no_recall():
    for search in (Flat(device="cpu"), Auto(recall=1)):
        index = search.build(GALLERY)
        rows, _ = index.search(QUERY, 10)
        assert measure_recall(index, QUERY, rows) is None
    index = IVF().build(GALLERY[:0])
    assert measure_recall(index, QUERY, index.search(QUERY, 3)[0]) is None


def test_the_recall_leaves_out_own_photos():
    own = np.arange(40)
    index = IVF(n_lists=20, n_probe=20).build(GALLERY)
    rows, _ = index.search_others(GALLERY[:40], 9, own)
    assert not (rows == own[:, None]).any()
    assert measure_recall(index, GALLERY[:40], rows, own_rows=own).value == 1
