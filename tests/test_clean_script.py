"""clean.py end to end on drawn stores: files, a second call, the audit, bad input."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landmark.artifact.convert import convert
from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.data import GLDv2, Table
from landmark.verify import Verifier

ROOT = Path(__file__).resolve().parents[1]
LANDMARKS, PHOTOS, POINTS = 6, 10, 60


def features_of(random, place, empty=False):
    """Return the features of a photo: most of its place's points, moved and with noise."""
    points, descriptors = place
    seen = np.zeros(len(points), bool) if empty else random.random(len(points)) < 0.8
    count = int(seen.sum())
    noise = random.normal(0, 0.02, (count, descriptors.shape[1]))
    return LocalFeatures(
        keypoints=(points[seen] + random.uniform(0, 50, 2)).astype("f4"),
        descriptors=np.clip(512 * np.abs(descriptors[seen] + noise), 0, 255).astype("u1"),
        scores=np.ones(count, "f4"),
        size=(640, 480),
        scales=np.full(count, 8, "f4"),
        angles=np.zeros(count, "f4"),
    )


def write_store(path, random, places, centres, landmarks, shown, local=True, empty=(), **meta):
    """Write photos that show the place `shown` under the landmark `landmarks`."""
    vectors = centres[shown] + 0.5 * random.standard_normal((len(shown), centres.shape[1]))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
    ids = [f"{path.name}{number}" for number in range(len(shown))]
    DescriptorStore.write(path, ids, vectors, landmarks, **{"embedder": "abc", **meta})
    rows = pd.read_parquet(path / "ids.parquet")
    rows.assign(path=[f"{name}.jpg" for name in ids]).to_parquet(path / "ids.parquet", index=False)
    if local:
        store = DescriptorStore.open(path)
        recorded = {} if local is True else local
        with LocalFeatureWriter.writing(store, "rootsift", dim=32, **recorded) as writer:
            for number, place in enumerate(shown):
                writer.append(features_of(random, places[place], number in empty))
            writer.save()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write a train store of which every tenth photo has a wrong label, and a test store."""
    folder, random = tmp_path_factory.mktemp("stores"), np.random.default_rng(0)
    places = []
    for _ in range(LANDMARKS + 1):
        directions = np.abs(random.standard_normal((POINTS, 32)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        places.append((random.uniform(20, 400, (POINTS, 2)), directions))
    centres = random.standard_normal((LANDMARKS + 1, 16))
    shown = np.repeat(np.arange(LANDMARKS), PHOTOS)
    labels = shown.copy()
    labels[::PHOTOS] = (labels[::PHOTOS] + 1) % LANDMARKS
    names = np.array([f"place{label}" for label in labels])
    write_store(folder / "train", random, places, centres, names, shown, empty=(5,))
    test = np.array([0, LANDMARKS, LANDMARKS])
    write_store(folder / "test", random, places, centres, None, test)
    write_store(folder / "other", random, places, centres, None, test, embedder="xyz")
    write_store(folder / "coarse", random, places, centres, None, test, local={"top_k": 3})
    write_store(folder / "unlabelled", random, places, centres, None, shown, local=False)
    write_store(folder / "plain", random, places, centres, names, shown, local=False)
    return folder


@pytest.fixture
def clean(monkeypatch, capsys, tmp_path):
    """Run clean.py in this process in tmp_path; return status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "clean.py"), *map(str, arguments)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return command


WRONG = [number * PHOTOS for number in range(LANDMARKS)]


def test_wrong_labels_are_thrown_out_and_the_table_is_trained_on(clean, world, tmp_path):
    status, printed, errors = clean(f"train={world / 'train'}", "output=out", "min_agreement=none")
    assert status == 0, errors
    assert "1 of 60 photos have no features" in errors
    assert printed.splitlines()[-1] == "wrote out"
    out, store = tmp_path / "out", DescriptorStore.open(world / "train")
    photos = pd.read_parquet(out / "photos.parquet")
    assert np.flatnonzero(~photos["kept"]).tolist() == sorted([*WRONG, 5])
    assert photos.loc[WRONG, "likely_landmark_id"].tolist() == [f"place{i}" for i in range(6)]
    assert set(photos.loc[photos["kept"], "reason"]) == {"verified"}

    table = pd.read_parquet(out / "table.parquet")
    assert table["id"].tolist() == photos.loc[photos["kept"], "id"].tolist()
    source = Table(tmp_path, out / "table.parquet", validation="none")
    assert source.read("train").rows["path"].tolist() == table["path"].tolist()
    cleaned = pd.read_csv(out / "cleaned.csv", dtype=str)
    assert cleaned["images"].str.split().explode().tolist() == table["id"].tolist()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / f"{table['id'][0]}.jpg").touch()
    shutil.copyfile(out / "cleaned.csv", tmp_path / "train_clean.csv")
    published = GLDv2(
        tmp_path, photos="{split}/{id}.jpg", clean="train_clean.csv", validation_landmarks=0
    )
    assert published.read("train").rows["id"].tolist() == table["id"].tolist()

    pairs = pd.read_parquet(out / "pairs.parquet")
    assert {"a", "b", "inliers", "score"} <= set(pairs.columns)
    assert set(pairs["a"]) | set(pairs["b"]) == set(store.ids)
    page = (out / "report.html").read_text()
    assert "Likely mislabels" in page
    assert "kept 53 of 60 photos, 6 of 6 landmarks" in page


