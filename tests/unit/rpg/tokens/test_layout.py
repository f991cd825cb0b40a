"""The layout against a brute-force oracle: Python lists and numpy over all checkpoints at once."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from rpg.tokens.layout import Layout
from zoo.errors import Corrupt
from zoo.structure import DTYPES, Structure

FLOATS = [name for name, dtype in DTYPES.items() if dtype.is_floating_point]


@dataclass(frozen=True)
class Plan:
    """A tensor of a made-up network. `tied_to` is the index of an earlier tensor, which then decides the rest."""

    dtype: str
    shape: tuple[int, ...]
    fill: str = "normal"
    scale: float = 1.0
    running_var: bool = False
    tied_to: int | None = None


@st.composite
def networks(draw) -> list[Plan]:
    plans: list[Plan] = []
    for index in range(draw(st.integers(0, 6))):
        tied_to = draw(st.none() | st.integers(0, index - 1)) if index else None
        if tied_to is not None and plans[tied_to].tied_to is None and math.prod(plans[tied_to].shape):
            plans.append(Plan(**{**vars(plans[tied_to]), "tied_to": tied_to}))
            continue
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        plans.append(
            Plan(
                dtype=dtype,
                shape=tuple(draw(st.lists(st.integers(0, 7), max_size=3))),
                fill=draw(st.sampled_from(["normal", "heavy", "offset", "constant", "zero", "some zero"])),
                scale=draw(st.sampled_from([1.0, 1e-40, 1e-20, 1e20])),
                running_var=dtype in FLOATS and draw(st.booleans()),
            )
        )
    return plans


def name_of(index: int, plan: Plan) -> str:
    return f"{index}.running_var" if plan.running_var else f"{index}.value"


def make(plans: list[Plan], seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    weights: dict[str, torch.Tensor] = {}
    for index, plan in enumerate(plans):
        if plan.tied_to is not None:
            weights[name_of(index, plan)] = weights[name_of(plan.tied_to, plans[plan.tied_to])]
            continue
        normal = rng.normal(size=plan.shape)
        values = {
            "normal": normal,
            "heavy": np.exp(5 * normal) * np.sign(normal),
            "offset": 1000 + normal,
            "constant": np.full(plan.shape, 1 / 3),
            "zero": np.zeros(plan.shape),
            "some zero": normal * (rng.random(plan.shape) < 0.5),
        }[plan.fill]
        values = np.abs(values) if plan.running_var else values
        dtype = DTYPES[plan.dtype]
        if dtype.is_floating_point:
            limit = torch.finfo(dtype).max
            weights[name_of(index, plan)] = torch.tensor(np.clip(values * plan.scale, -limit, limit)).to(dtype)
        else:
            weights[name_of(index, plan)] = torch.tensor(rng.integers(0, 100, plan.shape)).to(dtype)
    return weights


@dataclass
class Truth:
    """What brute force says of one generated tensor."""

    name: str
    u: list[np.ndarray]  # per checkpoint, flat, after the log transform
    mean: float
    std: float
    log_scale: float | None


def truths(plans: list[Plan], checkpoints: list[dict[str, torch.Tensor]]) -> list[Truth]:
    found = []
    for index, plan in enumerate(plans):
        if plan.dtype not in FLOATS or plan.tied_to is not None:
            continue
        name = name_of(index, plan)
        u = [weights[name].double().numpy().ravel() for weights in checkpoints]
        log_scale = None
        if plan.running_var:
            log_scale = 0.95 * np.concatenate(u).mean() if any(v.any() for v in u) else 1.0
            u = [np.log(v / log_scale + 0.05) for v in u]
        pooled = np.concatenate(u)
        if pooled.size == 0:
            mean, std = 0.0, 1.0
        elif pooled.min() == pooled.max():
            mean, std = pooled[0], 1.0
        else:
            mean, std = pooled.mean(), pooled.std()
        found.append(Truth(name, u, mean, std, log_scale))
    return found


def token_rows(found: list[Truth], checkpoint: int, size: int):
    """Tokens, mask and positions, value by value."""
    tokens, mask, positions = [], [], []
    for layer, truth in enumerate(found):
        values = [(value - truth.mean) / truth.std for value in truth.u[checkpoint]]
        count = 0
        while values:
            piece, values = values[:size], values[size:]
            tokens.append(piece + [0.0] * (size - len(piece)))
            mask.append([True] * len(piece) + [False] * (size - len(piece)))
            positions.append([layer, count])
            count += 1
    return tokens, mask, positions


def close_enough(weight: torch.Tensor, truth: Truth, checkpoint: int) -> np.ndarray:
    """How far a decoded weight may be: float32 rounding of its token, then rounding to its own dtype."""
    u, w = truth.u[checkpoint], weight.double().abs().numpy().ravel()
    bound = 2.0**-23 * np.abs(u - truth.mean) + 1e-14 * (np.abs(u) + abs(truth.mean)) + 1e-40 * truth.std
    if truth.log_scale is not None:
        bound = 2 * bound * (w + 0.05 * truth.log_scale)  # derivative of exp(u) * log_scale
    info = torch.finfo(weight.dtype)
    return bound + info.eps * w + info.smallest_normal * info.eps


@settings(max_examples=200)
@given(networks(), st.integers(1, 64), st.integers(1, 4), st.integers(0, 2**32 - 1))
@example([], 3, 1, 0)
@example([Plan("float32", (), "constant"), Plan("int64", ()), Plan("float16", (0, 3))], 64, 2, 0)
@example([Plan("float32", (7,), "constant", running_var=True), Plan("float64", (5, 3), "constant")], 2, 3, 0)
@example(
    [Plan("bfloat16", (6,), "some zero", running_var=True), Plan("float32", (4,), "zero", running_var=True)], 1, 2, 5
)
def test_random_networks_against_brute_force(plans, token_size, count, seed):
    checkpoints = [make(plans, seed + k) for k in range(count)]
    structure = Structure.of(checkpoints[0])
    layout = Layout.fit(structure, lambda: iter(checkpoints), token_size)
    found = truths(plans, checkpoints)

    assert [tensor.name for tensor in layout.tensors] == [truth.name for truth in found]
    for tensor, truth in zip(layout.tensors, found, strict=True):
        largest = max((np.abs(u).max(initial=0) for u in truth.u), default=0)
        assert tensor.mean == pytest.approx(truth.mean, rel=0, abs=1e-12 * largest)
        assert tensor.std == pytest.approx(truth.std, rel=1e-7)
        assert tensor.log_scale == (
            None if truth.log_scale is None else pytest.approx(truth.log_scale, rel=1e-12, abs=0)
        )

    for checkpoint, weights in enumerate(checkpoints):
        rows, mask, positions = token_rows(found, checkpoint, token_size)
        tokens = layout.encode(weights)
        assert tokens.dtype == torch.float32
        assert tokens.shape == (layout.num_tokens, token_size) == (len(rows), token_size)
        np.testing.assert_allclose(tokens.numpy(), np.reshape(rows, (-1, token_size)), rtol=1e-5, atol=1e-5)
        assert layout.mask().tolist() == mask
        assert not tokens[~layout.mask()].any()
        assert layout.positions().tolist() == positions
        assert layout.useful == pytest.approx(np.mean(mask) if mask else 0)

        constants = {spec.name: weights[spec.name] for spec in structure if spec.kind == "constant"}
        decoded = layout.decode(tokens, constants)
        assert list(decoded) == list(weights)
        structure.check(decoded, "decoded")
        for truth in found:
            error = (decoded[truth.name].double() - weights[truth.name].double()).abs().numpy().ravel()
            assert (error <= close_enough(weights[truth.name], truth, checkpoint)).all(), truth.name
        for name in constants:
            assert torch.equal(decoded[name], weights[name])
        for spec in structure:
            if spec.tied_to is not None:
                assert decoded[spec.name] is decoded[spec.tied_to]

    assert Layout.from_json(layout.to_json()) == layout


@given(networks(), st.sampled_from(["layer", "flatten", "channel"]), st.integers(1, 24), st.integers(1, 9))
def test_windows_decode_every_value_once_bit_for_bit(plans, rule, token_size, width):
    weights = make(plans, 0)
    layout = Layout.fit(Structure.of(weights), lambda: iter([weights, make(plans, 1)]), token_size, rule)
    tokens = torch.randn(layout.num_tokens, token_size, generator=torch.Generator().manual_seed(0))
    constants = {spec.name: weights[spec.name] for spec in layout.structure if spec.kind == "constant"}
    expected = layout.decode(tokens, constants)

    windows = [range(start, min(start + width, len(tokens))) for start in range(0, len(tokens), width)]
    found = {tensor.name: torch.zeros_like(expected[tensor.name]).reshape(-1) for tensor in layout.tensors}
    written = {name: torch.zeros(flat.shape, dtype=torch.int64) for name, flat in found.items()}
    for window in windows:
        for name, start, values in layout.decode_window(tokens[window.start : window.stop], window.start):
            assert len(values)
            found[name][start : start + len(values)] = values
            written[name][start : start + len(values)] += 1
    for name, flat in found.items():
        assert torch.equal(flat.view(torch.uint8), expected[name].reshape(-1).view(torch.uint8))
        assert (written[name] == 1).all()
    assert [row for window in windows for row in layout.mask(window).tolist()] == layout.mask().tolist()


def test_by_hand():
    first = {"weight": torch.tensor([[1.0, 3.0, 5.0]]), "running_var": torch.tensor([0.0, 1.0])}
    second = {"weight": torch.tensor([[3.0, 5.0, 7.0]]), "running_var": torch.tensor([1.0, 2.0])}
    layout = Layout.fit(Structure.of(first), lambda: [first, second], token_size=2)
    weight, variance = layout.tensors
    # Pooled over both checkpoints; the mean of their own deviations would be sqrt(8 / 3).
    assert weight.mean == 4
    assert weight.std == pytest.approx(math.sqrt(22 / 6))
    assert variance.log_scale == pytest.approx(0.95)
    logs = [math.log(v / 0.95 + 0.05) for v in (0, 1, 1, 2)]
    assert variance.mean == pytest.approx(sum(logs) / 4)
    expected = [[-3, -1], [1, 0]]
    np.testing.assert_allclose(layout.encode(first)[:2], np.array(expected) / math.sqrt(22 / 6), rtol=1e-6)
    assert layout.mask().tolist() == [[True, True], [True, False], [True, True]]
    assert layout.positions().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert layout.useful == pytest.approx(5 / 6)


@pytest.mark.parametrize("dtype", [DTYPES[name] for name in FLOATS])
@pytest.mark.parametrize("name", ["weight", "running_var"])
def test_constant_tensors_have_deviation_one_and_come_back_exactly(name, dtype):
    # 1.1 over 7 values: a naive float64 mean is off by a rounding error, which would become the deviation.
    weights = {name: torch.full((7,), 1.1, dtype=dtype)}
    layout = Layout.fit(Structure.of(weights), lambda: [weights] * 3, token_size=4)
    assert layout.tensors[0].std == 1
    tokens = layout.encode(weights)
    assert not tokens.any()
    torch.testing.assert_close(layout.decode(tokens, {})[name], weights[name], rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [DTYPES[name] for name in FLOATS])
@pytest.mark.parametrize("name", ["weight", "running_var"])
def test_generated_values_beyond_the_dtype_are_clamped(name, dtype):
    weights = {name: torch.tensor([0.0, 1e4], dtype=dtype)}
    layout = Layout.fit(Structure.of(weights), lambda: [weights], token_size=2)
    wild = torch.tensor([[torch.finfo(torch.float32).max, -1e5]])
    decoded = layout.decode(wild, {})[name]
    assert decoded.isfinite().all()
    assert decoded[0] == torch.finfo(dtype).max or dtype == torch.float64
    assert decoded[1] == 0 if name == "running_var" else decoded[1] < -1e4


class Network(nn.Module):
    """Convolution, BatchNorm and two linear layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.hidden.weight
        self.register_buffer("temperature", torch.tensor(0.7))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(images)).relu().mean((2, 3))
        return self.head(self.hidden(features).relu()) / self.temperature


