"""Small data sets in the official layouts, made of photos of the toy world."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.data import Toy

LANDMARKS, PHOTOS = 6, 8


def toy(root: Path, **options) -> Toy:
    """Return a toy world of 48 photos of about 130 × 100 pixels."""
    settings = {"landmarks": LANDMARKS, "photos": PHOTOS, "scale": 0.4} | options
    return Toy(root, **settings)


def world_rows(root: Path) -> tuple[Path, pd.DataFrame]:
    """Return the folder of the toy world and its rows, with a hexadecimal id for each photo."""
    table = toy(root).read()
    rows = with_fixed_splits(table.rows.sort_values("path", ignore_index=True))
    rows["hex"] = [f"{(number * 2654435761) % 2**32:08x}" for number in range(len(rows))]
    return table.root, rows


def with_fixed_splits(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with one query, two gallery and five train photos of each landmark."""
    number = rows.groupby("landmark_id").cumcount()
    splits = np.select([number == 0, number <= 2], ["query", "gallery"], "train")
    return rows.assign(split=splits)


def copy_photos(source: Path, paths: pd.Series, root: Path, targets: list[str]) -> None:
    for path, target in zip(paths, targets, strict=True):
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, root / target)


def _landmark_numbers(landmark: pd.Series) -> pd.Series:
    """Return landmark numbers that sort differently as numbers and as text."""
    return (landmark.astype(int) * 7 + 5).astype(str)


def google_landmarks(world: Path, root: Path, *, folders: bool, extra_train: str = "") -> Path:
    """Write GLDv2 (`folders`: train/a/b/c/<id>.jpg) or GLDv1 (train/<id>.jpg) and its CSVs."""
    source, rows = world_rows(world)
    for split, name in (("train", "train"), ("query", "test"), ("gallery", "index")):
        part = rows[rows["split"] == split]
        targets = [
            f"{name}/{'/'.join(key[:3]) + '/' if folders else ''}{key}.jpg" for key in part["hex"]
        ]
        copy_photos(source, part["path"], root, targets)
        listing = pd.DataFrame({"id": part["hex"], "url": "http://example.org/a,b"})
        if split == "train":
            listing["landmark_id"] = _landmark_numbers(part["landmark_id"])
        listing.to_csv(root / f"{name}.csv", index=False)
    if extra_train:
        with (root / "train.csv").open("a") as file:
            file.write(extra_train)
    return root


def google_landmarks_clean(world: Path, root: Path) -> Path:
    """Write GLDv2 with a `train_clean.csv` of the first three train photos per landmark."""
    google_landmarks(world, root, folders=True)
    train = pd.read_csv(root / "train.csv", dtype=str)
    clean = train.groupby("landmark_id", sort=False).head(3)
    lists = clean.groupby("landmark_id", sort=False)["id"].agg(" ".join)
    lists.rename("images").reset_index().to_csv(root / "train_clean.csv", index=False)
    (root / "train.csv").unlink()
    return root


def revisited(world: Path, root: Path, name: str = "gnd_roxford5k.pkl") -> Path:
    """Write ROxford: two queries with boxes, whose landmark's photos are easy or hard."""
    source, rows = world_rows(world)
    gallery, query = rows[rows["split"] == "gallery"], rows[rows["split"] == "query"].iloc[:2]
    both = pd.concat([gallery, query])
    copy_photos(source, both["path"], root, [f"jpg/{key}.jpg" for key in both["hex"]])
    truth = []
    for landmark in query["landmark_id"]:
        positives = np.flatnonzero((gallery["landmark_id"] == landmark).to_numpy()).tolist()
        entry = {"bbx": [10.4, 8.6, 60.2, 70.9], "easy": positives[:1], "hard": positives[1:]}
        truth.append(entry | {"junk": []})
    content = {"imlist": gallery["hex"].tolist(), "qimlist": query["hex"].tolist(), "gnd": truth}
    (root / name).write_bytes(pickle.dumps(content))
    return root
