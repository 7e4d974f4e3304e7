"""report.html: the correct queries and frames, in one file without requests."""

import base64
import io
import re
from html.parser import HTMLParser
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landmark.artifact.picture import write_png
from landmark.error import UserError
from landmark.report.curves import curves_figure
from landmark.report.matches import LocalMatches
from landmark.report.overview import (
    changed_queries,
    flat_settings,
    headline,
    histogram,
    split_settings,
)
from landmark.report.page import Figure
from landmark.report.photos import Entry, Photo
from landmark.report.ranking import choose, write_report
from landmark.rerank.chain import Step
from landmark.score.ground_truth import Evaluation, LandmarkGroundTruth, RevisitedGroundTruth
from landmark.verify import Verification

QUERIES, GALLERY, K = 12, 40, 15
META = {
    "k": K,
    "steps": [{"step": "search", "block_rows": 9}, {"step": "alpha_qe", "n": 3, "alpha": 3.0}],
    "stores": {
        "query": {"path": "stores/q", "scales": [0.75, 1], "image": {"sizes": [[96, 64]]}},
        "gallery": {"path": "stores/g", "scales": [0.75, 1], "image": {"sizes": [[96, 64]]}},
    },
}


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text inside each element of a class."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(page)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        classes = " ".join(at.get("class") or "" for _, at in self.open).split()
        self.texts.append((self.open[-1][0] if self.open else "", classes, data.strip()))

    def of(self, name, tag=None):
        """Return the attributes of every element of this class, in the page's order."""
        return [
            attributes
            for one, attributes in self.tags
            if name in (attributes.get("class") or "").split() and tag in (None, one)
        ]

    def text(self, tag):
        return [text for one, _, text in self.texts if one == tag and text]


class DrawnPhotos:
    """Rows with drawn photos; records the rows that were read."""

    def __init__(self, folder, letter, landmarks, names=None):
        self.folder, self.letter, self.landmarks = folder, letter, landmarks
        self.names = names or {}
        self.looked_up = []

    def __len__(self):
        return len(self.landmarks)

    def entries(self, rows):
        self.looked_up += rows.tolist()
        return [self.entry(row) for row in rows.tolist()]

    def entry(self, row):
        path = self.folder / f"{self.letter}{row}.jpg"
        if not path.is_file():
            colour = (row * 5 % 256, row * 37 % 256, 90 if self.letter == "q" else 160)
            Image.new("RGB", (300 + row, 200), colour).save(path)
        return Entry(self.names.get(row, f"{self.letter}{row}"), self.landmarks[row], Photo(path))


@pytest.fixture
def world(tmp_path):
    """Return the landmarks of queries and gallery, and the results of two steps."""
    random = np.random.default_rng(3)
    landmarks = np.array([f"place {n}" for n in range(5)], object)
    query, gallery = random.choice(landmarks, QUERIES), random.choice(landmarks, GALLERY)
    query[4] = "nowhere in the gallery"
    found = []
    for _ in range(2):
        rows = np.stack([random.permutation(GALLERY)[:K] for _ in range(QUERIES)])
        rows[7, 6:] = -1
        scores = -np.sort(-random.random((QUERIES, K)), axis=1)
        scores[rows < 0] = -np.inf
        found.append((rows, scores))
    photos = tmp_path / "photos"
    photos.mkdir()
    return query, gallery, found, photos


def step_of(name, rows, scores, evaluation, seconds=0.5):
    """Return a step of a chain with these results."""
    return Step(name, rows, scores, seconds, 0, *evaluation)


def steps_of(found, truth=None):
    """Return the two steps with their metrics."""
    return [
        step_of(name, rows, scores, truth.evaluate(rows) if truth else Evaluation({}, {}))
        for name, (rows, scores) in zip(("search", "alpha_qe"), found, strict=True)
    ]


def written(world, tmp_path, truth=True, names=None, **options):
    """Return the parsed page, its text, and the photos of queries and gallery."""
    query, gallery, found, photos = world
    known = LandmarkGroundTruth(query, gallery) if truth else None
    both = DrawnPhotos(photos, "q", query, names), DrawnPhotos(photos, "g", gallery, names)
    path = tmp_path / "out" / "report.html"
    write_report(path, steps_of(found, known), *both, known, META, **options)
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    page = path.read_text(encoding="utf-8")
    return Parsed(page), page, both


