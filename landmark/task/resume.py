"""Going on from a run folder's last checkpoint, with the settings that it began with."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from landmark.mistake import UserMistake


def checkpoint_to_resume(folder: Path, settings: dict[str, Any], overwrite: bool) -> Path | None:
    """The last checkpoint of `folder`, None where the run begins anew.

    Args:
        folder: the run folder.
        settings: the settings of this run.
        overwrite: begin anew; earlier checkpoints and embedder are removed.

    Raises:
        UserMistake: a setting differs from those that the checkpoint was made with.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if overwrite:
        for name in ("checkpoints", "embedder"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return None
    if not last.is_file():
        return None
    saved = torch.load(last, map_location="cpu", weights_only=True, mmap=True).get("settings", "{}")
    changed = sorted(_differing(json.loads(saved), settings))
    if changed:
        raise UserMistake(
            f"{folder}: holds a run with another {', '.join(changed)}; use the same settings to "
            "go on, another hydra.run.dir, or overwrite=true to begin anew"
        )
    return last


def _differing(saved: object, present: object, key: str = "") -> set[str]:
    if isinstance(saved, dict) and isinstance(present, dict):
        names = saved.keys() | present.keys()
        return set().union(
            *(
                _differing(saved.get(name), present.get(name), f"{key}.{name}".lstrip("."))
                for name in names
            )
        )
    return set() if saved == present else {key}
