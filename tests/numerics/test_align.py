"""Matching: planted elements are found, steps are the best there are, the objective never falls, and the result depends
on what networks compute, not on how they are written down.
"""

from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from symmetry_cases import CASES, case, copies, moved_copies, problem_of, random_weights, values_of
from zoo.seeds import generator
from zoo.symmetry.action import act, compose, identity, parts_of, random_element
from zoo.symmetry.assignment import Products, best, procrustes
from zoo.symmetry.canonical import balance, oriented, prepared, presented
from zoo.symmetry.matching import Problem, begin, descend, match
from zoo.symmetry.specification import Diagonal, Factor, Group, Specification, TensorAxes
from zoo.symmetry.universe import medoid, to_one, universe


def planted(name, noise, n=4, seed=0):
    """Networks and noised copies moved by random elements: what is left of the difference after matching, relative to
    what it was, and the share of units at their place.
    """
    network, build, _ = case(name)
    specification = build(network)
    weights = random_weights(network, seed)
    clean = copies(weights, n, noise, seed)
    moved, element = moved_copies(specification, clean, seed)
    scales = prepared(specification, moved)
    reference = act(specification, prepared(specification, weights), weights)
    problem = problem_of(specification)
    found, _ = match(
        problem, values_of(problem, reference), values_of(problem, act(specification, scales, moved)), 0, restarts=4
    )
    whole = compose(specification, found, compose(specification, scales, element))
    clean_element = prepared(specification, clean)
    right = total = 0
    for symbol, group in specification.groups.items():
        if group.kind == "permutation":
            right += int((whole[symbol] == identity(specification, 1)[symbol]).sum())
            total += whole[symbol].numel()
    back, expected = act(specification, whole, clean), act(specification, clean_element, clean)
    counted = [tensor for tensor, axes in specification.tensors.items() if axes.cost]
    errors = [float((back[t] - expected[t]).norm() / expected[t].norm()) for t in counted]
    return (right / total if total else 1.0), max(errors)


@pytest.mark.parametrize("name", CASES)
def test_planted_elements_are_recovered_exactly_without_noise(name):
    share, error = planted(name, noise=0)
    assert share == 1
    assert error < 1e-9


@pytest.mark.parametrize(
    "name", ["relu", "cnn_medium", "cnn_digits", "group_norm", "resnet_basic", "vit", "vit_qk_norm"]
)
def test_recovery_falls_only_slowly_with_noise(name):
    curve = [planted(name, noise)[0] for noise in (0.1, 0.3, 1.0)]
    assert min(curve[:2]) > 0.99  # noise turns gains that are nearly zero, and their units with them
    assert curve[2] > 0.6  # chance is one over the units of a layer


@pytest.mark.parametrize("name", ["cnn_digits", "resnet_bottleneck", "vit", "mobilenetv3"])
def test_units_point_where_their_gain_is_positive(name):
    """BatchNorm's weight and the scales of layers. Matched instead, two filters that are each other's negative would
    meet, and the mean of their gains do nothing.
    """
    network, build, _ = case(name)
    specification, weights = build(network), random_weights(network)
    gains = [diagonal.gain for diagonal in specification.diagonals.values() if diagonal.gain]
    assert gains
    assert all(diagonal.gain for diagonal in specification.diagonals.values() if diagonal.kind == "sign")
    moved, _ = moved_copies(specification, copies(weights, 3, noise=0.5))
    assert any((moved[gain] < 0).any() for gain in gains)
    there = act(specification, oriented(specification, moved), moved)
    assert all((there[gain] >= 0).all() for gain in gains)
    assert not any(diagonal.kind == "sign" for diagonal in specification.matched().diagonals.values())
    assert specification.matched().groups == specification.groups


def test_values_of_heads_and_the_stream_alone_are_recovered():
    """What others miss: an order of a head's values only, and of the residual stream."""
    network, build, _ = case("vit")
    specification, weights = build(network), random_weights(network)
    problem = problem_of(specification)
    drawn = random_element(specification, 1, generator(0, "planted"))
    for symbols in (["blocks.0.attn.vo"], ["blocks.1.attn.qk"], ["stream"], ["blocks.0.attn.heads"]):
        element = identity(specification, 1) | {symbol: drawn[symbol] for symbol in symbols}
        moved = act(specification, element, weights)
        found, _ = match(problem, values_of(problem, weights), values_of(problem, moved), 0, restarts=1)
        back = act(specification, found, moved)
        assert all(torch.allclose(back[name], weights[name], atol=1e-9) for name in weights), symbols