def test_a_store_of_codes_is_cleaned_as_its_vectors(clean, world, tmp_path):
    convert(DescriptorStore.open(world / "train"), tmp_path / "codes", dtype="int8")
    kept = []
    for train in (world / "train", tmp_path / "codes"):
        output = f"output={tmp_path / f'of_{train.name}'}"
        status, _, errors = clean(f"train={train}", output, "min_agreement=none")
        assert status == 0, errors
        photos = pd.read_parquet(tmp_path / f"of_{train.name}" / "table.parquet")
        kept.append(photos[["id", "path"]])
    pd.testing.assert_frame_equal(*kept)


def test_a_second_call_verifies_nothing_again(clean, world, tmp_path, monkeypatch):
    train = f"train={world / 'train'}"
    assert clean(train, "output=out", "report=0")[0] == 0
    kept = (tmp_path / "out" / "cleaned.csv").read_bytes()
    pairs = (tmp_path / "out" / "pairs.parquet").read_bytes()

    def fail(*_, **__):
        raise AssertionError("verified again")

    monkeypatch.setattr("landmark.clean.verification.verify_pairs", fail)
    grid = ["min_inliers=[20,30,40,50]", "min_neighbours=[1,2,3,10]"]
    status, printed, errors = clean(train, "output=out", *grid)
    assert status == 0, errors
    lines = [line.split() for line in printed.splitlines()]
    start = lines.index(["min_inliers", "min_neighbours", "photos", "share", "landmarks"])
    rows = np.array([line[:3] for line in lines[start + 1 : start + 17]], int)
    assert (rows[:, 0] == np.repeat([20, 30, 40, 50], 4)).all()
    counts = rows[:, 2].reshape(4, 4)
    assert (np.diff(counts, axis=0) <= 0).all()
    assert (np.diff(counts, axis=1) <= 0).all()
    assert len(pd.read_csv(tmp_path / "out" / "grid.csv")) == 16
    assert (tmp_path / "out" / "cleaned.csv").read_bytes() == kept

    status, _, errors = clean(
        train, "output=out", "min_inliers=30", "min_neighbours=10", "report=0"
    )
    assert status == 2
    assert "the thresholds keep no photo: at least 30 inliers" in errors
    assert (tmp_path / "out" / "cleaned.csv").read_bytes() == kept
    assert clean(train, "output=out", "min_inliers=30", "report=0")[0] == 0
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["rule"]["min_inliers"] == 30
    assert (tmp_path / "out" / "pairs.parquet").read_bytes() == pairs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    status, _, errors = clean(train, "output=out", "k=20")
    assert status == 2
    assert "different k (1000, now 20)" in errors
    assert clean(train, "output=out", "geometry=false", "report=0")[0] == 0


def test_an_interrupted_verification_resumes(clean, world, tmp_path, monkeypatch):
    train = [f"train={world / 'train'}", "report=0", "processes=1"]
    assert clean(*train, "output=whole")[0] == 0
    count, verify = [0], Verifier.__call__

    def counted(self, a, b):
        count[0] += 1
        if count[0] == 1200:
            raise KeyboardInterrupt
        return verify(self, a, b)

    monkeypatch.setattr(Verifier, "__call__", counted)
    assert clean(*train, "output=out")[0] == 130
    assert not (tmp_path / "out").exists()
    status, _, errors = clean(*train, "output=out")
    assert status == 0, errors
    pairs = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert 1200 < len(pairs) <= count[0] < 1200 + len(pairs) - 1000
    pd.testing.assert_frame_equal(pairs, pd.read_parquet(tmp_path / "whole" / "pairs.parquet"))
    assert not list(tmp_path.glob(".*"))


def test_agreement_alone_needs_no_local_features(clean, world, tmp_path):
    arguments = [f"train={world / 'plain'}", "output=out", "geometry=false", "report=0"]
    status, printed, errors = clean(*arguments, "min_agreement=0.5")
    assert status == 0, errors
    photos = pd.read_parquet(tmp_path / "out" / "photos.parquet")
    assert np.flatnonzero(~photos["kept"]).tolist() == WRONG
    assert "6 likely mislabels" in printed


