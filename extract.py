"""Describe photos and write a descriptor store; `python extract.py --help` lists the settings.

python extract.py embedder=RUN/embedder data=folder data.root=PHOTOS split=gallery output=STORE
python extract.py embedder=RUN/embedder split=query output=STORE extract.scales=[1]
python extract.py embedder=RUN/embedder split=train output=STORE devices=8
python extract.py embedder=RUN/embedder split=gallery output=STORE add=true
"""

from landmark.cli import run

if __name__ == "__main__":
    run("extract")
