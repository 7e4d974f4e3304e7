"""Seconds until each script answers --help, --cfg job and a wrong override.

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


def seconds(arguments: list[str], repeats: int = 5) -> float:
    """The median of `repeats` starts."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
                cwd=folder,
                capture_output=True,
                check=False,
            )
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def main() -> None:
    bare = seconds_of_import_hydra()
    print(f"{'import hydra alone':<32} {bare:6.2f} s")
    for case in CASES:
        taken = seconds(case)
        print(f"{' '.join(case):<32} {taken:6.2f} s  {taken / bare:5.2f} x")


def seconds_of_import_hydra() -> float:
    """What no Hydra script can be faster than."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import hydra"], check=True)
        times.append(time.perf_counter() - began)
    return sorted(times)[2]


if __name__ == "__main__":
    main()
