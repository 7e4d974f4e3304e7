"""Extract descriptors from photos into a store."""
