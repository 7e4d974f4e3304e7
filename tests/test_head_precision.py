"""Products of a head in bfloat16 against float64."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive_heads import Centres
from omegaconf import OmegaConf
from test_configs import choice_alone, choices

from landmark.device import has_bf16_products
from landmark.error import UserError
from landmark.head import ClassParallel, Full, Fused, Sampled, products
from landmark.head.products import rounded_products
from landmark.loss import ArcFace, CurricularFace
from landmark.loss.build import build_loss
from landmark.loss.margin import MarginLoss

CPU = torch.device("cpu")
HEADS = {
    "fused": Fused,
    "sampled": lambda **options: Sampled(1.0, **options),
    "class_parallel": ClassParallel,
}
# Relative error of a product of two factors that are rounded to 8 bits, 2^-9 each.
ROUNDING = 2.0**-8
needs_hardware = pytest.mark.skipif(
    not has_bf16_products(), reason="this CPU does not multiply bfloat16 in hardware"
)


@pytest.fixture(autouse=True)
def hardware(monkeypatch):
    """Compute in bf16 on every CPU: those without it round less or not at all."""
    monkeypatch.setattr(products, "has_bf16_products", lambda: True)


def built(choice, smoothing, dim):
    if choice == "centres":
        return Centres(dim, 150, sub_centres=3, label_smoothing=smoothing)
    options = OmegaConf.to_container(choice_alone("loss", choice))
    if "label_smoothing" in options:
        options = {**options, "label_smoothing": smoothing}
    if "deviation" in options:  # margins sampled in float64 are not those in float32
        options = {**options, "deviation": 0.0}
    return build_loss(instantiate(options), dim, np.arange(2, 152))


def is_supported(choice):
    loss = built(choice, 0.0, 4)
    return isinstance(loss, MarginLoss) and not loss.needs_all_cosines


WITH_LABELS = [name for name in choices("loss") if name != "distil"]
LOSSES = [name for name in (*WITH_LABELS, "centres") if is_supported(name)]


def outcome(loss, embeddings, labels, head, dtype):
    """Loss and gradients; computed on copies, because some losses have running statistics."""
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    head.attach(loss.to(dtype))
    embeddings = embeddings.to(dtype, copy=True).requires_grad_()
    torch.manual_seed(1)  # for losses that sample their margins
    value = loss(embeddings, labels)
    value.backward()
    gradient = loss.weight.grad
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    loss.weight.grad = None
    loss.load_state_dict(state)
    return value.item(), embeddings.grad.double(), gradient.double()


def drawn(loss, seed, batch, dim, closeness):
    """Embeddings and labels; near their centres as after training if closeness is high."""
    torch.manual_seed(seed)
    loss.weight.data = torch.randn(loss.weight.shape)
    labels = torch.randint(loss.num_classes, (batch,))
    embeddings = torch.randn(batch, dim)
    embeddings += closeness * loss.weight.data[labels * loss.sub_centres]
    return embeddings, labels


@given(
    seed=st.integers(0, 2**32 - 1),
    choice=st.sampled_from(LOSSES),
    head=st.sampled_from(sorted(HEADS)),
    batch=st.integers(8, 32),
    dim=st.integers(32, 80),
    closeness=st.sampled_from([0.0, 0.3, 3.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    block=st.sampled_from([64, 100, None]),
)
@settings(max_examples=60, deadline=None)
def test_the_error_of_bf16_has_its_bound(
    seed, choice, head, batch, dim, closeness, smoothing, block
):
    loss = built(choice, smoothing, dim)
    embeddings, labels = drawn(loss, seed, batch, dim, closeness)
    # Rounding may decide whether a negative at the target's cosine is hard: its logit jumps.
    assume(not loss.changes_negatives or distance_to_target(loss, embeddings, labels) > ROUNDING)
    exact = outcome(loss, embeddings, labels, HEADS[head](block=block), torch.float64)
    head = HEADS[head](block=block, precision="bf16")
    rounded = outcome(loss, embeddings, labels, head, torch.float32)
    scale = float(loss.scale)
    # adjust_negatives of CurricularFace, c (t + c), has a slope of at most t + 2.
    slope = 3.0 if loss.changes_negatives else 1.0
    logit = scale * ROUNDING * slope + 1e-3
    weight = float(loss.weighting(torch.ones(batch), labels)) or 1.0
    assert abs(rounded[0] - exact[0]) <= weight * logit
    # A probability changes by a factor of at most exp(2 logit), a product by another rounding.
    gradient = 2 * weight * scale * slope * (math.expm1(2 * logit) + 2 * ROUNDING)
    norms = embeddings.double().norm(dim=1)
    assert float(((rounded[1] - exact[1]).norm(dim=1) * norms).sum()) <= gradient
    norms = loss.weight.detach().double().norm(dim=1)
    assert float(((rounded[2] - exact[2]).norm(dim=1) * norms).max()) <= gradient


def distance_to_target(loss, embeddings, labels):
    """The least distance of a cosine to another class from the target's after its margin."""
    unit = torch.nn.functional.normalize(embeddings.double())
    cosines = unit @ torch.nn.functional.normalize(loss.weight.detach().double()).T
    column = labels[:, None]
    with torch.no_grad():
        loss.eval()
        target = loss.target_margin(cosines.gather(1, column)[:, 0], labels, embeddings.norm(dim=1))
        loss.train()
    distances = (cosines - target[:, None]).abs().scatter(1, column, torch.inf)
    return float(distances.min())


