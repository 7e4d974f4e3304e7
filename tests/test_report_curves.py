"""curves.png shows the values of metrics.csv; hardest.png shows the hardest queries."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from landmark.artifact.picture import write_png
from landmark.error import UserError
from landmark.report.curves import curves_figure
from landmark.report.hardest import Validation, hardest_figure
from landmark.report.photos import Entry, Photo


def written(path, *rows):
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return path


def lines_of(figure):
    """Return panel → label → (steps, values)."""
    return {
        axis.get_ylabel(): {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in axis.get_lines()
        }
        for axis in figure.axes
    }


RUN = [
    {"epoch": 0, "step": 3, "val/map_at_50": 0.2, "val/top_1": 0.1},
    {"step": 4, "lr-SGD/backbone": 0.1, "lr-SGD/neck": 0.1, "lr-SGD/head": 0.5},
    {"epoch": 1, "step": 4, "train/loss": 2.5},
    {"epoch": 1, "step": 7, "val/map_at_50": 0.4, "val/top_1": 0.3},
    {"step": 9, "lr-SGD/backbone": 0.05, "lr-SGD/neck": 0.05, "lr-SGD/head": 0.25},
    {"epoch": 2, "step": 9, "train/loss": 1.5},
    {"epoch": 2, "step": 11, "val/map_at_50": 0.3, "val/top_1": 0.5},
]


def test_every_series_is_drawn_as_logged(tmp_path):
    drawn = lines_of(curves_figure(written(tmp_path / "metrics.csv", *RUN)))
    assert list(drawn) == ["loss", "validation", "learning rate"]
    assert list(drawn["loss"].values()) == [([4, 9], [2.5, 1.5])]
    assert drawn["validation"] == {
        "mAP@50, best 0.4000 at step 7": ([3, 7, 11], [0.2, 0.4, 0.3]),
        "top-1": ([3, 7, 11], [0.1, 0.3, 0.5]),
    }
    assert drawn["learning rate"] == {
        "backbone, neck": ([4, 9], [0.1, 0.05]),
        "head": ([4, 9], [0.5, 0.25]),
    }


def test_only_logged_values_have_a_panel(tmp_path):
    figure = curves_figure(written(tmp_path / "metrics.csv", RUN[2], RUN[5]))
    assert list(lines_of(figure)) == ["loss"]
    assert figure.axes[-1].get_xlabel() == "optimizer step"


def test_later_rows_of_a_resumed_run_replace_earlier_ones(tmp_path):
    again = {"epoch": 1, "step": 4, "train/loss": 2.25}
    drawn = lines_of(curves_figure(written(tmp_path / "m.csv", RUN[2], RUN[5], again)))
    assert list(drawn["loss"].values()) == [([4, 9], [2.25, 1.5])]


def test_a_long_loss_curve_is_drawn_pale_with_its_moving_mean(tmp_path):
    random = np.random.default_rng(0)
    loss = random.random(500)
    rows = [{"step": step, "train/loss": value} for step, value in enumerate(loss)]
    raw, smooth = curves_figure(written(tmp_path / "m.csv", *rows)).axes[0].get_lines()
    np.testing.assert_allclose(raw.get_ydata(), loss)
    expected = [loss[max(0, at - 12) : at + 13].mean() for at in range(500)]
    # 25 values, 13 of them up to the current one.
    np.testing.assert_allclose(smooth.get_ydata(), expected)
    assert raw.get_alpha() < 0.5


@pytest.mark.parametrize("content", [None, "", "step,epoch\n", "step,train/loss\n3,\n"])
def test_nothing_logged_draws_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    assert curves_figure(tmp_path / "metrics.csv") is None


def test_an_unrelated_table_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"m\.csv is not a table of metrics: the column step"):
        curves_figure(tmp_path / "m.csv")


def test_the_plot_is_written_without_pyplots_global_state(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figure = curves_figure(written(tmp_path / "m.csv", *RUN))
    path = write_png(figure, tmp_path / "curves.png", dpi=150)
    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1200, 1035)
        assert np.asarray(image.convert("L")).min() < 128
    assert "matplotlib.pyplot" not in sys.modules


class Drawn:
    """Table of drawn photos; every fifth file is missing."""

    def __init__(self, folder, letter, labels):
        self.folder, self.letter, self.labels = folder, letter, labels

    def __len__(self):
        return len(self.labels)

    def entries(self, rows):
        made = []
        for row in rows.tolist():
            path = self.folder / f"{self.letter}{row}.png"
            Image.new("RGB", (60, 40), (row * 12, 80, 200)).save(path)
            photo = None if row % 5 == 4 else Photo(path)
            made.append(Entry(f"{self.letter}{row}", f"place ${self.labels[row]} 塔", photo))
        return made


@pytest.fixture
def validation(tmp_path):
    """Return results of six queries of three landmarks; the last has no relevant photo."""
    random = np.random.default_rng(0)
    query = np.array([0, 1, 2, 0, 1, 7])
    gallery = random.integers(0, 3, 20)
    rows = np.stack([random.permutation(20)[:8] for _ in query])
    rows[1, 3:] = -1

    photos = Drawn(tmp_path, "q", query), Drawn(tmp_path, "g", gallery)
    return Validation(rows, query, gallery, *photos)


def captions(figure, columns):
    texts = [axis.get_xlabel() if axis.axison else "" for axis in figure.axes]
    return [texts[start : start + columns] for start in range(0, len(texts), columns)]


def test_the_hardest_queries_come_first_with_correct_and_wrong_results(validation):
    rows, query, gallery = validation.rows, validation.query_labels, validation.gallery_labels
    found = captions(hardest_figure(validation, count=4, results=5), 6)
    precision = {}
    for one in range(5):
        right, total = 0, 0.0
        for place, row in enumerate(rows[one].tolist(), start=1):
            if row >= 0 and gallery[row] == query[one]:
                right += 1
                total += right / place
        precision[one] = total / (gallery == query[one]).sum()
    order = sorted(precision, key=lambda one: (precision[one], one))[:4]
    assert len(set(precision.values())) == 5
    for line, one in zip(found, order, strict=True):
        assert line[0] == f"place ${query[one]} 塔\naverage precision {precision[one]:.3f}"
        expected = [
            ""
            if row < 0
            else f"{'✓' if gallery[row] == query[one] else '✗'} place ${gallery[row]} 塔"
            for row in rows[one, :5].tolist()
        ]
        assert line[1:] == expected


def none_answered(validation):
    """Return only the last query."""
    last = {"rows": validation.rows[5:], "query_labels": validation.query_labels[5:]}
    return replace(validation, **last)


def test_few_results_and_few_queries_fit(validation):
    few = replace(validation, rows=validation.rows[:, :2])
    lines = captions(hardest_figure(few, results=5), 6)
    assert len(lines) == 5
    assert all(line[3:] == ["", "", ""] for line in lines)
    assert hardest_figure(none_answered(validation)) is None


def test_the_grid_is_written(validation, tmp_path, recwarn):
    figure = hardest_figure(validation, count=2, results=3)
    path = write_png(figure, tmp_path / "hardest.png", dpi=100)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 640
    # Names with glyphs that the font lacks print no warnings.
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
