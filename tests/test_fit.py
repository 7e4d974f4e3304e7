"""Whitenings equal a singular value decomposition and naive loops over pairs of photos."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact import vectors as vectors_module
from landmark.artifact.convert import convert
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.whitening import Whitening
from landmark.error import UserError
from landmark.fit.whitening import fit_learned, fit_pca
from landmark.rerank.stores import Stores


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path, vectors, landmarks=None, **meta):
    ids = [f"p{row}" for row in range(len(vectors))]
    DescriptorStore.write(path, ids, vectors, landmarks, **{"embedder": "e", **meta})
    return DescriptorStore.open(path)


def cloud(seed, count=60, dim=5, landmarks=None):
    """Return unit vectors with different variances around a mean that is not zero."""
    random = np.random.default_rng(seed)
    spread = random.standard_normal((dim, dim)) * np.linspace(1, 0.3, dim)
    points = random.standard_normal((count, dim)) @ spread + random.standard_normal(dim)
    if landmarks is not None:
        points = points * 0.4 + 2 * random.standard_normal((landmarks.max() + 1, dim))[landmarks]
    return unit(points).astype("float32")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), dim=st.integers(1, 5), blocks=st.sampled_from([7, 8192]))
def test_pca_equals_a_singular_value_decomposition(tmp_path_factory, seed, dim, blocks):
    x = cloud(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module.row_blocks, "__defaults__", (blocks, 0))
        store = write(tmp_path_factory.mktemp("pca") / "s", x)
        turned = fit_pca(store, dim, power=0.0)
        white = fit_pca(store, dim)
        half = fit_pca(store, dim, power=0.25)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :dim]
    expected_values = singular[:dim] ** 2 / len(x)
    ours = (x - turned.mean) @ turned.projection
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-7)
    np.testing.assert_allclose(ours.var(axis=0), expected_values, rtol=1e-6)
    # Whitened components have variance 1; with half the power, the square root of theirs.
    whitened = (x - white.mean) @ white.projection
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(dim), atol=1e-6)
    np.testing.assert_allclose(
        ((x - half.mean) @ half.projection).var(axis=0), np.sqrt(expected_values), rtol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(white(x), axis=1), 1, atol=1e-12)


def naive_learned(x, landmarks):
    """Return the projection by the paper's formula, with covariances from a loop over all pairs."""
    dim = x.shape[1]
    within, between = np.zeros((dim, dim)), np.zeros((dim, dim))
    for i, j in itertools.combinations(range(len(x)), 2):
        outer = np.outer(x[i] - x[j], x[i] - x[j])
        if landmarks[i] == landmarks[j]:
            within += outer
        else:
            between += outer
    values, axes = np.linalg.eigh(within)
    root = axes @ np.diag(values**-0.5) @ axes.T  # C_S^(-1/2), the symmetric one
    values, axes = np.linalg.eigh(root @ between @ root)
    return root @ axes[:, ::-1], values[::-1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), blocks=st.sampled_from([7, 8192]))
def test_the_learned_whitening_equals_a_loop_over_all_pairs(tmp_path_factory, seed, blocks):
    random = np.random.default_rng(seed)
    landmarks = random.permutation(np.repeat(np.arange(9), random.integers(1, 9, 9)))
    x = cloud(seed, len(landmarks), landmarks=landmarks)
    known = random.random(len(x)) > 0.1
    labels = [
        f"l{landmark}" if knows else None for landmark, knows in zip(landmarks, known, strict=True)
    ]
    same = landmarks[known][:, None] == landmarks[known]
    if np.triu(same, 1).sum() < 12 or len(set(landmarks[known])) < 3:
        return  # too few pairs to span the dimensions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module.row_blocks, "__defaults__", (blocks, 0))
        try:
            made = fit_learned(write(tmp_path_factory.mktemp("l") / "s", x, labels))
        except UserError:
            assert known.sum() - len(set(landmarks[known])) < 5
            return
    exact = x[known].astype(np.float64)
    np.testing.assert_allclose(made.mean, exact.mean(axis=0), atol=1e-9)
    expected, values = naive_learned(exact, landmarks[known])
    # Equal up to scale and sign; an axis is as certain as the gap of its eigenvalue to the next.
    expected /= np.linalg.norm(expected[:, 0]) / np.linalg.norm(made.projection[:, 0])
    expected *= np.sign((expected * made.projection).sum(axis=0))
    gaps = np.min(np.abs(values[:, None] - values + np.diag([np.inf] * 5)), axis=1)
    tolerance = 1e-8 * np.linalg.norm(expected) * (1 + values.max() / gaps).max()
    np.testing.assert_allclose(made.projection, expected, atol=tolerance)