def test_statistics_of_batch_norm_do_not_decide():
    """Buffers move along but are no part of the cost, however large they are."""
    network, build, _ = case("resnet_basic")
    specification, weights = build(network), random_weights(network)
    moved, element = moved_copies(specification, weights)
    for name in moved:
        if "running" in name:
            moved[name] = torch.rand(moved[name].shape, generator=generator(1, name), dtype=torch.float64) * 1e3
    moved = act(specification, prepared(specification, moved), moved)
    reference = act(specification, prepared(specification, weights), weights)
    problem = problem_of(specification)
    found, _ = match(problem, values_of(problem, reference), values_of(problem, moved), 0)
    whole = compose(specification, found, element)
    orders = [name for name, group in specification.groups.items() if group.kind == "permutation"]
    assert all(torch.equal(whole[name], identity(specification, 1)[name]) for name in orders)


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_assignment_and_signs_against_brute_force(n, seed):
    rng = generator(seed, "products")
    plain, signed = (torch.randn((2, n, n), generator=rng, dtype=torch.float64) for _ in range(2))
    specification = Specification(
        groups={"a": Group(size=n)}, diagonals={"s": Diagonal(on="a", kind="sign")}, tensors={}
    )
    element, gained = best(specification, "a", Products(plain=plain, signed={"s": signed}))
    orders = torch.tensor(list(permutations(range(n))))
    signs = torch.tensor(list(product((1.0, -1.0), repeat=n)), dtype=torch.float64)
    at = torch.arange(n)
    for row in range(2):
        everything = plain[row][at, orders].sum(1)[:, None] + signed[row][at, orders] @ signs.mT
        now = plain[row].trace() + signed[row].trace()
        order, sign = element["a"][row], element["s"][row]
        reached = plain[row][at, order].sum() + (sign * signed[row][at, order]).sum()
        assert float(reached) == pytest.approx(float(everything.max()), abs=1e-9)
        assert float(gained[row]) == pytest.approx(float(everything.max() - now), abs=1e-9)


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_heads_and_units_within_against_brute_force(heads, size, seed):
    """The order of heads and the orders within each, all at once, are the best of all."""
    blocks = torch.randn((1, heads, heads, size, size), generator=generator(seed, "b"), dtype=torch.float64)
    specification = Specification(groups={"h": Group(size=heads), "u": Group(size=size, within="h")}, tensors={})
    element, gained = best(specification, "h", Products(inner={"u": blocks}))

    def value(order, inner):
        return sum(float(blocks[0, i, order[i], j, inner[i][j]]) for i in range(heads) for j in range(size))

    orders = list(permutations(range(size)))
    values = [value(o, i) for o in permutations(range(heads)) for i in product(orders, repeat=heads)]
    now = value(range(heads), [range(size)] * heads)
    assert float(gained[0]) == pytest.approx(max(values) - now, abs=1e-9)
    assert value(element["h"][0].tolist(), element["u"][0].tolist()) == pytest.approx(max(values), abs=1e-9)


def test_procrustes_is_the_best_rotation_of_the_plane():
    products = torch.randn((2, 2), generator=generator(0, "p"), dtype=torch.float64)
    rotation, value = procrustes(products)
    angles = torch.linspace(0, 2 * torch.pi, 20_001, dtype=torch.float64)
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()]).view(2, 2, -1)
    reflections = turns * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    reached = max(float((t * products[..., None]).sum((0, 1)).max()) for t in (turns, reflections))
    assert float(value) == pytest.approx(reached, abs=1e-6)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(2, dtype=torch.float64))
    assert float((rotation * products).sum()) == pytest.approx(float(value))


