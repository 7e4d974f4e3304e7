"""rerank.py with every search, several galleries and several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.report.photos import StorePhotos
from landmark.rerank.stores import Stores
from landmark.search import Flat

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = sorted(path.stem for path in (ROOT / "conf/search").glob("[!_]*.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write stores of 8 landmarks, the gallery in halves, and distractors without landmark."""
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(0)
    centres = random.standard_normal((8, 16))

    def write(name, photos, dtype="f4", first=0, known=True, **meta):
        landmarks = random.integers(0, 8, photos)
        vectors = centres[landmarks] + 1.2 * random.standard_normal((photos, 16))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
        ids = [f"{name}{i}" for i in range(first, first + photos)]
        given = [f"place {n}" for n in landmarks] if known else None
        DescriptorStore.write(folder / name, ids, vectors, given, **{"embedder": "abc", **meta})

    write("query", 12)
    write("train", 80)
    write("gallery", 60)
    write("distractors", 150, "f2", known=False)
    write("other", 30, embedder="xyz")
    gallery = DescriptorStore.open(folder / "gallery")
    for name, rows in (("first", slice(0, 25)), ("second", slice(25, 60))):
        DescriptorStore.write(
            folder / name,
            gallery.ids[rows],
            gallery.vectors[rows],
            gallery.landmark_ids[rows],
            embedder="abc",
        )
    return folder


def stores_of(world, *galleries):
    several = ",".join(str(world / name) for name in galleries)
    gallery = several if len(galleries) == 1 else f"[{several}]"
    return [f"query={world / 'query'}", f"gallery={gallery}", f"train={world / 'train'}"]


