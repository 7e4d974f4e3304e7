"""Submitting, only with --send, through a fake of Kaggle's command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landmark import cli
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.artifact.submission import write_retrieval

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def no_client(tmp_path, monkeypatch):
    """Remove the command kaggle from the PATH."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "empty" / "python"))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Install a command kaggle that records its arguments and exits with $KAGGLE_STATUS."""
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


@pytest.fixture
def run(tmp_path):
    """Write a run whose photos are extracted and ranked."""
    folder = tmp_path / "a run" / "submission"
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
    return folder.parent


@pytest.fixture
def submit(run, monkeypatch):
    """Run `landmark submit DIR …` in this process; return the exit status."""

    def command(*arguments):
        words = [str(run / "submission") if one == "DIR" else one for one in arguments]
        monkeypatch.setattr(sys, "argv", ["landmark", "submit", *words])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
        return 0

    return command


def words_for(run, competition="landmark-retrieval-2019", message="landmark"):
    file = str(run / "submission" / "submission.csv")
    return ["competitions", "submit", competition, "--file", file, "--message", message]


def test_without_send_it_checks_and_prints_the_command(run, submit, client, capsys):
    assert submit("DIR") == 0
    printed, errors = capsys.readouterr()
    file = run / "submission" / "submission.csv"
    assert file.read_text() == "id,images\nq0,a b\nq1,d\n"
    checked, sent = printed.splitlines()
    assert checked.startswith(f"{file}: 2 queries, all images among the gallery's 4")
    command = f"kaggle competitions submit landmark-retrieval-2019 --file '{file}'"
    assert sent == f"not sent; --send (make submit SUBMIT=1) runs: {command} --message landmark"
    assert not errors
    assert not client.exists()


def test_with_send_it_runs_the_client(run, submit, client, capfd):
    arguments = ["--competition=some-other", "--message=run 7; rm -rf x", "--send"]
    assert submit("DIR", *arguments) == 0
    assert json.loads(client.read_text()) == words_for(run, "some-other", "run 7; rm -rf x")
    _, running, sent = capfd.readouterr().out.splitlines()
    assert running.startswith("running: kaggle competitions submit some-other")
    assert sent == "sent"


def test_a_client_that_fails_is_an_error(submit, client, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_STATUS", "3")
    assert submit("DIR", "--send") == 1
    printed, errors = capfd.readouterr()
    assert errors == "error: kaggle exited with status 3: not submitted.\n"
    assert printed.splitlines()[-1].startswith("running: ")


@pytest.mark.parametrize("more", [[], ["--ready"]], ids=["send", "ready"])
def test_sending_without_the_client_is_refused(run, submit, no_client, capsys, more):
    assert submit("DIR", "--send", *more) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: --send needs the command kaggle, which is not installed.")
    assert "pip install kaggle" in errors
    assert not (run / "submission" / "submission.csv").exists()


def test_the_client_may_be_missing_unless_it_is_needed(submit, no_client):
    assert submit("DIR", "--ready") == 0
    assert submit("DIR") == 0


def test_ready_needs_no_submission(tmp_path, submit, client, capsys):
    assert submit(str(tmp_path / "later"), "--ready", "--send") == 0
    assert capsys.readouterr().out == "ready to send to landmark-retrieval-2019\n"
    assert not (tmp_path / "later").exists()
    assert not client.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: DIR"),
        (["DIR", "--send=yes"], "--send"),
        (["DIR", "--sen"], "--sen"),
        (["DIR", "DIR"], "unrecognized arguments"),
        (["DIR", "--send", "--competition="], "--competition= is not valid"),
        (["DIR", "--send", "--competition=--help"], "--competition=--help is not valid"),
        (["DIR", "--send", "--contest=x"], "--contest=x"),
        (["gone", "--send"], "gone"),
    ],
    ids=" ".join,
)
def test_user_errors_are_one_line(submit, client, capsys, arguments, words):
    assert submit(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert not client.exists()


def make_submit(run, *settings):
    """Run `make submit` on a folder with existing stores."""
    stand_ins = ("EXTRACT=:", "RERANK=:", f"BIN={Path(sys.executable).parent}")
    return subprocess.run(
        ["make", "-o", ".venv/installed", "submit", f"RUN={run}", *stand_ins, *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_make_submit_sends_the_checked_file_only_with_submit_1(run, client):
    made = run / "submission" / "submission.csv"
    done = make_submit(run)
    assert done.returncode == 0, done.stderr
    assert made.read_text() == "id,images\nq0,a b\nq1,d\n"
    assert "not sent; --send (make submit SUBMIT=1) runs: kaggle" in done.stdout
    assert not client.exists()

    done = make_submit(run, "SUBMIT=1", "COMPETITION=mine")
    assert done.returncode == 0, done.stderr
    assert json.loads(client.read_text()) == words_for(run, "mine", str(run))


def test_make_submit_sends_nothing_that_fails_the_check(run, client):
    (run / "submission" / "ranking" / "submission.csv").write_text("id,images\nq0,a z\nq1,d\n")
    done = make_submit(run, "SUBMIT=1")
    assert done.returncode == 2
    assert "query q0 lists z, which is not in the gallery" in done.stderr
    assert not client.exists()


@pytest.mark.parametrize(
    "setting", ["SUBMIT=maybe", "SOLUTION=nowhere.csv", "COMPETITION=--help", "RUN="]
)
def test_make_submit_checks_its_variables_first(run, client, setting):
    done = make_submit(run, "SUBMIT=1", f"SUBMISSION={run}/submission", "EXTRACT=false", setting)
    assert done.returncode == 2
    assert setting.removesuffix("=") in done.stderr.replace("--competition", "COMPETITION")
    assert "Error 1" not in done.stderr  # the error of EXTRACT=false
    assert not (run / "submission" / "submission.csv").exists()
    assert not client.exists()


def test_make_submit_sends_nothing_if_scoring_fails(run, client, tmp_path):
    solution = tmp_path / "solution.csv"
    solution.write_text("id,images\nq0,a\nq1,d\n")
    done = make_submit(run, "SUBMIT=1", f"SOLUTION={solution}")
    assert done.returncode == 0, done.stderr
    assert '"mean_average_precision_at_100": 1.0' in done.stdout
    client.unlink()
    solution.write_text("id,images\nother,a\n")
    done = make_submit(run, "SUBMIT=1", f"SOLUTION={solution}")
    assert done.returncode == 2
    assert not client.exists()
