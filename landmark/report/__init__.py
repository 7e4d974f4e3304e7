"""Scores of what was written: submissions and rankings against ground truths."""
