"""Use the splits that a run keeps, in later commands on its photos."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from landmark.error import UserError

if TYPE_CHECKING:
    from landmark.data.source import Source


def use_splits_of(run: Path, source: "Source", description: Mapping[str, Any]) -> None:
    """Let `source` use the splits of a run, if it has the photos that the run was trained on.

    Args:
        run: Run folder.
        source: Photos of this command.
        description: Content of the run's embedder.yaml.

    Raises:
        UserError: The run's table of splits is damaged.
    """
    from landmark.data.run_splits import SPLIT_TABLE, RunSplits
    from landmark.data.source import LandmarkSource

    if not isinstance(source, LandmarkSource):
        return
    splits = RunSplits(run / SPLIT_TABLE) if (run / SPLIT_TABLE).is_file() else None
    is_of_run = splits is not None and splits.is_of(source.root)
    # A relative data.root is that of the run wherever both were copied to.
    if not is_of_run and instantiate(data_of(run)).root.resolve() != source.root.resolve():
        return
    if splits is not None:
        source.splitter.run = splits
    else:
        source.splitter.recompute(run, earlier_rule="split_table" not in description)


def use_splits_of_init(init: Path, source: "Source", data: DictConfig) -> None:
    """Let `source` use the splits of the run of `init`, if its data= is the same.

    Otherwise photos on which that run was trained could become validation queries.

    Args:
        init: Embedder folder or checkpoint to start from.
        source: Photos of this run.
        data: Settings of the photos.
    """
    run = run_of(init)
    if run is not None and _given(data_of(run)) == _given(data):
        use_splits_of(run, source, _description(init))


def _given(data: DictConfig) -> dict[str, Any]:
    """Return the settings that are not null, the default of every key that was added later."""
    return {str(key): value for key, value in data.items() if value is not None}


def _description(embedder: Path) -> dict[str, Any]:
    """Return the content of embedder.yaml of an embedder folder or a checkpoint."""
    from landmark.model.persist import DESCRIPTION
    from landmark.model.weights_file import read_checkpoint

    if embedder.is_dir():
        return yaml.safe_load((embedder / DESCRIPTION).read_text())
    return yaml.safe_load(read_checkpoint(embedder, mmap=True)["embedder_yaml"])


def use_splits_to_resume(run: Path, checkpoint: Path | None, source: "Source") -> None:
    """Let `source` use the splits of a run to resume, and check that its photos are the same.

    Args:
        run: Run folder.
        checkpoint: Checkpoint to resume from. None means that the run has finished.
        source: Photos of the run, by its settings.

    Raises:
        UserError: Photos are new or gone, or have another landmark or split.
    """
    from landmark.data.run_splits import SPLIT_TABLE, RunSplits
    from landmark.data.source import LandmarkSource

    if not isinstance(source, LandmarkSource):
        return
    if (run / SPLIT_TABLE).is_file():
        source.splitter.run = RunSplits(run / SPLIT_TABLE)
        source.split_table()
        if source.splitter.changes:
            changes = "; ".join(change.short() for change in source.splitter.changes)
            raise UserError(
                f"{run} contains a run with different photos ({changes}). Restore the photos to "
                "resume, or pass another hydra.run.dir, or overwrite=true to start over."
            )
    elif checkpoint is not None:
        source.splitter.recompute(run, earlier_rule="split_table" not in _description(checkpoint))


def keep_splits(run: Path, source: "Source") -> None:
    """Write the splits of a run's photos to the run folder."""
    from landmark.data.run_splits import SPLIT_TABLE, write_split_table
    from landmark.data.source import LandmarkSource

    if isinstance(source, LandmarkSource):
        write_split_table(run / SPLIT_TABLE, source.split_table(), source.root)


def run_of(embedder: Path) -> Path | None:
    """Return the run folder of `RUN/embedder` or `RUN/checkpoints/….ckpt`; None without one."""
    folder = embedder.resolve().parent
    run = folder if embedder.is_dir() else folder.parent
    if run.is_relative_to(Path.cwd()):
        run = run.relative_to(Path.cwd())
    return run if (run / ".hydra" / "config.yaml").is_file() else None


def data_of(run: Path) -> DictConfig:
    """Return the data= of a run folder."""
    return OmegaConf.load(run / ".hydra" / "config.yaml").data


def print_notes(source: "Source", file: TextIO) -> None:
    """Print, one line each, what is to be said about the splits of the photos read so far."""
    from landmark.data.source import LandmarkSource

    if isinstance(source, LandmarkSource):
        for note in source.splitter.notes:
            print(note, file=file, flush=True)
        source.splitter.notes.clear()
