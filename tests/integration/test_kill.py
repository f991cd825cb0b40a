"""SIGKILL at random moments: the same command continues, and the final files equal those of an uninterrupted run."""

from pathlib import Path

import pytest
from forking import Program
from killer import CHAINS

HERE = Path(__file__).parent
TABLE = f"""
title: "Table 0: a tiny one"
section: "0"
unit: "top-1, %"
base: {{recipe: {HERE / "tiny.yaml"}}}
columns:
  RPG: {{set: [method.train.steps=30]}}
  another seed: {{set: [method.train.steps=30, method.train.seed=1]}}
  gaussian: {{method: gaussian}}
rows:
  original: {{show: original}}
  mean: {{show: generated}}
  noise: {{show: noised, sigma: 0.5}}
differs: "Everything."
small: "it is small"
"""


def kill_and_compare(tmp_path: Path, seed: int, kills: int, chain: str = "learn", recipe: str = "tiny.yaml") -> int:
    """Run the commands of a chain with up to `kills` kills of each, and without, which has to give the same files;
    returns how many kills there were.
    """
    killer = Program(str(HERE / "killer.py"), str(seed), str(kills), str(HERE / recipe), chain, folder=tmp_path)
    code, out, err = killer.wait()
    assert code == 0, err
    return int(out.splitlines()[-1])


def test_killed_commands_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, seed=0, kills=3) >= 3


@pytest.mark.slow
def test_killed_scores_and_reports_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, 0, 1, "report") >= 2
    assert {"report.html", "report.json", "plots"} <= {path.name for path in (tmp_path / "whole/report").iterdir()}


def test_killed_in_the_middle_of_a_network(tmp_path):
    assert kill_and_compare(tmp_path, 0, 3, "512") >= 1


def test_networks_that_are_trained_together_are_killed_together(tmp_path):
    assert kill_and_compare(tmp_path, 0, 3, "collect", recipe="binary.yaml") >= 1


def test_killed_imports_and_splits_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, 0, 4, "import") >= 2
    assert len(list((tmp_path / "whole" / "split").glob("*.parquet"))) == 1


def test_killed_collections_and_derivations_end_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, 0, 2, "derive") >= 5
    assert (tmp_path / "whole/aligned/alignment/alignment.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_commands_end_in_the_same_bytes_many_times(tmp_path, seed, chain):
    assert kill_and_compare(tmp_path, seed, 20, chain) >= 10


@pytest.mark.slow
def test_a_killed_table_ends_in_the_same_bytes(tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(TABLE)
    assert kill_and_compare(tmp_path, 0, 6, "reproduce", recipe=str(table)) >= 3
    made, continued = (tmp_path / place / "reproduced/table" for place in ("whole", "killed"))
    assert {path.suffix for path in made.iterdir()} == {".md", ".csv", ".tex", ".html", ".json"}
    for path in made.iterdir():
        assert path.read_bytes() == (continued / path.name).read_bytes()
    assert len(list((tmp_path / "killed/runs").glob("*/trained.json"))) == 3


@pytest.mark.slow
def test_a_killed_sweep_ends_in_the_same_bytes(tmp_path):
    assert kill_and_compare(tmp_path, 0, 4, "sweep") >= 2
    assert len(list((tmp_path / "killed/runs").glob("*/trained.json"))) == 4
    assert len(list((tmp_path / "killed/sweeps").glob("*/sweep.md"))) == 1
