"""Clean a train set; `python clean.py --help` lists the settings.

python clean.py train=STORE output=DIR
python clean.py train=STORE output=DIR geometry=false
python clean.py train=STORE output=DIR 'min_inliers=[20,30,40,50]' 'min_neighbours=[1,2,3,10]'
python clean.py train=STORE output=DIR audit=STORE
torchrun --nproc-per-node 2 clean.py train=STORE output=DIR
"""

from landmark.cli import run

if __name__ == "__main__":
    run("clean")
