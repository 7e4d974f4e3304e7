"""Runs the root scripts in forks of a process that has imported everything, seconds faster a run.

python tests/forked.py    reads one JSON request a line: {"command", "cwd", "environment"}, and
answers each with a line {"status", "stdout", "stderr"}.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "hydra",
    "pytorch_lightning",
    "torchvision.transforms.v2",
    "timm",
    "faiss",
    "landmark.data.module",
    "landmark.extract.describe",
    "landmark.model",
    "landmark.rerank",
    "landmark.task.training",
)


class Scripts:
    """Answers `run(script, *overrides, cwd=…)` like `subprocess.run`, by forking a warm process."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        )

    def run(self, script, *overrides, cwd, status=0, environment=None):
        """Checks the exit status and returns `returncode`, `stdout` and `stderr`."""
        request = {
            "command": [str(ROOT / script), *map(str, overrides)],
            "cwd": str(cwd),
            "environment": environment or {},
        }
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        result = SimpleNamespace(
            returncode=answer["status"], stdout=answer["stdout"], stderr=answer["stderr"]
        )
        assert result.returncode == status, result.stderr + result.stdout[-2000:]
        return result

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def answer(request: dict) -> dict:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os._exit(_as_script(request, out, err))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return {"status": status, "stdout": out.read(), "stderr": err.read()}


def _as_script(request: dict, out, err) -> int:
    """Becomes the script; returns what Python's exit status would be."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = request["command"]
    sys.path[0] = str(ROOT)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    import importlib

    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
