"""The pair losses against their papers' formulas, computed pair by pair, and the batch memory."""

import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_loss import CLASSES, DIM, batch, seeds
from test_configs import composed, settings_class

from landmark.cli._check import check_config
from landmark.error import UserError
from landmark.loss import (
    XBM,
    Circle,
    Contrastive,
    FastAP,
    MultiSimilarity,
    RecallAtK,
    SmoothAP,
    SupCon,
    Triplet,
)
from landmark.loss.base import LabelError
from landmark.loss.build import build_loss

EVERY = [Circle, Contrastive, FastAP, MultiSimilarity, RecallAtK, SmoothAP, SupCon, Triplet]


def paired(seed, size=10, classes=4):
    """Return a batch in which class 0 has at least two photos, with embeddings near their class."""
    embeddings, labels = batch(seed, size, classes)
    labels[:2] = 0
    centres = torch.randn(classes, DIM, generator=torch.Generator().manual_seed(seed % 1000))
    return embeddings + 3 * centres[labels].double(), labels


def view(embeddings, labels):
    """Return the cosines (N, N) as lists, and the positives and negatives of each photo."""
    unit = torch.nn.functional.normalize(embeddings)
    cosines, labels = (unit @ unit.T).tolist(), labels.tolist()
    rows = range(len(labels))
    positives = [[j for j in rows if labels[j] == labels[i] and j != i] for i in rows]
    negatives = [[j for j in rows if labels[j] != labels[i]] for i in rows]
    return cosines, positives, negatives


def distance(cosine):
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def mean_above_0(values):
    kept = [value for value in values if value > 1e-12]
    return sum(kept) / len(kept) if kept else 0.0


def naive_contrastive(s, positives, negatives):
    pulled = [distance(s[i][j]) for i, row in enumerate(positives) for j in row]
    pushed = [max(0.0, 1 - distance(s[i][j])) for i, row in enumerate(negatives) for j in row]
    return mean_above_0(pulled) + mean_above_0(pushed)


def naive_triplet(s, positives, negatives):
    hinges = [
        max(0.0, 0.2 + max(distance(s[i][p]) for p in ps) - min(distance(s[i][n]) for n in ns))
        for i, (ps, ns) in enumerate(zip(positives, negatives, strict=True))
        if ps and ns
    ]
    return sum(hinges) / len(hinges) if hinges else 0.0


def naive_multi_similarity(s, positives, negatives):
    total, kept = 0.0, [0, 0]
    for row, ps, ns in zip(s, positives, negatives, strict=True):
        if not ps or not ns:
            continue
        hard_p = [row[p] for p in ps if row[p] - 0.1 < max(row[n] for n in ns)]
        hard_n = [row[n] for n in ns if row[n] + 0.1 > min(row[p] for p in ps)]
        kept = [kept[0] + len(hard_p), kept[1] + len(hard_n)]
        total += math.log(1 + sum(math.exp(-2 * (x - 0.5)) for x in hard_p)) / 2
        total += math.log(1 + sum(math.exp(50 * (x - 0.5)) for x in hard_n)) / 50
    return 0.0 if max(kept) <= 1 else total / len(s)  # the library ignores a single pair


def naive_circle(s, positives, negatives):
    losses = []
    for i, (ps, ns) in enumerate(zip(positives, negatives, strict=True)):
        if ps and ns:
            near = sum(math.exp(80 * max(0, s[i][n] + 0.4) * (s[i][n] - 0.4)) for n in ns)
            far = sum(math.exp(-80 * max(0, 1.4 - s[i][p]) * (s[i][p] - 0.6)) for p in ps)
            losses.append(math.log(1 + near * far))
    return mean_above_0(losses)


def naive_supcon(s, positives, negatives):
    losses = []
    for row, ps, ns in zip(s, positives, negatives, strict=True):
        if ps:
            everything = sum(math.exp(row[j] / 0.1) for j in ps + ns)
            logs = [math.log(math.exp(row[p] / 0.1) / everything) for p in ps]
            losses.append(-sum(logs) / len(ps))
    return mean_above_0(losses) if any(negatives) else 0.0


def naive_fast_ap(s, positives, negatives):
    precisions = []
    for i, (ps, ns) in enumerate(zip(positives, negatives, strict=True)):
        if not ps:
            continue
        total = running_p = running = 0.0
        for edge in range(11):
            in_bin = [
                sum(max(0.0, 1 - abs(2 - 2 * s[i][j] - 0.4 * edge) / 0.4) for j in part)
                for part in (ps, ns)
            ]
            running_p += in_bin[0]
            running += sum(in_bin)
            total += in_bin[0] * running_p / running if running > 0 else 0.0
        precisions.append(total / len(ps))
    return 1 - sum(precisions) / len(precisions)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def naive_place(s, i, positive, among, temperature):
    others = (j for j in among if j not in (i, positive))
    return 1 + sum(sigmoid((s[i][j] - s[i][positive]) / temperature) for j in others)


