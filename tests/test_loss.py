"""Every loss against its paper's formula, computed sample by sample in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_loss import (
    CLASSES,
    DIM,
    batch,
    cosines_of,
    fresh,
    naive_cross_entropy,
    seeds,
    smoothings,
)

from landmark.error import UserError
from landmark.loss import AdaCos, ArcFace, CosFace, Softmax
from landmark.loss.base import LabelError


def naive_margin_loss(loss, embeddings, labels, on_target) -> float:
    logits = cosines_of(embeddings, loss.weight)
    for row, label in zip(logits, labels.tolist(), strict=True):
        row[label] = on_target(row[label])
    logits = [[loss.scale * z for z in row] for row in logits]
    return naive_cross_entropy(logits, labels.tolist(), loss.label_smoothing)


def arcface_target(margin: float, easy: bool):
    def on_target(cosine: float) -> float:
        theta = math.acos(max(-1.0, min(1.0, cosine)))
        if easy:
            return math.cos(theta + margin) if theta < math.pi / 2 else cosine
        if theta + margin > math.pi:
            return cosine - margin * math.sin(margin)
        return math.cos(theta + margin)

    return on_target


@given(seeds, st.sampled_from([0.0, 0.3, 0.5, 1.5, 3.0]), st.booleans(), smoothings)
@settings(max_examples=40, deadline=None)
def test_arcface_equals_the_papers_formula(seed, margin, easy, smoothing):
    loss = fresh(ArcFace(DIM, CLASSES, margin, 30.0, easy, label_smoothing=smoothing), seed)
    embeddings, labels = batch(seed)
    expected = naive_margin_loss(loss, embeddings, labels, arcface_target(margin, easy))
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-7)


def test_arcface_decreases_monotonically_with_the_angle():
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    for margin in (0.3, 0.5, 1.2):
        target = ArcFace(DIM, CLASSES, margin).target_margin(angles.cos(), angles, angles)
        assert bool((target.diff() < 1e-9).all()), margin


@given(seeds, st.sampled_from([0.0, 0.3, 0.9]), smoothings)
@settings(max_examples=20, deadline=None)
def test_cosface_equals_the_papers_formula(seed, margin, smoothing):
    loss = fresh(CosFace(DIM, CLASSES, margin, 24.0, label_smoothing=smoothing), seed)
    embeddings, labels = batch(seed)
    expected = naive_margin_loss(loss, embeddings, labels, lambda cosine: cosine - margin)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-9)


def naive_adacos_scale(cosines, labels, scale: float) -> float:
    average = sum(
        math.exp(scale * z)
        for row, label in zip(cosines, labels, strict=True)
        for j, z in enumerate(row)
        if j != label
    ) / len(labels)
    angles = sorted(
        math.acos(max(-1.0, min(1.0, row[label])))
        for row, label in zip(cosines, labels, strict=True)
    )
    median = angles[(len(angles) - 1) // 2]
    return math.log(average) / math.cos(min(math.pi / 4, median))


@given(seeds, st.integers(1, 8), smoothings)
@settings(max_examples=20, deadline=None)
def test_adacos_updates_its_scale_by_the_papers_formula(seed, size, smoothing):
    loss = fresh(AdaCos(DIM, 40, label_smoothing=smoothing), seed)
    scale = math.sqrt(2) * math.log(39)
    assert float(loss.scale) == pytest.approx(scale, rel=1e-6)
    for step in range(3):
        embeddings, labels = batch(seed + step, size, classes=40)
        embeddings = embeddings + 8 * loss.weight.detach()[labels]  # near the centres: below pi / 4
        cosines = cosines_of(embeddings, loss.weight)
        scale = naive_adacos_scale(cosines, labels.tolist(), scale)
        logits = [[scale * z for z in row] for row in cosines]
        expected = naive_cross_entropy(logits, labels.tolist(), smoothing)
        assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert float(loss.scale) == pytest.approx(scale, rel=1e-4)


def test_adacos_keeps_its_scale_when_fixed_or_in_evaluation():
    embeddings, labels = batch(0)
    for loss in (AdaCos(DIM, CLASSES, dynamic=False), AdaCos(DIM, CLASSES).eval()):
        loss(embeddings, labels)
        assert float(loss.scale) == pytest.approx(math.sqrt(2) * math.log(CLASSES - 1))


def test_adacos_keeps_its_scale_where_the_formula_is_undefined():
    loss = AdaCos(DIM, 3)
    direction = torch.zeros(3, DIM)
    direction[:, 0] = torch.tensor([1.0, -1.0, -1.0])
    loss.weight.data = direction
    before = loss.scale.clone()
    value = loss(direction[:1], torch.tensor([0]))
    assert torch.isfinite(value)
    assert torch.equal(loss.scale, before)


@given(seeds, smoothings)
@settings(max_examples=20, deadline=None)
def test_softmax_equals_a_linear_classifier(seed, smoothing):
    loss = fresh(Softmax(DIM, CLASSES, label_smoothing=smoothing), seed)
    embeddings, labels = batch(seed)
    logits = embeddings.numpy() @ loss.weight.detach().numpy().T + loss.bias.detach().numpy()
    expected = naive_cross_entropy(logits.tolist(), labels.tolist(), smoothing)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("margin", [0.3, 1.4])
@pytest.mark.parametrize("name", ["ArcFace", "CosFace"])
def test_margin_losses_equal_pytorch_metric_learning(name, margin):
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    ours = {"ArcFace": ArcFace, "CosFace": CosFace}[name](DIM, CLASSES, margin, 30.0)
    embeddings, labels = batch(3, 64, dtype=torch.float32)
    peer_margin = math.degrees(margin) if name == "ArcFace" else margin
    peer = getattr(peers, name + "Loss")(CLASSES, DIM, margin=peer_margin, scale=30.0)
    peer.W.data = ours.weight.data.T.clone()
    torch.testing.assert_close(ours(embeddings, labels), peer(embeddings, labels))


@pytest.mark.parametrize(
    "loss",
    [
        ArcFace(DIM, CLASSES),
        ArcFace(DIM, CLASSES, margin=1.5),
        ArcFace(DIM, CLASSES, easy_margin=True),
        CosFace(DIM, CLASSES, label_smoothing=0.1),
        AdaCos(DIM, CLASSES, dynamic=False),
        Softmax(DIM, CLASSES, label_smoothing=0.1),
    ],
    ids=repr,
)
def test_gradients(loss):
    embeddings, labels = batch(5)
    weight = fresh(loss, 5).weight.detach().clone().requires_grad_()

    def value(embeddings, weight):
        return torch.func.functional_call(loss, {"weight": weight}, (embeddings, labels))

    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), weight))


@pytest.mark.parametrize("make", [ArcFace, CosFace, AdaCos, Softmax])
def test_gradients_are_finite_at_and_opposite_the_centres(make):
    loss = make(DIM, CLASSES)
    embeddings = torch.cat([loss.weight, -loss.weight]).detach().requires_grad_()
    loss(embeddings, torch.arange(CLASSES).repeat(2)).backward()
    for gradient in (embeddings.grad, loss.weight.grad):
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [ArcFace, CosFace, AdaCos, Softmax])
def test_half_precision_only_rounds_the_embeddings(make, dtype):
    loss = make(DIM, CLASSES)
    embeddings, labels = batch(9, dtype=torch.float32)
    half = (40 * embeddings).to(dtype).requires_grad_()  # squares near fp16's largest number
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half, labels)
    value.backward()
    loss.load_state_dict(state)
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(half.grad).all())
    torch.testing.assert_close(value, loss(half.detach().float(), labels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [ArcFace, CosFace, AdaCos, Softmax])
@pytest.mark.parametrize("label", [-100, -1, CLASSES])
def test_labels_outside_the_classes_are_refused(make, label):
    embeddings, labels = batch(1)
    labels[2] = label
    with pytest.raises(LabelError, match=f"the {CLASSES} classes 0 to {CLASSES - 1}"):
        make(DIM, CLASSES)(embeddings, labels)


@pytest.mark.parametrize(
    ("make", "options", "word"),
    [
        (ArcFace, {"margin": -0.1}, "margin"),
        (ArcFace, {"scale": 0.0}, "scale"),
        (CosFace, {"margin": -0.1}, "margin"),
        (CosFace, {"label_smoothing": 1.0}, "label_smoothing"),
        (Softmax, {"label_smoothing": -0.1}, "label_smoothing"),
    ],
)
def test_settings_out_of_range_are_named(make, options, word):
    with pytest.raises(UserError, match=word):
        make(DIM, CLASSES, **options)


def test_adacos_needs_three_landmarks():
    with pytest.raises(UserError, match="at least 3"):
        AdaCos(DIM, 2)


def test_a_larger_margin_increases_the_loss():
    embeddings, labels = batch(2)
    for make in (ArcFace, CosFace):
        losses = []
        for margin in (0.0, 0.2, 0.4):
            torch.manual_seed(0)
            losses.append(make(DIM, CLASSES, margin=margin)(embeddings, labels).item())
        assert np.all(np.diff(losses) > 0), make
