"""The folder of a job, and the command of a job of a sweep."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

_folders_in_use: dict[str, Path] = {}


def unused_folder(wish: str) -> Path:
    """Makes and returns the folder `wish`, or `wish-2`, `wish-3` … where another process was first.

    Jobs started in the same second get different folders. Asked again, a process gets its own.
    """
    if wish not in _folders_in_use:
        number = 1
        while wish not in _folders_in_use:
            folder = Path(wish if number == 1 else f"{wish}-{number}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
                _folders_in_use[wish] = folder
            except FileExistsError:
                number += 1
    return _folders_in_use[wish]


OmegaConf.register_new_resolver(
    "unused_folder", lambda wish: str(unused_folder(wish)), use_cache=True
)


def run_as_single_job(script: str, overrides: Sequence[str], folder: Path) -> None:
    """Runs one job of a sweep by a command of its own, with that job's settings and folder.

    Lightning starts the other processes of a job with the command line of the first. In a sweep
    that is the whole sweep's, and they would begin the sweep again.

    Args:
        script: the root script.
        overrides: the job's, Hydra's `overrides.task`.
        folder: the job's.

    Raises:
        SystemExit: the job failed; with its status.
    """
    place = [f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]
    ended = subprocess.run([sys.executable, script, *overrides, *place], check=False)
    if ended.returncode != 0:
        sys.exit(ended.returncode)
