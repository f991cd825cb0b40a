"""Scores of networks: a model or its outputs go in, metrics come out. Knows no zoos, tokens or generators."""