def test_the_rule_of_2019_counts_inliers_alone(clean, world, tmp_path):
    arguments = [f"train={world / 'train'}", "output=out", "verify=inliers_2019", "report=0"]
    status, printed, errors = clean(*arguments)
    assert status == 0, errors
    rule = json.loads((tmp_path / "out" / "meta.json").read_text())["rule"]
    assert (rule["min_inliers"], rule["min_neighbours"], rule["min_agreement"]) == (30, 3, None)
    pairs = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    photos = pd.read_parquet(tmp_path / "out" / "photos.parquet").set_index("id")
    landmarks = photos["landmark_id"]
    same = landmarks[pairs["a"]].to_numpy() == landmarks[pairs["b"]].to_numpy()
    good = pairs[same & (pairs["inliers"] >= 30).to_numpy()]
    votes = pd.concat([good["a"], good["b"]]).value_counts()
    assert set(photos.index[photos["kept"]]) == set(votes.index[votes >= 3])
    assert "at least 30 inliers" in printed


def test_identical_photos_are_counted(clean, world, tmp_path):
    store = DescriptorStore.open(world / "plain")
    vectors = np.array(store.vectors)
    vectors[2] = vectors[1]
    rows = [*range(5), 15, 16]
    DescriptorStore.write(
        tmp_path / "copies", store.ids[rows], vectors[rows], store.landmark_ids[rows]
    )
    status, printed, errors = clean("train=copies", "output=out", "geometry=false", "report=0")
    assert status == 0, errors
    assert "(1 of identical photos)" in printed
    assert "table.parquet has none" in errors


def test_make_clean_gldv2_extracts_and_cleans_as_in_2019(tmp_path):
    command = ["make", "-n", "-o", ".venv/installed", "clean-gldv2", f"CLEANED={tmp_path}"]
    dry = [*command, "GLDV2=photos", "EMBEDDER=run/embedder"]
    printed = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "data=gldv2 data.root='photos' data.validation_landmarks=0" in printed
    assert "split=train local=rootsift" in printed
    assert "verify=inliers_2019" in printed
    assert "k=1000 candidates=100 min_inliers=30 min_neighbours=3" in printed
    command.remove("-n")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "GLDV2 is missing" in refused.stderr


def test_an_audit_lists_what_the_test_set_shows(clean, world, tmp_path):
    arguments = [f"train={world / 'train'}", "output=out", f"audit={world / 'test'}"]
    status, printed, errors = clean(*arguments)
    assert status == 0, errors
    exclude = pd.read_csv(tmp_path / "out" / "exclude.csv", dtype=str)
    assert exclude["landmark_id"].dropna().tolist() == ["place0"]
    assert exclude["id"].dropna().tolist() == ["train0"]  # labelled place1, shows place0
    assert set(exclude["test_id"]) == {"test0"}
    assert "1 landmarks of train are in the test set" in printed
    assert "Same place" in (tmp_path / "out" / "audit.html").read_text()
    table = tmp_path / "out" / "table.parquet"
    source = Table(tmp_path, table, validation="none", exclude=tmp_path / "out" / "exclude.csv")
    assert "place0" not in source.read("train").landmarks
    assert clean(*arguments[:2], "report=0", "min_neighbours=4")[0] == 0
    assert (tmp_path / "out" / "exclude.csv").is_file()
    assert clean(*arguments, "report=0", "audit_k=5")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train=unlabelled"], "has no landmark_id to check"),
        (["train=plain"], "has no local features 'rootsift'"),
        (["train=train", "audit=other"], "has embedder"),
        (["train=train", "audit=coarse"], "coarse has local features 'rootsift' with top_k 3, and"),
        (["train=train", "min_inliers=30", "false_rate=0.01"], "two thresholds of one pair"),
        (["train=train", "min_inliers=30", "geometry=false"], "needs geometric verification"),
        (["train=train", "geometry=false", "min_agreement=none"], "only threshold"),
        (["train=train", "audit=test", "min_inliers=[20,30]"], "one value of each threshold"),
        (["train=train", "min_neighbours=0"], "min_neighbours=0 is not valid"),
        (["train=train", "output=."], "already exists"),
    ],
)
def test_bad_input_is_one_line(clean, world, tmp_path, arguments, message):
    (tmp_path / "kept.txt").touch()
    paths = {"train", "audit"}
    full = [
        f"{key}={world / value}" if key in paths else f"{key}={value}"
        for key, _, value in (argument.partition("=") for argument in arguments)
    ]
    full += [] if any(one.startswith("output=") for one in full) else ["output=out"]
    status, _, errors = clean(*full)
    assert status == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
