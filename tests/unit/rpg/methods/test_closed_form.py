"""Methods without training, through their door, against what they promise: exact moments, midpoints, radii, copies."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import rpg.methods.crossover
import rpg.methods.gaussian
import rpg.methods.kde
import rpg.methods.noise
import rpg.methods.pca_gaussian
import rpg.methods.soup
import zoo.derive.mixtures
from killing import check_kills
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import DrawConfig, Machine, MethodConfig, TrainingSet
from rpg.methods.closed_form import GRAM, ClosedForm
from rpg.methods.kde import bandwidth_of
from rpg.run import Run
from zoo.derive.mixtures import Piece
from zoo.errors import Corrupt, Failed
from zoo.manifest import Origin
from zoo.seeds import generator
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
MODULES = {
    "gaussian": rpg.methods.gaussian,
    "pca-gaussian": rpg.methods.pca_gaussian,
    "kde": rpg.methods.kde,
    "soup": rpg.methods.soup,
    "noise": rpg.methods.noise,
    "crossover": rpg.methods.crossover,
}
RECIPES = Path(__file__).parents[4] / "recipes" / "_methods"
CPU = Machine(torch.device("cpu"))
COUNT, SIZE = 6, 12


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(2, 4, generator=rng) * torch.linspace(0.2, 4, 8).view(2, 4) + 1,
        "norm.running_var": torch.rand(4, generator=rng) + 50,  # far from zero, where sums are cut off
        "steps": torch.tensor(seed),
    }


@pytest.fixture
def data(tmp_path, monkeypatch) -> TrainingSet:
    monkeypatch.setattr(
        zoo.derive.mixtures, "COLUMN_VALUES", 3 * zoo.derive.mixtures.TOGETHER
    )  # three values in a piece
    return training_set(tmp_path / "zoo", COUNT)


def training_set(path: Path, count: int) -> TrainingSet:
    with ZooWriter(path, ORIGIN, Structure.of(network(0))) as writer:
        for seed in range(count):
            writer.add(f"net-{seed:03d}", network(seed), seed=seed, split="train")
        made = writer.finish()
    return TrainingSet(made, "train", tuple(made.select("train")))


def matrix(count: int = COUNT) -> np.ndarray:
    """The training networks, float64 (N, D)."""
    return np.stack([flat(network(seed)) for seed in range(count)])


def flat(weights) -> np.ndarray:
    return np.concatenate([weights["weight"].double().numpy().ravel(), weights["norm.running_var"].double().numpy()])


def config(name: str, **settings) -> MethodConfig:
    return MODULES[name].Config.model_validate({"name": name, **settings})


@dataclass
class Fitted:
    """A method that has seen the training networks, and its run."""

    method: ClosedForm
    run: Run

    def zoo(self, place: str, n: int = 3, seed: int = 0) -> Zoo:
        """n networks as a zoo."""
        return generate(self.run, self.run.path.parent / place, DrawConfig(n=n, seed=seed))

    def draws(self, n: int, seed: int = 0) -> np.ndarray:
        """The values of n networks, (n, D), without files."""
        zoo, entries = self.run.networks()
        drafts = self.method.drafts(zoo, entries, self.run, DrawConfig(n=n, seed=seed))
        blocks = [
            (column.spec, column.block.double(), column.start) for column in zoo.columns(entries, 3 * len(entries))
        ]
        found = []
        for k in range(n):
            draft = drafts(k)
            rng, rows = generator(*draft.stream), torch.arange(len(entries))
            pieces = [draft.values(Piece(spec, rows, block, start), rng) for spec, block, start in blocks]
            found.append(torch.cat(pieces).double().numpy())
        return np.stack(found)


def fitted(data: TrainingSet, name: str, **settings) -> Fitted:
    settings_of_it = config(name, **settings)
    method = settings_of_it.build()
    method.check(data, CPU)
    place = data.zoo.path.parent / "run"
    shutil.rmtree(place, ignore_errors=True)
    return Fitted(method, train(settings_of_it, data.zoo, place, request=DrawConfig()))


UNITS = np.array([*[0] * 4, *[1] * 4, 2, 3, 4, 5])  # two rows of a matrix; channels of a normalisation


def crossed(of: int) -> np.ndarray:
    """By what two values' covariance counts: whole within a unit; two units have one parent in a draw of `of`."""
    apart = 1 / of - (1 - 1 / of) / (COUNT - 1)
    return np.where(UNITS[:, None] == UNITS, 1, apart)


