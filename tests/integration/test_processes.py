"""Training in two processes that gloo connects: the same run as in one, with data parallelism and with FSDP2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import Program

from rpg.methods.rpg.learnt import Learnt
from rpg.run import Run, read_losses

HERE = Path(__file__).parent
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
SETTINGS = ["steps=20", "save_every=10", "diffusion_batch=20", "accumulation=2", "ema=0.9", "gradient_clipping=0.5"]
LEARNED = ["method.generator.positions=learned", "method.generator.permutation_state=learned"]


def launch(out: str, count: int, environment: dict[str, str], **more: Any) -> dict[str, Any]:
    sets = [f"method.train.{setting}" for setting in SETTINGS] + LEARNED
    arguments = [str(HERE / "tiny.yaml"), "--zoo", "zoo", "--out", out, "--device", "cpu"]
    arguments += [word for item in sets for word in ("--set", item)]
    return {"count": count, "arguments": arguments, "environment": environment, **more}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """All the trainings, and their exit codes. For the session: xdist hands out a module in parts."""
    place = tmp_path_factory.mktemp("processes")
    launches = [
        launch("one", 1, {}),
        launch("two", 2, {}),
        launch("sharded", 2, SHARDED),
        launch("killed", 2, {}, kill_after="killed/state.safetensors"),
        launch("killed", 2, {}),
        launch("moved", 2, SHARDED, kill_after="moved/state.safetensors"),
        launch("moved", 1, {}),
        launch("odd", 3, {}),
    ]
    collect = f"{HERE / 'tiny.yaml'} --set zoo.checkpoints=4 --set zoo.epochs=1 --out zoo"
    code, out, err = Program(str(HERE / "processes.py"), collect, json.dumps(launches), folder=place).wait()
    assert code == 0, err
    return place, json.loads(out.splitlines()[-1])


@torch.no_grad()
def estimates(path: Path) -> torch.Tensor:
    """Of noise, by a trained run, for every state. (Not its weights: biases before BatchNorm have no gradient but
    rounding, which AdamW makes as large as any other.)
    """
    generator = Learnt(Run(path).require_trained()).generator(torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    row = torch.arange(4).repeat_interleave(5)
    noisy = torch.randn(20, generator.config.token_size, generator=rng)
    return generator(noisy, torch.randint(1000, (20,), generator=rng), torch.arange(4), row, torch.arange(20) % 5)


def test_two_processes_train_what_one_trains(runs: Any) -> None:
    place, codes = runs
    assert codes[:3] == [[0], [0, 0], [0, 0]]
    expected = read_losses(Run(place / "one"))
    for name in ("two", "sharded"):
        found = read_losses(Run(place / name))
        assert [step for step, _ in found] == [10, 20]
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-4)
        torch.testing.assert_close(estimates(place / name), estimates(place / "one"), rtol=0, atol=2e-3)


def test_what_several_processes_leave_is_what_one_leaves(runs: Any) -> None:
    place, _ = runs
    names = [sorted(file.name for file in (place / name).iterdir()) for name in ("one", "two", "sharded")]
    assert names[0] == names[1] == names[2]


def test_a_killed_run_continues_to_the_same_bytes(runs: Any) -> None:
    place, codes = runs
    assert codes[3][0] == -9
    assert codes[3][1] != 0
    assert codes[4] == [0, 0]
    for name in ("metrics.jsonl", "generator.safetensors"):
        assert (place / "killed" / name).read_bytes() == (place / "two" / name).read_bytes()


def test_a_sharded_run_continues_in_one_process(runs: Any) -> None:
    place, codes = runs
    assert codes[5][0] == -9
    assert codes[6] == [0]
    losses = [loss for _, loss in read_losses(Run(place / "moved"))]
    assert losses == pytest.approx([loss for _, loss in read_losses(Run(place / "one"))], rel=1e-4)


def test_a_batch_that_cannot_be_dealt_out_is_refused(runs: Any) -> None:
    place, codes = runs
    assert codes[7] == [2, 2, 2]
    assert "batch_size = 4 must be a multiple of 3 processes times" in (place / "stderr").read_text()
    assert not (place / "odd").exists()


@pytest.mark.slow
def test_accelerate_launches_it(runs: Any) -> None:
    place, _ = runs
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = [
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    program = [sys.executable, "-m", "accelerate.commands.launch", *options, str(Path(sys.executable).with_name("rpg"))]
    argv = [*program, "train", *launch("launched", 2, {})["arguments"], "--json"]
    done = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "launched"  # said once
    losses = [loss for _, loss in read_losses(Run(place / "launched"))]
    assert losses == pytest.approx([loss for _, loss in read_losses(Run(place / "two"))], rel=1e-6)
