"""Training that cannot continue: losses that are not finite, other landmarks."""

import shutil

import pytest
import pytorch_lightning as pl
import torch
from test_train import TINY
from torch import nn

from landmark.error import UserError
from landmark.loss import SubCenterArcFace
from landmark.task.checkpoints import SaveWithinEpoch
from landmark.task.imprinting import imprint
from landmark.task.nan_guard import NanGuard
from landmark.task.run_folder import check_same_classes


class Spoilt(pl.LightningModule):
    """A loss that, or whose gradient, is not finite at one step."""

    def __init__(self, at_step, value, gradient_alone=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.at_step, self.value, self.gradient_alone = at_step, value, gradient_alone

    def training_step(self, batch, _):
        loss = (self.weight * batch).square().mean()
        if self.global_step != self.at_step:
            return loss
        if self.gradient_alone:
            self.weight.register_hook(lambda gradient: gradient * self.value)
            return loss
        return loss * self.value

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.rand(20, 3), batch_size=1)


def stopped(folder, task, every_steps, save_every=2):
    """The message, and the remaining checkpoint or None."""
    last = folder / "last.ckpt"
    stop = NanGuard(last, every_steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        callbacks=[SaveWithinEpoch(last, save_every), stop],
        default_root_dir=folder,
    )
    with pytest.raises(UserError) as raised:
        trainer.fit(task)
    return str(raised.value), torch.load(last) if last.is_file() else None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path, value):
    message, checkpoint = stopped(tmp_path, Spoilt(6, value), every_steps=50)
    assert message.startswith("the loss became NaN or infinite at step 7. Restart from the last ")
    assert f"last good checkpoint (step 6): init={tmp_path / 'last.ckpt'}" in message
    assert checkpoint["global_step"] == 6
    assert bool(torch.isfinite(checkpoint["state_dict"]["weight"]).all())


def test_a_loss_that_is_read_rarely_spoils_no_checkpoint(tmp_path, monkeypatch):
    """As on a GPU, which reading at each step would stall."""
    monkeypatch.setattr(NanGuard, "_reads_each_step", staticmethod(lambda *_: False))
    message, checkpoint = stopped(tmp_path, Spoilt(6, float("nan")), every_steps=1000)
    assert message.startswith("the loss became NaN or infinite at step 7.")
    assert checkpoint["global_step"] == 6
    message, _ = stopped(tmp_path, Spoilt(6, float("nan")), every_steps=5, save_every=100)
    assert message.startswith("the loss became NaN or infinite at step 7.")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The loss of step 8 is finite, its gradient is not."""
    message, checkpoint = stopped(tmp_path, Spoilt(7, float("inf"), True), every_steps=50)
    assert message.startswith("weights became NaN or infinite at step 8.")
    assert checkpoint["global_step"] == 6


def test_a_run_that_diverges_ends_in_one_line(scripts, tmp_path):
    options = [*TINY, "trainer.max_epochs=2", "optimizer.lr=1e30", "hydra.run.dir=run"]
    result = scripts.run("train.py", *options, cwd=tmp_path, status=2)
    (line,) = result.stderr.strip().splitlines()
    assert " NaN or infinite at step " in line
    assert "before the first checkpoint. Lower optimizer.lr" in line
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_the_message_names_landmarks_that_differ_from_the_saved_ones(tmp_path):
    last = tmp_path / "last.ckpt"
    torch.save({"classes": ["arch", "tower"]}, last)
    check_same_classes(last, ["arch", "tower"])
    check_same_classes(None, ["bridge"])
    with pytest.raises(UserError, match=r"2 landmarks and the data has 3 .1 new, such as bridge."):
        check_same_classes(last, ["arch", "bridge", "tower"])
    with pytest.raises(UserError, match="1 new, such as bridge; 1 missing, such as arch"):
        check_same_classes(last, ["bridge", "tower"])
    with pytest.raises(UserError, match="in another order"):
        check_same_classes(last, ["tower", "arch"])


def test_a_run_does_not_resume_with_other_landmarks(scripts, tmp_path):
    scripts.run("train.py", *TINY, "trainer.max_epochs=0", "hydra.run.dir=world", cwd=tmp_path)
    (world,) = (folder for folder in (tmp_path / "toy").iterdir() if folder.is_dir())
    shutil.copytree(world, tmp_path / "photos")
    for listing in (tmp_path / "photos").glob("*.csv"):
        listing.unlink()
    options = [option for option in TINY if not option.startswith("data.")]
    options += ["data=folder", "data.root=photos", "trainer.max_epochs=1", "hydra.run.dir=run"]
    scripts.run("train.py", *options, cwd=tmp_path)
    (tmp_path / "run" / "result.json").unlink()  # as if it had been killed
    folders = sorted(folder for folder in (tmp_path / "photos").iterdir() if folder.is_dir())
    folders[0].rename(tmp_path / "photos" / "zz")
    result = scripts.run("train.py", *options, cwd=tmp_path, status=2)
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: run contains a run with different photos (12 moved, such as ")
    (tmp_path / "run" / "splits.parquet").unlink()  # as in a run of an earlier version
    result = scripts.run("train.py", *options, cwd=tmp_path, status=2)
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: run/checkpoints/last.ckpt was trained on 5 landmarks")
    assert f"1 new, such as zz; 1 missing, such as {folders[0].name}" in line


def test_imprinted_sub_centres_are_distinct_and_near_their_class_mean():
    loss, embedder = SubCenterArcFace(6, 4, sub_centres=3), nn.Flatten()
    images, labels = torch.randn(9, 6), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3])
    imprint(embedder, loss, [(images, labels, torch.arange(9))])
    units = nn.functional.normalize(images)
    for label in range(4):
        mean = nn.functional.normalize(units[labels == label].sum(0), dim=0)
        centres = loss.weight[3 * label : 3 * label + 3]
        assert bool((centres @ mean > 0.98).all())
        assert float(torch.pdist(centres.detach()).min()) > 1e-3
