"""Search a gallery and re-rank; `python rerank.py --help` lists the settings.

python rerank.py query=STORE gallery=STORE output=DIR
python rerank.py query=STORE gallery=STORE train=STORE 'rerank=[alpha_qe,two_stage]' output=DIR
python rerank.py query=STORE gallery=STORE data=roxford5k data.root=OXFORD k=4993 output=DIR
python rerank.py query=STORE 'gallery=[STORE,DISTRACTORS]' search=auto output=DIR
torchrun --nproc-per-node 2 rerank.py query=STORE gallery=STORE output=DIR
"""

from landmark.cli import run

if __name__ == "__main__":
    run("rerank")
