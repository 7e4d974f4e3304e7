"""The commands start quickly, and a user error is one line with status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST_KEYS = {
    "train": "task:",
    "extract": "embedder:",
    "fit": "train:",
    "export": "embedder:",
    "rerank": "query:",
    "recognize": "query:",
    "score": "task:",
}
FILE_TOOLS = ("compare", "submit", "sweep")


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "landmark", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def without_heavy_imports(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Return the command, which fails if torch, pandas or another heavy library is imported."""
    hook = (
        f"import sys; sys.argv = {['landmark', *arguments]!r}\n"
        "from landmark.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code or 0\n"
        "else: status = 0\n"
        "heavy = {'torch', 'timm', 'faiss', 'pytorch_lightning', 'pandas', 'wandb'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(status)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", hook],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("verb", FIRST_KEYS)
@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"]], ids=lambda flag: flag[0])
def test_help_and_configuration_are_shown_without_heavy_imports(verb, flag, tmp_path):
    result = without_heavy_imports(verb, *flag, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert FIRST_KEYS[verb] in result.stdout
    assert (f"landmark {verb} " in result.stdout) == (flag == ["--help"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", FILE_TOOLS)
def test_help_of_a_file_tool_is_shown_without_heavy_imports(verb, tmp_path):
    result = without_heavy_imports(verb, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: landmark {verb} ")
    assert list(tmp_path.iterdir()) == []


def test_help_lists_choices_values_and_ranges_of_the_composed_settings(tmp_path):
    shown = without_heavy_imports("train", "loss=cosface", "--help", cwd=tmp_path).stdout
    assert "loss: adacos, adaface" in shown
    assert "_target_: landmark.loss.CosFace" in shown
    lines = {line.partition(":")[0].strip(): line for line in shown.splitlines()}
    assert "one of best, last" in lines["keep"]
    assert "a whole number > 0" in lines["batch_size"]


def test_the_list_of_commands(tmp_path):
    result = without_heavy_imports("--help", cwd=tmp_path)
    assert result.returncode == 0
    for verb in (*FIRST_KEYS, *FILE_TOOLS):
        assert f"landmark {verb}" in result.stdout
    wrong = without_heavy_imports("retrain", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "retrain" in wrong.stderr


@pytest.mark.parametrize("verb", FIRST_KEYS)
def test_a_root_script_is_the_command(verb, tmp_path):
    script = ROOT / f"{verb}.py"
    assert len(script.read_text().splitlines()) <= 25
    results = [
        subprocess.run(
            [sys.executable, *start, "no_such_key=1"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for start in ([str(script)], ["-m", "landmark", verb])
    ]
    assert results[0].stderr == results[1].stderr
    assert [one.returncode for one in results] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "loss=arcfac"], ["loss=arcfac", "Did you mean arcface?", "cosface"]),
        (["train", "losss=arcface"], ["losss", "Did you mean loss?"]),
        (["train", "loss.margn=0.3"], ["loss.margn", "Did you mean margin?", "scale"]),
        (["train", "data=folder", "loss=[arcface,cosface]"], ["loss=[", "accepts one choice"]),
        (["train", "data=folder"], ["missing required setting 'data.root'"]),
        (["train", "keep=worst"], ["keep=worst", "best", "last"]),
        (["train", "+data.landmark=3"], ["data.landmark", "landmarks"]),
        (["extract", "output=x"], ["missing required setting 'embedder'"]),
        (["extract", "embedder=nowhere", "split=index"], ["split=index", "gallery"]),
        (["extract", "embedder=nowhere", "extract.scales=[]"], ["extract.scales=[] is not valid"]),
        (["fit", "train=nowhere"], ["missing required setting 'output'"]),
        (["fit", "train=a", "output=b", "fit.dim=0"], ["fit.dim=0 is not valid", "number > 0"]),
        (["fit", "train=a", "output=b", "fit.power=2"], ["fit.power=2 is not valid", "<= 1"]),
        (["fit", "train=a", "output=b", "fit=whitening", "fit.power=0"], ["fit.power", "dim"]),
        (
            ["fit", "train=a", "output=b", "fit=zca"],
            ["fit=zca", "ames, calibration, elvis, linear, pca, whitening"],
        ),
        (["rerank", "query=a", "gallery=b", "rerank=[alphaqe]"], ["alphaqe", "alpha_qe"]),
        (["train", "loss=5"], ["loss=5 does not exist", "arcface"]),
        (["train", "trainer=null"], ["trainer=null does not exist", "cpu"]),
        (["train", "optimizer={lr: 1}"], ["optimizer={lr: 1} does not exist", "adamw, sgd"]),
        (["train", "model="], ["model= does not exist", "resnet50"]),
        (["train", "task=5"], ["task=5 is not valid", "task.<key>=<value>"]),
        (["train", "~loss"], ["the settings of loss are missing"]),
        (["train", "loss.margin="], ["loss.margin= is not valid"]),
        (["train", "data=folder", "data.root="], ["data.root= is empty"]),
        (["train", "test_image=px96"], ["Pass image@test_image=px96."]),
        (["train", "data=/tmp"], ["data=/tmp does not exist", "data=folder data.root=/tmp"]),
        (["train", "data.root=PHOTOS"], ["data=folder data.root=PHOTOS", "data=toy data.root"]),
        (["train", "experiment=demo", "data.root=a b"], ["data=folder 'data.root=a b'"]),
        (["train", "data.table=x"], ["data.table is a setting of other choices: data=table."]),
        (["train", "loss=softmax", "loss.margin=1"], ["other choices", "arcface", "cosface"]),
        (["train", "pooling=mac", "pooling.p=2"], ["pooling.p", "gem, gem_learned, gem_stages"]),
        (["train", "auxiliary.supcon.weight=2"], ["Pass auxiliary=supcon first."]),
        (["train", "seed=-1"], ["seed=-1 is not valid", ">= 0 and <= 4294967295"]),
        (["train", "task.k=9999999999"], ["task.k=9999999999", "at most 2147483647"]),
        (["train", "trainer.max_epochs=-5"], ["trainer.max_epochs=-5", ">= -1"]),
        (["train", "trainer.precision=8"], ["trainer.precision=8 is not valid", "bf16-mixed"]),
        (["rerank", "query=a", "gallery=b", "search=5"], ["search=5 does not exist", "flat"]),
        (["recognize", "query=a"], ["missing required setting 'train'. Pass train=<value>."]),
        (["recognize", "query=a", "train=b", "k=0"], ["k=0 is not valid", "number > 0"]),
        (["recognize", "query=a", "train=b", "precision=1"], ["precision=1 is not", "> 0 and < 1"]),
        (["recognize", "query=a", "train=b", "precision=0.9"], ["precision=0.9", "calibration="]),
        (["rerank", "query=a"], ["missing required setting 'gallery'. Pass gallery=<value>."]),
        (["score", "task=retrieva"], ["task=retrieva", "retrieval", "recognition"]),
        (["score", "task=retrieval"], ["task=retrieval needs solution", "solution=<path>"]),
        (["sweep"], ["required: DIR. See landmark sweep --help."]),
        (["submit", "DIR", "--snd"], ["--snd", "See landmark submit --help."]),
        (["compare"], ["required: NAME=DIR"]),
        (["compare", "a=b", "c"], ["c is not NAME=DIR"]),
        (["compare", "a="], ["a= is not NAME=DIR"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_user_error_is_one_line_and_status_2(arguments, words, tmp_path):
    result = without_heavy_imports(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "embedder=nowhere"],
        ["fit", "train=nowhere", "output=x"],
        ["rerank", "query=nowhere", "gallery=nowhere"],
        ["compare", "a=nowhere"],
        ["submit", "nowhere"],
        ["sweep", "nowhere"],
    ],
    ids=lambda value: value[0],
)
def test_an_input_that_does_not_exist_is_one_line(arguments, tmp_path):
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "nowhere" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_configuration_folder_and_a_package_of_the_user(tmp_path):
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "my_losses.py").write_text(
        "from landmark.loss import ArcFace\n\nclass Sharp(ArcFace):\n    '''ArcFace.'''\n"
    )
    (tmp_path / "mine" / "loss" / "sharp.yaml").write_text(
        "_target_: my_losses.Sharp\n_partial_: true\nmargin: 0.2\n"
    )
    flags = ["--config-dir", "mine"]
    shown = without_heavy_imports("train", *flags, "loss=sharp", "--help", cwd=tmp_path)
    assert "softmax, sharp" in shown.stdout or "sharp, smooth_ap" in shown.stdout
    assert "_target_: my_losses.Sharp" in shown.stdout
    wrong = without_heavy_imports("train", *flags, "loss=sharp", "loss.margin=x", cwd=tmp_path)
    assert wrong.stderr.strip().startswith("error: loss.margin=x is not valid.")


def test_pytorch_requests_huge_pages(tmp_path):
    hook = (
        "import os, sys; sys.argv = ['landmark', 'score', 'task=x']\n"
        "from landmark.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['THP_MEM_ALLOC_ENABLE'])\n"
    )
    for given, expected in ((None, "1"), ("0", "0")):
        environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
        environment |= {"PYTHONPATH": str(ROOT)} | (
            {} if given is None else {"THP_MEM_ALLOC_ENABLE": given}
        )
        result = subprocess.run(
            [sys.executable, "-c", hook],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert result.stdout.strip() == expected


OUTPUTS = (["--help"], ["score", "--help"], ["train", "--cfg", "job"])


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_command_without_a_word(arguments, unbuffered, tmp_path):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "landmark", *arguments],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_user_error_keeps_its_status_with_a_closed_pipe(tmp_path):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "landmark", "score", "task=x"],
        cwd=tmp_path,
        stdout=write,
        stderr=write,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(write)
    assert result.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_output_to_a_full_device_is_one_line(arguments, tmp_path):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "landmark", *arguments],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the output: No space left on device.")


def test_a_broken_pipe_elsewhere_is_not_hidden(capfd):
    from landmark.cli._exit import exit_status

    with pytest.raises(BrokenPipeError), exit_status():
        raise BrokenPipeError(32, "a worker has gone")