def linear(method: Fitted, rank: int) -> np.ndarray:
    """The map from standard normal codes to networks, (D, rank), of a method whose draws are a linear one."""
    zoo, entries = method.run.networks()
    codes = iter([torch.zeros(rank, dtype=torch.float64), *torch.eye(rank, dtype=torch.float64)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *given, **options: next(codes))
        drafts = method.method.drafts(zoo, entries, method.run, DrawConfig())
        coefficients = [drafts(k).coefficients.numpy() for k in range(rank + 1)]
    networks = np.stack(coefficients) @ matrix()
    np.testing.assert_allclose(networks[0], matrix().mean(0), rtol=1e-9)
    return (networks[1:] - networks[0]).T


def test_pca_gaussian_of_full_rank_has_the_sample_covariance(data):
    factor = linear(fitted(data, "pca-gaussian"), COUNT - 1)
    np.testing.assert_allclose(factor @ factor.T, np.cov(matrix().T), rtol=1e-8, atol=1e-10)


def test_pca_gaussian_of_a_rank_has_its_part_of_the_covariance(data):
    factor = linear(fitted(data, "pca-gaussian", rank=2, width=0.5), 2)
    values, vectors = np.linalg.eigh(np.cov(matrix().T))
    expected = 0.25 * (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
    np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-8, atol=1e-10)


def test_residual_is_probabilistic_pca(data):
    method = fitted(data, "pca-gaussian", rank=2, residual=True)
    covariance = np.cov(matrix().T)
    values = np.linalg.eigvalsh(covariance)
    rest = values[:-2].mean()
    zoo, entries = method.run.networks()
    draft = method.method.drafts(zoo, entries, method.run, DrawConfig())(0)
    assert draft.deviation(None) ** 2 == pytest.approx(rest, rel=1e-8)
    factor = linear(method, 2)
    model = factor @ factor.T + rest * np.eye(SIZE)
    np.testing.assert_allclose(np.linalg.eigvalsh(model)[-2:], values[-2:], rtol=1e-8)
    assert np.trace(model) == pytest.approx(np.trace(covariance), rel=1e-8)
    narrow = fitted(data, "pca-gaussian", rank=2, residual=True, width=0.5)
    draft = narrow.method.drafts(zoo, entries, narrow.run, DrawConfig())(0)
    assert draft.deviation(None) ** 2 == pytest.approx(rest / 4, rel=1e-8)
    np.testing.assert_allclose(linear(narrow, 2), factor / 2, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "settings", "covariance"),
    [
        ("gaussian", {}, lambda x: np.diag(x.var(0, ddof=1))),
        ("gaussian", {"width": 0.5}, lambda x: np.diag(x.var(0, ddof=1)) / 4),
        ("pca-gaussian", {}, lambda x: np.cov(x.T)),
        (
            "kde",
            {"codes": "networks", "bandwidth": 0.3},
            lambda x: np.cov(x.T, ddof=0) + 0.09 * np.diag(x.var(0, ddof=1)),
        ),
        ("kde", {"bandwidth": 0.3}, lambda x: np.cov(x.T, ddof=0) + 0.09 * np.cov(x.T)),
        ("soup", {"of": 2}, lambda x: np.cov(x.T) * (1 / 2 - 1 / COUNT)),
        ("soup", {"mix": "positive"}, lambda x: np.cov(x.T, ddof=0) / (COUNT + 1)),
        ("crossover", {"of": 2}, lambda x: np.cov(x.T, ddof=0) * crossed(2)),
        ("crossover", {"of": COUNT}, lambda x: np.cov(x.T, ddof=0) * crossed(COUNT)),
    ],
)
def test_draws_have_the_exact_mean_and_covariance(data, name, settings, covariance):
    n = 4000
    draws, expected = fitted(data, name, **settings).draws(n), covariance(matrix())
    scale = np.sqrt(np.diag(expected))
    z = (draws.mean(0) - matrix().mean(0)) / (scale / np.sqrt(n))
    assert np.abs(z).max() < 4.5
    found = np.cov(draws.T) / np.outer(scale, scale)
    np.testing.assert_allclose(found, expected / np.outer(scale, scale), atol=4.5 * np.sqrt(2 / n))


