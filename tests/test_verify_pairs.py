"""A table of pairs is verified in blocks, by processes and ranks, and resumes after a kill."""

import os
import signal
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_worlds import Counting, photos, rows
from ranks import run_ranks

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.error import UserError
from landmark.verify import Verifier, verify_pairs

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def one_by_one(verifier, a, b, pairs):
    results = [verifier(a[i], b[j]) for i, j in pairs.tolist()]
    scores = np.array([result.score for result in results], np.float32)
    return scores, np.array([result.inliers for result in results], np.int32)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@few
@given(seeds, st.integers(1, 80), st.integers(1, 30), st.booleans())
def test_results_are_in_the_order_given_and_each_pair_is_verified_once(
    tmp_path_factory, seed, count, block, symmetric
):
    pairs = np.random.default_rng(seed).integers(0, 9, (count, 2))
    verifier = Counting(tmp_path_factory.mktemp("calls") / "calls", symmetric=symmetric)
    photos = rows(9)
    found = verify_pairs(verifier, photos, photos, pairs, block=block)
    expected = np.sort(pairs, axis=1) if symmetric else pairs
    assert found.inliers.tolist() == (7 * expected[:, 0] + expected[:, 1]).tolist()
    assert found.scores.dtype == np.float32
    calls = verifier.calls()
    assert sorted(calls) == calls == sorted({tuple(pair) for pair in expected.tolist()})


def test_pairs_of_two_stores_are_never_exchanged(tmp_path):
    verifier = Counting(tmp_path / "calls", symmetric=True)
    found = verify_pairs(verifier, rows(4), rows(3), [[3, 1], [1, 2], [2, 1]])
    assert found.inliers.tolist() == [22, 9, 15]


@pytest.mark.parametrize("model", ["similarity", "affine", "fundamental"])
def test_scores_equal_those_of_single_calls_bit_for_bit(model, tmp_path):
    world = photos(8, features=30)
    verifier = Verifier(model)
    pairs = np.random.default_rng(0).integers(0, 8, (40, 2))
    once = np.sort(pairs, axis=1) if verifier.symmetric else pairs
    expected = one_by_one(verifier, world, world, once)
    assert len(np.unique(expected[0])) > 2
    for block in (1, 7, 1000):
        assert_equal(verify_pairs(verifier, world, world, pairs, block=block), expected)
    if model == "similarity":  # starting processes takes longer than the rest
        found = verify_pairs(verifier, world, world, pairs, block=5, processes=2)
        assert_equal(found, expected)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 6 photos with local features, memory-mapped."""
    path = tmp_path_factory.mktemp("store") / "store"
    DescriptorStore.write(path, [f"p{i}" for i in range(6)], np.eye(6, dtype="f4"))
    opened = DescriptorStore.open(path)
    with LocalFeatureWriter.writing(opened, "rootsift", dim=128) as writer:
        for photo in photos(6):
            writer.append(LocalFeatures(**{**vars(photo), "size": (640, 480)}))
        writer.save()
    return opened.local("rootsift")


def all_pairs(count):
    return np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2)


def test_processes_map_the_stored_features(store, tmp_path):
    expected = verify_pairs(Verifier(), store, store, all_pairs(6))
    folder = tmp_path / "staging"
    options = {"processes": 2, "staging": folder, "block": 4}
    assert_equal(verify_pairs(Verifier(), store, store, all_pairs(6), **options), expected)
    assert sorted(path.name for path in folder.iterdir()) == [
        "0-0.blocks",
        "0-1.blocks",
        "settings.json",
    ]
    # Complete: no pair is verified again, with any number of processes.
    one = {**options, "processes": 1}
    assert_equal(
        verify_pairs(Verifier(false_rate=0.5), store, store, all_pairs(6), **one), expected
    )
    assert not (folder / "0.blocks").exists()


# --- resume ---


def in_a_fork(work):
    """Run `work` in a forked process and return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("seed", range(6))
def test_runs_killed_at_any_pair_resume_and_verify_no_finished_block_again(seed, tmp_path):
    rng = np.random.default_rng(seed)
    block = int(rng.integers(1, 9))
    pairs, world = rng.permutation(all_pairs(8)), rows(8)
    for _ in range(5):
        killed = Counting(tmp_path / "calls", stop_after=int(rng.integers(1, 16)))
        status = in_a_fork(
            lambda verifier=killed: verify_pairs(
                verifier, world, world, pairs, staging=tmp_path / "staging", block=block
            )
        )
        assert status == -signal.SIGKILL
    verifier = Counting(tmp_path / "calls")
    options = {"staging": tmp_path / "staging", "block": block}
    found = verify_pairs(verifier, world, world, pairs, **options)
    assert found.inliers.tolist() == (7 * pairs[:, 0] + pairs[:, 1]).tolist()
    calls = verifier.calls()
    assert set(calls) == {tuple(pair) for pair in pairs.tolist()}
    assert len(calls) - 64 <= 5 * block  # only the pairs of the blocks that were stopped
    verify_pairs(verifier, world, world, pairs, **options)
    assert len(verifier.calls()) == len(calls)