def naive_precision(rows, asked, gallery):
    """Return the average precision at 100 of one ranking, by its definition."""
    relevant = sum(landmark == asked for landmark in gallery)
    right = 0
    total = 0.0
    for place, row in enumerate(rows, start=1):
        if row >= 0 and gallery[row] == asked:
            right += 1
            total += right / place
    return total / min(relevant, 100) if relevant else None


def queries_of(page: Parsed):
    """Return the row of each query on the page, from the thumbnails named q<row>."""
    names = [name.split()[1] for name in (at["class"] for at in page.of("photo")) if " q" in name]
    return [int(name[1:]) for name in names]


def test_the_worst_queries_come_first_and_then_the_best(world, tmp_path):
    query, gallery, found, _ = world
    page, text, _ = written(world, tmp_path, worst=4, best=3)
    last = found[-1][0]
    precision = {row: naive_precision(last[row], query[row], gallery) for row in range(QUERIES)}
    answered = [row for row in precision if precision[row] is not None]
    assert 4 not in answered
    order = sorted(answered, key=lambda row: (precision[row], row))
    best = sorted(order[4:], key=lambda row: (-precision[row], row))[:3]
    assert queries_of(page) == order[:4] + best
    shown = [words for tag, classes, words in page.texts if tag == "b" and "score" in classes]
    assert shown == [f"{precision[row]:.3f}" for row in order[:4] + best]
    assert f"The 4 of {len(answered)} queries with the lowest average precision" in text
    assert "Queries without positives in the gallery, not shown: 1." in text


def test_results_have_the_correct_frames_and_moves(world, tmp_path):
    query, gallery, found, _ = world
    page, _, _ = written(world, tmp_path)
    frames = [at["class"] for tag, at in page.tags if tag == "li" and "class" in at]
    frames = [name for name in frames if name in ("right", "wrong")][2:]  # after the legend's
    expected, moves = [], []
    for row in queries_of(page):
        for step, (rows, _) in enumerate(found):
            before = found[0][0][row][:10].tolist()
            for place, one in enumerate(rows[row][:10].tolist()):
                if one < 0:
                    continue
                expected.append("right" if gallery[one] == query[row] else "wrong")
                if step and one not in before:
                    moves.append("new")
                elif step and before.index(one) != place:
                    moved = before.index(one) - place
                    moves.append(f"{'↑' if moved > 0 else '↓'}{abs(moved)}")
    assert frames == expected
    assert [
        words for _, classes, words in page.texts if "moved" in classes and "numbers" in classes
    ] == moves


def test_the_page_is_one_file_with_each_photo_once(world, tmp_path):
    page, text, photos = written(world, tmp_path, worst=3, best=2)
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "img")]
    assert "@import" not in text
    assert set(re.findall(r"url\((\w+:)", text)) == {"data:"}
    embedded = re.findall(r"^\.([qg]\d+)\{", text, re.MULTILINE)
    assert len(embedded) == len(set(embedded))
    used = {at["class"].split()[1] for at in page.of("photo")}
    assert set(embedded) == used
    # Only the shown rows were read, and once.
    query, gallery = (one.looked_up for one in photos)
    assert {f"q{row}" for row in query} | {f"g{row}" for row in gallery} == used
    assert len(query) == len(set(query)) == 5
    assert len(gallery) == len(set(gallery))


def test_every_photo_has_alt_text_and_links_have_targets(world, tmp_path):
    page, _, _ = written(world, tmp_path)
    for attributes in page.of("photo"):
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "a":
            assert attributes["href"].removeprefix("#") in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_names_are_escaped(world, tmp_path):
    query, gallery, _, _ = world
    nasty = '"><script>alert(1)</script>&amp; {{ 7*7 }} </style>'
    query[:], gallery[:] = nasty, nasty
    names = dict.fromkeys(range(GALLERY), nasty)
    page, text, _ = written(world, tmp_path, names=names)
    assert "<script" not in text
    assert text.count("</style>") == 1
    assert nasty in page.text("h3")
    assert any(at["title"] == nasty for at in page.of("photo"))


