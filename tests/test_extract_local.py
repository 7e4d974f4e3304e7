"""Local features of an extraction equal those of single photos, however often it is stopped."""

import dataclasses
import os
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, mounted
from extraction_world import (
    IMAGE,
    extract,
    loaded,
    plan,
    table_of,
    write_embedder_into,
)
from PIL import Image
from test_extract_disk import fill
from test_extract_resume import STEPS, kill_at_moments, run_in_child
from test_local import drawn

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.local_parts import LocalPart, LocalParts
from landmark.artifact.partial_store import PartialStore
from landmark.artifact.whitening import Whitening
from landmark.disk.lock import staging_folder
from landmark.error import UserError
from landmark.extract import local_store
from landmark.extract.local import LocalExtraction
from landmark.image.decode import decode
from landmark.image.format import ImageFormat
from landmark.local import RootSIFT
from landmark.local.photo import reduced
from landmark.model.embedder import Embedder

COUNT = 12
NAMES = ("keypoints", "descriptors", "scores", "scales", "angles", "background")


def write_photos(root, count=COUNT):
    """Write photos with corners, in several aspect groups."""
    for number in range(count):
        width = 70 + 3 * number
        height = int(width * (0.6, 1.0, 1.6)[number % 3])
        file = root / f"{number % 4}" / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(number, width, height, 12)).save(file, quality=95)
    return root


def rootsift(top_k=20, **changes):
    settings = {"local": {"_target_": "landmark.local.RootSIFT", "top_k": top_k}, "pool": None}
    return LocalExtraction("rootsift", RootSIFT(top_k), settings, **changes)


LOCAL = (rootsift(),)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write photos, and `complete`: their store with local features."""
    root = tmp_path_factory.mktemp("world")
    write_embedder_into(root / "embedder")
    write_photos(root / "photos")
    extract(root, root / "plain")
    extract(root, root / "complete", local=LOCAL)
    return root


def contents(store):
    """Return the bytes of every file of a store and of its local features."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def select_rows(table, rows):
    return type(table)(table.root, table.rows.iloc[list(rows)].reset_index(drop=True))


def assert_features(read, expected):
    assert read.size == expected.size
    for name in NAMES:
        value, other = getattr(read, name), getattr(expected, name)
        assert (value is None) == (other is None), name
        if value is not None:
            np.testing.assert_array_equal(value, other, err_msg=name)


def photo_of(table, row):
    return np.asarray(decode(table.root / table.rows["path"][row]))


def test_features_equal_those_of_single_photos(world):
    store, table = DescriptorStore.open(world / "complete"), table_of(world / "photos")
    features = store.local("rootsift")
    assert store.ids.tolist() == table.rows["id"].tolist()
    assert features.counts.max() == 20
    for row in range(COUNT):
        assert_features(features[row], RootSIFT(20)(photo_of(table, row)))
    assert features.settings["local"] == {"_target_": "landmark.local.RootSIFT", "top_k": 20}


def test_the_descriptors_do_not_depend_on_local_features(world):
    with_local, plain = contents(world / "complete"), contents(world / "plain")
    assert plain.items() <= with_local.items()


def test_workers_and_whitening(world, tmp_path):
    whitening = Whitening(np.zeros(16), np.eye(16)[:, :5], {})
    store = extract(world, tmp_path / "s", local=LOCAL, workers=2, whitening=whitening)
    assert store.dim == 5
    complete = contents(world / "complete" / "local")
    assert contents(tmp_path / "s" / "local") == complete


class Interrupted(Exception):
    """Stops an extraction."""


def stop_after(monkeypatch, photos):
    """Interrupt the next extraction after the features of some photos."""
    append, seen = LocalPart.append, []

    def interrupted(part, row, features):
        if len(seen) == photos:
            raise Interrupted
        seen.append(row)
        append(part, row, features)

    monkeypatch.setattr(LocalPart, "append", interrupted)


def no_network(monkeypatch):
    monkeypatch.setattr(Embedder, "features", lambda *_: pytest.fail("the network ran"))


def test_a_store_gets_local_features_without_being_described(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "plain", tmp_path / "s")
    no_network(monkeypatch)
    extract(world, tmp_path / "s", local=LOCAL)
    printed = capsys.readouterr().out
    assert "s has its descriptors: only local=rootsift is extracted." in printed
    assert printed.splitlines()[-1] == f"wrote {tmp_path / 's'}/local/rootsift"
    assert contents(tmp_path / "s") == contents(world / "complete")
    extract(world, tmp_path / "s", local=LOCAL)
    assert "s is up to date (same settings); nothing to do." in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("of", ["plain", None])