def naive_smooth_ap(s, positives, negatives, temperature=0.01):
    precisions = [
        sum(
            naive_place(s, i, p, ps, temperature) / naive_place(s, i, p, range(len(s)), temperature)
            for p in ps
        )
        / len(ps)
        for i, ps in enumerate(positives)
        if ps
    ]
    return 1 - sum(precisions) / len(precisions)


def naive_recall_at_k(s, positives, negatives, temperature=0.01, place_temperature=1.0):
    recalls = []
    for k in (1, 2, 4, 8, 16):
        for i, ps in enumerate(positives):
            if ps:
                places = [naive_place(s, i, p, range(len(s)), temperature) for p in ps]
                found = sum(sigmoid((k - place) / place_temperature) for place in places)
                recalls.append(found / min(k, len(ps)))
    return 1 - sum(recalls) / len(recalls)


NAIVE = [
    (Contrastive, naive_contrastive),
    (Triplet, naive_triplet),
    (MultiSimilarity, naive_multi_similarity),
    (Circle, naive_circle),
    (SupCon, naive_supcon),
    (FastAP, naive_fast_ap),
    (SmoothAP, naive_smooth_ap),
    (RecallAtK, naive_recall_at_k),
]


@pytest.mark.parametrize(("make", "naive"), NAIVE, ids=lambda value: value.__name__)
@given(seed=seeds, size=st.integers(3, 12), classes=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_a_pair_loss_equals_its_formula(make, naive, seed, size, classes):
    embeddings, labels = paired(seed, size, classes)
    expected = naive(*view(embeddings, labels))
    assert make(DIM, CLASSES)(embeddings, labels).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-7
    )


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_at_a_low_temperature_the_losses_equal_average_precision_and_recall(seed):
    embeddings, labels = paired(seed)
    cosines, positives, _ = view(embeddings, labels)
    precisions, recalls = [], []
    for i, ps in enumerate(positives):
        if not ps:
            continue
        ranking = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -cosines[i][j])
        places = sorted(ranking.index(p) + 1 for p in ps)
        precisions.append(np.mean([(n + 1) / place for n, place in enumerate(places)]))
        # The sigmoid is 1/2 at rank k.
        recalls.append(sum((place < 2) + 0.5 * (place == 2) for place in places) / min(2, len(ps)))
    got = SmoothAP(DIM, CLASSES, temperature=1e-9)(embeddings, labels).item()
    assert got == pytest.approx(1 - np.mean(precisions), abs=1e-6)
    sharp = RecallAtK(DIM, CLASSES, [2], 1e-9, 1e-2)
    assert sharp(embeddings, labels).item() == pytest.approx(1 - np.mean(recalls), abs=1e-6)


@pytest.mark.parametrize("make", EVERY)
def test_gradients(make):
    embeddings, labels = paired(7, 8, 3)
    loss = make(DIM, CLASSES)
    if make is Circle:  # no gradient flows through its factors
        (gradient,) = torch.autograd.grad(loss(embeddings.requires_grad_(), labels), embeddings)
        assert bool(torch.isfinite(gradient).all())
        return
    if make in (SmoothAP, RecallAtK):
        loss.temperature = 0.5
    if make is Triplet or make is Contrastive:
        labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert torch.autograd.gradcheck(
        lambda x: loss(x, labels), (embeddings.requires_grad_(),), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("make", [*EVERY, XBM])
def test_duplicate_photos_and_single_classes_have_finite_gradients(make):
    for labels in ([0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 2]):
        embeddings = torch.ones(4, DIM)
        embeddings[2:] = -1.0
        embeddings.requires_grad_()
        value = make(DIM, CLASSES)(embeddings, torch.tensor(labels))
        value.backward()
        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(embeddings.grad).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [*EVERY, XBM])
def test_half_precision_only_rounds_the_embeddings(make, dtype):
    embeddings, labels = paired(9)
    half = embeddings.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = make(DIM, CLASSES)(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(half.grad).all())
    expected = make(DIM, CLASSES)(half.detach().float(), labels)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("labels", [[1], [0, 1, 2, 5]])
def test_a_batch_without_two_photos_of_a_landmark_is_refused(make, labels):
    with pytest.raises(UserError, match=f"the batch of {len(labels)} .*sampler=per_class"):
        make(DIM, CLASSES)(torch.randn(len(labels), DIM), torch.tensor(labels))


@pytest.mark.parametrize("make", [*EVERY, XBM])
def test_labels_outside_the_classes_are_refused(make):
    with pytest.raises(LabelError, match="classes 0 to 5"):
        make(DIM, CLASSES)(torch.randn(2, DIM), torch.tensor([0, CLASSES]))


