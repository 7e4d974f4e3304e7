"""Compare rankings: mAP@k and top-1 of each, and the change of mAP from line to line.

landmark compare NAME=DIR …
landmark compare untrained=DIR trained=DIR 'trained, multi-scale=DIR'
landmark compare --k 1000 NAME=DIR …      # rankings with map_at=1000

DIR is a folder that rerank wrote. Each of its re-ranking steps has a line.
"""

import math
from collections.abc import Sequence

from landmark.cli._parser import parser_of, run
from landmark.error import UserError


def main() -> None:
    """Run `landmark compare`."""
    run(compare)


def compare(arguments: Sequence[str]) -> str:
    """Return the table of the rankings `NAME=DIR`."""
    parser = parser_of("compare", __doc__)
    parser.add_argument("rankings", metavar="NAME=DIR", nargs="+", help="a name and a ranking")
    parser.add_argument("--k", type=int, default=100, help="k of the mAP; default: 100")
    parsed, named = parser.parse_args(arguments), []
    for pair in parsed.rankings:
        name, _, folder = pair.partition("=")
        if not folder:
            parser.error(f"{pair} is not NAME=DIR")
        named.append((name, folder))
    return comparison(named, parsed.k)


def comparison(named: Sequence[tuple[str, str]], k: int = 100) -> str:
    """Return a table of the steps of several rankings.

    Args:
        named: (name, folder) of each ranking.
        k: Results that count in the mAP.

    Raises:
        UserError: A folder contains no rankings, or rankings that were not scored.
    """
    from landmark.artifact.rankings import Rankings

    lines: list[tuple[str, float, float]] = []
    metric = f"map_at_{k}"
    for name, folder in named:
        steps = Rankings.open(folder).metrics.get("steps", [])
        cuts = [key for key in steps[0] if key.startswith("map_at_")] if steps else []
        if not cuts:
            raise UserError(
                f"{folder} was not scored: its photos have no landmarks. Pass rankings of stores "
                "with landmarks."
            )
        if metric not in cuts:
            raise UserError(_other_cutoff(folder, cuts, k))
        for index, step in enumerate(steps):
            label = name if index == 0 else f"+ {step['step']}"
            lines.append(
                (label, step[metric], step.get("top_1", step.get("recall_at_1", math.nan)))
            )
    width = max(len(name) for name, _, _ in lines)
    value_width = max(6, len(f"mAP@{k}") - 1)
    table = [f"{'':<{width}}  {f'mAP@{k}':>{value_width + 1}}   top-1  change of mAP"]
    previous = None
    for name, mean_precision, top_1 in lines:
        change = "" if previous is None else f"  {mean_precision - previous:+.4f}"
        table.append(
            f"{name:<{width}}  {mean_precision:>{value_width + 1}.4f}  {top_1:.4f}{change}"
        )
        previous = mean_precision
    return "\n".join(table)


def _other_cutoff(folder: str, cuts: Sequence[str], k: int) -> str:
    """Return the message for rankings that were scored at other k."""
    scored = [int(cut.removeprefix("map_at_")) for cut in cuts]
    if max(scored) < k:
        return (
            f"{folder} ranks {max(scored)} photos per query, too few for mAP@{k}. Rank again with "
            f"k={k}{'' if k == 100 else f' map_at={k}'}."
        )
    named = ", ".join(f"mAP@{one}" for one in scored)
    return f"{folder} was scored with {named}, not mAP@{k}. Pass --k {scored[0]}."
