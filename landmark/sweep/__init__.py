"""The jobs of a sweep: their table, and a plot of it."""
