"""COND P-DIFF: networks that are linear in the bits of their task are recovered, for tasks never seen, too; what it is
told; what it refuses.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linear_gaussian import gaussian_zoo
from linear_in_bits import NOISE, UNSEEN, bits_zoo, error, flat
from torch import Tensor

import rpg.api
import rpg.methods.p_diff.method
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.cond_p_diff import Config, TaskDenoiser
from rpg.methods.latents import TaskDraw
from rpg.methods.p_diff.method import Config as PDiffConfig
from rpg.run import Run, wanted_conditions
from zoo.conditions import all_conditions, bits
from zoo.seeds import generator
from zoo.store import Zoo

AUTOENCODER = {"channels": (8, 16), "code": 8, "kernel_size": 5, "batch_size": 16, "learning_rate": 3e-3}
DENOISER = {"channels": (1, 16, 32, 16, 1), "kernel_size": 5, "batch_size": 32, "learning_rate": 4e-3, "ema": 0.99}


def config(autoencoder: int, denoiser: int) -> Config:
    """Settings for so many steps of each."""
    stages = {
        "autoencoder": {**AUTOENCODER, "steps": autoencoder, "save_every": 10},
        "denoiser": {**DENOISER, "steps": denoiser, "save_every": 10},
    }
    return Config.model_validate({"name": "cond-p-diff", **stages})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return bits_zoo(tmp_path_factory.mktemp("cond-p-diff") / "zoo")


@pytest.fixture(scope="module")
def run(zoo) -> Run:
    return train(config(200, 500), zoo, zoo.path.parent / "run")


def test_networks_linear_in_the_bits_are_recovered_and_those_of_tasks_never_seen(run, tmp_path) -> None:
    """A flipped bit lies at distance 1: so far are the nearest networks that were seen of a task that was not."""
    made = generate(run, tmp_path / "made", TaskDraw(n=16, conditions=all_conditions(4), steps=40))
    found: dict[str, list[Tensor]] = {condition: [] for condition in all_conditions(4)}
    for entry in made.entries:
        assert entry.id.startswith(f"generated-{entry.condition}-")
        found[str(entry.condition)].append(flat(made.load(entry)))
    errors = {condition: error(torch.stack(networks), condition) for condition, networks in found.items()}
    assert max(value for condition, value in errors.items() if condition not in UNSEEN) < 0.3
    assert max(errors[condition] for condition in UNSEEN) < 0.45
    for networks in found.values():  # and they differ
        assert torch.stack(networks).std(0).mean() > NOISE / 2


def test_a_network_is_a_function_of_its_seed_task_and_number(run, tmp_path) -> None:
    few, many = (
        generate(run, tmp_path / str(n), TaskDraw(n=n, conditions=tasks, steps=5))
        for n, tasks in ((2, ("0110", "0110")), (18, ("0011", "0110")))
    )
    assert [entry.id for entry in few.entries] == ["generated-0110-0000", "generated-0110-0001"]
    for entry in few.entries:
        torch.testing.assert_close(few.load(entry), many.load(many.entry(entry.id)), rtol=1e-4, atol=1e-4)
    assert len(many.entries) == 36


def test_every_convolution_sees_the_bits_beside_the_time() -> None:
    """With the map of a task's bits added to the time's, p-diff's denoiser gives the same."""
    model, noisy, steps = TaskDenoiser(12, (1, 4, 1), 3, 4).eval(), torch.randn(2, 12), torch.tensor([3, 700])
    told = torch.stack([bits("0110"), bits("1000")])
    time = model.time_embedding(steps) + told @ model.condition.weight.T + model.condition.bias
    expected = super(TaskDenoiser, model).denoise(noisy, time, noisy)
    torch.testing.assert_close(model(noisy, steps, told), expected)
    assert not torch.allclose(model(noisy, steps, told.flip(0)), expected)


def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, tmp_path, monkeypatch) -> None:
    whole = train(config(10, 20), zoo, tmp_path / "whole")

    def stopping(seed: int, *path: str | int, **others: Any) -> torch.Generator:
        if path == ("denoiser", 15):
            raise KeyboardInterrupt
        return generator(seed, *path, **others)

    monkeypatch.setattr(rpg.methods.p_diff.method, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config(10, 20), zoo, tmp_path / "run")
    monkeypatch.undo()
    assert content(train(config(10, 20), zoo, tmp_path / "run").path) == content(whole.path)


def test_what_cannot_work_is_refused_before_any_work(zoo, run, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"has no condition, which cond-p-diff needs; .* or take p-diff"):
        rpg.api.train(gaussian_zoo(tmp_path / "plain", count=3), "cond-p-diff-small", out=tmp_path / "run")
    for conditions, words in (((), "say which: --condition 0100, or --split"), (("01",), "expected 4 digits")):
        with pytest.raises(ValueError, match=words):
            generate(run, tmp_path / "made", TaskDraw(conditions=conditions))
    with pytest.raises(ValueError, match="the value of a metric is another kind of condition"):
        wanted_conditions(run, ["loss=0.1"], None, flip=False)
    assert wanted_conditions(run, ["1, 2"], "unseen", flip=True) == ["0110", "1001"]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "made").exists()


def test_the_estimate_counts_the_map_of_ten_bits(zoo) -> None:
    given = config(10, 20)
    assert given.autoencoder
    told = given.build().estimate(zoo.structure, 50, TaskDraw(), DEVICES["h200"])
    untold = PDiffConfig(name="p-diff", autoencoder=given.autoencoder, denoiser=given.denoiser).build()
    found = untold.estimate(zoo.structure, 50, TaskDraw(), DEVICES["h200"])
    assert told.parameters - found.parameters == 11 * given.autoencoder.code  # with its bias
