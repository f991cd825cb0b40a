"""Bad settings are refused with the remedy; the hashes of recipes that leave the options alone stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rpg.config import DiffusionConfig
from rpg.diffusion import make_scheduler
from rpg.methods.rpg.config import GeneratorConfig
from zoo.recipe import load_method, validate


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 9000}, "nothing is left of the signal, which samplers cannot take; lower num_steps or beta_end"),
        ({"beta_start": 1e-8}, "beta_start = 1e-08 is no noise in float32; expected 1e-7 or more"),
    ],
)
def test_schedules_that_no_sampler_can_take_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(DiffusionConfig, settings, "method.diffusion")


@pytest.mark.parametrize("settings", [{"num_steps": 8000}, {"beta_start": 1e-7}, {}])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_schedules_that_are_not_refused_can_be_sampled(settings: dict[str, Any], sampler: Any) -> None:
    """Of a Gaussian of deviation 1, whose clean estimate is the noisy value times the signal's root."""
    schedule = validate(DiffusionConfig, settings, "method.diffusion")
    steps = make_scheduler(schedule, sampler, 200)
    value = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    signal = (1 - schedule.betas()).cumprod(0)[steps.timesteps.flip(0)].float()
    for level, kept in zip(steps.steps.timesteps, signal, strict=True):
        noise = (value - kept.sqrt() * kept.sqrt() * value) / (1 - kept).sqrt()
        value = steps.steps.step(noise, level, value).prev_sample
    assert torch.isfinite(value).all()
    assert float(value.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    "method",
    ["rpg-tiny", "rpg-latent-small", "p-diff-small", "cond-p-diff-small", "d2nwg-small", "g.pt-small", "tina-small"],
)
def test_more_sampling_steps_than_levels_are_no_settings(method: str) -> None:
    levels = load_method(method)[0].diffusion.num_steps  # type: ignore[attr-defined]
    load_method(method, [f"generate.steps={levels}"])
    with pytest.raises(ValueError, match=f"^{levels + 1} sampling steps, .*; use --set generate.steps={levels}, or"):
        load_method(method, [f"generate.steps={levels + 1}"])


def test_reading_out_takes_no_steps() -> None:
    load_method("rpg-latent-small", ["generate.sampler=readout", "generate.steps=1001"])
    load_method("rpg-tiny-supervised", ["generate.sampler=readout", "generate.steps=1001"])
