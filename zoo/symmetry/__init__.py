"""What of a network may be permuted, scaled or rotated without changing what it computes: as data, with solvers."""
