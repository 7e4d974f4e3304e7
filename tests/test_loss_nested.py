"""The nested loss against the mean of losses of the first dimensions, and its messages."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_loss import CLASSES, DIM, batch, cosines_of, fresh, naive_cross_entropy, seeds
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from landmark.cli._losses import expected_dim
from landmark.error import UserError
from landmark.head import ClassParallel, Full, Fused, Sampled
from landmark.loss import AdaCos, ArcFace, CosFace, CurricularFace, P2SGrad, Softmax
from landmark.loss.build import build_loss
from landmark.loss.nested import Nested
from landmark.task.imprinting import imprint

HEADS = {
    "full": Full(),
    "fused": Fused(block=4),
    "sampled": Sampled(ratio=1.0),
    "class_parallel": ClassParallel(block=4),
}


@given(
    seed=seeds,
    dims=st.lists(st.integers(1, DIM), min_size=1, max_size=4, unique=True).map(sorted),
    head=st.sampled_from(sorted(HEADS)),
)
@settings(max_examples=40, deadline=None)
def test_a_nested_loss_is_the_mean_over_the_first_dimensions(seed, dims, head):
    """Each cosine is computed number by number; the whole embedding always counts."""
    make = lambda **given: CosFace(margin=0.2, scale=9.0, nested=dims, **given)  # noqa: E731
    loss = fresh(build_loss(make, DIM, np.full(CLASSES, 2), HEADS[head]), seed)
    embeddings, labels = batch(seed)
    expected = []
    for dim in sorted({*dims, DIM}):
        weight = next(one.weight for one in loss.losses if one.weight.shape[1] == dim)
        logits = cosines_of(embeddings[:, :dim], weight)
        for row, label in zip(logits, labels.tolist(), strict=True):
            row[label] -= 0.2
        logits = [[9.0 * z for z in row] for row in logits]
        expected.append(naive_cross_entropy(logits, labels.tolist(), 0.0))
    assert len(loss.losses) == len(expected)
    assert loss(embeddings, labels).item() == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("head", ["fused", "sampled", "class_parallel"])
def test_the_gradients_of_a_head_are_those_of_the_complete_matrix(head):
    embeddings, labels = batch(3)
    gradients = []
    for name in ("full", head):
        torch.manual_seed(0)
        loss = build_loss(
            lambda **given: ArcFace(nested=[2, 5], **given), DIM, np.full(CLASSES, 2), HEADS[name]
        )
        inputs = embeddings.clone().requires_grad_()
        loss(inputs, labels).backward()
        gradients.append([inputs.grad, *(one.weight.grad.to_dense() for one in loss.losses)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other.to(one), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [AdaCos, ArcFace, CurricularFace, P2SGrad, Softmax])
def test_each_number_of_dimensions_has_the_loss_and_the_state_of_its_own(kind):
    nested = kind(DIM, CLASSES, nested=[3])
    alone = [copy.deepcopy(one) for one in nested.losses]
    embeddings, labels = batch(5, dtype=torch.float32)
    for _ in range(2):
        each = [alone[0](embeddings[:, :3], labels), alone[1](embeddings, labels)]
        torch.testing.assert_close(nested(embeddings, labels), torch.stack(each).mean())
    assert isinstance(copy.deepcopy(nested), Nested)
    assert [type(one) for one in nested.losses] == [kind, kind]
    restored = kind(DIM, CLASSES, nested=[3])
    restored.load_state_dict(nested.state_dict())


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ([4, 16], "loss.nested=[4, 16]: 16 is more than the 8 dimensions of the embedding. Pass"),
        ([4, 2], "loss.nested=[4, 2] does not ascend. Pass [2, 4]."),
        ([2, 4, 4], "loss.nested=[2, 4, 4] repeats a number. Pass [2, 4]."),
        ([0, 4], "loss.nested=[0, 4] is not valid. Pass a list of one or more, each"),
        ([], "loss.nested=[] is not valid. Pass a list of one or more, each"),
        (4, "loss.nested=4 is not valid. Pass a list of one or more, each"),
    ],
)
def test_dims_that_do_not_fit_are_one_line(dims, words):
    with pytest.raises(UserError) as error:
        ArcFace(DIM, CLASSES, nested=dims)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_a_head_that_a_loss_does_not_support_names_the_loss():
    with pytest.raises(UserError, match="head=fused: loss=softmax is not a softmax over cosines"):
        build_loss(lambda **given: Softmax(nested=[2], **given), DIM, np.full(3, 2), Fused())
    with pytest.raises(UserError, match="loss=adacos needs the complete cosine matrix"):
        build_loss(lambda **given: AdaCos(nested=[2], **given), DIM, np.full(3, 2), Fused())


def test_every_centre_is_imprinted_with_its_own_dimensions():
    images, labels = torch.randn(12, DIM), torch.arange(12) % 3
    loss = CosFace(DIM, 3, nested=[2, 5])
    batches = DataLoader(list(zip(images, labels, torch.arange(12), strict=True)), batch_size=5)
    imprint(torch.nn.Identity(), loss, batches)
    for dim, one in zip(loss.dims, loss.losses, strict=True):
        unit = torch.nn.functional.normalize(images[:, :dim], dim=1)
        for label in range(3):
            mean = unit[labels == label].mean(0)
            torch.testing.assert_close(one.weight[label], mean / mean.norm())


@pytest.mark.parametrize(
    ("neck", "nested", "dim"),
    [("none", None, 8), ("none", [4, 64], 64), ("linear_batchnorm", [4, 64], 512)],
)
def test_the_early_check_knows_the_embedding_or_accepts_any(neck, nested, dim):
    model = {"neck": neck, "embedding_dim": 512}
    assert expected_dim(OmegaConf.create({"model": model, "loss": {"nested": nested}})) == dim
