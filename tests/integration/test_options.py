"""Every option of the generator trains and generates through the same command lines, and its settings are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import call
from commands import run as run_command

from rpg.methods.rpg.learnt import Learnt
from rpg.run import Run
from zoo.checkpoint import load_tensors
from zoo.cuda import computes_in_bfloat16
from zoo.manifest import differences
from zoo.store import Zoo

TINY = str(Path(__file__).parent / "tiny.yaml")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("collected") / "zoo"
    call(f"rpg-zoo collect {TINY} --set zoo.checkpoints=4 --set zoo.epochs=1 --out {zoo}")
    return zoo


@pytest.mark.parametrize(
    "settings",
    [
        ["recurrent=lstm"],
        ["recurrent=transformer"],
        ["recurrent=none"],
        ["positions=index"],
        ["positions=learned"],
        ["tokenisation=flatten"],
        ["tokenisation=channel"],
        ["permutation_state=learned"],
        ["permutation_state=none"],
        ["d_model=[32,64]"],
        ["token_size=1024"],
        ["statistics=value"],
        ["recurrent=lstm", "positions=learned", "tokenisation=channel", "permutation_state=learned"],
    ],
    ids="+".join,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_option_trains_and_generates(
    settings: list[str], precision: str, collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [f"method.generator.{setting}" for setting in settings] + [f"method.train.precision={precision}"]
    sets += [
        "method.train.steps=20",
        "method.train.batch_size=3",
        "method.train.diffusion_batch=20",
        "generate.steps=3",
    ]
    command = f"rpg train {TINY} --zoo {collected} --out run " + " ".join(f"--set {item}" for item in sets)
    imitated = precision == "bfloat16" and not computes_in_bfloat16(torch.device("cpu"))
    if imitated and "recurrent=lstm" in settings:
        code, _, err = run_command(command)
        assert (code, Path("run").exists()) == (2, False)
        assert "no LSTM in bfloat16; use --set method.train.precision=float32" in err
        return
    call(command)
    call("rpg generate run -n 2 --out made")

    run, made, originals = Run(Path("run")), Zoo.open(Path("made")), Zoo.open(collected)
    assert made.structure == originals.structure
    assert list(made.problems()) == []
    assert len({entry.sha256 for entry in made.entries}) == 2
    assert len(run.metrics_path.read_text().splitlines()) == 2
    recorded = [line.split()[0].rpartition(".")[2] for line in differences({}, made.manifest.origin.settings)]
    assert all(setting.split("=")[0] in recorded for setting in settings)
    learnt = Learnt(run)
    assert learnt.values_path.is_file() == ("statistics=value" in settings)
    names = load_tensors(learnt.generator_path).keys()
    assert ("positions" in names) == ("positions=learned" in settings)
    assert ("states" in names) == ("permutation_state=learned" in settings)
    assert json.loads(learnt.layout_path.read_text())["tokenisation"] == next(
        (setting.split("=")[1] for setting in settings if setting.startswith("tokenisation")), "layer"
    )