def test_descent_reaches_the_best_of_all_elements_of_a_small_network():
    specification = CASES["gelu"][1](
        torch.nn.Sequential(*(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 3)))
    )
    problem = problem_of(specification)
    for seed in range(5):
        networks = {
            n: torch.randn((2, *t.shape), generator=generator(seed, n), dtype=torch.float64)
            for n, t in specification.tensors.items()
        }
        values = values_of(problem, networks)
        reference, other = [v[:1] for v in values], [v[1:] for v in values]
        _, reached = match(problem, reference, other, 0, restarts=2)
        orders = [{"0": torch.tensor([order])} for order in permutations(range(4))]
        everything = [float(problem.objective(reference, problem.moved(order, other))) for order in orders]
        assert float(reached) == pytest.approx(max(everything), abs=1e-9)


@pytest.mark.parametrize("name", ["cnn_medium", "resnet_basic", "vit"])
def test_the_objective_never_falls_and_is_never_below_the_start(name):
    network, build, _ = case(name)
    specification = build(network)
    problem = problem_of(specification)
    moved, _ = moved_copies(specification, copies(random_weights(network), 4, noise=1.5))
    values = values_of(problem, act(specification, prepared(specification, moved), moved))
    reference = [value[:1] for value in values]
    start = begin(problem, reference, values, specification.outermost())
    at_start = problem.objective(reference, problem.moved(start, values))
    found, reached = descend(problem, reference, problem.moved(start, values), start, 0)
    assert (reached >= at_start - 1e-9).all()
    torch.testing.assert_close(problem.objective(reference, problem.moved(found, values)), reached)
    more, better = match(problem, reference, values, 0, restarts=3, warm=found)
    assert (better >= reached - 1e-9).all()
    assert (match(problem, reference, values, 0, restarts=1, warm=more)[1] >= better - 1e-9).all()


def test_a_group_on_both_axes_of_a_tensor_is_only_moved_when_that_gains():
    """A recurrent matrix: the assignment is an approximation there, and is checked."""
    unit = ((Factor(size=7, group="h"),),)
    specification = Specification(groups={"h": Group(size=7)}, tensors={"w": TensorAxes(axes=(unit, unit))})
    problem = problem_of(specification)
    for seed in range(20):
        weights = torch.randn((6, 7, 7), generator=generator(seed, "w"), dtype=torch.float64)
        values = values_of(problem, {"w": weights})
        reference = [value[:1] for value in values]
        before = problem.objective(reference, values)
        _, reached = descend(problem, reference, values, identity(specification, 6), 0)
        assert (reached >= before - 1e-12).all()


def test_scales_are_balanced_at_one_point_whatever_they_were():
    for name in ("relu", "cnn_medium", "cnn_digits", "resnet_group_norm"):
        network, build, _ = case(name)
        specification, weights = build(network), random_weights(network)
        element = random_element(specification, 1, generator(3, "scales"))
        only = identity(specification, 1) | {
            n: element[n] for n, d in specification.diagonals.items() if d.kind == "scale"
        }
        moved = act(specification, only, weights)
        one, other = (act(specification, balance(specification, w), w) for w in (weights, moved))
        for tensor in weights:
            torch.testing.assert_close(one[tensor], other[tensor], rtol=1e-8, atol=1e-10)
        assert all(
            bool((tensor == 1).all()) for tensor in (balance(specification, one)[n] for n in specification.diagonals)
        )
    layers = {"0.weight": torch.tensor([[[4.0]]]), "0.bias": torch.zeros(1, 1), "2.weight": torch.tensor([[[1.0]]])}
    chain = CASES["relu"][1](
        torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1, bias=False))
    )
    balanced = act(chain, balance(chain, layers), layers)  # by hand: 4 * 1 as 2 * 2
    assert (float(balanced["0.weight"]), float(balanced["2.weight"])) == pytest.approx((2, 2))


