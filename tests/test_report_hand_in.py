"""Handing in: only when asked, through Kaggle's own command; a fake one stands in for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.artifact.submission import write_retrieval
from landmark.report import hand_in

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a run" / "submission.csv"
    path.parent.mkdir()
    path.write_text("id,images\nq,a b\n")
    return path


@pytest.fixture
def no_client(tmp_path, monkeypatch):
    """No command kaggle anywhere."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "empty" / "python"))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A command kaggle that writes down its words and ends with $KAGGLE_STATUS."""
    folder = tmp_path / "commands"
    folder.mkdir()
    said = tmp_path / "said.json"
    program = folder / "kaggle"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump(sys.argv[1:], open({str(said)!r}, 'w'))\n"
        "sys.exit(int(os.environ.get('KAGGLE_STATUS', 0)))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return said


def words_for(file, competition="landmark-retrieval-2019", message="landmark"):
    return ["competitions", "submit", competition, "--file", str(file), "--message", message]


@pytest.mark.parametrize("submit", ["submit=0", "submit="])
def test_unasked_it_only_says_what_it_would_run(file, client, capsys, submit):
    assert hand_in.main([str(file), submit]) == 0
    printed, errors = capsys.readouterr()
    command = f"kaggle competitions submit landmark-retrieval-2019 --file '{file}'"
    assert printed == f"not handed in; SUBMIT=1 runs: {command} --message landmark\n"
    assert not errors
    assert not client.exists()


def test_asked_it_runs_the_client(file, client, capfd):
    arguments = [str(file), "competition=some-other", "message=run 7; rm -rf x", "submit=1"]
    assert hand_in.main(arguments) == 0
    assert json.loads(client.read_text()) == words_for(file, "some-other", "run 7; rm -rf x")
    assert capfd.readouterr().out.startswith("running: kaggle competitions submit some-other")


def test_a_client_that_fails_is_an_error(file, client, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_STATUS", "3")
    assert hand_in.main([str(file), "submit=1"]) == 1
    assert capfd.readouterr().err == "error: kaggle ended with status 3: not handed in\n"


@pytest.mark.parametrize("first", ["ready", "file"])
def test_without_the_client_asking_is_a_mistake(file, no_client, capsys, first):
    first = str(file) if first == "file" else first
    assert hand_in.main([first, "submit=1"]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: SUBMIT=1: there is no command kaggle; pip install kaggle")


def test_without_the_client_nothing_is_wrong_while_unasked(file, no_client, capsys):
    assert hand_in.main(["ready", "submit=0"]) == 0
    assert hand_in.main([str(file)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the submission.csv"),
        (["FILE", "submit=yes"], "SUBMIT=yes"),
        (["FILE", "competition="], "COMPETITION=: "),
        (["FILE", "competition=--help"], "COMPETITION=--help"),
        (["FILE", "contest=x"], "contest=x: no such option"),
        (["gone.csv"], "gone.csv: no such submission"),
        (["ready", "submit=2"], "SUBMIT=2"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(file, client, capsys, arguments, words):
    assert hand_in.main([str(file) if one == "FILE" else one for one in arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert not client.exists()


def make_submit(run, *settings):
    """`make submit` of a folder that was filled already."""
    stand_ins = ("EXTRACT=:", "RERANK=:", f"BIN={Path(sys.executable).parent}")
    return subprocess.run(
        ["make", "-o", ".venv/installed", "submit", f"RUN={run}", *stand_ins, *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run(tmp_path):
    """A run whose photos are described and ranked."""
    folder = tmp_path / "run" / "submission"
    vectors = np.eye(4, dtype="f4")
    DescriptorStore.write(folder / "query", ["q0", "q1"], vectors[:2])
    DescriptorStore.write(folder / "gallery", ["a", "b", "c", "d"], vectors)
    rows = np.array([[0, 1], [3, -1]], np.int32)
    rankings = Rankings(
        rows, np.zeros((2, 2), np.float32), np.array(["q0", "q1"]), np.array(["a", "b", "c", "d"])
    )
    (folder / "ranking").mkdir()
    rankings.write_into(folder / "ranking")
    write_retrieval(folder / "ranking" / "submission.csv", rankings)
    return tmp_path / "run"


def test_make_submit_hands_in_the_checked_file_only_when_asked(run, client):
    made = run / "submission" / "submission.csv"
    done = make_submit(run)
    assert done.returncode == 0, done.stderr
    assert made.read_text() == "id,images\nq0,a b\nq1,d\n"
    assert "not handed in; SUBMIT=1 runs: kaggle" in done.stdout
    assert not client.exists()

    done = make_submit(run, "SUBMIT=1", "COMPETITION=mine")
    assert done.returncode == 0, done.stderr
    assert json.loads(client.read_text()) == words_for(made, "mine", str(run))


def test_make_submit_hands_in_nothing_that_fails_the_check(run, client):
    (run / "submission" / "ranking" / "submission.csv").write_text("id,images\nq0,a z\nq1,d\n")
    done = make_submit(run, "SUBMIT=1")
    assert done.returncode == 2
    assert "query q0 names z, which is not in the gallery" in done.stderr
    assert not client.exists()


def test_make_submit_stops_at_once_where_it_cannot_end_well(run, client):
    done = make_submit(run, "SUBMIT=maybe")
    assert done.returncode == 2
    assert "SUBMIT=maybe" in done.stderr
    assert not (run / "submission" / "submission.csv").exists()