def test_the_learned_whitening_separates_landmarks_in_noise(tmp_path):
    random = np.random.default_rng(0)
    landmarks = np.repeat(np.arange(30), 6)
    signal = random.standard_normal((30, 8))[landmarks]
    noise = random.standard_normal((180, 8)) * np.array([6, 6, 6, 6, 0.3, 0.3, 0.3, 0.3])
    store = write(tmp_path / "s", unit(signal + noise).astype("f4"), [f"{i}" for i in landmarks])

    def nearest_shows_the_same(vectors):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -2)
        return (landmarks[scores.argmax(axis=1)] == landmarks).mean()

    learned = nearest_shows_the_same(fit_learned(store, dim=4)(store.vectors))
    pca = nearest_shows_the_same(fit_pca(store, dim=4, power=0.0)(store.vectors))
    assert learned > nearest_shows_the_same(np.asarray(store.vectors)) + 0.2
    assert learned > pca + 0.2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_whitening_is_written_read_and_applied(tmp_path, dtype):
    x = cloud(3, 40).astype(dtype)
    labels = [f"{row % 4}" for row in range(40)]
    train = write(tmp_path / "train", x, labels, scales=[1.0], table="t")
    made = fit_learned(train, 3)
    made.write(tmp_path / "w")
    read = Whitening.open(tmp_path / "w")
    np.testing.assert_array_equal(made.projection, read.projection)
    assert made.digest == read.digest
    convert(train, tmp_path / "o", read)
    store = DescriptorStore.open(tmp_path / "o")
    expected = unit((train.vectors.astype(float) - made.mean) @ made.projection)
    np.testing.assert_allclose(store.vectors, expected, atol=1e-3 if dtype == "float16" else 1e-7)
    assert store.dtype == dtype
    assert store.ids.tolist() == train.ids.tolist()
    assert store.landmark_ids.tolist() == labels
    assert store.meta["whitening"] == read.digest
    assert (store.meta["embedder"], store.meta["scales"], store.meta["table"]) == ("e", [1.0], "t")


def test_queries_and_gallery_must_have_the_same_whitening(tmp_path):
    store = write(tmp_path / "s", cloud(0))
    one, other = fit_pca(store, 3), fit_pca(store, 3, power=0.0)
    for name, whitening in (("one", one), ("same", one), ("other", other)):
        convert(store, tmp_path / name, whitening)
    Stores.open(tmp_path / "one", tmp_path / "same")
    with pytest.raises(UserError, match="has whitening"):
        Stores.open(tmp_path / "one", tmp_path / "other")


def test_a_whitening_is_refused_for_other_descriptors(tmp_path):
    store = write(tmp_path / "s", cloud(0))
    whitening = fit_pca(store, 4)
    for name, other, words in (
        ("embedder", write(tmp_path / "1", cloud(1), embedder="f"), "a different embedder"),
        ("dim", write(tmp_path / "2", cloud(1, dim=4)), "has 4 dimensions, the whitening takes 5"),
        ("twice", write(tmp_path / "3", cloud(1), whitening="v"), "a different whitening"),
    ):
        with pytest.raises(UserError, match=words):
            convert(other, tmp_path / name, whitening)
        assert not (tmp_path / name).exists()
    convert(store, tmp_path / "once", whitening)
    once = DescriptorStore.open(tmp_path / "once")
    convert(once, tmp_path / "twice", fit_pca(once, 2))
    twice = DescriptorStore.open(tmp_path / "twice")
    assert (twice.dim, once.dim) == (2, 4)
    assert twice.meta["whitening"] != once.meta["whitening"]


@pytest.mark.parametrize(
    ("fit", "keywords", "words"),
    [
        (fit_pca, {"dim": 6}, r"fit\.dim=6 is not valid\. .*s has 5 dimensions\."),
        (fit_pca, {"dim": 0}, r"fit_pca: dim=0 is not valid\. Pass a whole number > 0"),
        (
            fit_pca,
            {"power": 2.0},
            r"fit_pca: power=2\.0 is not valid\. Pass a number >= 0 and <= 1",
        ),
        (fit_learned, {"dim": -1}, "fit_learned: dim=-1 is not valid"),
        (fit_learned, {}, r"has no landmark_id to learn from\. Pass fit=pca"),
    ],
)
def test_inconsistent_options_are_refused(tmp_path, fit, keywords, words):
    with pytest.raises(UserError, match=words):
        fit(write(tmp_path / "s", cloud(0)), **keywords)


