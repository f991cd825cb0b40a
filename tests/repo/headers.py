"""What recipes quote of `rpg estimate --device h100` (`about.estimate`): hours and memory of training, with the scan in
PyTorch.

    python tests/repo/headers.py        # or `make headers`: writes what the estimate says now into the recipes

A test holds the recipes against the same, so that they cannot go stale.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from rpg.api import estimate_recipe
from rpg.devices import DEVICES, GB
from zoo.errors import MissingExtra
from zoo.recipe import recipe_names

QUOTE = re.compile(r"^  estimate: \{hours: [\d.e-]+, memory_gb: [\d.e-]+\}$", re.MULTILINE)


def quotes(text: str) -> bool:
    """Whether this recipe quotes the estimate."""
    return re.search(r"^  estimate:", text, re.MULTILINE) is not None


def renewed(name: str, text: str) -> str:
    """The recipe with what the estimate says now. Raises MissingExtra where the library of its networks is missing."""
    without_kernels = replace(DEVICES["h100"], cuda=False)  # whatever is installed here
    _, found = estimate_recipe(name, None, (), without_kernels, None)
    training = found.figures["training"]
    hours, memory = f"{training['hours']:.3g}", f"{training['bytes'] / GB:.3g}"
    return QUOTE.sub(f"  estimate: {{hours: {hours}, memory_gb: {memory}}}", text)


def main() -> int:
    for name, path in sorted(recipe_names().items()):
        text = path.read_text(encoding="utf-8")
        if not quotes(text):
            continue
        try:
            new = renewed(name, text)
        except MissingExtra as error:
            print(f"{name}: left as it is, {error}", file=sys.stderr)
            continue
        if new != text:
            Path(path).write_text(new, encoding="utf-8")
            print(f"{name}: renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
