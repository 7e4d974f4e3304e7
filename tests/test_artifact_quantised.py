"""Stores of 8-bit and 1-bit codes: the numbers, the files, and every consumer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact import descriptors
from landmark.artifact.carry_local import link_local
from landmark.artifact.convert import convert
from landmark.artifact.converted import ConvertedVectors
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.ensemble import ensemble
from landmark.artifact.quantised import Quantisation
from landmark.artifact.stacked import StackedVectors
from landmark.cli.store import store as run
from landmark.error import UserError
from landmark.fit.whitening import fit_pca
from landmark.rerank import DBA, EGT, AlphaQE, Diffusion, KReciprocal, SuperGlobal, TwoStage
from landmark.rerank.stores import Stores
from landmark.search import HNSW, IVF, IVFPQ, ExactTorch, Flat, RaBitQ
from landmark.search.sharded import ShardedSearch


def unit_rows(seed, rows, dim=12):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def naive_decoded(vectors, dtype):
    """Quantise number by number, with the rules of `Quantisation`."""
    count, dim = vectors.shape
    decoded = np.empty((count, dim))
    for column in range(dim):
        values = [float(value) for value in vectors[:, column]]
        low, high = min(values), max(values)
        if dtype == "bit":
            mean = sum(values) / count
            below = [value for value in values if value <= mean] or values
            above = [value for value in values if value > mean] or below
            low, high = sum(below) / len(below), sum(above) / len(above)
        steps = 1 if dtype == "bit" else 255
        for row, value in enumerate(values):
            share = (value - low) / (high - low) if high > low else 0.0
            code = min(max(round(share * steps), 0), steps)
            decoded[row, column] = low + (high - low) * code / steps
    return decoded / np.linalg.norm(decoded, axis=1, keepdims=True)


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 9),
    dim=st.integers(1, 19),
    dtype=st.sampled_from(["int8", "bit"]),
)
@settings(max_examples=60, deadline=None)
def test_codes_equal_the_naive_loop(seed, rows, dim, dtype):
    vectors = unit_rows(seed, rows, dim)
    quantisation = Quantisation.fit(vectors, dtype)
    codes = quantisation.encode(vectors)
    assert codes.shape == (rows, dim if dtype == "int8" else -(-dim // 8))
    assert codes.dtype.itemsize == 1
    expected = naive_decoded(vectors, dtype)
    close = np.isclose(quantisation.decode(codes), expected, atol=2e-6)
    assert close.mean() > 0.9  # a value between two codes may round either way
    cosines = (quantisation.decode(codes) * vectors).sum(1)
    assert dtype == "bit" or (cosines > 0.9999).all()


@given(seed=st.integers(0, 99), rows=st.integers(0, 9), data=st.data())
@settings(max_examples=60, deadline=None)
def test_converted_vectors_read_as_an_array(seed, rows, data):
    source = np.random.default_rng(seed).integers(-9, 9, (rows, 3)).astype("i1")
    whole = (source / 2).astype("f4")
    stack = StackedVectors([whole[: rows // 2], ConvertedVectors(source[rows // 2 :], 3, _halved)])
    bounds = st.none() | st.integers(-12, 12)
    keys = [slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1, -2])))]
    keys.append(np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool))
    keys.append(np.array([], int))
    if rows:
        row = st.integers(-rows, rows - 1)
        keys += [data.draw(row), np.array([[data.draw(row)] * 2] * 3)]
    for vectors in (ConvertedVectors(source, 3, _halved), stack):
        assert (vectors.shape, vectors.dtype, vectors.ndim, len(vectors)) == (
            whole.shape,
            np.float32,
            2,
            rows,
        )
        for key in keys:
            np.testing.assert_array_equal(vectors[key], whole[key])
        first, last = sorted(data.draw(st.integers(0, rows)) for _ in range(2))
        np.testing.assert_array_equal(vectors.between(first, last)[:], whole[first:last])
        np.testing.assert_array_equal(np.asarray(vectors, "f8"), whole)
        with pytest.raises(IndexError):
            vectors[rows]


def _halved(rows):
    return rows / np.float32(2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write float stores of 6 landmarks, and their int8 and 1-bit versions in int8/ and bit/."""
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(0)
    centres = random.standard_normal((6, 20))
    for name, photos in (("query", 9), ("gallery", 50), ("train", 70)):
        landmarks = random.integers(0, 6, photos)
        vectors = centres[landmarks] + random.standard_normal((photos, 20))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
        ids = [f"{name}{i}" for i in range(photos)]
        labels = [f"place{n}" for n in landmarks]
        DescriptorStore.write(folder / name, ids, vectors, labels, embedder="abc", table=name)
        for dtype in ("int8", "bit"):
            (folder / dtype).mkdir(exist_ok=True)
            convert(DescriptorStore.open(folder / name), folder / dtype / name, dtype=dtype)
    return folder