def test_adapters_are_balanced_as_the_singular_value_decomposition():
    network, build, _ = case("dora")
    specification, weights = build(network), random_weights(network)
    balanced = act(specification, balance(specification, weights), weights)
    down, up = balanced["q.lora_A.weight"][0], balanced["q.lora_B.weight"][0]
    singular = torch.linalg.svdvals(weights["q.lora_B.weight"][0] @ weights["q.lora_A.weight"][0])[:3]
    torch.testing.assert_close(down @ down.mT, singular.diag())
    torch.testing.assert_close(up.mT @ up, singular.diag())
    fresh = weights | {"q.lora_B.weight": torch.zeros_like(weights["q.lora_B.weight"])}  # as adapters start
    assert torch.equal(balance(specification, fresh)["q"], torch.eye(3, dtype=torch.float64)[None])


def solved(problem, networks, n, seed=0):
    values = values_of(problem, networks)
    return universe(problem, lambda rows: [value[rows] for value in values], n, seed, restarts=3)


@pytest.mark.parametrize("name", ["cnn_medium", "cnn_digits", "tanh", "resnet_basic", "vit", "dora", "group_norm"])
def test_the_universe_depends_on_functions_not_on_how_they_are_written(name):
    """canon(g w) = canon(w), for a different g for every network, and in another order of the networks."""
    network, build, _ = case(name)
    specification, n = build(network), 4
    problem = problem_of(specification)
    base = copies(random_weights(network), n, noise=0.7)
    moved, _ = moved_copies(specification, base)
    mixed = {tensor: value[torch.tensor([3, 1, 0, 2])] for tensor, value in moved.items()}
    results = []
    for networks in (base, moved, mixed):
        networks = act(specification, prepared(specification, networks), networks)
        found = solved(problem, networks, n)
        results.append(act(specification, found.element, networks))
    for tensor in base:
        if specification.tensors[tensor].cost:
            torch.testing.assert_close(results[1][tensor], results[0][tensor], rtol=1e-4, atol=1e-4)
            expected = results[1][tensor][torch.tensor([3, 1, 0, 2])]
            torch.testing.assert_close(results[2][tensor], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["relu", "cnn_digits", "vit"])
def test_the_mean_gains_energy_in_every_round_and_aligned_networks_stay(name):
    network, build, _ = case(name)
    specification, n = build(network), 6
    problem = problem_of(specification)
    moved, _ = moved_copies(specification, copies(random_weights(network), n, noise=1.0))
    moved = act(specification, prepared(specification, moved), moved)
    found = solved(problem, moved, n)
    rising = torch.tensor(found.shares).diff()
    assert (rising >= -1e-9).all()
    assert found.shares[-1] > 2 * found.before
    there = act(specification, found.element, moved)
    values = values_of(problem, there)
    mean = torch.cat([value.mean(0).flatten() for value in values]).square().sum()
    energy = sum(float(value.square().flatten(1).sum(1).mean()) for value in values)
    assert found.shares[-1] == pytest.approx(float(mean) / energy)
    again = act(specification, solved(problem, there, n).element, there)
    for tensor in there:  # rotations end where the objective is flat: the square root of its precision
        torch.testing.assert_close(again[tensor], there[tensor], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "noise", "n"), [("relu", 1.2, 10), ("cnn_digits", 2.0, 4)])
def test_networks_that_are_nearest_as_they_stand_do_not_part(name, noise, n):
    """Noisy copies of one, all in its order, as a generator makes them that learnt an aligned zoo."""
    network, build, _ = case(name)
    specification = build(network)
    base = copies(random_weights(network), n, noise)
    base = act(specification, prepared(specification, base), base)
    found = solved(problem_of(specification), base, n)
    assert (torch.tensor(found.shares).diff() >= -1e-9).all()
    assert found.shares[-1] >= found.before - 1e-9
    there = values_of(problem_of(specification), act(specification, found.element, base))
    mean = torch.cat([value.mean(0).flatten() for value in there]).square().sum()
    assert found.shares[-1] == pytest.approx(
        float(mean) / sum(float(value.square().flatten(1).sum(1).mean()) for value in there)
    )


def test_networks_of_zeros_have_no_energy_to_gain():
    network, build, _ = case("relu")
    problem = problem_of(build(network))
    own = values_of(problem, random_weights(network))
    zeros = [torch.zeros_like(value).expand(3, *value.shape[1:]) for value in own]
    found = universe(problem, lambda rows: [value[rows] for value in zeros], 3, 0, restarts=2)
    assert set(found.shares) == {0.0}


