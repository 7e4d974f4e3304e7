"""Train an embedder of landmark photos; `python train.py --help` lists the settings.

python train.py model=fishnet loss=arcface
python train.py data=folder data.root=PHOTOS model=resnet101 weights=timm image=s2
python train.py experiment=small_collection data.root=PHOTOS
python train.py -m loss=arcface,cosface,adacos model=fishnet,resnet101
"""

from landmark.cli import run

if __name__ == "__main__":
    run("train")
