"""The published data sets, each read from a miniature in its layout."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from miniature import google_landmarks, google_landmarks_clean, revisited, toy
from PIL import Image
from test_configs import node

from landmark.data import GLDv2, ROxford5k, RParis6k
from landmark.data.dataset import PhotoDataset
from landmark.error import UserError
from landmark.image import ImageFormat, decode

GLDv1 = partial(GLDv2, photos="{split}/{id}.jpg")
GLDv2Clean = partial(GLDv2, clean="train_clean.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    toy(root).read()
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANDMARK_CACHE", str(tmp_path / "cache"))


def test_gldv2(world, tmp_path):
    root = google_landmarks(world, tmp_path, folders=True)
    source = GLDv2(root, validation_landmarks=2, query_fraction=0.2)
    listed = pd.read_csv(root / "train.csv", dtype=str)
    assert len(source.read("query")) == 6
    assert len(source.read("gallery")) == 12
    train = source.read("train")
    query, gallery = source.validation()
    assert sorted([*train.rows["id"], *query.rows["id"], *gallery.rows["id"]]) == sorted(
        listed["id"]
    )
    assert (len(query), len(gallery)) == (1, 1)  # a tenth of six landmarks, at least one
    assert query.landmarks == gallery.landmarks
    assert set(query.landmarks) <= set(train.landmarks)
    known = listed.set_index("id")["landmark_id"]
    assert train.rows["landmark_id"].tolist() == known[train.rows["id"]].tolist()
    assert train.landmarks == ["5", "12", "19", "26", "33", "40"]
    assert len(source.read()) == len(train) + 18
    assert all((root / path).is_file() for path in source.read().rows["path"])
    everything = GLDv2(root, validation_landmarks=0, most_frequent=3)
    assert len(everything.read("train")) == 15
    assert [len(table) for table in everything.validation()] == [0, 0]


def test_gldv2_reads_only_the_file_it_needs(world, tmp_path):
    root = google_landmarks(world, tmp_path, folders=True)
    (root / "train.csv").unlink()
    assert len(GLDv2(root).read("gallery")) == 12
    with pytest.raises(UserError, match=r"train.csv is missing"):
        GLDv2(root).read("train")


def test_gldv1(world, tmp_path):
    root = google_landmarks(world, tmp_path, folders=False, extra_train="ffff,http://x,None\n")
    source = GLDv1(root, validation_landmarks=0)
    assert len(source.read("train")) == 30
    assert "None" not in source.read("train").landmarks
    assert "landmark_id" not in source.read("query").rows
    with pytest.raises(UserError, match=r"Check data\.root and data\.photos"):
        GLDv1(root, photos="{split}/{a}/{id}.jpg").read("query")
    with pytest.raises(UserError, match=r"data.photos=train/\{name\}.jpg is not a valid path"):
        GLDv1(root, photos="train/{name}.jpg")
    with pytest.raises(UserError, match=r"It must contain \{id\}"):
        GLDv1(root, photos="{split}/{a}.jpg")


def test_each_data_choice_reads_its_own_layout(world, tmp_path):
    flat = google_landmarks(world, tmp_path / "flat", folders=False)
    clean = google_landmarks_clean(world, tmp_path / "clean")
    for choice, root, photos in (("gldv1", flat, 30), ("gldv2_clean", clean, 18)):
        source = instantiate(node("data", choice), root=str(root), validation_landmarks=0)
        assert len(source.read("train")) == photos


@pytest.mark.parametrize("name", ["GLDv1", "GLDv2Clean"])
def test_a_class_of_an_earlier_version_resolves(world, tmp_path, name):
    """Extraction reads the data of a run from its recorded configuration."""
    recorded = {"photos": "{split}/{id}.jpg", "skip_missing": False, "validation_landmarks": 0}
    root, photos = google_landmarks(world, tmp_path, folders=False), 30
    if name == "GLDv2Clean":
        photo = next((root / "train").iterdir()).stem
        (root / "list.csv").write_text(f"landmark_id,images\n5,{photo}\n")
        recorded, photos = recorded | {"clean": "list.csv"}, 1
    source = instantiate({"_target_": f"landmark.data.{name}", "root": str(root), **recorded})
    assert len(source.read("train")) == photos


def test_missing_photos(world, tmp_path):
    root = google_landmarks(world, tmp_path, folders=False)
    for path in sorted((root / "train").iterdir())[:7]:
        path.unlink()
    assert len(GLDv1(root, validation_landmarks=0, skip_missing=True).read("train")) == 23
    for path in (root / "test").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"none of the photos of test.csv"):
        GLDv1(root, skip_missing=True).read("query")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train.csv", "id,url\na,b\n", "It must have id, landmark_id"),
        ("train.csv", "id,landmark_id\na,1,2\n", "is not a CSV"),
        ("train.csv", "id,landmark_id\na,1\na,2\n", "duplicate id 'a'"),
        ("test.csv", "id\n", "lists no photos"),
    ],
)
def test_malformed_csvs(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=match):
        GLDv2(tmp_path).read("train" if name == "train.csv" else "query")


def test_gldv2_clean(world, tmp_path):
    root = google_landmarks_clean(world, tmp_path)
    source = GLDv2Clean(root, validation_landmarks=0)
    rows = source.read("train").rows
    lists = pd.read_csv(root / "train_clean.csv", dtype=str).set_index("landmark_id")["images"]
    expected = {key: landmark for landmark, keys in lists.items() for key in keys.split()}
    assert dict(zip(rows["id"], rows["landmark_id"], strict=True)) == expected
    assert len(rows) == 18
    assert all((root / path).is_file() for path in rows["path"])
    assert len(source.read("gallery")) == 12
    (root / "train_clean.csv").write_text("landmark_id,images\n5, \n")
    with pytest.raises(UserError, match="landmark 5 has no images"):
        GLDv2Clean(root).read("train")


def test_roxford(world, tmp_path):
    root = revisited(world, tmp_path)
    source = ROxford5k(root)
    query, gallery = source.read("query"), source.read("gallery")
    assert (len(query), len(gallery), len(source.read())) == (2, 12, 14)
    content = pickle.loads((root / "gnd_roxford5k.pkl").read_bytes())
    assert gallery.rows["id"].tolist() == content["imlist"]
    for found, given in zip(query.ground_truth, content["gnd"], strict=True):
        assert found == {key: given[key] for key in ("easy", "hard", "junk")}
    sized = query.with_sizes().rows
    assert sized[["width", "height"]].to_numpy().tolist() == [[50, 62]] * 2
    image_format = ImageFormat([[32, 32]])
    image, label, row = PhotoDataset(query, image_format)[1]
    photo = decode(root / query.rows["path"].iloc[1]).crop((10, 9, 60, 71))
    expected = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 2
    assert (label, row) == (-1, 1)
    whole = PhotoDataset(source.read(), image_format)[13][0]
    assert np.array_equal(whole, image_format.image(root / gallery.rows["path"].iloc[11], (32, 32)))
    for call in (lambda: source.read("train"), source.validation):
        with pytest.raises(UserError, match="has no "):
            call()


def test_a_pickle_that_would_run_code_is_refused(world, tmp_path):
    root = revisited(world, tmp_path, "gnd_rparis6k.pkl")
    assert len(RParis6k(root).read("gallery")) == 12
    (root / "gnd_rparis6k.pkl").write_bytes(pickle.dumps({"imlist": print}))
    with pytest.raises(UserError, match=r"gnd_rparis6k.pkl"):
        RParis6k(root).read("gallery")
    (root / "gnd_rparis6k.pkl").write_bytes(pickle.dumps({"imlist": []}))
    with pytest.raises(UserError, match="lists gnd, imlist, qimlist, and gnd is missing"):
        RParis6k(root).read("gallery")


@pytest.mark.parametrize(
    ("source", "name", "photos"),
    [(ROxford5k, "gnd_roxford5k.pkl", 4993), (RParis6k, "gnd_rparis6k.pkl", 6322)],
)
def test_published_ground_truth(shared, tmp_path, source, name, photos):
    truth = shared / "reference" / "revisitop_gnd" / name
    content = pickle.loads(truth.read_bytes())
    (tmp_path / "jpg").mkdir()
    for key in ("imlist", "qimlist"):
        (tmp_path / "jpg" / f"{content[key][0]}.jpg").write_bytes(b"")
    table = source(tmp_path, truth).read()
    is_query = (table.rows["split"] == "query").to_numpy()
    assert is_query.sum() == len(table.ground_truth) == 70
    assert len(table) - is_query.sum() == photos
    assert not np.isnan(table.boxes[is_query]).any()
    assert np.isnan(table.boxes[~is_query]).all()
