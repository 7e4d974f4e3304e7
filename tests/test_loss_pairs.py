"""The pair losses against their papers written out pair by pair, and the memory of batches."""

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
    """A batch with at least two photos of class 0, and embeddings near those of their class."""
    embeddings, labels = batch(seed, size, classes)
    labels[:2] = 0
    centres = torch.randn(classes, DIM, generator=torch.Generator().manual_seed(seed % 1000))
    return embeddings + 3 * centres[labels].double(), labels


def view(embeddings, labels):
    """Cosines (N, N) as lists, and the positives and negatives of each photo."""
    unit = torch.nn.functional.normalize(embeddings)
    cosines, labels = (unit @ unit.T).tolist(), labels.tolist()
    rows = range(len(labels))
    positives = [[j for j in rows if labels[j] == labels[i] and j != i] for i in rows]
    negatives = [[j for j in rows if labels[j] != labels[i]] for i in rows]
    return cosines, positives, negatives


def distance(cosine):
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def mean_above_0(values):
    positive = [value for value in values if value > 1e-12]
    return sum(positive) / len(positive) if positive else 0.0


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
    total, counts = 0.0, [0, 0]
    for row, ps, ns in zip(s, positives, negatives, strict=True):
        if not ps or not ns:
            continue
        hard_p = [row[p] for p in ps if row[p] - 0.1 < max(row[n] for n in ns)]
        hard_n = [row[n] for n in ns if row[n] + 0.1 > min(row[p] for p in ps)]
        counts = [counts[0] + len(hard_p), counts[1] + len(hard_n)]
        total += math.log(1 + sum(math.exp(-2 * (x - 0.5)) for x in hard_p)) / 2
        total += math.log(1 + sum(math.exp(50 * (x - 0.5)) for x in hard_n)) / 50
    return 0.0 if max(counts) <= 1 else total / len(s)  # the library returns 0 for a single pair


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


def naive_rank(s, i, positive, among, temperature):
    others = (j for j in among if j not in (i, positive))
    return 1 + sum(sigmoid((s[i][j] - s[i][positive]) / temperature) for j in others)


def naive_smooth_ap(s, positives, negatives, temperature=0.01):
    precisions = [
        sum(
            naive_rank(s, i, p, ps, temperature) / naive_rank(s, i, p, range(len(s)), temperature)
            for p in ps
        )
        / len(ps)
        for i, ps in enumerate(positives)
        if ps
    ]
    return 1 - sum(precisions) / len(precisions)


def naive_recall_at_k(
    s, positives, negatives, temperature=0.01, place_temperature=1.0, rank_query=False
):
    recalls = []
    for k in (1, 2, 4, 8, 16):
        for i, ps in enumerate(positives):
            if ps:
                ranks = [naive_rank(s, i, p, range(len(s)), temperature) for p in ps]
                if rank_query:
                    own = [sigmoid((s[i][i] - s[i][p]) / temperature) for p in ps]
                    ranks = [rank + one for rank, one in zip(ranks, own, strict=True)]
                recalled = sum(sigmoid((k - rank) / place_temperature) for rank in ranks)
                recalls.append(min(k, recalled) / min(k, len(ps)))
    return 1 - sum(recalls) / len(recalls)


