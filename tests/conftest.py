"""Hypothesis without its per-example deadline: on a shared machine it measures the neighbours."""

from hypothesis import settings

settings.register_profile("rpg-zoo", deadline=None)
settings.load_profile("rpg-zoo")
