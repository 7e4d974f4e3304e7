"""Score a submission or a ranking; JSON on standard output.

landmark score task=retrieval solution=CSV submission=CSV
landmark score task=recognition solution=CSV submission=CSV
landmark score task=revisited ground_truth=PKL rankings=DIR
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

from landmark.cli._command import command
from landmark.error import UserError

_FILES = {
    "retrieval": ("solution", "submission"),
    "recognition": ("solution", "submission"),
    "revisited": ("ground_truth", "rankings"),
}


@dataclass(frozen=True)
class Score:
    """Own settings of score; conf/score.yaml describes them."""

    task: Literal["retrieval", "recognition", "revisited"]
    solution: str | None = None
    submission: str | None = None
    ground_truth: str | None = None
    rankings: str | None = None
    allow_self: bool = False

    def __post_init__(self) -> None:
        for key in _FILES[self.task]:
            if getattr(self, key) is None:
                raise UserError(f"task={self.task} needs {key}. Pass {key}=<path>.")


@command(Score)
def main(settings: Score, config: DictConfig) -> None:
    """Print the metrics of the task."""
    del config
    print(json.dumps(score(settings), indent=1))


def score(settings: Score) -> dict[str, Any]:
    """Compute the metrics of the chosen task."""
    from landmark.score.gldv2 import score_recognition, score_retrieval
    from landmark.score.revisited import score_revisited

    score_files: dict[str, Callable[..., dict[str, Any]]] = {
        "retrieval": score_retrieval,
        "recognition": score_recognition,
        "revisited": score_revisited,
    }
    files = [getattr(settings, key) for key in _FILES[settings.task]]
    options = {} if settings.task == "recognition" else {"allow_self": settings.allow_self}
    return score_files[settings.task](*files, **options)
