"""Runs of RPG from before its move behind the door for methods: the same losses, and the same networks.

Recorded in float32 on one thread. On the machine that made them the hashes of all files were equal; elsewhere the
numbers agree to rounding.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from commands import call

from rpg.run import Run, read_losses
from zoo.store import Zoo

HERE = Path(__file__).parent
HUGE = 1e6
GOLDEN = json.loads((HERE / "golden.json").read_text())


def summary(zoo: Zoo) -> dict[str, list[list[float]]]:
    """Of every network the mean and deviation of each float tensor."""
    names = [spec.name for spec in zoo.structure if spec.kind != "constant"]
    return {
        entry.id: [
            [round(float(w[n].double().mean()), 6), round(float(w[n].double().std(correction=0)), 6)] for n in names
        ]
        for entry, w in zip(zoo.entries, zoo.checkpoints(zoo.entries), strict=True)
    }


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_losses_and_networks_are_those_of_before(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDEN[name]
    monkeypatch.chdir(tmp_path)
    call(f"rpg-zoo collect {HERE / golden['recipe']} --out zoo")
    call(f"rpg train {HERE / golden['recipe']} --zoo zoo --out run {golden['train']}")
    call(f"rpg generate run --out made {golden['generate']}")
    losses = read_losses(Run(tmp_path / "run"))
    assert [step for step, _ in losses] == [step for step, _ in golden["losses"]]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in golden["losses"]], rel=1e-3)
    found = summary(Zoo.open(tmp_path / "made"))
    assert sorted(found) == sorted(golden["networks"])
    for id, tensors in golden["networks"].items():
        for (mean, std), (old_mean, old_std) in zip(found[id], tensors, strict=True):
            if old_std > HUGE:  # running variances out of a generator that has hardly learnt: exponentials of noise
                mean, std, old_mean, old_std = (math.asinh(value) for value in (mean, std, old_mean, old_std))
            assert mean == pytest.approx(old_mean, rel=2e-2, abs=2e-2 * max(old_std, 1e-3))
            assert std == pytest.approx(old_std, rel=2e-2, abs=1e-5)
