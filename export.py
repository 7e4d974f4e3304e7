"""Write a trained embedder as an ONNX file; `python export.py --help` lists the settings.

python export.py embedder=RUN/embedder output=FILE.onnx
python export.py embedder=RUN/embedder output=FILE.onnx normalise=false unit_length=false
python export.py embedder=RUN/embedder output=FILE.onnx 'size=[448,448]' opset=20
"""

from landmark.cli import run

if __name__ == "__main__":
    run("export")
