"""Recipes: YAML only, found by name through `zoo.recipe`."""
