"""Compare rankings: mAP@100 and top-1 of each, and the change of mAP from line to line.

landmark compare NAME=DIR …
landmark compare untrained=DIR trained=DIR 'trained, multi-scale=DIR'

DIR is a folder that rerank wrote. Each of its re-ranking steps has a line.
"""

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
    named = []
    for pair in parser.parse_args(arguments).rankings:
        name, _, folder = pair.partition("=")
        if not folder:
            parser.error(f"{pair} is not NAME=DIR")
        named.append((name, folder))
    return comparison(named)


def comparison(named: Sequence[tuple[str, str]]) -> str:
    """Return a table of the steps of several rankings.

    Args:
        named: (name, folder) of each ranking.

    Raises:
        UserError: A folder contains no rankings, or rankings that were not scored.
    """
    from landmark.artifact.rankings import Rankings

    lines: list[tuple[str, float, float]] = []
    for name, folder in named:
        steps = Rankings.open(folder).metrics.get("steps", [])
        cuts = [key for key in steps[0] if key.startswith("map_at_")] if steps else []
        if cuts and cuts[0] != "map_at_100":
            k = cuts[0].removeprefix("map_at_")
            raise UserError(
                f"{folder} ranks {k} photos per query, too few for mAP@100. Rank again with k=100."
            )
        if not steps or "map_at_100" not in steps[0]:
            raise UserError(
                f"{folder} was not scored: its photos have no landmarks. Pass rankings of stores "
                "with landmarks."
            )
        for index, step in enumerate(steps):
            label = name if index == 0 else f"+ {step['step']}"
            lines.append((label, step["map_at_100"], step["top_1"]))
    width = max(len(name) for name, _, _ in lines)
    table = [f"{'':<{width}}  mAP@100   top-1  change of mAP"]
    previous = None
    for name, mean_precision, top_1 in lines:
        change = "" if previous is None else f"  {mean_precision - previous:+.4f}"
        table.append(f"{name:<{width}}   {mean_precision:.4f}  {top_1:.4f}{change}")
        previous = mean_precision
    return "\n".join(table)
