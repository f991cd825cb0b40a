"""Zoos: checkpoints of trained networks as data sets. Knows tasks, files and the Hub, not tokens or generators."""
