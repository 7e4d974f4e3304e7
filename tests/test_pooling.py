"""Poolings against naive loops over random maps."""

import inspect
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import get_class, instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from test_configs import choice_alone, choices

from landmark.error import UserError
from landmark.pooling import MAC, RMAC, ClassToken, ClassTokenAndGeM, GeM, SPoC, Stages
from landmark.pooling.gem import gem

few = settings(max_examples=20, deadline=None)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 13), st.integers(1, 13))
seeds = st.integers(0, 2**32 - 1)


def random_map(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def naive_gem(x, p, eps=1e-6):
    """Compute in double precision, channel by channel; p is one number per channel."""
    out = np.zeros(x.shape[:2])
    for image, channel in np.ndindex(*x.shape[:2]):
        values = np.maximum(x[image, channel].astype("float64"), eps).ravel()
        out[image, channel] = (sum(v ** p[channel] for v in values) / len(values)) ** (
            1 / p[channel]
        )
    return out


@few
@given(shapes, seeds, st.floats(0.5, 6))
def test_gem_equals_the_root_of_the_mean_power(shape, seed, p):
    x = random_map(shape, seed)
    want = naive_gem(x, [p] * shape[1])
    for pooling in (GeM(p), GeM(p, learned=True), GeM(p, learned=True, channels=shape[1])):
        np.testing.assert_allclose(pooling(torch.tensor(x)).detach(), want, rtol=1e-4, atol=1e-6)


@few
@given(shapes, seeds)
def test_gem_with_one_exponent_per_channel(shape, seed):
    x = random_map(shape, seed)
    p = np.random.default_rng(seed).uniform(1, 5, shape[1])
    pooling = GeM(learned=True, channels=shape[1])
    pooling.p.data = torch.tensor(p, dtype=torch.float32)
    np.testing.assert_allclose(
        pooling(torch.tensor(x)).detach(), naive_gem(x, p), rtol=1e-4, atol=1e-6
    )


def test_gem_learns_its_exponent():
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64)

    def power_mean(p):  # computed in float32, which needs a wide step
        return gem(x, p).double()

    p = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)
    power_mean(p).sum().backward()
    with torch.no_grad():
        numeric = (power_mean(p + 0.05) - power_mean(p - 0.05)).sum() / 0.1
    assert p.grad.item() == pytest.approx(numeric.item(), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_is_stable_in_half_precision(dtype):
    x = (torch.rand(2, 8, 7, 9) * 500).to(dtype)  # 500 cubed is far beyond float16
    pooled = GeM()(x)
    assert pooled.dtype == dtype
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(pooled.float(), GeM()(x.float()), rtol=tolerance, atol=0)


def test_gem_names_the_channels_to_set():
    with pytest.raises(UserError, match=r"pooling\.channels=7"):
        GeM(learned=True, channels=5)(torch.rand(1, 7, 2, 2))
    with pytest.raises(UserError, match="learned=true"):
        GeM(channels=5)
    with pytest.raises(UserError, match=r"GeM: p=0 is not valid\. Pass a number > 0"):
        GeM(p=0)


@few
@given(shapes, seeds)
def test_mac_and_spoc(shape, seed):
    x = random_map(shape, seed)
    np.testing.assert_array_equal(MAC()(torch.tensor(x)), x.max((2, 3)))
    np.testing.assert_allclose(SPoC()(torch.tensor(x)), x.mean((2, 3)), rtol=1e-4, atol=1e-6)


def naive_rmac(x, levels=3, eps=1e-6):
    """Compute the published procedure (Tolias et al.; Radenović's code) for one map (C, H, W)."""
    height, width = x.shape[1:]
    short = min(height, width)
    steps = [2, 3, 4, 5, 6, 7]
    gaps = [Fraction(max(height, width) - short, step - 1) for step in steps]
    distances = [abs((short**2 - short * gap) / short**2 - Fraction(2, 5)) for gap in gaps]
    index = distances.index(min(distances))
    more_columns = index + 1 if height < width else 0
    more_rows = index + 1 if height > width else 0
    total = x.max((1, 2)) / (np.linalg.norm(x.max((1, 2))) + eps)
    for level in range(1, levels + 1):
        side = math.floor(2 * short / (level + 1))
        if side == 0:
            continue
        rows, columns = level + more_rows, level + more_columns
        row_step = 0 if rows == 1 else Fraction(height - side, rows - 1)
        column_step = 0 if columns == 1 else Fraction(width - side, columns - 1)
        for row in range(rows):
            for column in range(columns):
                top, left = math.floor(row * row_step), math.floor(column * column_step)
                vector = x[:, top : top + side, left : left + side].max((1, 2))
                total = total + vector / (np.linalg.norm(vector) + eps)
    return total


@few
@given(shapes, seeds, st.integers(1, 4))
def test_rmac_equals_a_loop_over_regions(shape, seed, levels):
    x = random_map(shape, seed)
    want = np.stack([naive_rmac(image.astype("float64"), levels) for image in x])
    np.testing.assert_allclose(RMAC(levels)(torch.tensor(x)), want, rtol=1e-4, atol=1e-4)


def test_rmac_needs_a_level():
    with pytest.raises(UserError, match="RMAC: levels=0"):
        RMAC(levels=0)


def test_stages_are_pooled_separately():
    maps = [torch.rand(2, channels, side, side + 1) for channels, side in ((4, 8), (6, 4), (9, 2))]
    pooled = Stages(stages=(0, 1, 2), p=2)(SimpleNamespace(maps=maps))
    want = np.concatenate([naive_gem(x.numpy(), [2] * x.shape[1]) for x in maps], axis=1)
    np.testing.assert_allclose(pooled, want, rtol=1e-4)


def test_class_token_with_and_without_gem():
    token, tokens = torch.rand(2, 5), torch.rand(2, 5, 3, 4)
    features = SimpleNamespace(maps=[tokens], class_token=token)
    assert torch.equal(ClassToken()(features), token)
    both = ClassTokenAndGeM()(features)
    assert torch.equal(both[:, :5], token)
    np.testing.assert_allclose(both[:, 5:], naive_gem(tokens.numpy(), [3] * 5), rtol=1e-4)


@pytest.mark.parametrize("pooling", [ClassToken(), ClassTokenAndGeM()])
def test_class_token_of_a_network_without_one(pooling):
    with pytest.raises(UserError, match="no class token"):
        pooling(SimpleNamespace(maps=[torch.rand(1, 5, 2, 2)], class_token=None))


@pytest.mark.parametrize("choice", choices("pooling"))
def test_yaml_lists_the_constructors_keys_and_defaults(choice):
    config = choice_alone("pooling", choice)
    target = get_class(config["_target_"])
    defaults = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in inspect.signature(target).parameters.items()
        if target.__init__ is not torch.nn.Module.__init__
    }
    if choice == "gem_learned":
        defaults["learned"] = True
    assert {k: v for k, v in config.items() if k != "_target_"} == defaults
    assert isinstance(instantiate(config), target)
    with pytest.raises(Exception, match="nonsense"):
        instantiate(config, nonsense=1)
