"""A path or text on the command line is read as it was typed."""

import subprocess
from functools import partial

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_configs import CONF, composed, settings_class

from landmark.cli._check import check_config
from landmark.cli._help import groups_of
from landmark.cli._overrides import quote_overrides, quoted, shell_form
from landmark.error import UserError

# Names of folders that Hydra's grammar rejects or reads as a number, a sweep, null or a function.
NAMES = (
    *("my photos (1)", "a=b", "c,d", "café", "日本", "h#1", "q[2]", "[q]", "t'u", 'say "a"', "R&D"),
    *("a:b", "12:30", "a : b", " a ", "{}", "{a: 1}", "~x", "x~", "a;b", "a|b", "a<b>", "!", "50%"),
    *("2019", "1e3", "010", "2_000", "-1", "0.50", "null", "NULL", "true", "False", "nan", "inf"),
    *("a(1)", "f(x,y)", "back\\", "$HOME", "a${b", "x\ty", "`ls`", "a,b,2019", "*", "?", "@a", "^"),
)


def values(verb: str, *overrides: str, is_sweep: bool = False):
    """Return the overrides as the command passes them to Hydra."""
    compose = partial(composed, verb)
    defaults = groups_of(verb, [CONF])
    return quote_overrides(overrides, settings_class(verb), defaults, compose, [CONF], is_sweep)


def value(override: str) -> object:
    """Return the value that Hydra gives to the key."""
    return OmegaConf.create(
        {"value": OverridesParser.create().parse_override(override).value()}
    ).value


@pytest.mark.parametrize("folder", ["", "/x/"])
def test_a_path_is_what_was_typed(folder):
    paths = [folder + name for name in NAMES]
    settings = settings_class("train")
    config = composed("train", "data=folder")
    for path in paths:
        given = [f"data.root={path}", f"init={path}"]
        root, init = quote_overrides(given, settings, {}, lambda *_: config, [CONF], False)
        assert value(root) == path
        # null is the documented value of init for none.
        assert value(init) == (None if path.lower() == "null" else path)


@pytest.mark.parametrize("name", ["my photos (1)", "c,d", "2019", "t'u"])
def test_a_composed_path_is_what_was_typed(name):
    typed = values("train", "data=folder", f"data.root=/x/{name}", f"weights={name}")
    config = composed("train", *typed)
    assert (config.data.root, config.weights) == (f"/x/{name}", name)


@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("extract", "embedder"),
        ("extract", "whitening"),
        ("rerank", "query"),
        ("rerank", "gallery"),
        ("score", "submission"),
        ("fit", "output"),
        ("export", "output"),
        ("train", "hydra.run.dir"),
    ],
)
def test_own_settings_and_run_folders_are_what_was_typed(verb, key):
    for name in NAMES:
        (typed,) = values(verb, f"{key}=/x/{name}")
        assert value(typed) == f"/x/{name}"


def test_elements_of_a_list_of_paths_are_what_was_typed():
    typed = values("rerank", "query=q", "gallery=[2019,a (1),b]", "rerank=rank_fusion")
    assert composed("rerank", *typed).gallery == ["2019", "a (1)", "b"]
    typed = values("rerank", "rerank=rank_fusion", "rerank.rank_fusion.rankings=[2019,é]")
    assert typed[1] == 'rerank.rank_fusion.rankings=["2019","é"]'


@pytest.mark.parametrize(
    "override",
    [
        "data.root='a b'",
        'data.root="c,d"',
        r"data.root=a\ \(1\)",
        "data.root=${oc.env:HOME}/x",
        "hydra.run.dir=runs/${now:%Y}",
        "batch_size=8",
        "optimizer.lr=1e-3",
        "image.sizes=[[96,96]]",
        "trainer.devices=[0]",
        "weights=null",
        "data.root=/plain/path-1.5_x",
        "loss=cosface",
        "auxiliary=[supcon]",
        "~callback",
    ],
)
def test_an_override_that_hydra_reads_as_meant_is_unchanged(override):
    assert values("train", "data=folder", override)[1] == override


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert values("train", "data.root=~/photos") == ['data.root="/home/me/photos"']
    assert values("train", "data.root='~/photos'") == ["data.root='~/photos'"]


def test_commas_separate_the_jobs_of_a_sweep():
    overrides = ["data=table", "data.root=2019,b", "seed=1,2", "data.table=x", "loss.margin=0,1"]
    assert values("train", *overrides, is_sweep=True) == [
        "data=table",
        'data.root="2019","b"',
        "seed=1,2",
        "data.table=x",
        "loss.margin=0,1",
    ]
    typed = values("train", "data=folder", "data.root=c,é", is_sweep=True)
    assert typed[1] == 'data.root="c","é"'


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("\\")
@example('a\\"')
@example("${x}")
@example("'")
@example("\\${")
@example("it's \\${a} (1)")
def test_the_quoted_form_is_exactly_the_text(text):
    form = shell_form("data.root", text)
    shell = subprocess.run(
        ["sh", "-c", f"printf %s {form}"], capture_output=True, check=True, timeout=60
    )
    parsed = OverridesParser.create().parse_override(shell.stdout.decode())
    assert OmegaConf.create({"value": parsed.value()}).value == text


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: "${" not in t)
)
def test_a_quoted_text_is_parsed_to_the_text(text):
    assert OverridesParser.create().parse_override(f"a={quoted(text)}").value() == text


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["foo"], "foo is not a setting. Pass KEY=VALUE"),
        (["fo o=3"], "fo o is not the name of a setting"),
        (["hydra.run.dir="], "hydra.run.dir= is empty. Pass a folder."),
        (["data.root=caf\udce9"], "data.root=caf� is not valid UTF-8. Rename the file or folder."),
        (["test_image=px96"], "Pass image@test_image=px96."),
        (["experiment=small_collection", "test_image=px96"], "Pass image@test_image=px96."),
    ],
)
def test_what_is_no_override_is_refused(overrides, line):
    with pytest.raises(UserError) as caught:
        values("train", *overrides)
    assert line in str(caught.value)


@pytest.mark.parametrize("text", ["/a/${x}", "${oc.env:NO_SUCH_NAME}", "a ${foo:1} b"])
def test_an_interpolation_without_a_value_shows_the_quoted_form(text):
    with pytest.raises(UserError) as caught:
        check_config(composed("train", f"init={text}"), settings_class("train"))
    line = str(caught.value)
    form = shell_form("init", text)
    assert line.startswith(f"init={text}: ")
    assert line.endswith(f"type {form}.")
    argument = subprocess.run(["sh", "-c", f"printf %s {form}"], capture_output=True, check=True)
    assert composed("train", argument.stdout.decode()).init == text
    with pytest.raises(UserError, match=r"^data.root=.*Rename the file or folder"):
        check_config(composed("train", "data=folder", f"data.root={text}"), settings_class("train"))