MEMBERS = {
    "contrastive": (Contrastive, naive_contrastive),
    "triplet": (Triplet, naive_triplet),
    "multi_similarity": (MultiSimilarity, naive_multi_similarity),
    "circle": (Circle, naive_circle),
    "supcon": (SupCon, naive_supcon),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("size", [1, 5])
def test_a_memory_compares_with_its_latest_embeddings(name, size):
    """The naive loss has the photos of the batch as queries in the queue, without themselves."""
    loss = XBM(DIM, CLASSES, name, memory_size=12)
    past, past_labels = torch.empty(0, DIM, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    for step in range(15 if size == 1 else 4):
        embeddings, labels = batch(step, size, 3, dtype=torch.float32)
        past = torch.cat([past, embeddings.double()])[-12:]
        past_labels = torch.cat([past_labels, labels])[-12:]
        cosines, positives, negatives = view(past, past_labels)
        new = range(len(past) - size, len(past))
        # Only the photos of the batch are queries.
        queries = [[rows[i] for i in new] for rows in (cosines, positives, negatives)]
        value = loss(embeddings, labels)
        if all(sum(map(len, pairs)) <= 1 for pairs in queries[1:]):
            continue  # the library ignores a single pair
        expected = MEMBERS[name][1](*queries)
        assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-4), step


def test_a_resumed_memory_equals_an_uninterrupted_one():
    one, other = XBM(DIM, CLASSES, memory_size=12), XBM(DIM, CLASSES, memory_size=12)
    for step in range(5):
        one(*batch(step, 5, dtype=torch.float32))
    other.load_state_dict(one.state_dict())
    for step in range(5, 9):
        embeddings, labels = batch(step, 5, dtype=torch.float32)
        assert torch.equal(one(embeddings, labels), other(embeddings, labels))


OVERRIDES = {
    "by name": ["loss.pair_loss=triplet", "loss.options={margin: 0.4}"],
    "key by key": ["loss.pair_loss=triplet", "+loss.options.margin=0.4"],
    "its own YAML": ["+loss@loss.pair_loss=triplet", "loss.pair_loss.margin=0.4"],
    "its YAML and options": ["+loss@loss.pair_loss=triplet", "loss.options={margin: 0.4}"],
}


@pytest.mark.parametrize("way", OVERRIDES)
def test_the_pair_loss_of_a_memory_is_set_on_the_command_line(way):
    config = composed("train", "loss=xbm", "loss.memory_size=8", *OVERRIDES[way])
    check_config(config, settings_class("train"))
    loss = build_loss(instantiate(config.loss), DIM, np.ones(CLASSES))
    assert isinstance(loss.pair_loss, Triplet)
    assert loss.pair_loss.library_loss.margin == 0.4
    assert len(loss.memory) == 8


def test_invalid_options_of_a_composed_pair_loss_are_named_before_training():
    override = ["loss=xbm", "+loss@loss.pair_loss=triplet", "loss.pair_loss.margin=-1"]
    with pytest.raises(UserError, match=r"^loss\.pair_loss\.margin=-1 is not valid\."):
        check_config(composed("train", *override), settings_class("train"))


def test_a_memory_accepts_a_pair_loss_of_the_user():
    class Wide(Triplet):
        def __init__(self, embedding_dim, num_classes, width=1.0):
            super().__init__(embedding_dim, num_classes, margin=width)

    loss = XBM(DIM, CLASSES, pair_loss=Wide, options={"width": 0.7})
    assert loss.pair_loss.library_loss.margin == 0.7


@pytest.mark.parametrize(
    ("make", "options", "word"),
    [
        (Contrastive, {"positive_margin": 1.0}, "positive_margin"),
        (Triplet, {"margin": -0.1}, "margin"),
        (MultiSimilarity, {"beta": 0.0}, "beta"),
        (Circle, {"margin": 1.0}, "margin"),
        (SupCon, {"temperature": 0.0}, "temperature"),
        (FastAP, {"bins": 0}, "bins"),
        (SmoothAP, {"temperature": 0.0}, "temperature"),
        (RecallAtK, {"k": []}, "RecallAtK: k="),
        (RecallAtK, {"k": [0, 1]}, "RecallAtK: k="),
        (RecallAtK, {"place_temperature": 0.0}, "place_temperature"),
        (XBM, {"pair_loss": "arcface"}, "Pass one of circle, contrastive"),
        (XBM, {"memory_size": 0}, "memory_size"),
        (
            XBM,
            {"options": {"colour": 1}},
            "options.colour is unknown .* negative_margin",
        ),
        (XBM, {"options": {"negative_margin": True}}, "Contrastive: negative_margin=true is not"),
        (XBM, {"options": {"positive_margin": 2.0}}, "loss.positive_margin=2.0 is not below"),
        (XBM, {"pair_loss": FastAP}, "FastAP cannot compare a batch with a memory"),
        (XBM, {"pair_loss": SmoothAP}, "SmoothAP cannot compare a batch with a memory"),
    ],
)
def test_settings_out_of_range_are_named(make, options, word):
    with pytest.raises(UserError, match=word):
        make(DIM, CLASSES, **options)


def test_a_batch_larger_than_the_memory_is_refused():
    with pytest.raises(UserError, match="memory_size=3 is below the 4 photos"):
        XBM(DIM, CLASSES, memory_size=3)(torch.randn(4, DIM), torch.tensor([0, 0, 1, 1]))