def test_a_gallery_in_two_stores_equals_one_store(rerank, world, tmp_path):
    chain = "rerank=[two_stage,dba,alpha_qe,egt,diffusion,k_reciprocal]"
    for name, galleries in (("one", ["gallery"]), ("two", ["first", "second"])):
        status, printed, errors = rerank(
            *stores_of(world, *galleries), chain, "k=60", f"output={name}"
        )
        assert status == 0, errors
        assert "60 gallery photos" in printed.splitlines()[0].replace(", 80 train", "")
    one, two = (Rankings.open(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(two.rows, one.rows)
    np.testing.assert_array_equal(two.scores, one.scores)
    np.testing.assert_array_equal(two.gallery_ids, one.gallery_ids)
    assert two.metrics["map_at_100"] == one.metrics["map_at_100"]
    recorded = two.meta["stores"]["gallery"]
    assert [store["rows"] for store in recorded["stores"]] == [25, 35]
    assert recorded["path"] == [str(world / "first"), str(world / "second")]


def test_distractors_are_searched_and_never_relevant(rerank, world, tmp_path):
    status, _, errors = rerank(*stores_of(world, "gallery", "distractors"), "k=210", "output=out")
    assert status == 0, errors
    found = Rankings.open(tmp_path / "out")
    gallery, distractors = (
        DescriptorStore.open(world / name) for name in ("gallery", "distractors")
    )
    both = np.concatenate([gallery.vectors, distractors.vectors.astype("f4")])
    query = DescriptorStore.open(world / "query")
    rows, scores = Flat().build(both).search(query.vectors, 210)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.gallery_ids.tolist() == [*gallery.ids, *distractors.ids]
    alone = rerank(*stores_of(world, "gallery"), "k=60", "output=alone")
    assert alone[0] == 0
    assert found.metrics["map_at_100"] < Rankings.open(tmp_path / "alone").metrics["map_at_100"]


def test_the_report_reads_each_row_from_its_store(world):
    stores = Stores.open(world / "query", [world / "gallery", world / "distractors"])
    photos = StorePhotos(stores.gallery)
    rows = np.array([70, 3, 209, 59, 60])
    assert len(photos) == 210
    entries = photos.entries(rows)
    assert [entry.id for entry in entries] == stores.gallery.ids[rows].tolist()
    assert [entry.landmark for entry in entries] == stores.gallery.landmark_ids[rows].tolist()


@pytest.mark.parametrize(
    ("galleries", "arguments", "words"),
    [
        (["gallery"], ["k=61"], ["k=61", "60 photos"]),
        (["gallery", "distractors"], ["k=211"], ["k=211", "210 photos"]),
        (["gallery", "gallery"], [], ["gallery", "also in"]),
        (["first", "gallery"], [], ["'gallery0'", "also in"]),
        (["gallery", "other"], [], ["embedder", "xyz", "allow_mixed=true"]),
        (["gallery", "narrow"], ["allow_mixed=true"], ["narrow", "3 dimensions"]),
        (["gallery", "empty"], [], ["empty", "no descriptors"]),
        (["gallery"], ["query={world}/empty"], ["empty", "no descriptors"]),
        (["gallery"], ["query={world}/twice"], ["twice", "duplicate id 'a'"]),
        (["twice"], [], ["twice", "duplicate id 'a'"]),
        (["gallery"], ["gallery=[]"], ["gallery=[]"]),
        (["gallery", "nowhere"], [], ["nowhere"]),
        (["gallery"], ["search=ivfflat"], ["ivfflat", "ivf"]),
        (["gallery"], ["search=factory"], ["search.description", "missing required setting"]),
        (["gallery"], ["search=factory", "search.description=IVF"], ["rejects IVF"]),
        (["gallery"], ["search=ivf", "search.n_prob=3"], ["n_prob", "n_probe"]),
        (["gallery"], ["search=hnsw", "search.index={world}/gallery"], ["not a saved index"]),
        (["gallery"], ["search=auto", "search.recall=95"], ["search.recall=95"]),
        (["gallery"], ["search=exact_torch", "search.device=tpu9"], ["search.device=tpu9"]),
    ],
    ids=str,
)
def test_a_user_error_is_one_line_and_status_2(
    rerank, world, tmp_path, galleries, arguments, words, monkeypatch
):
    if not (world / "narrow").exists():
        DescriptorStore.write(world / "narrow", ["n"], np.eye(3, dtype="f4")[:1], embedder="abc")
        DescriptorStore.write(world / "empty", [], np.ones((0, 16), "f4"), embedder="abc")
        DescriptorStore.write(world / "twice", ["a", "b"], np.eye(16, dtype="f4")[:2])
        table = (world / "twice/ids.parquet").as_posix()
        import pandas as pd

        pd.DataFrame({"id": ["a", "a"]}).to_parquet(table, index=False)
    status, _, errors = rerank(
        *stores_of(world, *galleries),
        "output=out",
        *(argument.format(world=world) for argument in arguments),
    )
    assert status == 2, errors
    assert len(errors.splitlines()) == 1, errors
    for word in words:
        assert word in errors
    assert list(tmp_path.iterdir()) == []


def test_stores_of_different_embedders_are_searched_if_allowed(world):
    stores = Stores.open(world / "query", [world / "gallery", world / "other"], allow_mixed=True)
    assert len(stores.gallery) == 90
    assert stores.gallery.meta.get("embedder") is None
    with pytest.raises(UserError, match="allow_mixed"):
        Stores.open(world / "query", [world / "gallery", world / "other"])


def test_without_k_a_small_gallery_is_ranked_completely(rerank, world, tmp_path):
    assert rerank(*stores_of(world, "gallery"), "output=small")[0] == 0
    assert rerank(*stores_of(world, "gallery", "distractors"), "output=large")[0] == 0
    assert Rankings.open(tmp_path / "small").rows.shape == (12, 60)
    assert Rankings.open(tmp_path / "large").rows.shape == (12, 100)
    assert Rankings.open(tmp_path / "small").meta["k"] == 60


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("galleries", [["gallery"], ["gallery", "distractors"]], ids=len)
def test_every_search_runs_a_chain(rerank, world, tmp_path, name, galleries):
    """With the default settings, so few photos make one or two lists, so all searches are exact."""
    extra = ["search.description=[IVF2,Flat]", "search.parameters={nprobe:2}"]
    status, _, errors = rerank(
        *stores_of(world, *galleries),
        f"search={name}",
        *(extra if name == "factory" else []),
        "rerank=[alpha_qe,two_stage]",
        "k=50",
        "output=out",
    )
    assert status == 0, errors
    assert (
        rerank(*stores_of(world, *galleries), "rerank=[alpha_qe,two_stage]", "k=50", "output=flat")[
            0
        ]
        == 0
    )
    found, flat = Rankings.open(tmp_path / "out"), Rankings.open(tmp_path / "flat")
    assert found.meta["steps"][0]["_target_"].startswith("landmark.search.")
    same = (found.rows[:, :10] == flat.rows[:, :10]).mean()
    assert same > (0.95 if name != "ivfpq" else 0.8)


def test_the_command_saves_and_loads_an_index(rerank, world, tmp_path):
    for output in ("one", "two"):
        status, _, errors = rerank(
            *stores_of(world, "gallery"),
            "search=hnsw",
            "search.index=index",
            "rerank=[two_stage,dba,alpha_qe]",
            f"output={output}",
        )
        assert status == 0, errors
    meta = json.loads((tmp_path / "index/index.json").read_text())
    assert meta["gallery"]["rows"] == 60
    one, two = (Rankings.open(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.rows, two.rows)
    status, _, errors = rerank(
        *stores_of(world, "gallery"),
        "search=hnsw",
        "search.index=index",
        "search.neighbours=16",
        "output=three",
    )
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "a different neighbours (32, now 16)" in errors
    assert not (tmp_path / "three").exists()


def test_two_ranks_write_the_same_as_one_process(rerank, world, tmp_path):
    arguments = [
        *stores_of(world, "gallery", "distractors"),
        "rerank=[alpha_qe,two_stage]",
        "k=40",
    ]
    assert rerank(*arguments, "output=one")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "rerank.py"), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    (output,) = (tmp_path / "runs/rerank").glob("*/*")  # one folder for all processes
    one, two = (Rankings.open(folder) for folder in (tmp_path / "one", output))
    np.testing.assert_array_equal(two.rows, one.rows)
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-6)
    assert printed[0][0].splitlines()[-1] == f"wrote {output.relative_to(tmp_path)}"
    assert printed[1][0] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "runs"]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_instantiated_from_its_configuration(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        extra = ["search.description=Flat"] if name == "factory" else []
        config = compose("rerank", overrides=[f"search={name}", *extra])
    random = np.random.default_rng(0)
    index = instantiate(config.search).build(random.standard_normal((50, 8)).astype("f2"))
    rows, scores = index.search(random.standard_normal((3, 8)), 7)
    assert (rows.shape, rows.dtype, scores.dtype) == ((3, 7), np.int32, np.float32)
    assert (rows >= 0).all()
