"""Ground truth, and the scores of rankings and submissions by it."""
