"""Search of the first dimensions against a naive two-stage loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.converted import ConvertedVectors
from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, ExactTorch, Factory, Flat
from landmark.search.recall import measure_recall
from landmark.search.sharded import ShardedSearch


def vectors(seed, rows, dim=8):
    """Return vectors whose first 2, 4 and 8 values have the same length, so that all are exact."""
    random = np.random.default_rng(seed)
    return random.choice([-1.0, 1.0], (rows, dim)).astype("f4")


def naive(query, gallery, k, dims, refine):
    """Rank all photos by the first dimensions, and the best of them by all dimensions."""
    rows, scores = [], []
    for one in query.astype("f8"):
        short = [
            one[:dims] @ photo[:dims] / (np.linalg.norm(one[:dims]) * np.linalg.norm(photo[:dims]))
            for photo in gallery.astype("f8")
        ]
        order = sorted(range(len(gallery)), key=lambda row: (-round(short[row], 9), row))
        if refine:
            whole = [float(one @ photo) for photo in gallery.astype("f8")]
            order = sorted(order[: k * refine], key=lambda row: (-whole[row], row))
            values = [whole[row] for row in order[:k]]
        else:
            values = [short[row] for row in order[:k]]
        pads = k - len(values)
        rows.append(order[:k] + [-1] * pads)
        scores.append(values + [-np.inf] * pads)
    return np.array(rows), np.array(scores)


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    k=st.integers(1, 45),
    dims=st.sampled_from([2, 4, 8]),
    refine=st.integers(0, 4),
    kind=st.sampled_from(["array", "float16", "stacked", "converted"]),
    engine=st.sampled_from(["faiss", "torch"]),
)
@settings(max_examples=60, deadline=None)
def test_two_stages_equal_the_naive_loop(seed, count, k, dims, refine, kind, engine):
    whole, query = vectors(seed, count), vectors(seed + 1, 5)
    gallery = {
        "array": whole,
        "float16": whole.astype("f2"),
        "stacked": StackedVectors([whole[: count // 2].astype("f2"), whole[count // 2 :]]),
        "converted": ConvertedVectors(whole.astype("i1"), 8, lambda rows: rows.astype("f4")),
    }[kind]
    search = Flat("cpu", block_rows=7, engine=engine, dims=dims, refine=refine)
    rows, scores = search.build(gallery).search(query, k)
    expected, expected_scores = naive(query, whole, k, dims, refine)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    "search",
    [
        ExactTorch("cpu", dims=4, refine=3),
        IVF(n_lists=4, n_probe=4, dims=4, refine=3),
        IVFPQ(n_lists=1, n_probe=1, code_bytes=4, dims=4, refine=60),
        HNSW(ef_search=900, dims=4, refine=3),
        Factory("Flat", dims=4, refine=3),
        ShardedSearch(IVF(n_lists=4, n_probe=4, dims=4, refine=3)),
        ShardedSearch(Flat("cpu", dims=4, refine=3)),
    ],
    ids=lambda search: type(search).__name__,
)
def test_every_search_has_both_stages(search):
    gallery, query = np.random.default_rng(0).standard_normal((2, 60, 8)).astype("f4")
    index = search.build(gallery)
    refine = 60 if isinstance(search, IVFPQ) else 3
    expected, scores = naive(query, gallery, 5, 4, refine)
    np.testing.assert_array_equal(index.search(query, 5)[0], expected)
    np.testing.assert_allclose(index.search_wide(query, 5)[1], scores, rtol=1e-5)
    assert index.gallery is gallery
    assert not index.is_exact
    other = index.settings.build(query)
    np.testing.assert_array_equal(
        other.search(gallery, 5)[0], naive(gallery, query, 5, 4, refine)[0]
    )
    assert "search.dims" in index.settings.widened_by
    # The candidates of IVFPQ are all photos.
    assert (measure_recall(index, query, expected, k=5).value < 1) == (refine == 3)


def test_a_saved_index_is_of_the_first_dimensions(tmp_path):
    gallery, query = np.random.default_rng(1).standard_normal((2, 60, 8)).astype("f4")
    path = str(tmp_path / "index")
    built = IVF(n_lists=4, n_probe=4, dims=4, refine=2, index=path).build(gallery)
    opened = IVF(n_lists=4, n_probe=4, dims=4, refine=2, index=path).build(gallery)
    np.testing.assert_array_equal(built.search(query, 5)[0], opened.search(query, 5)[0])
    with pytest.raises(UserError, match="gallery dim"):
        IVF(n_lists=4, n_probe=4, refine=2, index=path).build(gallery)
    with pytest.raises(UserError, match="gallery dim"):
        IVF(n_lists=4, n_probe=4, dims=2, index=path).build(gallery)
    opened.settings.build(query)  # does not write to the folder
    IVF(n_lists=4, n_probe=4, dims=4, index=path).build(gallery)


@pytest.mark.parametrize("kind", [Flat, ExactTorch, IVF, HNSW])
def test_more_dims_than_the_vectors_have_are_refused(kind):
    with pytest.raises(UserError) as error:
        kind(dims=16).build(np.eye(8, dtype="f4"))
    assert str(error.value) == (
        "search.dims=16 is more than the 8 dimensions of the vectors. Pass 8 or less."
    )
    with pytest.raises(UserError, match="more than the 8 dimensions"):
        ShardedSearch(kind(dims=16)).build(np.eye(8, dtype="f4"))


def test_queries_of_another_dimension_are_refused():
    index = Flat(dims=2).build(np.eye(8, dtype="f4"))
    with pytest.raises(ValueError, match="do not match"):
        index.search(np.eye(4, dtype="f4"), 1)
    with pytest.raises(ValueError, match="k=0"):
        index.search(np.eye(8, dtype="f4"), 0)
