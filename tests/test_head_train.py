"""train.py with each head, in one and in two processes, killed and resumed."""

import json
import os

import pytest
import torch
from test_train import ROOT, TINY, assert_same_weights, weights

# SGD: Adam's first steps follow the sign of the gradient and so amplify rounding errors.
ONE_EPOCH = [*TINY, "trainer.max_epochs=1", "keep=last", "model=resnet10t", "optimizer=sgd"]
TWO_PROCESSES = ["trainer=ddp_cpu", "head=class_parallel", "head.block=2"]
# Kills the second process at its third batch; the first must then end as well.
KILLER = """
import os
from landmark.task import RetrievalTask
begin, seen = RetrievalTask.on_train_batch_start, []
def killed(self, batch, batch_idx):
    seen.append(batch_idx)
    if len(seen) == 3:
        os.kill(os.getpid(), 9)
    return begin(self, batch, batch_idx)
RetrievalTask.on_train_batch_start = killed
"""


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def runs(scripts, tmp_path_factory):
    """A folder with a run of each head that computes the same loss as `Full`."""
    cwd = tmp_path_factory.mktemp("heads")
    for head in ("full", "fused", "class_parallel"):
        settings = [] if head == "full" else ["head.block=2"]
        # A difference in the last bit is 1e-7 after two steps and grows tenfold with each step.
        run = [*ONE_EPOCH, "trainer.max_steps=2", f"head={head}", *settings]
        run += [f"hydra.run.dir={head}"]
        result = scripts.run("train.py", *run, cwd=cwd)
        assert f"head        {head}" in result.stdout
    return cwd


@pytest.mark.parametrize("head", ["fused", "class_parallel"])
def test_a_head_trains_the_same_weights_as_the_full_softmax(runs, head):
    assert_same_weights(weights(runs / head), weights(runs / "full"), rtol=1e-3, atol=1e-5)
    centres = [checkpoint(runs / name)["state_dict"]["loss.weight"] for name in (head, "full")]
    torch.testing.assert_close(*centres, rtol=1e-3, atol=1e-5)


def test_a_sampled_head_trains_and_resumes(scripts, runs):
    settings = [*ONE_EPOCH, "head=sampled", "head.ratio=0.6", "callback=ema"]
    settings += ["trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"]
    settings += ["task.imprint=true", "hydra.run.dir=sampled"]
    scripts.run("train.py", *settings, cwd=runs)
    saved = checkpoint(runs / "sampled")
    assert saved["state_dict"]["loss.weight"].shape == (5, 16)
    state = saved["optimizer_states"][0]["state"]
    momentum = state[max(state)]["momentum_buffer"]
    assert momentum.shape == (5, 16)
    assert bool(momentum.any())


@pytest.mark.slow
def test_a_killed_class_parallel_run_resumes_exactly(scripts, runs):
    settings = [*ONE_EPOCH, *TWO_PROCESSES, "save_every_steps=1", "batch_size=6"]
    settings += ["callback=ema", "callback.ema.decay=0.9", "task.imprint=true"]
    settings += ["trainer.gradient_clip_val=0.5"]
    scripts.run("train.py", *settings, "hydra.run.dir=reference", cwd=runs)
    (runs / "site").mkdir()
    (runs / "site" / "sitecustomize.py").write_text(KILLER)
    killer = {"PYTHONPATH": f"{runs / 'site'}{os.pathsep}{ROOT}"}
    run = [*settings, "hydra.run.dir=killed"]
    with pytest.raises(AssertionError):  # fails itself, or is killed by Lightning
        scripts.run("train.py", *run, cwd=runs, environment=killer)
    assert checkpoint(runs / "killed")["global_step"] == 2
    assert not (runs / "killed" / "result.json").exists()
    scripts.run("train.py", *run, cwd=runs)
    assert_same_weights(weights(runs / "killed"), weights(runs / "reference"), rtol=0, atol=0)
    one, other = (checkpoint(runs / name) for name in ("killed", "reference"))
    for key in ("state_dict", "current_model_state"):
        assert one[key]["loss.weight"].shape == (5, 16)
        assert torch.equal(one[key]["loss.weight"], other[key]["loss.weight"])
    assert json.loads(one["settings"])["head"]["_target_"].endswith("ClassParallel")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["head=fused", "loss=adacos"], "error: head=fused: loss=adacos needs the complete"),
        (["head=sampled", "loss=softmax"], "error: head=sampled: loss=softmax is not a softmax"),
        (["head=sampled", "trainer=ddp_cpu"], "error: head=sampled supports one process"),
        (
            ["head=fused", "head.precision=half"],
            "error: head.precision=half is not valid. Pass one",
        ),
        (["head=sampled", "head.ratio=2"], "error: head.ratio=2 is not valid. Pass a number > 0"),
    ],
)
def test_unsupported_settings_of_a_head_are_rejected(scripts, runs, settings, message):
    result = scripts.run("train.py", *ONE_EPOCH, *settings, cwd=runs, status=2)
    assert result.stderr.startswith(message)
    assert len(result.stderr.strip().splitlines()) == 1