def relative(one, other):
    return float((one - other).norm() / other.norm())


@needs_hardware
@pytest.mark.parametrize("make", [ArcFace, CurricularFace])
@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_typical_error_of_bf16(make, head, smoothing):
    """The figures of the docstring of `Fused`."""
    loss = make(512, 3000, label_smoothing=smoothing)
    embeddings, labels = drawn(loss, 0, 64, 512, 0.2)
    exact = outcome(loss, embeddings, labels, HEADS[head](), torch.float64)
    single = outcome(loss, embeddings, labels, HEADS[head](), torch.float32)
    rounded = outcome(loss, embeddings, labels, HEADS[head](precision="bf16"), torch.float32)
    assert abs(single[0] - exact[0]) <= 1e-5 * exact[0]
    assert abs(rounded[0] - exact[0]) <= 1e-3 * exact[0]
    for k in (1, 2):
        assert relative(single[k], exact[k]) <= 1e-5
        assert 4 * relative(single[k], exact[k]) < relative(rounded[k], exact[k]) <= 1e-2


@pytest.mark.parametrize("head", sorted(HEADS))
def test_float64_is_not_rounded(head):
    loss = built("arcface", 0.0, 64)
    embeddings, labels = drawn(loss, 3, 16, 64, 0.3)
    expected = outcome(loss, embeddings, labels, HEADS[head](), torch.float64)
    got = outcome(loss, embeddings, labels, HEADS[head](precision="bf16"), torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def is_rounded():
    """Whether a product of this thread has rounded factors."""
    one = torch.full((64, 64), 1 + 2.0**-12)
    return float((one @ one)[0, 0]) == 64


@needs_hardware
def test_other_products_are_not_rounded():
    loss = built("arcface", 0.0, 64)
    embeddings, labels = drawn(loss, 3, 16, 64, 0.3)
    outcome(loss, embeddings, labels, Fused(precision="bf16"), torch.float32)
    assert not is_rounded()
    with rounded_products("bf16", CPU):
        assert is_rounded()
    assert not is_rounded()
    with suppress(ZeroDivisionError), rounded_products("bf16", CPU):
        raise ZeroDivisionError
    assert not is_rounded()


@needs_hardware
def test_versions_of_torch_before_2_9(monkeypatch):
    monkeypatch.setattr(products, "_backend", lambda _: products._Legacy())
    with rounded_products("bf16", CPU):
        assert is_rounded()
    assert not is_rounded()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("speed", ["faster", "slower", "missing"])
def test_auto_measures(monkeypatch, capsys, speed):
    products._fastest.cache_clear()
    seconds = iter(range(10**6))
    clock = {"faster": lambda: 1 / (1 + next(seconds)), "slower": lambda: 2.0 ** next(seconds)}
    monkeypatch.setattr(products, "has_bf16_products", lambda: speed != "missing")
    # The differences of one clock shrink, those of the other grow, from product to product.
    monkeypatch.setattr(products.time, "perf_counter", clock.get(speed))
    try:
        chosen = [products._fastest("cpu") for _ in range(2)]
    finally:
        products._fastest.cache_clear()
    assert chosen == ["bf16" if speed == "faster" else "float32"] * 2
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1
    assert notice.startswith(f"head.precision=auto: {chosen[0]} (")


def test_bf16_without_hardware_is_rejected(monkeypatch):
    monkeypatch.setattr(products, "has_bf16_products", lambda: False)
    message = (
        r"^head\.precision=bf16: this CPU does not multiply bfloat16 in hardware\. "
        r"Pass head\.precision=float32 or auto\.$"
    )
    for head in HEADS.values():
        with pytest.raises(UserError, match=message):
            head(precision="bf16").check_device(CPU)
        for precision in ("float32", "auto"):
            head(precision=precision).check_device(CPU)
    Full().check_device(CPU)


def test_an_unknown_precision_is_rejected():
    for head in HEADS.values():
        with pytest.raises(
            UserError, match=r"precision=half is not valid\. Pass one of float32, bf16, auto"
        ):
            head(precision="half")
