"""The commands answer quickly, and a user's mistake is one line and status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST_KEYS = {
    "train.py": "task:",
    "extract.py": "embedder:",
    "export.py": "embedder:",
    "rerank.py": "query:",
    "score.py": "task:",
}


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    script, *rest = arguments
    return subprocess.run(
        [sys.executable, str(ROOT / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("script", ["train.py", "extract.py", "export.py", "rerank.py", "score.py"])
@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"]], ids=lambda flag: flag[0])
def test_help_and_configuration_are_shown_without_heavy_imports(script, flag, tmp_path):
    hook = (
        f"import sys, runpy; sys.argv = {[str(ROOT / script), *flag]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'timm', 'faiss', 'pytorch_lightning', 'pandas', 'wandb'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", hook],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    shown = f"python {script}" if flag == ["--help"] else FIRST_KEYS[script]
    assert shown in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.py", "loss=arcfac"], ["loss=arcfac", "did you mean arcface", "cosface"]),
        (["train.py", "losss=arcface"], ["losss", "did you mean loss"]),
        (["train.py", "loss.margn=0.3"], ["loss.margn", "did you mean margin", "scale"]),
        (["train.py", "data=folder", "loss=[arcface,cosface]"], ["loss=[", "choose one"]),
        (["train.py", "data=folder"], ["data.root", "value is needed"]),
        (["train.py", "keep=worst"], ["keep=worst", "best", "last"]),
        (["train.py", "+data.landmark=3"], ["data", "landmark"]),
        (["extract.py", "output=x"], ["embedder", "value is needed"]),
        (["extract.py", "embedder=nowhere", "split=index"], ["split=index", "gallery"]),
        (["extract.py", "embedder=nowhere"], ["nowhere"]),
        (["rerank.py", "query=nowhere", "gallery=nowhere"], ["nowhere"]),
        (["rerank.py", "query=a", "gallery=b", "rerank=[alphaqe]"], ["alphaqe", "alpha_qe"]),
        (["score.py", "task=retrieva"], ["task=retrieva", "retrieval", "recognition"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_status_2(arguments, words, tmp_path):
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_a_wrong_override_answers_before_anything_is_written(tmp_path):
    assert command("train.py", "model=fishnett", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
