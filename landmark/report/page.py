"""The page of a ranking as plain values, and its rendering to one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from landmark.report.photos import Entry

_MARKS = {"right": "✓", "wrong": "✗", "junk": "–", "unknown": "?"}
_MEANINGS = {
    "right": "shows the query's landmark",
    "wrong": "shows something else",
    "junk": "counts neither way, such as too small a view",
    "unknown": "no landmark is known for it",
}


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
        picture: Name of its thumbnail in `Page.pictures`; None without one.
    """

    place: int
    entry: Entry
    label: str
    score: str
    moved: int | None
    picture: str | None

    @property
    def frame(self) -> str:
        """`right` (also for easy and hard), `wrong`, `junk` or `unknown`."""
        return "right" if self.label in ("easy", "hard") else self.label


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
        figures: One for each of `Page.columns`.
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


@dataclass(frozen=True)
class Page:
    """All values of the page.

    Attributes:
        title: Name of the ranking.
        counts: Sentence on what was ranked.
        headline: Sentence on the outcome.
        columns: Names of the figures, one per column.
        steps: Rows of the table.
        bars: Histogram of the average precisions after the last step; empty if unknown.
        worst: Queries shown first.
        best: Queries shown after them.
        choosing: Sentence on how the queries were chosen.
        notes: Remarks, such as on missing photos.
        stores: Name → setting → value, where the stores differ.
        shared: Setting → value, where they agree.
        pictures: Name → data address of each thumbnail.
    """

    title: str
    counts: str
    headline: str
    columns: Sequence[str]
    steps: Sequence[StepRow]
    bars: Sequence[Bar]
    worst: Sequence[Query]
    best: Sequence[Query]
    choosing: str
    notes: Sequence[str]
    stores: Mapping[str, Mapping[str, str]]
    shared: Mapping[str, str]
    pictures: Mapping[str, str]

    @property
    def frames(self) -> list[str]:
        """The frames that occur."""
        steps = [step for query in (*self.worst, *self.best) for step in query.steps]
        shown = {result.frame for step in steps for result in step.results}
        return [frame for frame in _MARKS if frame in shown]


def render(page: Page) -> str:
    """Render the page as HTML that needs no other file; its values are escaped."""
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
        page=page, style=Markup(style), marks=_MARKS, meanings=_MEANINGS
    )
