"""The other margin losses against their papers' formulas, computed photo by photo."""

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
from landmark.loss import (
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    DynamicMargin,
    ElasticFace,
    MagFace,
    P2SGrad,
    SphereFace,
    SubCenterArcFace,
)
from landmark.loss.base import LabelError

COUNTS = [1, 16, 5, 81, 5, 2]


def counted_dynamic(*args, **options):
    return DynamicMargin(*args, class_counts=COUNTS, **options)


EVERY = [AdaFace, CombinedMargin, CurricularFace, counted_dynamic, ElasticFace, MagFace, P2SGrad]
EVERY += [SphereFace, SubCenterArcFace]


def angle(cosine):
    return math.acos(max(-1.0, min(1.0, cosine)))


def arc(cosine, margin):
    if angle(cosine) + margin > math.pi:
        return cosine - margin * math.sin(margin)
    return math.cos(angle(cosine) + margin)


def psi(theta):
    k = math.floor(theta / math.pi)
    return (-1) ** k * math.cos(theta) - 2 * k


def check(loss, seed, on_target, on_negative=None, added=None, size=7):
    """Check that the loss of a batch equals that of the logits computed one by one."""
    embeddings, labels = batch(seed, size)
    embeddings = embeddings + 2 * torch.nn.functional.normalize(loss.weight)[labels].detach()
    norms = [math.hypot(*row) for row in embeddings.tolist()]
    rows = cosines_of(embeddings, loss.weight)
    k = loss.sub_centres
    rows = [[max(row[c * k : c * k + k]) for c in range(CLASSES)] for row in rows]
    logits = []
    for row, label, norm in zip(rows, labels.tolist(), norms, strict=True):
        target = on_target(row[label], label, norm)
        logits.append(
            [
                loss.scale
                * (target if j == label else on_negative(cosine, target) if on_negative else cosine)
                for j, cosine in enumerate(row)
            ]
        )
    expected = naive_cross_entropy(logits, labels.tolist(), loss.label_smoothing)
    if added is not None:
        expected += sum(added(norm) for norm in norms) / len(norms)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@given(seeds, st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0]), smoothings)
@settings(max_examples=25, deadline=None)
def test_subcenter_arcface_uses_the_nearest_centre(seed, k, margin, smoothing):
    made = SubCenterArcFace(DIM, CLASSES, margin, 30.0, k, label_smoothing=smoothing)
    loss = fresh(made, seed)
    # `check` moves photos to rows of the weight; with k centres, any row will do.
    check(loss, seed, lambda cosine, *_: arc(cosine, margin))


@given(seeds, st.sampled_from([1, 2]), smoothings)
@settings(max_examples=20, deadline=None)
def test_dynamic_margin_decreases_with_the_fourth_root_of_the_count(seed, k, smoothing):
    loss = fresh(counted_dynamic(DIM, CLASSES, sub_centres=k, label_smoothing=smoothing), seed)
    roots = [count**-0.25 for count in COUNTS]
    share = [(root - min(roots)) / (max(roots) - min(roots)) for root in roots]
    check(loss, seed, lambda cosine, label, _: arc(cosine, 0.05 + 0.45 * share[label]))


def test_dynamic_margins_span_their_range_and_are_equal_for_equal_counts():
    margins = counted_dynamic(DIM, CLASSES).margins
    assert float(margins[COUNTS.index(1)]) == pytest.approx(0.5)
    assert float(margins[COUNTS.index(81)]) == pytest.approx(0.05)
    alike = DynamicMargin(DIM, CLASSES, class_counts=[4] * CLASSES).margins
    torch.testing.assert_close(alike, torch.full((CLASSES,), 0.275))