def trained_network(seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network()
        with torch.no_grad():
            network.conv.weight[2] = network.conv.bias[2] = 0  # a dead channel, whose variance decays to zero
            for _ in range(5):
                network(torch.randn(8, 1, 6, 6))
            network.norm.running_var[2] = 0
    return network.eval()


def test_a_torch_module_computes_the_same_after_a_round_trip():
    networks = [trained_network(seed) for seed in range(3)]
    states = [network.state_dict() for network in networks]
    structure = Structure.of(states[0])
    layout = Layout.fit(structure, lambda: states, token_size=16)
    names = [tensor.name for tensor in layout.tensors]
    assert "norm.num_batches_tracked" not in names
    assert "head.weight" not in names
    assert {"hidden.weight", "norm.running_var", "temperature"} < set(names)

    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for network, state in zip(networks, states, strict=True):
        constants = {"norm.num_batches_tracked": state["norm.num_batches_tracked"]}
        decoded = layout.decode(layout.encode(state), constants)
        assert decoded["head.weight"] is decoded["hidden.weight"]
        assert decoded["norm.running_var"][2] == pytest.approx(0, abs=1e-7)
        copy = Network().eval()
        copy.load_state_dict(decoded)
        torch.testing.assert_close(copy(images), network(images), rtol=1e-5, atol=1e-4)


def test_statistics_of_a_stream_far_from_zero_are_numpys():
    rng = np.random.default_rng(0)
    values = 1e6 + 1e-3 * rng.normal(size=(20, 1000))
    layout = Layout.fit(
        Structure.of({"a": torch.from_numpy(values[0])}), lambda: ({"a": torch.from_numpy(v)} for v in values), 8
    )
    assert layout.tensors[0].mean == pytest.approx(values.mean(), rel=1e-14)
    assert layout.tensors[0].std == pytest.approx(values.std(), rel=1e-6)


GOOD = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "norm.running_var": torch.tensor([0.5, 2.0]),
    "norm.num_batches_tracked": torch.tensor(7),
}


