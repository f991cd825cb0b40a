"""Large networks: generated in windows of tokens, the same bytes in bounded memory; and what a full GPU says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import call

from learning import content, generate
from rpg.methods.rpg.config import GenerateConfig
from rpg.methods.rpg.learnt import Learnt
from rpg.methods.rpg.windows import windows
from rpg.run import Run
from zoo.errors import Failed
from zoo.store import Zoo

HERE = Path(__file__).parent
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["layer", "flatten", "channel"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A generator of a few steps for each tokenisation."""
    place = tmp_path_factory.mktemp("run")
    settings = ["method.generator.token_size=64", "method.train.steps=20", "zoo.epochs=1", "zoo.checkpoints=3"]
    settings.append(f"method.generator.tokenisation={request.param}")
    sets = " ".join(f"--set {setting}" for setting in settings)
    call(f"rpg-zoo collect {HERE / 'tiny.yaml'} --out {place}/zoo {sets}")
    call(f"rpg train {HERE / 'tiny.yaml'} --zoo {place}/zoo --out {place}/run {sets}")
    return Run(place / "run")


def patch_group_values(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in ("rpg.methods.rpg.windows", "rpg.methods.rpg.generate"):
        monkeypatch.setattr(f"{module}.GROUP_VALUES", count)


def made(run: Run, path: Path, **settings: object) -> dict[str, bytes]:
    config = GenerateConfig.model_validate({"n": 2, "steps": 3, "sampler": "ddim", **settings})
    zoo = generate(run, path, config)
    assert list(zoo.problems()) == []
    return content(path)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_windows_give_the_same_bytes(run: Run, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.writer.STACK_BELOW", 0)
    monkeypatch.setattr("rpg.methods.rpg.windows.CPU_CHUNK_VALUES", 2 * 64 // torch.get_num_threads())
    whole = made(run, tmp_path / "whole", sampler=sampler, n=1)  # several share chunks when they are not windowed
    for group_values in (1, 5 * 64, 16 * 64):  # windows of 2, 4 and 16 tokens
        patch_group_values(monkeypatch, group_values)
        assert len(windows(Learnt(run).layout().num_tokens, 64, 2)) > 1
        assert made(run, tmp_path / str(group_values), sampler=sampler, n=1) == whole


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_modes_give_the_same_weights_in_windows(
    run: Run, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_group_values(monkeypatch, 8 * 64)
    made(run, tmp_path / "partial", sampler=sampler)
    expected = Zoo.open(tmp_path / "partial")
    for mode in ("sequential", "full"):
        made(run, tmp_path / mode, sampler=sampler, mode=mode)
        found = Zoo.open(tmp_path / mode)
        for a, b in zip(expected.entries, found.entries, strict=True):
            torch.testing.assert_close(found.load(b), expected.load(a), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("tokens", "size", "chunk"), [(0, 4, 1), (1, 4, 9), (100, 4, 1), (100, 4, 3), (7, 999, 2)])
def test_windows_are_whole_chunks_and_cover_all_tokens(
    tokens: int, size: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpg.methods.rpg.windows.GROUP_VALUES", 80)
    found = windows(tokens, size, chunk)
    assert [token for window in found for token in window] == list(range(tokens))
    assert all(len(window) % chunk == 0 for window in found[:-1])
    assert all(len(window) <= max(chunk, 80 // size) for window in found)


def test_values_that_are_not_finite_are_one_line_and_leave_no_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_group_values(monkeypatch, 8 * 64)
    monkeypatch.setattr("rpg.methods.rpg.generate.sample", lambda *args: torch.full_like(args[2], torch.nan))
    with pytest.raises(Failed, match="network generated-0000 has values that are not finite"):
        made(run, tmp_path / "made")
    assert not list((tmp_path / "made").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [("full", "--mode partial"), ("partial", "--mode sequential"), ("sequential", "--mode sequential -n 1")],
)
def test_a_full_gpu_says_what_to_lower(
    run: Run, mode: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(*args: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nAnd so on.")

    monkeypatch.setattr("rpg.methods.rpg.generate.sample", sample)
    with pytest.raises(Failed, match=remedy) as caught:
        made(run, tmp_path / "made", mode=mode)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_network(tmp_path: Path) -> None:
    """Prototypes aside (in the script they take none), as documented."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def peak(values: int) -> int:
        argv = [sys.executable, str(HERE / "memory.py"), str(values), str(tmp_path / str(values))]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    small, large = peak(2_000_000), peak(20_000_000)
    assert large - small < 30_000_000  # bytes, and half of that is chance; the network itself has 80 million