@given(seeds, st.sampled_from([0.0, 0.2, 0.9]), smoothings)
@settings(max_examples=25, deadline=None)
def test_curricularface_weighs_hard_negatives_by_t(seed, t, smoothing):
    loss = fresh(CurricularFace(DIM, CLASSES, label_smoothing=smoothing), seed).eval()
    loss.t.fill_(t)
    stored = float(loss.t)

    def on_negative(cosine, target):
        return cosine * (stored + cosine) if cosine > target else cosine

    check(loss, seed, lambda cosine, *_: arc(cosine, 0.5), on_negative)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_curricularface_updates_t_by_the_batch_before_using_it(seed):
    loss = fresh(CurricularFace(DIM, CLASSES, momentum=0.25), seed)
    t = 0.0
    for step in range(3):
        embeddings, labels = batch(seed + step)
        rows = cosines_of(embeddings, loss.weight)
        own = [row[label] for row, label in zip(rows, labels.tolist(), strict=True)]
        t = 0.25 * sum(own) / len(own) + 0.75 * t
        value = loss(embeddings, labels)
        assert float(loss.t) == pytest.approx(t, abs=1e-6)
        assert value.item() == pytest.approx(loss.eval()(embeddings, labels).item(), rel=1e-12)
        loss.train()


def naive_adaface(loss):
    mean, deviation = float(loss.mean_length), float(loss.length_deviation)

    def on_target(cosine, label, length):
        z = (min(max(length, 1e-3), 100.0) - mean) / (deviation + 1e-3) * loss.concentration
        z = max(-1.0, min(1.0, z))
        theta = min(max(angle(cosine) - loss.margin * z, 1e-3), math.pi - 1e-3)
        return math.cos(theta) - (loss.margin + loss.margin * z)

    return on_target


@given(seeds, st.sampled_from([(20.0, 100.0), (9.0, 0.5), (3.0, 2.0)]), smoothings)
@settings(max_examples=25, deadline=None)
def test_adaface_margin_depends_on_the_norm(seed, running, smoothing):
    loss = fresh(AdaFace(DIM, CLASSES, label_smoothing=smoothing), seed).eval()
    loss.mean_length.fill_(running[0])
    loss.length_deviation.fill_(running[1])
    check(loss, seed, naive_adaface(loss))


def test_adaface_tracks_the_norms_without_gradient():
    loss = AdaFace(DIM, CLASSES, momentum=0.5)
    embeddings, labels = batch(4, dtype=torch.float32)
    lengths = embeddings.norm(dim=1).numpy().astype("float64")
    loss(embeddings, labels)
    assert float(loss.mean_length) == pytest.approx((20 + lengths.mean()) / 2, rel=1e-6)
    assert float(loss.length_deviation) == pytest.approx((100 + lengths.std()) / 2, rel=1e-6)
    embeddings.requires_grad_()
    loss(embeddings, labels).backward()
    along = (embeddings.grad * embeddings).sum(1)  # the slope along each embedding
    torch.testing.assert_close(along, torch.zeros(len(labels)), atol=1e-4, rtol=0)


@given(seeds, smoothings)
@settings(max_examples=25, deadline=None)
def test_magface_margin_and_regulariser_depend_on_the_norm(seed, smoothing):
    loss = fresh(
        MagFace(DIM, CLASSES, 5.0, 11.0, 0.3, 0.9, 2.0, 40.0, label_smoothing=smoothing), seed
    )

    def on_target(cosine, label, length):
        a = min(max(length, 5.0), 11.0)
        return arc(cosine, 0.3 + 0.6 * (a - 5.0) / 6.0)

    def added(length):
        a = min(max(length, 5.0), 11.0)
        return 2.0 * (1 / a + a / 121.0)

    check(loss, seed, on_target, added=added)


@given(seeds, st.sampled_from(["angle", "cosine"]), st.booleans(), smoothings)
@settings(max_examples=25, deadline=None)
def test_elasticface_samples_a_margin_for_each_photo(seed, on, sort, smoothing):
    loss = ElasticFace(DIM, CLASSES, 0.4, 0.1, margin_on=on, sort=sort, label_smoothing=smoothing)
    loss = fresh(loss, seed)
    embeddings, labels = batch(seed)
    rows = cosines_of(embeddings, loss.weight)
    own = [row[label] for row, label in zip(rows, labels.tolist(), strict=True)]
    torch.manual_seed(seed)
    margins = (0.4 + 0.1 * torch.randn(len(own), dtype=torch.float64)).tolist()
    if sort:
        margins.sort()
        places = np.argsort(np.argsort(-np.array(own)))
        margins = [margins[place] for place in places]
    for row, label, margin in zip(rows, labels.tolist(), margins, strict=True):
        row[label] = arc(row[label], margin) if on == "angle" else row[label] - margin
    logits = [[loss.scale * z for z in row] for row in rows]
    expected = naive_cross_entropy(logits, labels.tolist(), smoothing)
    torch.manual_seed(seed)
    assert loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_elasticface_equals_arcface_or_cosface_in_evaluation():
    embeddings, labels = batch(1)
    for on, make in (("angle", ArcFace), ("cosine", CosFace)):
        elastic = fresh(ElasticFace(DIM, CLASSES, 0.4, margin_on=on), 1).eval()
        plain = fresh(make(DIM, CLASSES, 0.4, 64.0), 1)
        torch.testing.assert_close(elastic(embeddings, labels), plain(embeddings, labels))


