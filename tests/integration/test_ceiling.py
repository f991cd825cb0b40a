"""What a codec costs is shown and warned of: a flow on one principal component fails, one on all of them passes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import rpg
import zoo
from rpg.methods.ceiling import NETWORKS, reconstruct, spread_out
from rpg.reports.ceiling import is_of
from rpg.reports.compare import Comparison
from rpg.reports.stage import plan_report
from rpg.reports.verdict import judge
from rpg.run import Run
from zoo.errors import MissingData
from zoo.recipe import load_recipe
from zoo.store import Zoo

RECIPE = """
task: {name: classification, model: cnn_digits, data: digits, augment: none}
zoo:
  {regime: independent, seeds: 6, heldout: 0.17, checkpoints: 1, save_every: 1, optimizer: sgd, learning_rate: 0.1,
   weight_decay: 1.0e-4, batch_size: 100, epochs: 3, save_learning_rate: 1.0e-3}
eval: {n: 3, average_of: 4, noise: [0.01]}
"""
FLOW = {"method": "flow", "steps": 5, "hidden": (8,), "batch_size": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("ceiling")
    (made / "seeds.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        zoo.collect("seeds.yaml")
    return made


@pytest.fixture(scope="module")
def runs(place) -> dict[str, tuple[Run, str]]:
    """A flow on all components and one on a single one, barely trained; each with what its training warned of."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, rank in (("all", None), ("one", 1)):
            heard: list[str] = []
            handler = logging.Handler(logging.WARNING)
            handler.emit = lambda record, heard=heard: heard.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("rpg.methods.ceiling").addHandler(handler)
            run = rpg.train("zoos/seeds", rank=rank, out=f"runs/{name}", **FLOW)
            logging.getLogger("rpg.methods.ceiling").removeHandler(handler)
            rpg.generate(run, n=2, steps=2, out=f"zoos/{name}")
            found[name] = run, "\n".join(heard)
    return found


