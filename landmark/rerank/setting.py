"""Checks of a re-ranker's settings: one line that names the key."""

from math import isfinite, nan
from numbers import Integral, Real

from landmark.error import UserError


def whole_number(key: str, value: object, least: int) -> int:
    """The value, a whole number of at least `least`.

    Raises:
        UserError: It is something else; names the key.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{key}={value} must be a whole number, {least} or more")
    return int(value)


def number(
    key: str, value: object, least: float, below: float | None = None, above: bool = False
) -> float:
    """The value, a finite number from `least` on.

    Args:
        key: Its name on the command line.
        value: What was given.
        least: The lowest number allowed.
        below: The number that it must stay below; none: any.
        above: Whether `least` itself is too low.

    Raises:
        UserError: It is something else; names the key.
    """
    given = float(value) if isinstance(value, Real) and not isinstance(value, bool) else nan
    fits = isfinite(given) and (given > least if above else given >= least)
    if not fits or (below is not None and given >= below):
        lowest = f", above {least:g}" if above else f", {least:g} or more"
        highest = "" if below is None else f" and below {below:g}"
        raise UserError(
            f"{key}={value} must be a number{lowest if isfinite(least) else ''}{highest}"
        )
    return given
