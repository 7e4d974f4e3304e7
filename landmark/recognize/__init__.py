"""Recognition: name the landmark of a photo by the votes of its nearest train photos."""

from landmark.recognize.recognizer import Predictions, Recognizer

__all__ = ["Predictions", "Recognizer"]