def test_two_networks_meet_although_each_is_half_of_the_mean():
    network, build, _ = case("relu")
    specification = build(network)
    problem = problem_of(specification)
    moved, _ = moved_copies(specification, copies(random_weights(network), 2, noise=0.2))
    found = solved(problem, act(specification, prepared(specification, moved), moved), 2)
    assert found.shares[-1] > 0.95


def test_to_one_leaves_that_one_and_the_medoid_is_in_the_middle():
    network, build, _ = case("relu")
    specification, n = build(network), 9
    problem = problem_of(specification)
    base = copies(random_weights(network), n, noise=0.5)
    for tensor, value in base.items():  # one without noise: the centre of the others
        value[4] = random_weights(case("relu")[0])[tensor][0]
    moved, _ = moved_copies(specification, base)
    moved = act(specification, prepared(specification, moved), moved)
    values = values_of(problem, moved)
    source = lambda rows: [value[rows] for value in values]  # noqa: E731
    found = universe(problem, source, n, 0, restarts=3)
    assert medoid(problem, source, found) == 4
    one = to_one(problem, source, found, 4, 0, restarts=3)
    there = act(specification, one.element, moved)
    for tensor in moved:
        assert torch.equal(there[tensor][4], moved[tensor][4])
        gaps = (there[tensor] - moved[tensor][4]).flatten(1).norm(dim=1) / moved[tensor][4].norm()
        assert gaps.max() < 1.2, tensor


def rebasin(specification, reference, network, seed):
    """Git re-basin's weight matching (Ainsworth et al., 2023, Algorithm 1), plainly: from the identity, groups in
    random order, the cost without weights. Returns the objective it ends at.
    """
    rng, current = generator(seed, "rebasin"), dict(network)
    parts = [part for part in parts_of(specification) if part.cost]
    for _ in range(100):
        progress = False
        for k in torch.randperm(len(specification.groups), generator=rng).tolist():
            group = list(specification.groups)[k]
            cost = 0.0
            for part in parts:
                for at, factor in enumerate(part.dims, 1):
                    if factor.group == group:
                        r, w = (part.view(x[part.name]).movedim(at, 1) for x in (reference, current))
                        r, w = (x.reshape(factor.size, -1) for x in (r, w))
                        cost = cost + r @ w.mT
            order = torch.from_numpy(linear_sum_assignment(cost.numpy(), maximize=True)[1])
            if float(cost[torch.arange(len(order)), order].sum() - cost.trace()) > 1e-12:
                progress = True
                current = act(specification, {group: order[None]}, current)
        if not progress:
            break
    return sum(float((reference[p.name] * current[p.name]).sum()) for p in parts)


@pytest.mark.parametrize("name", ["relu", "cnn_small", "resnet_basic"])
def test_the_objective_of_git_rebasin_is_reached(name):
    network, build, _ = case(name)
    whole = build(network)
    specification = whole.without(whole.diagonals)
    problem = Problem(specification, tuple(part for part in parts_of(specification) if part.cost))
    networks = {n: torch.cat([random_weights(network, k)[n] for k in range(4)]) for n in random_weights(network)}
    values = [part.view(networks[part.name]) for part in problem.parts]
    for a, b in ((0, 1), (1, 2), (3, 0)):
        theirs = rebasin(specification, *({n: t[k : k + 1] for n, t in networks.items()} for k in (a, b)), seed=0)
        _, ours = match(problem, [v[a : a + 1] for v in values], [v[b : b + 1] for v in values], 0, restarts=8)
        assert float(ours) >= theirs - 1e-9, (a, b)


def test_a_network_in_its_own_order_is_the_same_for_all_its_copies():
    network, build, _ = case("vit")
    specification, weights = build(network), random_weights(network)
    problem = problem_of(specification)
    moved, _ = moved_copies(specification, copies(weights, 3, noise=0))
    moved = act(specification, prepared(specification, moved), moved)
    own = act(specification, presented(problem, values_of(problem, moved)), moved)
    for tensor in own:
        torch.testing.assert_close(own[tensor], own[tensor][:1].expand_as(own[tensor]), rtol=1e-6, atol=1e-6)
