"""Learning rates in parts of a longer cosine, and of the layers of a backbone."""

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from torch import nn

from landmark.error import UserError
from landmark.loss import Softmax
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.task.parameter_groups import parameter_groups, scale_rates
from landmark.task.schedule import cosine


def rates(steps, base_rates=(0.1,), **options):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in base_rates]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = cosine(optimizer, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(seen)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    steps=st.integers(1, 9),
    warmup=st.sampled_from([0.0, 0.1, 0.5]),
    base=st.floats(1e-4, 1.0),
)
def test_consecutive_runs_have_the_rates_of_one_long_run(lengths, steps, warmup, base):
    epochs = sum(lengths)
    whole = rates(steps * epochs, (base, 2 * base), warmup=warmup)
    ends = np.cumsum([0, *lengths])
    parts = [
        rates(
            steps * (stop - start),
            (base, 2 * base),
            warmup=warmup,
            start_at=int(start),
            stop_at=int(stop) if stop < epochs else None,
            of_epochs=epochs,
        )
        for start, stop in pairwise(ends)
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)


def test_epoch_seven_continues_after_six_epochs():
    ours = rates(10, start_at=6, of_epochs=7, final_lr=3e-6)
    naive = [
        3e-6 + (0.1 - 3e-6) * 0.5 * (1 + np.cos(np.pi * (60 + step) / 70)) for step in range(10)
    ]
    np.testing.assert_allclose(ours[:, 0], naive, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"start_at": 2}, "schedule.of_epochs"),
        ({"stop_at": 2}, "schedule.of_epochs"),
        ({"start_at": 3, "of_epochs": 3}, r"start_at=3, stop_at=3, of_epochs=3"),
        ({"start_at": -1, "of_epochs": 3}, "is not valid|are not a part"),
        ({"stop_at": 4, "of_epochs": 3}, "is not valid|are not a part"),
    ],
)
def test_a_part_outside_the_cosine_is_refused(options, match):
    with pytest.raises(UserError, match=match):
        rates(3, **options)


@pytest.fixture(scope="module", params=["test_vit", "resnet10t"])
def embedder(request):
    return build_embedder(request.param, GeM(), embedding_dim=8)


def optimizer_of(embedder, layer_decay, decay_norms=True, **learning_rates):
    parts = {"backbone": [embedder.backbone], "head": [Softmax(8, 3)]}
    optimizer = torch.optim.AdamW(
        parameter_groups(
            parts, {"backbone": None, "head": None} | learning_rates, decay_norms, layer_decay
        ),
        lr=0.01,
        weight_decay=0.3,
    )
    scale_rates(optimizer)
    return optimizer


@pytest.mark.parametrize("decay_norms", [True, False])
def test_layer_rates_equal_those_of_timm(embedder, decay_norms):
    optimizer = optimizer_of(embedder, 0.7, decay_norms, backbone=0.02)
    expected = {}
    for group in param_groups_layer_decay(embedder.backbone.model, 0.3, layer_decay=0.7):
        for parameter in group["params"]:
            # timm's test for "no decay" is the same as ours: fewer than two dimensions.
            decay = 0.3 if decay_norms else group["weight_decay"]
            expected[parameter] = (pytest.approx(0.02 * group["lr_scale"]), decay)
    head = {p: (0.01, 0.3 if decay_norms or p.ndim > 1 else 0.0) for p in _head(optimizer)}
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == expected | head
    assert len({group["name"] for group in optimizer.param_groups}) == len(optimizer.param_groups)
    assert "lr_scale" not in optimizer.param_groups[0]


def _head(optimizer):
    return [p for g in optimizer.param_groups if g["name"].startswith("head") for p in g["params"]]


def test_layer_rates_of_a_small_transformer_equal_a_naive_computation():
    """The stem, then each block; the last norm belongs to the last block."""
    model = timm.create_model("test_vit", num_classes=0)
    blocks = len(model.blocks)
    embedder = build_embedder("test_vit", GeM(), embedding_dim=8)
    optimizer = optimizer_of(embedder, 0.5)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in embedder.backbone.model.named_parameters():
        if name.startswith("blocks."):
            below_the_top = blocks - 1 - int(name.split(".")[1])
        else:
            below_the_top = 0 if name.startswith("norm.") else blocks
        assert rate[parameter] == pytest.approx(0.01 * 0.5**below_the_top), name


def test_without_layer_decay_the_backbone_is_one_group(embedder):
    names = [group["name"] for group in optimizer_of(embedder, None).param_groups]
    assert names == ["backbone", "head"]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_shares_outside_zero_to_one_are_refused(embedder, share):
    with pytest.raises(UserError, match="layer_decay"):
        optimizer_of(embedder, share)


def test_frozen_layers_have_no_group_and_unknown_layers_are_refused(embedder):
    with pytest.raises(UserError, match="has no layers"):
        parameter_groups({"backbone": [nn.Linear(2, 2)]}, {"backbone": None}, layer_decay=0.5)
    frozen = build_embedder("test_vit", GeM(), embedding_dim=8)
    frozen.backbone.model.patch_embed.requires_grad_(False)
    parameters = {id(p) for g in optimizer_of(frozen, 0.5).param_groups for p in g["params"]}
    assert not parameters & {id(p) for p in frozen.backbone.model.patch_embed.parameters()}
