"""report.html beside a ranking: what each step of a chain ranked first, worst queries on top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.overview import column_name, headline, histogram, split_settings, step_rows
from landmark.report.page import Figure, Page, Query, Result, StepResults, render
from landmark.report.photos import Photos
from landmark.report.thumbnail import data_uris
from landmark.rerank.chain import Step
from landmark.score.ground_truth import GroundTruth

RESULTS = 10  # places shown of each ranking
QUERY_SIDE, RESULT_SIDE = 256, 128  # pixels of the thumbnails


def write_report(
    path: str | Path,
    steps: Sequence[Step],
    query_photos: Photos,
    gallery_photos: Photos,
    ground_truth: GroundTruth | None,
    meta: Mapping[str, Any],
    nearest_train_accuracy: float | None = None,
    worst: int = 30,
    best: int = 5,
) -> None:
    """Write the page of a ranking. Only photos that it shows are read.

    Args:
        path: The HTML file.
        steps: The chain's steps, in order.
        query_photos: The queries.
        gallery_photos: The photos searched.
        ground_truth: The right answers. Defaults to unknown: the queries with the lowest best
            score come first.
        meta: What the ranking records: `k`, `steps` (the settings of each) and `stores` (what each
            records).
        nearest_train_accuracy: Share of the queries whose nearest train photo shows their
            landmark, if known.
        worst: Number of queries shown, lowest average precision first.
        best: Number of queries shown after them, highest average precision first.

    Raises:
        UserError: The file cannot be written.
    """
    metric = None if ground_truth is None else ground_truth.headline
    precisions = None if metric is None else steps[-1].precisions[metric]
    choice = choose(precisions, steps[-1].scores, worst, best)
    chosen = np.concatenate([choice.worst, choice.best])
    rows = np.stack([step.rows[chosen, :RESULTS] for step in steps])  # (S, q, R)
    shown = _Shown(query_photos, chosen, "q", QUERY_SIDE)
    shown_results = _Shown(gallery_photos, rows, "g", RESULT_SIDE)
    labels = np.full(rows.shape, "unknown")
    if ground_truth is not None:
        labels = np.stack([ground_truth.relevance_labels(chosen, ranked) for ranked in rows])
    queries = [
        Query(
            shown.entries[query],
            shown.names.get(query),
            _results(query, steps, rows[:, place], labels[:, place], shown_results, metric),
        )
        for place, query in enumerate(chosen.tolist())
    ]
    shared, stores = split_settings(meta["stores"])
    page = Page(
        title="/".join(Path(path).absolute().parent.parts[-2:]),
        counts=_counts(len(query_photos), len(gallery_photos), meta["k"], nearest_train_accuracy),
        headline=headline(steps, metric),
        columns=[column_name(key) for key in steps[-1].metrics],
        steps=step_rows(steps, meta["steps"], metric),
        bars=histogram(precisions),
        worst=queries[: len(choice.worst)],
        best=queries[len(choice.worst) :],
        choosing=_choosing(choice, len(query_photos), steps[-1].name),
        notes=_notes(shown, shown_results),
        stores=stores,
        shared=shared,
        pictures=shown.pictures | shown_results.pictures,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(render(page), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Choice:
    """The queries to show.

    Attributes:
        worst: (W,) rows, lowest average precision first; lowest best score first if no average
            precision is known.
        best: (B,) rows, highest average precision first, none of them among the worst.
        answerless: Number of queries without an answer in the gallery: they are not shown.
        by_precision: Whether the average precision decided.
    """

    worst: NDArray[np.intp]
    best: NDArray[np.intp]
    answerless: int
    by_precision: bool


def choose(
    precisions: NDArray[np.floating] | None, scores: NDArray[np.floating], worst: int, best: int
) -> Choice:
    """Choose among Q queries.

    Args:
        precisions: (Q,) average precisions, NaN without an answer; None if not known.
        scores: (Q, K) scores of the results, best first.
        worst: Number of worst queries.
        best: Number of best queries.
    """
    if precisions is None or np.isnan(precisions).all():
        top = scores[:, 0] if scores.shape[1] else np.zeros(len(scores))
        order = np.argsort(top, kind="stable")
        return Choice(order[:worst], order[:0], 0, by_precision=False)
    order = np.argsort(precisions, kind="stable")
    answerable = order[~np.isnan(precisions[order])]
    rest = answerable[worst:]
    # Of equal ones the earlier query comes first at this end too.
    rest = rest[np.lexsort((rest, -precisions[rest]))]
    answerless = len(precisions) - len(answerable)
    return Choice(answerable[:worst], rest[:best], answerless, by_precision=True)


class _Shown:
    """The entries and thumbnails of the photos on the page, by row.

    Args:
        photos: The queries or the gallery.
        rows: Rows shown, in any shape; -1 pads.
        letter: First letter of the thumbnails' names.
        pixels: Longer side of the thumbnails.
    """

    def __init__(self, photos: Photos, rows: NDArray[np.integer], letter: str, pixels: int) -> None:
        distinct = np.unique(rows[rows >= 0])
        self.entries = dict(zip(distinct.tolist(), photos.entries(distinct), strict=True))
        self.names: dict[int, str] = {}
        self.pictures: dict[str, str] = {}
        self.errors: list[UserError] = []
        uris = data_uris([entry.photo for entry in self.entries.values()], pixels)
        for row, uri in zip(self.entries, uris, strict=True):
            if isinstance(uri, UserError):
                self.errors.append(uri)
            else:
                self.names[row] = f"{letter}{row}"
                self.pictures[f"{letter}{row}"] = uri


def _results(
    query: int,
    steps: Sequence[Step],
    rows: NDArray[np.integer],
    labels: NDArray[np.str_],
    gallery: _Shown,
    metric: str | None,
) -> list[StepResults]:
    """What each step ranked first for one query, by rows (S, R) and their labels (S, R)."""
    made: list[StepResults] = []
    for number, step in enumerate(steps):
        before = steps[number - 1] if number else None
        places = _places(rows[number - 1]) if number else None
        results = [
            Result(
                place=place + 1,
                entry=gallery.entries[row],
                label=str(labels[number, place]),
                score=f"{step.scores[query, place]:.3f}",
                moved=0 if places is None else _moved(places.get(row), place),
                picture=gallery.names.get(row),
            )
            for place, row in enumerate(rows[number].tolist())
            if row >= 0
        ]
        made.append(StepResults(step.name, _precision(query, step, before, metric), results))
    return made


def _precision(query: int, step: Step, before: Step | None, metric: str | None) -> Figure | None:
    if metric is None or np.isnan(step.precisions[metric][query]):
        return None
    earlier = None if before is None else float(before.precisions[metric][query])
    return Figure(float(step.precisions[metric][query]), earlier, digits=3)


def _places(rows: NDArray[np.integer]) -> dict[int, int]:
    """Place of each row in a ranking, from 0; the first if a row is repeated."""
    return {row: place for place, row in reversed(list(enumerate(rows.tolist()))) if row >= 0}


def _moved(before: int | None, place: int) -> int | None:
    return None if before is None else before - place


def _notes(queries: _Shown, results: _Shown) -> list[str]:
    """Say how many photos are not shown, why, and how to show them."""
    errors = queries.errors + results.errors
    if not errors:
        return []
    count = len(queries.entries) + len(results.entries)
    return [
        f"{len(errors):,} of {count:,} photos are not shown, only their ids ({errors[0]}). "
        "Rank again with the data, such as data=folder data.root=PHOTOS, and overwrite=true."
    ]


def _counts(queries: int, gallery: int, k: int, nearest_train_accuracy: float | None) -> str:
    text = f"{queries:,} queries searched in {gallery:,} gallery photos, {k:,} kept."
    if nearest_train_accuracy is not None:
        text += f" The nearest train photo names {nearest_train_accuracy:.1%} of them rightly."
    return text


def _choosing(choice: Choice, queries: int, step: str) -> str:
    """Say how the queries were chosen."""
    count = len(choice.worst)
    if not choice.by_precision:
        text = f"The {count:,} of {queries:,} queries" if count < queries else "All queries"
        return f"{text}, lowest best score after {step} first."
    answered = queries - choice.answerless
    if count < answered:
        text = (
            f"The {count:,} of {answered:,} queries with the lowest average precision after {step},"
            " lowest first"
        )
    else:
        text = f"All queries, lowest average precision after {step} first"
    if choice.best.size:
        text += f"; the {len(choice.best):,} best follow"
    if choice.answerless:
        text += f". {choice.answerless:,} that nothing in the gallery answers are left out"
    return text + "."
