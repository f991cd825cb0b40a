"""Bad settings are refused with the remedy; the hashes of recipes that leave the options alone stay."""

from __future__ import annotations

from typing import Any

import pytest

from rpg.methods.rpg.config import GeneratorConfig
from zoo.recipe import validate


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
