"""What is written to disk: tables, descriptors, rankings, submissions."""
