"""Checkpoints of other projects: found, read safely, imported; and ours written for other libraries."""
