"""The linear adapter equals a naive loop, chooses its epochs on held-out photos, and is applied."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from extraction_world import extract, write_embedder_into, write_photos
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.adapter import Adapter, open_projection, open_projections
from landmark.artifact.calibration import Calibration
from landmark.artifact.convert import convert
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.projection import Chain
from landmark.artifact.whitening import Whitening
from landmark.cli.store import store as run
from landmark.error import UserError
from landmark.fit import linear
from landmark.fit.held_out import LEAST_PHOTOS, held_out, quality
from landmark.fit.linear import fit_linear
from landmark.fit.whitening import fit_pca
from landmark.loss import ArcFace, SubCenterArcFace, Triplet
from landmark.model.adapter import add_adapter
from landmark.model.persist import embedder_digest, load_embedder
from landmark.recognize.centres import head_centres
from landmark.rerank.stores import Stores


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path, vectors, landmarks=None, **meta):
    ids = [f"p{row}" for row in range(len(vectors))]
    DescriptorStore.write(path, ids, vectors, landmarks, **{"embedder": "e", **meta})
    return DescriptorStore.open(path)


def world(seed, landmarks=9, photos=8, dim=6, noise=2.0, dtype="float32"):
    """Return unit vectors of landmarks that differ in few of the dimensions, and their names."""
    random = np.random.default_rng(seed)
    codes = random.permutation(np.repeat(np.arange(landmarks), photos))
    spread = np.where(np.arange(dim) < max(2, dim // 3), 1.0, 0.0)
    points = (random.standard_normal((landmarks, dim)) * spread)[codes]
    other = random.standard_normal((len(codes), dim)) * np.where(spread, 0.3, noise)
    return unit(points + other).astype(dtype), [f"l{code}" for code in codes]


@pytest.fixture
def train(tmp_path):
    return write(tmp_path / "train", *world(0))


def naive_fit(x, codes, epochs, batch_size, lr, decay, scale, seed):
    """Return the matrix after epochs of Adam on the mean cross entropy, photo by photo."""
    count, dim = int(codes.max()) + 1, x.shape[1]
    matrix = np.eye(dim)
    centres = unit(np.stack([x[codes == code].sum(axis=0) for code in range(count)]))
    moments = [[np.zeros_like(p), np.zeros_like(p)] for p in (matrix, centres)]
    random, step = np.random.default_rng(seed), 0
    for _ in range(epochs):
        order = random.permutation(len(x))
        for first in range(0, len(x), batch_size):
            rows = order[first : first + batch_size]
            gradients = [np.zeros_like(matrix), np.zeros_like(centres)]
            for row in rows:
                projected = matrix @ x[row]
                length, z = np.linalg.norm(projected), projected / np.linalg.norm(projected)
                norms = np.linalg.norm(centres, axis=1)
                directions = centres / norms[:, None]
                logits = scale * directions @ z
                share = np.exp(logits - logits.max())
                share /= share.sum()
                share[codes[row]] -= 1
                share *= scale / len(rows)
                of_z = share @ directions
                gradients[0] += np.outer((of_z - (of_z @ z) * z) / length, x[row])
                for code in range(count):
                    along = z - (z @ directions[code]) * directions[code]
                    gradients[1][code] += share[code] * along / norms[code]
            step += 1
            for parameter, of_loss, (mean, square) in zip(
                (matrix, centres), gradients, moments, strict=True
            ):
                gradient = of_loss + decay * parameter
                mean[:] = 0.9 * mean + 0.1 * gradient
                square[:] = 0.999 * square + 0.001 * gradient**2
                bias = 1 - 0.9**step, 1 - 0.999**step
                parameter[:] -= lr * (mean / bias[0]) / (np.sqrt(square / bias[1]) + 1e-8)
    return matrix


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch_size=st.sampled_from([5, 16, 128]),
    decay=st.sampled_from([0.0, 1e-2]),
    share=st.sampled_from([0.4, 1.0]),
)
def test_the_matrix_equals_a_naive_loop(tmp_path_factory, seed, batch_size, decay, share):
    x, names = world(seed, landmarks=4, photos=5)
    known = [name if row % 7 else None for row, name in enumerate(names)] + ["l0", "l1"] * 5
    x = np.concatenate([x, x[:10]])
    store = write(tmp_path_factory.mktemp("s") / "s", x, known)
    adapter = fit_linear(
        store,
        epochs=3,
        batch_size=batch_size,
        weight_decay=decay,
        trained_share=share,
        scale=6.0,
        seed=seed,
        device="cpu",
    )
    is_known = np.array([name is not None for name in known])
    codes = np.unique([name for name in known if name], return_inverse=True)[1]
    expected = naive_fit(
        x[is_known].astype(np.float64), codes, 3, batch_size, 1e-3, decay, 6.0, seed
    )
    expected = share * expected + (1 - share) * np.eye(6)
    np.testing.assert_allclose(adapter.weight, expected, atol=2e-5)
    assert adapter.meta["photos"] == is_known.sum()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_chunks_of_the_store_change_nothing(tmp_path, monkeypatch, dtype):
    store = write(tmp_path / "s", *world(1, dtype=dtype))
    options = {"epochs": 3, "batch_size": 8, "dropout": 0.3, "device": "cpu"}
    expected = fit_linear(store, **options)
    monkeypatch.setattr(linear, "_CHUNK_ROWS", 24)
    found = fit_linear(store, **options)
    np.testing.assert_array_equal(found.weight, expected.weight)
    assert found.digest == expected.digest
    assert (expected.weight != fit_linear(store, **options, seed=1).weight).any()
    assert (expected.weight != fit_linear(store, **options | {"dropout": 0.0}).weight).any()


def test_the_random_state_of_the_process_is_unchanged(train):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_linear(train, epochs=1, dropout=0.5, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_best_epochs_of_held_out_photos_are_chosen(train):
    adapter = fit_linear(train, max_epochs=40, patience=3, device="cpu")
    curve = adapter.meta["curve"]
    scores = [point["map_at_100"] + point["nearest"] for point in curve]
    best = int(np.argmax(scores))
    assert adapter.meta["epochs"] == curve[best]["epoch"] > 0
    assert [point["epoch"] for point in curve[:4]] == [0, 1, 2, 3]
    assert curve[-1]["epoch"] == 40
    again = fit_linear(train, epochs=adapter.meta["epochs"], device="cpu")
    np.testing.assert_array_equal(again.weight, adapter.weight)
    assert fit_linear(train, max_epochs=40, patience=3, device="cpu").digest == adapter.digest
    lines = adapter.summary(train).splitlines()
    assert len(lines) == len(curve) + 2
    assert [line.endswith("chosen") for line in lines[1:-1]].index(True) == best
    assert lines[-1] == f"72 photos, 6 → 6-d, {curve[best]['epoch']} epochs"


def test_a_fit_stops_when_no_better_measurement_comes(train, monkeypatch):
    measured = itertools.chain([0.1, 0.2, 0.5, 0.4], itertools.repeat(0.3))
    monkeypatch.setattr(linear, "quality", lambda *_: (next(measured), 0.5))
    monkeypatch.setattr(linear, "_LEAST_STEPS", 18)
    options = {"folds": 1, "batch_size": 8, "patience": 3, "device": "cpu"}
    adapter = fit_linear(train, **options)
    assert [point["epoch"] for point in adapter.meta["curve"]] == [0, 1, 2, 3, 4, 5]
    assert adapter.meta["epochs"] == 2
    # Not before 18 steps, which are 18 epochs of few photos, and at most 20 epochs.
    measured = itertools.repeat(0.3)
    for batch_size, last in ((72, 18), (8, 3)):
        adapter = fit_linear(train, **options | {"batch_size": batch_size})
        assert (adapter.meta["curve"][-1]["epoch"], adapter.meta["epochs"]) == (last, 0)
    measured = itertools.count(0.1, 0.001)
    assert fit_linear(train, **options).meta["epochs"] == 20


def test_the_curve_is_measured_without_the_held_out_photos(train):
    adapter = fit_linear(train, max_epochs=2, folds=3, device="cpu")
    first = {name: code for code, name in enumerate(dict.fromkeys(train.landmark_ids))}
    codes = np.array([first[name] for name in train.landmark_ids])
    qualities = []
    for fold in range(3):
        held = held_out(codes, 0, fold)
        part = write(
            train.path.parent / f"{fold}",
            train.vectors[held.fitted],
            train.landmark_ids[held.fitted],
        )
        alone = fit_linear(part, epochs=2, device="cpu")
        qualities.append(quality(train, codes, held.rows, torch.from_numpy(alone.weight)))
    found = adapter.meta["curve"][2]
    expected = np.mean(qualities, axis=0)
    np.testing.assert_allclose([found["map_at_100"], found["nearest"]], expected, atol=1e-3)


def test_landmarks_that_it_was_not_fitted_to_gain(tmp_path):
    vectors, names = world(3, landmarks=60, photos=6, dim=12)
    new = np.array([int(name[1:]) >= 30 for name in names])
    store = write(tmp_path / "s", vectors[~new], np.array(names)[~new])
    others = write(tmp_path / "o", vectors[new], np.array(names)[new])
    codes = np.unique(others.landmark_ids, return_inverse=True)[1]
    rows = np.arange(len(others))
    before = quality(others, codes, rows, torch.eye(12))
    adapter = fit_linear(store, lr=1e-2, device="cpu")
    after = quality(others, codes, rows, torch.from_numpy(adapter.weight))
    assert after[0] > before[0] + 0.05
    assert after[1] > before[1]


def test_fewer_dimensions_start_at_the_principal_directions(tmp_path):
    vectors, names = world(4)
    store = write(tmp_path / "s", vectors, names)
    adapter = fit_linear(store, dim=3, epochs=0, device="cpu")
    _, _, directions = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(
        adapter.weight.T @ adapter.weight, directions[:3].T @ directions[:3], atol=1e-5
    )
    assert (adapter.dim, adapter.source_dim) == (3, 6)
    np.testing.assert_array_equal(fit_linear(store, dim=6, epochs=0).weight, np.eye(6))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 14), min_size=2, max_size=12).filter(
        lambda counts: sum(count >= LEAST_PHOTOS for count in counts) >= 2
    ),
    seed=st.integers(0, 99),
    fold=st.integers(0, 4),
    unknown=st.integers(0, 3),
)
def test_held_out_photos(counts, seed, fold, unknown):
    codes = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(unknown, -1)])
    codes = np.random.default_rng(seed).permutation(codes)
    held = held_out(codes, seed, fold)
    assert sorted([*held.rows, *held.fitted]) == np.flatnonzero(codes >= 0).tolist()
    of_held = np.bincount(codes[held.rows], minlength=len(counts))
    enough = np.array(counts) >= LEAST_PHOTOS
    assert (of_held[enough] >= 2).all()
    assert (of_held[~enough] == 0).all()
    assert len(set(codes[held.fitted])) >= 2
    complete = of_held == counts
    assert complete.sum() <= -(-enough.sum() // 3)
    if enough.sum() >= 3:
        times = sum(
            np.bincount(codes[held_out(codes, seed, number).rows], minlength=len(counts)) == counts
            for number in range(3)
        )
        assert (times[enough] == 1).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), photos=st.integers(2, 60))
def test_the_quality_equals_a_loop(tmp_path_factory, seed, photos):
    random = np.random.default_rng(seed)
    store = write(tmp_path_factory.mktemp("q") / "s", unit(random.standard_normal((photos + 9, 4))))
    rows = np.sort(random.permutation(photos + 9)[:photos])
    codes = random.integers(0, 2, photos + 9)
    matrix = random.standard_normal((3, 4)).astype(np.float32)
    projected = unit(store.vectors[rows].astype(np.float64) @ matrix.T)
    precisions, nearest = [], []
    for query in range(photos):
        others = [row for row in range(photos) if row != query]
        others.sort(key=lambda row: -projected[row] @ projected[query])
        hits = [codes[rows[row]] == codes[rows[query]] for row in others]
        nearest.append(hits[0])
        if any(hits):
            found = list(itertools.accumulate(map(int, hits)))
            total = sum(n / (place + 1) for place, n in enumerate(found) if hits[place])
            precisions.append(total / sum(hits))
    expected = (np.mean(precisions) if precisions else 0, np.mean(nearest))
    found = quality(store, codes, rows, torch.from_numpy(matrix))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("loss", [ArcFace, SubCenterArcFace])
def test_another_loss_is_the_criterion(train, loss):
    adapter = fit_linear(train, loss=loss, epochs=2, device="cpu")
    assert adapter.meta["loss"] == {"name": loss.__name__}
    assert (adapter.weight != fit_linear(train, epochs=2, device="cpu").weight).any()


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (None, {}, r"s has no landmark_id to learn from\. Pass fit=pca\."),
        ([""] * 12, {}, r"s has no landmark_id to learn from\. Pass fit=pca\."),
        (["a"] * 12, {}, r"s: 1 of 1 landmarks have 5 photos or more, and fit=linear needs two\."),
        (["a"] * 8 + ["b"] * 4, {}, r"s: 1 of 2 landmarks have 5 photos or more, and fit=linear"),
        (
            ["a"] * 6 + ["b"] * 6,
            {"dim": 7},
            r"fit\.dim=7 is more than the 6 dimensions of .*s\. Pass 6 or",
        ),
        (
            ["a"] * 6 + ["b"] * 6,
            {"dropout": 1.0},
            r"dropout=1\.0 is not valid\. Pass a number >= 0",
        ),
        (["a"] * 6 + ["b"] * 6, {"trained_share": 0}, "trained_share=0 is not valid"),
        (["a"] * 6 + ["b"] * 6, {"loss": Triplet}, r"loss@fit\.loss=triplet has no class centres"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tmp_path, names, options, words):
    store = write(tmp_path / "s", world(0)[0][:12], names)
    with pytest.raises(UserError, match=words) as caught:
        fit_linear(store, **{"epochs": 1, **options})
    assert "\n" not in str(caught.value)


def test_two_landmarks_of_five_photos_are_enough(tmp_path):
    store = write(tmp_path / "s", world(0)[0][:10], ["a"] * 5 + ["b"] * 5)
    adapter = fit_linear(store, max_epochs=3, device="cpu")
    assert len(adapter.meta["curve"]) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_adapter_is_written_read_and_applied(tmp_path, dtype):
    vectors, names = world(2, dtype=dtype)
    train = write(tmp_path / "train", vectors, names, scales=[1.0], table="t")
    made = fit_linear(train, dim=4, max_epochs=4, device="cpu")
    made.write(tmp_path / "a")
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [
        "fit.yaml",
        "weights.safetensors",
    ]
    read = open_projection(tmp_path / "a")
    np.testing.assert_array_equal(read.weight, made.weight)
    assert (read.digest, read.meta) == (made.digest, made.meta)
    assert (read.meta["embedder"], read.meta["table"], read.meta["dim"]) == ("e", "t", 4)
    line = run(["apply", *(str(tmp_path / name) for name in ("a", "train", "o"))])
    assert line == f"wrote {tmp_path / 'o'}: 72 photos, 6 → 4-d"
    store = DescriptorStore.open(tmp_path / "o")
    expected = unit(train.vectors.astype(float) @ made.weight.T.astype(float))
    np.testing.assert_allclose(store.vectors, expected, atol=1e-3 if dtype == "float16" else 1e-7)
    assert (store.dtype, store.meta["whitening"]) == (dtype, read.digest)
    assert store.landmark_ids.tolist() == names
    Stores.open(tmp_path / "o", tmp_path / "o")
    with pytest.raises(UserError, match=r"has whitening|dimensions"):
        Stores.open(tmp_path / "o", tmp_path / "train")
    with pytest.raises(UserError, match="already exists"):
        made.write(tmp_path / "a")


def test_an_adapter_is_refused_for_other_descriptors(tmp_path, train):
    adapter = fit_linear(train, epochs=1, device="cpu")
    vectors = world(1)[0]
    for name, other, words in (
        ("embedder", write(tmp_path / "1", vectors, embedder="f"), "a different embedder"),
        ("dim", write(tmp_path / "2", world(1, dim=4)[0]), "4 dimensions, the adapter takes 6"),
        ("twice", write(tmp_path / "3", vectors, whitening="v"), "a different whitening"),
    ):
        with pytest.raises(UserError, match=words):
            convert(other, tmp_path / name, adapter)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("first", ["whitening", "adapter"])
def test_an_adapter_and_a_whitening_are_chained_in_either_order(tmp_path, train, first):
    fits = [lambda store: fit_pca(store, 5), lambda store: fit_linear(store, dim=4, epochs=3)]
    if first == "adapter":
        fits = [lambda store: fit_linear(store, epochs=3), lambda store: fit_pca(store, 3)]
    one = fits[0](train)
    convert(train, tmp_path / "once", one)
    two = fits[1](DescriptorStore.open(tmp_path / "once"))
    convert(DescriptorStore.open(tmp_path / "once"), tmp_path / "twice", two)
    twice = DescriptorStore.open(tmp_path / "twice")
    one.write(tmp_path / "1")
    two.write(tmp_path / "2")
    chain = open_projections([tmp_path / "1", tmp_path / "2"])
    convert(train, tmp_path / "chained", chain)
    chained = DescriptorStore.open(tmp_path / "chained")
    np.testing.assert_allclose(chained.vectors, twice.vectors, atol=1e-6)
    assert chained.meta == twice.meta
    assert (chain.source_dim, chain.dim) == (6, two.dim)
    with pytest.raises(UserError, match=r"dimensions|a different whitening"):
        Chain([two, one])
    with pytest.raises(UserError, match="a different whitening"):
        two.check_fits(train.meta, two.source_dim, "s")


def test_a_damaged_adapter_is_refused(tmp_path, train):
    fit_linear(train, epochs=0, device="cpu").write(tmp_path / "a")
    for name in ("weights.safetensors", "fit.yaml"):
        content = (tmp_path / "a" / name).read_bytes()
        for damage in (b"", b"nonsense", content[: len(content) // 2 - 9]):
            (tmp_path / "a" / name).write_bytes(damage)
            with pytest.raises(UserError, match=r"a is damaged|not an adapter|has 6 dim") as caught:
                open_projection(tmp_path / "a").check_fits({}, 5, "s")
            assert "\n" not in str(caught.value)
        (tmp_path / "a" / name).unlink()
        with pytest.raises(UserError, match=r"a is not an? (adapter|whitening): "):
            open_projection(tmp_path / "a")
        (tmp_path / "a" / name).write_bytes(content)
    text = (tmp_path / "a" / "fit.yaml").read_text()
    (tmp_path / "a" / "fit.yaml").write_text(text.replace("schema: 1", "schema: 2"))
    with pytest.raises(UserError, match="a was written by a later version"):
        open_projection(tmp_path / "a")
    weight = np.full((2, 3), np.nan, np.float32)
    Adapter(weight, {}).write(tmp_path / "nan")
    with pytest.raises(UserError, match="weight is missing, or not a finite matrix"):
        Adapter.open(tmp_path / "nan")


def test_a_calibration_is_not_applied_to_a_store(tmp_path, train):
    one = np.ones(1)
    weights = {"slope": one, "intercept": one, "thresholds": one, "precisions": one}
    Calibration("platt", weights, {}).write(tmp_path / "c")
    with pytest.raises(UserError, match=r"c is not an adapter, but a fit of method 'platt'\."):
        run(["apply", *(str(tmp_path / name) for name in ("c", "train", "o"))])
    assert not (tmp_path / "o").exists()


def test_the_command_fits_prints_the_curve_and_resumes_nothing(
    tmp_path, train, in_process, monkeypatch
):
    command = ["fit.py", "fit=linear", "train=train", "output=a", "fit.max_epochs=3"]

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(linear._Fit, "epoch", interrupt)
        assert in_process(*command)[0] != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"]
    status, printed, _ = in_process(*command)
    assert status == 0
    lines = printed.splitlines()
    assert lines[0].split() == ["epochs", "mAP@100", "1-nn", "of", "held-out", "photos"]
    assert lines[-2].startswith("72 photos, 6 → 6-d, ")
    assert lines[-1] == "wrote a"
    again = in_process(*command)
    assert again[0] == 2
    assert again[2] == "error: a already exists. Pass overwrite=true to replace it.\n"
    status, _, _ = in_process(
        *command, "overwrite=true", "loss@fit.loss=arcface", "fit.loss.margin=0.2"
    )
    assert status == 0
    assert Adapter.open("a").meta["loss"]["margin"] == 0.2


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with `embedder`, `photos`, `store` and the adapter `fitted` to it."""
    root = tmp_path_factory.mktemp("adapted")
    write_embedder_into(root / "embedder")
    (root / "embedder" / "classes.csv").write_text("label,landmark_id\n0,a\n")
    write_photos(root / "photos")
    store = extract(root, root / "store")
    weight = np.random.default_rng(0).standard_normal((5, store.dim)).astype(np.float32)
    Adapter(weight, {"embedder": store.meta["embedder"], "whitening": None}).write(root / "fitted")
    return root


