"""Sampled classes: their choice, their loss, and the optimizer steps."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_heads import MAKERS, Centres, naive_losses, random_case

from landmark.error import UserError
from landmark.head import Sampled
from landmark.head.class_shard import sample_classes
from landmark.loss import ArcFace

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.01, 1.0))
@settings(max_examples=50, deadline=None)
def test_the_classes_of_the_batch_are_always_sampled(seed, count, ratio):
    torch.manual_seed(seed)
    columns = torch.randint(-1, count, (6,))
    chosen = sample_classes(columns, count, ratio)
    own = set(columns.tolist()) - {-1}
    assert own <= set(chosen.tolist()) <= set(range(count))
    assert len(chosen) == max(len(own), math.ceil(ratio * count))
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_every_other_class_is_equally_likely():
    torch.manual_seed(0)
    drawn_often = torch.zeros(20)
    for _ in range(4000):
        drawn_often[sample_classes(torch.tensor([3, 3, 7]), 20, 0.5)] += 1
    assert drawn_often[3] == drawn_often[7] == 4000
    others = drawn_often[[c for c in range(20) if c not in (3, 7)]]
    # 8 of 18 are sampled; fixed seed, five standard deviations.
    assert bool(((others / 4000 - 8 / 18).abs() < 5 * math.sqrt(0.25 / 4000)).all())


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(sorted(MAKERS)),
    ratio=st.sampled_from([0.05, 0.3, 0.8]),
    centres=st.integers(1, 3),
    smoothing=st.sampled_from([0.0, 0.2]),
    block=st.integers(1, 9),
)
@settings(max_examples=30, deadline=None)
def test_the_loss_equals_the_formula_over_the_sampled_classes(
    seed, name, ratio, centres, smoothing, block
):
    options = {"label_smoothing": smoothing}
    if name in ("Hard", "Centres"):
        options["sub_centres"] = centres
    loss, embeddings, labels = random_case(MAKERS[name], seed, 4, 5, 12, **options)
    weight = loss.weight.detach().clone().requires_grad_()
    Sampled(ratio, block).attach(loss)
    torch.manual_seed(seed)
    value = loss(embeddings, labels)
    value.backward()
    got = embeddings.grad
    assert loss.weight.grad.is_sparse
    rows = loss.weight.grad.coalesce().indices()[0]
    classes = sorted({int(row) // loss.sub_centres for row in rows})
    embeddings.grad = None
    expected = naive_losses(loss, embeddings, weight, labels, classes).mean()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, embeddings.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.weight.grad.to_dense(), weight.grad, rtol=1e-6, atol=1e-6)


def test_evaluation_uses_all_classes():
    loss, embeddings, labels = random_case(ArcFace, 0, 5, 4, 30)
    expected = loss(embeddings, labels)
    Sampled(0.1).attach(loss)
    with torch.no_grad():
        torch.testing.assert_close(loss(embeddings, labels), expected)
    torch.testing.assert_close(loss.eval()(embeddings, labels), expected)


class RowByRow:
    """Each row of the centres as a parameter with a separate optimizer, stepped when sampled."""

    def __init__(self, weight, make):
        self.rows = [torch.nn.Parameter(row.clone()) for row in weight.detach()]
        self.optimizers = [make([row]) for row in self.rows]
        self.steps = 0

    def step(self, index, gradient):
        for i, g in zip(index.tolist(), gradient, strict=True):
            self.rows[i].grad = g.clone()
            state = self.optimizers[i].state[self.rows[i]]
            if self.steps and "exp_avg" not in state and "adam" in str(self.optimizers[i]).lower():
                state |= {"exp_avg": torch.zeros_like(g), "exp_avg_sq": torch.zeros_like(g)}
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(self.steps))
            self.optimizers[i].step()
        self.steps += 1

    def weight(self):
        return torch.stack([row.detach() for row in self.rows])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("make", [ArcFace, Centres])
def test_only_sampled_rows_are_updated(name, make):
    options = {"sub_centres": 2} if make is Centres else {}
    loss, _, _ = random_case(make, 1, 4, 5, 16, **options)
    head = Sampled(0.3)
    head.attach(loss)
    optimizer = OPTIMIZERS[name](loss.parameters())
    head.register_optimizer(loss, optimizer)
    alone = RowByRow(loss.weight, OPTIMIZERS[name])
    twin, _, _ = random_case(make, 1, 4, 5, 16, **options)
    Sampled(0.3).attach(twin)
    for step in range(6):
        _, embeddings, labels = random_case(ArcFace, 50 + step, 4, 5, 16)
        twin.weight.data = alone.weight()
        twin.weight.grad = None
        for one in (twin, loss):
            torch.manual_seed(step)
            optimizer.zero_grad()
            one(embeddings, labels).backward()
        gradient = twin.weight.grad.coalesce()
        alone.step(gradient.indices()[0], gradient.values())
        optimizer.step()
        torch.testing.assert_close(loss.weight.detach(), alone.weight(), rtol=1e-9, atol=1e-9)
    for key, value in optimizer.state[loss.weight].items():
        assert value.shape in (loss.weight.shape, ()), key


def test_gradients_of_several_backward_passes_add_up():
    def fresh():
        loss, embeddings, labels = random_case(ArcFace, 2, 4, 5, 16)
        Sampled(0.3).attach(loss)
        return loss, torch.optim.SGD(loss.parameters(), lr=1.0), embeddings, labels

    loss, optimizer, embeddings, labels = fresh()
    loss.head.register_optimizer(loss, optimizer)
    twin, _, _, _ = fresh()
    start = loss.weight.detach().clone()
    for one in (loss, twin):
        torch.manual_seed(0)
        for part in (slice(0, 2), slice(2, 4)):
            one(embeddings[part], labels[part]).backward()
    optimizer.step()
    expected = start - twin.weight.grad.to_dense()
    torch.testing.assert_close(loss.weight.detach(), expected)


def test_a_skipped_step_has_no_effect():
    """A gradient scaler skips a step when a gradient is infinite."""
    loss, embeddings, labels = random_case(ArcFace, 2, 4, 5, 16)
    loss.head = Sampled(0.3)
    optimizer = OPTIMIZERS["adamw"](loss.parameters())
    loss.head.register_optimizer(loss, optimizer)
    loss(embeddings, labels).backward()
    optimizer.zero_grad()
    torch.manual_seed(1)
    loss(embeddings, labels).backward()
    optimizer.step()
    again, _, _ = random_case(ArcFace, 2, 4, 5, 16)
    again.head = Sampled(0.3)
    other = OPTIMIZERS["adamw"](again.parameters())
    again.head.register_optimizer(again, other)
    torch.manual_seed(1)
    again(embeddings, labels).backward()
    other.step()
    torch.testing.assert_close(loss.weight, again.weight)
    assert list(optimizer.state) == [loss.weight]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_resumed_optimizer_equals_an_uninterrupted_one(name):
    def fresh():
        loss, embeddings, labels = random_case(ArcFace, 3, 4, 5, 16)
        head = Sampled(0.3)
        head.attach(loss)
        optimizer = OPTIMIZERS[name](loss.parameters())
        head.register_optimizer(loss, optimizer)
        return loss, optimizer, embeddings, labels

    def steps(loss, optimizer, embeddings, labels, numbers):
        for number in numbers:
            torch.manual_seed(number)
            optimizer.zero_grad()
            loss(embeddings, labels).backward()
            optimizer.step()

    whole = fresh()
    steps(*whole, range(6))
    first = fresh()
    steps(*first, range(3))
    second = fresh()
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    steps(*second, range(3, 6))
    assert torch.equal(second[0].weight, whole[0].weight)


def test_several_processes_are_refused():
    with pytest.raises(UserError, match=r"^head=sampled supports one .* head.ratio=0.25\.$"):
        Sampled(0.25).check_world_size(2)
