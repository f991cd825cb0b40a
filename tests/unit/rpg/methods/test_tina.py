"""Tina: networks that are linear in the bits of their task are recovered, for tasks never seen, too; what classes are
to it; what it refuses.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import tiny_clip
import torch
from linear_gaussian import gaussian_zoo
from linear_in_bits import NOISE, UNSEEN, bits_zoo, error, flat
from torch import Tensor

import rpg.api
import rpg.methods.tina.method
from learning import content, generate, train
from rpg.conditions.classes import load_features, signed
from rpg.conditions.frozen import text_features
from rpg.devices import DEVICES
from rpg.methods.base import Machine
from rpg.methods.chunked import TransformerConfig
from rpg.methods.tina.config import Config, TinaDraw
from rpg.methods.tina.model import Denoiser
from rpg.methods.vectors import Vectors
from rpg.run import Run, wanted_conditions
from zoo.checkpoint import save_tensors
from zoo.conditions import all_conditions
from zoo.errors import MissingData
from zoo.manifest import Entry
from zoo.seeds import generator
from zoo.store import Zoo

TRANSFORMER: dict[str, Any] = {
    "chunk": 16,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "frequencies": 8,
    "octaves": 3,
    "steps": 500,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "gradient_clipping": 1.0,
    "ema": 0.98,
    "save_every": 10,
}
LEARNED: dict[str, Any] = {"classes": "learned", "encoder": None}
VALUE: dict[str, Any] = {"scaled": "value", "deviation": None}
FEW: dict[str, Any] = {"sampler": "dpm++", "steps": 20}


def config(steps: int = 500, **others: Any) -> Config:
    transformer = {**TRANSFORMER, "steps": steps}
    given = {"name": "tina", "permutations": False, "transformer": transformer, **LEARNED, **VALUE, **others}
    return Config.model_validate(given)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return bits_zoo(tmp_path_factory.mktemp("tina") / "zoo")


@pytest.fixture(scope="module")
def run(zoo) -> Run:
    return train(config(), zoo, zoo.path.parent / "run")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("clip")
    tiny_clip.save(place)
    return str(place)


@pytest.fixture(scope="module")
def reader(zoo, clip) -> Run:
    return train(config(20, classes="text", encoder=clip), zoo, zoo.path.parent / "reader")


def test_networks_linear_in_the_bits_are_recovered_and_those_of_tasks_never_seen(run, tmp_path) -> None:
    """A flipped bit lies at distance 1: so far are the nearest networks that were seen of a task that was not."""
    made = generate(run, tmp_path / "made", TinaDraw(n=16, conditions=all_conditions(4), **FEW))
    found: dict[str, list[Tensor]] = {condition: [] for condition in all_conditions(4)}
    for entry in made.entries:
        found[str(entry.condition)].append(flat(made.load(entry)))
    errors = {condition: error(torch.stack(networks), condition) for condition, networks in found.items()}
    assert max(value for condition, value in errors.items() if condition not in UNSEEN) < 0.2
    assert max(errors[condition] for condition in UNSEEN) < 0.5
    for networks in found.values():  # a hair apart: so little noise is below what this transformer tells apart
        assert 0 < torch.stack(networks).std(0).mean() < NOISE


def test_classes_are_a_set() -> None:
    """Their order says nothing, and words may be more or fewer than the classes that were seen."""
    model = Denoiser([16, 8], 100, TransformerConfig.model_validate(TRANSFORMER), features=5)
    torch.nn.init.normal_(model.out[0].weight)
    noisy, level, told = torch.randn(2, 32), torch.tensor([3, 70]), torch.randn(2, 4, 5)
    found = model(noisy, level, told)
    torch.testing.assert_close(model(noisy, level, told[:, [2, 0, 3, 1]]), found)
    assert not torch.allclose(model(noisy, level, -told), found)
    assert model(noisy, level, told[:, :2]).shape == found.shape
    assert (found[:, 24:] == 0).all()


def test_scaled_by_one_number_networks_have_the_deviation(zoo, tmp_path) -> None:
    made = train(config(10, scaled="network", deviation=1.646), zoo, tmp_path / "run")
    vectors = Vectors(made)
    scale = rpg.methods.tina.method._scale(vectors)
    values = torch.stack([flat(zoo.load(entry)) for entry in zoo.select("train")])
    tokens = torch.stack([scale.standardise(vectors.layout.encode(zoo.load(e))) for e in zoo.select("train")])
    inside = tokens[:, vectors.layout.mask()]
    torch.testing.assert_close(inside.std(correction=0), torch.tensor(1.646))
    torch.testing.assert_close(inside, values * (1.646 / values.std(correction=0)))


def test_classes_and_other_words_are_told_by_their_text(reader, clip, tmp_path) -> None:
    expected = text_features(clip, ["0", "1", "2", "3"])  # the made-up zoo's classes have no other names
    torch.testing.assert_close(load_features(reader.path / "classes.safetensors"), expected)
    words = wanted_conditions(reader, ["animals  against vehicles", "1, 2"], None, flip=True)
    assert words == ["animals against vehicles", "0110", "vehicles against animals", "1001"]
    method = reader.method()
    found = method._told("animals against vehicles", expected)
    torch.testing.assert_close(found[0], text_features(clip, ["animals", "vehicles"]) * torch.tensor([[1.0], [-1]]))
    made = generate(reader, tmp_path / "made", TinaDraw(n=2, conditions=tuple(words[:2]), **FEW))
    assert {entry.id: entry.condition for entry in made.entries} == {
        "generated-animals-against-vehicles-0000": None,
        "generated-animals-against-vehicles-0001": None,
        "generated-0110-0000": "0110",
        "generated-0110-0001": "0110",
    }


def test_texts_of_any_letters_and_length_have_ids_of_their_own() -> None:
    texts = ("cats & dogs against cars", "cats, dogs against cars", "動物 against 植物", "a" * 150 + " against b")
    ids = [asked.id for asked in TinaDraw(conditions=("cats against cars", *texts)).asked()]
    assert ids[0] == "generated-cats-against-cars"
    assert len(set(ids)) == 5
    for id in ids:
        Entry(id=f"{id}-0000", sha256="0" * 64, file="checkpoints/a.safetensors", seed=0, split="generated", step=0)


def test_texts_that_cannot_be_read_are_refused_before_any_work(reader, clip, tmp_path) -> None:
    method, machine = reader.method(), Machine(torch.device("cpu"))

    def asked(text: str) -> int:
        return method.requested(reader, TinaDraw(n=2, conditions=(text,), **FEW), machine)

    assert asked("cat against vehicles") == 2
    for text, words in (("cat " * 20 + "against x", "has 22 tokens"), ("zebra against cow", "are the same to")):
        with pytest.raises(ValueError, match=words):
            asked(text)
    for text, words in (
        ("cat against cat", "expected two texts that differ"),
        (" against vehicles", "expected a text on each side"),
        ("cat  against  vehicles", "expected it as it goes on record, 'cat against vehicles'"),
        ("cat against animals against vehicles", "expected 'against' once"),
    ):
        with pytest.raises(ValueError, match=words):
            asked(text)
    copied = reader.path.parent / "copied"
    shutil.copytree(reader.path, copied)
    features = load_features(reader.path / "classes.safetensors")
    save_tensors(copied / "classes.safetensors", {"classes": features.flip(0)})  # as if another encoder had read them
    with pytest.raises(ValueError, match="as it did in training; expected the same encoder"):
        method.requested(Run(copied), TinaDraw(n=2, conditions=("cat against vehicles",), **FEW), machine)


def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, tmp_path, monkeypatch) -> None:
    whole = train(config(20), zoo, tmp_path / "whole")

    def stopping(seed: int, *path: str | int, **others: Any) -> torch.Generator:
        if path == ("transformer", 15):
            raise KeyboardInterrupt
        return generator(seed, *path, **others)

    monkeypatch.setattr(rpg.methods.tina.method, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config(20), zoo, tmp_path / "run")
    monkeypatch.undo()
    assert content(train(config(20), zoo, tmp_path / "run").path) == content(whole.path)


def test_what_cannot_work_is_refused_before_any_work(zoo, run, reader, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"has no condition, which tina needs; .* or take another method"):
        rpg.api.train(gaussian_zoo(tmp_path / "plain", count=3), "tina-small", out=tmp_path / "run")
    with pytest.raises(MissingData, match="no CLIP at nowhere"):
        rpg.api.train(zoo, "tina", out=tmp_path / "run", encoder="nowhere", permutations=False)
    with pytest.raises(ValueError, match=r"nobody knows which units .* --set method.permutations=false"):
        rpg.api.train(zoo, "tina", out=tmp_path / "run", encoder="nowhere")
    for conditions, words in (((), "say which: --condition 0100, or --split"), (("01",), "expected 4 digits")):
        with pytest.raises(ValueError, match=words):
            generate(run, tmp_path / "made", TinaDraw(conditions=conditions))
    with pytest.raises(ValueError, match="told classes by their numbers, and cannot read 'a against b'"):
        generate(run, tmp_path / "made", TinaDraw(conditions=("a against b",)))
    for words, why in (
        ("dragon", "has no class 'dragon'.*; or two texts"),
        ("cat against ", "a text on each side"),
        ("cat against cat", "two texts that differ"),
    ):
        with pytest.raises(ValueError, match=why):
            wanted_conditions(reader, [words], None, flip=False)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": "text"}, "encoder goes with classes: text"),
        ({"scaled": "network"}, "deviation goes with scaled: network"),
        ({"permutations": True}, "scaled: value knows each value by its place"),
    ],
)
def test_settings_that_do_not_go_together(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_the_estimate_counts_all_weights(zoo) -> None:
    given = config()
    found = given.build().estimate(zoo.structure, 50, TinaDraw(), DEVICES["h200"])
    model = given.build()._denoiser(512, zoo.structure)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert signed(("0110",), torch.eye(4)).shape == (1, 4, 4)
