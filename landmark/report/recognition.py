"""Write report.html beside a recognition: predictions with their voters, confident errors first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.recognition import Recognition
from landmark.disk.atomic import atomic_file
from landmark.recognize.evaluation import submitted_scores
from landmark.recognize.recognizer import Predictions
from landmark.report.matches import Lines, LocalMatches
from landmark.report.overview import flat_settings, split_settings
from landmark.report.page import MARKS, render
from landmark.report.photos import Entry, Photos
from landmark.report.ranking import QUERY_SIDE, RESULT_SIDE, Shown, notes

VOTERS = 10  # shown per query
_BEST = 5
_EXPLANATIONS = {
    "right": "shows the query's landmark",
    "wrong": "shows another landmark, or the query shows none",
    "unknown": "is not known, or the query has no prediction",
}


@dataclass(frozen=True)
class Voter:
    """One train photo that voted, and the name of its thumbnail (None without)."""

    place: int
    entry: Entry
    label: str
    score: str
    inliers: int | None
    picture: str | None
    matches: Sequence[Lines] = ()

    @property
    def frame(self) -> str:
        """Frame of the label."""
        return self.label


@dataclass(frozen=True)
class Recognized:
    """One query with its prediction ("" for none), what is known of it, and its voters."""

    entry: Entry
    predicted: str
    frame: str
    verdict: str
    score: str
    voters: Sequence[Voter]
    picture: str | None


@dataclass(frozen=True)
class Section:
    """Queries under a title."""

    name: str
    title: str
    selection: str
    queries: Sequence[Recognized]


def write_report(
    path: str | Path,
    kept: Recognition,
    found: Recognition,
    predictions: Predictions,
    query_photos: Photos,
    train_photos: Photos,
    meta: Mapping[str, Any],
    worst: int = 30,
    matches: LocalMatches | None = None,
) -> None:
    """Write the page of a recognition. Only the photos on the page are read.

    Args:
        path: HTML file to write.
        kept: The predictions above the threshold, with their metrics.
        found: All predictions.
        predictions: The voters.
        query_photos: The queries.
        train_photos: The train photos.
        meta: `settings` and `stores`.
        worst: Number of errors to show.
        matches: Matches to draw between queries and voters. Only the pairs on the page are
            verified. Defaults to none.

    Raises:
        UserError: The file cannot be written.
    """
    chosen = choose(kept, found, worst)
    rows = np.concatenate([part for _, _, part in chosen])
    voters = predictions.voters[rows, :VOTERS]
    queries = Shown(query_photos, rows, "q", QUERY_SIDE)
    train = Shown(train_photos, voters, "g", RESULT_SIDE)
    made = {
        row: _recognized(row, kept, found, predictions, queries, train, matches)
        for row in rows.tolist()
    }
    shared, stores = split_settings(meta["stores"])
    shown = {one.frame for one in made.values()}
    shown |= {voter.frame for one in made.values() for voter in one.voters}
    html = render(
        "recognition.html.jinja",
        title="/".join(Path(path).absolute().parent.parts[-2:]),
        headline=_headline(kept),
        counts=_counts(kept, len(train_photos)),
        measure="score" if found.confidences is None else "confidence",
        sections=[
            Section(title.split()[0].lower(), title, text, [made[row] for row in part.tolist()])
            for title, text, part in chosen
            if len(part)
        ],
        frames=[frame for frame in MARKS if frame in shown],
        explanations=_EXPLANATIONS,
        with_inliers=predictions.inliers is not None,
        notes=notes(queries, train),
        settings=flat_settings(meta["settings"]),
        stores=stores,
        shared=shared,
        pictures=queries.pictures | train.pictures,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def choose(
    kept: Recognition, found: Recognition, worst: int
) -> list[tuple[str, str, NDArray[np.intp]]]:
    """Choose the queries to show.

    Returns:
        Title, explanation and rows of each section: wrong predictions, the most confident first;
        photos of a landmark without a prediction; right predictions, the most confident first.
        Without truth: all queries, the least confident first.
    """
    scores = found.scores
    ascending = np.argsort(scores, kind="stable")
    if found.truth is None:
        part = ascending[:worst]
        text = f"{len(part):,} of {len(scores):,} queries, lowest score first."
        return [("Queries", text, part)]
    descending = np.argsort(-scores, kind="stable")
    is_wrong = kept.is_predicted & ~kept.is_correct
    is_missed = ~kept.is_predicted & (found.truth != "")
    sections = []
    for title, mask, number, text in (
        ("Wrong predictions", is_wrong, worst, "wrong predictions, the most confident first"),
        ("Missed landmarks", is_missed, worst, "photos of a landmark that were left out"),
        (
            "Right predictions",
            kept.is_correct,
            _BEST,
            "right predictions, the most confident first",
        ),
    ):
        part = descending[mask[descending]]
        first = part[:number]
        sections.append((title, f"{len(first):,} of {len(part):,} {text}.", first))
    return sections


def _recognized(
    row: int,
    kept: Recognition,
    found: Recognition,
    predictions: Predictions,
    queries: Shown,
    train: Shown,
    matches: LocalMatches | None,
) -> Recognized:
    truth = None if found.truth is None else str(found.truth[row])
    predicted = str(kept.landmarks[row])
    if truth is None or (not predicted and not truth):
        frame, verdict = "unknown", "landmark unknown" if truth is None else "shows no landmark"
    elif predicted == truth:
        frame, verdict = "right", "right"
    else:
        frame = "wrong" if predicted else "unknown"
        verdict = f"shows {truth}" if truth else "shows no landmark of train"
    if not predicted and found.landmarks[row]:
        verdict += f"; {found.landmarks[row]} was left out"
    voters = [
        Voter(
            place=place + 1,
            entry=train.entries[voter],
            label=_label(train.entries[voter].landmark, truth),
            score=f"{predictions.weights[row, place]:.3f}",
            inliers=None if predictions.inliers is None else int(predictions.inliers[row, place]),
            picture=train.names.get(voter),
            matches=() if matches is None else matches.between(row, voter),
        )
        for place, voter in enumerate(predictions.voters[row, :VOTERS].tolist())
        if voter >= 0
    ]
    return Recognized(
        entry=queries.entries[row],
        predicted=predicted,
        frame=frame,
        verdict=verdict,
        score=f"{submitted_scores(found)[row]:.3f}",
        voters=voters,
        picture=queries.names.get(row),
    )


def _label(landmark: str, truth: str | None) -> str:
    if truth is None:
        return "unknown"
    return "right" if landmark == truth else "wrong"


def _headline(kept: Recognition) -> str:
    metrics = kept.metrics
    if not metrics:
        return "The landmarks of the queries are unknown, so no metrics were computed."
    own, nearest = metrics.get("all_predictions", metrics), metrics["nearest"]
    text = (
        f"The GAP is {own['gap']:.4f} and the top-1 accuracy {own['top_1']:.4f}; the nearest train "
        f"photo alone has {nearest['gap']:.4f} and {nearest['top_1']:.4f}."
    )
    if "precision" in metrics:
        text += (
            f" Of the predictions above the threshold {metrics['precision']:.1%} are right, "
            f"and {metrics['recall']:.1%} of the photos of a landmark are among them."
        )
    return text


def _counts(kept: Recognition, train: int) -> str:
    predicted, queries = int(kept.is_predicted.sum()), len(kept.ids)
    text = f"{queries:,} queries, {predicted:,} predictions, {train:,} train photos."
    if kept.truth is not None:
        text += f" {kept.positives:,} queries show a landmark of train."
    return text
