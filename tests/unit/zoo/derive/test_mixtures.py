"""Linear combinations of networks plus noise, against numpy over all values at once; the same bytes however made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import zoo.derive.mixtures
import zoo.writer
from killing import check_kills, content
from zoo.derive.mixtures import (
    Draft,
    Piece,
    Principal,
    around_mean,
    dimensions,
    gram_of,
    numbered,
    piece_values,
    shares,
    tensor_deviations,
    write,
)
from zoo.derive.perturb import PerturbConfig, perturb
from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
COUNT = 7
KINDS = ("noise", "soup", "gaussian")


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 9, generator=rng) * 3 + 1
    return {
        "weight": weight,
        "tied": weight,
        "bias": torch.randn(3, generator=rng, dtype=torch.float64),
        "scalar": torch.randn((), generator=rng).bfloat16(),
        "empty": torch.zeros(0, 2),
        "norm.running_var": torch.rand(11, generator=rng),
        "steps": torch.tensor(100 + seed),
    }


def zoo_of(path: Path, networks: list[dict[str, torch.Tensor]]) -> Zoo:
    with ZooWriter(path, ORIGIN, Structure.of(networks[0])) as writer:
        for seed, weights in enumerate(networks):
            writer.add(f"net-{seed:03d}", weights, seed=seed, split="train")
        return writer.finish()


@pytest.fixture
def small_pieces(monkeypatch) -> None:
    """Four values of each network in a piece, so that most tensors come in several."""
    monkeypatch.setattr(zoo.derive.mixtures, "COLUMN_VALUES", 4 * zoo.derive.mixtures.TOGETHER)
    assert piece_values(COUNT) == 4


@pytest.fixture
def toy(tmp_path, small_pieces) -> Zoo:
    return zoo_of(tmp_path / "zoo", [network(seed) for seed in range(COUNT)])


def flat(weights: dict[str, torch.Tensor]) -> np.ndarray:
    """All values that are learnt, float64 (D,)."""
    return np.concatenate(
        [weights[name].double().numpy().ravel() for name in ("weight", "bias", "scalar", "norm.running_var")]
    )


def matrix() -> np.ndarray:
    return np.stack([flat(network(seed)) for seed in range(COUNT)])


def drawn(toy: Zoo, path: Path, drafts, n: int = 1) -> Zoo:
    with ZooWriter(path, ORIGIN, toy.structure) as writer:
        write(writer, toy, toy.entries, numbered("new", n), drafts, seed=5, split="generated")
        return writer.finish()


def test_a_combination_is_the_sum_of_what_it_combines(toy, tmp_path):
    coefficients = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
    made = drawn(toy, tmp_path / "made", lambda k: Draft((1, 4, 6), coefficients, (4, 6)))
    (entry,) = made.entries
    found, expected = made.load(entry), coefficients.numpy() @ matrix()[[1, 4, 6]]
    values = expected[:48], expected[48:49], np.maximum(expected[49:], 0)
    np.testing.assert_allclose(flat(found)[:48], values[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flat(found)[48:49], values[1], rtol=1e-2)  # bfloat16
    np.testing.assert_allclose(flat(found)[49:], values[2], rtol=1e-6, atol=1e-6)
    assert (values[2] == 0).any()  # a sum of running variances that is negative is cut off
    assert found["tied"] is found["weight"]
    assert found["steps"] == 100
    assert found["empty"].shape == (0, 2)
    assert entry.parents == (toy.entries[4].sha256, toy.entries[6].sha256)
    assert (entry.seed, entry.split, entry.id) == (5, "generated", "new-0000")


def test_a_single_network_with_coefficient_1_is_copied(toy, tmp_path):
    made = drawn(toy, tmp_path / "made", lambda k: Draft((k,), shares(1), (k,)), COUNT)
    for copy, original in zip(made.entries, toy.entries, strict=True):
        assert (flat(made.load(copy)) == flat(toy.load(original))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [1, 3])
def test_networks_do_not_depend_on_what_is_written_beside_them(toy, tmp_path, monkeypatch, kind, together):
    config = {"kind": kind, "of": 3 if kind == "soup" else None, "seed": 2}
    many = perturb(PerturbConfig.model_validate({**config, "n": 20}), toy, toy.entries, ORIGIN, tmp_path / "many")
    monkeypatch.setattr(zoo.derive.mixtures, "TOGETHER", together)
    monkeypatch.setattr(zoo.derive.mixtures, "COLUMN_VALUES", 4 * COUNT)  # pieces of the same size
    few = perturb(PerturbConfig.model_validate({**config, "n": 4}), toy, toy.entries, ORIGIN, tmp_path / "few")
    assert [entry.sha256 for entry in few.entries] == [entry.sha256 for entry in many.entries[:4]]
    other = PerturbConfig.model_validate({**config, "n": 4, "seed": 3})
    third = perturb(other, toy, toy.entries, ORIGIN, tmp_path / "other")
    assert [entry.sha256 for entry in third.entries] != [entry.sha256 for entry in few.entries]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stacked", [True, False])
def test_a_kill_before_any_disk_operation_is_repaired_to_the_same_bytes(toy, tmp_path, monkeypatch, kind, stacked):
    if not stacked:
        monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    monkeypatch.setattr(zoo.derive.mixtures, "TOGETHER", 2)
    config = PerturbConfig(kind=kind, n=3, of=3 if kind == "soup" else None)

    def work(path: Path) -> Path:
        return perturb(config, toy, toy.entries, ORIGIN, path).path

    assert check_kills(work, tmp_path, content(work(tmp_path / "whole"))) > 10


def test_values_that_are_not_finite_fail_and_nothing_stays(toy, tmp_path):
    coefficients = torch.tensor([1e39], dtype=torch.float64)
    with pytest.raises(Failed, match=r"new-0001 has values of weight that are not finite"):
        drawn(toy, tmp_path / "made", lambda k: Draft((0,), coefficients if k else shares(1), (0,)), 2)
    assert [path.name for path in (tmp_path / "made").rglob("*") if path.is_file()] == ["journal.jsonl"]


def test_more_parents_than_anybody_reads_are_not_recorded(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.derive.mixtures, "MOST_PARENTS", 3)
    made = drawn(toy, tmp_path / "made", lambda k: Draft((0,), shares(1), tuple(range(3 + k))), 2)
    assert [len(entry.parents) for entry in made.entries] == [3, 0]


def test_the_gram_matrix_is_numpys(toy):
    centred = matrix() - matrix().mean(0)
    assert dimensions(toy.structure) == matrix().shape[1] == 60
    np.testing.assert_allclose(gram_of(toy, toy.entries).numpy(), centred @ centred.T, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, COUNT - 1])
def test_components_are_those_of_numpys_covariance(toy, rank):
    values = matrix()
    found = Principal.of(gram_of(toy, toy.entries), rank, values.shape[1])
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(values.T))
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    np.testing.assert_allclose(found.variances, eigenvalues[:rank], rtol=1e-10)
    assert found.rest == pytest.approx(eigenvalues[rank:].mean(), rel=1e-8, abs=1e-10)
    scores = (values - values.mean(0)) @ eigenvectors[:, :rank] / np.sqrt(eigenvalues[:rank])
    np.testing.assert_allclose(found.codes.abs().numpy(), np.abs(scores), rtol=1e-7, atol=1e-9)
    for row in range(COUNT):  # the network at a training network's code is its projection
        projected = values.mean(0) + eigenvectors[:, :rank] @ eigenvectors[:, :rank].T @ (values[row] - values.mean(0))
        np.testing.assert_allclose(
            found.coefficients(found.codes[row]).numpy() @ values, projected, rtol=1e-9, atol=1e-9
        )


def test_more_networks_than_values_leave_nothing_over():
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = values - values.mean(0)
    found = Principal.of(centred @ centred.T, 8, 4)
    np.testing.assert_allclose(found.variances[:4], np.linalg.eigvalsh(np.cov(values.numpy().T))[::-1], rtol=1e-10)
    assert found.variances[4:].abs().max() < 1e-12
    assert found.rest == 0
    np.testing.assert_allclose(found.coefficients(found.codes[3]) @ values, values[3], rtol=1e-9)


def test_probabilistic_pca_is_sklearns():
    from sklearn.decomposition import PCA

    values = np.random.default_rng(0).normal(size=(30, 8)) * np.arange(1, 9)
    centred = torch.from_numpy(values - values.mean(0))
    found, expected = Principal.of(centred @ centred.T, 3, 8), PCA(3).fit(values)
    np.testing.assert_allclose(found.variances.numpy(), expected.explained_variance_, rtol=1e-10)
    assert found.rest == pytest.approx(expected.noise_variance_, rel=1e-10)


def test_coefficients_around_the_mean(toy):
    weights = torch.tensor([0.5, 0.0, 0.0, -2.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    values = matrix()
    expected = values.mean(0) + weights.numpy() @ (values - values.mean(0))
    np.testing.assert_allclose(around_mean(weights).numpy() @ values, expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_deviations_within_tensors_are_numpys_whatever_the_pieces(toy, size):
    found = tensor_deviations(toy, toy.entries[3], size)
    weights = network(3)
    assert found["weight"] == pytest.approx(weights["weight"].double().numpy().std(), rel=1e-12)
    assert found["norm.running_var"] == pytest.approx(
        np.log(weights["norm.running_var"].double().numpy()).std(), rel=1e-12
    )
    assert found["scalar"] == 0
    assert "steps" not in found


def test_a_piece_finds_the_networks_it_is_asked_for():
    spec = Structure.of({"a": torch.zeros(2)}).tensors[0]
    piece = Piece(spec, torch.tensor([2, 5, 9]), torch.arange(6.0, dtype=torch.float64).view(3, 2))
    assert piece.of((5,)).tolist() == [[2, 3]]
    assert piece.of((2, 9)).tolist() == [[0, 1], [4, 5]]
    assert piece.deviation.tolist() == [2, 2]
