"""The values shown on a ranking's page, and its rendering to one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from landmark.report.photos import Entry

MARKS = {"right": "✓", "wrong": "✗", "junk": "–", "unknown": "?"}
_MEANINGS = {
    "right": "shows the query's landmark",
    "wrong": "shows something else",
    "junk": "is ignored, for example because the landmark is too small",
    "unknown": "has no known landmark, or its query has none",
}


def frame_of(label: str) -> str:
    """Return the frame of a label: `right` (easy and hard too), `wrong`, `junk` or `unknown`."""
    return "right" if label in ("easy", "hard") else label


@dataclass(frozen=True)
class Figure:
    """A metric after a step, and before it (None for the first step)."""

    after: float
    before: float | None = None
    digits: int = 4

    @property
    def trend(self) -> str:
        """`better`, `worse`, or `same` if the displayed change rounds to zero."""
        if self.before is None or f"{self.change:+.{self.digits}f}"[1:] == f"{0:.{self.digits}f}":
            return "same"
        return "better" if self.change > 0 else "worse"

    @property
    def change(self) -> float:
        """Change by the step."""
        return self.after - (self.after if self.before is None else self.before)


@dataclass(frozen=True)
class Result:
    """One photo of a ranking.

    Attributes:
        place: Rank, from 1.
        entry: The photo.
        label: `right`, `easy`, `hard`, `wrong`, `junk` or `unknown`.
        score: Score, as displayed.
        moved: Ranks gained over the previous step. None if it was not shown for that step.
        picture: Name of its thumbnail. None without a thumbnail.
    """

    place: int
    entry: Entry
    label: str
    score: str
    moved: int | None
    picture: str | None

    @property
    def frame(self) -> str:
        """Frame of the label."""
        return frame_of(self.label)


@dataclass(frozen=True)
class StepResults:
    """The top results of one step for a query; `precision` is None if unknown."""

    step: str
    precision: Figure | None
    results: Sequence[Result]


@dataclass(frozen=True)
class Query:
    """One query, the name of its thumbnail (None without), and the results of each step."""

    entry: Entry
    picture: str | None
    steps: Sequence[StepResults]


@dataclass(frozen=True)
class StepRow:
    """The table row of a step.

    Attributes:
        name: `search` or the re-ranker's name.
        settings: Name → value, as displayed.
        figures: One figure per metric.
        better: Number of queries whose average precision rose. None for the first step, or if
            unknown.
        worse: Number of queries whose average precision fell, likewise.
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
    """A histogram bar: `count` queries in [low, high); `height` in % of the highest bar."""

    low: float
    high: float
    count: int
    height: float


def render(template: str = "page.html.jinja", **values: Any) -> str:  # noqa: ANN401
    """Render a template as self-contained HTML; the values are escaped."""
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
    return environment.get_template(template).render(
        style=Markup(style), marks=MARKS, meanings=_MEANINGS, **values
    )
