"""SIGKILL at random moments: the same command continues, and the final files equal those of an uninterrupted run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def content(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def kill_and_compare(tmp_path: Path, seed: int, kills: int, *options: str, recipe: str = "tiny.yaml") -> int:
    """Collect, train and generate with up to `kills` kills of each, and without; returns how many there were."""
    argv = [sys.executable, str(HERE / "killer.py"), str(seed), str(kills), str(HERE / recipe), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    return int(done.stdout.splitlines()[-1])


def test_killed_commands_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, seed=0, kills=6) >= 3


def test_killed_in_the_middle_of_a_network(tmp_path):
    assert kill_and_compare(tmp_path, 0, 6, "512") >= 1


def test_networks_that_are_trained_together_are_killed_together(tmp_path):
    assert kill_and_compare(tmp_path, 0, 5, "collect", recipe="binary.yaml") >= 1


def test_killed_imports_and_splits_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, 0, 8, "import") >= 2
    assert len(list((tmp_path / "whole" / "split").glob("*.parquet"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_commands_end_in_the_same_bytes_many_times(tmp_path, seed):
    assert kill_and_compare(tmp_path, seed=seed, kills=20) >= 10
