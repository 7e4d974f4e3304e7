"""Write one table and a plot of a sweep's jobs.

landmark sweep DIR

Writes DIR/sweep.csv, DIR/sweep.md and, once a job is done, DIR/sweep.png; prints the table.
"""

from collections.abc import Sequence

from landmark.cli._parser import parser_of, run


def main() -> None:
    """Run `landmark sweep`."""
    run(sweep)


def sweep(arguments: Sequence[str]) -> str:
    """Write the table and the plot; return the table and the paths written."""
    parser = parser_of("sweep", __doc__)
    parser.add_argument("folder", metavar="DIR", help="folder of a sweep (hydra.sweep.dir)")
    folder = parser.parse_args(arguments).folder

    from landmark.sweep.summary import write_summary

    return write_summary(folder)
