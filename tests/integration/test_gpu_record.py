"""`make gpu` records every part, whatever becomes of it; and the generator's steps need no tensor on another device."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gpu
from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler, squared_error
from rpg.methods.rpg.config import GeneratorConfig
from rpg.methods.rpg.models.generator import Generator

ROWS = (
    "import json, pathlib, sys; pathlib.Path(sys.argv[1], 'made.json').write_text(json.dumps({'rows': [{'a': 1.5}]}));"
)
PARTS = (
    gpu.Part("late", 1, "is cut short", "made"),
    gpu.Part("wrong", 60, "fails with rows", "made"),
    gpu.Part("broken", 60, "fails without", "made"),
    gpu.Part("good", 60, "is done", "made"),
)
CODE = {
    "late": ROWS + "import time; print('working'); time.sleep(600)",
    "wrong": ROWS + "raise RuntimeError('out of memory')",
    "broken": "import no_such_library",
    "good": ROWS,
}


def made_up(part: gpu.Part, device: str, quick: bool, folder: Path) -> list[str]:
    return [sys.executable, "-c", CODE[part.name], str(folder)]


def test_every_part_is_recorded_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "PARTS", PARTS)
    monkeypatch.setattr(gpu, "command", made_up)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path)])
    start = time.monotonic()
    assert gpu.main() == 1
    assert time.monotonic() - start < 60
    records = {part.name: json.loads((tmp_path / f"{part.name}.json").read_text()) for part in PARTS}
    assert {name: (record["status"], record["result"]["rows"]) for name, record in records.items()} == {
        "late": ("cut short", [{"a": 1.5}]),
        "wrong": ("failed", [{"a": 1.5}]),
        "broken": ("failed", []),
        "good": ("done", [{"a": 1.5}]),
    }
    assert "out of memory" in records["wrong"]["log"]
    text = (tmp_path / "gpu.md").read_text()
    assert "no_such_library" in text
    assert text in capsys.readouterr().out


def test_all_parts_together_take_less_than_nine_minutes() -> None:
    assert sum(part.seconds for part in gpu.PARTS) <= gpu.ALL_SECONDS < 9 * 60


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda:99"])
    assert gpu.main() == 2
    assert "--device cpu --quick" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_run_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--out", str(tmp_path)])
    assert gpu.main() == 0
    for part in gpu.PARTS:
        record = json.loads((tmp_path / f"{part.name}.json").read_text())
        assert record["status"] == "done"
        assert record["result"]["rows"]


def test_a_step_on_cuda_mixes_no_devices() -> None:
    """On a GPU that is not there: tensors without values know where they are, and operations refuse to mix. The
    generator is made where it is used, as benchmarks/gpu_steps.py does.
    """
    config = GeneratorConfig(token_size=64, d_model=64, channels=(1, 4, 1))
    length, count, cuda = 70, 20, torch.device("cuda")
    schedule = make_scheduler(DiffusionConfig(), "ddpm", 1000)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, cuda:
        model = Generator(config, torch.zeros(length, 2, dtype=torch.int64), 5).train()
        tokens, noise = torch.randn(2, count, 64)
        levels, states, row, place = (torch.zeros(n, dtype=torch.int64) for n in (count, 3, count, count))
        mask = torch.ones(count, 64, dtype=torch.bool)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    with fake:
        loss = squared_error(model, schedule, tokens, mask, levels, noise, states, row, place)
    assert loss.device.type == "cuda"
