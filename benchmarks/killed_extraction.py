"""Kill an extraction at random moments, resume it, and compare the store with an uninterrupted one.

Each round starts the command, kills it and its processes with SIGKILL when a random number of
photos is marked as done, runs the same command again and compares every file.

python benchmarks/killed_extraction.py
python benchmarks/killed_extraction.py --moments 10 --devices 2 --photos 400 --seed 1
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from landmark.model.build import build_embedder
from landmark.model.persist import describe_embedder, write_embedder
from landmark.pooling import GeM

ROOT = Path(__file__).resolve().parents[1]
SIZES = [[96, 64], [80, 64], [64, 64], [64, 80], [64, 96]]


def write_world(root: Path, photos: int) -> None:
    torch.manual_seed(0)
    write_embedder(
        root / "embedder",
        build_embedder("resnet10t", GeM(), embedding_dim=64),
        describe_embedder(
            {
                "_target_": "landmark.model.build.build_embedder",
                "backbone": "resnet10t",
                "embedding_dim": 64,
            },
            {"_target_": "landmark.pooling.gem.GeM"},
            {
                "_target_": "landmark.image.format.ImageFormat",
                "sizes": SIZES,
                "interpolation": "bilinear",
            },
        ),
    )
    random = np.random.default_rng(0)
    (root / "photos" / "a").mkdir(parents=True)
    for number in range(photos):
        patches = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        size = random.integers(90, 160, 2).tolist()
        patches.resize(size).save(root / "photos" / "a" / f"{number:05d}.jpg")


def start(root: Path, output: str, devices: int) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "extract.py"), "embedder=embedder", "data=folder"),
            *("data.root=photos", f"output={output}", f"devices={devices}", "batch_size=8"),
            *("workers=0", "save_every=0", "device=cpu", "extract.scales=[1,1.5]"),
        ],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "LANDMARK_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def read_files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def count_done(marks: Path) -> int:
    """Return the number of photos marked as done in a .npy file with a header of 128 bytes."""
    try:
        return int(np.count_nonzero(np.fromfile(marks, np.uint8, offset=128)))
    except FileNotFoundError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_world(root, options.photos)
        finish(start(root, "first", 1))  # caches the photos' sizes
        began = time.perf_counter()
        finish(start(root, "complete", 1))
        complete, seconds = read_files(root / "complete"), time.perf_counter() - began
        print(f"uninterrupted: {seconds:.1f} s, {options.photos} photos")
        equal_rounds = 0
        for moment in np.sort(random.integers(0, options.photos, options.moments)):
            process = start(root, "killed", options.devices)
            marks = root / ".killed.partial" / "marks.npy"
            while process.poll() is None and count_done(marks) < moment:
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed = process.returncode == -signal.SIGKILL
            output = finish(start(root, "killed", options.devices))
            line = next((line for line in output.splitlines() if line.startswith("Resum")), "fresh")
            equal = killed and read_files(root / "killed") == complete
            equal_rounds += equal
            hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
            print(
                f"killed {killed} at {moment} photos: {line}; same bytes {equal}; left: {hidden}",
                flush=True,
            )
            shutil.rmtree(root / "killed")
        print(f"{equal_rounds} of {options.moments} stores have the same bytes")
        sys.exit(equal_rounds != options.moments)


if __name__ == "__main__":
    main()
