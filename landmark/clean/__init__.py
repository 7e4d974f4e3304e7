"""Clean a train set by verifying each photo against its neighbours.

Descriptors → candidate pairs (`candidates`) → verified pairs (`pairs`) → thresholds and the photos
that are kept (`selection`) → what else the pairs show (`findings`) → files (`output`). `audit`
compares a train set with a test set by the same means.
"""
