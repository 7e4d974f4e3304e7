"""Every setting is checked against the annotation of its signature."""

import dataclasses
import inspect
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeFloat, PositiveInt
from test_configs import (
    COMMANDS,
    EVERY,
    chain,
    choice_alone,
    choices,
    composed,
    node,
    settings_class,
)

from landmark.cli._check import check_config
from landmark.cli._signature import UNKNOWN, read_signature
from landmark.error import UserError
from landmark.settings import accepts, accepts_text, check_value, checked

CASES = [
    (int, [3, -1], [True, 1.5, "x", None, [1]], "a whole number"),
    (float, [3, 1.5], [False, "x", None, float("nan"), float("inf")], "a number"),
    (bool, [True], [1, "yes"], "true or false"),
    (str, ["x"], [1, True, None, ["x"]], "text"),
    (Path | None, ["x/y", None], [1, ["x"]], "a path or null"),
    (int | None, [1, None], ["x"], "a whole number or null"),
    (Literal["best", 3], ["best", 3], ["worst", None], "one of best, 3"),
    (Sequence[int], [[1, 2], []], [1, ["x"], "12"], "a list, each a whole number"),
    (list, [[1, "x"]], ["x", {"a": 1}], "a list"),
    (tuple[int, float], [[1, 0.5]], [[1], [1, 2, 3], ["x", 1]], "[a whole number, a number]"),
    (tuple[float, ...], [[], [1, 2.5]], [1.0, ["x"]], "a list, each a number"),
    (str | list[str], ["x", ["x", "y"]], [1, [1]], "text or a list, each text"),
    (Mapping[str, int], [{"a": 1}], [1, [1]], "key: value pairs"),
    (float | torch.Tensor, [1, 0.5, torch.ones(1)], ["x", True], "a number"),
    (Callable[[int], int], [abs], ["x", 1], "a value"),
    (object, [1, "x", None, [1]], [], ""),
    (Mapping[str, Sequence[torch.nn.Module]], [{"a": [torch.nn.ReLU()]}], [1, torch], "key: value"),
    (Sequence[torch.nn.Module], [[torch.nn.ReLU()]], [1, "x"], "a list"),
    (Sequence[int], [[1]], [[torch]], "a list, each a whole number"),
    (PositiveInt, [1], [0, -1, 1.5], "a whole number > 0"),
    (NonNegativeFloat | None, [0, None], [-0.1], "a number >= 0 or null"),
    (Annotated[float, Field(ge=0, lt=1)], [0, 0.99], [1, -1], "a number >= 0 and < 1"),
    (Annotated[list[int], Field(min_length=1)], [[1]], [[]], "a list of one or more"),
    (Annotated[str, Field(pattern="^a", description="a word in a")], ["ab"], ["b"], "a word in a"),
]


@pytest.mark.parametrize(("hint", "right", "wrong", "words"), CASES)
def test_each_kind_of_setting(hint, right, wrong, words):
    for value in right:
        check_value("key", value, hint)
    for value in wrong:
        with pytest.raises(UserError) as caught:
            check_value("key", value, hint)
        assert str(caught.value).startswith("key=")
        assert f" is not valid. Pass {words}" in str(caught.value)


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_every_choice_passes_its_check(group, choice):
    @dataclasses.dataclass
    class Nothing:
        pass

    settings = OmegaConf.create(OmegaConf.to_container(node(group, choice)))
    for key in OmegaConf.missing_keys(settings):
        settings[key] = "x"
    check_config(OmegaConf.create({group: {choice: settings}}), Nothing)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_commands_yaml_lists_its_settings(verb):
    config = composed(verb)
    fields = [field.name for field in dataclasses.fields(settings_class(verb))]
    assert [key for key in config if key in fields] == fields
    others = [key for key in config if key not in fields]
    assert all(OmegaConf.is_config(config[key]) or config[key] is None for key in others)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.k=nine", "task.k=nine is not valid. Pass a whole number"),
        ("optimizer.lr=fast", "optimizer.lr=fast is not valid. Pass a number"),
        ("loss.margin=true", "loss.margin=true is not valid. Pass an angle in radians, 0 to pi."),
        ("image.sizes=[[a,b]]", "image.sizes=[['a', 'b']] is not valid. Pass a list"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5 is not valid. Pass a whole number"),
        ("auxiliary.triplet.margin=x", "auxiliary.triplet.margin=x is not valid. Pass a number"),
        ("keep=worst", "keep=worst is not valid. Pass one of best, last"),
        ("batch_size=0", "batch_size=0 is not valid. Pass a whole number > 0 and <= 65536"),
        ("trainer.num_nodes=true", "trainer.num_nodes=true is not valid. Pass a whole number"),
        ("image.sizes=[[100000,9]]", "image.sizes=[[100000, 9]] is not valid. Pass a list"),
        ("auxiliary.triplet.weight=0", "auxiliary.triplet.weight=0 is not valid. Pass a number >"),
        (
            "+data.landmark=3",
            "data.landmark is not an argument of landmark.data.Toy. Did you mean landma",
        ),
        ("data=folder", "missing required setting 'data.root'. Pass data.root=<value>."),
    ],
)
def test_a_key_of_a_composed_configuration(override, line):
    config = composed("train", "auxiliary=[triplet]", override)
    with pytest.raises(UserError) as caught:
        check_config(config, settings_class("train"))
    assert str(caught.value).startswith(line)


