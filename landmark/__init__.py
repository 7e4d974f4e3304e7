"""Instance-level image retrieval and recognition of landmarks."""

__version__ = "0.1.0"
