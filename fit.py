"""Fit a whitening to a descriptor store; `python fit.py --help` lists the settings.

python fit.py fit=pca train=STORE output=FITTED fit.dim=128
python fit.py fit=whitening train=STORE output=FITTED
"""

from landmark.cli import run

if __name__ == "__main__":
    run("fit")
