"""One table of several rankings, in the order of the road.

python -m landmark.report.comparison untrained=DIR trained=DIR 'trained, three scales=DIR'
"""

import sys
from collections.abc import Sequence

from landmark.artifact.rankings import Rankings
from landmark.error import UserError


def comparison(named: Sequence[tuple[str, str]]) -> str:
    """A table of mAP@100 and top-1 of each ranking folder, and the change from the one before.

    The last folder's re-ranking steps have a line each.

    Args:
        named: (name, folder) of each ranking.

    Raises:
        UserError: a folder holds no rankings, or none that were scored.
    """
    lines: list[tuple[str, float, float]] = []
    for name, folder in named:
        steps = Rankings.open(folder).metrics.get("steps", [])
        if not steps or "map_at_100" not in steps[0]:
            raise UserError(f"{folder}: was not scored, its photos have no landmarks")
        for place, step in enumerate(steps):
            shown = name if place == 0 else f"+ {step['step']}"
            lines.append((shown, step["map_at_100"], step["top_1"]))
    width = max(len(name) for name, _, _ in lines)
    table = [f"{'':<{width}}  mAP@100   top-1  change of mAP"]
    before = None
    for name, mean_precision, top_1 in lines:
        change = "" if before is None else f"  {mean_precision - before:+.4f}"
        table.append(f"{name:<{width}}   {mean_precision:.4f}  {top_1:.4f}{change}")
        before = mean_precision
    return "\n".join(table)


def main(arguments: Sequence[str]) -> int:
    """Prints the comparison of `name=DIR …`; returns the exit status."""
    named = [(name, folder) for name, _, folder in (pair.partition("=") for pair in arguments)]
    if not named or not all(folder for _, folder in named):
        print("error: give name=DIR for each ranking to compare", file=sys.stderr)
        return 2
    try:
        print(comparison(named))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