@given(seeds, st.sampled_from([1.0, 1.5, 2.0, 4.0]), smoothings)
@settings(max_examples=25, deadline=None)
def test_sphereface_equals_the_papers_psi(seed, margin, smoothing):
    loss = fresh(SphereFace(DIM, CLASSES, margin, label_smoothing=smoothing), seed)
    check(loss, seed, lambda cosine, *_: psi(margin * angle(cosine)))


@given(seeds, st.sampled_from([(1, 0.3, 0.2), (0.9, 0.4, 0.15), (1.4, 1.0, 0.0)]), smoothings)
@settings(max_examples=25, deadline=None)
def test_combined_margins_equal_equation_4(seed, margins, smoothing):
    m1, m2, m3 = margins
    loss = fresh(CombinedMargin(DIM, CLASSES, *margins, label_smoothing=smoothing), seed)
    check(loss, seed, lambda cosine, *_: psi(m1 * angle(cosine) + m2) - m3)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_p2sgrad_gradients_equal_the_papers_formula(seed):
    loss = fresh(P2SGrad(DIM, CLASSES), seed)
    embeddings, labels = batch(seed)
    embeddings.requires_grad_()
    value = loss(embeddings, labels)
    (got,) = torch.autograd.grad(value, embeddings)
    cosines = (
        torch.nn.functional.normalize(embeddings)
        @ torch.nn.functional.normalize(loss.weight.detach()).T
    )
    pulled = cosines.detach() - torch.eye(CLASSES, dtype=torch.float64)[labels]
    (expected,) = torch.autograd.grad(cosines, embeddings, pulled / len(labels))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    assert value.item() == pytest.approx(pulled.square().sum().item() / 2 / len(labels))


def test_margin_losses_equal_pytorch_metric_learning():
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels = batch(3, 64, dtype=torch.float32)
    ours = SubCenterArcFace(DIM, CLASSES, 0.5, 30.0, 3)
    peer = peers.SubCenterArcFaceLoss(
        num_classes=CLASSES, embedding_size=DIM, margin=math.degrees(0.5), scale=30.0
    )
    peer.W.data = ours.weight.data.T.clone()
    torch.testing.assert_close(ours(embeddings, labels), peer(embeddings, labels))

    unit = torch.nn.functional.normalize(embeddings)
    sphere = SphereFace(DIM, CLASSES, 4, 7.0)
    peer = peers.SphereFaceLoss(CLASSES, DIM, margin=4, scale=7.0)
    peer.W.data = sphere.weight.data.T.clone()
    torch.testing.assert_close(sphere(unit, labels), peer(unit, labels), rtol=1e-4, atol=1e-4)

    pulled = P2SGrad(DIM, CLASSES)
    peer = peers.P2SGradLoss(DIM, CLASSES)
    peer.weight.data = pulled.weight.data.T.clone()
    torch.testing.assert_close(
        pulled(embeddings, labels), peer(embeddings, labels) * CLASSES / 2, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "loss",
    [
        SphereFace(DIM, CLASSES, 1.0),
        SphereFace(DIM, CLASSES, 4.0),
        CombinedMargin(DIM, CLASSES),
        CombinedMargin(DIM, CLASSES, 1.5, 1.0, 0.1),
        SubCenterArcFace(DIM, CLASSES, 1.5),
        AdaFace(DIM, CLASSES).eval(),
        MagFace(DIM, CLASSES),
        CurricularFace(DIM, CLASSES).eval(),
        ElasticFace(DIM, CLASSES).eval(),
        counted_dynamic(DIM, CLASSES),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_target_logit_decreases_monotonically_with_the_angle(loss):
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    for norm in (3.0, 20.0, 99.0):
        norms, labels = torch.full_like(angles, norm), torch.zeros(2001, dtype=torch.int64)
        assert bool((loss.target_margin(angles.cos(), labels, norms).diff() < 1e-9).all())


@pytest.mark.parametrize("make", EVERY)
def test_gradients(make):
    loss = fresh(make(DIM, CLASSES), 5).eval()
    embeddings, labels = batch(5)
    embeddings = embeddings + 2 * loss.weight.detach()[labels]
    weight = loss.weight.detach().clone().requires_grad_()

    def value(embeddings, weight):
        if make is AdaFace:  # no gradient flows through the lengths
            embeddings = 9 * torch.nn.functional.normalize(embeddings)
        return torch.func.functional_call(loss, {"weight": weight}, (embeddings, labels))

    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), weight))