@pytest.mark.parametrize("photos", [0, 5])
def test_a_stopped_extraction_resumes(world, tmp_path, monkeypatch, capsys, of, photos):
    if of is not None:
        shutil.copytree(world / of, tmp_path / "s")
    with monkeypatch.context() as context:
        stop_after(context, photos)
        with pytest.raises(Interrupted):
            extract(world, tmp_path / "s", local=LOCAL)
    assert (f"of {COUNT} photos extracted" in capsys.readouterr().out) == (photos > 0)
    if not photos:
        assert [path.name for path in tmp_path.iterdir()] == ([] if of is None else ["s"])
    seen = []
    append = LocalPart.append
    monkeypatch.setattr(
        LocalPart,
        "append",
        lambda part, row, features: seen.append(row) or append(part, row, features),
    )
    extract(world, tmp_path / "s", local=LOCAL)
    assert len(seen) < COUNT or not photos
    assert ("Resuming:" in capsys.readouterr().out) == (photos > 0)
    assert contents(tmp_path / "s") == contents(world / "complete")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


LOCAL_STEPS = [*STEPS, (LocalPart, "append"), (LocalPart, "save"), (os, "fsync")]


@pytest.mark.parametrize("how", ["fresh", "local", "add"])
def test_a_killed_extraction_resumes_to_the_same_bytes(world, tmp_path, monkeypatch, how):
    monkeypatch.setattr("test_extract_resume.STEPS", LOCAL_STEPS)
    output, table = tmp_path / "out" / "s", table_of(world / "photos")
    changes = {"local": LOCAL, "add": how == "add"}
    if how == "add":
        few = select_rows(table, range(3, 8))
        extract(world, tmp_path / "few", table=few, local=LOCAL)

    def prepare():
        shutil.rmtree(output.parent, ignore_errors=True)
        if how != "fresh":
            shutil.copytree({"local": world / "plain", "add": tmp_path / "few"}[how], output)

    work = lambda: extract(world, output, **changes)  # noqa: E731
    prepare()
    work()
    complete = contents(output)
    assert how == "add" or complete == contents(world / "complete")
    for moment in kill_at_moments(work, prepare, 2):
        assert run_in_child(work) == 0
        assert contents(output) == complete, moment
        assert [path.name for path in output.parent.iterdir()] == ["s"], moment


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(world, tmp_path):
    extract(world, tmp_path / "s", local=LOCAL, devices=2)
    assert contents(tmp_path / "s") == contents(world / "complete")


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_read_by_row(tmp_path, seed):
    rng = np.random.default_rng(seed)
    layout = {"dim": 3, "dtype": "uint8", "columns": 2, "background": False}
    expected: dict[int, LocalFeatures] = {}
    for _ in range(3):
        part = LocalPart(tmp_path, layout)
        rows = rng.permutation(10)[: rng.integers(1, 8)]
        saved = int(rng.integers(0, len(rows) + 1))
        for number, row in enumerate(rows.tolist()):
            if number == saved:
                part.save()
            count = int(rng.integers(0, 4))
            features = LocalFeatures(
                rng.random((count, 2), np.float32),
                rng.integers(0, 255, (count, 3), np.uint8),
                rng.random(count, np.float32),
                size=(row + 1, 5),
            )
            part.append(row, features)
            if number < saved:
                expected[row] = features
        if saved == len(rows):
            part.save()
        part.close()  # the rest is in the files, but not saved
    parts = LocalParts(tmp_path, 10)
    assert np.flatnonzero(parts.has_row).tolist() == sorted(expected)
    for row, features in expected.items():
        assert_features(parts[row], features)
    with pytest.raises(KeyError):
        parts[next(row for row in range(10) if row not in expected)]


