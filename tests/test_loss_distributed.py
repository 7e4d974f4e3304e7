"""Two processes with half a batch each compute what one does with all of it, for every loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from hydra.utils import instantiate
from ranks import run_ranks
from test_configs import choice_alone, choices
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from landmark.loss.build import build_loss
from landmark.loss.distil import targets_of

LOSSES = [*choices("loss"), "recall_at_k_simix"]
# Each process samples its own margins.
ALIKE = {
    "elasticface": {"deviation": 0.0},
    "recall_at_k_simix": {"simix": True},
    "distil": {"teacher": "STORE"},
}
STEPS, BATCH, DIM, CLASSES, TEACHER_DIM = 3, 12, 8, 10, 5


class Network(nn.Module):
    """An embedder of one layer and a loss, as one module, so that DDP sees both."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(6, DIM)
        choice = name.removesuffix("_simix")
        make = instantiate(choice_alone("loss", choice), **ALIKE.get(name, {}))
        self.loss = build_loss(make, DIM, np.arange(1, CLASSES + 1), teacher_dim=TEACHER_DIM)

    def forward(self, images, labels, vectors):
        return self.loss(self.layer(images), targets_of(self.loss, labels, vectors))


def trained(name, wrap, rank=0, processes=1):
    """The gradients after each of a few steps, and the state after the last."""
    network = Network(name)
    torch.manual_seed(1 + rank)  # what a loss draws must not depend on it
    model = wrap(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, 6, generator=random)
        labels = torch.randint(0, CLASSES, (BATCH,), generator=random)
        vectors = torch.randn(BATCH, TEACHER_DIM, generator=torch.Generator().manual_seed(7))
        optimizer.zero_grad()
        own = slice(rank, None, processes)
        model(images[own], labels[own], vectors[own]).backward()
        gradients.append({key: p.grad.clone() for key, p in network.named_parameters()})
        optimizer.step()
    return gradients, network.state_dict()


def process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    results = {name: trained(name, DistributedDataParallel, rank, 2) for name in LOSSES}
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_ranks(process, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_have_the_gradients_of_one(of_two, name):
    gradients, state = trained(name, lambda network: network)
    for results in of_two:
        got, got_state = results[name]
        for step in range(STEPS):
            for key, expected in gradients[step].items():
                torch.testing.assert_close(got[step][key], expected, rtol=1e-4, atol=1e-5)
        for key, expected in state.items():
            torch.testing.assert_close(got_state[key], expected, rtol=1e-4, atol=1e-5)
