"""Zoos and generators from Python: the README's example, the docstrings' examples, and what names cost."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rpg
import zoo
from zoo import plugins
from zoo.store import Zoo

README = Path(__file__).parents[2] / "README.md"


def python(code: str, place: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RPG_NO_PROGRESS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import rpg\n.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    shorter = code.replace("steps=500", "steps=2").replace("n=5)", "n=5, steps=2)")
    assert shorter.count("steps=2") == 2
    out = python(shorter, tmp_path)
    assert "Weights were compared alone" in out
    assert len(Zoo.open(tmp_path / "zoos/mine-rpg-tiny-generated")) == 5
    assert (tmp_path / "reports/mine-rpg-tiny-generated/report.html").is_file()


def test_the_examples_of_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which one would call them: each goes on from what the one before has made."""
    monkeypatch.chdir(tmp_path)
    runner, tried = doctest.DocTestRunner(), 0
    monkeypatch.setattr(plugins, "_registered", {group: {} for group in plugins.NOUNS})
    functions = (zoo.register, zoo.from_state_dicts, zoo.open, rpg.train, rpg.load, rpg.generate, rpg.report)
    public = [getattr(package, name) for package in (rpg, zoo) for name in package.__all__]
    with_examples = {thing for thing in public if callable(thing) and ">>>" in (thing.__doc__ or "")}
    assert with_examples == set(functions)
    for function in functions:
        (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={"rpg": rpg, "zoo": zoo})
        tried += len(example.examples)
        runner.run(example)
    assert (runner.summarize().failed, tried) == (0, 9)


def test_names_are_found_when_they_are_asked_for(tmp_path: Path) -> None:
    code = "import sys, rpg, zoo; print([m for m in ('torch', 'numpy', 'typer', 'zoo.store') if m in sys.modules])"
    assert python(code, tmp_path) == "[]\n"
    for package in (rpg, zoo):
        assert sorted(dir(package)) == package.__all__ == sorted(package.__all__)
        assert all(getattr(package, name) is not None for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018  # the name is what is tested


def test_state_dicts_become_a_zoo(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    tied = {"a": layer.weight.detach(), "b": layer.weight.detach(), "n": torch.tensor(4)}
    other = {"a": torch.ones(2, 3), "b": torch.ones(2, 3), "n": torch.tensor(4)}
    other["b"] = other["a"]
    made = zoo.from_state_dicts([tied, other], "tied", heldout=1, out=tmp_path / "tied")
    assert [entry.split for entry in made.entries] == ["train", "heldout"]
    first = made[0]
    assert first["a"].data_ptr() == first["b"].data_ptr()
    assert torch.equal(made[1]["a"], other["a"])
    again = zoo.from_state_dicts([tied, other], "tied", heldout=1, out=tmp_path / "tied")
    assert again.sha256 == made.sha256
    with pytest.raises(ValueError, match="holds another zoo: state_dicts"):
        zoo.from_state_dicts([other, tied], "tied", heldout=1, out=tmp_path / "tied")
    with pytest.raises(ValueError, match="does not fit"):
        zoo.from_state_dicts([tied, {"a": torch.ones(1)}], "odd", out=tmp_path / "odd")
    with pytest.raises(ValueError, match="expected one to learn from"):
        zoo.from_state_dicts([tied], "none", heldout=1, out=tmp_path / "none")
    assert not any((tmp_path / name).exists() for name in ("odd", "none"))  # nothing half-made blocks the place
    looser = {"a": torch.ones(2, 3), "b": torch.zeros(2, 3), "n": torch.tensor(4)}
    untied = zoo.from_state_dicts([tied, looser], "untied", out=tmp_path / "untied")
    assert torch.equal(untied[1]["b"], looser["b"])
    for odd in (
        torch.nn.Linear(1, 1),
        {},
        {"a": 1},
        {"a": torch.ones(2, device="meta")},
        {"a": torch.eye(2).to_sparse()},
    ):
        with pytest.raises(ValueError, match=r"^network 0[^\n]*$"):
            zoo.from_state_dicts([odd], "odd", out=tmp_path / "odd")
    with pytest.raises(ValueError, match="is no name for a zoo"):
        zoo.from_state_dicts([tied], "../up")


def test_what_a_training_yields_is_kept_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A state dict shares its memory with the module, which goes on learning."""
    layer = torch.nn.Linear(1, 1, bias=False)

    def trained() -> Iterator[dict[str, torch.Tensor]]:
        for step in range(3):
            torch.nn.init.constant_(layer.weight, float(step))
            yield layer.state_dict()

    made = zoo.from_state_dicts(trained(), "along", out=tmp_path / "along")
    assert [float(network["weight"]) for network in made] == [0.0, 1.0, 2.0]
    assert not caplog.messages
    zoo.from_state_dicts([layer.state_dict()] * 3, "copies", out=tmp_path / "copies")
    assert caplog.messages == ["of 3 networks 1 are different: the others are copies of these"]


def test_a_report_leaves_other_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    networks = [{"w": torch.randn(4, generator=torch.Generator().manual_seed(k))} for k in range(5)]
    originals = zoo.from_state_dicts(networks, "lines")
    new = rpg.generate(rpg.train(originals, "soup", of=3), n=3)
    Path("keep").mkdir()
    Path("keep/report.md").write_text("precious")
    for place in ("keep", "zoos/lines", "keep/report.md"):
        with pytest.raises(ValueError, match="choose another place with --out"):
            rpg.report(originals, new, out=place)
    assert Path("keep/report.md").read_text() == "precious"
    with pytest.raises(ValueError, match="twice"):
        rpg.report(new, new)
    assert not Path("reports").exists()
    nan = zoo.from_state_dicts([*networks, {"w": torch.full((4,), torch.nan)}], "nan")
    for method in ("gaussian", "pca-gaussian", "kde", "noise"):
        with pytest.raises(ValueError, match="w of network-00005 of zoos/nan holds values that are NaN"):
            rpg.train(nan, method)
