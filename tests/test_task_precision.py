"""trainer.precision=auto measures on a copy: weights, statistics and random states stay."""

import pytest
import torch
from omegaconf import OmegaConf

from landmark.cli.train import chosen_precision
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.task import precision
from landmark.task.precision import measured_precision

CPU = torch.device("cpu")


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    return build_embedder("test_resnet", GeM(), embedding_dim=8, dropout=0.5, drop_path=0.1)


@pytest.mark.parametrize(
    ("single", "half", "chosen"), [(2.0, 1.0, "bf16-mixed"), (1.05, 1.0, "32-true")]
)
def test_the_faster_precision_is_chosen_without_a_trace(
    embedder, monkeypatch, single, half, chosen
):
    times = iter([9.0, 9.0, single, half, single + 1, half + 1])

    def seconds_of(work, _device):
        work()
        return next(times)

    monkeypatch.setattr(precision, "seconds_of", seconds_of)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda _: True)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    state = torch.get_rng_state()
    name, line = measured_precision(embedder, (64, 32), 4, CPU)
    assert name == chosen
    assert line.startswith(f"trainer.precision=auto: {chosen}. A step of the embedder takes")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], v) for key, v in embedder.state_dict().items())
    assert all(parameter.grad is None for parameter in embedder.parameters())


def test_a_device_without_bfloat16_products_is_not_measured(embedder, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda _: False)
    monkeypatch.setattr(precision, "seconds_of", pytest.fail)
    name, line = measured_precision(embedder, (64, 32), 4, CPU)
    assert name == "32-true"
    assert "no bfloat16 products" in line


def test_a_resumed_run_keeps_its_precision(tmp_path, capsys):
    file = tmp_path / "last.ckpt"
    torch.save({"precision": "bf16-mixed"}, file)
    config = OmegaConf.create({"trainer": {"precision": "auto"}})
    assert chosen_precision(config, None, None, (64, 32), 4, file) == "bf16-mixed"
    assert "auto: bf16-mixed, as the run was begun" in capsys.readouterr().out
