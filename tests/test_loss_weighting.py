"""Class weights and focal modulation against a naive computation."""

import math
from functools import partial
from typing import Unpack

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_loss import CLASSES, DIM, batch, fresh, seeds

from landmark.error import UserError
from landmark.loss import ArcFace, CosFace, P2SGrad, Softmax, SupCon
from landmark.loss.build import build_loss
from landmark.loss.classifier import SoftmaxOptions
from landmark.loss.margin import MarginLoss
from landmark.loss.weighting import PhotoWeighting

FORMULAS = {
    None: lambda _: 1.0,
    "inverse": lambda n: 1 / n,
    "inverse_sqrt": lambda n: 1 / math.sqrt(n),
    "effective": lambda n: (1 - 0.999) / (1 - 0.999**n),
}
counts_of_classes = st.lists(st.integers(1, 10_000), min_size=CLASSES, max_size=CLASSES)


@given(seeds, counts_of_classes, st.sampled_from(list(FORMULAS)), st.sampled_from([0, 0.5, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_the_loss_equals_the_weighted_modulated_mean(seed, counts, kind, focal):
    weighting = PhotoWeighting(CLASSES, kind, focal, np.array(counts))
    random = np.random.default_rng(seed)
    losses, labels = random.exponential(2, 9), random.integers(0, CLASSES, 9)
    raw = [FORMULAS[kind](n) for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / sum(counts)
    expected = sum(
        raw[label] / mean * (1 - math.exp(-loss)) ** focal * loss
        for loss, label in zip(losses, labels, strict=True)
    ) / len(losses)
    got = weighting(torch.from_numpy(losses), torch.from_numpy(labels))
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [ArcFace, CosFace, Softmax])
def test_losses_weight_and_modulate_each_photo(make):
    embeddings, labels = batch(3)
    counts = [5, 1, 7, 2, 9, 3]
    plain = fresh(make(DIM, CLASSES, label_smoothing=0.1), 3)
    options = {"class_weights": "inverse_sqrt", "focal": 2.0, "class_counts": counts}
    loss = fresh(make(DIM, CLASSES, label_smoothing=0.1, **options), 3)
    each = torch.stack(
        [plain(row[None], label[None]) for row, label in zip(embeddings, labels, strict=True)]
    )
    expected = PhotoWeighting(CLASSES, "inverse_sqrt", 2.0, counts)(each, labels)
    torch.testing.assert_close(loss(embeddings, labels), expected)


def test_p2sgrad_weights_its_classes():
    embeddings, labels = batch(3)
    counts = [5, 1, 7, 2, 9, 3]
    loss = fresh(P2SGrad(DIM, CLASSES, class_weights="inverse", class_counts=counts), 3)
    plain = fresh(P2SGrad(DIM, CLASSES), 3)
    weights = np.array([sum(counts) / CLASSES / n for n in counts])
    each = [
        weights[label] * plain(row[None], label[None]).item()
        for row, label in zip(embeddings, labels, strict=True)
    ]
    assert loss(embeddings, labels).item() == pytest.approx(np.mean(each), rel=1e-6)


@given(st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=3, deadline=None)
def test_a_certain_photo_has_a_finite_gradient(focal):
    losses = torch.tensor([0.0, 1e-30, 0.3], requires_grad=True)
    PhotoWeighting(2, focal=focal)(losses, torch.tensor([0, 1, 1])).backward()
    assert bool(torch.isfinite(losses.grad).all())


class OwnOptions(ArcFace):
    def __init__(self, embedding_dim, num_classes, **options):
        super().__init__(embedding_dim, num_classes, **options)


class NoOptions(MarginLoss):
    def __init__(self, embedding_dim, num_classes):
        super().__init__(embedding_dim, num_classes, 30.0)


class OwnModule(torch.nn.Module):
    def __init__(self, embedding_dim, num_classes, **softmax: Unpack[SoftmaxOptions]):
        super().__init__()
        self.shape = num_classes, embedding_dim
        self.weighting = PhotoWeighting(num_classes, **softmax)


class OtherOptions(torch.nn.Module):
    def __init__(self, embedding_dim, num_classes, **options):
        super().__init__()
        self.shape = num_classes, embedding_dim
        self.options = options


@pytest.mark.parametrize("make", [ArcFace, Softmax, P2SGrad, OwnOptions, OwnModule])
def test_a_loss_with_class_counts_receives_them(make):
    loss = build_loss(partial(make, class_weights="inverse"), DIM, np.arange(1, CLASSES + 1))
    assert loss.weighting.class_weights.tolist() == pytest.approx(
        [3.5 / n for n in range(1, CLASSES + 1)]
    )


@pytest.mark.parametrize("make", [NoOptions, SupCon, OtherOptions])
def test_a_loss_without_class_counts_receives_none(make):
    loss = build_loss(make, DIM, np.arange(1, CLASSES + 1))
    assert not getattr(loss, "options", {})


def test_class_weights_are_not_saved_in_checkpoints():
    loss = ArcFace(DIM, CLASSES, class_weights="inverse", class_counts=[1] * CLASSES)
    assert set(loss.state_dict()) == {"weight"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"focal": -1.0}, "Softmax: focal=-1.0"),
        ({"class_weights": "inverse"}, "needs class_counts"),
        ({"class_weights": "other", "class_counts": [1] * CLASSES}, "inverse_sqrt"),
        ({"class_weights": "inverse", "class_counts": [1, 1, 0, 1, 1, 1]}, "class 2 has none"),
    ],
)
def test_settings_out_of_range_are_named(options, words):
    with pytest.raises(UserError, match=words):
        Softmax(DIM, CLASSES, **options)