@pytest.mark.parametrize("dtype", ["int8", "bit"])
def test_a_store_of_codes_is_read_as_vectors(world, dtype):
    path = world / dtype / "gallery"
    store, whole = DescriptorStore.open(path), DescriptorStore.open(world / "gallery")
    quantisation = Quantisation.fit(whole.vectors, dtype)
    codes = np.load(path / "vectors.npy", mmap_mode="r")
    assert codes.flags.c_contiguous
    np.testing.assert_array_equal(codes, quantisation.encode(whole.vectors))
    np.testing.assert_array_equal(np.load(path / "ranges.npy"), quantisation.ranges)
    np.testing.assert_array_equal(store.vectors[:], quantisation.decode(codes))
    np.testing.assert_array_equal(store.ids, whole.ids)
    np.testing.assert_array_equal(store.landmark_ids, whole.landmark_ids)
    assert (store.dtype, store.dim, len(store), store.is_quantised) == (dtype, 20, 50, True)
    assert (store.meta["schema"], store.settings) == (2, whole.settings)
    assert sorted(one.name for one in path.iterdir()) == [
        "ids.parquet",
        "meta.json",
        "ranges.npy",
        "vectors.npy",
    ]


SEARCHES = [
    Flat("cpu", block_rows=7, engine="faiss"),
    ExactTorch("cpu", block_rows=7),
    Flat("cpu", dims=8, refine=3),
    IVF(n_lists=3, n_probe=2, seed=1),
    IVFPQ(n_lists=2, code_bytes=4, n_probe=2, refine=4),
    RaBitQ(n_lists=2, n_probe=1, refine=4),
    HNSW(refine=2),
    ShardedSearch(Flat("cpu")),
]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: type(search).__name__)
@pytest.mark.parametrize("stacked", [False, True], ids=["store", "stacked"])
def test_a_search_of_codes_is_that_of_their_vectors(world, search, stacked):
    store = DescriptorStore.open(world / "int8" / "gallery")
    query = DescriptorStore.open(world / "query").vectors
    gallery, whole = store.vectors, store.vectors[:]
    if stacked:
        gallery, whole = StackedVectors([query, gallery]), np.concatenate([query, whole])
    rows, scores = search.build(gallery).search(query, 20)
    expected, expected_scores = search.build(whole).search(query, 20)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)


@pytest.mark.parametrize(
    "reranker",
    [
        AlphaQE(n=3),
        DBA(n=3),
        Diffusion(),
        EGT(),
        KReciprocal(k1=5, k2=3),
        SuperGlobal(m=10),
        TwoStage(),
    ],
    ids=lambda reranker: type(reranker).__name__,
)
def test_a_reranking_of_codes_is_that_of_their_vectors(world, tmp_path, reranker):
    names = ("query", "gallery", "train")
    for name in names:
        convert(DescriptorStore.open(world / "int8" / name), tmp_path / name, dtype="float32")
    found, expected = (
        reranker(Stores.open(*(folder / name for name in names)).search(Flat("cpu"), 20))
        for folder in (world / "int8", tmp_path)
    )
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_the_commands_take_codes(world, rerank, recognize, tmp_path):
    stores = [f"{name}={world / 'int8' / name}" for name in ("query", "gallery", "train")]
    chain = "rerank=[dba,alpha_qe,two_stage]"
    status, printed, errors = rerank(*stores, chain, "k=20", f"output={tmp_path / 'rankings'}")
    assert status == 0, errors
    assert "mAP" in printed
    status, printed, errors = recognize(stores[0], stores[2], f"output={tmp_path / 'recognised'}")
    assert status == 0, errors
    meta = json.loads((tmp_path / "rankings/meta.json").read_text())
    assert meta["stores"]["gallery"]["dtype"] == "int8"


def test_other_tools_read_codes(world, tmp_path):
    store = DescriptorStore.open(world / "int8" / "train")
    whitening = fit_pca(store, 5)
    again = fit_pca(DescriptorStore.open(world / "train"), 5)
    np.testing.assert_allclose(whitening.mean, again.mean, atol=1e-2)
    whitening.write(tmp_path / "fitted")
    run(["apply", str(tmp_path / "fitted"), str(store.path), str(tmp_path / "white")])
    np.testing.assert_allclose(
        DescriptorStore.open(tmp_path / "white").vectors, whitening(store.vectors[:]), atol=1e-6
    )
    assert ensemble(tmp_path / "both", [store.path, world / "train"]) == 40
    assert DescriptorStore.open(tmp_path / "both").dtype == "float32"
    with pytest.raises(UserError, match="has int8 codes, whose ranges are of its own photos"):
        run(["join", str(tmp_path / "j"), str(store.path), str(world / "int8" / "gallery")])
    assert not (tmp_path / "j").exists()
    lines = run(["info", str(world / "bit" / "train")]).splitlines()
    assert {"dimension   20", "dtype       bit", "schema      2"} <= set(lines)


