"""Verify a table of pairs of photos: in blocks, by several processes and ranks, resumable."""

import json
import shutil
import tempfile
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from tqdm import tqdm

from landmark.device import usable_cpus
from landmark.disk.atomic import atomic_file
from landmark.disk.differences import check_same_settings
from landmark.disk.lock import locked_in_place
from landmark.disk.space import disk_errors
from landmark.error import UserError
from landmark.processes import (
    barrier,
    gather,
    initialize,
    launch,
    rank,
    rank_zero_first,
    start,
    world_size,
)
from landmark.settings import check_value
from landmark.verify.block_files import BlockWriter, read_blocks
from landmark.verify.features import Features
from landmark.verify.pair_blocks import PairBlocks, Verify, distinct_pairs
from landmark.verify.verifier import Verifier

_Count = Annotated[int, Field(ge=1)]
_SETTINGS = "settings.json"
_KEYS = ".keys-"  # folder of the pairs that the workers map
_BLOCK, _BLOCKS_EACH = 1024, 4
_FEW_PAIRS = 1000  # starting other processes takes longer
_MANY_PAIRS = 5000
_RANKS_EXCHANGE = 1 << 20  # results at a time
# Workers share the cores pair by pair: the products of one pair are too small to share.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class PairScores(NamedTuple):
    """The evidence of P pairs.

    Attributes:
        scores: (P,) float32, higher means more surely the same place.
        inliers: (P,) int32.
    """

    scores: NDArray[np.float32]
    inliers: NDArray[np.int32]


def verify_pairs(
    verifier: Verify,
    a: Sequence[Features],
    b: Sequence[Features],
    pairs: ArrayLike,
    *,
    processes: int | None = 1,
    staging: str | Path | None = None,
    block: int | None = None,
    progress: bool = True,
) -> PairScores:
    """Verify pairs of photos.

    Equal pairs are verified once; with `a` given as `b` and a verifier whose attribute `symmetric`
    is true, so are (i, j) and (j, i), as the pair with the lower row first. Pairs are verified in
    the order of their rows, so that each photo of `a` is read once. Results do not depend on
    `processes`, the number of ranks, `block` and the order of the pairs.

    Under torchrun or srun every rank calls this function, verifies a share of the blocks, and gets
    all results.

    Memory grows with the pairs alone: about 60 bytes a pair beside `pairs`, on each rank. Features
    are read photo by photo.

    Args:
        verifier: Scores two photos. Must be picklable if there are several processes.
        a: Features of the first photos, by row. Memory-mapped ones are opened again by each
            process, others are copied to it.
        b: Features of the second photos, by row; may be `a`.
        pairs: (P, 2) rows of `a` and `b`.
        processes: Number of processes of this machine, or of each rank. None means one per CPU,
            shared by the ranks of this machine, or one if there are few pairs.
        staging: Folder in which finished blocks are kept, 8 bytes a pair: a second call with the
            same pairs, features and settings resumes there. The caller removes it. None means
            that a stopped run starts over.
        block: Pairs that are verified before they are kept. Defaults to 1,024, of which a stop
            loses 5 seconds at 5 ms a pair, or to fewer without `staging`, so that every process
            has work.
        progress: Show a progress bar on a terminal.

    Returns:
        The results in the order of `pairs`.

    Raises:
        UserError: A pair has a row that does not exist, `staging` contains the results of other
            pairs or settings or is in use, or the verifier refuses the features.

    Example:
        >>> from types import SimpleNamespace
        >>> from landmark.verify import Verifier
        >>> rng = np.random.default_rng(0)
        >>> photo = SimpleNamespace(
        ...     keypoints=rng.uniform(0, 100, (9, 2)), descriptors=rng.normal(size=(9, 64)),
        ...     size=(200, 200), scales=np.ones(9), angles=np.zeros(9), background=None)
        >>> moved = SimpleNamespace(**{**vars(photo), "keypoints": photo.keypoints + 50})
        >>> verify_pairs(Verifier(), [photo], [photo, moved], [[0, 1], [0, 0]]).inliers.tolist()
        [9, 9]
    """
    check_value("processes", processes, _Count | None)
    check_value("block", block, _Count | None)
    table = np.asarray(pairs)
    if not len(table):
        return PairScores(np.zeros(0, np.float32), np.zeros(0, np.int32))
    symmetric = a is b and bool(getattr(verifier, "symmetric", False))
    keys, positions = distinct_pairs(table, len(a), len(b), symmetric)
    if processes is None:
        cpus = usable_cpus() // launch().local_world_size
        processes = 1 if len(keys) < _FEW_PAIRS else max(1, cpus)
    if block is None:
        share = len(keys) // (_BLOCKS_EACH * processes * world_size())
        block = _BLOCK if staging is not None else min(max(share, 1), _BLOCK)
    work = PairBlocks(verifier, a, b, keys, block)
    initialize()
    with _block_folder(work, staging, processes) as folder:
        _verify(work, folder, processes, progress)
        _exchange(work)
        barrier()  # rank 0 holds the lock until the others have finished
    return PairScores(work.scores[positions], work.inliers[positions])


