"""keep=best is refused before training exactly where Lightning would run no validation."""

from types import SimpleNamespace

import pytest

from landmark.error import UserError
from landmark.task.first_validation import check_validations


def trainer(**settings):
    options = {
        "max_epochs": 2,
        "max_steps": -1,
        "fast_dev_run": False,
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "check_val_every_n_epoch": 1,
        "val_check_interval": 1.0,
        "accumulate_grad_batches": 1,
        "world_size": 1,
    }
    return SimpleNamespace(**options | settings)


def data(batches=5, answers=True, validation=3):
    return SimpleNamespace(
        steps_per_epoch=lambda _: batches,
        validation_batches=lambda _: validation,
        has_answers=answers,
        batch_size=8,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_steps": 4}, "trainer.max_steps=4 (the first is after step 5)"),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, "trainer.max_steps=2"),
        ({"max_steps": 9, "check_val_every_n_epoch": 2}, "trainer.max_steps=9"),
        ({"limit_val_batches": 0}, "trainer.limit_val_batches=0"),
        ({"limit_val_batches": 0.0}, "trainer.limit_val_batches=0.0"),
        ({"check_val_every_n_epoch": 3}, "trainer.check_val_every_n_epoch=3"),
        (
            {"check_val_every_n_epoch": None, "val_check_interval": 11},
            "trainer.val_check_interval=11",
        ),
        ({"val_check_interval": 6}, "trainer.val_check_interval=6 is more than the 5 batches"),
        ({"val_check_interval": 0.5, "max_steps": 1}, "trainer.max_steps=1"),
        ({"fast_dev_run": 1}, "trainer.fast_dev_run"),
        ({"max_steps": 0}, "trainer.max_steps=0 trains no step"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches=0 trains no step"),
        ({"limit_val_batches": 2}, "trainer.limit_val_batches=2"),
        ({"limit_val_batches": 0.5}, "trainer.limit_val_batches=0.5"),
    ],
)
def test_no_validation_is_refused_by_the_key(settings, words):
    with pytest.raises(UserError) as caught:
        check_validations(trainer(**settings), data(), "best")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_steps": 5},
        {"max_steps": 3, "accumulate_grad_batches": 2},
        {"max_steps": 10, "check_val_every_n_epoch": 2},
        {"check_val_every_n_epoch": None, "val_check_interval": 10},
        {"val_check_interval": 0.5, "max_steps": 2},
        {"val_check_interval": "00:15:00", "max_steps": 1},
        {"limit_val_batches": 3},
        {"max_epochs": 0, "limit_val_batches": 0},
        {"max_epochs": -1, "check_val_every_n_epoch": 9},
        {"limit_train_batches": 2, "max_steps": 2},
    ],
)
def test_a_run_with_a_validation_is_accepted(settings):
    check_validations(trainer(**settings), data(), "best")


def test_without_validation_the_last_weights_can_be_kept():
    check_validations(trainer(max_steps=1, limit_val_batches=0), data(answers=False), "last")
    with pytest.raises(UserError, match=r"keep=best: no validation query .* pass keep=last"):
        check_validations(trainer(), data(answers=False), "best")
    with pytest.raises(UserError, match="batch_size=8 trains no step"):
        check_validations(trainer(), data(batches=0), "last")
