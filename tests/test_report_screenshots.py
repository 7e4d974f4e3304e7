"""report.html in a real browser: no request, no error, not wider than a phone."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landmark.report.photos import Entry, Photo
from landmark.report.ranking import write_report
from landmark.rerank.chain import Step
from landmark.score.ground_truth import LandmarkGroundTruth

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "screenshots.py"
pytest.importorskip("websocket", reason="websocket-client drives the browser")
shots = runpy.run_path(str(SCRIPT))
BROWSER = shots["browser_path"]()
if BROWSER is None:
    pytest.skip("no Chromium here", allow_module_level=True)
LONG = "Kreuzherrenkirche_in_der_Altstadt_mit_einem_Namen_ohne_ein_einziges_Leerzeichen_darin"


class DrawnPhotos:
    """Photos of three sizes, some missing, with names that have no line break."""

    def __init__(self, folder, count):
        self.folder, self.count = folder, count
        folder.mkdir()
        for row in range(count):
            size = ((200, 90), (90, 200), (120, 120))[row % 3]
            Image.new("RGB", size, (row * 9, 99, 180)).save(folder / f"{row}.jpg")

    def __len__(self):
        return self.count

    def entries(self, rows):
        return [
            Entry(f"{LONG}/{row}.jpg", LONG, Photo(self.folder / f"{row % 17}.jpg"))
            for row in rows.tolist()
        ]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write a report of eight queries and two steps, one with a long name."""
    folder = tmp_path_factory.mktemp("ranking_" + "of_a_long_name_" * 6)
    random = np.random.default_rng(0)
    query, gallery = random.integers(0, 3, 8).astype(str), random.integers(0, 3, 25).astype(str)
    truth = LandmarkGroundTruth(query, gallery)
    steps = []
    for step in ("search", "alpha_qe"):
        rows = np.stack([random.permutation(25)[:12] for _ in query])
        scores = np.tile(np.linspace(1, 0, 12), (8, 1))
        steps.append(Step(step, rows, scores, 1234.5, 0, *truth.evaluate(rows)))
    meta = {
        "k": 12,
        "steps": [{"step": "search", "a_setting": LONG}, {"step": "alpha_qe", "n": 3}],
        "stores": {"query": {"path": LONG * 3}, "gallery": {"path": "g"}},
    }
    photos = DrawnPhotos(folder / "q", 8), DrawnPhotos(folder / "g", 25)
    write_report(folder / "report.html", steps, *photos, truth, meta, worst=2, best=1)
    return folder / "report.html"


def test_a_report_has_no_problems_in_both_widths_and_schemes(report, tmp_path, capsys):
    assert shots["main"]([str(report), str(tmp_path)]) == 0, capsys.readouterr().err
    taken = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            taken[path.stem] = np.asarray(image.convert("RGB"))
    assert taken.keys() == {"1280-light", "1280-dark", "390-light", "390-dark"}
    assert [taken[f"{width}-light"].shape[1] for width in (1280, 390)] == [1280, 780]
    for width in (1280, 390):
        assert taken[f"{width}-light"][:8, :8].min() > 230
        assert taken[f"{width}-dark"][:8, :8].max() < 60
        # Thumbnails are visible: no other part of the page has the blue of the photos.
        blue = np.abs(taken[f"{width}-light"].astype(int) - (18, 99, 180)).max(axis=2) < 24
        assert blue.sum() > 1000


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<img src='http://127.0.0.1:9/x.png' alt=''>", "requests http://127.0.0.1:9/x.png"),
        ("<link rel=stylesheet href=other.css>", "other.css"),
        ("<script>console.error('broken')</script>", "console ['broken']"),
        ("<script>nowhere.to()</script>", "exception Uncaught"),
        ("<div style='width:500px'>wide</div>", "390 px, light: the page is 5"),
    ],
    ids=["image", "style", "console", "exception", "wide"],
)
def test_a_page_with_problems_fails(tmp_path, capsys, monkeypatch, body, words):
    (tmp_path / "bad.html").write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><title>t</title>"
        f"<link rel=icon href='data:,'>{body}"
    )
    monkeypatch.setitem(shots["photograph"].__globals__, "SCHEMES", ("light",))
    assert shots["main"]([str(tmp_path / "bad.html"), str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err


def test_user_errors_are_one_line(tmp_path, capsys):
    assert shots["main"]([str(tmp_path / "gone.html"), str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: pass the page and a folder for the screenshots.\n"
