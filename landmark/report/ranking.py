"""Write report.html beside a ranking: the top results of each step, worst queries first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.matches import LocalMatches
from landmark.report.overview import column_name, headline, histogram, split_settings, step_rows
from landmark.report.page import MARKS, Figure, Query, Result, StepResults, frame_of, render
from landmark.report.photos import Photos
from landmark.report.thumbnail import data_uris
from landmark.rerank.chain import Step
from landmark.score.evaluation import GroundTruth

RESULTS = 10  # shown per ranking
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
    matches: Mapping[str, LocalMatches] | None = None,
) -> None:
    """Write the page of a ranking. Only the photos on the page are read.

    Args:
        path: HTML file to write.
        steps: Steps of the chain, in order.
        query_photos: The queries.
        gallery_photos: The gallery photos.
        ground_truth: Ground truth of the queries. None means that queries are ordered by their best
            score, lowest first.
        meta: Metadata of the ranking: `k`, `steps` (settings of each step) and `stores` (settings
            of each store).
        nearest_train_accuracy: Share of the queries whose nearest train photo shows their
            landmark. None if unknown.
        worst: Number of queries to show with the lowest average precision, lowest first.
        best: Number of queries to show with the highest average precision, highest first.
        matches: Name of a step → matches to draw for its results. Only the pairs on the page are
            verified. Defaults to none.

    Raises:
        UserError: The file cannot be written.
    """
    metric = None if ground_truth is None else ground_truth.headline
    precisions = None if metric is None else steps[-1].precisions[metric]
    worst_rows, best_rows = choose(precisions, steps[-1].scores, worst, best)
    chosen = np.concatenate([worst_rows, best_rows])
    rows = np.stack([step.rows[chosen, :RESULTS] for step in steps])  # (S, q, R)
    shown = Shown(query_photos, chosen, "q", QUERY_SIDE)
    shown_results = Shown(gallery_photos, rows, "g", RESULT_SIDE)
    labels = _labels(chosen, rows, ground_truth)
    queries = [
        Query(
            shown.entries[query],
            shown.names.get(query),
            _results(
                query, steps, rows[:, place], labels[:, place], shown_results, metric, matches or {}
            ),
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
        selection=_selection(worst_rows, best_rows, len(query_photos), precisions, steps[-1].name),
        frames=[frame for frame in MARKS if frame in shown_frames],
        notes=notes(shown, shown_results),
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
        precisions: (Q,) average precisions, NaN for queries without positives. None if unknown.
        scores: (Q, K) scores of the results, best first.
        worst: Number of worst queries.
        best: Number of best queries.

    Returns:
        Rows of the worst queries, lowest average precision first (lowest best score first if all
        are unknown), and of the best queries, highest first. Queries without positives are in
        neither.
    """
    if precisions is None or np.isnan(precisions).all():
        top = scores[:, 0] if scores.shape[1] else np.zeros(len(scores))
        return np.argsort(top, kind="stable")[:worst], np.zeros(0, np.intp)
    order = np.argsort(precisions, kind="stable")
    evaluated = order[~np.isnan(precisions[order])]
    rest = evaluated[worst:]
    # Ties are ordered by query here as well.
    rest = rest[np.lexsort((rest, -precisions[rest]))]
    return evaluated[:worst], rest[:best]


class Shown:
    """Entries and thumbnails (named by letter and row) of the rows on the page; -1 pads."""

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
    """Return the relevance label of each result, (S, q, R)."""
    if ground_truth is None:
        return np.full(rows.shape, "unknown")
    return np.stack([ground_truth.relevance_labels(queries, ranked) for ranked in rows])


def _results(
    query: int,
    steps: Sequence[Step],
    rows: NDArray[np.integer],
    labels: NDArray[np.str_],
    gallery: Shown,
    metric: str | None,
    matches: Mapping[str, LocalMatches],
) -> list[StepResults]:
    """Return the top results of each step for one query, from rows (S, R) and labels (S, R)."""
    step_results: list[StepResults] = []
    previous: Step | None = None
    places: dict[int, int] = {}  # row → place in the previous step, the first if repeated
    for step, ranked, row_labels in zip(steps, rows.tolist(), labels.tolist(), strict=True):
        results = [
            Result(
                place=place + 1,
                entry=gallery.entries[row],
                label=label,
                score=f"{step.scores[query, place]:.3f}",
                moved=0 if previous is None else (places[row] - place if row in places else None),
                picture=gallery.names.get(row),
                matches=matches[step.name].between(query, row) if step.name in matches else (),
            )
            for place, (row, label) in enumerate(zip(ranked, row_labels, strict=True))
            if row >= 0
        ]
        precision = _precision(query, step, previous, metric)
        step_results.append(StepResults(step.name, precision, results))
        previous, places = step, {row: place for place, row in reversed(list(enumerate(ranked)))}
    return step_results


def _precision(query: int, step: Step, previous: Step | None, metric: str | None) -> Figure | None:
    if metric is None or np.isnan(step.precisions[metric][query]):
        return None
    before = None if previous is None else float(previous.precisions[metric][query])
    return Figure(float(step.precisions[metric][query]), before, digits=3)


def notes(queries: Shown, results: Shown) -> list[str]:
    """Report how many photos are not shown, why, and how to show them."""
    errors = queries.errors + results.errors
    if not errors:
        return []
    count = len(queries.entries) + len(results.entries)
    return [
        f"{len(errors):,} of {count:,} photos are not shown, only their ids ({errors[0]}). "
        "Rank again with the data, for example data=folder data.root=PHOTOS, and overwrite=true."
    ]


def _counts(queries: int, gallery: int, k: int, nearest_train_accuracy: float | None) -> str:
    text = f"{queries:,} queries, {gallery:,} gallery photos, {k:,} results per query."
    if nearest_train_accuracy is not None:
        text += (
            f" The nearest train photo shows the right landmark for {nearest_train_accuracy:.1%} "
            "of the queries."
        )
    return text


def _selection(
    worst_rows: NDArray[np.intp],
    best_rows: NDArray[np.intp],
    queries: int,
    precisions: NDArray[np.floating] | None,
    step: str,
) -> str:
    """Describe which queries are shown."""
    worst, best = len(worst_rows), len(best_rows)
    if precisions is None or np.isnan(precisions).all():
        text = f"The {worst:,} of {queries:,} queries" if worst < queries else "All queries"
        return f"{text}, lowest best score after {step} first."
    without_positives = int(np.isnan(precisions).sum())
    evaluated = queries - without_positives
    text = f"All queries, lowest average precision after {step} first"
    if worst < evaluated:
        text = (
            f"The {worst:,} of {evaluated:,} queries with the lowest average precision after "
            f"{step}, lowest first"
        )
    if best:
        text += f"; the {best:,} best follow"
    if without_positives:
        text += f". Queries without positives in the gallery, not shown: {without_positives:,}"
    return text + "."
