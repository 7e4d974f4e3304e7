"""Stop training runs by a signal at seeded moments and resume them (test_train_killed.py).

python tests/killed_runs.py SIGKILL|SIGTERM|SIGINT MOMENTS OVERRIDE …

Prints one JSON line per run: the moment, and whether weights and metrics.csv equal those of an
uninterrupted run. All modules are imported once; each run is a fork of this process.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from landmark.data import LandmarkData  # noqa: E402, F401
from landmark.task import RetrievalTask, checkpoints, training  # noqa: E402, F401

PLACES = ("before the step", "before the optimizer", "while writing a checkpoint", "in validation")


# Status of a run that was stopped by the signal.
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


def stop_at(place: str, count: int, number: signal.Signals) -> None:
    """Send this process a signal when the place is reached for the count-th time."""
    holder, name = {
        "before the step": (RetrievalTask, "on_train_batch_start"),
        "before the optimizer": (RetrievalTask, "on_before_optimizer_step"),
        "in validation": (RetrievalTask, "validation_step"),
        "while writing a checkpoint": (torch, "save"),
    }[place]
    original, calls = getattr(holder, name), []

    def counting(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            if name == "save" and number == signal.SIGKILL:
                arguments[1].write(b"half of a checkpoint")
                arguments[1].flush()
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    setattr(holder, name, counting)


def run(
    folder: str,
    overrides: list[str],
    place: str | None = None,
    count: int = 0,
    number: signal.Signals = signal.SIGKILL,
) -> int:
    """Train in a fork and return its exit status."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
        if place is not None:
            stop_at(place, count, number)
        sys.argv = [str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            os._exit(int(stop.code))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(one: Path, other: Path) -> bool:
    first, second = (
        load_file(folder / "embedder" / "weights.safetensors") for folder in (one, other)
    )
    weights = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    return weights and (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def main() -> None:
    number = signal.Signals[sys.argv[1]]
    moments, overrides = int(sys.argv[2]), sys.argv[3:]
    assert run("whole", overrides) == 0
    random = np.random.default_rng(0)
    for moment in range(moments):
        place = PLACES[moment % len(PLACES)]
        most = {"before the step": 11, "before the optimizer": 11, "in validation": 4}.get(place, 6)
        count, folder = int(random.integers(2, most + 1)), f"stopped-{moment}"
        ended = run(folder, overrides, place, count, number)
        finished = run(folder, overrides)
        print(
            json.dumps(
                {
                    "moment": f"{place}, time {count}",
                    "stopped": ended == STATUS[number],
                    "finished": finished == 0,
                    "same": finished == 0 and same(Path("whole"), Path(folder)),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
