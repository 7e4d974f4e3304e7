"""The page of a ranking as plain values, and its rendering into one HTML file."""

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
_FRAMES = {"easy": "right", "hard": "right"}


def frame(kind: str) -> str:
    """The frame of a kind of result: right (also easy and hard ones), wrong, junk or unknown."""
    return _FRAMES.get(kind, kind)


@dataclass(frozen=True)
class Figure:
    """A number after a step, beside what it was before (None: there was no step before)."""

    after: float
    before: float | None = None
    digits: int = 4

    @property
    def trend(self) -> str:
        """`better`, `worse` or `same`, as shown: a change that rounds away is none."""
        if self.before is None or f"{self.change:+.{self.digits}f}"[1:] == f"{0:.{self.digits}f}":
            return "same"
        return "better" if self.change > 0 else "worse"

    @property
    def change(self) -> float:
        """What the step added."""
        return self.after - (self.after if self.before is None else self.before)


@dataclass(frozen=True)
class Result:
    """One photo found.

    Attributes:
        place: from 1.
        entry: which photo.
        kind: `right`, `easy`, `hard`, `wrong`, `junk` or `unknown`.
        score: as shown.
        moved: places gained since the step before, None where it was not among those shown.
        picture: name of its thumbnail in `Page.pictures`; None: there is none.
    """

    place: int
    entry: Entry
    kind: str
    score: str
    moved: int | None
    picture: str | None

    @property
    def frame(self) -> str:
        """How it is framed."""
        return frame(self.kind)


@dataclass(frozen=True)
class Found:
    """What one step found for one query; `precision` is None where it is not known."""

    step: str
    precision: Figure | None
    results: Sequence[Result]


@dataclass(frozen=True)
class Query:
    """One query, its thumbnail's name, and what each step found for it."""

    entry: Entry
    picture: str | None
    found: Sequence[Found]


@dataclass(frozen=True)
class StepRow:
    """One step's line in the table.

    Attributes:
        name: `search` or the re-ranker's name.
        settings: name → value, as shown.
        figures: one a column of `Page.columns`.
        better: queries whose average precision rose; None for the first step or without truth.
        worse: queries whose average precision fell, likewise.
        seconds: what it took.
    """

    name: str
    settings: Mapping[str, str]
    figures: Sequence[Figure]
    better: int | None
    worse: int | None
    seconds: float


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram of average precisions: [low, high) holds `count` queries."""

    low: float
    high: float
    count: int
    height: float


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title: name of the ranking.
        counts: what was ranked, in words.
        headline: what came of it, in words.
        columns: names of the figures, one a column.
        steps: the table's lines.
        bars: histogram of the queries' average precision after the last step; empty: not known.
        worst: the queries shown first.
        best: those after them.
        choosing: how the queries were chosen, in words.
        kinds: the kinds of results there are.
        notes: what a reader should know, such as photos that are missing.
        stores: name → setting → value, where the stores differ.
        alike: setting → value, where they do not.
        pictures: name → data address of each thumbnail.
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
    kinds: Sequence[str]
    notes: Sequence[str]
    stores: Mapping[str, Mapping[str, str]]
    alike: Mapping[str, str]
    pictures: Mapping[str, str]


def render(page: Page) -> str:
    """The page as HTML that needs no other file; what it shows is escaped."""
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