def test_the_command_fits_and_writes(scripts, tmp_path):
    labels = [f"{row % 6}" for row in range(60)]
    store = write(tmp_path / "s", cloud(0), labels)
    command = ["fit.py", "train=s", "output=w"]
    printed = scripts.run(*command, "fit.dim=3", "fit.power=0.25", cwd=tmp_path).stdout
    assert printed.splitlines() == ["60 photos, 5 → 3-d", "wrote w"]
    assert Whitening.open(tmp_path / "w").digest == fit_pca(store, 3, 0.25).digest
    again = scripts.run(*command, "fit=whitening", cwd=tmp_path, status=2).stderr
    assert again == "error: w already exists. Pass overwrite=true to replace it.\n"
    scripts.run(*command, "fit=whitening", "overwrite=true", cwd=tmp_path)
    assert Whitening.open(tmp_path / "w").digest == fit_learned(store).digest
    wrong = scripts.run(*command, "fit.dim=6", "overwrite=true", cwd=tmp_path, status=2).stderr
    assert wrong == "error: fit.dim=6 is not valid. s has 5 dimensions.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "w"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_directions_of_rounding_noise_are_not_amplified(tmp_path, dtype):
    flat = cloud(0, dim=3) @ np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0].T
    labels = [f"{row % 6}" for row in range(60)]
    store = write(tmp_path / "s", unit(flat).astype(dtype), labels)
    assert fit_pca(store, 3).dim == 3
    with pytest.raises(UserError, match="60 descriptors span 3 of 4 dimensions"):
        fit_pca(store, 4)
    with pytest.raises(UserError, match="pairs of photos of the same landmark span 3 of 5"):
        fit_learned(store, 2)
    with pytest.raises(UserError, match="too few"):
        fit_pca(write(tmp_path / "one", cloud(0, 1)))


def test_a_damaged_whitening_is_refused(tmp_path):
    fit_pca(write(tmp_path / "s", cloud(0))).write(tmp_path / "w")
    for name in ("mean.npy", "projection.npy", "whitening.json"):
        content = (tmp_path / "w" / name).read_bytes()
        for damage in (b"", b"nonsense", content[: len(content) // 2]):
            (tmp_path / "w" / name).write_bytes(damage)
            with pytest.raises(UserError, match="w is damaged"):
                Whitening.open(tmp_path / "w")
        (tmp_path / "w" / name).unlink()
        with pytest.raises(UserError, match=f"w is not a whitening: {name} is missing"):
            Whitening.open(tmp_path / "w")
        (tmp_path / "w" / name).write_bytes(content)
    np.save(tmp_path / "w" / "mean.npy", np.array([{}], object))  # a pickle is not read
    with pytest.raises(UserError, match="w is damaged"):
        Whitening.open(tmp_path / "w")
    np.save(tmp_path / "w" / "mean.npy", np.full(5, np.nan))
    with pytest.raises(UserError, match="is not finite, or their shapes do not match"):
        Whitening.open(tmp_path / "w")


def test_the_digest_depends_on_numbers_and_origin(tmp_path):
    base = Whitening(np.zeros(2), np.eye(2), {"method": "pca"})
    others = [
        Whitening(np.ones(2), np.eye(2), {"method": "pca"}),
        Whitening(np.zeros(2), np.eye(2) * 2, {"method": "pca"}),
        Whitening(np.zeros(2), np.eye(2), {"method": "learned"}),
    ]
    assert len({one.digest for one in (base, *others)}) == 4
    base.write(tmp_path / "w")
    assert json.loads((tmp_path / "w" / "whitening.json").read_text()) == {"method": "pca"}
    with pytest.raises(UserError, match="already exists"):
        base.write(tmp_path / "w")
    base.write(tmp_path / "w", overwrite=True)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("dim", [2, 3, 32])
@pytest.mark.parametrize(
    ("noise", "landmark_of", "words"),
    [
        (1.0, lambda row: f"own {row}", "no two photos show the same landmark"),
        (1.0, lambda _: "one", "all photos show the landmark 'one'"),
        (0.0, lambda row: f"pair {row // 2}", "span 0 of"),
        (1e-10, lambda row: f"pair {row // 2}", "span 0 of"),
        (1.0, lambda row: "pair" if row < 2 else f"own {row}", "span 1 of"),
        (1.0, lambda row: "pair" if row < 2 else "", "all photos show the landmark 'pair'"),
    ],
)
def test_a_whitening_is_not_learned_from_nothing(tmp_path, dtype, dim, noise, landmark_of, words):
    random = np.random.default_rng(0)
    vectors = np.repeat(random.standard_normal((50, dim)), 2, axis=0)
    vectors = unit(vectors + noise * random.standard_normal(vectors.shape)).astype(dtype)
    write(tmp_path / "store", vectors, [landmark_of(row) for row in range(100)])
    with pytest.raises(UserError, match=words) as caught:
        fit_learned(DescriptorStore.open(tmp_path / "store"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize(("distinct", "spanned"), [(1, 0), (2, 1), (4, 3)])
@pytest.mark.parametrize("power", [0, 0.5])
def test_pca_counts_the_dimensions_of_few_distinct_vectors(
    tmp_path, dtype, distinct, spanned, power
):
    vectors = unit(np.random.default_rng(1).standard_normal((distinct, 16))).astype(dtype)
    write(tmp_path / "store", np.repeat(vectors, 30, axis=0))
    store = DescriptorStore.open(tmp_path / "store")
    with pytest.raises(UserError, match=f"span {spanned} of 16"):
        fit_pca(store, power=power)
    if spanned:
        assert fit_pca(store, dim=spanned, power=power).dim == spanned
