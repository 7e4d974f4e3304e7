"""File formats: descriptor stores, whitenings, rankings, submissions, tables."""
