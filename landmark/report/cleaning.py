"""Write the pages of a cleaning: what was kept and thrown out, and the audit of a test set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.clean.cleaning import Cleaning
from landmark.clean.pairs import Pairs
from landmark.clean.result import Result
from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.report.page import render
from landmark.report.photos import Entry, Photos
from landmark.report.thumbnail import data_uris

_SIDE = 128  # pixels of the thumbnails
_EXAMPLES = 8  # photos of a landmark, kept and thrown out each
_KEPT = {"right": "kept", "wrong": "thrown out"}


@dataclass(frozen=True)
class Shown:
    """One photo on the page; `_Pictures` fills in the entry and the name of its thumbnail."""

    row: int
    frame: str
    why: str = ""
    is_test: bool = False
    shows_landmark: bool = False
    entry: Entry = field(default_factory=lambda: Entry(""))
    picture: str | None = None

    @property
    def name(self) -> str:
        """Landmark below the photo; "" for none."""
        return self.entry.landmark if self.shows_landmark else ""


@dataclass(frozen=True)
class Row:
    """Photos in a row, under a title."""

    title: str
    photos: list[Shown]


@dataclass(frozen=True)
class Group:
    """Photos that belong together: a landmark, or a pair."""

    title: str
    text: str
    rows: list[Row]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    text: str
    groups: list[Group]
    legend: dict[str, str] = field(default_factory=dict)
    in_pairs: bool = False


def write_cleaning_page(
    path: Path, cleaning: Cleaning, result: Result, photos: Photos, most: int = 30
) -> None:
    """Write report.html: landmarks, likely mislabels, several places, near-duplicates.

    Args:
        path: HTML file to write.
        cleaning: Inputs of the cleaning.
        result: What the rule keeps and finds.
        photos: The train photos; only those on the page are read.
        most: Landmarks, mislabels, places and near-duplicates to show, each.
    """
    names = cleaning.train.names
    sections = [
        _landmarks(result, names, most),
        _mislabels(result, names, most),
        _places(result, names, most),
        _duplicates(result, most),
    ]
    headline, *counts = _headline_first(result.summary().splitlines())
    _write(path, cleaning, "cleaning", headline, counts, sections, photos, None)


def write_audit_page(
    path: Path, cleaning: Cleaning, result: Result, train: Photos, test: Photos, most: int = 30
) -> None:
    """Write audit.html: photos of the train set that the test set shows too."""
    overlap, pairs = result.overlap, result.audit_pairs
    assert overlap is not None
    assert pairs is not None
    names = cleaning.train.names
    sections = [
        Section(
            name,
            title,
            f"{len(rows):,} pairs; {_first(most, len(rows))} Train photo left, test photo right.",
            [_audit_pair(pairs, row) for row in rows[:most].tolist()],
            in_pairs=True,
        )
        for name, title, rows in (
            ("duplicates", "Near-duplicates", overlap.duplicates),
            ("places", "Same place", overlap.same_place),
        )
    ]
    listed = ", ".join(names[overlap.landmarks][: 10 * most].tolist()) or "none"
    sections.append(Section("landmarks", "Landmarks of train in the test set", listed, []))
    headline = result.summary().splitlines()[-1].removeprefix("audit: ")
    counts = ["exclude.csv lists these landmarks and photos: train with data.exclude=exclude.csv."]
    _write(path, cleaning, "audit", headline, counts, sections, train, test)


def _headline_first(lines: list[str]) -> list[str]:
    return sorted(lines, key=lambda line: not line.startswith("kept"))


def _first(most: int, count: int) -> str:
    return f"the first {most:,} are shown." if count > most else "all are shown."


def _landmarks(result: Result, names: NDArray[np.str_], most: int) -> Section:
    labels, is_kept = result.photos.labels, result.selection.is_kept
    known = labels >= 0
    total = np.bincount(labels[known], minlength=len(names))
    kept = np.bincount(labels[is_kept], minlength=len(names))
    worst = np.argsort(-(total - kept), kind="stable")[:most]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], worst)
    groups = []
    for label, start in zip(worst.tolist(), starts.tolist(), strict=True):
        rows = order[start : start + total[label]]
        out = rows[~is_kept[rows]]
        groups.append(
            Group(
                str(names[label]),
                f"{kept[label]:,} of {total[label]:,} photos kept",
                [
                    Row("", _decided(result, rows[is_kept[rows]][:_EXAMPLES], names)),
                    Row("", _decided(result, out[:_EXAMPLES], names)),
                ],
            )
        )
    text = f"Most photos thrown out first; {_first(most, len(names))} photos.parquet lists all."
    return Section("landmarks", "Landmarks", text, groups, _KEPT)


def _decided(result: Result, rows: NDArray[np.intp], names: NDArray[np.str_]) -> list[Shown]:
    """Show photos with what the rule knows of them."""
    selection, photos = result.selection, result.photos
    shown = []
    for row in rows.tolist():
        facts = []
        if selection.is_verified.any():
            facts.append(f"{selection.neighbours[row]:,} verified")
        if not np.isnan(photos.agreement[row]):
            facts.append(f"{photos.agreement[row]:.0%} of nearest agree")
        if not selection.is_kept[row] and photos.rival_shares[row] > photos.agreement[row]:
            facts.append(f"{photos.rival_shares[row]:.0%} {names[photos.rivals[row]]}")
        frame = "right" if selection.is_kept[row] else "wrong"
        shown.append(Shown(row, frame, ", ".join(facts)))
    return shown


def _mislabels(result: Result, names: NDArray[np.str_], most: int) -> Section:
    found = result.mislabels
    rows: list[Shown] = []
    for row, label, votes, share in zip(*(values[:most].tolist() for values in found), strict=True):
        facts = [f"{votes:,} verified"] if votes else []
        facts += [] if np.isnan(share) else [f"{share:.0%} of nearest"]
        why = f"shows {names[label]}? ({', '.join(facts)})"
        rows.append(Shown(row, "wrong", why, shows_landmark=True))
    text = (
        f"{len(found.rows):,} photos thrown out have more evidence for another landmark than for "
        f"their own; {_first(most, len(found.rows))}"
    )
    groups = (
        [Group("Label, and what the photo probably shows", "", [Row("", rows)])] if rows else []
    )
    return Section("mislabels", "Likely mislabels", text, groups)


def _places(result: Result, names: NDArray[np.str_], most: int) -> Section:
    found = result.places
    groups = []
    for label, sizes, members in list(zip(*found, strict=True))[:most]:
        rows = [
            Row(f"{size:,} photos", [Shown(row, "right") for row in of])
            for size, of in list(zip(sizes, members, strict=True))[:5]
        ]
        groups.append(Group(str(names[label]), f"{len(sizes):,} groups", rows))
    text = (
        f"{len(found.labels):,} landmarks have groups of at least three photos without a verified "
        f"pair between them; {_first(most, len(found.labels))}"
    )
    return Section("places", "Several places", text, groups)


def _duplicates(result: Result, most: int) -> Section:
    pairs, kept = result.pairs, result.selection.is_kept
    groups = []
    for pair in result.duplicates[:most].tolist():
        photos = [
            Shown(row, "right" if kept[row] else "wrong", shows_landmark=True)
            for row in (int(pairs.a[pair]), int(pairs.b[pair]))
        ]
        groups.append(Group("", _evidence(pairs, pair), [Row("", photos)]))
    text = f"{len(result.duplicates):,} pairs; {_first(most, len(result.duplicates))}"
    return Section("duplicates", "Near-duplicates", text, groups, _KEPT, in_pairs=True)


def _audit_pair(pairs: Pairs, pair: int) -> Group:
    photos = [
        Shown(int(pairs.a[pair]), "wrong", shows_landmark=True),
        Shown(int(pairs.b[pair]), "unknown", is_test=True, shows_landmark=True),
    ]
    return Group("", _evidence(pairs, pair), [Row("", photos)])


def _evidence(pairs: Pairs, pair: int) -> str:
    text = f"cosine {pairs.cosine[pair]:.3f}"
    if pairs.inliers[pair]:
        text += f", {pairs.inliers[pair]:,} inliers, score {pairs.scores[pair]:.1f}"
    return text


def _write(
    path: Path,
    cleaning: Cleaning,
    kind: str,
    headline: str,
    counts: Sequence[str],
    sections: list[Section],
    train: Photos,
    test: Photos | None,
) -> None:
    """Look up the photos of the sections, make their thumbnails, and write the page."""
    pictures = _Pictures(train, test, _shown(sections))
    html = render(
        "cleaning.html.jinja",
        title="/".join(cleaning.output.absolute().parts[-2:]),
        kind=kind,
        headline=headline,
        counts=counts,
        sections=[_filled(section, pictures) for section in sections],
        notes=pictures.notes(),
        pictures=pictures.uris,
    )
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _shown(sections: Iterable[Section]) -> list[Shown]:
    return [
        photo
        for section in sections
        for group in section.groups
        for row in group.rows
        for photo in row.photos
    ]


class _Pictures:
    """Entries and thumbnails of the photos of a page, each made once."""

    def __init__(self, train: Photos, test: Photos | None, shown: Sequence[Shown]) -> None:
        self.uris: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        self._errors: list[UserError] = []
        for photos, is_test in ((train, False), (test, True)):
            rows = np.unique([one.row for one in shown if one.is_test == is_test]).astype(np.intp)
            if photos is None or not len(rows):
                continue
            entries = photos.entries(rows)
            names = [_picture_name(row, is_test) for row in rows.tolist()]
            self._entries.update(zip(names, entries, strict=True))
            uris = data_uris([entry.photo for entry in entries], _SIDE)
            for name, uri in zip(names, uris, strict=True):
                if isinstance(uri, UserError):
                    self._errors.append(uri)
                else:
                    self.uris[name] = uri

    def filled(self, photo: Shown) -> Shown:
        """Return the photo with its entry and the name of its thumbnail."""
        name = _picture_name(photo.row, photo.is_test)
        picture = name if name in self.uris else None
        return replace(photo, entry=self._entries[name], picture=picture)

    def notes(self) -> list[str]:
        """Report how many photos are not shown, why, and how to show them."""
        if not self._errors:
            return []
        return [
            f"{len(self._errors):,} of {len(self._entries):,} photos are not shown, only their ids "
            f"({self._errors[0]}). Clean again with the data, for example data=folder "
            "data.root=PHOTOS."
        ]


def _picture_name(row: int, is_test: bool) -> str:
    return f"{'t' if is_test else 'p'}{row}"


def _filled(section: Section, pictures: _Pictures) -> Section:
    groups = [
        replace(
            group,
            rows=[
                replace(row, photos=[pictures.filled(photo) for photo in row.photos])
                for row in group.rows
            ],
        )
        for group in section.groups
    ]
    return replace(section, groups=groups)
