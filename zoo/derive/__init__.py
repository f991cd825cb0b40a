"""Zoos made of zoos."""
