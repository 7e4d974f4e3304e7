"""The parts of the LightningModule, each against a naive computation."""

import json
import math
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from landmark.error import UserError
from landmark.loss import ArcFace
from landmark.model.build import build_embedder
from landmark.pooling import GeM
from landmark.task import RetrievalTask
from landmark.task.imprinting import imprint
from landmark.task.parameter_groups import parameter_groups
from landmark.task.run_folder import (
    checkpoint_to_resume,
    clear,
    is_finished,
    read_result,
    restore_metrics,
    write_result,
)
from landmark.task.schedule import constant, cosine, total_steps
from landmark.task.training import interpolate
from landmark.task.validation import EmbeddingCollector, nearest, retrieval_metrics


def learning_rates(schedule, base_rates, steps):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in base_rates]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = schedule(optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(seen)


@settings(deadline=None, max_examples=20)
@given(
    rates=st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=3),
    steps=st.integers(2, 40),
    final=st.floats(1e-7, 1e-5),
)
def test_cosine_without_warmup_is_pytorchs_cosine_annealing(rates, steps, final):
    ours = learning_rates(lambda o, n: cosine(o, n, final_lr=final), rates, steps)
    theirs = learning_rates(
        lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n, eta_min=final), rates, steps
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12)


def test_warmup_is_linear_up_to_the_start_of_the_cosine():
    rates = learning_rates(lambda o, n: cosine(o, n, final_lr=0.0, warmup=0.25), [0.8], 40)[:, 0]
    np.testing.assert_allclose(rates[:10], 0.8 * np.arange(1, 11) / 10)
    naive = [0.4 * (1 + math.cos(math.pi * (step - 10) / 30)) for step in range(10, 40)]
    np.testing.assert_allclose(rates[10:], naive, rtol=1e-9)


def test_constant_schedule_with_and_without_warmup():
    assert set(learning_rates(constant, [0.3], 7)[:, 0]) == {0.3}
    rates = learning_rates(lambda o, n: constant(o, n, warmup=0.5), [1.0], 8)[:, 0]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    with pytest.raises(UserError, match="warmup"):
        learning_rates(lambda o, n: constant(o, n, warmup=1.5), [1.0], 8)


def test_each_part_has_its_learning_rate_and_frozen_parameters_no_group():
    backbone, neck, head = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(3, 4)
    backbone.bias.requires_grad_(False)
    groups = parameter_groups(
        {"backbone": [backbone], "neck": [neck], "head": [head]},
        {"backbone": 0.1, "neck": None, "head": 0.0},
    )
    assert [group["name"] for group in groups] == ["backbone", "neck", "head"]
    assert [group.get("lr") for group in groups] == [0.1, None, 0.0]
    assert groups[0]["params"] == [backbone.weight]
    groups = parameter_groups({"neck": [neck]}, {"neck": 0.5}, decay_norms=False)
    assert [group["name"] for group in groups] == ["neck", "neck_norms"]
    assert groups[0]["params"] == [neck.weight]
    assert "weight_decay" not in groups[0]
    assert groups[1] == {
        "name": "neck_norms",
        "params": [neck.bias],
        "weight_decay": 0.0,
        "lr": 0.5,
    }
    backbone.requires_grad_(False)
    with pytest.raises(UserError, match="frozen"):
        parameter_groups({"backbone": [backbone]}, {"backbone": None})


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 9),
    gallery=st.integers(1, 23),
    k=st.integers(1, 30),
    block=st.integers(1, 7),
)
def test_blocked_search_equals_a_full_sort(seed, queries, gallery, k, block):
    rng = np.random.default_rng(seed)
    query = torch.from_numpy(rng.standard_normal((queries, 5)))
    candidates = torch.from_numpy(rng.standard_normal((gallery, 5)))
    rows = nearest(query, candidates, k, query_block=block, gallery_block=block + 1)
    naive = torch.argsort(query @ candidates.T, dim=1, descending=True)[:, :k]
    assert torch.equal(rows, naive)