def naive_mixes(unit, labels, alpha):
    """Append α x + (1 - α) y of all pairs of a class: neighbours in a circle, then two apart, …"""
    rows, mixed_labels, alpha = list(unit), labels.tolist(), iter(alpha.tolist())
    for label in sorted(set(mixed_labels)):
        members = [row for row, own in enumerate(labels.tolist()) if own == label]
        m = len(members)
        for step in range(1, m // 2 + 1):
            for start in range(m if 2 * step < m else step):
                i, j = sorted((members[start], members[(start + step) % m]))
                a = next(alpha)
                rows.append(a * unit[i] + (1 - a) * unit[j])
                mixed_labels.append(label)
    assert next(alpha, None) is None
    return torch.stack(rows), torch.tensor(mixed_labels)


@given(seed=seeds, size=st.integers(3, 12), classes=st.integers(1, 5), rank_query=st.booleans())
@settings(max_examples=15, deadline=None)
def test_simix_equals_the_loss_of_the_mixes_made_one_by_one(seed, size, classes, rank_query):
    embeddings, labels = paired(seed, size, classes)
    loss = RecallAtK(DIM, CLASSES, temperature=0.1, simix=True, rank_query=rank_query)
    torch.manual_seed(seed)
    value = loss(embeddings, labels)
    torch.manual_seed(seed)
    counts = labels.bincount()
    alpha = torch.rand(int((counts * (counts - 1) // 2).sum()), dtype=torch.float64)
    mixed, mixed_labels = naive_mixes(torch.nn.functional.normalize(embeddings), labels, alpha)
    similarities = (mixed @ mixed.T).tolist()
    _, positives, negatives = view(mixed, mixed_labels)
    expected = naive_recall_at_k(similarities, positives, negatives, 0.1, 1.0, rank_query)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    expected = naive_recall_at_k(*view(embeddings, labels), 0.1, 1.0, rank_query)
    assert loss.eval()(embeddings, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("suffix", "temperature"), [("", 0.01), ("_soft", 0.1)])
@pytest.mark.parametrize("simix", [False, True])
def test_recall_at_k_gives_the_authors_loss_and_gradient(
    shared, monkeypatch, simix, suffix, temperature
):
    arrays = np.load(shared / "reference" / "pooling" / "recall_at_k_simix.npz")
    answers = {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}
    name = ("mixed" if simix else "plain") + ("_soft" if temperature == 0.1 else "")
    monkeypatch.setattr(torch, "rand", lambda *_, **__: answers["alpha"].flatten())
    embeddings, labels = answers["embedding"].requires_grad_(), answers["label"]
    for rank_query, which in ((True, "loss"), (False, "loss_query_not_ranked")):
        loss = RecallAtK(16, 6, answers["k"].tolist(), temperature, 1.0, simix, rank_query)
        value = loss(embeddings, labels)
        assert value.item() == pytest.approx(answers[f"{name}_{which}"].item(), abs=1e-6)
        if rank_query:
            (gradient,) = torch.autograd.grad(value, embeddings)
            # Of the embeddings as given; ours is that of embeddings of any length.
            want = answers[f"{name}_gradient"]
            unit = embeddings.detach()
            want = want - (want * unit).sum(1, keepdim=True) * unit
            torch.testing.assert_close(gradient, want, rtol=0, atol=1e-5)


def test_simix_trains_the_network_of_a_config():
    config = composed("train", "loss=recall_at_k", "loss.simix=true")
    loss = build_loss(instantiate(config.loss), DIM, np.ones(CLASSES))
    assert loss.simix
    assert not loss.rank_query
    auxiliary = composed("train", "auxiliary=[recall_at_k]", "auxiliary.recall_at_k.simix=true")
    options = dict(auxiliary.auxiliary.recall_at_k)
    del options["weight"]
    assert instantiate(options).keywords["simix"] is True


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
def test_low_temperatures_give_average_precision_and_recall(seed):
    embeddings, labels = paired(seed)
    cosines, positives, _ = view(embeddings, labels)
    precisions, recalls = [], []
    for i, ps in enumerate(positives):
        if not ps:
            continue
        ranking = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -cosines[i][j])
        ranks = sorted(ranking.index(p) + 1 for p in ps)
        precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
        # The sigmoid is 1/2 at rank k.
        recalls.append(sum((rank < 2) + 0.5 * (rank == 2) for rank in ranks) / min(2, len(ps)))
    smooth_ap = SmoothAP(DIM, CLASSES, temperature=1e-9)(embeddings, labels).item()
    assert smooth_ap == pytest.approx(1 - np.mean(precisions), abs=1e-6)
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
def test_a_batch_without_a_positive_pair_is_rejected(make, labels):
    with pytest.raises(UserError, match=rf"the batch of {len(labels)}\. .*sampler=per_class"):
        make(DIM, CLASSES)(torch.randn(len(labels), DIM), torch.tensor(labels))


@pytest.mark.parametrize("make", [*EVERY, XBM])
def test_a_label_outside_the_classes_is_rejected(make):
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
def test_a_memory_compares_with_the_latest_embeddings(name, size):
    """The naive loss with the photos of the batch as queries in the queue, except themselves."""
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
            continue  # the library returns 0 for a single pair
        expected = MEMBERS[name][1](*queries)
        assert value.item() == pytest.approx(expected, rel=1e-3, abs=1e-4), step


def test_a_memory_resumes_from_a_checkpoint():
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
def test_a_memory_accepts_a_pair_loss_from_the_command_line(way):
    config = composed("train", "loss=xbm", "loss.memory_size=8", *OVERRIDES[way])
    check_config(config, settings_class("train"))
    loss = build_loss(instantiate(config.loss), DIM, np.ones(CLASSES))
    assert isinstance(loss.pair_loss, Triplet)
    assert loss.pair_loss.library_loss.margin == 0.4
    assert len(loss.memory) == 8


def test_wrong_options_of_a_composed_pair_loss_fail_before_training():
    override = ["loss=xbm", "+loss@loss.pair_loss=triplet", "loss.pair_loss.margin=-1"]
    with pytest.raises(UserError, match=r"^loss\.pair_loss\.margin=-1 is not valid\."):
        check_config(composed("train", *override), settings_class("train"))


def test_a_memory_accepts_a_custom_pair_loss():
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
def test_the_message_names_the_setting_out_of_range(make, options, word):
    with pytest.raises(UserError, match=word):
        make(DIM, CLASSES, **options)


def test_a_batch_larger_than_the_memory_is_rejected():
    with pytest.raises(UserError, match="memory_size=3 is below the 4 photos"):
        XBM(DIM, CLASSES, memory_size=3)(torch.randn(4, DIM), torch.tensor([0, 0, 1, 1]))