@pytest.fixture
def adapted(photos, tmp_path):
    """Return a copy of the embedder, with the adapter."""
    shutil.copytree(photos / "embedder", tmp_path / "embedder")
    line = run(["apply", str(photos / "fitted"), "--into", str(tmp_path / "embedder")])
    dim = DescriptorStore.open(photos / "store").dim
    assert line == f"wrote {tmp_path / 'embedder'}: {dim} → 5-d"
    assert [path.name for path in tmp_path.iterdir()] == ["embedder"]
    return tmp_path / "embedder"


def test_an_adapted_embedder_extracts_what_extract_and_apply_give(photos, adapted, tmp_path):
    adapter = Adapter.open(photos / "fitted")
    run(["apply", *(str(photos / name) for name in ("fitted", "store")), str(tmp_path / "applied")])
    applied = DescriptorStore.open(tmp_path / "applied")
    whitened = extract(photos, tmp_path / "whitened", whitening=adapter)
    into = extract(photos, tmp_path / "into", embedder=adapted)
    np.testing.assert_allclose(whitened.vectors, applied.vectors, atol=1e-6)
    # Two scales, whose embeddings of different lengths are averaged.
    np.testing.assert_allclose(into.vectors, applied.vectors, atol=2e-6)
    assert into.meta["embedder"] == embedder_digest(adapted) != applied.meta["embedder"]
    assert (into.meta["whitening"], applied.meta["whitening"]) == (None, adapter.digest)
    with pytest.raises(UserError, match="has embedder"):
        Stores.open(tmp_path / "into", tmp_path / "applied")
    assert (adapted / "classes.csv").read_text() == "label,landmark_id\n0,a\n"
    assert load_embedder(adapted)[1]["adapter"] == adapter.digest