@pytest.mark.parametrize("make", EVERY)
def test_gradients_are_finite_at_and_opposite_the_centres(make):
    loss = make(DIM, CLASSES)
    centres = loss.weight[:CLASSES]
    embeddings = torch.cat([centres, -centres]).detach().requires_grad_()
    loss(embeddings, torch.arange(CLASSES).repeat(2)).backward()
    for gradient in (embeddings.grad, loss.weight.grad):
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", EVERY)
def test_half_precision_only_rounds_the_embeddings(make, dtype):
    loss = make(DIM, CLASSES).eval()
    embeddings, labels = batch(9, dtype=torch.float32)
    half = (40 * embeddings).to(dtype).requires_grad_()  # squares near fp16's largest number
    with torch.autocast("cpu", dtype=dtype):
        value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert bool(torch.isfinite(half.grad).all())
    torch.testing.assert_close(value, loss(half.detach().float(), labels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", EVERY)
def test_labels_outside_the_classes_are_refused(make):
    embeddings, labels = batch(1)
    labels[2] = CLASSES
    with pytest.raises(LabelError, match=f"the {CLASSES} classes 0 to {CLASSES - 1}"):
        make(DIM, CLASSES)(embeddings, labels)


@pytest.mark.parametrize(
    ("make", "options", "word"),
    [
        (SubCenterArcFace, {"sub_centres": 0}, "sub_centres"),
        (SubCenterArcFace, {"margin": 4.0}, "margin"),
        (DynamicMargin, {"class_counts": [1, 2, 0, 4, 5, 6]}, "class 2 has none"),
        (DynamicMargin, {"class_counts": [1, 2]}, "one number for each"),
        (counted_dynamic, {"smallest_margin": 0.6}, "smallest_margin"),
        (counted_dynamic, {"power": 0.25}, "power"),
        (CurricularFace, {"momentum": 1.5}, "momentum"),
        (AdaFace, {"concentration": 0.0}, "concentration"),
        (MagFace, {"shortest": 0.0}, "shortest"),
        (MagFace, {"shortest": 120.0}, "longest"),
        (MagFace, {"strength": -1.0}, "strength"),
        (ElasticFace, {"deviation": -0.1}, "deviation"),
        (ElasticFace, {"margin_on": "sine"}, "one of angle, cosine"),
        (SphereFace, {"margin": 0.5}, "SphereFace: margin=0.5 is not valid. Pass a number >= 1"),
        (SphereFace, {"focal": -1}, "SphereFace: focal=-1 is not valid. Pass a number >= 0"),
        (ElasticFace, {"label_smoothing": 1}, "ElasticFace: label_smoothing=1 is not valid"),
        (MagFace, {"scale": float("nan")}, "MagFace: scale=nan is not valid"),
        (counted_dynamic, {"sub_centres": 1.5}, "DynamicMargin: sub_centres=1.5 is not valid"),
        (SubCenterArcFace, {"margin": "wide"}, "an angle in radians, 0 to pi"),
        (DynamicMargin, {}, "loss=dynamic_margin needs class_counts"),
        (CombinedMargin, {"m1": 0.0}, "m1"),
        (CombinedMargin, {"m3": -0.1}, "m3"),
    ],
)
def test_settings_out_of_range_are_named(make, options, word):
    with pytest.raises(UserError, match=word):
        make(DIM, CLASSES, **options)