NOT_NUMBERS = [float("nan"), float("inf"), True, "text", [], {}]
NOT_WHOLE = [*NOT_NUMBERS, 2**63, 10**30, -(10**30), 1.5]


def numbers(node: Mapping, hints: Mapping, *path: str) -> Iterator[tuple]:
    """Yield path, target and annotation of each number, or null in place of one, of a node.

    A number in a mapping that is an argument has the target two levels above.
    """
    target = node.get("_target_")
    if target:
        hints = {key: one.annotation for key, one in read_signature(target).parameters.items()}
    for key, value in node.items():
        hint = hints.get(key, Any)
        is_flat = isinstance(value, dict) and not any(isinstance(v, dict) for v in value.values())
        if is_flat and target and "_target_" not in value and hint is not Any:
            mapping = next(one for one in (hint, *get_args(hint)) if get_origin(one) is Mapping)
            for name, _, inner in numbers(value, dict.fromkeys(value, get_args(mapping)[1])):
                yield (*path, key, *name), {key: target}, inner
        elif isinstance(value, dict):
            yield from numbers(value, {}, *path, key)
        elif value is None:
            if accepts(1, hint) and not accepts(True, hint):
                yield (*path, key), target, hint
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key), target, hint if hint is not Any else type(value)


def check_number(path: Sequence[str], target: str | dict | None, hint: object) -> None:
    """Pass wrong values for a number: each is valid, or refused in one line with its name."""
    is_whole = not any(accepts(value, hint) for value in (-0.5, 0.5, 1.5))
    wrong = NOT_WHOLE if is_whole else NOT_NUMBERS
    # A device or a version may also be text or a list.
    of_text = str | list if accepts_text(hint) else ()
    for value in (-1, 0, 2**31, *(one for one in wrong if not isinstance(one, of_text))):
        tree: dict = {path[-1]: value} | ({"_target_": target} if isinstance(target, str) else {})
        for key in reversed(path[:-1]):
            tree = {key: tree}
            if isinstance(target, dict) and key in target:
                tree["_target_"] = target[key]
        own = [] if target else [(path[-1], hint)]
        try:
            check_config(OmegaConf.create(tree), dataclasses.make_dataclass("Settings", own))
        except UserError as error:
            line = str(error)
            assert line.startswith(f"{'.'.join(path)}="), line
            assert " is not valid. Pass " in line, line
            assert "\n" not in line
        else:
            assert type(value) is int, f"{path}={value}"
            assert value in (-1, 0, 2**31), f"{path}={value}"


