"""Local features are read as they were written, or refused; a stopped writer resumes."""

import json
import os
import pickle
import resource
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.growing_array import GrowingArray
from landmark.artifact.local_features import LocalFeatures, LocalFeatureStore
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.error import UserError

PARTS = ("keypoints", "descriptors", "scores", "scales", "angles", "background")


def some_features(seed, count, dim=8, dtype="uint8", columns=4, background=False):
    rng = np.random.default_rng(seed)

    def numbers():
        return rng.uniform(0, 300, count).astype(np.float32)

    return LocalFeatures(
        keypoints=rng.uniform(0, 500, (count, 2)).astype(np.float32),
        descriptors=rng.integers(0, 256, (count, dim)).astype(dtype),
        scores=numbers(),
        size=(500 + seed, 400),
        scales=numbers() if columns > 2 else None,
        angles=numbers() if columns > 3 else None,
        background=numbers() if background else None,
    )


def assert_same(read, written):
    assert read.size == written.size
    for name in PARTS:
        expected, value = getattr(written, name), getattr(read, name)
        if expected is None:
            assert value is None, name
        else:
            np.testing.assert_array_equal(value, expected)
            assert value.dtype == expected.dtype, name
            assert value.flags.c_contiguous, name


def a_store(path, count):
    DescriptorStore.write(path, [f"p{i}" for i in range(count)], np.eye(count, dtype="f4"))
    return DescriptorStore.open(path)


@pytest.fixture
def store(tmp_path):
    return a_store(tmp_path / "store", 3)


def write(store, photos, name="rootsift", **options):
    with LocalFeatureWriter.writing(store, name, 8, **options) as writer:
        writer.append_all(photos)


THREE = [some_features(i, count) for i, count in enumerate([4, 0, 7])]


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), max_size=6),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(["uint8", "float16"]),
    columns=st.sampled_from([2, 3, 4]),
    background=st.booleans(),
)
def test_features_are_read_as_they_were_written(
    tmp_path_factory, counts, dim, dtype, columns, background
):
    store = a_store(tmp_path_factory.mktemp("root") / "store", len(counts))
    photos = [
        some_features(i, count, dim, dtype, columns, background) for i, count in enumerate(counts)
    ]
    layout = {"dtype": dtype, "columns": columns, "background": background}
    with LocalFeatureWriter.writing(store, "some", dim, **layout, top_k=5) as writer:
        writer.append_all(photos)
    features = store.local("some")
    assert (len(features), features.dim, features.dtype) == (len(counts), dim, dtype)
    assert features.counts.tolist() == counts
    assert features.settings == {"dim": dim, "top_k": 5} | {
        key: layout[key] for key in ("columns", "background")
    }
    for row, photo in enumerate(photos):
        assert_same(features[row], photo)
    assert len(list(features)) == len(counts)
    names = {"descriptors.npy", "keypoints.npy", "scores.npy", "offsets.npy", "sizes.npy"}
    names |= {"meta.json"} | ({"background.npy"} if background else set())
    assert {file.name for file in features.path.iterdir()} == names
    assert [one.name for one in features.path.parent.iterdir()] == ["some"]


def test_the_files_have_the_documented_shapes(store):
    write(store, THREE)
    folder = store.path / "local" / "rootsift"
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "descriptors": ((11, 8), "uint8"),
        "keypoints": ((11, 4), "float32"),
        "scores": ((11,), "float32"),
        "offsets": ((4,), "int64"),
        "sizes": ((3, 2), "int32"),
    }
    assert arrays["offsets"].tolist() == [0, 4, 4, 11]
    assert arrays["sizes"].tolist() == [[500, 400], [501, 400], [502, 400]]
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["schema"], meta["dtype"]) == (1, "uint8")


def test_descriptors_stay_on_disk(store):
    write(store, THREE)
    descriptors = store.local("rootsift")[2].descriptors
    base = descriptors
    while not isinstance(base, np.memmap):
        base = base.base
    assert not descriptors.flags.writeable


@pytest.mark.parametrize("row", [-1, 3, 100])
def test_a_row_outside_the_store_is_refused(store, row):
    write(store, THREE)
    with pytest.raises(IndexError, match=f"row {row} is outside the 3 photos"):
        store.local("rootsift")[row]


def test_a_pickle_contains_the_path_and_not_the_features(store):
    write(store, THREE)
    features = store.local("rootsift")
    text = pickle.dumps(features)
    assert len(text) < 500
    assert_same(pickle.loads(text)[2], THREE[2])


