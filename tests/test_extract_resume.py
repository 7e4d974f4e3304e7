"""An extraction killed at any moment resumes to the store of an uninterrupted one."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from extraction_world import (
    DIM,
    IMAGE,
    PHOTOS,
    UnreadablePhotos,
    extract,
    files_of,
    table_of,
    write_embedder_into,
    write_world,
)

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.partial_store import PartialStore
from landmark.artifact.whitening import Whitening
from landmark.data.batches import grouped_batches
from landmark.disk import atomic
from landmark.disk.digest import digest_of_files
from landmark.disk.lock import locked, staging_folder
from landmark.error import UserError
from landmark.extract import extraction
from landmark.extract.extraction import Extraction
from landmark.extract.multiscale import MultiScale
from landmark.image.format import ImageFormat
from landmark.model.persist import embedder_digest

# Disk operations of an extraction, which is killed before or after one of them.
STEPS = [
    (PartialStore, "add"),
    (PartialStore, "save"),
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


def run_in_child(work, kill_at=None, counter=None):
    """Run `work` in a child that kills itself at one of its moments and return its exit status."""

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


def kill_at_moments(work, prepare, count=MOMENTS):
    """Kill `work` at seeded moments spread over its duration; yield after each kill."""
    counter = multiprocessing.get_context("fork").Value("i", 0)
    prepare()
    assert run_in_child(work, counter=counter) == 0
    random = np.random.default_rng(SEED)
    for part in np.array_split(np.arange(counter.value), min(count, counter.value)):
        prepare()
        moment = int(random.choice(part))
        assert run_in_child(work, kill_at=moment) == -signal.SIGKILL
        yield moment


def test_a_resumed_extraction_writes_the_same_bytes(world, tmp_path):
    output = tmp_path / "s"
    work = lambda: extract(world, output)  # noqa: E731
    for moment in kill_at_moments(work, lambda: shutil.rmtree(output, ignore_errors=True)):
        assert run_in_child(work) == 0
        assert files_of(output) == files_of(world / "complete"), moment
        assert [path.name for path in tmp_path.iterdir()] == ["s"], moment


def test_skipped_photos_stay_skipped_after_a_kill(world, tmp_path, monkeypatch):
    monkeypatch.setattr(UnreadablePhotos, "bad", frozenset(["003", "012", "019"]))
    monkeypatch.setattr(extraction, "ScaledPhotoDataset", UnreadablePhotos)
    extract(world, tmp_path / "complete")
    output = tmp_path / "out" / "s"
    work = lambda: extract(world, output)  # noqa: E731
    for moment in kill_at_moments(
        work, lambda: shutil.rmtree(output.parent, ignore_errors=True), 2
    ):
        assert run_in_child(work) == 0
        assert files_of(output) == files_of(tmp_path / "complete"), moment


@pytest.mark.parametrize("how", ["add", "overwrite"])
def test_a_kill_leaves_the_old_or_the_new_store(world, tmp_path, how):
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
    for moment in kill_at_moments(work, prepare, 2):
        assert files_of(output) in allowed, moment
        assert run_in_child(work) == 0
        assert files_of(output) == allowed[1], moment
        assert [path.name for path in output.parent.iterdir()] == ["s"], moment


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """Interrupt the next extraction before batch number `batches`."""
    add, seen = PartialStore.add, []

    def interrupted(work, *arguments):
        if len(seen) == batches:
            raise error
        seen.append(None)
        add(work, *arguments)

    monkeypatch.setattr(PartialStore, "add", interrupted)


def stopped(world, output, monkeypatch, **changes):
    with monkeypatch.context() as context:
        stop_after(context, 4)
        with pytest.raises(KeyboardInterrupt):
            extract(world, output, **changes)


def test_finished_photos_are_not_extracted_again(world, tmp_path, monkeypatch, capsys):
    stopped(world, tmp_path / "s", monkeypatch)
    done = PartialStore(staging_folder(tmp_path / "s")).done
    assert 0 < done < PHOTOS
    assert f"Stopped: {done} of {PHOTOS} photos extracted." in capsys.readouterr().out
    described = []
    add = PartialStore.add
    monkeypatch.setattr(
        PartialStore,
        "add",
        lambda work, rows, vectors: described.extend(rows) or add(work, rows, vectors),
    )
    extract(world, tmp_path / "s")
    assert len(described) == PHOTOS - done
    assert f"Resuming: {done} of {PHOTOS} photos already extracted." in capsys.readouterr().out
    assert files_of(tmp_path / "s") == files_of(world / "complete")


def changed(world, key):
    """Return changes of the plan that each change one setting."""
    if key == "embedder":
        return {"embedder": write_embedder_into(world / "other", seed=1)}
    if key == "table":
        table = table_of(world / "photos")
        return {"table": type(table)(table.root, table.rows.iloc[:-1])}
    if key == "whitening":
        return {key: Whitening(np.zeros(DIM), np.eye(DIM), {})}
    methods = {
        "scales": MultiScale((1.0,)),
        "flip": MultiScale((1.0, 1.5), flip=True),
        "combine": MultiScale((1.0, 1.5), combine="max"),
    }
    if key in methods:
        return {"method": methods[key]}
    return {key: {"dtype": "float16", "precision": "bf16", "batch_size": 5}[key]}


KEYS = ["embedder", "table", "scales", "flip", "combine", "dtype", "precision", "whitening"]


@pytest.mark.parametrize("key", [*KEYS, "batch_size"])
def test_a_changed_setting_is_refused_when_resuming(world, tmp_path, monkeypatch, key):
    stopped(world, tmp_path / "s", monkeypatch)
    before = files_of(staging_folder(tmp_path / "s") / "store")
    with pytest.raises(UserError, match=rf"a different {key} \("):
        extract(world, tmp_path / "s", **changed(world, key))
    assert files_of(staging_folder(tmp_path / "s") / "store") == before
    extract(world, tmp_path / "s", overwrite=True, **changed(world, key))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_setting_is_refused_for_a_finished_store(world, tmp_path, key):
    shutil.copytree(world / "complete", tmp_path / "s")
    with pytest.raises(UserError, match=rf"s already exists with a different {key} \(") as caught:
        extract(world, tmp_path / "s", **changed(world, key))
    assert ("add=true" in str(caught.value)) == (key == "table")
    assert files_of(tmp_path / "s") == files_of(world / "complete")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_of_an_earlier_version_has_the_mean_of_the_scales(world, tmp_path, capsys):
    shutil.copytree(world / "complete", tmp_path / "s")
    meta = json.loads((tmp_path / "s" / "meta.json").read_text())
    assert meta.pop("combine") == "mean"
    (tmp_path / "s" / "meta.json").write_text(json.dumps(meta))
    extract(world, tmp_path / "s")
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match=r'a different combine \("mean", now "max"\)'):
        extract(world, tmp_path / "s", **changed(world, "combine"))


def test_a_finished_store_is_not_extracted_again(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "complete", tmp_path / "s")
    staging_folder(tmp_path / "s").mkdir()  # as after a kill after the last step
    monkeypatch.setattr(Extraction, "run", lambda *_, **__: pytest.fail("described again"))
    extract(world, tmp_path / "s", workers=3, devices=2, batch_size=7, save_every=3.0)
    assert "s is up to date (same settings); nothing to do." in capsys.readouterr().out
    assert files_of(tmp_path / "s") == files_of(world / "complete")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_failure_at_the_first_batch_leaves_nothing(world, tmp_path, monkeypatch):
    stop_after(monkeypatch, 0, UserError("a.jpg: is no image"))
    with pytest.raises(UserError, match="is no image"):
        extract(world, tmp_path / "deep" / "s")
    assert list((tmp_path / "deep").iterdir()) == []


def test_two_processes_cannot_write_the_same_store(world, tmp_path):
    def refused():
        with pytest.raises(UserError, match="s is being written by process"):
            extract(world, tmp_path / "s")

    with locked(tmp_path / "s"):
        assert run_in_child(refused) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_files_is_never_replaced(world, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.jpg").write_text("precious")
    for overwrite, words in ((False, "already exists"), (True, r"no meta\.json")):
        with pytest.raises(UserError, match=words):
            extract(world, tmp_path / "s", overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "a.jpg"]


def test_a_damaged_staging_folder_is_refused(world, tmp_path, monkeypatch):
    stopped(world, tmp_path / "s", monkeypatch)
    folder = staging_folder(tmp_path / "s")
    for name in ("settings.json", "marks.npy", "store/vectors.npy"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="is damaged"):
            extract(world, tmp_path / "s")
        (folder / name).write_bytes(content)
    extract(world, tmp_path / "s")
    assert DescriptorStore.open(tmp_path / "s").vectors.shape == (PHOTOS, DIM)


@pytest.mark.parametrize("extends", [False, True])
def test_a_staging_folder_of_version_0_1_0_resumes(world, tmp_path, monkeypatch, capsys, extends):
    """The staging folder is written file by file, so that its layout cannot change unnoticed."""
    table, complete = table_of(world / "photos"), DescriptorStore.open(world / "complete")
    output, staging, kept = tmp_path / "s", tmp_path / ".s.partial", 0
    if extends:
        kept = 7
        few = type(table)(table.root, table.rows.iloc[:kept].reset_index(drop=True))
        extract(world, output, table=few)
    (staging / "store").mkdir(parents=True)
    (staging / "without_left_out").mkdir()
    (staging / "lock").write_text("process 1 on another machine")
    rows = table.rows.iloc[kept:].reset_index(drop=True)
    batches = grouped_batches(type(table)(table.root, rows).groups(ImageFormat(**IMAGE)), 4)
    done = kept + np.concatenate(batches[:2])
    vectors, marks = np.zeros((PHOTOS, DIM), "f4"), np.zeros(PHOTOS, np.uint8)
    for written in (np.arange(kept), done):
        vectors[written], marks[written] = complete.vectors[written], 1
    np.save(staging / "store" / "vectors.npy", vectors)
    np.save(staging / "marks.npy", marks)
    record = {
        "settings": {
            "embedder": embedder_digest(world / "embedder"),
            "table": table.digest,
            "scales": [1.0, 1.5],
            "flip": False,
            "image": IMAGE,
            "split": None,
            "precision": "32",
            "whitening": None,
            "dtype": "float32",
            "batch_size": 4,
            "adds_to": digest_of_files(output / "ids.parquet") if extends else None,
        },
        "kept": kept,
    }
    (staging / "settings.json").write_text(json.dumps(record, indent=1) + "\n")
    described = []
    add = PartialStore.add
    monkeypatch.setattr(
        PartialStore,
        "add",
        lambda work, rows, vectors: described.extend(rows) or add(work, rows, vectors),
    )
    store = extract(world, output, add=extends)
    assert len(described) == PHOTOS - kept - len(done)
    assert f"Resuming: {len(done)} of {PHOTOS - kept} photos" in capsys.readouterr().out
    np.testing.assert_allclose(store.vectors, complete.vectors, atol=1e-5)
    if not extends:
        assert files_of(output) == files_of(world / "complete")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_finished_store_on_a_read_only_disk_is_up_to_date(world, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        shutil.copytree(world / "complete", disk / "s")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for settings in ({}, {"add": True}):
            extract(world, disk / "s", **settings)
            assert "s is up to date (" in capsys.readouterr().out
        with pytest.raises(UserError, match=r"a different flip .*Choose another output"):
            extract(world, disk / "s", **changed(world, "flip"))
        with pytest.raises(UserError, match="cannot be written"):
            extract(world, disk / "s", overwrite=True)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
