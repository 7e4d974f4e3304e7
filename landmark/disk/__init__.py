"""Atomic writes, locks, digests, settings comparison and free space."""
