"""`rpg estimate` takes what importing its libraries takes, and hardly more: in CPU seconds, which other work on the
machine stretches less than it does those of a clock.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from rpg.api import estimate_recipe
from rpg.devices import DEVICES
from zoo.errors import MissingExtra
from zoo.recipe import recipe_names

pytestmark = pytest.mark.slow


def cpu_seconds(*arguments: str) -> float:
    """Of a new Python, the least of three."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        found.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return min(found)


@pytest.mark.parametrize(
    ("libraries", "asked"),
    [("torch", "rpg-tiny --parameters 200000000"), ("torch, timm", "vit-tiny"), ("torch, timm", "convnext-large")],
)
def test_the_command_takes_what_its_libraries_take(libraries: str, asked: str) -> None:
    least = cpu_seconds("-c", f"import {libraries}")
    taken = cpu_seconds("-m", "rpg", "estimate", *asked.split(), "--device", "h100")
    print(f"{asked}: {taken:.2f} CPU seconds, of which importing {libraries} takes {least:.2f}")
    assert taken < 2 * least


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_the_estimate_itself_takes_no_time(name: str) -> None:
    try:
        estimate_recipe(name, None, (), DEVICES["h100"], None)  # imports what its networks need
    except MissingExtra as error:
        pytest.skip(str(error))
    start = time.process_time()
    estimate_recipe(name, None, (), DEVICES["h100"], None)
    taken = time.process_time() - start
    print(f"{name}: {taken:.3f} CPU seconds")
    assert taken < 3
