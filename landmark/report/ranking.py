"""report.html beside a ranking: what each step of a chain ranked first, worst queries on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.overview import column_name, headline, histogram, split_settings, step_rows
from landmark.report.page import MARKS, Figure, Query, Result, StepResults, frame_of, render
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
    worst_rows, best_rows = choose(precisions, steps[-1].scores, worst, best)
    chosen = np.concatenate([worst_rows, best_rows])
    rows = np.stack([step.rows[chosen, :RESULTS] for step in steps])  # (S, q, R)
    shown = _Shown(query_photos, chosen, "q", QUERY_SIDE)
    shown_results = _Shown(gallery_photos, rows, "g", RESULT_SIDE)
    labels = _labels(chosen, rows, ground_truth)
    queries = [
        Query(
            shown.entries[query],
            shown.names.get(query),
            _results(query, steps, rows[:, place], labels[:, place], shown_results, metric),
        )
        for place, query in enumerate(chosen.tolist())
    ]
    shared, stores = split_settings(meta["stores"])
    shown_frames = set(map(frame_of, np.unique(labels[rows >= 0]).tolist()))
    html = render(
        title="/".join(Path(path).absolute().parent.parts[-2:]),
        counts=_counts(len(query_photos), len(gallery_photos), meta["k"], nearest_train_accuracy),
        headline=headline(steps, metric),
        columns=[column_name(key) for key in steps[-1].metrics],
        steps=step_rows(steps, meta["steps"], metric),
        bars=histogram(precisions),
        worst=queries[: len(worst_rows)],
        best=queries[len(worst_rows) :],
        choosing=_choosing(worst_rows, best_rows, len(query_photos), precisions, steps[-1].name),
        frames=[frame for frame in MARKS if frame in shown_frames],
        notes=_notes(shown, shown_results),
        stores=stores,
        shared=shared,
        pictures=shown.pictures | shown_results.pictures,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def choose(
    precisions: NDArray[np.floating] | None, scores: NDArray[np.floating], worst: int, best: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose the queries to show.

    Args:
        precisions: (Q,) average precisions, NaN without an answer; None if not known.
        scores: (Q, K) scores of the results, best first.
        worst: Number of worst queries.
        best: Number of best queries.

    Returns:
        Rows of the worst queries, lowest average precision first (lowest best score first if it is
        not known for any), and of the best, highest first. Those without an answer are in neither.
    """
    if precisions is None or np.isnan(precisions).all():
        top = scores[:, 0] if scores.shape[1] else np.zeros(len(scores))
        return np.argsort(top, kind="stable")[:worst], np.zeros(0, np.intp)
    order = np.argsort(precisions, kind="stable")
    answerable = order[~np.isnan(precisions[order])]
    rest = answerable[worst:]
    # Of equal ones the earlier query comes first at this end too.
    rest = rest[np.lexsort((rest, -precisions[rest]))]
    return answerable[:worst], rest[:best]


class _Shown:
    """Entries and thumbnails (named letter + row) of the rows on the page; -1 pads."""

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


def _labels(
    queries: NDArray[np.integer], rows: NDArray[np.integer], ground_truth: GroundTruth | None
) -> NDArray[np.str_]:
    """Return what each result is to its query, (S, q, R)."""
    if ground_truth is None:
        return np.full(rows.shape, "unknown")
    return np.stack([ground_truth.relevance_labels(queries, ranked) for ranked in rows])


def _results(
    query: int,
    steps: Sequence[Step],
    rows: NDArray[np.integer],
    labels: NDArray[np.str_],
    gallery: _Shown,
    metric: str | None,
) -> list[StepResults]:
    """Return what each step ranked first for one query, by rows (S, R) and labels (S, R)."""
    made: list[StepResults] = []
    before: Step | None = None
    places: dict[int, int] = {}  # of each row after the step before, the first if repeated
    for step, ranked, names in zip(steps, rows.tolist(), labels.tolist(), strict=True):
        results = [
            Result(
                place=place + 1,
                entry=gallery.entries[row],
                label=label,
                score=f"{step.scores[query, place]:.3f}",
                moved=0 if before is None else (places[row] - place if row in places else None),
                picture=gallery.names.get(row),
            )
            for place, (row, label) in enumerate(zip(ranked, names, strict=True))
            if row >= 0
        ]
        made.append(StepResults(step.name, _precision(query, step, before, metric), results))
        before, places = step, {row: place for place, row in reversed(list(enumerate(ranked)))}
    return made


def _precision(query: int, step: Step, before: Step | None, metric: str | None) -> Figure | None:
    if metric is None or np.isnan(step.precisions[metric][query]):
        return None
    earlier = None if before is None else float(before.precisions[metric][query])
    return Figure(float(step.precisions[metric][query]), earlier, digits=3)


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


def _choosing(
    worst_rows: NDArray[np.intp],
    best_rows: NDArray[np.intp],
    queries: int,
    precisions: NDArray[np.floating] | None,
    step: str,
) -> str:
    """Say how the queries were chosen."""
    worst, best = len(worst_rows), len(best_rows)
    if precisions is None or np.isnan(precisions).all():
        text = f"The {worst:,} of {queries:,} queries" if worst < queries else "All queries"
        return f"{text}, lowest best score after {step} first."
    answerless = int(np.isnan(precisions).sum())
    answered = queries - answerless
    text = f"All queries, lowest average precision after {step} first"
    if worst < answered:
        text = (
            f"The {worst:,} of {answered:,} queries with the lowest average precision after {step},"
            " lowest first"
        )
    if best:
        text += f"; the {best:,} best follow"
    if answerless:
        text += f". {answerless:,} that nothing in the gallery answers are left out"
    return text + "."
