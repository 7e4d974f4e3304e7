"""Output folders of jobs, and one job of a sweep as a separate command."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from landmark.cli._overrides import quoted

_folders: dict[str, Path] = {}


def unused_folder(path: str) -> Path:
    """Create and return the folder `path`, or `path-2`, `path-3` … if it already exists.

    Jobs started in the same second get different folders; repeated calls in a process return the
    same one.
    """
    number = 1
    while path not in _folders:
        folder = Path(path if number == 1 else f"{path}-{number}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            _folders[path] = folder
        except FileExistsError:
            number += 1
    return _folders[path]


def default_output(verb: str) -> Path:
    """Return the folder of this job in a sweep, or hydra.run.dir; else a new one in runs/VERB."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder != Path.cwd():
        return folder
    return unused_folder(f"runs/{verb}/{datetime.now():%Y-%m-%d/%H-%M-%S}")


OmegaConf.register_new_resolver(
    "unused_folder", lambda path: str(unused_folder(path)), use_cache=True
)


def run_as_single_job(verb: str, folder: Path) -> None:
    """Run this job of a sweep as a separate command, with the same overrides and `--config-dir`.

    Lightning starts the other ranks with the command line of rank 0, which in a sweep would start
    the sweep again.

    Args:
        verb: Name of the command.
        folder: Output folder of the job.

    Raises:
        SystemExit: The job failed; the status is the job's.
    """
    hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources
    flags = [
        f"--config-dir={source.path}" for source in sources if source.provider == "command-line"
    ]
    location = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null"]
    command = [sys.executable, "-m", "landmark", verb, *flags, *hydra.overrides.task, *location]
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)
