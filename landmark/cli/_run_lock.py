"""Lock the output folder of a training run, or of a sweep, before Hydra writes into it."""

import copy
import mimetypes
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from landmark.cli._exit import exit_status
from landmark.disk.lock import locked_in_place
from landmark.error import UserError
from landmark.processes import launched_as_rank_zero

_locks = ExitStack()
_RUN_FILES = (".hydra", "checkpoints", "multirun.yaml")


class LockRun(Callback):
    """Hydra callback that locks the folder on rank 0 until `release`.

    Hydra turns the exceptions of a callback into warnings; SystemExit passes through.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401
        """Lock the run folder; other ranks do not write its .hydra."""
        with exit_status():
            if launched_as_rank_zero():
                _lock(_folder(config, "hydra.run.dir"), "hydra.run.dir")
            else:
                config.hydra.output_subdir = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401
        """Lock the folder of the sweep; each job locks its own folder below it."""
        with exit_status():
            if launched_as_rank_zero():
                _lock(_folder(config, "hydra.sweep.dir"), "hydra.sweep.dir")


def _lock(folder: Path, key: str) -> None:
    _check_own(folder, key)
    _locks.enter_context(locked_in_place(folder))


def _check_own(folder: Path, key: str) -> None:
    """Reject a folder that holds photos or other folders, and no earlier run.

    Files such as a log of this run are allowed.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in _RUN_FILES):
        return
    for path in sorted(folder.iterdir()):
        is_photo = (mimetypes.guess_type(path.name)[0] or "").startswith("image/")
        is_foreign_folder = path.is_dir() and not (path / ".hydra").is_dir()
        if not path.name.startswith(".") and (is_photo or is_foreign_folder):
            raise UserError(
                f"{key}={folder} contains other files, such as {path.name}. Pass a new folder, or "
                "that of an earlier run."
            )


def release() -> None:
    """Release the locks of this process."""
    _locks.close()


def _folder(config: DictConfig, key: str) -> Path:
    """Resolve a folder, which may refer to Hydra's own settings."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(copy.deepcopy(config))  # a copy: set_config makes it read-only
    try:
        return Path(str(OmegaConf.select(config, key)))
    finally:
        hydra.cfg = before
