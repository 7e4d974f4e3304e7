"""The toy world: the same settings give the same photos in any process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from miniature import LANDMARKS, PHOTOS, toy
from PIL import Image

from landmark.data import ImageTable, Toy
from landmark.error import UserError
from landmark.toy import world as toy_world
from landmark.toy.design import COLUMNS, EMBLEMS, OPENINGS, ROOFS, WALLS, draw_design, draw_style
from landmark.toy.facade import draw_front, draw_side
from landmark.toy.photo import take_photo


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ImageTable:
    return toy(tmp_path_factory.mktemp("toy")).read()


def photos_of(table: ImageTable) -> list[bytes]:
    return [(table.root / path).read_bytes() for path in table.rows["path"]]


def test_a_seed_determines_the_photos(world, tmp_path):
    again, other = toy(tmp_path).read(), toy(tmp_path, seed=1).read()
    assert len(world) == LANDMARKS * PHOTOS
    assert again.digest == world.digest
    assert photos_of(again) == photos_of(world)
    assert photos_of(other)[0] != photos_of(world)[0]
    assert {path.name for path in tmp_path.iterdir()} == {again.root.name, other.root.name}
    assert world.rows["split"].tolist() == again.rows["split"].tolist()


def test_a_photo_does_not_depend_on_the_number_of_photos(world, tmp_path):
    fewer = toy(tmp_path, photos=2, landmarks=3, styles=3).read()
    path = fewer.rows["path"].iloc[0]
    assert (fewer.root / path).read_bytes() == (world.root / path).read_bytes()


@pytest.mark.parametrize("method", ["spawn", None])
def test_every_start_method_draws_the_same_photos(world, tmp_path, monkeypatch, method):
    """macOS and Windows spawn processes; None is the system's default."""
    monkeypatch.setattr(toy_world, "_START_METHOD", method)
    monkeypatch.setattr(toy_world, "usable_cpus", lambda: 2)
    assert photos_of(toy(tmp_path).read()) == photos_of(world)


def test_one_cpu_draws_without_processes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_world, "usable_cpus", lambda: 1)
    monkeypatch.setattr(toy_world.multiprocessing, "get_context", None)
    assert photos_of(toy(tmp_path).read()) == photos_of(world)


def test_a_world_is_cached_under_its_settings(world, tmp_path, monkeypatch):
    source = toy(tmp_path)
    source.read()
    monkeypatch.setattr(toy_world, "draw_landmark", None)
    assert toy(tmp_path).read().root == source.root
    others = [replace(source.world, **{name: 9}) for name in ("landmarks", "photos", "seed")]
    others += [replace(source.world, styles=4), replace(source.world, scale=0.5)]
    assert len({one.folder(tmp_path) for one in [source.world, *others]}) == 6
    # The name of the folder is fixed, so that worlds of earlier versions remain valid.
    assert Toy(tmp_path, landmarks=3, photos=2, styles=1, scale=0.5).root.name == "ca6caad497726678"


def test_a_failed_drawing_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(toy_world, "draw_landmark", fail)
    monkeypatch.setattr(toy_world, "usable_cpus", lambda: 1)
    with pytest.raises(OSError, match="no"):
        toy(tmp_path).read()
    assert not list(tmp_path.iterdir())


def test_a_world_is_drawn_only_into_a_folder_of_its_own(tmp_path):
    def photos(name: str) -> Path:
        file = tmp_path / name / "arch" / "1.jpg"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"photo")
        return tmp_path / name

    hidden = tmp_path / "hidden"
    (hidden / ".git").mkdir(parents=True)
    mixed = photos("mixed")
    toy(tmp_path / "worlds", landmarks=2, photos=1).read().root.rename(mixed / ("0" * 16))
    for root in (photos("photos"), hidden, mixed):
        before = sorted(root.rglob("*"))
        with pytest.raises(UserError, match=r"data\.root=.* contains other files, such as \S+; "):
            toy(root).read()
        assert sorted(root.rglob("*")) == before


def test_worlds_share_a_folder_with_what_a_file_manager_adds(tmp_path):
    root = tmp_path / "empty"
    root.mkdir()
    toy(root, landmarks=2, photos=1).read()
    (root / ".DS_Store").touch()
    (root / f".{'0' * 16}.killed").mkdir()
    assert len(toy(root, landmarks=2, photos=2).read()) == 4


def test_another_process_may_finish_first(world, tmp_path, monkeypatch):
    source = toy(tmp_path)
    draw = toy_world.draw_landmark

    def draw_and_lose(one, folder, number):
        draw(one, folder, number)
        (source.root / str(number)).mkdir(parents=True)
        (source.root / str(number) / "0.jpg").touch()

    monkeypatch.setattr(toy_world, "draw_landmark", draw_and_lose)
    monkeypatch.setattr(toy_world, "usable_cpus", lambda: 1)
    assert source.world.make(tmp_path) == source.root
    assert list(tmp_path.iterdir()) == [source.root]


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"landmarks": 0}, "landmarks=0 is not valid. Pass a whole number > 0"),
        ({"photos": 0}, "photos=0 is not valid"),
        ({"styles": 0}, "styles=0 is not valid"),
        ({"scale": 0.0}, "scale=0.0 is not valid. Pass a number > 0"),
    ],
)
def test_settings_out_of_range(tmp_path, option, match):
    with pytest.raises(UserError, match=match):
        toy(tmp_path, **option)


@pytest.mark.parametrize(
    ("name", "values"),
    [("roof", ROOFS), ("opening", OPENINGS), ("columns", COLUMNS), ("wall", WALLS)],
)
def test_every_style_can_be_drawn(name, values):
    for value in values:
        random = np.random.default_rng(0)
        style = replace(draw_style(random), **{name: value})
        check_photo(draw_design(style, random), random)


@pytest.mark.parametrize("emblem", EMBLEMS)
def test_every_emblem_can_be_drawn(emblem):
    random = np.random.default_rng(1)
    check_photo(replace(draw_design(draw_style(random), random), emblem=emblem), random)


def check_photo(design, random):
    front, side = draw_front(design, random), draw_side(design, random)
    assert np.asarray(front)[..., 3].any()
    assert np.asarray(side)[..., 3].all()
    photo, quality = take_photo(design, front, side, random, scale=0.3)
    assert isinstance(photo, Image.Image)
    assert photo.mode == "RGB"
    assert 35 <= quality < 93
    assert np.asarray(photo).std() > 1