def test_missing_or_broken_photos_show_their_ids(world, tmp_path):
    query, gallery, found, photos = world

    class Damaged(DrawnPhotos):
        def entry(self, row):
            whole = super().entry(row)
            if row % 3 == 0:
                return Entry(whole.id, whole.landmark, Photo(photos / "gone.jpg"))
            if row % 3 == 1:
                return Entry(whole.id, whole.landmark, None)
            if row % 3 == 2 and self.letter == "q":
                whole.photo.path.write_bytes(whole.photo.path.read_bytes()[:400])
            return whole

    truth = LandmarkGroundTruth(query, gallery)
    both = Damaged(photos, "q", query), Damaged(photos, "g", gallery)
    write_report(tmp_path / "report.html", steps_of(found, truth), *both, truth, META)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Parsed(text)
    shown = {at["title"] for at in page.of("photo") if "none" not in at["class"].split()}
    missing = {at["title"] for at in page.of("photo") if "none" in at["class"].split()}
    assert shown == {f"g{row}" for row in both[1].looked_up if row % 3 == 2}
    assert missing == {f"q{row}" for row in both[0].looked_up} | {
        f"g{row}" for row in both[1].looked_up if row % 3 != 2
    }
    assert f"{len(missing)} of {len(shown) + len(missing)} photos are not shown" in text
    assert "data=folder data.root=PHOTOS" in text


def test_without_ground_truth_the_least_certain_come_first_without_labels(world, tmp_path):
    page, text, _ = written(world, tmp_path, truth=False, worst=5)
    scores = world[2][-1][1][:, 0]
    assert queries_of(page) == np.argsort(scores, kind="stable")[:5].tolist()
    assert "no metrics were computed" in text
    assert "average precision" not in "".join(words for _, _, words in page.texts)
    assert not page.of("right")
    assert not page.of("wrong")


def test_easy_and_hard_are_correct_and_junk_is_labelled(world, tmp_path):
    _, _, found, photos = world
    lists = [
        {"easy": [row, row + 1], "hard": [row + 2], "junk": [row + 3, row + 4]}
        for row in range(QUERIES)
    ]
    truth = RevisitedGroundTruth(lists, np.arange(GALLERY))
    both = [DrawnPhotos(photos, letter, [""] * GALLERY) for letter in "qg"]
    write_report(tmp_path / "report.html", steps_of(found, truth), *both, truth, META)
    page = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
    last = [
        at["aria-label"] for at in page.of("photo") if " q" not in at["class"] and "title" in at
    ]
    kinds = {}
    for row in queries_of(page):
        for rows, _ in found:
            for place, one in enumerate(rows[row][:10].tolist(), start=1):
                near = one - row
                kind = {0: "easy", 1: "easy", 2: "hard", 3: "junk", 4: "junk"}.get(near, "wrong")
                if one >= 0:
                    kinds.setdefault(kind, []).append(f"{place}, {kind}: g{one}")
    assert sorted(last) == sorted(label for labels in kinds.values() for label in labels)
    assert {"easy", "hard", "junk"} <= kinds.keys()
    assert len(page.of("junk", "li")) == len(kinds["junk"]) + 1  # and the legend's
    assert len(page.of("right", "li")) == len(kinds["easy"]) + len(kinds["hard"]) + 1


def test_the_table_shows_metrics_settings_and_seconds_of_each_step(world, tmp_path):
    query, gallery, found, _ = world
    page, text, _ = written(world, tmp_path)
    first, last = steps_of(found, LandmarkGroundTruth(query, gallery))
    before, after = first.metrics, last.metrics
    cells = [words for tag, classes, words in page.texts if tag == "b" and "number" in classes]
    assert cells == [f"{figures[key]:.4f}" for figures in (before, after) for key in before]
    assert f"{after['map_at_100'] - before['map_at_100']:+.4f}" in text
    for words in ("block_rows 9", "n 3", "alpha 3"):
        assert words in page.text("span")
    assert page.text("dd") == ["stores/q", "stores/g", "0.75, 1", "96 × 64"]
    old, new = (step.precisions["map_at_100"] for step in (first, last))
    numbers = [text for tag, classes, text in page.texts if tag == "td" and "number" in classes]
    better, worse = int(np.nansum(new > old)), int(np.nansum(new < old))
    assert [number for number in numbers if number] == ["0.50", str(better), str(worse), "0.50"]


