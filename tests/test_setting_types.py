"""Settings of a wrong type: one line that names key, value and what to give."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf
from test_configs import EVERY, composed, node

from landmark.mistake import UserMistake
from landmark.setting_types import refuse_wrong_arguments, refuse_wrong_settings

CASES = [
    (int, [3, -1], [True, 1.5, "x", None, [1]], "a whole number"),
    (float, [3, 1.5], [False, "x", None], "a number"),
    (bool, [True], [1, "yes"], "true or false"),
    (str, ["x"], [1, True, None, ["x"]], "a text"),
    (Path | None, ["x/y", None], [1, ["x"]], "a path or null"),
    (int | None, [1, None], ["x"], "a whole number or null"),
    (Literal["best", 3], ["best", 3], ["worst", None], "one of best, 3"),
    (Sequence[int], [[1, 2], []], [1, ["x"], "12"], "a list, each a whole number"),
    (list, [[1, "x"]], ["x", {"a": 1}], "a list"),
    (tuple[int, float], [[1, 0.5]], [[1], [1, 2, 3], ["x", 1]], "[a whole number, a number]"),
    (tuple[float, ...], [[], [1, 2.5]], [1.0, ["x"]], "a list, each a number"),
    (str | list[str], ["x", ["x", "y"]], [1, [1]], "a text or a list, each a text"),
    (Mapping[str, int], [{"a": 1}], [1, [1]], "key: value pairs"),
    (float | torch.Tensor, [1, 0.5], ["x", True], "a number"),
    (Callable[[int], int], [], ["x", 1], "what makes a Callable"),
    (object, [1, "x", None, [1]], [], ""),
]


@pytest.mark.parametrize(("hint", "right", "wrong", "words"), CASES)
def test_each_kind(hint, right, wrong, words):
    for value in right:
        refuse_wrong_settings(OmegaConf.create({"key": value}), {"key": hint})
    for value in wrong:
        with pytest.raises(UserMistake) as caught:
            refuse_wrong_settings(OmegaConf.create({"key": value}), {"key": hint})
        written = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else value
        assert str(caught.value) == f"key={'null' if value is None else written}: give {words}"


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_every_choice_is_of_the_right_types(group, choice):
    refuse_wrong_arguments(OmegaConf.create({group: node(group, choice)}))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.k=nine", "task.k=nine: give a whole number"),
        ("optimizer.lr=fast", "optimizer.lr=fast: give a number"),
        ("loss.margin=true", "loss.margin=true: give a number"),
        ("image.sizes=[[a,b]]", "image.sizes=[['a', 'b']]: give a list, each a list"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: give a whole number or null"),
        ("auxiliary.triplet.margin=x", "auxiliary.triplet.margin=x: give a number"),
    ],
)
def test_a_key_of_a_composed_configuration(override, line):
    config = composed("train", "auxiliary=[triplet]", override)
    with pytest.raises(UserMistake) as caught:
        refuse_wrong_arguments(config)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("script", "override", "line"),
    [
        ("train.py", "batch_size=many", "batch_size=many: give a whole number"),
        ("train.py", "task.k=nine", "task.k=nine: give a whole number"),
        ("extract.py", "overwrite=1", "overwrite=1: give true or false"),
        ("extract.py", "extract.flip=2", "extract.flip=2: give true or false"),
        ("rerank.py", "k=ten", "k=ten: give a whole number or null"),
        ("rerank.py", "search.block_rows=x", "search.block_rows=x: give a whole number"),
    ],
)
def test_a_script_says_it_in_one_line(scripts, tmp_path, script, override, line):
    needed = {
        "train.py": [f"hydra.run.dir={tmp_path}/run"],
        "extract.py": ["embedder=none", f"output={tmp_path}/store"],
        "rerank.py": ["query=none", "gallery=none", f"output={tmp_path}/ranking"],
    }
    result = scripts.run(script, *needed[script], override, cwd=tmp_path, status=2)
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {line}")
    assert "Traceback" not in result.stderr