def test_other_settings_are_refused(world, tmp_path, monkeypatch):
    shutil.copytree(world / "complete", tmp_path / "s")
    with pytest.raises(UserError) as caught:
        extract(world, tmp_path / "s", local=(rootsift(30),))
    assert str(caught.value).startswith(
        f"{tmp_path / 's'}/local/rootsift already exists with a different local.top_k (20, now 30)."
    )
    assert contents(tmp_path / "s") == contents(world / "complete")
    for of in (None, "plain"):
        if of:
            shutil.copytree(world / of, tmp_path / "t")
        with monkeypatch.context() as context:
            stop_after(context, 5)
            with pytest.raises(Interrupted):
                extract(world, tmp_path / "t", local=LOCAL)
        with pytest.raises(UserError, match=r"stopped extraction with a different local\.top_k"):
            extract(world, tmp_path / "t", local=(rootsift(30),))
        shutil.rmtree(staging_folder(tmp_path / "t"), ignore_errors=True)


def test_photos_are_added_with_the_local_features_of_the_store(world, tmp_path, capsys):
    table = table_of(world / "photos")
    extract(world, tmp_path / "s", table=select_rows(table, [7, 2, 4]), local=LOCAL)
    recorded = (dataclasses.replace(LOCAL[0], is_requested=False),)
    store = extract(world, tmp_path / "s", add=True, local=recorded)
    assert "Their local features are extracted as recorded: rootsift." in capsys.readouterr().out
    rows = [7, 2, 4, 0, 1, 3, 5, 6, 8, 9, 10, 11]
    complete = DescriptorStore.open(world / "complete").local("rootsift")
    for row, of_complete in enumerate(rows):
        assert_features(store.local("rootsift")[row], complete[of_complete])


def test_local_features_are_added_to_old_photos_and_new_ones(world, tmp_path, capsys):
    table = table_of(world / "photos")
    extract(world, tmp_path / "s", table=select_rows(table, range(3)))
    store = extract(world, tmp_path / "s", add=True, local=LOCAL)
    assert "Adding 9 photos to the 3" in capsys.readouterr().out
    complete = DescriptorStore.open(world / "complete").local("rootsift")
    for row in range(COUNT):
        assert_features(store.local("rootsift")[row], complete[row])


def test_photos_outside_the_table_cannot_get_local_features(world, tmp_path):
    table = table_of(world / "photos")
    extract(world, tmp_path / "s", table=select_rows(table, range(6)))
    with pytest.raises(UserError, match=r"2 of its 6 photos are not in the table, such as '000'"):
        extract(
            world, tmp_path / "s", add=True, local=LOCAL, table=select_rows(table, [2, 3, 4, 5])
        )


def test_a_stopped_extraction_of_local_features_is_not_lost_by_adding_photos(
    world, tmp_path, monkeypatch
):
    table = table_of(world / "photos")
    few = select_rows(table, range(8))
    extract(world, tmp_path / "s", table=few)
    with monkeypatch.context() as context:
        stop_after(context, 5)
        with pytest.raises(Interrupted):
            extract(world, tmp_path / "s", table=few, local=LOCAL)
    with pytest.raises(UserError, match=r"local/\.rootsift\.partial contains a stopped .* local=r"):
        extract(world, tmp_path / "s", add=True)
    extract(world, tmp_path / "s", add=True, local=LOCAL)
    assert len(DescriptorStore.open(tmp_path / "s").local("rootsift")) == COUNT


def test_overwriting_says_which_local_features_are_removed(world, tmp_path, capsys):
    shutil.copytree(world / "complete", tmp_path / "s")
    extract(world, tmp_path / "s", overwrite=True)
    assert "overwrite=true also removes the local features rootsift" in capsys.readouterr().err
    assert contents(tmp_path / "s") == contents(world / "plain")
    extract(world, tmp_path / "s", overwrite=True, local=LOCAL)
    extract(world, tmp_path / "s", overwrite=True, local=(rootsift(7),))
    assert "also removes" not in capsys.readouterr().err
    store = DescriptorStore.open(tmp_path / "s")
    assert store.local("rootsift").counts.max() == 7


