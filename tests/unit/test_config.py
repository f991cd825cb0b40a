"""Bad settings are refused with the remedy; the hashes of recipes that leave the options alone stay."""

from __future__ import annotations

from typing import Any

import pytest

from rpg.config import GeneratorConfig
from zoo.recipe import load_recipe, validate


def config(**settings: Any) -> GeneratorConfig:
    return validate(GeneratorConfig, settings, "recipe x: rpg.generator")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": [64, 128, 128]}, r"has 3 widths, but num_layers = 2; give one width per block"),
        ({"d_model": [64, 128], "recurrent": "lstm"}, r"different widths need recurrent = mamba; .* a single number"),
        ({"d_model": [64, 100]}, r"expand \* d_model = 200 must be a multiple of head_dim = 64"),
        ({"d_model": 36, "recurrent": "transformer"}, r"d_model = 36 must be a multiple of 8, the transformer's heads"),
        ({"d_model": 34, "recurrent": "none"}, r"d_model = 34 must be a multiple of 4"),
        ({"recurrent": "gru"}, r"rpg\.generator\.recurrent: .*'lstm'.*\"gru\""),
        ({"positions": "learnt"}, r"rpg\.generator\.positions: .*'learned'"),
        ({"tokenisation": "row"}, r"rpg\.generator\.tokenisation: .*'channel'"),
        ({"tokenization": "layer"}, r"did you mean tokenisation\?"),
        ({"permutation_state": "random"}, r"permutation_state: .*'learned'"),
        ({"d_model": []}, r"has 0 widths"),
        ({"d_model": [64, -64]}, r"d_model.*greater than 0"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_good_settings_pass() -> None:
    assert config(d_model=[64, 128]).widths == (64, 128)
    assert config(d_model=64, num_layers=3).widths == (64, 64, 64)
    assert config(d_model=20, recurrent="lstm").widths == (20, 20)  # a head size is Mamba's alone
    assert config(d_model=[64, 64], recurrent="none").widths == (64, 64)


def test_options_at_their_defaults_do_not_change_the_hash_of_a_recipe() -> None:
    plain = load_recipe("digits").sha256
    assert (
        plain == "d5cfc103d0f622316e53897122a0834facdcb928703c2c3cce1abfe0e6644a0c"
    )  # pinned: zoos and runs that exist stay valid
    options = {"recurrent": "mamba", "positions": "layer", "tokenisation": "layer"}
    assert load_recipe("digits", [f"rpg.generator.{key}={value}" for key, value in options.items()]).sha256 == plain
    for change in ("recurrent=lstm", "positions=index", "tokenisation=flatten", "permutation_state=learned"):
        assert load_recipe("digits", [f"rpg.generator.{change}"]).sha256 != plain
