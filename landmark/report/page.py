"""The parts of a ranking's page as plain values, and its rendering to one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from landmark.report.photos import Entry

MARKS = {"right": "✓", "wrong": "✗", "junk": "–", "unknown": "?"}
_MEANINGS = {
    "right": "shows the query's landmark",
    "wrong": "shows something else",
    "junk": "counts neither way, such as too small a view",
    "unknown": "no landmark is known for it",
}


def frame_of(label: str) -> str:
    """The frame of a label: `right` (also for easy and hard), `wrong`, `junk` or `unknown`."""
    return "right" if label in ("easy", "hard") else label


@dataclass(frozen=True)
class Figure:
    """A number after a step, and before it (None for the first step)."""

    after: float
    before: float | None = None
    digits: int = 4

    @property
    def trend(self) -> str:
        """`better`, `worse` or `same`, as displayed: a change that rounds to zero is `same`."""
        if self.before is None or f"{self.change:+.{self.digits}f}"[1:] == f"{0:.{self.digits}f}":
            return "same"
        return "better" if self.change > 0 else "worse"

    @property
    def change(self) -> float:
        """What the step added."""
        return self.after - (self.after if self.before is None else self.before)


@dataclass(frozen=True)
class Result:
    """One photo of a ranking.

    Attributes:
        place: Position, from 1.
        entry: The photo.
        label: `right`, `easy`, `hard`, `wrong`, `junk` or `unknown`.
        score: As displayed.
        moved: Places gained over the step before; None if it was not among those shown there.
        picture: Name of its thumbnail; None without one.
    """

    place: int
    entry: Entry
    label: str
    score: str
    moved: int | None
    picture: str | None

    @property
    def frame(self) -> str:
        """The frame of its label."""
        return frame_of(self.label)


@dataclass(frozen=True)
class StepResults:
    """What one step ranked first for a query; `precision` is None if unknown."""

    step: str
    precision: Figure | None
    results: Sequence[Result]


@dataclass(frozen=True)
class Query:
    """One query, the name of its thumbnail, and the results of each step."""

    entry: Entry
    picture: str | None
    steps: Sequence[StepResults]


@dataclass(frozen=True)
class StepRow:
    """One step's row of the table.

    Attributes:
        name: `search` or the re-ranker's name.
        settings: Name → value, as displayed.
        figures: One per metric.
        better: Queries whose average precision rose; None for the first step or if unknown.
        worse: Queries whose average precision fell, likewise.
        seconds: Run time.
    """

    name: str
    settings: Mapping[str, str]
    figures: Sequence[Figure]
    better: int | None
    worse: int | None
    seconds: float


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram: `count` queries in [low, high); height in % of the highest."""

    low: float
    high: float
    count: int
    height: float


def render(**values: Any) -> str:  # noqa: ANN401
    """Render page.html.jinja with its values as HTML that needs no other file; they are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("landmark.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("landmark.report") / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        style=Markup(style), marks=MARKS, meanings=_MEANINGS, **values
    )
