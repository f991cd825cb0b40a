"""The verdict on networks of known worth: linear classifiers of handwritten digits, trained from many seeds, and what
can be made of them without a generator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from evaluators.metrics import Evaluation, proportion
from rpg.reports.compare import Candidate, Comparison, compare
from rpg.reports.printed import comparison_json
from rpg.reports.verdict import judge
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="linear", kind="collected", task={"name": "toy"}, command=("x",), versions={})
ORIGINALS, NEW = 12, 8


class Linear:
    """Weights (10, 65), the last column a bias; the last 800 images are the test data."""

    evaluator, protocol, main_metric = "linear/1", "800 digits", "top1"
    conditions = ()
    chance = {"top1": 10.0}  # noqa: RUF012

    def __init__(self) -> None:
        found = load_digits()
        images = torch.tensor(found.data / 16, dtype=torch.float32)
        self.images = torch.cat([images, torch.ones(len(images), 1)], 1)
        self.labels = torch.tensor(found.target)

    def build(self, seed: int) -> nn.Module:
        model = nn.Module()
        model.register_buffer("weight", torch.zeros(10, 65))
        return model

    def load(self, model: Any, weights: Any) -> None:
        model.weight.copy_(weights["weight"])

    def evaluate(self, model: Any, split: str) -> Evaluation:
        correct = ((self.images[-800:] @ model.weight.T).argmax(1) == self.labels[-800:]).numpy()
        return Evaluation((proportion("top1", correct),), correct)

    def trained(self, seed: int) -> Tensor:
        """A network that has learnt from 150 images of its own."""
        rng = generator(seed, "linear")
        weight = torch.randn(10, 65, generator=rng).mul_(0.3).requires_grad_()
        mine = torch.randperm(len(self.images) - 800, generator=rng)[:150]
        for _ in range(150):
            loss = nn.functional.cross_entropy(self.images[mine] @ weight.T, self.labels[mine])
            (gradient,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                weight -= gradient
        return weight.detach()


@pytest.fixture(scope="module")
def task() -> Linear:
    return Linear()


@pytest.fixture(scope="module")
def networks(task: Linear) -> Tensor:
    return torch.stack([task.trained(seed) for seed in range(ORIGINALS + NEW)])


def made(kind: str, originals: Tensor, networks: Tensor) -> Tensor:
    """New networks of a kind, (n, 10, 65)."""
    rng = generator(0, kind)

    def noise(n: int = NEW) -> Tensor:
        return torch.randn(n, 10, 65, generator=rng)

    return {
        "copies": lambda: originals[:NEW],
        "noised copies": lambda: originals[:NEW] + 0.02 * originals.std() * noise(),
        "nearest copies": lambda: originals[:NEW] + 1e-6 * noise(),
        "dead": lambda: noise() * originals.std(),
        "dead far away": lambda: 20 * noise() * originals.std(),
        "dead copies": lambda: originals[:NEW] * 1e-3 - originals.mean(0),
        "soup": lambda: originals.mean(0, keepdim=True),
        "Gaussian": lambda: originals.mean(0) + originals.std(0) * noise(),
        "held-out seeds": lambda: networks[ORIGINALS:],
    }[kind]()


def compared(
    task: Linear | None, originals: Tensor, groups: dict[str, tuple[str, Tensor]], place: Path, heldout: int = 0
) -> Comparison:
    """The comparison of these groups with the originals, of which the last `heldout` are held out."""
    zoos = {}
    for name, (_, weights) in {"original": ("", originals), **groups}.items():
        unseen = len(weights) - heldout if name == "original" else len(weights)
        with ZooWriter(place / name, ORIGIN, Structure.of({"weight": originals[0]})) as writer:
            for k, weight in enumerate(weights):
                writer.add(f"{k:02d}", {"weight": weight}, seed=k, split="train" if k < unseen else "heldout")
            zoos[name] = writer.finish()
    found = [Candidate(name, zoos[name], kind) for name, (kind, _) in groups.items()]  # type: ignore[arg-type]
    return compare(zoos["original"], "train", found, task, place / "report")  # type: ignore[arg-type]


@pytest.fixture
def headline(task: Linear, networks: Tensor, tmp_path: Path) -> Any:
    """The headline on a kind of networks beside the usual baselines."""

    def headline(kind: str, originals: Tensor | None = None) -> str:
        originals = networks[:ORIGINALS] if originals is None else originals
        groups = {"mine": ("generated", made(kind, originals, networks))}
        groups |= {"noised": ("baseline", originals[:NEW] + 0.5 * originals.std() * torch.randn(NEW, 10, 65))}
        (verdict,) = judge(compared(task, originals, groups, tmp_path))
        return verdict.headline

    return headline


def test_copies_are_near_copies(headline: Any) -> None:
    assert "They are near-copies" in headline("copies")


def test_copies_with_noise_are_near_copies(headline: Any) -> None:
    text = headline("noised copies")
    assert "They are near-copies" in text
    assert "points above the originals (chance 10.00); 88% (7 of 8) are good" in text
    assert "No trivial baseline" not in text  # a copy is trivial itself


def test_copies_with_noise_of_originals_that_all_err_alike_are_near_copies(headline: Any, networks: Tensor) -> None:
    """Checkpoints of one run: nothing can err more alike than these do among themselves."""
    alike = networks[:1] + 1e-4 * torch.randn(ORIGINALS, 10, 65, generator=generator(0, "alike"))
    assert "They are near-copies: in weights closer" in headline("nearest copies", alike)


@pytest.mark.parametrize(
    ("kind", "said"), [("dead far away", "times as far from it"), ("noised copies", "copies, unl")]
)
def test_weights_alone_say_how_far_networks_lie(networks: Tensor, tmp_path: Path, kind: str, said: str) -> None:
    originals = networks[:ORIGINALS]
    groups = {"mine": ("generated", made(kind, originals, networks))}
    (verdict,) = judge(compared(None, originals, groups, tmp_path))
    assert said in verdict.headline


@pytest.mark.parametrize("kind", ["dead", "dead copies"])
def test_networks_that_guess_are_dead_wherever_they_lie(headline: Any, kind: str) -> None:
    text = headline(kind)
    assert text.startswith("These networks do not work: ")
    assert "chance 10.00; the originals score 8" in text or "chance 10.00; the originals score 9" in text
    assert text.endswith("Similarity says nothing.")
    assert "baseline" not in text


def test_a_soup_is_no_new_network(headline: Any) -> None:
    """The mean of all is as good as they are, but lies among them."""
    text = headline("soup")
    assert "closer to a training checkpoint" in text
    assert "not closer to a training checkpoint" not in text


@pytest.mark.parametrize("scored", [True, False])
def test_a_codec_that_gives_one_network_back_is_called_out(
    task: Linear, networks: Tensor, tmp_path: Path, scored: bool
) -> None:
    """Even where that network is as good as all: the mean of them here."""
    originals = networks[:ORIGINALS]
    one = originals.mean(0, keepdim=True) + 1e-3 * originals.std() * torch.randn(NEW, 10, 65)
    for k, (back, alike) in enumerate(((one, True), (originals[:NEW], False))):
        groups = {"mine": ("generated", originals[:NEW]), "reconstructed": ("reconstructed", back)}
        found = compared(task if scored else None, originals, groups, tmp_path / str(k))
        said = dict(judge(found)[0].findings)["Codec"]
        own = found.group("reconstructed").spread
        assert f"the originals have: reconstructed {own:.2f} of {found.original.spread:.2f}." in said
        assert ("Those of reconstructed are nearly one network" in said) == alike


def test_a_gaussian_that_works_is_beaten_by_itself_as_a_baseline(
    task: Linear, networks: Tensor, tmp_path: Path
) -> None:
    originals = networks[:ORIGINALS]
    groups = {
        "mine": ("generated", made("Gaussian", originals, networks)),
        "gaussian": ("baseline", made("Gaussian", originals, networks)),
    }
    (verdict,) = judge(compared(task, originals, groups, tmp_path))
    assert "A trivial baseline does as well" in verdict.headline
    assert "gaussian (" in verdict.headline


def test_held_out_seeds_are_good_and_no_copies(headline: Any) -> None:
    text = headline("held-out seeds")
    assert "They are not closer to a training checkpoint than training checkpoints of different runs" in text
    assert "No trivial baseline is at once as accurate and as different" in text
    assert "(8 of 8) are good" in text or "(7 of 8) are good" in text


@pytest.mark.parametrize("kind", ["copies", "held-out seeds"])
def test_originals_at_chance_are_the_verdict(task: Linear, networks: Tensor, tmp_path: Path, kind: str) -> None:
    dead = torch.randn(ORIGINALS, 10, 65, generator=generator(1, "dead"))
    result = compared(task, dead, {"mine": ("generated", made(kind, dead, networks))}, tmp_path)
    (verdict,) = judge(result)
    assert verdict.headline.startswith("The originals do not work, and nothing that is learnt from them can: ")
    assert verdict.headline.endswith("chance 10.00. Similarity says nothing.")
    if kind == "copies":
        assert result.group("mine").scored.novel_and_good == 0  # and never "100% novel and good"
    assert result.scoring
    assert result.scoring.good_from >= result.scoring.works_from > 10
    assert comparison_json(result)["groups"]["original"]["working"] <= ORIGINALS // 3


@pytest.fixture(scope="module")
def many(task: Linear) -> Tensor:
    """24 to learn from, 18 to hold out, 18 new ones."""
    return torch.stack([task.trained(seed) for seed in range(100, 160)])


@pytest.mark.parametrize(
    ("kind", "headline", "finding"),
    [
        ("new seeds", "Nothing here tells their weights from those of originals held out", "which is not far"),
        (
            "shift",
            "told from those of originals held out (AUC 1.00) and all moved one way: no new",
            "so all were moved the same way",
        ),
        ("copies", "told from those of originals held out (AUC 1.00): no new seeds", "which is not far"),
    ],
)
def test_networks_are_told_from_originals_held_out(
    task: Linear, many: Tensor, tmp_path: Path, kind: str, headline: str, finding: str
) -> None:
    """Adding one row to those of all classes changes no answer: noised copies that are moved so are new and good, if
    distance and score are all that is looked at.
    """
    seen, new, rng = many[:24], many[42:], generator(0, kind)
    noise, shift = torch.randn(18, 10, 65, generator=rng), 2 * seen.std() * torch.randn(1, 65, generator=rng)
    weights = {
        "new seeds": new,
        "shift": seen[:18] + shift + 0.05 * seen.std() * noise,
        "copies": seen[:18] + 0.02 * seen.std() * noise,
    }[kind]
    result = compared(task, many[:42], {"mine": ("generated", weights)}, tmp_path, heldout=18)
    (verdict,) = judge(result)
    assert headline in verdict.headline
    told = dict(verdict.findings)["Distribution"]
    assert told.startswith("Beside 18 originals that the generator never saw: a classifier")
    assert told.endswith(f"{finding}.")
    if kind == "shift":
        assert result.group("mine").scored.novel_and_good > 80
    shown = comparison_json(result)["groups"]["mine"]["similarity"]["distribution"]
    assert (shown["auc"] > 0.9) == (kind != "new seeds")


def test_groups_too_small_for_a_classifier_have_their_energy_distance(
    task: Linear, many: Tensor, tmp_path: Path
) -> None:
    groups = {"mine": ("generated", many[42:50]), "one": ("generated", many[50:51])}
    result = compared(task, many[:42], groups, tmp_path, heldout=18)
    beside = result.group("mine").distribution
    assert beside
    assert (beside.auc, beside.auc_chance_std) == (None, None)
    assert abs(beside.energy) < 0.1
    mine, one = judge(result)
    assert "they are too few for a classifier" in dict(mine.findings)["Distribution"]
    assert "held out" not in mine.headline
    assert "Distribution" not in dict(one.findings)
    assert result.group("heldout").distribution is None
