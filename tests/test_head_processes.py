"""Class-parallel centres on several processes give the results and checkpoints of one process."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed
from hydra.utils import instantiate
from naive_heads import Centres, Hard, naive_losses
from ranks import run_ranks
from test_configs import choice_alone, choices
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from landmark.head import ClassParallel, Full, Fused
from landmark.loss.build import build_loss
from landmark.loss.margin import MarginLoss
from landmark.processes import rank_and_size, shard
from landmark.task import heads

STEPS, BATCH, DIM, CLASSES = 3, 12, 8, 10
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def configured(choice):
    return build_loss(instantiate(settings_of(choice)), DIM, np.arange(2, CLASSES + 2))


@cache
def settings_of(choice):
    return choice_alone("loss", choice)


def is_supported(loss):
    return isinstance(loss, MarginLoss) and not loss.needs_all_cosines


WITH_LABELS = [choice for choice in choices("loss") if choice != "distil"]
SUPPORTED = [choice for choice in WITH_LABELS if is_supported(configured(choice))]
# Cases: fewer classes than processes, several centres, every hook, label smoothing.
MORE = {
    "hard": lambda: Hard(DIM, CLASSES, sub_centres=2, label_smoothing=0.1),
    "centres": lambda: Centres(DIM, CLASSES, sub_centres=3),
    "one class": lambda: Centres(DIM, 1),
    "two classes": lambda: Hard(DIM, 2, label_smoothing=0.2),
}
LOSSES = [*SUPPORTED, *MORE]


def batch(step, classes):
    random = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 6, generator=random)
    return images, torch.randint(classes, (BATCH,), generator=random)


class Task(nn.Module):
    """An embedder of one layer and a loss, as one module, so that DDP sees both."""

    def __init__(self, name, head):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(6, DIM)
        self.loss = MORE[name]() if name in MORE else configured(name)
        head.attach(self.loss)

    def forward(self, images, labels):
        return self.loss(self.layer(images), labels)


class Run:
    """A few training steps on this process's share of the photos."""

    def __init__(self, name, head, optimizer="sgd", checkpoint=None):
        self.several = torch.distributed.is_initialized()
        self.count = torch.distributed.get_world_size() if self.several else 1
        self.rank = torch.distributed.get_rank() if self.several else 0
        self.task = Task(name, head)
        heads.shard_weights(self.task)
        self.optimizer = OPTIMIZERS[optimizer](self.task.parameters())
        if checkpoint is not None:
            heads.shard_checkpoint(self.task, self.optimizer.param_groups, checkpoint)
            self.task.load_state_dict(checkpoint["state_dict"])
            self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        heads.register_optimizer(self.task, self.optimizer)

    def steps(self, first, last, longest=None):
        model = DistributedDataParallel(self.task) if self.several else self.task
        losses, gradients = [], []
        for step in range(first, last):
            images, labels = batch(step, self.task.loss.num_classes)
            share = slice(self.rank * BATCH // self.count, (self.rank + 1) * BATCH // self.count)
            torch.manual_seed(100 * step + self.rank)  # for losses that sample their margins
            self.optimizer.zero_grad()
            loss = model(images[share], labels[share])
            loss.backward()
            losses.append(self._mean(loss.detach()))
            parameters = self.task.named_parameters()
            gradients.append({n: self._gathered(n, p.grad) for n, p in parameters})
            if longest is not None:
                heads.clip_by_norm(self.task, self.optimizer, longest)
            self.optimizer.step()
        return (
            losses,
            gradients,
            {n: self._gathered(n, p.detach()) for n, p in self.task.named_parameters()},
        )

    def checkpoint(self):
        saved = {
            "state_dict": self.task.state_dict(),
            "optimizer_states": [self.optimizer.state_dict()],
        }
        heads.gather_checkpoint(self.task, self.optimizer.param_groups, saved)
        return saved

    def _mean(self, loss):
        if self.several:
            torch.distributed.all_reduce(loss)
        return loss / self.count

    def _gathered(self, name, value):
        head = self.task.loss.head
        gathered = head.gather(self.task.loss, value) if head and name == "loss.weight" else value
        return gathered.clone()


def assert_close_runs(one, other):
    """Compare losses, gradients and final weights, relative to the largest value of each tensor.

    At scale 80 the elements of a gradient are sums of large terms that cancel: a small element is
    only as accurate as the large ones. Later steps start from weights that already differ.
    """
    (losses, gradients, weights), (losses_2, gradients_2, weights_2) = one, other
    torch.testing.assert_close(losses[0], losses_2[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses, losses_2, rtol=1e-4, atol=1e-4)
    every = zip([*gradients, weights], [*gradients_2, weights_2], strict=True)
    for index, (result, expected) in enumerate(every):
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            error = (result[name] - value).abs().max()
            assert error <= (1e-4 if index else 1e-5) * value.abs().max().clamp(min=1), name


def sampled():
    """A step over sampled classes of each shard: sample, mean loss, gradient of the centres."""
    run = Run("hard", ClassParallel(ratio=0.3))
    loss = run.task.loss
    images, labels = batch(0, CLASSES)
    # No optimizer step: the test reads the sparse gradient.
    loss.weight = nn.Parameter(loss.weight.detach())
    share = slice(run.rank * BATCH // run.count, (run.rank + 1) * BATCH // run.count)
    value = loss(run.task.layer(images[share]), labels[share])
    value.backward()
    first = shard(CLASSES, run.rank, run.count).start
    rows = loss.weight.grad.coalesce().indices()[0]
    drawn = torch.zeros(CLASSES)
    drawn[first + rows // loss.sub_centres] = 1
    torch.distributed.all_reduce(drawn)
    gradient = run._gathered("loss.weight", loss.weight.grad.to_dense())
    return drawn, run._mean(value.detach()), gradient


def first_steps(folder, count):
    """Every loss, and checkpoints of each optimizer after two steps."""
    results = {}
    for name in LOSSES:
        results[name] = Run(name, ClassParallel(block=3)).steps(0, STEPS)
        if name in SUPPORTED and count == 2:
            results[name, "full"] = Run(name, Full()).steps(0, STEPS)
    for optimizer in OPTIMIZERS:
        run = Run("hard", ClassParallel(), optimizer)
        run.steps(0, 2)
        checkpoint = run.checkpoint()
        if run.rank == 0:
            torch.save(checkpoint, folder / f"{optimizer}-of-{count}.ckpt")
    results["clipped"] = Run("hard", ClassParallel()).steps(0, 2, longest=0.5)
    if count > 1:
        results["sampled"] = sampled()
        results["fused"] = on_this_process(Fused(block=3)), on_this_process(Full())
    return results


def on_this_process(head):
    """The loss of this process's own photos, and its gradients."""
    task, (images, labels) = Task("hard", head), batch(rank_and_size()[0], CLASSES)
    loss = task(images, labels)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in task.named_parameters()}


def resumed_steps(folder, count):
    """Two more steps from the checkpoints of every number of processes."""
    results = {}
    for optimizer in OPTIMIZERS:
        for writers in (1, 2, 3):
            file = folder / f"{optimizer}-of-{writers}.ckpt"
            saved = torch.load(file, weights_only=True)
            results[optimizer, writers] = Run("hard", ClassParallel(), optimizer, saved).steps(2, 4)
    return results


def process(rank, folder):
    torch.set_num_threads(1)
    for work in (first_steps, resumed_steps):
        for count in (2, 3):
            if rank >= count:
                continue
            meeting = f"file://{folder}/meeting-{work.__name__}-{count}"
            torch.distributed.init_process_group(
                "gloo", init_method=meeting, rank=rank, world_size=count
            )
            results = work(folder, count)
            if rank == 0:
                torch.save(results, folder / f"{work.__name__}-{count}.pt")
            torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of one, two and three processes."""
    folder = tmp_path_factory.mktemp("processes")
    results = {("first_steps", 1): first_steps(folder, 1)}
    run_ranks(process, folder, ranks=3)
    results["resumed_steps", 1] = resumed_steps(folder, 1)
    for work in ("first_steps", "resumed_steps"):
        for count in (2, 3):
            file = folder / f"{work}-{count}.pt"
            results[work, count] = torch.load(file, weights_only=True)
    return results


@pytest.mark.parametrize("name", LOSSES)
def test_class_parallel_has_the_losses_and_gradients_of_one_process(results, name):
    expected = Run(name, Full()).steps(0, STEPS)
    assert_close_runs(results["first_steps", 1][name], expected)
    if draws_its_margins(name):
        return  # each process samples for its own photos
    for count in (2, 3):
        assert_close_runs(results["first_steps", count][name], expected)


@pytest.mark.parametrize("name", SUPPORTED)
def test_class_parallel_has_the_losses_and_gradients_of_ddp(results, name):
    assert_close_runs(results["first_steps", 2][name], results["first_steps", 2][name, "full"])


def draws_its_margins(name):
    task, (images, labels) = Task(name, Full()), batch(0, CLASSES)
    values = set()
    for seed in range(3):
        torch.manual_seed(seed)
        state = {key: value.clone() for key, value in task.state_dict().items()}
        values.add(float(task(images, labels % task.loss.num_classes).detach()))
        task.load_state_dict(state)
    return len(values) > 1


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_a_checkpoint_resumes_on_any_number_of_processes(results, optimizer, writers, readers):
    uninterrupted = Run("hard", Full(), optimizer)
    uninterrupted.steps(0, 2)
    assert_close_runs(
        results["resumed_steps", readers][optimizer, writers], uninterrupted.steps(2, 4)
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradient_clipping_uses_the_norm_over_all_centres(results, count):
    run = Run("hard", Full())
    for step in range(2):
        images, labels = batch(step, CLASSES)
        run.optimizer.zero_grad()
        run.task(images, labels).backward()
        torch.nn.utils.clip_grad_norm_(run.task.parameters(), 0.5)
        run.optimizer.step()
    expected = {name: value.detach() for name, value in run.task.named_parameters()}
    torch.testing.assert_close(results["first_steps", count]["clipped"][2], expected)


@pytest.mark.parametrize("count", [2, 3])
def test_the_softmax_over_sampled_classes_covers_all_shards(results, count):
    drawn, value, gradient = results["first_steps", count]["sampled"]
    classes = torch.nonzero(drawn)[:, 0].tolist()
    images, labels = batch(0, CLASSES)
    assert set(labels.tolist()) <= set(classes)
    task = Task("hard", Full()).double()
    embeddings = task.layer(images.double())
    expected = naive_losses(task.loss, embeddings, task.loss.weight, labels, classes).mean()
    expected.backward()
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), task.loss.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_a_fused_head_computes_locally(results, count):
    fused, full = results["first_steps", count]["fused"]
    torch.testing.assert_close(fused, full, rtol=1e-5, atol=1e-5)


def test_without_a_process_group_nothing_is_sharded(monkeypatch):
    """Two processes of srun or torchrun that train independently."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run = Run("hard", ClassParallel(block=3))
    assert len(run.task.loss.weight) == CLASSES * run.task.loss.sub_centres
    assert_close_runs(run.steps(0, 1), Run("hard", Full()).steps(0, 1))


@pytest.mark.parametrize("count", [1, 5, 10, 81_313])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shards_cover_all_classes_and_differ_by_one_at_most(count, processes):
    shares = [shard(count, rank, processes) for rank in range(processes)]
    assert [share.start for share in shares] == [0, *(share.stop for share in shares[:-1])]
    assert shares[-1].stop == count
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1