def test_a_soup_of_two_is_their_midpoint(data):
    made = fitted(data, "soup", of=2).zoo("made", 5)
    by_hash = {entry.sha256: row for row, entry in enumerate(data.entries)}
    for entry in made.entries:
        pair = [by_hash[parent] for parent in entry.parents]
        assert len(set(pair)) == 2
        np.testing.assert_allclose(flat(made.load(entry)), matrix()[pair].mean(0), rtol=1e-6)


def test_a_rescaled_soup_has_the_median_radius_in_the_same_direction(data):
    values = matrix()
    mean = values.mean(0)
    radius = np.median(np.linalg.norm(values - mean, axis=1))
    plain, rescaled = (fitted(data, "soup", of=3, rescale=rescale).draws(6) - mean for rescale in (False, True))
    assert (np.linalg.norm(plain, axis=1) < 0.9 * radius).all()
    np.testing.assert_allclose(np.linalg.norm(rescaled, axis=1), radius, rtol=1e-5)
    cosine = (plain * rescaled).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(rescaled, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)


def test_positive_mixes_are_inside_their_parents(data):
    made = fitted(data, "soup", of=2, mix="positive").zoo("made", 5)
    by_hash = {entry.sha256: row for row, entry in enumerate(data.entries)}
    shares = []
    for entry in made.entries:
        a, b = (matrix()[by_hash[parent]] for parent in entry.parents)
        share = (flat(made.load(entry)) - a) @ (b - a) / ((b - a) @ (b - a))
        np.testing.assert_allclose(flat(made.load(entry)), a + share * (b - a), rtol=1e-5)
        shares.append(share)
    assert 0 < min(shares) < max(shares) < 1


def test_units_cross_whole_and_from_all_parents(data):
    made = fitted(data, "crossover", of=3).zoo("made", 8)
    by_hash = {entry.sha256: row for row, entry in enumerate(data.entries)}
    used = []
    for entry in made.entries:
        parents = [by_hash[parent] for parent in entry.parents]
        assert len(set(parents)) == 3
        equal = flat(made.load(entry)) == matrix()[parents].astype(np.float32)
        whole = np.stack([[equal[row, unit == UNITS].all() for unit in range(6)] for row in range(3)])
        assert whole.any(0).all()
        used.append(len({int(row) for row in whole.argmax(0)}))
    assert max(used) == 3


@pytest.mark.parametrize("codes", ["networks", "pca"])
def test_a_kernel_of_no_width_copies(data, codes):
    made = fitted(data, "kde", codes=codes, bandwidth=0).zoo("made", 5)
    by_hash = {entry.sha256: row for row, entry in enumerate(data.entries)}
    for entry in made.entries:
        (parent,) = entry.parents
        np.testing.assert_allclose(flat(made.load(entry)), matrix()[by_hash[parent]], rtol=1e-6)
    assert len({entry.parents for entry in made.entries}) > 1


@pytest.mark.parametrize("rule", ["scott", "silverman"])
@pytest.mark.parametrize("codes", [1, 3])
def test_bandwidths_are_scipys(rule, codes):
    stats = pytest.importorskip("scipy.stats")
    points = np.random.default_rng(0).normal(size=(codes, 40))
    assert bandwidth_of(rule, 40, codes) == pytest.approx(stats.gaussian_kde(points, rule).factor)
    assert bandwidth_of(0.2, 40, codes) == 0.2


