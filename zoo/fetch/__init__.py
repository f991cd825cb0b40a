"""Data sets and released weights: what is there, what is missing, and getting it from where it was published."""
