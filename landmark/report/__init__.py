"""What the stages found, put side by side for a reader."""
