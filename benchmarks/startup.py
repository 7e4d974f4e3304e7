"""Seconds until each command answers --help, --cfg job and an unknown key.

python benchmarks/startup.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = [
    [script, *flags]
    for script in ("train.py", "extract.py", "rerank.py", "score.py")
    for flags in (["--help"], ["--cfg", "job"], ["no_such_key=1"])
]


def seconds(*arguments: str, repeats: int = 5, check: bool = False) -> float:
    """Return the median time of Python with these arguments."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, *arguments], cwd=folder, capture_output=True, check=check
            )
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main() -> None:
    bare = seconds("-c", "import hydra", check=True)
    print(f"{'import hydra alone':<32} {bare:6.2f} s")
    for script, *flags in CASES:
        taken = seconds(str(ROOT / script), *flags)
        print(f"{' '.join([script, *flags]):<32} {taken:6.2f} s  {taken / bare:5.2f} x")


if __name__ == "__main__":
    main()
