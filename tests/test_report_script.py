"""rerank.py writes report.html next to its ranking, with photos of a small toy world."""

import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from miniature import revisited, toy

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return photos, and stores of random vectors for them; that of the gallery has their paths."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    centres = random.standard_normal((10, 8))
    source = toy(folder / "photos")
    for split in ("query", "gallery"):
        table = source.read(split)
        vectors = centres[table.rows["landmark_id"].astype(int)]
        vectors = vectors + 0.9 * random.standard_normal(vectors.shape)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
        meta = {"root": str(table.root)} if split == "gallery" else {}
        DescriptorStore.write(
            folder / split, table.rows["id"].tolist(), vectors, table.landmark_ids, **meta
        )
    rows = pd.read_parquet(folder / "gallery" / "ids.parquet")
    rows.assign(path=table.rows["path"]).to_parquet(folder / "gallery" / "ids.parquet", index=False)
    return folder


def arguments(world, *more):
    return [f"query={world / 'query'}", f"gallery={world / 'gallery'}", "k=9", "output=out", *more]


def pictures(page):
    return {letter: set(re.findall(rf"^\.{letter}(\d+)\{{", page, re.MULTILINE)) for letter in "qg"}


def test_a_report_is_written_next_to_the_ranking(rerank, world, tmp_path):
    chain = ("rerank=[alpha_qe]", "rerank.alpha_qe.n=2", "report=3")
    status, _, errors = rerank(*arguments(world, *chain))
    assert status == 0, errors
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for step in metrics["steps"]:
        assert f"<b>{step['map_at_100']:.4f}</b>" in page
    shown = Rankings.open(tmp_path / "out")
    queries = re.findall(r'<p class="id">(.*?)</p>', page)
    assert set(queries) <= set(shown.query_ids.tolist())
    assert len(queries) == min(3 + 5, len(shown.query_ids))
    # The gallery store has the paths of its photos, the query store has not.
    assert pictures(page)["g"]
    assert not pictures(page)["q"]
    assert "does not record where its photos are" in page


def test_the_data_source_provides_photos_missing_from_the_stores(rerank, world, tmp_path):
    data = ("landmarks=6", "photos=8", "scale=0.4", f"root={world / 'photos'}")
    status, _, errors = rerank(
        *arguments(world, "data=toy", *(f"data.{one}" for one in data), "report=2")
    )
    assert status == 0, errors
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(pictures(page)["q"]) >= 2
    assert "are not shown" not in page


def test_junk_of_the_revisited_sets_is_labelled(rerank, world, tmp_path):
    root = revisited(world / "photos", tmp_path / "oxford")
    file = root / "gnd_roxford5k.pkl"
    content = pickle.loads(file.read_bytes())
    junk = len(content["imlist"]) - 1
    easy = content["gnd"][1]["easy"][0]
    content["gnd"][0] = content["gnd"][0] | {"hard": [], "junk": [junk]}
    file.write_bytes(pickle.dumps(content))
    query = np.eye(4, dtype="f4")[:2]
    gallery = np.tile(np.eye(4, dtype="f4")[3], (len(content["imlist"]), 1))
    gallery[junk], gallery[easy] = query  # the first result of each query is one of them
    DescriptorStore.write(tmp_path / "query", content["qimlist"], query)
    DescriptorStore.write(tmp_path / "gallery", content["imlist"], gallery)
    stores = [f"{name}={tmp_path / name}" for name in ("query", "gallery")]
    status, _, errors = rerank(*stores, "data=roxford5k", f"data.root={root}", "output=out")
    assert status == 0, errors
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The medium mAP is" in page
    assert f'aria-label="1, junk: {content["imlist"][junk]}"' in page
    assert f'aria-label="1, easy: {content["imlist"][easy]}"' in page
    assert "are not shown" not in page


def test_no_report_is_written_with_0_queries(rerank, world, tmp_path):
    status, _, errors = rerank(*arguments(world, "report=0"))
    assert status == 0, errors
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_negative_number_is_refused(rerank, world, tmp_path):
    status, _, errors = rerank(*arguments(world, "report=-1"))
    assert (status, errors) == (2, "error: report=-1 is not valid. Pass a whole number >= 0.\n")
    assert not (tmp_path / "out").exists()