@settings(max_examples=60, deadline=None)
@given(
    precision=st.lists(
        st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.just(float("nan"))), min_size=1, max_size=20
    ),
    worst=st.integers(1, 25),
    best=st.integers(0, 6),
)
def test_the_choice_of_queries_equals_a_sort(precision, worst, best):
    scores = np.linspace(1, 0, len(precision))[:, None]
    lowest, highest = choose(np.array(precision), scores, worst, best)
    answered = [row for row, value in enumerate(precision) if not np.isnan(value)]
    if not answered:  # the lowest scores
        assert lowest.tolist() == list(range(len(precision)))[::-1][:worst]
        assert not len(highest)
        return
    order = sorted(answered, key=lambda row: precision[row])
    assert lowest.tolist() == order[:worst]
    assert highest.tolist() == sorted(order[worst:], key=lambda row: (-precision[row], row))[:best]


def test_the_histogram_counts_every_query_once():
    random = np.random.default_rng(0)
    precision = np.concatenate([random.random(200), [0.0, 1.0, np.nan]])
    bars = histogram(precision)
    expected = [0] * 10
    for value in precision[:-1]:
        expected[min(int(value * 10), 9)] += 1
    assert [bar.count for bar in bars] == expected
    assert max(bar.height for bar in bars) == 100
    assert histogram(np.array([np.nan])) == histogram(None) == []


@pytest.mark.parametrize(
    ("before", "after", "trend"),
    [(0.5, 0.6, "better"), (0.5, 0.4, "worse"), (0.5, 0.50004, "same"), (None, 0.4, "same")],
)
def test_a_change_that_rounds_to_zero_is_unchanged(before, after, trend):
    assert Figure(after, before).trend == trend


def step(precision, **metrics):
    empty = np.zeros((len(precision), 0))
    return step_of("s", empty.astype(int), empty, (metrics, {"a": np.array(precision)}))


def test_the_headline_states_the_result():
    first, better, same = step([0.1, 0.5], a=0.3), step([0.3, 0.4], a=0.35), step([0.1, 0.5], a=0.3)
    assert changed_queries(first, better, "a") == (1, 1)
    assert changed_queries(None, better, "a") == (None, None)
    assert changed_queries(first, better, None) == (None, None)
    assert headline([first, better], "a") == (
        "Re-ranking raised the a from 0.3000 to 0.3500: "
        "1 query is better than after the search, 1 worse."
    )
    assert "lowered" in headline([better, first], "a")
    assert "did not change it" in headline([first, same], "a")
    assert headline([first], "a") == "The a is 0.3000."


