"""Run the root scripts in forks of a process with all imports done, which saves seconds per run.

`python tests/forked.py` reads JSON requests {"command", "cwd", "environment"}, one per line, and
writes one line {"status", "stdout", "stderr"} for each.
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
PRELOADED = (
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
    """Client of a process that forks for every `run`."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        )

    def run(self, script, *overrides, cwd, status=0, environment=None):
        """Run a script, check its exit status and return `returncode`, `stdout` and `stderr`."""
        request = {
            "command": [str(ROOT / script), *map(str, overrides)],
            "cwd": str(cwd),
            "environment": environment or {},
        }
        print(json.dumps(request), file=self._server.stdin, flush=True)
        response = json.loads(self._server.stdout.readline())
        result = SimpleNamespace(
            returncode=response["status"], stdout=response["stdout"], stderr=response["stderr"]
        )
        assert result.returncode == status, result.stderr + result.stdout[-2000:]
        return result

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def run_in_fork(request: dict) -> dict:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os._exit(_run_script(request, out, err))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return {"status": status, "stdout": out.read(), "stderr": err.read()}


def _run_script(request: dict, out, err) -> int:
    """Run the script in this process and return the exit status that Python would have."""
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
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run_in_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
