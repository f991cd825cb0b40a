"""Train networks and save their checkpoints: one at a time, many together, over many workers."""
