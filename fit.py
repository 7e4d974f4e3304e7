"""Fit a whitening, an adapter or a calibration; `python fit.py --help` lists the settings.

python fit.py fit=pca train=STORE output=FITTED fit.dim=128
python fit.py fit=whitening train=STORE output=FITTED
python fit.py fit=linear train=STORE output=FITTED
python fit.py fit=calibration train=RECOGNIZED output=FITTED
"""

from landmark.cli import run

if __name__ == "__main__":
    run("fit")
