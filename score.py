"""Score a submission or a ranking; JSON on standard output.

python score.py task=retrieval solution=CSV submission=CSV
python score.py task=recognition solution=CSV submission=CSV
python score.py task=revisited ground_truth=PKL rankings=DIR
"""

from landmark.cli import run

if __name__ == "__main__":
    run("score")
