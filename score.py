"""Scores a submission or a ranking; JSON on standard output.

python score.py task=retrieval solution=CSV submission=CSV
python score.py task=recognition solution=CSV submission=CSV
python score.py task=revisited ground_truth=PKL rankings=DIR
"""

import json
from typing import Any

import hydra
from omegaconf import DictConfig

from landmark.command import plain_mistakes, run
from landmark.mistake import UserMistake

FILES = {
    "retrieval": ("solution", "submission"),
    "recognition": ("solution", "submission"),
    "revisited": ("ground_truth", "rankings"),
}


@hydra.main(config_path="conf", config_name="score", version_base="1.3")
@plain_mistakes
def main(config: DictConfig) -> None:
    """Checks the configuration, then scores."""
    if config.task not in FILES:
        raise UserMistake(f"task={config.task}: choose {', '.join(FILES)}")
    for key in FILES[config.task]:
        if config[key] is None:
            raise UserMistake(f"{key}: task={config.task} needs a file, say {key}=…")
    print(json.dumps(score(config), indent=1))


def score(config: DictConfig) -> dict[str, Any]:
    """The metrics of the chosen task."""
    from landmark.report import challenge, revisited

    if config.task == "retrieval":
        return challenge.score_retrieval(config.solution, config.submission)
    if config.task == "recognition":
        return challenge.score_recognition(config.solution, config.submission)
    return revisited.score_revisited(config.ground_truth, config.rankings)


if __name__ == "__main__":
    run(main)
