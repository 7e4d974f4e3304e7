"""An extraction killed at any moment goes on and ends like one that never was."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from extraction_world import (
    DIM,
    PHOTOS,
    WithoutPhotos,
    extract,
    files_of,
    table_of,
    write_embedder_into,
    write_world,
)

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.unfinished import UnfinishedStore
from landmark.disk import atomic
from landmark.disk.lock import locked, staging_folder
from landmark.error import UserError
from landmark.extract import extraction
from landmark.extract.extraction import Extraction
from landmark.extract.multiscale import MultiScale
from landmark.extract.whitening import Whitening

# Each step that an extraction does to the disk; it is killed before or after one of them.
STEPS = [
    (UnfinishedStore, "add"),
    (UnfinishedStore, "save"),
    (np.memmap, "flush"),
    (np, "save"),
    (os, "replace"),
    (os, "posix_fallocate"),
    (Path, "rename"),
    (Path, "mkdir"),
    (Path, "write_text"),
    (pd.DataFrame, "to_parquet"),
    (pd.DataFrame, "to_csv"),
    (atomic, "exchange"),
    (shutil, "rmtree"),
]
SEED = int(os.environ.get("LANDMARK_KILL_SEED", "0"))
MOMENTS = int(os.environ.get("LANDMARK_KILLS", "3"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def in_a_process(work, kill_at=None, counter=None):
    """Runs `work` in a child that kills itself at one of its moments; gives its exit status."""

    def child():
        torch.set_num_threads(1)
        seen = 0

        def moment():
            nonlocal seen
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            if counter is not None:
                counter.value = seen

        for owner, name in STEPS:
            setattr(owner, name, stepping(getattr(owner, name), moment))
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode


def stepping(call, moment):
    def stepped(*arguments, **keywords):
        moment()
        result = call(*arguments, **keywords)
        moment()
        return result

    return stepped


def killed(work, prepare, count=MOMENTS):
    """Kills `work` at seeded moments, spread over all it has; yields after each kill."""
    counter = multiprocessing.get_context("fork").Value("i", 0)
    prepare()
    assert in_a_process(work, counter=counter) == 0
    random = np.random.default_rng(SEED)
    for part in np.array_split(np.arange(counter.value), min(count, counter.value)):
        prepare()
        moment = int(random.choice(part))
        assert in_a_process(work, kill_at=moment) == -signal.SIGKILL
        yield moment


def test_killed_at_seeded_moments_it_ends_with_the_same_bytes(world, tmp_path):
    output = tmp_path / "s"
    work = lambda: extract(world, output)  # noqa: E731
    for moment in killed(work, lambda: shutil.rmtree(output, ignore_errors=True)):
        assert in_a_process(work) == 0
        assert files_of(output) == files_of(world / "whole"), moment
        assert [path.name for path in tmp_path.iterdir()] == ["s"], moment


def test_photos_left_out_stay_left_out_after_a_kill(world, tmp_path, monkeypatch):
    monkeypatch.setattr(WithoutPhotos, "bad", frozenset(["003", "012", "019"]))
    monkeypatch.setattr(extraction, "ScaledPhotoDataset", WithoutPhotos)
    extract(world, tmp_path / "whole")
    output = tmp_path / "out" / "s"
    work = lambda: extract(world, output)  # noqa: E731
    for moment in killed(work, lambda: shutil.rmtree(output.parent, ignore_errors=True), 2):
        assert in_a_process(work) == 0
        assert files_of(output) == files_of(tmp_path / "whole"), moment


@pytest.mark.parametrize("how", ["add", "overwrite"])
def test_a_kill_leaves_the_old_store_or_the_new_one(world, tmp_path, how):
    table = table_of(world / "photos")
    few = type(table)(table.root, table.rows.iloc[5:12].reset_index(drop=True))
    extract(world, tmp_path / "old", table=few)
    output = tmp_path / "out" / "s"

    def prepare():
        shutil.rmtree(output.parent, ignore_errors=True)
        shutil.copytree(tmp_path / "old", output)

    work = lambda: extract(world, output, **{how: True})  # noqa: E731
    prepare()
    work()
    allowed = files_of(tmp_path / "old"), files_of(output)
    for moment in killed(work, prepare, 2):
        assert files_of(output) in allowed, moment
        assert in_a_process(work) == 0
        assert files_of(output) == allowed[1], moment
        assert [path.name for path in output.parent.iterdir()] == ["s"], moment


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """The next extraction is interrupted before batch number `batches`."""
    add, seen = UnfinishedStore.add, []

    def interrupted(work, *arguments):
        if len(seen) == batches:
            raise error
        seen.append(None)
        add(work, *arguments)

    monkeypatch.setattr(UnfinishedStore, "add", interrupted)


def stopped(world, output, monkeypatch, **changes):
    with monkeypatch.context() as context:
        stop_after(context, 4)
        with pytest.raises(KeyboardInterrupt):
            extract(world, output, **changes)


def test_what_is_described_is_not_described_again(world, tmp_path, monkeypatch, capsys):
    stopped(world, tmp_path / "s", monkeypatch)
    done = UnfinishedStore(staging_folder(tmp_path / "s")).done
    assert 0 < done < PHOTOS
    assert f"stopped: {done} of {PHOTOS} photos are described" in capsys.readouterr().out
    described = []
    add = UnfinishedStore.add
    monkeypatch.setattr(
        UnfinishedStore,
        "add",
        lambda work, rows, vectors: described.extend(rows) or add(work, rows, vectors),
    )
    extract(world, tmp_path / "s")
    assert len(described) == PHOTOS - done
    assert f"goes on: {done} of {PHOTOS} photos" in capsys.readouterr().out
    assert files_of(tmp_path / "s") == files_of(world / "whole")


def changed(world, key):
    """Changes of the plan, each of one setting."""
    if key == "embedder":
        return {"embedder": write_embedder_into(world / "other", seed=1)}
    if key == "table":
        table = table_of(world / "photos")
        return {"table": type(table)(table.root, table.rows.iloc[:-1])}
    if key == "whitening":
        return {key: Whitening(np.zeros(DIM), np.eye(DIM), {})}
    methods = {"scales": MultiScale((1.0,)), "flip": MultiScale((1.0, 1.5), flip=True)}
    if key in methods:
        return {"method": methods[key]}
    return {key: {"dtype": "float16", "precision": "bf16", "batch_size": 5}[key]}


KEYS = ["embedder", "table", "scales", "flip", "dtype", "precision", "whitening"]


@pytest.mark.parametrize("key", [*KEYS, "batch_size"])
def test_a_changed_setting_stops_a_stopped_extraction(world, tmp_path, monkeypatch, key):
    stopped(world, tmp_path / "s", monkeypatch)
    before = files_of(staging_folder(tmp_path / "s") / "store")
    with pytest.raises(UserError, match=rf"a different {key} \("):
        extract(world, tmp_path / "s", **changed(world, key))
    assert files_of(staging_folder(tmp_path / "s") / "store") == before
    extract(world, tmp_path / "s", overwrite=True, **changed(world, key))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_setting_stops_before_a_finished_store(world, tmp_path, key):
    shutil.copytree(world / "whole", tmp_path / "s")
    with pytest.raises(
        UserError, match=rf"s: is there already with a different {key} \("
    ) as caught:
        extract(world, tmp_path / "s", **changed(world, key))
    assert ("add=true" in str(caught.value)) == (key == "table")
    assert files_of(tmp_path / "s") == files_of(world / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_finished_store_is_not_made_again(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "whole", tmp_path / "s")
    staging_folder(tmp_path / "s").mkdir()  # of a process that was killed after the last step
    monkeypatch.setattr(Extraction, "run", lambda *_, **__: pytest.fail("described again"))
    extract(world, tmp_path / "s", workers=3, devices=2, batch_size=7, save_every=3.0)
    assert "s: is there already, made with the same settings" in capsys.readouterr().out
    assert files_of(tmp_path / "s") == files_of(world / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failure_at_the_first_batch_leaves_nothing(world, tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, UserError("a.jpg: is no image"))
    with pytest.raises(UserError, match="is no image"):
        extract(world, tmp_path / "deep" / "s")
    assert list((tmp_path / "deep").iterdir()) == []


def test_two_do_not_write_one_store(world, tmp_path):
    def refused():
        with pytest.raises(UserError, match="s is being written by process"):
            extract(world, tmp_path / "s")

    with locked(tmp_path / "s"):
        assert in_a_process(refused) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_never_replaced(world, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.jpg").write_text("precious")
    for overwrite, words in ((False, "already exists"), (True, r"no meta\.json")):
        with pytest.raises(UserError, match=words):
            extract(world, tmp_path / "s", overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "a.jpg"]


def test_damaged_work_is_a_mistake(world, tmp_path, monkeypatch):
    stopped(world, tmp_path / "s", monkeypatch)
    folder = staging_folder(tmp_path / "s")
    for name in ("settings.json", "marks.npy", "store/vectors.npy"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="is damaged"):
            extract(world, tmp_path / "s")
        (folder / name).write_bytes(whole)
    extract(world, tmp_path / "s")
    assert DescriptorStore.open(tmp_path / "s").vectors.shape == (PHOTOS, DIM)