def test_missing_local_features_are_listed(store):
    with pytest.raises(UserError) as none:
        store.local("rootsift")
    assert str(none.value) == (
        f"{store.path} has no local features 'rootsift', nor any others. Extract them: extract.py "
        f"output={store.path} local=rootsift."
    )
    write(store, THREE, "xfeat")
    write(store, THREE, "aliked")
    for name in ("rootsift", "..", ""):
        with pytest.raises(UserError, match=f"{name!r}, only aliked, xfeat. Extract them"):
            store.local(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words"])
def test_a_name_that_is_not_a_folder_name_is_refused(store, name):
    with pytest.raises(UserError, match=r"is not valid\. Pass letters, digits, - and _"):
        write(store, THREE, name)
    assert not (store.path / "local").exists()


@pytest.mark.parametrize("number", [2, 4])
def test_a_store_with_another_number_of_photos_is_refused(store, tmp_path, number):
    write(store, THREE)
    other = a_store(tmp_path / "other", number)
    shutil.copytree(store.path / "local", other.path / "local")
    with pytest.raises(UserError, match=f"local features of 3 photos, but .* has {number}"):
        other.local("rootsift")


@pytest.mark.parametrize("ids", [["p0", "p2", "p1"], ["p0", "p1", "x"], ["p0p", "1", "p2"]])
def test_a_store_of_other_photos_is_refused(store, tmp_path, ids):
    write(store, THREE)
    DescriptorStore.write(tmp_path / "other", ids, np.eye(3, dtype="f4"))
    shutil.copytree(store.path / "local", tmp_path / "other" / "local")
    with pytest.raises(UserError, match=r"features of other photos than .*other\. Extract"):
        DescriptorStore.open(tmp_path / "other").local("rootsift")


FILES = ["descriptors.npy", "keypoints.npy", "scores.npy", "offsets.npy", "sizes.npy"]
FILES += ["background.npy", "meta.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_is_refused_in_one_line(tmp_path, name):
    store = a_store(tmp_path / "store", 2)
    photos = [some_features(i, 3, background=True) for i in range(2)]
    write(store, photos, background=True)
    file = store.path / "local" / "rootsift" / name
    content = file.read_bytes()
    assert len(store.local("rootsift")) == 2
    for spoilt in (b"", b"nonsense", content[: len(content) // 2], content[:-4], None):
        file.unlink()
        if spoilt is not None:
            file.write_bytes(spoilt)
        with pytest.raises(UserError) as error:
            store.local("rootsift")
        message = str(error.value)
        assert "\n" not in message
        assert str(store.path) in message
        assert message.endswith(".")
        file.write_bytes(content)


MISMATCHES = {
    "a keypoint too many": ("keypoints.npy", lambda a: np.concatenate([a, a[:1]])),
    "five columns": ("keypoints.npy", lambda a: np.concatenate([a, a[:, :1]], axis=1)),
    "a score too few": ("scores.npy", lambda a: a[1:]),
    "scores in float64": ("scores.npy", lambda a: a.astype(np.float64)),
    "descriptors in float32": ("descriptors.npy", lambda a: a.astype(np.float32)),
    "offsets in int32": ("offsets.npy", lambda a: a.astype(np.int32)),
    "offsets that decrease": ("offsets.npy", lambda _: np.array([0, 9, 4, 11])),
    "offsets that begin late": ("offsets.npy", lambda _: np.array([1, 4, 4, 11])),
    "offsets beyond the end": ("offsets.npy", lambda _: np.array([0, 4, 4, 12])),
    "a size too many": ("sizes.npy", lambda a: np.concatenate([a, a[:1]])),
    "no offsets": ("offsets.npy", lambda a: a[:0]),
    "one size": ("sizes.npy", lambda _: np.array(3, np.int32)),
    "a background of another length": ("background.npy", lambda _: np.ones(3, np.float32)),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_files_that_do_not_match_are_refused(store, kind):
    name, change = MISMATCHES[kind]
    write(store, THREE)
    file = store.path / "local" / "rootsift" / name
    np.save(file, change(np.load(file) if file.exists() else None))
    with pytest.raises(
        UserError, match=rf"rootsift is damaged \({name} .*\)\. Extract the local features again"
    ):
        store.local("rootsift")


def test_a_file_in_place_of_the_folder_is_refused(store):
    (store.path / "local").write_text("")
    with pytest.raises(UserError, match="nor any others"):
        store.local("rootsift")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        write(store, THREE)
    assert (store.path / "local").read_text() == ""


@pytest.mark.parametrize("schema", ["1", None, [1]])
def test_a_schema_that_is_not_a_number_is_damage(store, schema):
    write(store, THREE)
    file = store.path / "local" / "rootsift" / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": schema}))
    with pytest.raises(UserError, match="rootsift is damaged"):
        store.local("rootsift")


def test_a_later_version_is_refused(store):
    write(store, THREE)
    file = store.path / "local" / "rootsift" / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))
    with pytest.raises(UserError, match="later version"):
        store.local("rootsift")


def assert_no_other_bytes(store):
    """Check that nothing follows the arrays, such as a row that an interrupted writer left."""
    for file in (store.path / "local" / "rootsift").glob("*.npy"):
        np.save(store.path / "again.npy", np.load(file))
        assert file.read_bytes() == (store.path / "again.npy").read_bytes()


def stop(store, saved, lost=(), **options):
    """Interrupt a writer after the photos `lost`, which are appended after the last save."""

    def interrupted():
        with LocalFeatureWriter.writing(store, "rootsift", 8, **options) as writer:
            writer.append_all(saved)
            writer.save()
            writer.append_all(lost)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.parametrize("saved", [0, 1, 2, 3])
def test_a_stopped_writer_resumes_after_the_saved_photos(store, saved):
    large = some_features(9, 1 << 10)
    stop(store, THREE[:saved], lost=[large] * (3 - saved), top_k=5)
    assert not (store.path / "local" / "rootsift").exists()
    assert (store.path / "local").exists() == (saved > 0)
    with LocalFeatureWriter.writing(store, "rootsift", 8, top_k=5) as writer:
        assert writer.photos == saved
        writer.append_all(THREE[saved:])
    for row, photo in enumerate(THREE):
        assert_same(store.local("rootsift")[row], photo)
    assert_no_other_bytes(store)
    assert [one.name for one in (store.path / "local").iterdir()] == ["rootsift"]


@pytest.mark.parametrize("moment", ["before save", "after save", "after an append"])
def test_a_killed_writer_leaves_only_whole_photos(store, moment):
    child = os.fork()
    if child == 0:
        with LocalFeatureWriter.writing(store, "rootsift", 8) as writer:
            writer.append(THREE[0])
            if moment != "before save":
                writer.save()
            if moment == "after an append":
                writer.append(some_features(9, 1 << 18))  # larger than the buffers
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with LocalFeatureWriter.writing(store, "rootsift", 8) as writer:
        assert writer.photos == (0 if moment == "before save" else 1)
        writer.append_all(THREE[writer.photos :])
    for row, photo in enumerate(THREE):
        assert_same(store.local("rootsift")[row], photo)
    assert_no_other_bytes(store)


@pytest.mark.parametrize("saved", [0, 1, 2])
@pytest.mark.parametrize("limit", [1 << 12, 1 << 17])
def test_a_full_disk_is_one_line_and_keeps_what_was_saved(store, saved, limit):
    large = some_features(9, 1 << 19)
    child = os.fork()
    if child == 0:
        try:
            with LocalFeatureWriter.writing(store, "rootsift", 8) as writer:
                writer.append_all(THREE[:saved])
                writer.save()
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                writer.append(large)
                writer.save()
        except UserError as error:
            line = f"{store.path}/local/rootsift cannot be written (File too large). Choose"
            os._exit(7 if str(error).startswith(line) else 1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (store.path / "local").exists() == (saved > 0)
    with LocalFeatureWriter.writing(store, "rootsift", 8) as writer:
        assert writer.photos == saved
        writer.append_all(THREE[saved:])
    assert_same(store.local("rootsift")[2], THREE[2])
    assert_no_other_bytes(store)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"top_k": 6}, r"top_k \(5, now 6\)"),
        ({"top_k": 5, "dtype": "float16"}, r'dtype \("uint8", now "float16"\)'),
        ({"top_k": 5, "columns": 3}, r"columns \(4, now 3\)"),
        ({}, r"top_k \(5, now null\)"),
    ],
)
def test_a_stopped_writer_with_other_settings_is_refused(store, now, named):
    stop(store, THREE[:1], top_k=5)
    with pytest.raises(UserError, match=f"stopped extraction with a different {named}. Use the s"):
        write(store, THREE, **now)
    write(store, [some_features(i, 2) for i in range(3)], top_k=6, overwrite=True)
    assert store.local("rootsift").settings["top_k"] == 6


