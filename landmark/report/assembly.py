"""From what a chain found to the page's plain values; looks up only the rows that are shown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from landmark.error import UserError
from landmark.report.choice import Choice
from landmark.report.overview import FoundStep, headline, histogram, step_rows, told_apart
from landmark.report.page import Figure, Found, Page, Query, Result
from landmark.report.photos import Entry
from landmark.report.thumbnail import data_uris

QUERY_SIDE, RESULT_SIDE = 256, 128
_FRAMES = ("right", "wrong", "junk", "unknown")

Kinds = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Side(Protocol):
    """The queries or the gallery."""

    def __len__(self) -> int: ...

    def entries(self, rows: NDArray[np.integer]) -> list[Entry]:
        """What is known of each of the rows (R,)."""


class _Shown:
    """The rows of one side that are on the page: what is known of each, and its thumbnail."""

    def __init__(self, side: Side, rows: NDArray[np.integer], letter: str, pixels: int) -> None:
        distinct = np.unique(rows[rows >= 0])
        self.entries = dict(zip(distinct.tolist(), side.entries(distinct), strict=True))
        photos = [entry.photo for entry in self.entries.values()]
        self.pictures: dict[str, str] = {}
        self.mistakes: list[UserError] = []
        self._names: dict[int, str] = {}
        for row, made in zip(self.entries, data_uris(photos, pixels), strict=True):
            if isinstance(made, UserError):
                self.mistakes.append(made)
            else:
                self._names[row] = f"{letter}{row}"
                self.pictures[f"{letter}{row}"] = made

    def picture(self, row: int) -> str | None:
        return self._names.get(row)


def assemble(
    title: str,
    steps: Sequence[FoundStep],
    choice: Choice,
    query: Side,
    gallery: Side,
    kinds: Kinds | None,
    key: str,
    meta: Mapping[str, Any],
    nearest_train_accuracy: float | None = None,
) -> Page:
    """The page of a ranking.

    Args:
        title: its name.
        steps: what each step found, in order.
        choice: the queries to show.
        query: the queries.
        gallery: the photos searched.
        kinds: (q,) queries and their (q, R) rows → what each result is; none: not known.
        key: the figure that matters most; "" where nothing is known of the right answers.
        meta: `k`, `steps`, the settings of each step, and `stores`, what each says of itself.
        nearest_train_accuracy: share of the queries whose nearest train photo shows their
            landmark, where it is known.
    """
    chosen = np.concatenate([choice.worst, choice.best])
    asked = _Shown(query, chosen, "q", QUERY_SIDE)
    found = _Shown(gallery, np.stack([step.rows[chosen] for step in steps]), "g", RESULT_SIDE)
    queries = [
        Query(asked.entries[row], asked.picture(row), _found(row, steps, found, kinds))
        for row in chosen.tolist()
    ]
    columns, rows = step_rows(steps, meta["steps"])
    alike, stores = told_apart(meta["stores"])
    bars = histogram(steps[-1].precision)
    there = {result.frame for one in queries for step in one.found for result in step.results}
    mistakes = asked.mistakes + found.mistakes
    return Page(
        title=title,
        counts=_counts(query, gallery, meta["k"], nearest_train_accuracy),
        headline=headline(steps, key),
        columns=columns,
        steps=rows,
        bars=bars,
        worst=queries[: len(choice.worst)],
        best=queries[len(choice.worst) :],
        choosing=_choosing(choice, len(query), steps[-1]),
        kinds=[kind for kind in _FRAMES if kind in there],
        notes=_notes(mistakes, len(asked.entries) + len(found.entries)),
        stores=stores,
        alike=alike,
        pictures=asked.pictures | found.pictures,
    )


def _counts(query: Side, gallery: Side, k: int, nearest_train_accuracy: float | None) -> str:
    words = f"{len(query):,} queries searched in {len(gallery):,} gallery photos, {k:,} kept."
    if nearest_train_accuracy is not None:
        words += f" The nearest train photo names {nearest_train_accuracy:.1%} of them rightly."
    return words


def _found(
    query: int, steps: Sequence[FoundStep], gallery: _Shown, kinds: Kinds | None
) -> list[Found]:
    """What each step found for one query."""
    made, before = [], None
    for step in steps:
        rows = step.rows[query]
        words = ["unknown"] * len(rows)
        if kinds is not None:
            words = kinds(np.array([query]), rows[None])[0].tolist()
        places = {} if before is None else _places(before.rows[query])
        results = [
            Result(
                place=place + 1,
                entry=gallery.entries[row],
                kind=words[place],
                score=f"{step.scores[query, place]:.3f}",
                moved=0 if before is None else _moved(places.get(row), place),
                picture=gallery.picture(row),
            )
            for place, row in enumerate(rows.tolist())
            if row >= 0
        ]
        made.append(Found(step.name, _precision(step, before, query), results))
        before = step
    return made


def _places(rows: NDArray[np.integer]) -> dict[int, int]:
    """Place of each row in a ranking, from 0; the first where a row is repeated."""
    return {row: place for place, row in reversed(list(enumerate(rows.tolist()))) if row >= 0}


def _moved(before: int | None, place: int) -> int | None:
    return None if before is None else before - place


def _precision(step: FoundStep, before: FoundStep | None, query: int) -> Figure | None:
    if step.precision is None or np.isnan(step.precision[query]):
        return None
    earlier = None
    if before is not None and before.precision is not None:
        earlier = float(before.precision[query])
    return Figure(float(step.precision[query]), earlier, digits=3)


def _choosing(choice: Choice, queries: int, last: FoundStep) -> str:
    count = len(choice.worst)
    if not choice.by_precision:
        words = f"The {count:,} of {queries:,} queries" if count < queries else "All queries"
        return f"{words}, lowest best score after {last.name} first."
    answered = queries - choice.answerless
    words = f"The {count:,} of {answered:,} queries" if count < answered else "All queries"
    words += f" with the lowest average precision after {last.name}, lowest first"
    if count >= answered:
        words = f"All queries, lowest average precision after {last.name} first"
    if choice.best.size:
        words += f"; the {len(choice.best):,} best follow"
    if choice.answerless:
        words += f". {choice.answerless:,} that nothing in the gallery answers are left out"
    return words + "."


def _notes(mistakes: Sequence[UserError], shown: int) -> list[str]:
    """A line on photos that are not shown, and how to get them."""
    if not mistakes:
        return []
    return [
        f"{len(mistakes):,} of {shown:,} photos are not shown, their ids stand in their place "
        f"({mistakes[0]}). If the photos lie elsewhere, give rerank.py the data, such as "
        "data=folder data.root=PHOTOS, and rank again with overwrite=true."
    ]