def test_a_second_adapter_is_multiplied_with_the_first(photos, adapted, tmp_path):
    second = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    once = extract(photos, tmp_path / "once", embedder=adapted)
    expected = Adapter(second, {})(once.vectors)
    shutil.copytree(adapted, tmp_path / "twice")
    add_adapter(tmp_path / "twice", second, "d")
    twice = extract(photos, tmp_path / "2", embedder=tmp_path / "twice")
    np.testing.assert_allclose(twice.vectors, expected, atol=2e-6)


def test_what_cannot_be_added_to_an_embedder_is_one_line(photos, adapted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, fitted = DescriptorStore.open(photos / "store"), str(photos / "fitted")
    Whitening(np.zeros(4), np.eye(4), {}).write("w")
    Adapter(np.eye(4, dtype=np.float32), {}).write("4")
    Adapter(
        np.eye(store.dim, dtype=np.float32),
        {"embedder": store.meta["embedder"], "whitening": "w"},
    ).write("chained")
    (tmp_path / "last.ckpt").touch()
    before = embedder_digest(photos / "embedder"), embedder_digest(adapted)
    for arguments, words in (
        ([fitted, "--into", "nowhere"], "nowhere is not an embedder folder: weights.safetensors"),
        ([fitted, "--into", "last.ckpt"], r"last\.ckpt is a file\. Pass an embedder folder"),
        ([fitted, "--into", "embedder"], "embedder was made with a different embedder"),
        (["w", "--into", "embedder"], "w is a whitening, which subtracts a mean"),
        (["4", "--into", str(photos / "embedder")], "dimensions, the adapter takes 4"),
        (["chained", "--into", str(photos / "embedder")], "with a different whitening"),
        ([fitted], "apply takes other paths than "),
        ([fitted, "s", "--into", "embedder"], "apply takes other paths than "),
    ):
        with pytest.raises(UserError, match=words) as caught:
            run(["apply", *arguments])
        assert "\n" not in str(caught.value)
    assert (embedder_digest(photos / "embedder"), embedder_digest(adapted)) == before
    assert not (tmp_path / "nowhere").exists()


def test_class_centres_of_a_run_do_not_fit_its_adapted_embedder(adapted):
    with pytest.raises(UserError, match=r"the embedder has an adapter, .* Pass centres=means\."):
        head_centres(adapted, np.array(["a"]), dim=5)


@pytest.mark.slow
def test_an_adapted_embedder_is_exported(photos, adapted, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    from landmark.model.export import ExportedEmbedder, write_checked

    embedder = load_embedder(adapted)[0]
    exported = ExportedEmbedder(embedder).eval()
    write_checked(exported, tmp_path / "e.onnx", (96, 64), None, 20)
    images = torch.rand(2, 3, 64, 96)
    session = onnxruntime.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})[0]
    original = load_embedder(photos / "embedder")[0]
    with torch.inference_mode():
        expected = Adapter.open(photos / "fitted")(original(images).numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert json.dumps(exported.metadata((96, 64), None)).count("(batch, 5)") == 1


def test_photos_that_the_network_has_learned_do_not_choose_the_epochs(tmp_path, capsys):
    _, landmarks = world(0)
    codes = np.unique(landmarks, return_inverse=True)[1]
    vectors = unit(np.eye(9)[codes] + 0.01 * np.random.default_rng(0).random((len(codes), 9)))
    adapter = fit_linear(write(tmp_path / "s", vectors.astype("f4"), landmarks), device="cpu")
    assert adapter.meta["epochs"] == 40  # of one step each
    said = capsys.readouterr().err
    assert "(mAP 1.0000, 1-nn 1.0000), as those a network was trained on do" in said