@pytest.mark.parametrize("name", FILES[:5])
def test_a_damaged_staging_folder_is_refused(store, name):
    stop(store, THREE[:1])
    staging = store.path / "local" / ".rootsift.partial"
    file = staging / "features" / name
    for content in (file.read_bytes()[:-1], None):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is damaged \(too short\). Remove {staging}."):
            write(store, THREE[1:])


def test_existing_local_features_are_kept_unless_overwritten(store):
    write(store, THREE)
    with pytest.raises(UserError, match=r"rootsift already exists\. Pass overwrite=true"):
        write(store, THREE)
    stop(store, THREE[:0], lost=THREE[:1], overwrite=True)
    assert_same(store.local("rootsift")[2], THREE[2])
    write(store, THREE[::-1], overwrite=True)
    assert_same(store.local("rootsift")[0], THREE[2])


def test_a_second_writer_is_refused(store):
    with LocalFeatureWriter.writing(store, "rootsift", 8) as writer:
        child = os.fork()  # the locks of one process do not exclude each other
        if child == 0:
            try:
                write(store, THREE)
            except UserError as error:
                os._exit(7 if "is being written by" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        writer.append_all(THREE)
    assert_same(store.local("rootsift")[2], THREE[2])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_photo_without_features_appended_is_an_error(store, count):
    with pytest.raises(RuntimeError, match=f"{count} of 3 photos"):
        write(store, THREE[:count])
    assert not (store.path / "local" / "rootsift").exists()


def test_a_photo_too_many_is_an_error(store):
    with pytest.raises(ValueError, match="only 3 photos"):
        write(store, [*THREE, THREE[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 9}, r"descriptors.npy has rows \(8,\)"),
        ({"dtype": "float16"}, "descriptors.npy has rows .* of uint8, not .* of float16"),
        ({"columns": 3}, r"keypoints.npy has rows \(4,\)"),
        ({"background": True}, "all photos need the similarity to the background"),
    ],
)
def test_features_of_another_layout_are_an_error(store, options, message):
    with pytest.raises(ValueError, match=message):
        write(store, [THREE[0], some_features(1, 2, **options)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["keypoints", "scores", "scales"])
def test_features_that_are_not_finite_name_the_photo(store, part, value):
    bad = some_features(1, 3)
    getattr(bad, part)[1] = value
    with pytest.raises(UserError, match="of 'p1' has a value that is not finite"):
        write(store, [THREE[0], bad])


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64"])
def test_a_dtype_that_the_store_does_not_have_is_an_error(store, dtype):
    with pytest.raises(ValueError, match=f"dtype {dtype} is not one of uint8, float16"):
        write(store, [], dtype=dtype)


def test_settings_that_the_writer_records_are_refused(store):
    for key in ("ids", "schema", "version"):
        with pytest.raises(ValueError, match=f"{key} is recorded"):
            write(store, THREE, **{key: 1})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("keypoints", np.zeros((3, 3), np.float32)),
        ("keypoints", np.zeros((3, 2))),
        ("descriptors", np.zeros((2, 8), np.uint8)),
        ("descriptors", np.zeros((3, 8))),
        ("scores", np.zeros(4, np.float32)),
        ("scales", np.zeros(3, np.float16)),
        ("background", np.zeros((3, 1), np.float32)),
    ],
)
def test_arrays_that_do_not_match_are_an_error(part, value):
    parts = {name: getattr(some_features(0, 3), name) for name in PARTS}
    with pytest.raises(ValueError, match=part):
        LocalFeatures(**parts | {part: value}, size=(10, 10))


@pytest.mark.parametrize("rows", [0, 1, 9, 10**6])
def test_the_header_of_a_growing_array_keeps_its_length(tmp_path, rows):
    with GrowingArray(tmp_path / "array.npy", "uint8", (3,)) as array:
        expected = []
        for part in (rows // 2, rows - rows // 2):
            expected.append(np.random.default_rng(part).integers(0, 256, (part, 3), np.uint8))
            array.append(expected[-1])
            array.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), np.concatenate(expected))


def test_memory_is_bounded_by_the_buffers(tmp_path):
    import tracemalloc

    store = a_store(tmp_path / "store", 60)
    photo = some_features(0, 20_000, dim=128)
    tracemalloc.start()
    with LocalFeatureWriter.writing(store, "rootsift", 128) as writer:
        for _ in range(60):  # 180 MB
            writer.append(photo)
    assert len(store.local("rootsift")[59]) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_features_that_are_not_a_folder_of_local_features_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"not a folder of local features: descriptors\.npy is m"):
        LocalFeatureStore.open(tmp_path)
