"""Name the landmarks of photos; `python recognize.py --help` lists the settings.

python recognize.py query=STORE train=STORE output=DIR
python recognize.py query=STORE train=STORE calibration=FITTED precision=0.95 output=DIR
python recognize.py query=STORE train=STORE distractors=STORE output=DIR
torchrun --nproc-per-node 2 recognize.py query=STORE train=STORE output=DIR
"""

from landmark.cli import run

if __name__ == "__main__":
    run("recognize")
