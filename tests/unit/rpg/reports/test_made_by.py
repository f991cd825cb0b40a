"""What made generated networks is told by the settings' name, what was changed in them, and the steps on record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue
from test_report import write

from made_up import comparison, replaced
from rpg.reports.made_by import settings_said
from rpg.reports.printed import comparison_json
from rpg.reports.report import notes, summary
from zoo.manifest import Origin, settings_of
from zoo.recipe import load_method, load_recipe

ORIGIN = Origin(name="toy", kind="generated", task={"name": "toy"}, command=("x",), versions={})


def made(config: JsonValue, name: str = "of-my-own") -> Origin:
    return ORIGIN.model_copy(update={"name": name, "settings": {"method": config}})


@pytest.mark.parametrize(
    ("settings", "overrides", "said"),
    [
        ("sane-small", [], "settings sane-small"),
        ("rpg-small", ["method.train.seed=7"], "settings rpg-small"),
        ("pca-gaussian", ["method.rank=20"], "settings pca-gaussian but for rank (default) -> 20"),
        (
            "rpg-small",
            ["method.train.steps=7", "method.train.batch_size=2", "method.generator.d_state=8", "method.min_snr=3"],
            "settings rpg-small but for ",
        ),
    ],
)
def test_settings_are_called_by_their_name_and_changes(settings: str, overrides: Sequence[str], said: str) -> None:
    found = settings_said(made(settings_of(load_method(settings, overrides)[0])))
    if said.endswith("for "):
        assert found.startswith(said)
        assert found.count(" -> ") == 3
        assert found.endswith(" and 1 more")
    else:
        assert found == said


def test_settings_of_a_recipe_are_called_as_it() -> None:
    method = load_recipe("digits").method
    assert method
    assert settings_said(made(settings_of(method), "digits")) == "settings of recipe digits"
    assert settings_said(made(settings_of(load_method("sane-small")[0]), "digits")) == "settings sane-small"


def test_methods_of_others_have_their_names_and_what_no_method_made_has_nothing() -> None:
    assert settings_said(made({"name": "theirs", "width": 3})) == "method theirs"
    assert settings_said(ORIGIN.model_copy(update={"settings": {}})) == ""


def test_the_report_says_what_made_its_networks_and_from_how_many_runs_the_originals_are(tmp_path: Path) -> None:
    one = replaced(comparison(), "mine", about="networks from a generator, 2,500 training steps, settings sane-small")
    several = one.model_copy(update={"runs": 8})
    assert notes(several)[1] == "The 40 training checkpoints come from 8 runs."
    line, origin = notes(one)
    assert line == "mine: networks from a generator, 2,500 training steps, settings sane-small."
    assert origin.startswith("All 40 training checkpoints are of one run")
    assert f"\n\n{line}\n{origin}\n\n" in summary(one)
    write(one, tmp_path)
    for file in ("report.html", "report.md"):
        text = (tmp_path / file).read_text()
        assert line in text
        assert origin in text
    shown = comparison_json(several)
    assert (shown["runs"], shown["groups"]["mine"]["about"]) == (8, one.group("mine").about)