def test_noise_has_the_asked_size(data):
    draws = fitted(data, "noise", sigma=0.1).draws(1000)
    parents = np.abs(draws[:, None, :8] - matrix()[None, :, :8]).sum(-1).argmin(1)
    weights = matrix()[:, :8]
    noise = (draws[:, :8] - weights[parents]) / (0.1 * weights[parents].std(1, keepdims=True))
    assert noise.std(0) == pytest.approx(1, abs=0.1)
    assert np.abs(noise.mean(0)).max() < 4.5 / np.sqrt(1000)
    logs = np.log(matrix()[:, 8:])
    noise = (np.log(draws[:, 8:]) - logs[parents]) / (0.1 * logs[parents].std(1, keepdims=True))
    assert noise.std(0) == pytest.approx(1, abs=0.1)


EVERY = [
    ("gaussian", {}),
    ("pca-gaussian", {"rank": 2, "residual": True}),
    ("kde", {}),
    ("kde", {"codes": "networks"}),
    ("soup", {"of": 2, "rescale": True, "mix": "positive"}),
    ("noise", {}),
    ("crossover", {}),
]


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_a_network_depends_on_seed_and_number_alone(data, monkeypatch, name, settings):
    method = fitted(data, name, **settings)
    many = [entry.sha256 for entry in method.zoo("many", 18).entries]
    monkeypatch.setattr(zoo.derive.mixtures, "TOGETHER", 2)
    monkeypatch.setattr(zoo.derive.mixtures, "COLUMN_VALUES", 3 * COUNT)  # pieces of the same size
    few = method.zoo("few", 5)
    assert [entry.sha256 for entry in few.entries] == many[:5]
    assert [entry.id for entry in few.entries] == [f"generated-{k:04d}" for k in range(5)]
    assert {(entry.split, entry.seed) for entry in few.entries} == {("generated", 0)}
    known = {entry.sha256 for entry in data.entries}
    assert all(entry.parents and set(entry.parents) <= known for entry in few.entries)
    assert len(set(many)) == 18
    assert [entry.sha256 for entry in method.zoo("other", 5, seed=1).entries] != many[:5]


@pytest.mark.parametrize(("name", "settings"), [EVERY[1], EVERY[4]])
def test_killed_anywhere_it_ends_in_the_same_bytes(data, monkeypatch, name, settings):
    """Fit and draw, stopped before each of their disk operations."""
    monkeypatch.setattr(zoo.derive.mixtures, "TOGETHER", 2)
    place = data.zoo.path.parent

    def carry_out(path: Path) -> None:
        run = train(config(name, **settings), data.zoo, path / "run", request=DrawConfig())
        generate(run, path / "made", DrawConfig(n=3))

    carry_out(place / "whole")
    assert check_kills(carry_out, place, content(place / "whole"), content) > 10


