"""Whole networks as tokens and back: layout, tokenisation, statistics, tokens on disk."""