@few
@given(st.integers(0, 400), st.binary(max_size=60))
def test_a_file_cut_at_any_byte_resumes_at_its_last_complete_block(tmp_path_factory, cut, noise):
    folder = tmp_path_factory.mktemp("run")
    verifier, world, pairs = Counting(folder / "calls"), rows(5), all_pairs(5)
    options = {"staging": folder / "staging", "block": 4}
    expected = verify_pairs(verifier, world, world, pairs, **options)
    file = folder / "staging" / "0.blocks"
    data = file.read_bytes()
    assert len(data) == 7 * 24 + 25 * 8
    file.write_bytes(data[:cut] + noise)
    assert_equal(verify_pairs(verifier, world, world, pairs, **options), expected)
    kept = sum(cut >= (i + 1) * 56 for i in range(6)) * 4 + (cut >= len(data))
    repeated = len(verifier.calls()) - 25
    # Noise may happen to continue the block that was cut.
    assert repeated <= 25 - kept
    assert noise or repeated == 25 - kept
    verify_pairs(verifier, world, world, pairs, **options)
    assert len(verifier.calls()) == 25 + repeated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [[0, 1]]}, r"different pairs.distinct \(16, now 1\), pairs.digest"),
        ({"block": 3}, r"different block \(4, now 3\)"),
        ({"verifier": Verifier(ratio=0.8)}, r"different verifier.ratio \(0.95, now 0.8\)"),
        ({"b": photos(5)}, r"different b.photos \(4, now 5\)"),
    ],
)
def test_other_pairs_or_settings_are_refused(change, message, tmp_path):
    world = photos(4)
    arguments = {"verifier": Verifier(), "a": world, "b": photos(4), "pairs": all_pairs(4)}
    arguments |= {"staging": tmp_path / "staging", "block": 4}
    verify_pairs(**arguments)
    before = (tmp_path / "staging" / "0.blocks").read_bytes()
    with pytest.raises(UserError, match=message) as error:
        verify_pairs(**arguments | change)
    assert "\n" not in str(error.value)
    assert "Use the same to resume, or remove the folder to start over." in str(error.value)
    assert (tmp_path / "staging" / "0.blocks").read_bytes() == before


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match="contains other files than verified pairs"):
        verify_pairs(Verifier(), photos(2), photos(2), [[0, 1]], staging=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 3]], "a pair has row 3 of the 3 second photos. Pass rows from 0 to 2"),
        ([[-1, 0]], "a pair has row -1 of the 2 first photos"),
        ([[0.0, 1.0]], r"dtype float64 and the shape \(1, 2\)"),
        ([0, 1], r"shape \(2,\)"),
    ],
)
def test_pairs_that_do_not_exist_are_named(pairs, message):
    with pytest.raises(UserError, match=message):
        verify_pairs(Verifier(), photos(2), photos(3), pairs)


@pytest.mark.parametrize("options", [{"processes": 0}, {"block": 0}])
def test_options_out_of_range_are_named(options):
    name = next(iter(options))
    with pytest.raises(UserError, match=f"{name}=0 is not valid. Pass a whole number >= 1"):
        verify_pairs(Verifier(), photos(2), photos(2), [[0, 1]], **options)


@pytest.mark.parametrize("empty", [[], np.empty((0, 2), np.int64)])
def test_no_pairs_give_no_results(empty):
    found = verify_pairs(Verifier(), [], [], empty)
    assert len(found.scores) == len(found.inliers) == 0


def test_an_error_of_the_verifier_is_raised_from_a_worker(tmp_path):
    world = photos(4)
    world[3].scales = None
    with pytest.raises(UserError, match="no scales and angles"):
        verify_pairs(Verifier(), world, world, all_pairs(4), processes=2, block=2)


def test_memory_grows_with_the_pairs_as_documented():
    class Zero:
        symmetric = True
        score, inliers = 0.0, 0

        def __call__(self, *_):
            return self

    world = [None] * 1000
    pairs = np.random.default_rng(0).integers(0, 1000, (200_000, 2))
    tracemalloc.start()
    verify_pairs(Zero(), world, world, pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * len(pairs)


# --- ranks ---


def as_rank(rank, folder, block, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port)}
    pairs, world = all_pairs(6), rows(6)
    staged = {"staging": folder / "staging", "block": block}
    found = [
        verify_pairs(Counting(folder / f"calls{rank}"), world, world, pairs, block=block),
        verify_pairs(Counting(folder / f"calls{rank}"), world, world, pairs, **staged),
    ]
    np.save(folder / f"rank{rank}.npy", [one.inliers for one in found])
    np.save(folder / f"scores{rank}.npy", [one.scores for one in found])


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("block", [1, 5, 100])
def test_each_rank_verifies_a_share_and_gets_all_results(block, tmp_path):
    pairs = all_pairs(6)
    staged = {"staging": tmp_path / "staging", "block": block}
    stopped = Counting(tmp_path / "before", stop_after=14)
    status = in_a_fork(lambda: verify_pairs(stopped, rows(6), rows(6), pairs, **staged))
    assert status == -signal.SIGKILL
    run_ranks(as_rank, tmp_path, block, free_port())
    for rank in range(2):
        for inliers in np.load(tmp_path / f"rank{rank}.npy"):
            assert inliers.tolist() == (7 * pairs[:, 0] + pairs[:, 1]).tolist()
    assert (np.load(tmp_path / "scores0.npy") == np.load(tmp_path / "scores1.npy")).all()
    calls = [Counting(tmp_path / f"calls{rank}").calls() for rank in range(2)]
    finished = 13 // block * block
    assert len(calls[0]) + len(calls[1]) == 36 + 36 - finished
    if block < 100:
        assert min(map(len, calls)) > 20