def test_validation_metrics_equal_a_naive_loop():
    rng = np.random.default_rng(3)
    query, gallery = (torch.from_numpy(rng.standard_normal((n, 8))) for n in (12, 40))
    query_labels, gallery_labels = rng.integers(0, 6, 12), rng.integers(0, 5, 40)
    rows = nearest(query, gallery, 10).numpy()
    got = retrieval_metrics(rows, query_labels, gallery_labels, k=10)
    precisions, firsts = [], []
    for row, label in zip((query @ gallery.T).numpy(), query_labels, strict=True):
        relevant = int((gallery_labels == label).sum())
        if not relevant:
            continue
        order = np.argsort(-row)[:10]
        found, total = 0, 0.0
        for place, candidate in enumerate(order, start=1):
            if gallery_labels[candidate] == label:
                found += 1
                total += found / place
        precisions.append(total / min(relevant, 10))
        firsts.append(gallery_labels[order[0]] == label)
    assert got["map_at_10"] == pytest.approx(np.mean(precisions), abs=1e-12)
    assert got["top_1"] == pytest.approx(np.mean(firsts))


def test_collector_restores_the_order_of_the_table_and_refuses_gaps():
    collector = EmbeddingCollector(4, dim=2)
    collector.add(torch.tensor([3, 1]), torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
    with pytest.raises(RuntimeError, match="exactly once"):
        collector.gather()
    collector.add(torch.tensor([0, 2]), torch.tensor([[3.0, 4.0], [0.0, -1.0]]))
    expected = [[0.6, 0.8], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]
    rows, embeddings = collector.gather()
    assert rows.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(embeddings, torch.tensor(expected))


def test_collector_omits_skipped_photos_only():
    collector = EmbeddingCollector(3, dim=2)
    collector.add(torch.tensor([2, -2]), torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
    collector.add(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    rows, embeddings = collector.gather()
    assert rows.tolist() == [0, 2]
    torch.testing.assert_close(embeddings, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def make_task(**options):
    torch.manual_seed(0)
    embedder = build_embedder("resnet18", pooling=GeM(), embedding_dim=8)
    optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)  # noqa: E731
    return RetrievalTask(embedder, ArcFace(8, 4), optimizer, cosine, **options)


def one_step(task, epoch):
    """Take a training step as the trainer would in `epoch`."""
    task.trainer = SimpleNamespace(current_epoch=epoch, estimated_stepping_batches=10)
    task.log = lambda *_, **__: None
    task.train()
    task.on_train_epoch_start()
    optimizer = task.configure_optimizers()["optimizer"]
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    task.training_step((images, torch.arange(4), torch.arange(4)), 0).backward()
    optimizer.step()


@pytest.fixture
def _detached_trainer(monkeypatch):
    """Set a fake trainer on the module."""
    monkeypatch.setattr(RetrievalTask, "trainer", None, raising=False)
    monkeypatch.setattr(
        RetrievalTask, "current_epoch", property(lambda self: self.trainer.current_epoch)
    )


@pytest.mark.usefixtures("_detached_trainer")
def test_a_backbone_learns_after_its_frozen_epochs():
    task = make_task(freeze_backbone_epochs=2)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    one_step(task, epoch=1)
    after = task.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("embedder.backbone") for name in moved)
    assert any(name.startswith("embedder.neck") for name in moved)
    assert any(name.startswith("loss") for name in moved)
    one_step(task, epoch=2)
    assert any(
        not torch.equal(before[name], task.state_dict()[name])
        for name in before
        if name.startswith("embedder.backbone") and name.endswith("weight")
    )


@pytest.mark.usefixtures("_detached_trainer")
def test_frozen_batchnorm_keeps_its_statistics_and_frozen_stages_all_values():
    task = make_task(freeze_batchnorm=True, freeze_stages=2)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    one_step(task, epoch=0)
    moved = {
        name for name, value in task.state_dict().items() if not torch.equal(before[name], value)
    }
    backbone = {name for name in moved if name.startswith("embedder.backbone")}
    assert not any("running" in name for name in backbone)
    assert not any("conv1" in name and "layer" not in name for name in backbone)
    assert not any(".layer1." in name for name in backbone)
    assert any(".layer4." in name for name in backbone)


def test_imprinted_centres_equal_the_mean_directions_of_a_loop():
    task = make_task()
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 1, 1])
    rows = torch.arange(6)
    batches = [(images[:4], labels[:4], rows[:4]), (images[4:], labels[4:], rows[4:])]
    imprint(task.embedder, task.loss, batches)
    task.embedder.eval()
    with torch.no_grad():
        units = [nn.functional.normalize(task.embedder(image[None]), dim=1)[0] for image in images]
    for label in range(4):
        mean = sum(unit for unit, own in zip(units, labels, strict=True) if own == label)
        torch.testing.assert_close(task.loss.weight[label], mean / mean.norm(), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="no usable photo"):
        imprint(task.embedder, task.loss, [(images[:3], labels[:3], rows[:3])])


