"""Fits of pair models: triplets, steps, held-out landmarks, resuming, messages and the command."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.pair_model import PairModel
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.disk.lock import staging_folder
from landmark.error import UserError
from landmark.fit import pair_run, pair_validation
from landmark.fit.ames import AMESObjective, fit_ames, itq
from landmark.fit.elvis import ELViSObjective, fit_elvis
from landmark.fit.pair_batches import Descriptors
from landmark.fit.pair_run import Run, Training
from landmark.fit.pair_validation import HeldOut, held_out_rows, smooth
from landmark.fit.triplets import Triplets, nearest_photos
from landmark.metric.gldv2 import map_at_k
from landmark.pair import AMES, ELViS
from landmark.pair.scorer import ELViSScorer

DIM, LANDMARKS, PHOTOS = 12, 10, 10
TINY = {"width": 16, "min_positives": 2, "min_negatives": 2, "epochs": 3, "device": "cpu"}
TINY |= {
    "hold_out": 0.4,
    "lr": 5e-3,
    "steps_per_epoch": 12,
    "triplets": 12,
    "min_descriptors": 6,
    "max_descriptors": 20,
}
TINY_AMES = {**TINY, "layers": 2, "hidden": 16}
OPTIONS = {
    "neighbours": 300,
    "min_positives": 2,
    "min_negatives": 2,
    "triplets": 6,
    "min_descriptors": 3,
    "max_descriptors": 9,
    "epochs": 2,
    "steps_per_epoch": 5,
    "lr": 5e-4,
    "weight_decay": 5e-4,
    "warmup": 0.2,
    "hold_out": 0.25,
    "validation_queries": 20,
    "seed": 0,
    "device": "cpu",
}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_store(path, local=("patches",), labels=True, seed=0, own=6, noise=2.0):
    """Write a store of noisy vectors, whose local features show the landmarks.

    A photo has `own` noisy descriptors of its landmark, in the second half of the dimensions, and
    those of a background that all landmarks share, in the first half.
    """
    random = np.random.default_rng(seed)
    landmarks = np.repeat(np.arange(LANDMARKS), PHOTOS)
    half = DIM // 2
    centres = random.standard_normal((LANDMARKS, 8))
    vectors = unit(centres[landmarks] + noise * random.standard_normal((len(landmarks), 8)))
    ids = [f"photo{row}" for row in range(len(landmarks))]
    names = [f"landmark{one}" for one in landmarks] if labels else None
    DescriptorStore.write(path, ids, vectors.astype("f4"), names, embedder="e")
    places = random.standard_normal((LANDMARKS, 6, half))
    background = random.standard_normal((6, half))
    for name in local:
        with LocalFeatureWriter.writing(
            DescriptorStore.open(path), name, dim=DIM, dtype="float16", columns=2, kind="drawn"
        ) as writer:
            for landmark in landmarks:
                rows = 0.2 * random.standard_normal((own + 6, DIM))
                rows[:own, half:] += places[landmark][:own]
                rows[own:, :half] += background
                order = random.permutation(len(rows))
                writer.append(
                    LocalFeatures(
                        keypoints=np.zeros((len(rows), 2), np.float32),
                        descriptors=unit(rows)[order].astype(np.float16),
                        scores=random.random(len(rows)).astype(np.float32),
                        size=(9, 9),
                    )
                )
    return DescriptorStore.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def fitted(store):
    return fit_elvis(store, **TINY)


# --- triplets ---


def naive_near(vectors, row, k):
    order = sorted(
        (other for other in range(len(vectors)) if other != row),
        key=lambda other: -float(vectors[row].astype("f8") @ vectors[other].astype("f8")),
    )
    return order[:k]


@given(
    seed=st.integers(0, 10**6),
    photos=st.integers(3, 25),
    k=st.integers(1, 30),
    least=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=40, deadline=None)
def test_triplets_equal_a_loop(tmp_path_factory, seed, photos, k, least):
    random = np.random.default_rng(seed)
    vectors = unit(random.standard_normal((photos, 4))).astype("f4")
    codes = random.integers(-1, 3, photos)  # -1: unknown or held out
    path = tmp_path_factory.mktemp("t") / "store"
    DescriptorStore.write(path, [str(row) for row in range(photos)], vectors)
    rows = np.flatnonzero(codes >= 0)
    near = nearest_photos(DescriptorStore.open(path), rows, k, device="cpu")
    triplets = Triplets(near, codes, *least)

    expected = {}
    for place, row in enumerate(rows):
        nearest = [other for other in naive_near(vectors, row, k) if codes[other] >= 0]
        kinds = [
            [other for other in nearest if (codes[other] == codes[row]) == is_same]
            for is_same in (True, False)
        ]
        if all(len(kind) >= count for kind, count in zip(kinds, least, strict=True)):
            expected[place] = kinds
    assert triplets.anchors.tolist() == list(expected)
    if not expected:
        return

    drawn = triplets.draw(triplets.anchors, np.random.default_rng(1))
    random = np.random.default_rng(1)
    for side, found in enumerate(drawn):
        uniforms = random.random(len(expected))
        for (anchor, kinds), uniform, chosen in zip(expected.items(), uniforms, found, strict=True):
            kind = kinds[side]
            cosines = [float(vectors[rows[anchor]] @ vectors[other]) for other in kind]
            weights = [max(cosine, 0) ** 3 for cosine in cosines]
            weights = weights if any(weights) else [1.0] * len(kind)
            position, passed = uniform * sum(weights), 0.0
            for other, weight in zip(kind, weights, strict=True):  # noqa: B007
                passed += weight
                if passed > position + 1e-6:
                    break
            # At a boundary between two photos both are right.
            boundary = abs(passed - weight - position) < 1e-5
            assert chosen == other or boundary
            assert chosen in kind


def test_frequencies_are_the_cubes_of_the_similarities(tmp_path):
    angles = np.array([0, 0.2, 0.9, 1.2, 0.5, 1.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("f4")
    DescriptorStore.write(tmp_path / "s", list("abcdef"), vectors)
    near = nearest_photos(DescriptorStore.open(tmp_path / "s"), np.arange(6), 5, device="cpu")
    triplets = Triplets(near, np.array([0, 0, 0, 0, 1, 1]), 1, 1)
    positives, negatives = triplets.draw(np.zeros(40_000, np.int64), np.random.default_rng(0))
    for found, kind in ((positives, [1, 2, 3]), (negatives, [4, 5])):
        cubes = np.cos(angles[kind]) ** 3
        frequencies = np.array([(found == row).mean() for row in kind])
        np.testing.assert_allclose(frequencies, cubes / cubes.sum(), atol=0.01)


def test_neighbours_are_kept_in_a_folder(store, tmp_path):
    rows = np.arange(0, 100, 3)
    first = nearest_photos(store, rows, 7, tmp_path, device="cpu")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "neighbours.npy",
        "similarities.npy",
    ]
    np.save(tmp_path / "similarities.npy", np.zeros((34, 8), "f4"))  # read, not searched again
    again = nearest_photos(store, rows, 7, tmp_path, device="cpu")
    np.testing.assert_array_equal(first.neighbours, again.neighbours)
    assert not again.similarities.any()


# --- batches and steps ---


def test_batches_have_the_strongest_descriptors_first(store):
    descriptors = Descriptors(store.local("patches"), 5, torch.device("cpu"))
    batch = descriptors.batch(np.array([3, 40]), 4)
    for index, row in enumerate((3, 40)):
        photo = store.local("patches")[row]
        order = sorted(range(len(photo)), key=lambda one: -photo.scores[one])[:5]
        wanted = unit(photo.descriptors[order].astype("f4"))
        np.testing.assert_allclose(batch.rows[index], wanted, atol=1e-6)
    assert not batch.padding.any()
    assert batch.first()[0].shape == (2, 4, DIM)


def new_run(store, model=None, **options):
    training = Training(**{**OPTIONS, **options})
    codes = np.repeat(np.arange(LANDMARKS), PHOTOS)
    near = nearest_photos(store, np.arange(len(codes)), training.neighbours, device="cpu")
    triplets = Triplets(near, codes, training.min_positives, training.min_negatives)
    torch.manual_seed(0)
    objective = model or ELViSObjective(ELViS(dim=DIM, width=8))
    descriptors = Descriptors(store.local("patches"), training.max_descriptors, torch.device("cpu"))
    return Run(objective, training, descriptors, triplets, training.triplets, 5)


def padded_batch(store, run, rows, count):
    """Return a batch, some of whose photos have fewer descriptors."""
    batch = run._descriptors.batch(rows, count)
    padding = batch.padding.clone()
    padding[::3, 2:] = True
    return replace(batch, padding=padding)


@pytest.mark.parametrize("together", [2**27, 1])
def test_a_step_equals_plain_torch_pair_by_pair(store, monkeypatch, together):
    monkeypatch.setattr(pair_run, "_VALUES_TOGETHER", together)
    run = new_run(store)
    model = run.objective.model
    plain = ELViS(dim=DIM, width=8)
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(plain.parameters(), lr=5e-4, weight_decay=5e-4)
    for number in range(3):
        query = padded_batch(store, run, np.arange(6) + number, 5)
        gallery = padded_batch(store, run, np.arange(6) * 7, 4)
        losses = []
        for pair in range(6):
            m, n = (5, 4) if pair % 3 else (2, 2)
            score = plain(query.rows[pair : pair + 1, :m], gallery.rows[pair : pair + 1, :n])
            probability = plain.logits(score)[0].sigmoid()
            losses.append(-torch.log(probability if pair < 3 else 1 - probability))
        loss = sum(losses) / 6
        for group in optimizer.param_groups:
            group["lr"] = run._optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert run.step(query, gallery) == pytest.approx(loss.item(), abs=1e-5)
        for key, weight in plain.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], weight, atol=2e-5, rtol=0, msg=key)


def test_the_learning_rate_warms_up_and_follows_a_cosine(store):
    run = new_run(store, epochs=4)  # 20 steps, 4 of them warm-up
    batch = run._descriptors.batch(np.arange(2), 4)
    rates = []
    for _ in range(20):
        rates.append(run._optimizer.param_groups[0]["lr"])
        run.step(batch, batch)
    wanted = [5e-4 * (step + 1) / 4 for step in range(4)]
    wanted += [5e-4 * 0.5 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_a_student_learns_the_tokens_of_its_teacher(store):
    torch.manual_seed(0)
    teacher = AMES(dim=DIM, width=8, layers=2, hidden=8).requires_grad_(False)
    student = AMES(dim=DIM, bits=8, width=8, layers=2, hidden=8)
    objective = AMESObjective(student, teacher)
    run = new_run(store)
    query = padded_batch(store, run, np.arange(4), 3)
    gallery = padded_batch(store, run, np.arange(4) + 20, 5)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
    ours = objective.losses(query, gallery, labels)
    for pair in range(4):
        all_m, all_n = (9, 9) if pair % 3 else (2, 2)
        m, n = min(3, all_m), min(5, all_n)
        rows, others = query.rows[pair : pair + 1], gallery.rows[pair : pair + 1]
        score = student(rows[:, :m], others[:, :n])[0]
        tokens = student.tokens(rows[:, :m], others[:, :n])[0]
        taught = teacher.tokens(rows[:, :all_m], others[:, :all_n])[0]
        places = [0, *range(1, 1 + m), *range(1 + all_m, 1 + all_m + n)]
        wanted = functional.binary_cross_entropy_with_logits(score, labels[pair])
        wanted = wanted + 10 * (tokens - taught[places]).square().mean()
        torch.testing.assert_close(ours[pair], wanted, atol=1e-4, rtol=0)


def test_itq_keeps_more_of_the_signs_than_its_start(store):
    random = np.random.default_rng(0)
    rows = torch.from_numpy(unit(random.standard_normal((500, 6)) * np.arange(1, 7))).float()
    start = torch.linalg.qr(torch.from_numpy(random.standard_normal((6, 4))).float())[0]
    projection = itq(rows, start)
    torch.testing.assert_close(projection.T @ projection, torch.eye(4), atol=1e-5, rtol=0)

    def lost(matrix):
        values = rows @ matrix
        scaled = values / values.square().mean().sqrt()
        return float((scaled.sign() - scaled).square().mean())

    directions = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :4]
    assert lost(projection) < lost(directions)
    assert lost(projection) < lost(start)


# --- held-out landmarks ---


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.01, 0.25, 0.9]))
@settings(max_examples=30, deadline=None)
def test_whole_landmarks_are_held_out(seed, share):
    random = np.random.default_rng(seed)
    codes = random.integers(-1, 8, 40)
    counts = np.bincount(codes[codes >= 0], minlength=8)
    if (counts >= 2).sum() < 4:
        return
    rows = held_out_rows(codes, share, seed)
    held = np.unique(codes[rows])
    assert held.min() >= 0
    assert (counts[held] >= 2).all()
    assert len(rows) == counts[held].sum()
    paired = (counts >= 2).sum()
    assert len(held) == min(max(round(share * paired), 2), paired - 2)
    np.testing.assert_array_equal(rows, held_out_rows(codes, share, seed))


def test_of_a_large_store_about_10000_photos_are_held_out():
    codes = np.repeat(np.arange(200), 400)
    assert len(held_out_rows(codes, 0.25, 0)) == 10_000


def held_out(store, seed=0, queries=15):
    codes = np.repeat(np.arange(LANDMARKS), PHOTOS)
    rows = held_out_rows(codes, 0.4, seed)
    return HeldOut.search(store, rows, codes, queries, seed, "cpu")


def test_held_out_photos_are_searched_among_the_others(store):
    held = held_out(store)
    vectors = store.vectors[held.rows]
    for number, query in enumerate(held.queries):
        assert held.ranked[number].tolist() == naive_near(vectors, query, 100)
    assert held.ranked.shape == (15, 39)
    assert len(np.unique(held.queries)) == 15


def naive_map(held, values):
    hits, relevant = [], []
    for number, query in enumerate(held.queries):
        order = sorted(range(len(values[number])), key=lambda place: -values[number][place])
        hits.append(
            [held.codes[held.ranked[number][place]] == held.codes[query] for place in order]
        )
        relevant.append((held.codes == held.codes[query]).sum() - 1)
    return map_at_k(np.array(hits), np.array(relevant))


@pytest.mark.parametrize("seed", range(3))
def test_weight_and_gamma_are_those_of_a_loop_over_the_grid(store, seed):
    held = held_out(store, seed)
    same = held.codes[held.ranked] == held.codes[held.queries][:, None]
    noise = np.random.default_rng(seed).standard_normal(same.shape)
    scores = (2.0 * same + noise).astype(np.float32)
    weights, gammas = pair_validation._WEIGHTS, pair_validation._GAMMAS
    grid = np.array(
        [
            [
                naive_map(held, w * held.cosines + (1 - w) / (1 + np.exp(-g * scores)))
                for g in gammas
            ]
            for w in weights
        ]
    )
    best = max(
        (
            (np.mean(grid[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]), -i, -j)
            for i in range(len(weights))
            for j in range(len(gammas))
        ),
        key=lambda one: (round(one[0], 9), *one[1:]),
    )
    choice = held.choose(scores)
    assert (choice.weight, choice.gamma) == (weights[-best[1]], gammas[-best[2]])
    assert choice.map == pytest.approx(grid[-best[1], -best[2]], abs=1e-6)
    assert choice.gain.low > 0
    gains = np.zeros(len(held.queries))
    landmarks = sorted(set(held.codes[held.queries]))
    for half in (landmarks[::2], landmarks[1::2]):
        inside = np.isin(held.codes[held.queries], half)
        other, own = (
            replace(
                held,
                queries=held.queries[part],
                ranked=held.ranked[part],
                cosines=held.cosines[part],
            )
            for part in (~inside, inside)
        )
        of_other = other.choose(scores[~inside])
        values = own._combined(scores[inside], of_other.weight, of_other.gamma)
        gains[inside] = own._precisions(values) - own.search_precisions()
    np.testing.assert_allclose(choice.gains, gains, atol=1e-9)
    assert np.mean(held.search_precisions()) == pytest.approx(naive_map(held, held.cosines))


@given(shape=st.tuples(st.integers(2, 6), st.integers(2, 6)), seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_smoothing_equals_a_loop(shape, seed):
    grid = np.random.default_rng(seed).random(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            part = grid[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            assert smooth(grid)[i, j] == pytest.approx(part.mean())


def test_scores_are_those_of_the_model(store):
    held = held_out(store, queries=4)
    torch.manual_seed(0)
    model = ELViS(dim=DIM, width=8).eval()
    descriptors = Descriptors(store.local("patches"), 400, torch.device("cpu"))
    scores = held.scores(ELViSScorer(model), descriptors.one)
    for number, query in enumerate(held.queries):
        for place in (0, 7, 38):
            pair = (held.rows[query], held.rows[held.ranked[number, place]])
            with torch.no_grad():
                wanted = model(*(descriptors.one(int(row))[None] for row in pair))
            assert scores[number, place] == pytest.approx(float(wanted), abs=1e-4)


# --- fits ---


def test_elvis_learns_what_search_does_not_see(fitted, store):
    held = fitted.meta["held_out"]
    curve = fitted.meta["curve"]
    assert curve[-1]["loss"] < 0.97 * curve[0]["loss"]
    assert held["reranked"] > held["search"] + 0.1
    assert fitted.meta["weight"] < 1
    assert held["gain"][1] > 0
    assert fitted.meta["epoch"] == 1 + int(np.argmax([one["map"] for one in curve]))
    assert fitted.meta["local_settings"]["kind"] == "drawn"
    assert f"epoch {fitted.meta['epoch']}   weight {fitted.meta['weight']:g}   gamma" in (
        fitted.summary(store)
    )


def test_a_fit_is_deterministic_and_the_seed_counts(fitted, store):
    again = fit_elvis(store, **TINY)
    other = fit_elvis(store, **TINY, seed=1)
    for key, weight in fitted.weights.items():
        np.testing.assert_array_equal(again.weights[key], weight)
    assert again.meta == fitted.meta
    assert not np.array_equal(
        other.weights["proj_linear.weight"], fitted.weights["proj_linear.weight"]
    )


def test_a_pair_model_that_does_not_help_has_the_weight_1(tmp_path):
    store = write_store(tmp_path / "bare", own=0, seed=1)  # the background alone
    fitted = fit_elvis(store, **{**TINY, "epochs": 1})
    assert fitted.meta["weight"] == 1
    assert "does not help: rerank=elvis keeps the ranking" in fitted.summary(store)


class StopError(Exception):
    pass


FITS = {
    "elvis": partial(fit_elvis, **TINY),
    "ames": partial(fit_ames, **{**TINY_AMES, "steps_per_epoch": 2}),
}


def test_photos_that_find_each_other_choose_neither_epoch_nor_weight(tmp_path, capsys):
    store = write_store(tmp_path / "store", noise=0.02)
    fitted = fit_elvis(store, **TINY)
    curve, epochs = fitted.meta["curve"], TINY["epochs"]
    assert fitted.meta["held_out"]["search"] == 1
    assert fitted.meta["epoch"] == epochs
    assert fitted.meta["weight"] == 0.5
    assert ["map" in epoch for epoch in curve] == [False] * (epochs - 1) + [True]
    messages = capsys.readouterr().err
    assert "fit=elvis: held-out photos find each other without the pair model (mAP@100 1.0000)" in (
        messages
    )
    held = held_out(store)
    scores = np.random.default_rng(0).random(held.ranked.shape)
    same = held.codes[held.ranked] == held.codes[held.queries][:, None]
    expected = 0.4 / ((scores + same)[same].mean() - scores[~same].mean())
    assert held.choose((scores + same).astype("f4")).gamma == pytest.approx(expected, rel=1e-4)
    assert held.choose((scores - same).astype("f4")).weight == 1  # worse than chance
    # Scores that are right on average but order photos wrongly weigh less.
    noisy = held.choose(
        (30 * np.random.default_rng(1).normal(size=scores.shape) + same).astype("f4")
    )
    assert 0.5 < noisy.weight <= 1
    assert noisy.map >= 1 - 0.002


@pytest.mark.parametrize("method", FITS)
def test_a_stopped_fit_resumes_and_equals_an_uninterrupted_one(
    store, tmp_path, monkeypatch, method, capsys
):
    fit = FITS[method]
    whole = fit(store)
    trained = []
    epoch = Run.train_epoch

    def stopping(run):
        trained.append(run.epoch)
        if len(trained) == 3:
            raise StopError
        return epoch(run)

    monkeypatch.setattr(Run, "train_epoch", stopping)
    with pytest.raises(StopError):
        fit(store, staging=tmp_path)
    resumed = fit(store, staging=tmp_path)
    assert trained == [0, 1, 2, 2]
    assert "Resuming: 2 of 3 epochs are done." in capsys.readouterr().err
    assert resumed.meta == whole.meta
    for key, weight in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[key], weight)
    with pytest.raises(UserError, match=r"contains a stopped fit with a different training\.lr"):
        fit(store, staging=tmp_path, lr=1e-4)
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint.pt is damaged .* Remove"):
        fit(store, staging=tmp_path)


def test_ames_and_a_binary_student(store, tmp_path):
    options = {**TINY_AMES, "epochs": 4, "steps_per_epoch": 25}
    teacher = fit_ames(store, **options)
    assert teacher.meta["held_out"]["reranked"] > teacher.meta["held_out"]["search"] + 0.05
    teacher.write(tmp_path / "teacher")
    few = {**TINY_AMES, "epochs": 1, "steps_per_epoch": 2}
    student = fit_ames(store, bits=16, teacher=str(tmp_path / "teacher"), **few)
    assert student.meta["model"]["bits"] == 16
    assert student.weights["binary_projection"].shape == (DIM, 16)
    student.write(tmp_path / "student")
    assert PairModel.open(tmp_path / "student", "ames").dim == DIM
    # Weights of the teacher's shapes start as the teacher's.
    key = "layer0.feed_hidden.weight"
    assert np.abs(student.weights[key] - teacher.weights[key]).max() < 0.05
    short = fit_ames(store, bits=8, **few)  # without a teacher
    assert short.weights["binary_projection"].shape == (DIM, 8)

    for wrong, message in (
        ({"teacher": str(tmp_path / "student")}, "is binary. Pass a fit without fit.bits"),
        ({"teacher": str(tmp_path / "teacher"), "width": 8}, r"has 16. Pass fit.width=16"),
        ({"teacher": str(tmp_path / "none")}, "is not a fit of ames"),
    ):
        with pytest.raises(UserError, match=message):
            fit_ames(store, bits=16, **{**few, **wrong})
    other = write_store(tmp_path / "other", local=("seen",))
    with pytest.raises(
        UserError, match=r"fitted on the local features 'patches', and fit\.local is"
    ):
        fit_ames(other, bits=16, teacher=str(tmp_path / "teacher"), **few)


def test_wrong_stores_are_one_line(tmp_path, store):
    bare = write_store(tmp_path / "bare", local=())
    two = write_store(tmp_path / "two", local=("patches", "seen"))
    unlabelled = write_store(tmp_path / "unlabelled", labels=False)
    few = tmp_path / "few"
    DescriptorStore.write(few, list("abc"), np.eye(3, dtype="f4"), ["x", "x", "y"])
    with LocalFeatureWriter.writing(
        DescriptorStore.open(few), "patches", dim=DIM, dtype="float16", columns=2
    ) as writer:
        writer.append_all(store.local("patches")[row] for row in range(3))
    for wrong, options, message in (
        (bare, {}, r"bare has no local features, .* extract.py output=.* local=patches"),
        (two, {}, r"two has the local features patches, seen\. Pass fit\.local=patches"),
        (store, {"local": "seen"}, "no local features 'seen', only patches"),
        (unlabelled, {}, "has no landmark_id for fit=elvis to learn from"),
        (DescriptorStore.open(few), {}, "1 landmarks have two photos or more, .* needs 4"),
        (store, {"min_positives": 10}, r"has 10 photos of its landmark and 2 .* fit.min_positives"),
        (store, {"min_descriptors": 20}, r"fit\.min_descriptors=20 is not below fit\.max"),
        (store, {"lr": 0}, "fit_elvis: lr=0 is not valid"),
        (store, {"lr": 1e30}, r"loss became NaN or infinite in epoch 1\. Pass a fit\.lr below"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            fit_elvis(wrong, **{**TINY, **options})
        assert "\n" not in str(caught.value)
    assert fit_elvis(two, local="seen", **{**TINY, "epochs": 1}).meta["local"] == "seen"


def test_the_command_fits_and_resumes(in_process, store, tmp_path, monkeypatch):
    names = {key: value for key, value in TINY.items() if key != "epochs"}
    chosen = [f"fit.{key}={value}" for key, value in names.items()]
    command = ["fit.py", "fit=elvis", f"train={store.path}", "output=fitted", *chosen]
    command.append("fit.epochs=2")
    record, stops = Run.record, [True, False]

    def stopping(run, *arguments):
        if run.epoch == 2 and stops.pop(0):
            raise KeyboardInterrupt
        record(run, *arguments)

    monkeypatch.setattr(Run, "record", stopping)
    assert in_process(*command)[0] == 130
    assert (staging_folder(tmp_path / "fitted") / "checkpoint.pt").is_file()
    status, printed, errors = in_process(*command)
    assert status == 0
    assert printed.splitlines()[-1] == "wrote fitted"
    assert "held-out photos: mAP@100" in printed
    assert "Resuming: 1 of 2 epochs are done." in errors
    assert "   12 steps of 12 triplets" not in errors
    assert "2 epochs of 12 steps of 12 triplets" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]
    fitted = PairModel.open(tmp_path / "fitted", "elvis")
    assert fitted.meta["weight"] < 1
    record_of = yaml.safe_load((tmp_path / "fitted" / "fit.yaml").read_text())
    assert record_of["method"] == "elvis"
    assert record_of["store"]["photos"] == LANDMARKS * PHOTOS
    status, _, errors = in_process(*command)
    assert (status, errors) == (
        2,
        "error: fitted already exists. Pass overwrite=true to replace it.\n",
    )
    none = [
        one.replace("fitted", "none").replace("min_positives=2", "min_positives=99")
        for one in command
    ]
    status, _, errors = in_process(*none)
    assert (status, errors.count("\n")) == (2, 1)
    assert "Pass a smaller fit.min_positives or fit.min_negatives" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]  # nothing to be resumed
    stops.extend([False])
    assert in_process(*command, "overwrite=true")[0] == 0
    status, _, errors = in_process(*command, "fit.lr=-1", "overwrite=true")
    assert status == 2
    assert errors == "error: fit.lr=-1 is not valid. Pass a number > 0.\n"