def good_layout() -> Layout:
    return Layout.fit(Structure.of(GOOD), lambda: [GOOD], token_size=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((2, 3), math.nan)}, "tensor weight holds values that are NaN"),
        ({"weight": torch.full((2, 3), -math.inf)}, "tensor weight holds values that are NaN, infinite"),
        ({"norm.running_var": torch.tensor([1.0, -1e-3])}, r"tensor norm\.running_var holds .* negative"),
        ({"weight": torch.zeros(1)}, r"differs: expected weight float32\[2, 3\], found weight float32\[1\]"),
        ({"weight": torch.zeros(2, 3).half()}, r"found weight float16\[2, 3\]"),
        ({"weight": None}, "missing: weight"),
        ({"more": torch.zeros(1)}, "unexpected: more"),
    ],
)
def test_unfit_checkpoints_are_refused_in_fit_and_encode(change, message):
    bad = {name: tensor for name, tensor in {**GOOD, **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        good_layout().encode(bad)
    with pytest.raises(ValueError, match=message):
        Layout.fit(Structure.of(GOOD), lambda: [GOOD, bad], token_size=4)


def test_fit_refuses_what_it_cannot_measure():
    structure = Structure.of(GOOD)
    with pytest.raises(ValueError, match="no training checkpoints"):
        Layout.fit(structure, list, token_size=4)
    spent_after_one_pass = iter([GOOD])
    with pytest.raises(ValueError, match="no training checkpoints"):
        Layout.fit(structure, lambda: spent_after_one_pass, token_size=4)
    with pytest.raises(ValueError, match="token_size is 0"):
        Layout.fit(structure, lambda: [GOOD], token_size=0)
    huge = {"a": torch.tensor([1e200, -1e200], dtype=torch.float64)}
    with pytest.raises(ValueError, match="tensor a of training checkpoint 1 holds values too large"):
        Layout.fit(Structure.of(huge), lambda: [huge], token_size=4)


def test_decode_refuses_foreign_tokens_and_constants():
    layout = good_layout()
    tokens = layout.encode(GOOD)
    with pytest.raises(ValueError, match=r"tokens have shape \(2, 4\); this layout has \(3, 4\)"):
        layout.decode(tokens[:2], GOOD)
    with pytest.raises(ValueError, match=r"missing: norm\.num_batches_tracked int64"):
        layout.decode(tokens, {})
    with pytest.raises(ValueError, match=r"found norm\.num_batches_tracked int64\[2\]"):
        layout.decode(tokens, {"norm.num_batches_tracked": torch.tensor([7, 7])})


def test_decode_takes_tokens_of_any_memory_layout():
    layout = good_layout()
    tokens = layout.encode(GOOD)
    transposed = layout.decode(tokens.T.contiguous().T, GOOD)
    for name, tensor in layout.decode(tokens, GOOD).items():
        assert torch.equal(transposed[name], tensor)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("shape", [3, 2]),
        ("dtype", "float16"),
        ("kind", "running_var"),
        ("std", 0.0),
        ("log_scale", 1.0),
        ("first_token", 1),
        ("num_tokens", 3),
    ],
)
def test_a_layout_file_that_contradicts_itself_is_corrupt(field, value):
    record = json.loads(good_layout().to_json())
    record["tensors"][0][field] = value
    with pytest.raises(Corrupt, match=r"^run/layout\.json is damaged"):
        Layout.parse(json.dumps(record), "run/layout.json")