@contextmanager
def _block_folder(
    work: PairBlocks, staging: str | Path | None, processes: int
) -> Iterator[Path | None]:
    """Yield the folder of finished blocks; None if results need none."""
    if staging is None:
        if processes == 1:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="landmark-") as name:
            yield Path(name)
        return
    staging = Path(staging)
    with ExitStack() as stack:
        with rank_zero_first():
            if rank() == 0:
                stack.enter_context(locked_in_place(staging))
                for killed in staging.glob(f"{_KEYS}*"):
                    shutil.rmtree(killed, ignore_errors=True)
            _check_staging(staging, work.settings())
        yield staging


def _check_staging(staging: Path, settings: dict[str, Any]) -> None:
    """Check that a folder belongs to the same pairs and settings, or record them.

    Raises:
        UserError: It does not, or contains something else.
    """
    file = staging / _SETTINGS
    staging.mkdir(parents=True, exist_ok=True)  # another machine may have a disk of its own
    if not file.exists():
        if any(not path.name.startswith(".") for path in staging.iterdir()):
            raise UserError(
                f"{staging} contains other files than verified pairs. Pass another folder."
            )
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(settings))
        return
    try:
        recorded = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}). Remove {staging}.") from error
    check_same_settings(
        recorded,
        settings,
        f"{staging} contains verified pairs",
        "Use the same to resume, or remove the folder to start over.",
    )


def _verify(work: PairBlocks, folder: Path | None, processes: int, progress: bool) -> None:
    """Verify the blocks that no rank has, a share on each rank."""
    if folder is not None:
        _read(work, folder)
    # A collective: no rank appends blocks before every rank has read them.
    missing = np.flatnonzero(~_on_each_rank(work.done).any(axis=0))[rank() :: world_size()]
    numbers: list[int] = missing.tolist()
    with tqdm(
        total=sum(work.size(number) for number in numbers),
        desc="verify",
        unit="pair",
        disable=True if rank() or not progress else None,
    ) as bar:
        if folder is not None and processes > 1 and len(numbers) > 1:
            _verify_in_workers(work, numbers, folder, processes, bar)
        elif numbers:
            _verify_here(work, numbers, folder, bar)


def _import_torch(work: PairBlocks, numbers: list[int]) -> None:
    """Import torch, whose products are faster, where the pairs take longer than the import."""
    many = sum(work.size(number) for number in numbers) > _MANY_PAIRS
    if many and isinstance(work.verifier, Verifier):
        import torch  # noqa: F401


def _verify_here(work: PairBlocks, numbers: list[int], folder: Path | None, bar: tqdm) -> None:
    _import_torch(work, numbers)
    with nullcontext() if folder is None else BlockWriter(folder, f"{rank()}") as writer:
        for number in numbers:
            block = work.verify(number)
            if writer is not None:
                writer.append(block)
            work.put(block)
            bar.update(work.size(number))


def _verify_in_workers(
    work: PairBlocks, numbers: list[int], folder: Path, processes: int, bar: tqdm
) -> None:
    shares = [numbers[index::processes] for index in range(min(processes, len(numbers)))]
    # Number of pairs verified by each worker. Each writes only its own entry, without a lock.
    verified = get_context("spawn").RawArray("q", len(shares))
    with tempfile.TemporaryDirectory(dir=folder, prefix=_KEYS) as name:
        keys = Path(name) / "keys.npy"  # workers map it: a copy each would not fit into memory
        with disk_errors(folder):
            np.save(keys, work.keys)
        start(
            _verify_share,
            [
                (
                    work.verifier,
                    work.a,
                    work.b,
                    keys,
                    work.block,
                    share,
                    folder,
                    rank(),
                    i,
                    verified,
                )
                for i, share in enumerate(shares)
            ],
            poll=lambda: bar.update(sum(verified) - bar.n),
            environment=_ONE_THREAD,
        )
    _read(work, folder)


def _verify_share(
    verifier: Verify,
    a: Sequence[Features],
    b: Sequence[Features],
    keys: Path,
    block: int,
    numbers: list[int],
    folder: Path,
    of_rank: int,
    index: int,
    verified: MutableSequence[int],
) -> None:
    """Verify blocks in a worker."""
    work = PairBlocks(verifier, a, b, np.load(keys, mmap_mode="r"), block)
    _import_torch(work, numbers)
    with BlockWriter(folder, f"{of_rank}-{index}") as writer:
        for number in numbers:
            writer.append(work.verify(number))
            verified[index] += work.size(number)


def _read(work: PairBlocks, folder: Path) -> None:
    """Read the blocks of all writers."""
    for block in read_blocks(folder):
        if block.number < len(work.done) and len(block.scores) == work.size(block.number):
            work.put(block)


def _on_each_rank(values: np.ndarray) -> np.ndarray:
    """Gather an array of equal shape from each rank: (world_size, …)."""
    if world_size() == 1:
        return values[None]
    import torch

    return gather(torch.from_numpy(np.ascontiguousarray(values))[None]).numpy()


def _exchange(work: PairBlocks) -> None:
    """Give every rank the results of all ranks, some blocks at a time."""
    if world_size() == 1:
        return
    owner = _on_each_rank(work.done).argmax(axis=0)  # the lowest rank that has the block
    step = max(1, _RANKS_EXCHANGE // work.block)
    for first in range(0, len(owner), step):
        part = slice(first * work.block, min((first + step) * work.block, len(work.keys)))
        of_pair = np.arange(part.start, part.stop) // work.block
        for values in (work.scores, work.inliers):
            of_ranks = _on_each_rank(values[part])
            values[part] = of_ranks[owner[of_pair], np.arange(of_ranks.shape[1])]
    work.done[:] = True
