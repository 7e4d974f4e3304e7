"""What is learned from stores, not from photos."""
