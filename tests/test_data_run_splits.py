"""Later commands on a run's photos use the splits that the run keeps, and say what has changed."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import google_landmarks, toy
from PIL import Image

from landmark.artifact.descriptors import DescriptorStore
from landmark.data import Folder, GLDv2, Table
from landmark.data.earlier_splits import draw_earlier_splits
from landmark.data.run_splits import RunSplits, write_split_table
from landmark.data.splits import draw_splits
from landmark.error import UserError

TINY = [
    *("model=resnet10t", "model.backbone=test_efficientnet", "model.embedding_dim=8"),
    *("image=px96", "image.sizes=[[64,64]]", "batch_size=8", "workers=0", "trainer=cpu"),
    *("trainer.max_epochs=1", "trainer.enable_progress_bar=false", "hydra.run.dir=run"),
]
EXTRACT = ["embedder=run/embedder", "workers=0", "extract=single"]


def write_photos(root: Path, landmarks: str = "abcdefgh", count: int = 10) -> Path:
    """Write files whose names are unique in the set; lists of photos are read without decoding."""
    for landmark in landmarks:
        (root / landmark).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / landmark / f"{landmark}{number}.jpg").write_bytes(b"")
    return root


def keep(source, file: Path) -> pd.DataFrame:
    """Write the splits of a run, and return them by id."""
    table = source.split_table()
    write_split_table(file, table, source.root)
    return table.set_index("id")


def again(source, file: Path):
    source.splitter.run = RunSplits(file)
    return source


def splits_of(source) -> pd.Series:
    return source.read().rows.set_index("id")["split"]


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "run" / "splits.parquet"


def add_one(root):
    (root / "a" / "new.jpg").touch()


def add_many(root):
    for number in range(200):
        (root / "b" / f"new{number}.jpg").touch()


def add_a_landmark(root):
    write_photos(root, "z", 30)


def remove_one(root):
    (root / "a" / "a3.jpg").unlink()


def remove_most(root):
    for path in sorted((root / "a").iterdir())[2:]:
        path.unlink()


def remove_landmarks(root):
    for name in "cdef":
        shutil.rmtree(root / name)


def add_and_remove(root):
    add_many(root)
    remove_most(root)
    remove_landmarks(root)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda _: None, []),
        (add_one, ["1 photo is new since training: 1 gallery (such as a/new.jpg)."]),
        (add_many, ["200 photos are new since training: "]),
        (add_a_landmark, ["30 photos are new since training: "]),
        (remove_one, ["1 photo of the training is gone (such as a/a3.jpg)."]),
        (remove_most, ["8 photos of the training are gone (such as a/a2.jpg)."]),
        (remove_landmarks, ["40 photos of the training are gone (such as c/c0.jpg)."]),
        (add_and_remove, ["200 photos are new since training: ", "48 photos of the training are "]),
    ],
)
def test_photos_that_a_run_knows_keep_their_splits(photos, file, change, lines):
    before = keep(Folder(photos), file)["split"]
    change(photos)
    source = again(Folder(photos), file)
    after = splits_of(source)
    known = after.index.intersection(before.index)
    assert (after[known] == before[known]).all()
    assert len(source.splitter.notes) == len(lines)
    for note, line in zip(source.splitter.notes, lines, strict=True):
        assert note.startswith(f"{file}: {line}")
    new = after.drop(known)
    if len(new) == 200:  # drawn by the rule, without minimum counts
        plain = splits_of(Folder(photos))[new.index]
        assert (new == plain).all()
        assert set(new) == {"train", "query", "gallery"}
    if len(new) == 30:
        assert set(new) == {"train", "query", "gallery"}


def move_one(root):
    (root / "a" / "a3.jpg").rename(root / "b" / "a3.jpg")


def rename_a_landmark(root):
    (root / "c").rename(root / "cathedral")


def merge_landmarks(root):
    for path in (root / "d").iterdir():
        path.rename(root / "e" / path.name)
    (root / "d").rmdir()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (move_one, "1 photo has moved since training (such as a/a3.jpg, now b/a3.jpg) and keeps"),
        (rename_a_landmark, "10 photos have moved since training (such as c/c0.jpg, now cathedral"),
        (merge_landmarks, "10 photos have moved since training (such as d/d0.jpg, now e/d0.jpg)"),
    ],
)
def test_photos_in_another_folder_keep_their_splits(photos, file, change, line):
    def by_name(splits: pd.Series) -> pd.Series:
        return splits.set_axis([name.rpartition("/")[2] for name in splits.index]).sort_index()

    before = keep(Folder(photos), file)["split"]
    change(photos)
    source = again(Folder(photos), file)
    assert by_name(splits_of(source)).equals(by_name(before))
    assert source.splitter.notes[0].startswith(f"{file}: {line}")
    assert len(source.splitter.notes) == 1


def test_of_several_gone_photos_of_one_name_one_that_was_trained_on_is_meant(tmp_path, file):
    root = tmp_path / "photos"
    for landmark in "abcdef":
        for number in range(8):
            (root / landmark).mkdir(parents=True, exist_ok=True)
            (root / landmark / f"{number}.jpg").touch()
    before = keep(Folder(root), file)["split"]
    for landmark in "abcdef":
        (root / landmark).rename(root / f"{landmark}_tower")
    after = splits_of(again(Folder(root), file))
    trained = {name.rpartition("/")[2] for name in before.index[before == "train"]}
    for name, split in after.items():
        assert split == "train" or name.rpartition("/")[2] not in trained


def test_names_in_another_unicode_form_are_the_same_photos(tmp_path, file):
    for form in ("NFC", "NFD"):
        folder = tmp_path / form / unicodedata.normalize(form, "Köln")
        folder.mkdir(parents=True)
        for number in range(40):
            (folder / unicodedata.normalize(form, f"é{number}.jpg")).touch()
    before = keep(Folder(tmp_path / "NFC"), file)["split"]
    other = Folder(tmp_path / "NFD")
    assert splits_of(other).sort_index().tolist() == before.sort_index().tolist()
    source = again(Folder(tmp_path / "NFD"), file)
    assert splits_of(source).sort_index().tolist() == before.sort_index().tolist()
    assert not source.splitter.changes


def write_listing(root: Path, changed: dict[str, str]) -> None:
    paths = sorted(str(path.relative_to(root)) for path in root.glob("*/*.jpg"))
    splits = {path: ("query", "gallery", "train")[min(int(path[3]), 2)] for path in paths} | changed
    frame = pd.DataFrame({"path": splits.keys(), "split": splits.values()})
    frame.to_csv(root / "splits.csv", index=False)


def test_a_listing_that_changed_does_not_move_photos_between_train_and_query(photos, file):
    write_listing(photos, {})
    before = keep(Folder(photos), file)["split"]
    write_listing(photos, {"a/a5.jpg": "query", "b/b0.jpg": "train"})
    source = again(Folder(photos), file)
    assert (splits_of(source) == before[splits_of(source).index]).all()
    assert source.splitter.notes == [
        f"{file}: 2 photos have another split than in training (such as a/a5.jpg: train, now query)"
        " and keep their splits of training."
    ]
    (photos / "splits.csv").unlink()
    assert (splits_of(again(Folder(photos), file)).sort_index() == before.sort_index()).all()
    (photos / "a" / "a99.jpg").touch()
    write_listing(photos, {"a/a99.jpg": "query"})
    source = again(Folder(photos), file)
    assert splits_of(source)["a/a99.jpg"] == "query"
    assert [change.kind for change in source.splitter.changes] == ["new"]


def test_a_table_keeps_splits_and_held_out_photos_by_id(tmp_path, photos, file):
    rows = Folder(photos).read().rows[["path", "landmark_id"]]
    rows.insert(0, "id", [f"p{number}" for number in range(len(rows))])
    rows.loc[rows.index[-5:], "landmark_id"] = None
    rows.to_csv(tmp_path / "table.csv", index=False)
    source = Table(photos, tmp_path / "table.csv", validation="train")
    before = keep(source, file)
    assert set(before["held_out"].dropna()) == {"query", "gallery"}
    rows.loc[[3, 4], "landmark_id"] = ["h", "h"]
    more = pd.DataFrame({"id": ["new"], "path": ["a/a0.jpg"], "landmark_id": ["a"]})
    pd.concat([rows.sample(frac=1, random_state=1), more]).to_csv(
        tmp_path / "table.csv", index=False
    )
    source = again(Table(photos, tmp_path / "table.csv", validation="train"), file)
    after = source.split_table().set_index("id")
    for name in ("split", "held_out"):
        known = after.loc[before.index, name]
        assert known.fillna("").tolist() == before[name].fillna("").tolist()
    assert [(change.kind, change.count) for change in source.splitter.changes] == [
        ("new", 1),
        ("relabelled", 2),
    ]
    assert " have another landmark than in training (such as p" in source.splitter.notes[1]
    held_out = pd.concat([table.rows["id"] for table in source.validation()])
    assert set(held_out) >= set(before.index[before["held_out"].notna()])
    assert not set(held_out) & set(source.read("train").rows["id"])


@pytest.mark.parametrize("added", ["5,ffff0001", "999,ffff0001", "5,ffff0001 5,ffff0002"])
def test_gldv2_keeps_its_held_out_photos(tmp_path, file, added):
    toy(tmp_path / "toy").read()
    root = google_landmarks(tmp_path / "toy", tmp_path / "gldv2", folders=True)
    before = keep(GLDv2(root, validation_landmarks=3), file)
    assert set(before["split"]) == {"train"}
    with (root / "train.csv").open("a") as csv:
        csv.writelines(
            f"{photo},http://example.org/x,{landmark}\n"
            for landmark, photo in (pair.split(",") for pair in added.split())
        )
    source = again(GLDv2(root, validation_landmarks=3), file)
    train = source.read("train")
    after = source.split_table().set_index("id")
    known = after.loc[before.index, "held_out"].fillna("")
    assert known.tolist() == before["held_out"].fillna("").tolist()
    assert len(train) == (after["held_out"].isna()).sum()
    assert [change.kind for change in source.splitter.changes] == ["new"]
    query = again(GLDv2(root), file)
    assert len(query.read("query")) == 6  # published: read without train.csv
    assert not query.splitter.notes


def test_a_damaged_table_and_another_root(photos, file, tmp_path):
    keep(Folder(photos), file)
    assert RunSplits(file).is_of(photos)
    assert not RunSplits(file).is_of(write_photos(tmp_path / "others"))
    (tmp_path / "link").symlink_to(photos)
    assert RunSplits(file).is_of(tmp_path / "link")
    moved = tmp_path / "disk" / "photos"
    moved.parent.mkdir()
    photos.rename(moved)
    assert RunSplits(file).is_of(moved)
    for content in (b"", b"not parquet"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"splits.parquet is not a table of splits \("):
            RunSplits(file)
    pd.DataFrame({"id": ["a"]}).to_parquet(file)
    with pytest.raises(UserError, match="is not a table of splits"):
        RunSplits(file)


@pytest.fixture(scope="module")
def trained(scripts, tmp_path_factory) -> Path:
    """Return a folder with `photos`, `table.csv` and a run that can be resumed."""
    root = tmp_path_factory.mktemp("trained")
    write_photos(root / "photos", "abcd", 8)
    random = np.random.default_rng(0)
    for path in sorted((root / "photos").glob("*/*.jpg")):
        Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path)
    rows = Folder(root / "photos").read().rows[["id", "path", "landmark_id"]].sort_values("id")
    rows.to_csv(root / "photos" / "table.csv", index=False)
    scripts.run("train.py", *TINY, "keep=last", *data("table"), cwd=root)
    return root


def data(choice: str) -> list[str]:
    return [f"data={choice}", "data.root=photos"]


@pytest.fixture
def workdir(trained, tmp_path) -> Path:
    """Return a copy of `trained`."""
    return Path(shutil.copytree(trained, tmp_path / "work"))


def change_table(workdir: Path, change) -> None:
    file = workdir / "photos" / "table.csv"
    change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)


def with_added(rows):
    return pd.concat([rows, rows[:1].assign(id="new")])


def with_other_landmark(rows):
    return rows.assign(landmark_id=["b", *rows["landmark_id"][1:]])


def with_splits(rows):
    return rows.assign(split=["train", "query", "gallery", "train"] * 8)


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_added, "(1 new, such as new)"),
        (lambda rows: rows[3:], "(3 gone, such as a/a0.jpg)"),
        (with_other_landmark, "(1 with another landmark, such as a/a0.jpg: a, now b)"),
        (with_splits, "with another split, such as "),
    ],
)
def test_a_run_is_not_resumed_with_other_photos(scripts, workdir, change, expected, is_finished):
    if not is_finished:
        (workdir / "run" / "result.json").unlink()
    before = {path: path.read_bytes() for path in (workdir / "run").rglob("*.*") if path.is_file()}
    change_table(workdir, change)
    result = scripts.run("train.py", *TINY, "keep=last", *data("table"), cwd=workdir, status=2)
    [line] = result.stderr.splitlines()
    assert line.startswith("error: run contains a run with different photos (")
    assert expected in line
    assert line.endswith("or overwrite=true to start over.")
    for path, content in before.items():
        if ".hydra" not in path.parts:
            assert path.read_bytes() == content


def test_the_same_photos_resume_and_overwrite_starts_over(scripts, workdir):
    change_table(workdir, lambda rows: rows.sample(frac=1, random_state=0))
    table = (workdir / "run" / "splits.parquet").read_bytes()
    finished = scripts.run("train.py", *TINY, "keep=last", *data("table"), cwd=workdir)
    assert "run is up to date" in finished.stdout
    (workdir / "run" / "result.json").unlink()
    resumed = scripts.run("train.py", *TINY, "keep=last", *data("table"), cwd=workdir)
    assert "resumes     run/checkpoints/last.ckpt" in resumed.stdout
    assert (workdir / "run" / "splits.parquet").read_bytes() == table
    change_table(workdir, with_added)
    options = [*TINY, "keep=last", *data("table"), "overwrite=true", "trainer.max_epochs=0"]
    scripts.run("train.py", *options, cwd=workdir)
    assert "new" in set(pd.read_parquet(workdir / "run" / "splits.parquet")["id"])


@pytest.mark.parametrize("embedder", ["run/embedder", "run/checkpoints/last.ckpt"])
def test_extraction_never_describes_a_trained_photo_as_query(scripts, workdir, embedder):
    before = pd.read_parquet(workdir / "run" / "splits.parquet").set_index("id")["split"]
    gone = {"a/a1.jpg", "b/b2.jpg"}
    change_table(
        workdir, lambda rows: with_added(rows[~rows["id"].isin(gone)]).assign(split="query")
    )
    options = [f"embedder={embedder}", *EXTRACT[1:], *data("table"), "data.seed=5"]
    result = scripts.run("extract.py", *options, "split=query", "output=query", cwd=workdir)
    ids = set(DescriptorStore.open(workdir / "query").ids)
    assert ids == set(before.index[before == "query"]) - gone | {"new"}
    lines = [line for line in result.stderr.splitlines() if "splits.parquet" in line]
    assert lines[0] == ("run/splits.parquet: 1 photo is new since training: 1 query (such as new).")
    assert lines[1].startswith("run/splits.parquet: 2 photos of the training are gone (such as ")
    assert " have another split than in training (such as " in lines[2]
    assert len(lines) == 3


@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_run_without_a_table_says_that_its_splits_are_recomputed(scripts, workdir, is_earlier):
    """A run of an earlier version says nothing of a table in its embedder.yaml."""
    rows = pd.read_csv(workdir / "photos" / "table.csv", dtype=str)
    if is_earlier:
        file = workdir / "run" / "embedder" / "embedder.yaml"
        file.write_text(file.read_text().replace("split_table: splits.parquet\n", ""))
        expected = set(rows["id"][draw_earlier_splits(rows, 0.1, 0.2, seed=0) == "query"])
    else:
        expected = set(rows["id"][draw_splits(rows, 0.1, 0.2, seed=0).splits == "query"])
    (workdir / "run" / "splits.parquet").unlink()
    result = scripts.run("extract.py", *EXTRACT, "split=query", "output=query", cwd=workdir)
    assert set(DescriptorStore.open(workdir / "query").ids) == expected
    line = (
        "run has no splits.parquet, so its splits are recomputed: those of training only if no "
        "photo was added or removed since."
    )
    assert result.stderr.count(line) == 1


def test_a_run_is_moved_with_its_photos(scripts, workdir):
    """The photos lie at the recorded data.root, relative to the working folder."""
    change_table(workdir, with_added)
    options = [f"embedder={workdir}/run/embedder", *EXTRACT[1:], *data("table")]
    options[-1] = f"data.root={workdir}/photos"
    result = scripts.run("extract.py", *options, "split=query", "output=query", cwd=workdir)
    assert "run/splits.parquet: 1 photo is new since training: " in result.stderr


@pytest.mark.parametrize(("options", "is_kept"), [([], True), (["data.seed=5"], False)])
def test_a_run_that_starts_from_another_uses_its_splits(scripts, workdir, options, is_kept):
    before = pd.read_parquet(workdir / "run" / "splits.parquet").set_index("id")["split"]
    moved = {photo: f"moved/{photo.rpartition('/')[2]}" for photo in before.index[:8]}
    change_table(workdir, lambda rows: rows.replace({"id": moved}))
    options = [*TINY, "keep=last", *data("table"), "init=run/embedder", *options]
    options += ["trainer.max_epochs=0", "hydra.run.dir=second"]
    result = scripts.run("train.py", *options, cwd=workdir)
    after = pd.read_parquet(workdir / "second" / "splits.parquet").set_index("id")["split"]
    is_same = after[[moved.get(photo, photo) for photo in before.index]].tolist() == before.tolist()
    assert is_same == is_kept
    assert ("run/splits.parquet: 8 photos have moved since training" in result.stdout) == is_kept


def test_photos_of_another_root_have_splits_of_their_own(scripts, workdir):
    shutil.copytree(workdir / "photos", workdir / "others")
    options = [*EXTRACT, "data=table", "data.root=others", "data.seed=5", "split=query"]
    result = scripts.run("extract.py", *options, "output=query", cwd=workdir)
    rows = pd.read_csv(workdir / "photos" / "table.csv", dtype=str)
    expected = set(rows["id"][draw_splits(rows, 0.1, 0.2, seed=5).splits == "query"])
    assert set(DescriptorStore.open(workdir / "query").ids) == expected
    assert "splits.parquet" not in result.stderr
