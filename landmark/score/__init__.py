"""Score rankings and submissions against ground truth."""