@pytest.fixture(scope="module")
def comparisons(place, runs) -> dict[str, Comparison]:
    """Of the flow on one component alone, and of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        task = load_recipe("seeds.yaml").task.build(None, torch.device("cpu"))
        zoos = {"one": ["zoos/one"], "both": ["zoos/all", "zoos/one"]}
        return {
            name: plan_report(places, recipe="seeds.yaml", out=f"reports/{name}").compared(task)
            for name, places in zoos.items()
        }


def test_training_warns_of_a_codec_that_loses_too_much(runs) -> None:
    assert runs["all"][1] == ""
    warning = runs["one"][1]
    assert warning.count("\n") == 0
    assert f"encoding and decoding {NETWORKS} training networks takes top1 from 9" in warning
    assert warning.endswith(
        "on validation data, and what is generated can hardly be better; give the codec more room "
        "(rank, width) or more steps"
    )


def test_it_says_nothing_twice_nor_without_task_and_says_so_without_data(runs, place, monkeypatch, caplog) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("RPG_DATA", raising=False)
    caplog.set_level(logging.INFO, "rpg.methods.ceiling")
    rpg.train("zoos/seeds", rank=1, out="runs/one", **FLOW)  # is there already
    unknown = zoo.from_state_dicts(list(Zoo.open("zoos/seeds")), "unknown")
    rpg.train(unknown, rank=1, **FLOW)
    assert caplog.text == ""
    asked = []

    def missing(name: str, data_root: Path | None) -> None:
        asked.append(data_root)
        raise MissingData("nothing there")

    monkeypatch.setattr("zoo.tasks.classification.load_images", missing)
    rpg.train("zoos/seeds", rank=1, out="runs/without", **FLOW)
    rpg.train("zoos/seeds", rank=1, out="runs/lost", data_root=place, **FLOW)
    assert asked
    assert None not in asked  # which would be the Hub
    first, second = caplog.messages
    unchecked = "what encoding and decoding networks costs was not checked: "
    assert first.startswith(
        f"runs/without: {unchecked}the task's data are not on this machine, as far as it was told; `rpg report`"
    )
    assert second.startswith(f"runs/lost: {unchecked}nothing there; ")
    assert second.endswith("training where --data-root, or RPG_DATA, says where the data are")


def test_a_report_shows_what_a_codec_keeps(comparisons) -> None:
    one, both = comparisons["one"], comparisons["both"]
    assert [group.name for group in one.of_kind("reconstructed")] == ["reconstructed", "reconstructed heldout"]
    named = [f"reconstructed{held} by {name}" for name in ("all", "one") for held in ("", " heldout")]
    assert sorted(group.name for group in both.of_kind("reconstructed")) == sorted(named)
    # All components span the training networks: these come back, and score the same; others do not.
    original, back, new = both.original, both.group("reconstructed by all"), both.group("reconstructed heldout by all")
    assert max(back.nearest_ratio) < 1e-4
    assert back.scored.accuracy == pytest.approx([original.scored.accuracy[k * 5 // 3] for k in range(3)], abs=0.2)
    assert max(new.scored.accuracy) < min(both.group("heldout").scored.accuracy) - 5
    # Of one component little is left, the same in both reports.
    lost = one.group("reconstructed")
    assert max(lost.scored.accuracy) < min(original.scored.accuracy) - 5
    assert both.group("reconstructed by one").nearest == lost.nearest


def test_a_row_is_of_the_groups_whose_run_it_names() -> None:
    assert is_of("reconstructed heldout", "generated")
    assert is_of("reconstructed heldout by flow and by hand", "by hand")
    assert not is_of("reconstructed by flow", "gaussian")


def test_a_generator_without_a_codec_gets_none(comparisons, place, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(place)
    gaussian = rpg.generate(rpg.train("zoos/seeds", "gaussian", out=tmp_path / "run"), n=2, out=tmp_path / "normal")
    found = rpg.report("zoos/one", gaussian, originals="zoos/seeds", out=tmp_path / "report").comparison
    assert [g.name for g in found.of_kind("reconstructed")] == [
        "reconstructed by flow",
        "reconstructed heldout by flow",
    ]
    codecs = {verdict.group: dict(verdict.findings).get("Codec") for verdict in judge(found)}
    assert "reconstructed by flow" in str(codecs.pop("flow"))
    assert list(codecs.values()) == [None]


def test_a_verdict_says_it_and_takes_no_ceiling_for_a_baseline(comparisons) -> None:
    for name, comparison in comparisons.items():
        assert not any("reconstructed" in group.name for group in comparison.of_kind("baseline"))
        for verdict in judge(comparison):
            found = dict(verdict.findings)
            its = f"reconstructed by {verdict.group}" if name == "both" else "reconstructed"
            kept = comparison.group(its).scored.metrics["top1"].mean
            assert (
                f"leaves of the mean score: {its} {kept:.2f} of {comparison.original.scored.metrics['top1'].mean:.2f}"
                in (found["Codec"])
            )
            assert found["Codec"].count("by ") == (5 if name == "both" else 0)  # one held-out network has no spread


def test_reconstructing_goes_on_where_it_was(runs, place, tmp_path) -> None:
    run, originals = Run(place / "runs/one"), Zoo.open(place / "zoos/seeds")
    codec, entries = run.method(), originals.select("train")
    whole = reconstruct(run, codec, originals, entries, tmp_path / "zoo", "cpu")
    assert [entry.id for entry in whole.entries] == [entry.id for entry in entries]
    assert [entry.parents for entry in whole.entries] == [(entry.sha256,) for entry in entries]
    assert reconstruct(run, codec, originals, entries, tmp_path / "zoo", "cpu").sha256 == whole.sha256


def test_networks_are_taken_at_equal_steps() -> None:
    assert spread_out(list("abcdefg"), 3) == ["a", "c", "e"]  # type: ignore[comparison-overlap, arg-type]
    assert spread_out(list("ab"), 3) == ["a", "b"]  # type: ignore[comparison-overlap, arg-type]