def test_no_wrong_number_of_a_choice_is_accepted():
    found = {}
    for group, choice in EVERY:
        lines = "\n".join(chain(group, choice).values()).splitlines()
        target = next((line for line in lines if line.startswith("_target_")), "")
        if group not in ("auxiliary", "callback", "rerank") and target not in found:
            node = OmegaConf.to_container(choice_alone(group, choice))
            found[target] = list(numbers(node, {}, group))
    for one in itertools.chain(*found.values()):
        check_number(*one)
    assert len(found["_target_: torch.optim.SGD"]) == 3
    assert len(found["_target_: pytorch_lightning.Trainer"]) >= 10
    assert sum(map(len, found.values())) > 130


@pytest.mark.parametrize(
    ("verb", "count"),
    [
        ("train", 30),
        ("extract", 4),
        ("fit", 1),
        ("export", 1),
        ("rerank", 25),
        ("recognize", 12),
        ("score", 0),
    ],
)
def test_no_wrong_number_of_a_command_is_accepted(verb, count):
    overrides = {
        "train": ["auxiliary=[supcon,xbm]", "callback=[ema,early_stopping]"],
        "rerank": [f"rerank=[{','.join(choices('rerank'))}]"],
    }
    config = OmegaConf.to_container(composed(verb, *overrides.get(verb, [])))
    hints = typing.get_type_hints(settings_class(verb), include_extras=True)
    found = list(numbers(config, hints))
    for one in found:
        check_number(*one)
    assert len(found) >= count


def own_targets() -> list[str]:
    """Every class or function of the package that a choice names. Composing them takes longer."""
    texts = (text for group, choice in EVERY for text in chain(group, choice).values())
    lines = (line.partition("_target_: ") for text in texts for line in text.splitlines())
    return sorted(
        {target for start, _, target in lines if target.startswith("landmark.") and not start}
    )


@pytest.mark.parametrize("target", own_targets())
def test_a_signature_read_from_source_equals_the_imported_one(target):
    module, _, name = target.rpartition(".")
    made = getattr(__import__(module, fromlist=[name]), name)
    read = read_signature(target)
    bare = getattr(made, "__init__", None) is torch.nn.Module.__init__
    real = {} if bare else inspect.signature(made).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in real.values()):
        real = {n: one for n, one in real.items() if one.kind is not inspect.Parameter.VAR_KEYWORD}
        assert set(real) < set(read.parameters)
    else:
        assert set(real) == set(read.parameters)
    for key, one in real.items():
        default = read.parameters[key].default
        if one.default is not inspect.Parameter.empty and default is not UNKNOWN:
            assert default == one.default


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("torch.optim.SGD", "momentum"),
        ("torch.optim.AdamW", "betas"),
        ("pytorch_lightning.Trainer", "max_epochs"),
        ("pytorch_lightning.callbacks.EMAWeightAveraging", "update_every_n_steps"),
    ],
)
def test_signatures_of_libraries_are_read(target, key):
    assert key in read_signature(target).parameters


@pytest.mark.parametrize("target", ["no.such.Thing", "json.dumps2", "numpy.ndarray", "x", ""])
def test_a_target_without_source_has_no_signature(target):
    assert read_signature(target) is None


class Made:
    """Accept every kind of argument."""

    @checked
    def __init__(
        self,
        n: PositiveInt = 3,
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        kind: Literal["a", "b"] | None = None,
        scales: Sequence[float] = (1.0,),
        *,
        hook: Callable[[int], int] = abs,
    ) -> None:
        self.given = n, share, kind, tuple(scales), hook


def test_a_constructor_checks_calls_from_python():
    assert Made().given[0] == 3
    assert Made(np.int64(4), share=1, kind="a", scales=np.ones(2)).given[3] == (1.0, 1.0)
    assert Made(scales=OmegaConf.create([1, 2])).given[3] == (1, 2)  # as Hydra passes a list
    wrong = [{"n": 0}, {"n": True}, {"n": "1"}, {"share": 1.5}, {"kind": "c"}, {"scales": ["x"]}]
    for keywords in wrong:
        with pytest.raises(UserError, match=f"Made: {next(iter(keywords))}="):
            Made(**keywords)
    with pytest.raises(TypeError, match="no_such"):
        Made(no_such=1)


def test_a_base_constructor_names_the_constructed_class():
    class Derived(Made):
        pass

    with pytest.raises(UserError, match=r"^Derived: n=0 is not valid"):
        Derived(n=0)
