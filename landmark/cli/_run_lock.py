"""Lock the output folder of a training run, or of a sweep, before Hydra writes into it."""

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from landmark.cli._exit import exit_status
from landmark.disk.lock import locked_in_place
from landmark.processes import launched_as_rank_zero

_locks = ExitStack()


class LockRun(Callback):
    """Hydra callback that locks the folder on rank 0 until `release`.

    Hydra turns the exceptions of a callback into warnings; SystemExit passes through.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401
        """Lock the run folder; other ranks do not write its .hydra."""
        with exit_status():
            if launched_as_rank_zero():
                _locks.enter_context(locked_in_place(_folder(config, "hydra.run.dir")))
            else:
                config.hydra.output_subdir = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ANN401
        """Lock the folder of the sweep; each job locks its own folder below it."""
        with exit_status():
            if launched_as_rank_zero():
                _locks.enter_context(locked_in_place(_folder(config, "hydra.sweep.dir")))


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
