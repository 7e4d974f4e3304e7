"""The report of a sweep, from folders as written by train.py."""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from landmark.cli import sweep
from landmark.error import UserError
from landmark.sweep.jobs import read_jobs
from landmark.sweep.summary import write_summary

ROOT = Path(__file__).resolve().parents[1]


def job(folder, number, overrides, maps, keep="best", done=True, resumed=False):
    run = folder / str(number)
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/loss", "val/map_at_100", "val/top_1"])
        for step, value in enumerate(maps):
            writer.writerow([step, 1.5, "", ""])
            writer.writerow([step, "", value, value / 2])
    if done:
        result = {"best": max(maps), "seconds": 10.0 + number, "resumed": resumed}
        result["settings"] = {"keep": keep, "task": {"k": 100}}
        (run / "result.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path):
    """Write a sweep of two losses and three seeds, one job unfinished; job 10 follows job 2."""
    values = {"arcface": [0.31, 0.35, 0.33], "cosface": [0.40, 0.44]}
    number = 0
    for loss, maps in values.items():
        for seed, value in enumerate(maps):
            job(tmp_path, number, ["data=toy", f"loss={loss}", f"seed={seed}"], [0.1, value, 0.2])
            number += 1
    job(tmp_path, 10, ["data=toy", "loss=cosface", "seed=2"], [0.1], done=False)
    return tmp_path


def test_every_job_has_a_row_with_the_settings_that_differ(folder):
    write_summary(folder)
    table = pd.read_csv(folder / "sweep.csv")
    assert table["job"].tolist() == [0, 1, 2, 3, 4, 10]
    assert table.columns[:3].tolist() == ["job", "loss", "seed"]  # data is the same in all
    assert table["map_at_100"].tolist()[:5] == [0.31, 0.35, 0.33, 0.40, 0.44]
    assert table["top_1"].tolist()[:5] == [0.155, 0.175, 0.165, 0.20, 0.22]
    assert table["seconds"].tolist()[:5] == [10, 11, 12, 13, 14]
    assert table["state"].tolist() == ["done"] * 5 + ["unfinished"]
    assert np.isnan(table["map_at_100"].iloc[5])
    np.testing.assert_allclose(table["mean"], [0.33] * 3 + [0.42] * 3)
    deviation = [statistics.stdev([0.31, 0.35, 0.33])] * 3 + [statistics.stdev([0.40, 0.44])] * 3
    np.testing.assert_allclose(table["deviation"], deviation)


def test_the_text_and_the_plot(folder):
    text = write_summary(folder)
    written = (folder / "sweep.md").read_text()
    assert text.startswith(written)
    assert "1 of 6 jobs unfinished" in written
    means = written.split("\n\n")[1].splitlines()
    assert [line.split() for line in means[2:4]] == [
        ["|", "cosface", "|", "2", "|", "0.4200", "±", "0.0283", "|", "0.2100", "±", "0.0141", "|"],
        ["|", "arcface", "|", "3", "|", "0.3300", "±", "0.0200", "|", "0.1650", "±", "0.0100", "|"],
    ]
    assert len({len(line) for line in means[:4]}) == 1
    with Image.open(folder / "sweep.png") as picture:
        assert picture.width > 800


def test_the_validation_of_the_exported_checkpoint_counts(tmp_path):
    job(tmp_path, 0, ["a=1"], [0.1, 0.5, 0.2], keep="last")
    job(tmp_path, 1, ["a=2"], [0.1, 0.5, 0.2], keep="best", resumed=True)
    write_summary(tmp_path)
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert table["map_at_100"].tolist() == [0.2, 0.5]
    assert table["state"].tolist() == ["done", "done, resumed"]
    assert "mean" not in table


def test_a_sweep_of_unfinished_jobs(tmp_path):
    job(tmp_path, 0, ["loss=arcface", "+seed=1"], [0.1], done=False)
    job(tmp_path, 1, ["loss=arcface", "+seed=2"], [0.1], done=False)
    text = write_summary(tmp_path)
    assert "2 of 2 jobs unfinished" in text
    assert not (tmp_path / "sweep.png").exists()


def test_only_seeds_differ(tmp_path):
    for seed in range(2):
        job(tmp_path, seed, [f"seed={seed}"], [0.1 + 0.2 * seed])
    text = write_summary(tmp_path)
    assert "0.2000 ± 0.1414" in text
    assert pd.read_csv(tmp_path / "sweep.csv")["mean"].tolist() == pytest.approx([0.2, 0.2])


def test_no_jobs_and_damaged_files_are_one_line(tmp_path, capsys, monkeypatch):
    job(tmp_path / "run", 0, ["a=1"], [0.1])
    for arguments, words in (
        ([], "error: the following arguments are required: DIR. See landmark sweep --help."),
        ([str(tmp_path / "none")], "contains no job of a sweep"),
        ([str(tmp_path / "run" / "0")], "contains no job of a sweep"),  # a run, no sweep
    ):
        monkeypatch.setattr(sys, "argv", ["landmark", "sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.main()
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert words in printed.err
        assert printed.err.count("\n") == 1
    (tmp_path / "run" / "0" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result.json is damaged"):
        read_jobs(tmp_path / "run")


def test_make_sweep_report(folder):
    command = ["make", "-o", ".venv/installed", "sweep-report", f"DIR={folder}"]
    command.append(f"BIN={Path(sys.executable).parent}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith(f"wrote {folder}/sweep.csv")