def test_unreadable_photos_have_no_row_and_later_no_features(world, tmp_path, capsys):
    photos = shutil.copytree(world / "photos", tmp_path / "photos")
    whole = table_of(photos)
    table = type(whole)(whole.root, whole.rows, bad_image="skip")

    def spoil(row):
        file = photos / whole.rows["path"][row]
        file.write_bytes(file.read_bytes()[:300])

    spoil(4)
    store = extract(world, tmp_path / "s", table=table, local=LOCAL)
    rows = [row for row in range(COUNT) if row != 4]
    complete = DescriptorStore.open(world / "complete").local("rootsift")
    assert store.ids.tolist() == whole.rows["id"][rows].tolist()
    for row, of_complete in enumerate(rows):
        assert_features(store.local("rootsift")[row], complete[of_complete])
    extract(world, tmp_path / "t", table=table)
    spoil(6)
    store = extract(world, tmp_path / "t", table=table, local=LOCAL)
    assert "1 photos of the store cannot be read now" in capsys.readouterr().err
    features = store.local("rootsift")
    assert len(features) == COUNT - 1
    assert len(features[5]) == 0
    assert_features(features[6], complete[7])
    with pytest.raises(UserError, match="cannot be decoded"):
        extract(world, tmp_path / "u", table=type(whole)(whole.root, whole.rows), local=LOCAL)
    assert not (tmp_path / "u").exists()


def test_photos_without_features_are_kept_and_said_if_all_are(world, tmp_path, capsys):
    for number in range(3):
        Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / f"{number}.jpg")
    store = extract(world, tmp_path / "s", table=table_of(tmp_path), local=LOCAL)
    assert store.local("rootsift").counts.tolist() == [0, 0, 0]
    line = "none of the 3 photos has any local feature rootsift. Check the photos"
    assert capsys.readouterr().err.count(line) == 1


def test_a_photo_is_cropped_to_its_box(world, tmp_path):
    table = table_of(world / "photos")
    for name, value in zip(("left", "top", "right", "bottom"), (5, 6, 65, 40), strict=True):
        table.rows.loc[:5, f"box_{name}"] = float(value)
    table.rows.loc[:5, ["width", "height"]] = 60, 34
    features = extract(world, tmp_path / "s", table=table, local=LOCAL).local("rootsift")
    for row in range(COUNT):
        photo = photo_of(table, row)
        expected = RootSIFT(20)(np.ascontiguousarray(photo[6:40, 5:65]) if row < 6 else photo)
        assert_features(features[row], expected)


@pytest.mark.parametrize("max_side", [100, 200, 1024])
def test_a_large_photo_is_decoded_at_the_scale_that_each_part_needs(
    world, tmp_path, monkeypatch, max_side
):
    """Local features do not depend on the images of the network, nor these on local features."""
    from landmark.image import format as image_format

    Image.fromarray(drawn(1, 900, 700, 60)).save(tmp_path / "a.jpg", quality=95)
    table = table_of(tmp_path)
    extract(world, tmp_path / "plain", table=table)
    calls = []
    monkeypatch.setattr(image_format, "decode", lambda *a: calls.append(a[1]) or decode(*a))
    one = dataclasses.replace(LOCAL[0], feature=RootSIFT(20, max_side=max_side))
    store = extract(world, tmp_path / "s", table=table, local=(one,))
    np.testing.assert_array_equal(store.vectors, DescriptorStore.open(tmp_path / "plain").vectors)
    # The network takes 72 x 72 pixels here: an eighth of the JPEG.
    assert len(calls) == (1 if max_side == 100 else 2)
    features = store.local("rootsift")[0]
    assert features.size == {100: (100, 78), 200: (200, 156), 1024: (900, 700)}[max_side]
    needed = {100: (100, 78), 200: (200, 156), 1024: None}[max_side]
    photo = np.asarray(decode(tmp_path / "a.jpg", needed))
    expected = one.feature(reduced(photo, max_side))
    assert_features(features, expected)