@pytest.mark.parametrize(
    ("name", "settings", "count", "message"),
    [
        ("gaussian", {}, 1, "expected 2 or more"),
        ("pca-gaussian", {}, 1, "expected 2 or more"),
        ("pca-gaussian", {"rank": 3}, 3, "use --set method.rank=2 or fewer"),
        ("kde", {}, 1, "expected 2 or more"),
        ("kde", {"codes": "networks"}, 1, "expected 2 or more"),
        ("kde", {"rank": 9}, 3, "use --set method.rank=2 or fewer"),
        ("soup", {"of": 4}, 3, "use --set method.of=3 or fewer"),
        ("crossover", {"of": 4}, 3, "use --set method.of=3 or fewer"),
        ("soup", {"rescale": True}, 3, "no radius to rescale"),
        ("soup", {"rescale": True, "of": 3}, 3, "no radius to rescale"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(tmp_path, name, settings, count, message):
    with pytest.raises(ValueError, match=message):
        config(name, **settings).build().check(training_set(tmp_path / "zoo", count), CPU)


def test_trackers_processes_and_networks_without_values_are_refused(data, tmp_path, monkeypatch):
    method = config("gaussian").build()
    with pytest.raises(ValueError, match="leave --track out"):
        method.check(data, Machine(torch.device("cpu"), ("tensorboard",)))
    for k, nothing in enumerate(({"n": torch.tensor(1)}, {"n": torch.tensor(1), "w": torch.zeros(0, 3)})):
        with ZooWriter(tmp_path / f"empty-{k}", ORIGIN, Structure.of(nothing)) as writer:
            writer.add("a", nothing, seed=0, split="train")
            empty = writer.finish()
        with pytest.raises(ValueError, match="no values, or integers alone"):
            method.check(TrainingSet(empty, "train", empty.entries), CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without `accelerate launch`"):
        method.check(data, CPU)


def test_a_rank_of_whole_networks_is_refused():
    with pytest.raises(ValueError, match="rank belongs to codes: pca"):
        config("kde", codes="networks", rank=3)


def test_the_mean_of_all_is_one_network(data):
    method = fitted(data, "soup")
    with pytest.raises(ValueError, match=r"asked for 2 networks, but the mean of all 6 is one"):
        method.method.requested(method.run, DrawConfig(n=2), Machine(torch.device("cpu")))
    (entry,) = (made := method.zoo("made", 1)).entries
    np.testing.assert_allclose(flat(made.load(entry)), matrix().mean(0), rtol=1e-6)


def test_a_soup_at_the_mean_fails_whatever_the_sign_of_what_rounding_leaves(tmp_path, monkeypatch):
    opposite = torch.full((3, 3), -1 - 1e-12, dtype=torch.float64).fill_diagonal_(1)
    monkeypatch.setattr(rpg.methods.soup, "load_gram", lambda run, networks: opposite)
    with pytest.raises(Failed, match="soup 0 lies at the mean of all networks"):
        fitted(training_set(tmp_path / "zoo", 3), "soup", of=2, rescale=True).draws(1)


def test_a_soup_without_direction_fails(tmp_path):
    path = tmp_path / "zoo"
    with ZooWriter(path, ORIGIN, Structure.of(network(0))) as writer:
        for k in range(4):  # the second half mirrors the first: halves of pairs meet at the mean
            weights = network(k % 2)
            weights["weight"] = weights["weight"] if k < 2 else -weights["weight"]
            weights["norm.running_var"] = torch.ones(4)
            writer.add(f"net-{k}", weights, seed=k, split="train")
        made = writer.finish()
    method = fitted(TrainingSet(made, "train", made.entries), "soup", of=2, rescale=True)
    with pytest.raises(Failed, match="no direction is left"):
        method.zoo("made", 40)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_a_damaged_gram_matrix_is_corrupt(data, damage):
    from zoo.checkpoint import save_tensors

    method = fitted(data, "pca-gaussian")
    path = method.run.path / GRAM
    wrong = torch.zeros(3, 3, dtype=torch.float64)
    if damage == "nan":
        wrong = torch.full((COUNT, COUNT), torch.nan, dtype=torch.float64)
    save_tensors(path, {"gram": wrong})
    if damage == "missing":
        path.unlink()
    with pytest.raises(Corrupt, match="train again"):
        method.zoo("made", 1)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_method_costs_and_says(data, name):
    method = config(name).build()
    found = method.estimate(data.zoo.structure, COUNT, DrawConfig(), DEVICES["h100"])
    assert found.parameters == COUNT * SIZE
    assert found.draw_flops == 2 * COUNT * SIZE
    assert found.fit_flops == (2 * COUNT**2 * SIZE if method.uses_gram else 0)
    assert found.figures["draw_bytes"] == found.draw_bytes >= found.fit_bytes
    assert not method.about.trained
    assert "https://" in method.about.source


@pytest.mark.parametrize("name", MODULES)
def test_its_settings_come_with_the_package(name):
    sections = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert sections.keys() == {"method", "generate"}
    assert MODULES[name].Config.model_validate(sections["method"]).name == name
    assert DrawConfig.model_validate(sections["generate"]).n == 10