def test_resuming_requires_the_same_settings(tmp_path):
    present = {"loss": {"margin": 0.3, "scale": 30}, "seed": 0, "workers": 2}
    assert checkpoint_to_resume(tmp_path, present) == (None, 0)
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({"settings": json.dumps(present | {"workers": 8}), "global_step": 7}, last)
    assert checkpoint_to_resume(tmp_path, present) == (last, 7)
    other = {"loss": {"margin": 0.5, "scale": 30}, "seed": 1, "workers": 2}
    with pytest.raises(UserError, match=r"loss\.margin \(0.3, now 0.5\), seed \(0, now 1\)"):
        checkpoint_to_resume(tmp_path, other)
    write_result(tmp_path, 0.5, present)
    assert is_finished(tmp_path, present)
    with pytest.raises(UserError, match=r"loss\.margin \(0.3, now 0.5\), seed \(0, now 1\)"):
        is_finished(tmp_path, other)
    assert read_result(tmp_path)["best"] == 0.5
    clear(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_backbone_is_averaged_with_its_initial_weights():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    start = {name: torch.randn_like(t.float()) for name, t in backbone.state_dict().items()}
    trained = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    interpolate(backbone, start, 0.7)
    for name, tensor in backbone.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == trained[name]
        else:
            torch.testing.assert_close(tensor, 0.7 * trained[name] + 0.3 * start[name])


@pytest.mark.parametrize(
    "options",
    [
        *({"trained_share": share} for share in (0.0, 1.5, -0.1)),
        *({name: -1.0} for name in ("backbone_lr", "neck_lr", "head_lr")),
        *({"layer_decay": decay} for decay in (0.0, 1.5)),
        *({name: -1} for name in ("freeze_backbone_epochs", "freeze_stages")),
        {"k": 0},
    ],
)
def test_options_out_of_range_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=rf"RetrievalTask: {name}={value} is not valid"):
        make_task(**options)


class _Bang:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "content", [pickle.dumps(_Bang()), b"", b"not a checkpoint", pickle.dumps({"a": 1})]
)
def test_an_invalid_checkpoint_is_refused_and_never_executed(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        checkpoint_to_resume(tmp_path, {})
    assert not (tmp_path / "executed").exists()


def test_a_resumed_metrics_file_keeps_the_rows_before_the_checkpoint(tmp_path):
    file = tmp_path / "metrics.csv"

    def logger():
        return CSVLogger(save_dir=tmp_path, name="", version="", flush_logs_every_n_steps=1)

    first = logger()
    for step in range(5):
        first.log_metrics({"loss": 1 / (step + 3), "epoch": 0}, step)
    first.log_metrics({"map": 0.1 + 0.2, "epoch": 0}, 2)
    first.save()
    whole = file.read_text().splitlines()
    restore_metrics(logger(), file, 3)
    kept = [line for line in whole if line.rpartition(",")[2] not in ("3", "4")]
    assert file.read_text().splitlines() == kept
    # Killed while the logger had just started: the rows in the saved copy count.
    (tmp_path / ".metrics.csv.before").write_text("\n".join(whole) + "\n")
    restore_metrics(logger(), file, 3)
    assert file.read_text().splitlines() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_schedules_know_the_number_of_steps_without_sampling_batches():
    def steps(**options):
        settings = {"max_epochs": 3, "max_steps": -1, "accumulate_grad_batches": 1}
        settings |= {"limit_train_batches": 1.0, "world_size": 2}
        data = SimpleNamespace(steps_per_epoch=lambda replicas: 20 // replicas)
        return total_steps(SimpleNamespace(datamodule=data, **settings | options))

    assert steps() == 30
    assert steps(accumulate_grad_batches=4) == 9
    assert steps(limit_train_batches=0.5) == 15
    assert steps(limit_train_batches=4) == 12
    assert steps(max_steps=7) == 7
    assert steps(max_epochs=-1, max_steps=7) == 7