class Corners:
    """A feature that says where it ran: the four corners of the photo."""

    dim, dtype, columns, top_k = 2, "float16", 2, 4

    def __init__(self, on_device=False):
        self.on_device = on_device
        self.device = None

    def to(self, device):
        self.device = device
        return self

    def __call__(self, photo):
        assert (self.device is not None) == self.on_device
        assert not self.on_device or torch.utils.data.get_worker_info() is None
        height, width, _ = photo.shape
        xy = np.array([(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)])
        colours = photo[xy[:, 1], xy[:, 0], :2]
        return LocalFeatures(
            xy.astype(np.float32),
            (colours / 256).astype(np.float16),
            np.arange(4, dtype=np.float32),
            size=(width, height),
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feature_on_a_device_runs_in_the_extracting_process(world, tmp_path, workers):
    table = table_of(world / "photos")
    local = [
        LocalExtraction(name, Corners(on_device), {"local": {}, "pool": None})
        for name, on_device in (("a", True), ("b", False), ("c", True))
    ]
    store = extract(world, tmp_path / "s", local=(*local, *LOCAL), workers=workers)
    for row in range(COUNT):
        expected = Corners()(photo_of(table, row))
        for name in "abc":
            assert_features(store.local(name)[row], expected)
    complete = contents(world / "complete" / "local" / "rootsift")
    assert contents(tmp_path / "s" / "local" / "rootsift") == complete


class Cells:
    """The first channels of each cell of the feature map."""

    from_maps = True
    dtype, columns, dim = "float16", 2, None

    def attach(self, embedder):
        self.dim = min(5, embedder.backbone.channels[-1])
        return self

    def from_map(self, maps, descriptors, sizes, frames):
        assert len(maps) == len(descriptors) == len(sizes) == len(frames)
        return [
            LocalFeatures(
                np.array([frame[:2]] * cells.shape[1], np.float32),
                cells.T.cpu().half().numpy(),
                np.full(cells.shape[1], float(descriptor.norm()), np.float32),
                size=size,
            )
            for cells, descriptor, size, frame in zip(
                maps[:, : self.dim].flatten(2), descriptors, sizes, frames, strict=True
            )
        ]


@pytest.mark.parametrize("later", [False, True])
def test_a_feature_of_maps_gets_the_map_at_scale_one(world, tmp_path, capsys, later):
    embedder, table = loaded(world / "embedder"), table_of(world / "photos")
    local = (LocalExtraction("cells", Cells().attach(embedder), {"local": {}, "pool": None}),)
    if later:
        shutil.copytree(world / "plain", tmp_path / "s")
    store = extract(world, tmp_path / "s", local=local)
    words = "only local=cells is extracted; the network runs for its feature maps."
    assert (words in capsys.readouterr().out) == later
    image_format = ImageFormat(**IMAGE)
    groups = table.groups(image_format)
    for row in range(COUNT):
        sizes = [image_format.scaled_size(int(groups[row]), scale) for scale in (1.0, 1.5)]
        image, _ = image_format.images(table.root / table.rows["path"][row], sizes)
        with torch.no_grad():
            expected = embedder.features(image[None]).maps[-1][0, :5].flatten(1).T
        features = store.local("cells")[row]
        assert features.size == tuple(table.rows.loc[row, ["width", "height"]])
        np.testing.assert_allclose(features.descriptors, expected, atol=2e-3)
        np.testing.assert_allclose(features.scores, 1, atol=1e-5)
    np.testing.assert_array_equal(store.vectors, DescriptorStore.open(world / "plain").vectors)


def test_a_map_of_the_centre_of_a_photo_has_its_frame(world, tmp_path):
    embedder, table = loaded(world / "embedder"), table_of(world / "photos")
    local = (LocalExtraction("cells", Cells().attach(embedder), {"local": {}, "pool": None}),)
    made = plan(world, tmp_path / "s", local=local)
    square = ImageFormat([[32, 32]], fit="crop")
    made = dataclasses.replace(
        made, extraction=dataclasses.replace(made.extraction, image_format=square)
    )
    from landmark.extract.store import write_store

    write_store(made)
    features = DescriptorStore.open(tmp_path / "s").local("cells")
    for row in range(COUNT):
        width, height = table.rows.loc[row, ["width", "height"]]
        left, top = (width - min(width, height)) / 2, (height - min(width, height)) / 2
        np.testing.assert_allclose(features[row].keypoints[0], [left, top])


@dataclasses.dataclass
class Pool:
    """The first feature of some photos, with their landmarks and descriptors."""

    descriptors: np.ndarray
    seen: tuple = ()

    @property
    def digest(self):
        return f"{self.descriptors.sum():.0f}"

    def similarity(self, features, landmark_id=None, descriptor=None):
        same_landmark = 0 if landmark_id is None else "0123".index(landmark_id) + 1
        assert descriptor.shape == (16,)
        units = [
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
            for x in (features.descriptors.astype("f4"), self.descriptors.astype("f4"))
        ]
        best = (units[0] @ units[1].T).max(axis=1, initial=-1)
        return best + np.float32(descriptor[0] + same_landmark)

    def save(self, path):
        with path.open("wb") as file:
            np.save(file, self.descriptors)


class PoolSource:
    """Draw the photos 1, 5 and 6."""

    def rows(self, photos):
        return np.array([row for row in (1, 5, 6) if row < photos])

    def draw(self, photos, landmark_ids, vectors):
        assert len(photos) == len(landmark_ids) == len(vectors)
        return Pool(np.concatenate([photo.descriptors[:1] for photo in photos]))

    def open(self, path):
        return Pool(np.load(path))


@pytest.mark.parametrize(
    ("how", "landmarks_known"),
    [("fresh", False), ("fresh", True), ("later", True), ("stopped", True), ("added", False)],
)
def test_the_background_is_the_similarity_to_a_pool_of_the_stores_photos(
    world, tmp_path, monkeypatch, how, landmarks_known
):
    one = dataclasses.replace(
        LOCAL[0], pool_source=PoolSource(), settings={**LOCAL[0].settings, "pool": "own"}
    )
    with_pool = {"local": (one,), "landmarks_known": landmarks_known}
    table = table_of(world / "photos")
    if how == "later":
        shutil.copytree(world / "plain", tmp_path / "s")
    if how == "stopped":
        with monkeypatch.context() as context:
            stop_after(context, 5)
            with pytest.raises(Interrupted):
                extract(world, tmp_path / "s", **with_pool)
        monkeypatch.setattr(PoolSource, "draw", lambda *_: pytest.fail("drawn again"))
    if how == "added":
        extract(
            world,
            tmp_path / "s",
            local=(one,),
            landmarks_known=landmarks_known,
            table=select_rows(table, range(8)),
        )
        monkeypatch.setattr(PoolSource, "draw", lambda *_: pytest.fail("drawn again"))
    store = extract(world, tmp_path / "s", **with_pool, add=how == "added")
    features, plain = store.local("rootsift"), DescriptorStore.open(world / "complete")
    drawn_rows = [plain.local("rootsift")[row].descriptors[:1] for row in (1, 5, 6)]
    pool = Pool(np.concatenate(drawn_rows))
    np.testing.assert_array_equal(np.load(features.path / "pool.npz"), pool.descriptors)
    for row in range(COUNT):
        expected = pool.similarity(
            plain.local("rootsift")[row],
            plain.landmark_ids[row] if landmarks_known else None,
            plain.vectors[row],
        )
        np.testing.assert_allclose(features[row].background, expected, atol=1e-5)
    with pytest.raises(
        UserError, match=r'pool \("own", now null\), background \(true, now false\)'
    ):
        extract(world, tmp_path / "s", local=LOCAL, add=how == "added")


def test_a_feature_that_is_not_finite_names_the_photo_and_marks_no_row(world, tmp_path):
    class Broken(Corners):
        def __call__(self, photo):
            features = super().__call__(photo)
            if photo.shape[1] == 70 + 3 * 7:
                features.scores[1] = np.nan
            return features

    local = (LocalExtraction("broken", Broken(), {"local": {}, "pool": None}),)
    with pytest.raises(UserError, match=r"007\.jpg: scores\.npy of the local features broken has"):
        extract(world, tmp_path / "s", local=local, save_every=1e9)
    work = PartialStore(staging_folder(tmp_path / "s"))
    parts = LocalParts(work.parts("broken"), COUNT)
    assert parts.has_row[work.described].all()
    assert 7 not in work.described


def test_a_disk_that_may_be_too_small_is_said_before(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local_store, "free_bytes", lambda _: 10_000)
    extract(world, tmp_path / "s", local=LOCAL)
    line = "The local features of 12 photos take up to 0.0 GB while they are extracted, and "
    assert capsys.readouterr().err.count(line) == 1


@pytest.fixture
def larger_disk(tmp_path):
    """Mount a file system of 512 KiB."""
    yield from mounted(tmp_path / "disk", "size=512k")


def test_a_full_disk_is_one_line_and_resumes(world, larger_disk, capsys):
    fill(larger_disk, leaving=100 * 1024)
    with pytest.raises(UserError, match=r"does not fit on the disk \(No space left"):
        extract(world, larger_disk / "s", local=LOCAL)
    assert not (larger_disk / "s").exists()
    (larger_disk / "filler").unlink()
    extract(world, larger_disk / "s", local=LOCAL)
    assert "Resuming:" in capsys.readouterr().out
    assert contents(larger_disk / "s") == contents(world / "complete")


@pytest.fixture
def script(world, monkeypatch, capsys):
    """Run extract.py in this process in the world's folder; return status, stdout and stderr."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("LANDMARK_CACHE", str(world / "cache"))
    common = ["embedder=embedder", "data=folder", "data.root=photos", "extract.scales=[1,1.5]"]
    common += ["batch_size=4", "workers=0", "device=cpu", "save_every=0"]

    def command(*arguments):
        settings = [one for one in arguments if "=" in one]
        flags = [one for one in arguments if "=" not in one]
        argv = [str(ROOT / "extract.py"), *flags, *common, *settings]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return command


def test_the_command_writes_and_adds_local_features(world, tmp_path, script):
    output = f"output={tmp_path / 's'}"
    status, printed, errors = script(output, "split=gallery", "local=rootsift", "local.top_k=9")
    assert status == 0, errors
    assert "flip False, local rootsift 128-d" in printed
    few = DescriptorStore.open(tmp_path / "s")
    settings = few.local("rootsift").settings
    assert settings["local"]["top_k"] == 9
    assert few.local("rootsift").counts.max() == 9
    status, printed, errors = script(output, "add=true", "split=query")
    assert status == 2
    assert "a different split" in errors
    for local in ((), ("local=rootsift", "local.top_k=8")):
        status, printed, errors = script(output, "split=gallery", *local)
        assert status == (2 if local else 0)
        assert "with a different local.top_k (9, now 8)" in errors or not local


def test_added_photos_get_the_recorded_local_features(world, tmp_path, script):
    output = f"output={tmp_path / 's'}"
    photos = tmp_path / "photos"
    shutil.copytree(world / "photos" / "0", photos / "0")
    status, _, errors = script(output, f"data.root={photos}", "local=rootsift", "local.top_k=9")
    assert status == 0, errors
    shutil.copytree(world / "photos" / "1", photos / "1")
    status, printed, errors = script(output, f"data.root={photos}", "add=true")
    assert status == 0, errors
    assert "Their local features are extracted as recorded: rootsift." in printed
    store, table = DescriptorStore.open(tmp_path / "s"), table_of(photos)
    assert len(store) == len(table) == 6
    assert store.local("rootsift").settings["local"]["top_k"] == 9
    paths = dict(zip(table.rows["id"], table.rows["path"], strict=True))
    for row, path in enumerate(store.rows["path"]):
        assert path in paths.values()
        expected = RootSIFT(9)(np.asarray(decode(photos / path)))
        assert_features(store.local("rootsift")[row], expected)
    meta = tmp_path / "s" / "local" / "rootsift" / "meta.json"
    meta.write_text(meta.read_text().replace("landmark.local.RootSIFT", "os.system"))
    shutil.copytree(world / "photos" / "2", photos / "2")
    status, printed, errors = script(output, f"data.root={photos}", "add=true")
    assert status == 2
    assert "was made by os.system, so photos cannot be added to it as recorded" in errors


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["background=own"], "background=own needs local features. Pass local=<choice>."),
        (["local=rootsift", "local.top_k=0"], "local.top_k=0 is not valid. Pass a whole number"),
        (["local=rootsift", "local.max_side=big"], "local.max_side=big is not valid. Pass a whole"),
        (["local=rootsift", "local.dtype=int8"], "Pass one of uint8, float16."),
        (["local=sift"], "rootsift"),
        (["local=[rootsift,rootsift]"], "local accepts one choice. Choose one, or sweep with -m"),
        (["local=rootsift", "local.k=3"], "k"),
        (["local=rootsift", "background=plain"], "plain has no local features 'rootsift', nor any"),
        (["local=rootsift", "background=complete"], "with a different local."),
    ],
)
def test_a_bad_value_is_one_line_and_writes_nothing(tmp_path, script, arguments, line):
    status, _, errors = script(f"output={tmp_path / 's'}", *arguments)
    assert status == 2
    assert line in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_help_and_the_configuration_show_the_local_features(script):
    status, printed, _ = script("--help", "local=rootsift")
    assert status == 0
    assert "local: " in printed
    assert "rootsift" in printed
    assert "top_k" in printed
    status, printed, _ = script("--cfg", "job", "local=rootsift", "output=x")
    assert status == 0
    assert "max_side: 1024" in printed
