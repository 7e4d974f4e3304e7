"""The memory of the gradient of the centres is used again, but never while a tensor uses it."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.head import Fused, Sampled, gradient
from landmark.head.gradient import gradient_memory
from landmark.loss import ArcFace

CLASSES, DIM = 2048, 512  # 4 MiB, from which the memory is used again


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (4,), generator=generator)
    return torch.randn(4, DIM, generator=generator), labels


@pytest.fixture(scope="module")
def expected():
    """Return a loss and the gradient of its centres for three batches, without a head."""
    loss, gradients = ArcFace(DIM, CLASSES), []
    for seed in range(3):
        loss.weight.grad = None
        loss(*batch(seed)).backward()
        gradients.append(loss.weight.grad)
    return loss, gradients


HOLDERS = {
    "gradient": lambda gradient: gradient,
    "slice": lambda gradient: gradient[5:9],
    "detached": lambda gradient: gradient.detach().view(-1),
    "array": lambda gradient: gradient.numpy(),
    "storage": lambda gradient: gradient.untyped_storage(),
    "nothing": lambda _: None,
}


@given(
    st.lists(
        st.tuples(st.sampled_from(["backward", "step"]), st.sampled_from(sorted(HOLDERS))),
        min_size=3,
        max_size=8,
    )
)
@settings(max_examples=25, deadline=None)
def test_no_gradient_is_overwritten(expected, calls):
    """A user may keep a gradient, or any view of it, over any number of steps and batches."""
    twin, gradients = expected
    loss = copy.deepcopy(twin)
    loss.weight.grad = None
    Fused().attach(loss)
    sums, held = torch.zeros(3), []
    for number, (call, holder) in enumerate(calls):
        if call == "step":
            loss.weight.grad, sums = None, torch.zeros(3)
        loss(*batch(number % 3)).backward()
        sums = sums + torch.eye(3)[number % 3]
        wanted = sum(n * gradient for n, gradient in zip(sums, gradients, strict=True))
        torch.testing.assert_close(loss.weight.grad, wanted, rtol=1e-4, atol=1e-6)
        if call == "step":
            alive = HOLDERS[holder](loss.weight.grad)
            bytes_now = HOLDERS[holder](loss.weight.grad.clone())
            held.append((alive, bytes_now))
            loss.weight.grad = None
            sums = torch.zeros(3)
        for one, other in held:
            assert one is None or bytes(memoryview_of(one)) == bytes(memoryview_of(other))


def memoryview_of(holder):
    if isinstance(holder, torch.UntypedStorage):
        holder = torch.tensor([], dtype=torch.float32).set_(holder)
    return memoryview(torch.as_tensor(holder).numpy()).cast("B")


def test_the_memory_is_used_again():
    loss = ArcFace(DIM, CLASSES)
    Fused().attach(loss)
    addresses = set()
    for seed in range(4):
        loss.weight.grad = None
        loss(*batch(seed)).backward()
        addresses.add(loss.weight.grad.data_ptr())
    assert len(addresses) == 1


def test_the_memory_is_freed_with_the_loss():
    loss = ArcFace(DIM, CLASSES)
    kept = gradient_memory(loss, loss.weight.detach())
    mapping = weakref.ref(gradient._MAPPINGS[loss][0])
    del loss
    gc.collect()
    assert mapping() is not None
    kept.fill_(1)  # a gradient that outlives its loss
    del kept
    assert mapping() is None


def test_a_loss_that_has_a_gradient_can_be_copied_and_pickled():
    loss = ArcFace(DIM, CLASSES)
    Fused().attach(loss)
    loss(*batch(0)).backward()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        twin.weight.grad = None
        twin(*batch(0)).backward()
        assert torch.equal(twin.weight.grad, loss.weight.grad)
        assert twin.weight.grad.data_ptr() != loss.weight.grad.data_ptr()


def test_centres_of_another_size_have_memory_of_their_own():
    loss = ArcFace(DIM, CLASSES)
    gradient_memory(loss, loss.weight.detach())
    for shape in ((CLASSES + 1, DIM), (CLASSES // 2, DIM)):
        assert gradient_memory(loss, torch.empty(shape)).shape == shape
    double = gradient_memory(loss, loss.weight.detach().double())
    assert (double.dtype, double.shape) == (torch.float64, loss.weight.shape)


def test_sampled_gradients_accumulate():
    loss = ArcFace(DIM, CLASSES)
    Sampled(1.0).attach(loss)
    twin = copy.deepcopy(loss)
    twin.head = None
    for seed in range(3):
        loss(*batch(seed)).backward()
        twin(*batch(seed)).backward()
    torch.testing.assert_close(loss.weight.grad.to_dense(), twin.weight.grad, rtol=1e-4, atol=1e-6)