def test_a_layout_file_without_one_of_its_tensors_is_corrupt():
    record = json.loads(good_layout().to_json())
    del record["tensors"][-1]
    with pytest.raises(Corrupt, match="not those that its structure generates"):
        Layout.parse(json.dumps(record), "run/layout.json")


@pytest.mark.parametrize("tokenisation", ["layer", "flatten", "channel"])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_pieces_of_every_size_are_the_same_tokens_and_statistics(monkeypatch, tokenisation, chunk):
    states = [trained_network(seed).state_dict() for seed in range(3)]
    structure = Structure.of(states[0])
    whole = Layout.fit(structure, lambda: states, 7, tokenisation)
    expected = whole.encode(states[1])
    monkeypatch.setattr("rpg.tokens.layout.CHUNK", chunk)
    pieces = list(whole.pieces(states[1]))
    assert torch.equal(torch.cat(pieces), expected.view(-1))
    assert max(map(len, pieces)) <= max(chunk, 7)
    for tensor, same in zip(Layout.fit(structure, lambda: states, 7, tokenisation).tensors, whole.tensors, strict=True):
        assert (tensor.mean, tensor.std) == pytest.approx((same.mean, same.std), rel=1e-12)


@pytest.mark.parametrize("at", [0, 4, 5, 18])
def test_a_value_that_is_not_finite_is_found_in_any_chunk(monkeypatch, at):
    monkeypatch.setattr("rpg.tokens.layout.CHUNK", 5)
    good = {"a": torch.arange(19.0)}
    layout = Layout.fit(Structure.of(good), lambda: [good], 4)
    bad = {"a": good["a"].index_fill(0, torch.tensor([at]), math.nan)}
    for use in (layout.encode, lambda weights: Layout.fit(layout.structure, lambda: [good, weights], 4)):
        with pytest.raises(ValueError, match="tensor a holds values that are NaN"):
            use(bad)
    huge = {"a": good["a"] * 1e37}  # whose squares are infinite in float32
    assert layout.encode(huge).isfinite().all()
