"""Training the generator: the loss curve stays what it was, and what is learnt is what was given."""

import json
from pathlib import Path

import pytest
import torch

from rpg.config import GenerateConfig, RPGConfig
from rpg.generate import generate
from rpg.run import Run, read_losses
from rpg.train import cosine, train
from zoo.manifest import Origin
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure

GOLDEN = Path(__file__).parent / "golden_loss.json"
SETTINGS = {
    "generator": {"token_size": 32, "d_model": 32, "d_state": 8, "head_dim": 32, "channels": (1, 32, 64, 32, 1)},
    "train": {"batch_size": 16, "steps": 600, "learning_rate": 3e-3, "precision": "float32"},
}
RECIPE = """
task: {name: classification, model: cnn_digits, data: digits}
zoo: {optimizer: sgd, learning_rate: 1e-2, batch_size: 10, epochs: 1, save_learning_rate: 1e-5}
rpg:
  generator: {token_size: 32, d_model: 32, d_state: 8, head_dim: 32, channels: [1, 32, 64, 32, 1]}
  train: {batch_size: 16, steps: 600, learning_rate: 3e-3, precision: float32}
"""
ORIGIN = Origin(
    name="toy", kind="trained", task="toy", recipe=RECIPE, recipe_sha256="0" * 64, command=("x",), versions={}
)


def network(seed):
    """Smooth weights that differ between checkpoints by far more than a trained generator errs."""
    place = torch.linspace(0, 3, 60)
    return {
        "weight": torch.sin(place + seed).reshape(6, 10),
        "bias": torch.full((3,), 0.5) + seed * torch.tensor([0.1, 0.0, -0.1]),
        "norm.running_var": torch.linspace(0.5, 2, 10) + 0.1 * seed,
        "steps": torch.tensor(7),
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Zoo, Run]:
    place = tmp_path_factory.mktemp("trained")
    with ZooWriter(place / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(4):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train")
        zoo = writer.finish()
    config = RPGConfig(**{key: RPGConfig.model_fields[key].annotation(**value) for key, value in SETTINGS.items()})
    return zoo, train(config, zoo, zoo.select("train"), ORIGIN, place / "run", torch.device("cpu"))


def test_the_loss_curve_is_the_golden_one(trained):
    """Recorded on a CPU in float32; noise of 1e-6 in the initial weights moves it by less than 1e-4. Record it again,
    and say why, when the algorithm is meant to change.
    """
    losses = read_losses(trained[1])
    golden = json.loads(GOLDEN.read_text())
    assert [step for step, _ in losses] == [step for step, _ in golden]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in golden], rel=1e-3)
    assert losses[-1][1] < 0.1 * losses[0][1]


def test_generated_networks_are_nearest_to_the_checkpoint_of_their_state(trained, tmp_path):
    zoo, run = trained
    config = GenerateConfig(n=6, sampler="ddpm", steps=1000)
    origin = ORIGIN.model_copy(update={"kind": "generated"})
    made = generate(run, config, origin, tmp_path / "made", torch.device("cpu"))
    by_hash = {entry.sha256: seed for seed, entry in enumerate(zoo.entries)}
    states = set()
    for entry in made.entries:
        weights = made.load(entry)
        distances = [(weights["weight"] - network(seed)["weight"]).norm().item() for seed in range(4)]
        state = by_hash[entry.parents[0]]
        states.add(state)
        assert min(range(4), key=distances.__getitem__) == state
        assert torch.equal(weights["steps"], torch.tensor(7))
        assert (weights["norm.running_var"] > 0).all()
    assert len(states) > 1


def test_the_learning_rate_is_half_a_cosine():
    settings = RPGConfig().train.model_copy(update={"steps": 100, "learning_rate": 2.0})
    assert [cosine(settings, step) for step in (0, 50, 100)] == pytest.approx([2.0, 1.0, 0.0])
