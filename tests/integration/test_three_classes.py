"""Binary tasks on a folder of three classes, the whole way: six tasks, three bits, conditions by number and by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call, run
from PIL import Image

from zoo.store import Zoo

RECIPE = """
extends: tiny
task:
  name: binary
  model: cnn_digits
  data: folder
  dataset: {name: greys, classes: 3, size: 8, channels: 1}
  validation: 0.2
zoo: {init: shared, checkpoints: 1, epochs: 1, holdout: {kind: random, n: 1}}
method:
  generator: {condition: binary, permutation_state: none}
  train: {steps: 2}
generate: {n: 1, steps: 2}
"""


def result(command: str) -> Any:
    return json.loads(call(f"{command} --json"))


def test_three_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for k, name in enumerate(("dark", "grey", "light")):
            folder = tmp_path / "data" / "greys" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(40 + 85 * k + rng.integers(-20, 20, (8, 8)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    Path("tiny.yaml").write_bytes((Path(__file__).parent / "tiny.yaml").read_bytes())
    Path("three.yaml").write_text(RECIPE)

    result("rpg-zoo collect three.yaml --data-root data")
    originals = Zoo.open("zoos/three")
    assert {entry.condition for entry in originals.entries} == {"001", "010", "011", "100", "101", "110"}
    (unseen,) = {entry.condition for entry in originals.select("unseen")}
    assert run("rpg train three.yaml")[2].splitlines()[-1] == "next: rpg generate three --split unseen"
    by_name = ",".join(str(k) for k, bit in enumerate(unseen or "") if bit == "1")
    for condition, out in ((unseen, "bits"), (by_name, "names")):
        result(f"rpg generate runs/three --condition {condition} --flip --out {out}")
    hashes = [[entry.sha256 for entry in Zoo.open(out).entries] for out in ("bits", "names")]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 2
    found = result("rpg eval bits --task three --originals zoos/three --data-root data")
    assert [len(row["classes"]["generated"]) for row in found["tasks"]] == [3, 3]
    assert {"ridge", "arithmetic", "random"} <= set(found["tasks"][0]["accuracy"])

    for asked, message in (
        ("0100010111", "it has 10 digits for 3 classes"),
        ("dark", "folder greys has no class 'dark'; known: 0, 1, 2; expected 3 digits"),
        ("0,1,2", "labels all classes 1"),
    ):
        code, _, err = run(f"rpg generate runs/three --condition {asked} --out other")
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert message in err
    code, _, err = run('rpg-zoo collect three.yaml --out o --set zoo.conditions=["0101"] --data-root data')
    assert code == 2
    assert "expected 3 digits" in err
    code, _, err = run(
        "rpg-zoo collect three.yaml --out o --set zoo.holdout.kind=published --set zoo.holdout.n=20 --data-root data"
    )
    assert code == 2
    assert "on 10 classes, these on 3" in err