def test_apply_writes_codes(world, tmp_path):
    source, output = str(world / "gallery"), str(tmp_path / "out")
    line = run(["apply", source, output, "--dtype", "int8"])
    assert line == (f"wrote {output}: 50 photos, 20 → 20-d, float32 → int8, 0.0 → 0.0 MB")
    before = (tmp_path / "out/vectors.npy").read_bytes()
    with pytest.raises(UserError, match=r"already exists\. Pass --overwrite"):
        run(["apply", source, output, "--dtype", "bit"])
    assert (tmp_path / "out/vectors.npy").read_bytes() == before
    run(["apply", "--dtype", "bit", source, output, "--overwrite"])
    assert DescriptorStore.open(output).dtype == "bit"
    fit_pca(DescriptorStore.open(source), 7).write(tmp_path / "fitted")
    run(["apply", str(tmp_path / "fitted"), source, output, "--dtype", "int8", "--overwrite"])
    run(["apply", str(tmp_path / "fitted"), source, str(tmp_path / "white")])
    codes, white = DescriptorStore.open(output), DescriptorStore.open(tmp_path / "white")
    assert (codes.dim, codes.meta["whitening"]) == (7, white.meta["whitening"])
    assert ((codes.vectors[:] * white.vectors).sum(1) > 0.999).all()
    for dtype in ("float16", "float32"):
        convert(codes, tmp_path / dtype, dtype=dtype)
        np.testing.assert_allclose(
            DescriptorStore.open(tmp_path / dtype).vectors, codes.vectors[:], atol=1e-3
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["STORE", "OUT"], "apply takes other paths than "),
        (["STORE"], "apply takes other paths than "),
        (["STORE", "OUT", "--dtype", "int4"], "argument --dtype: invalid choice: 'int4'"),
        (["OUT", "STORE", "--dtype", "int8"], "STORE already exists. Pass --overwrite"),
    ],
)
def test_wrong_arguments_are_one_line(world, tmp_path, arguments, words):
    places = {"STORE": str(world / "gallery"), "OUT": str(tmp_path / "out")}
    with pytest.raises(UserError) as error:
        run(["apply", *(places.get(one, one) for one in arguments)])
    assert words.replace("STORE already", f"{places['STORE']} already") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion_leaves_nothing(world, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Quantisation, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(DescriptorStore.open(world / "gallery"), tmp_path / "out", dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_version_rejects_codes(world, monkeypatch):
    monkeypatch.setattr(descriptors, "QUANTISED_SCHEMA", 1)
    with pytest.raises(UserError, match=r"was written by a later version .* Update landmark\."):
        DescriptorStore.open(world / "int8" / "gallery")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("ranges.npy", None, "ranges.npy is missing"),
        ("ranges.npy", b"x", "ranges.npy is damaged"),
        ("ranges.npy", np.full((2, 20), np.nan, "f4"), "ranges.npy is damaged"),
        ("ranges.npy", np.zeros((2, 9), "f4"), "int8 codes of 9 dimensions. Write the store"),
        ("ranges.npy", np.zeros((2, 20), "f4"), "has length 0. Descriptors must be"),
        ("vectors.npy", np.zeros((50, 20), "f4"), "has dtype float32 and shape (50, 20), but its"),
        ("vectors.npy", np.zeros((9, 20), "i1"), "has 50 ids in ids.parquet for 9 rows"),
    ],
)
def test_damage_is_one_line(world, tmp_path, name, change, words):
    convert(DescriptorStore.open(world / "gallery"), tmp_path / "s", dtype="int8")
    file = tmp_path / "s" / name
    file.unlink()
    if isinstance(change, bytes):
        file.write_bytes(change)
    elif change is not None:
        np.save(file, change)
    with pytest.raises(UserError) as error:
        _ = DescriptorStore.open(tmp_path / "s").vectors
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_store_is_converted(tmp_path):
    DescriptorStore.write(tmp_path / "s", [], np.empty((0, 3), "f4"))
    for dtype in ("int8", "bit"):
        convert(DescriptorStore.open(tmp_path / "s"), tmp_path / dtype, dtype=dtype)
        assert DescriptorStore.open(tmp_path / dtype).vectors.shape == (0, 3)


def test_local_features_are_kept(world, tmp_path, monkeypatch):
    linked = []
    monkeypatch.setattr(
        "landmark.artifact.convert.link_local", lambda *stores: linked.append(link_local(*stores))
    )
    convert(DescriptorStore.open(world / "gallery"), tmp_path / "s", dtype="int8")
    assert linked == [[]]