def test_settings_are_formatted_as_text():
    assert flat_settings(
        {"_target_": "x", "a": None, "b": {"c": True, "d": [[3, 4], [5, 6]]}, "e": 1e-6}
    ) == {
        "a": "none",
        "b.c": "yes",
        "b.d": "3 × 4, 5 × 6",
        "e": "1e-06",
    }
    shared, own = split_settings({"query": {"a": 1, "b": 2}, "gallery": {"a": 1, "b": 3, "c": 4}})
    assert shared == {"a": "1"}
    assert own == {"query": {"b": "2"}, "gallery": {"b": "3", "c": "4"}}


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb, as defined by WCAG 2."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_schemes(scheme):
    css = (files("landmark.report") / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6});", blocks[("light", "dark").index(scheme)]))
    pairs = [(ink, ground) for ink in ("ink", "quiet", "accent") for ground in ("paper", "card")]
    pairs += [("quiet", "mat"), ("right", "card"), ("wrong", "card"), ("right", "paper")]
    pairs += [("wrong", "paper")] + [("on", kind) for kind in ("right", "wrong", "junk", "unknown")]
    for ink, ground in pairs:
        low, high = sorted(luminance(colours[name]) for name in (ink, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_each_thumbnail_is_a_reduced_copy_of_its_photo(world, tmp_path):
    _, text, _ = written(world, tmp_path)
    embedded = re.findall(
        r"^\.([qg])(\d+)\{background-image:url\(data:image/jpeg;base64,(.*)\)", text, re.M
    )
    assert len(embedded) > 20
    for letter, row, content in embedded:
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        width, height = 300 + int(row), 200
        longest = 256 if letter == "q" else 128
        assert image.size == (longest, round(height * longest / width))
        colour = (int(row) * 5 % 256, int(row) * 37 % 256, 90 if letter == "q" else 160)
        assert np.abs(np.asarray(image).mean((0, 1)) - colour).max() < 6


def test_a_full_disk_is_one_line_and_leaves_no_file(world, tmp_path):
    resource = pytest.importorskip("resource", reason="limits the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    photos = [DrawnPhotos(world[3], letter, [""] * GALLERY) for letter in "qg"]
    for one in photos:
        one.entries(np.arange(GALLERY))  # draws the photos
    figure, steps = curves_figure_of(tmp_path), steps_of(world[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=r"report\.html cannot be written \(File too large"):
            write_report(tmp_path / "out" / "report.html", steps, *photos, None, META)
        with pytest.raises(UserError, match=r"curves\.png cannot be written \(File too large"):
            write_png(figure, tmp_path / "out" / "curves.png", dpi=150)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def curves_figure_of(folder):
    (folder / "metrics.csv").write_text("step,train/loss\n1,2\n2,1\n")
    return curves_figure(folder / "metrics.csv")


class Corners:
    """A verifier that matches the corners of both photos and records the pairs."""

    features = "corners"

    def __init__(self):
        self.pairs = []

    def __call__(self, a, b):
        self.pairs.append((a.number, b.number))
        matches = np.array([[0, 0], [1, 1], [0, 1]])
        return Verification(2.0, 2, matches, np.array([True, True, False]), None)


def corners(count, size):
    """Return photos whose features are the centres of the first and the last pixel."""
    points = np.array([[0, 0], [size[0] - 1, size[1] - 1]], "f4")
    return [SimpleNamespace(number=n, keypoints=points, size=size) for n in range(count)]


def test_matches_are_drawn_as_lines_for_the_shown_results_of_their_step(world, tmp_path):
    verifier = Corners()
    photos = (
        {"corners": corners(QUERIES, (100, 50))},
        {"corners": corners(GALLERY, (50, 100))},
    )
    matches = {"alpha_qe": LocalMatches({"rootsift": verifier}, *photos)}
    page, text, _ = written(world, tmp_path, worst=2, best=1, matches=matches)
    rows = world[2][1][0][queries_of(page)[0]]
    shown = [step for step in (at.get("popovertarget") for at in page.of("matches")) if step]
    assert len(shown) == len(set(shown)) == len(verifier.pairs) <= 3 * 10
    assert verifier.pairs[0][1] == rows[0]
    assert [at["id"] for at in page.of("pair")] == shown
    # 100 x 50 in the middle of the left square, 50 x 100 in the middle of the right one.
    paths = {at["d"] for at in page.of("lines")}
    assert paths == {"M5 255L1255 5M995 745L1745 995"}
    assert "<script" not in text


def test_many_matches_are_thinned_out():
    count = 400
    points = np.stack([np.arange(count), np.arange(count)], axis=1).astype("f4")
    photo = SimpleNamespace(keypoints=points, size=(count, count))
    pairs = np.stack([np.arange(count)] * 2, axis=1)
    verify = Verification(9.0, count, pairs, np.ones(count, bool), None)

    def verifier(*_):
        return verify

    verifier.features = "a"
    matches = LocalMatches({"a": verifier}, {"a": [photo]}, {"a": [photo]})
    (lines,) = matches.between(0, 0)
    assert (lines.name, lines.inliers, lines.path.count("M")) == ("a", count, 50)
