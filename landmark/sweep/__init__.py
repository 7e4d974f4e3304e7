"""Summarise the jobs of a sweep as a table and a plot."""
