"""Every head against the softmax computed cosine by cosine, and against the loss itself."""

from functools import cache

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_heads import MAKERS, Centres, Hard, drawn, naive_losses
from omegaconf import OmegaConf
from test_configs import choice_alone, choices
from torch import nn

from landmark.error import UserError
from landmark.head import ClassParallel, Full, Fused, Sampled
from landmark.head.class_shard import ClassShard
from landmark.head.head import choice, margin_losses
from landmark.loss import AdaCos, ArcFace, CosFace, Softmax
from landmark.loss.build import build_loss
from landmark.loss.margin import MarginLoss

HEADS = (Fused, ClassParallel)


def results(loss, embeddings, labels):
    """The loss and its gradients for embeddings and centres."""
    embeddings = embeddings.detach().requires_grad_()
    loss.weight.grad = None
    value = loss(embeddings, labels)
    value.backward()
    return value.detach(), embeddings.grad, loss.weight.grad


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(sorted(MAKERS)),
    head=st.sampled_from(HEADS),
    size=st.integers(1, 5),
    dim=st.integers(1, 6),
    classes=st.integers(1, 9),
    centres=st.integers(1, 3),
    smoothing=st.sampled_from([0.0, 0.1, 0.6]),
    block=st.integers(1, 11),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_equal_the_formula(
    seed, name, head, size, dim, classes, centres, smoothing, block
):
    options = {"label_smoothing": smoothing}
    if name in ("Hard", "Centres"):
        options["sub_centres"] = centres
    loss, embeddings, labels = drawn(MAKERS[name], seed, size, dim, classes, **options)
    weight = loss.weight.detach().clone().requires_grad_()
    expected = naive_losses(loss, embeddings, weight, labels).mean()
    expected.backward()
    head(block=block).attach(loss)
    got = results(loss, embeddings, labels)
    for one, other in zip(got, (expected.detach(), embeddings.grad, weight.grad), strict=True):
        # A margin's root multiplies the rounding of a cosine near 1 by at most 1 / sqrt(eps).
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def configured(choice, smoothing):
    """A loss of conf/loss over 37 classes with 2 to 38 photos."""
    options = settings_of(choice)
    if "label_smoothing" in options:
        options = {**options, "label_smoothing": smoothing}
    return build_loss(instantiate(options), 8, np.arange(2, 39))


@cache
def settings_of(choice):
    return OmegaConf.to_container(choice_alone("loss", choice))


def two_batches(choice, smoothing, head, dtype):
    """Loss and gradients of two batches, because running statistics change between them."""
    torch.manual_seed(3)
    loss = configured(choice, smoothing).to(dtype)
    embeddings = 2 * torch.randn(24, 8, dtype=dtype)
    labels = torch.randint(37, (24,))
    head.attach(loss)
    outcomes = []
    for _ in range(2):
        torch.manual_seed(4)  # for losses that sample their margins
        outcomes += results(loss, embeddings, labels)
    return outcomes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("choice", [one for one in choices("loss") if one != "distil"])
def test_heads_equal_each_configured_loss_without_a_head(choice, smoothing):
    loss = configured(choice, smoothing)
    is_supported = isinstance(loss, MarginLoss) and not loss.needs_all_cosines
    for head in (Fused(5), Fused(64), ClassParallel(block=7), Sampled(1.0)):
        if not is_supported:
            with pytest.raises(UserError, match=r"^head=\w+: loss=\w+ .*\. Choose head=full\.$"):
                head.attach(loss)
            continue
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            expected = two_batches(choice, smoothing, Full(), dtype)
            got = two_batches(choice, smoothing, head, dtype)
            for one, other in zip(got, expected, strict=True):
                atol = tolerance * float(other.abs().max())
                torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("make", [ArcFace, Hard, Centres])
def test_gradients_equal_finite_differences(make):
    loss, embeddings, labels = drawn(make, 5, 6, 4, 7, label_smoothing=0.2)
    Fused(3).attach(loss)
    weight = loss.weight.detach().clone().requires_grad_()

    def value(embeddings, weight):
        return torch.func.functional_call(loss, {"weight": weight}, (embeddings, labels))

    assert torch.autograd.gradcheck(value, (embeddings, weight))


