"""Score a submission or a ranking; JSON on standard output.

landmark score task=retrieval solution=CSV submission=CSV
landmark score task=recognition solution=CSV submission=CSV
landmark score task=revisited ground_truth=PKL rankings=DIR
landmark score task=place ground_truth=TABLE rankings=DIR radius=25
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig
from pydantic import PositiveFloat

from landmark.cli._command import command
from landmark.error import UserError
from landmark.settings import Ranks

_FILES = {
    "retrieval": ("solution", "submission"),
    "recognition": ("solution", "submission"),
    "revisited": ("ground_truth", "rankings"),
    "place": ("ground_truth", "rankings"),
}
_METRICS = ("map_at", "recall_at")


@dataclass(frozen=True)
class Score:
    """Own settings of score; conf/score.yaml describes them."""

    task: Literal["retrieval", "recognition", "revisited", "place"]
    solution: str | None = None
    submission: str | None = None
    ground_truth: str | None = None
    rankings: str | None = None
    map_at: Ranks | None = None
    recall_at: Ranks | None = None
    radius: PositiveFloat = 25.0
    allow_self: bool = False

    def __post_init__(self) -> None:
        for key in _FILES[self.task]:
            if getattr(self, key) is None:
                raise UserError(f"task={self.task} needs {key}. Pass {key}=<path>.")
        for key in _METRICS if self.task in ("recognition", "revisited") else ():
            if getattr(self, key) is not None:
                raise UserError(
                    f"{key}={getattr(self, key)} is not of task={self.task}. Leave it out, or pass "
                    "task=retrieval or task=place."
                )


@command(Score)
def main(settings: Score, config: DictConfig) -> None:
    """Print the metrics of the task."""
    del config
    print(json.dumps(score(settings), indent=1))


def score(settings: Score) -> dict[str, Any]:
    """Compute the metrics of the chosen task."""
    from landmark.score.gldv2 import score_recognition, score_retrieval
    from landmark.score.places import score_places
    from landmark.score.revisited import score_revisited

    score_files: dict[str, Callable[..., dict[str, Any]]] = {
        "retrieval": score_retrieval,
        "recognition": score_recognition,
        "revisited": score_revisited,
        "place": score_places,
    }
    files = [getattr(settings, key) for key in _FILES[settings.task]]
    names = {
        "retrieval": ("allow_self", *_METRICS),
        "recognition": (),
        "revisited": ("allow_self",),
        "place": ("allow_self", *_METRICS, "radius"),
    }[settings.task]
    return score_files[settings.task](*files, **{name: getattr(settings, name) for name in names})
