"""Two-sample measures against closed forms: Gaussians of known distance, planted shifts, copies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from evaluators.two_sample import FEWEST, PENALTIES, Codes, classifier_auc, codes, energy_distance, mean_shift, ridge

SIZE = 40


def gaussian(seed: int, count: int, shift: float = 0.0, width: float = 1.0) -> np.ndarray:
    """Points (count, SIZE) around the origin, all moved by `shift` along one direction."""
    points = width * np.random.default_rng(seed).standard_normal((count, SIZE))
    points[:, 0] += shift
    return points


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return cdist(first, second)


def coded(points: np.ndarray, reference: np.ndarray, components: int = 50) -> Codes:
    return codes(apart(points, reference), apart(reference, reference), components)


def between(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return apart(first, second), apart(first, first), apart(second, second)


def test_codes_are_those_of_principal_component_analysis():
    reference, points = gaussian(0, 30), gaussian(1, 7)
    found = coded(points, reference, 5)
    expected = PCA(5).fit(reference).transform(points)
    np.testing.assert_allclose(np.abs(found.components), np.abs(expected), rtol=1e-6, atol=1e-9)  # up to their signs
    np.testing.assert_allclose(found.radius, np.linalg.norm(points - reference.mean(0), axis=1), rtol=1e-9)


def test_there_are_no_more_components_than_the_reference_networks_span():
    assert coded(gaussian(1, 3), gaussian(0, 6)).components.shape == (3, 5)
    flat = np.zeros((6, SIZE))
    flat[:, 0] = range(6)
    assert coded(gaussian(1, 3), flat).components.shape == (3, 1)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_auc_of_shifted_gaussians_is_the_known_one(shift):
    """Of N(0, 1) and N(d, 1) along one direction the best AUC is Phi(d / sqrt 2); 39 others carry nothing."""
    reference = gaussian(0, 200)
    found = classifier_auc(coded(gaussian(1, 400, shift), reference), coded(gaussian(2, 400), reference))
    assert found is not None
    best = norm.cdf(shift / np.sqrt(2))
    assert best - 4 * found.chance_std - 0.02 < found.value < best + 4 * found.chance_std


def test_the_auc_sees_a_group_that_is_too_narrow():
    """Same mean: the radius and the squares tell them apart."""
    reference = gaussian(0, 100)
    found = classifier_auc(coded(gaussian(1, 100, width=0.7), reference), coded(gaussian(2, 100), reference))
    assert found is not None
    assert found.value > 0.95


def test_what_chance_gives_scatters_as_is_said():
    """The classifier on 20 pairs of samples of one distribution."""
    reference, values, said = gaussian(0, 60), [], []
    for seed in range(20):
        one, other = (coded(gaussian(3 + 2 * seed + k, 30), reference) for k in range(2))
        found = classifier_auc(one, other)
        assert found is not None
        values.append(found.value)
        said.append(found.chance_std)
    assert abs(np.mean(values) - 0.5) < 0.06
    assert 0.6 < np.std(values) / np.mean(said) < 1.6


def test_few_networks_have_no_auc():
    reference = gaussian(0, 20)
    assert classifier_auc(coded(gaussian(1, FEWEST - 1), reference), coded(gaussian(2, 30), reference)) is None
    assert classifier_auc(coded(gaussian(1, FEWEST), reference), coded(gaussian(2, 30), reference)) is not None


def test_the_energy_distance_is_the_known_one():
    """In one dimension it is twice the integral of the squared difference of the distribution functions."""
    grid = np.linspace(-12, 12, 20001)
    expected = 2 * np.trapezoid((norm.cdf(grid) - norm.cdf(grid - 1.5)) ** 2, grid)
    even = norm.ppf((np.arange(1000) + 0.5) / 1000)[:, None]  # a sample without luck
    assert energy_distance(*between(even, even + 1.5)) == pytest.approx(expected, abs=0.01)
    assert energy_distance(*between(even, even)) == pytest.approx(0, abs=0.01)


def test_the_mean_shift_is_the_planted_one_and_no_more():
    assert mean_shift(*between(gaussian(1, 200, 3.0), gaussian(2, 200))) == pytest.approx(3.0, rel=0.05)
    found = [mean_shift(*between(gaussian(2 * s, 30), gaussian(2 * s + 1, 30))) for s in range(20)]
    raw = np.linalg.norm(gaussian(0, 30).mean(0) - gaussian(1, 30).mean(0))
    assert np.median(found) < raw / 2  # two samples' means always differ; that part is taken off


def test_copies_of_one_network_are_told_apart():
    """Collapse: one real network again and again, and a hair of noise."""
    reference, heldout = gaussian(0, 60), gaussian(2, 60)
    copies = np.repeat(gaussian(1, 1), 60, axis=0) + 1e-3 * gaussian(3, 60)
    found = classifier_auc(coded(copies, reference), coded(heldout, reference))
    assert found is not None
    assert found.value > 0.99
    assert energy_distance(*between(copies, heldout)) > 0.5


@pytest.mark.parametrize(
    ("to_reference", "within"), [((3, 4), (5, 5)), ((3, 4), (4, 3)), ((4,), (4, 4)), ((3, 1), (1, 1))]
)
def test_shapes_that_do_not_fit_are_refused(to_reference, within):
    with pytest.raises(ValueError, match=r"expected \(A, R\) and \(R, R\)|two reference networks"):
        codes(np.zeros(to_reference), np.zeros(within))


def test_one_network_is_no_group():
    with pytest.raises(ValueError, match="two networks or more"):
        energy_distance(np.zeros((1, 2)), np.zeros((1, 1)), np.zeros((2, 2)))


def test_ridge_regression_is_the_librarys():
    rng = np.random.default_rng(0)
    for rows, columns in [(40, 12), (12, 40)]:
        values, asked = 3 + rng.standard_normal((rows, columns)), rng.standard_normal((7, columns))
        targets = rng.standard_normal((rows, 3)) + values[:, :1] * [1, 0.3, 0]
        scaler = StandardScaler().fit(values)
        library = RidgeCV(PENALTIES, alpha_per_target=True).fit(scaler.transform(values), targets)
        np.testing.assert_allclose(ridge(values, targets, asked), library.predict(scaler.transform(asked)), rtol=1e-6)