def test_the_gradient_depends_on_the_weight_of_each_photo():
    """Class weights and focal modulation multiply the losses of the photos."""
    loss, embeddings, labels = drawn(Hard, 8, 6, 5, 9, label_smoothing=0.1)
    factors = torch.rand(6, dtype=torch.float64)
    gradients = []
    for compute in (loss.photo_losses, lambda *a: Fused(4).photo_losses(loss, *a)):
        loss.zero_grad()
        losses = compute(embeddings, embeddings.norm(dim=1), labels)
        (factors * losses.square()).sum().backward()
        gradients.append(loss.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


def test_tied_centres_share_the_gradient():
    loss, embeddings, labels = drawn(Centres, 1, 6, 4, 5, sub_centres=2)
    loss.weight.data = loss.weight.data.view(5, 2, 4)[:, :1].repeat(1, 2, 1).view(10, 4)
    expected = results(loss, embeddings, labels)
    Fused(2).attach(loss)
    for one, other in zip(results(loss, embeddings, labels), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("scale", [64.0, 256.0])
def test_a_steep_scale_neither_overflows_nor_vanishes(scale):
    loss, embeddings, labels = drawn(CosFace, 2, 4, 3, 2, torch.float32, scale=scale)
    expected = results(loss, embeddings, labels)
    Fused(1).attach(loss)
    for one, other in zip(results(loss, embeddings, labels), expected, strict=True):
        assert bool(torch.isfinite(one).all())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_only_rounds_the_embeddings(dtype):
    loss, embeddings, labels = drawn(ArcFace, 3, 12, 8, 20, torch.float32)
    half = embeddings.detach().to(dtype)
    exact = results(loss, half.float(), labels)
    Fused(6).attach(loss)
    with torch.autocast("cpu", dtype=dtype):
        got = results(loss, half, labels)
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(got[0], exact[0], rtol=1e-6, atol=1e-6)


def test_centres_in_bfloat16_have_gradients_in_bfloat16():
    loss, embeddings, labels = drawn(ArcFace, 4, 12, 8, 20, torch.float32)
    loss.to(torch.bfloat16)
    expected = results(loss, embeddings, labels)
    Fused(6).attach(loss)
    got = results(loss, embeddings, labels)
    assert got[2].dtype == torch.bfloat16
    for one, other in zip(got, expected, strict=True):
        roundings = 4 * torch.finfo(torch.bfloat16).eps * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=roundings)


def test_every_head_rejects_a_label_outside_the_classes():
    for head in (Fused(), Sampled(), ClassParallel()):
        loss, embeddings, labels = drawn(ArcFace, 4, 3, 4, 6)
        head.attach(loss)
        labels[1] = 6
        with pytest.raises(ValueError, match="the 6 classes 0 to 5"):
            loss(embeddings, labels)


@pytest.mark.parametrize("head", [Fused(), Sampled(), ClassParallel()])
def test_losses_that_need_all_cosines_are_rejected(head):
    for loss, word in ((AdaCos(4, 5), "adacos"), (Softmax(4, 5), "softmax")):
        with pytest.raises(UserError, match=f"^head={choice(head)}: loss={word} .*Choose head="):
            head.attach(loss)
    Full().attach(Softmax(4, 5))


def test_a_fixed_adacos_is_supported():
    loss, embeddings, labels = drawn(AdaCos, 6, 5, 4, 6, dynamic=False)
    loss.scale = loss.scale.float()
    expected = results(loss, embeddings, labels)
    Fused(2).attach(loss)
    torch.testing.assert_close(results(loss, embeddings, labels), expected)


def test_a_loss_within_another_module_is_supported():
    holder = nn.ModuleDict({"main": ArcFace(4, 5), "auxiliary": Softmax(4, 5)})
    head = Fused()
    head.attach(holder)
    assert [loss.head for loss in margin_losses(holder)] == [head]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Fused(0), "Fused: block=0"),
        (lambda: Sampled(0.0), "Sampled: ratio=0.0"),
        (lambda: Sampled(1.5), "Sampled: ratio=1.5"),
        (lambda: ClassParallel(ratio=-1), "ClassParallel: ratio=-1"),
        (lambda: ClassParallel(block=-3), "ClassParallel: block=-3"),
    ],
)
def test_the_message_names_the_setting_out_of_range(make, word):
    with pytest.raises(UserError, match=word):
        make()


class OwnForward(ArcFace):
    def forward(self, embeddings, labels):
        return super().forward(embeddings, labels)


class OwnPhotoLosses(ArcFace):
    def photo_losses(self, embeddings, norms, labels):
        return super().photo_losses(embeddings, norms, labels)


class OwnScale(CosFace):
    def logit_scale(self, *_):
        return 2 * self.scale


class ScaleMixin:
    def logit_scale(self, *_):
        return 3.0


class Mixed(ScaleMixin, ArcFace):
    pass


class OfOwnScale(OwnScale):
    pass


class Stated(OwnForward):
    needs_all_cosines = False

    def forward(self, embeddings, labels):
        return 2 * super().forward(embeddings, labels)


class StatedForTheParent(Stated):
    def forward(self, embeddings, labels):
        return 3 * super().forward(embeddings, labels)


@pytest.mark.parametrize(
    "make", [OwnForward, OwnPhotoLosses, OwnScale, OfOwnScale, Mixed, StatedForTheParent]
)
def test_a_loss_that_overrides_the_full_computation_is_rejected(make):
    for head in (Fused(), Sampled(), ClassParallel()):
        with pytest.raises(UserError, match=r"needs the complete cosine .*Choose head=full\.$"):
            head.attach(make(4, 5))
    Full().attach(make(4, 5))


def test_a_loss_may_declare_that_heads_support_it():
    loss, embeddings, labels = drawn(Stated, 4, 6, 4, 5)
    expected = results(loss, embeddings, labels)
    Fused(2).attach(loss)
    torch.testing.assert_close(results(loss, embeddings, labels), expected)


def test_overriding_adjust_negatives_sets_changes_negatives():
    class Unchanged(Hard):
        pass

    class Mixin:
        adjust_negatives = Hard.adjust_negatives

    class MixedIn(Mixin, CosFace):
        pass

    assert [one.changes_negatives for one in (Hard, Unchanged, MixedIn)] == [True] * 3
    assert not any(one.changes_negatives for one in (ArcFace, Centres, AdaCos))


def test_block_sizes_depend_on_the_device():
    assert ClassShard(ArcFace(4, 5)).block_size == 4096
    assert ClassShard(ArcFace(4, 5).to("meta")).block_size == 65_536
    for device in ("cpu", "meta"):
        assert ClassShard(ArcFace(4, 5).to(device), block=7).block_size == 7


def test_the_default_block_on_the_cpu_has_4096_classes():
    outcomes = []
    for block in (None, 4096):
        loss, embeddings, labels = drawn(Hard, 9, 6, 4, 9000, torch.float32)
        Fused(block).attach(loss)
        outcomes.append(results(loss, embeddings, labels))
    assert all(map(torch.equal, *outcomes))


def test_every_head_is_a_choice_of_the_configuration():
    for name in choices("head"):
        assert choice(instantiate(choice_alone("head", name))) == name
