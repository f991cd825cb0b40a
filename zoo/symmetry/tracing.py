"""A specification derived from what a network computes, for networks that nobody has written one for.

The network is traced (torch.export, whose graph is torch.fx's), and every operation says which axes of its operands and
results count the same units. What an operation we do not know touches is left where it is, so that a derived
specification has too few groups rather than wrong ones; and it has to pass the function test (zoo.symmetry.check). It
has orders and rotations, no scales and no signs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.errors import brief
from zoo.structure import Structure
from zoo.symmetry.axes import Axis, concatenation, product, reshaped
from zoo.symmetry.check import TOLERANCE, function_change
from zoo.symmetry.specification import Factor, Group, Piece, Specification, TensorAxes

Axes = list[Axis]

SAME = {"dropout", "dropout_", "feature_dropout", "to", "clone", "contiguous", "detach", "alias", "neg"}
UNITWISE = {
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "gelu", "silu", "silu_", "tanh", "sigmoid", "hardswish", "elu"),
    *("hardswish_", "hardsigmoid", "hardtanh", "hardtanh_", "relu6", "softplus", "exp", "sqrt", "rsqrt", "pow", "mish"),
    *("log", "abs", "erf", "clamp", "softmax", "log_softmax", "square", "sin", "cos", "reciprocal"),
}
SPATIAL = {
    *("max_pool2d", "max_pool1d", "avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool1d"),
    *("adaptive_max_pool2d", "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d"),
}
LINEAR_POOLS = {"avg_pool2d", "avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool1d", "upsample_bilinear2d"}


def derive(network: nn.Module, inputs: Tensor) -> Specification:
    """The specification of a network as it computes these inputs (B, ...), B > 1.

    Raises ValueError when it cannot be traced, when nothing of it can move, and when the result does not pass the
    function test.
    """
    network.eval()
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where it prints the graph it could not finish
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(network, (inputs,), strict=False)
        except Exception as error:  # whatever a network does that cannot be traced
            reason = brief(error)
            raise ValueError(f"{type(network).__name__} cannot be traced: {reason}") from error
    trace = _Trace(dict(program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers))
    for node in program.graph.nodes:
        trace.visit(node)
    specification = trace.specification(network)
    if not specification.groups:
        raise ValueError(f"tracing found nothing in {type(network).__name__} that can be moved")
    for seed in range(2):
        if (change := function_change(network, specification, inputs, seed)) > TOLERANCE:
            raise ValueError(f"the specification derived for {type(network).__name__} changes outputs by {change:.1e}")
    return specification


class _Trace:
    """The axes of everything a graph computes. `names`: of parameters and buffers, by their placeholders."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.axes: dict[str, Axes | list[Axes]] = {}  # of nodes; several for a node with several results
        self.tensors: dict[str, Axes] = {}

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            name = self.names.get(node.name)
            found = [Axis(size, fixed=name is None) for size in _shape(node)]
            self.axes[node.name] = found
            if name is not None:
                self.tensors[name] = found
        elif node.op == "call_function":
            self.axes[node.name] = self._called(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                _pin(self._of(result))

    def _of(self, node: Any) -> Axes:
        found = self.axes.get(node.name, []) if isinstance(node, fx.Node) else []
        return [axis for axes in found for axis in (axes if isinstance(axes, list) else [axes])]

    def _called(self, node: fx.Node) -> Axes | list[Axes]:
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if name == "<built-in function getitem>":
            source, index = node.args[0], node.args[1]
            assert isinstance(source, fx.Node)
            assert isinstance(index, int)
            several = self.axes[source.name]
            if index < len(several) and isinstance(one := several[index], list):
                return one
            _pin(self._of(source))  # a tensor's own index, or results that nothing is known of
            return [Axis(size, fixed=True) for size in _shape(node)]
        rule: Callable[..., Axes | list[Axes]] | None = getattr(self, f"_{name.strip('_')}", None)
        try:
            if name in SAME:
                return self._of(node.args[0])
            if name in UNITWISE:
                return _bent(self._of(node.args[0]))
            if name in SPATIAL:
                return self._spatial(node, name)
            if rule is not None:
                return rule(node, *[self._of(arg) if isinstance(arg, fx.Node) else arg for arg in node.args])
        except (ValueError, IndexError, TypeError, KeyError):
            pass  # an operation in a form that its rule does not cover: what it touches stays where it is
        for operand in node.all_input_nodes:
            _pin(self._of(operand))
        value = node.meta.get("val")
        if isinstance(value, tuple | list):
            return [[Axis(int(s), fixed=True) for s in v.shape] for v in value]
        return [Axis(size, fixed=True) for size in _shape(node)]

    # Rules: the axes of operands (others of their arguments as they are) -> the axes of the result.

    def _spatial(self, node: fx.Node, name: str) -> Axes:
        x, shape = self._of(node.args[0]), _shape(node)
        if name not in LINEAR_POOLS:
            x[1].bend()
        _pin(x[2:])
        return [*x[:2], *(Axis(size, fixed=True) for size in shape[2:])]

    def _conv2d(self, node: fx.Node, x: Axes, weight: Axes, bias: Any = None, *rest: Any) -> Axes:
        groups = rest[3] if len(rest) > 3 else 1
        out, into = weight[0], weight[1]
        if groups == 1:
            into.unify(x[1])
        elif groups == out.size == x[1].size:
            out.unify(x[1])
            out.bend()
        else:
            _pin([out, into, x[1]])
        _pin(weight[2:] + x[2:])
        if bias:
            bias[0].unify(out)
        return [x[0], out, *(Axis(size, fixed=True) for size in _shape(node)[2:])]

    _conv1d = _conv2d

    def _linear(self, _node: fx.Node, x: Axes, weight: Axes, bias: Any = None) -> Axes:
        weight[1].unify(x[-1])
        if bias:
            bias[0].unify(weight[0])
        return [*x[:-1], weight[0]]

    def _matmul(self, _node: fx.Node, a: Axes, b: Axes) -> Axes:
        a[-1].unify(b[-2] if len(b) > 1 else b[-1])
        batch = _broadcast(a[:-2], b[:-2])
        return [*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else [])]

    def _embedding(self, _node: fx.Node, weight: Axes, index: Axes, *_: Any) -> Axes:
        _pin(weight[:1])
        return [*index, weight[1]]

    def _batch_norm(self, _node: fx.Node, x: Axes, *vectors: Any) -> Axes:
        for vector in vectors[:4]:
            if vector:
                vector[0].unify(x[1])
        x[1].bend()
        return x

    def _group_norm(self, _node: fx.Node, x: Axes, groups: int, *vectors: Any) -> Axes:
        for vector in vectors[:2]:
            if vector:
                vector[0].unify(x[1])
        if groups > 1:
            x[1].split([groups, x[1].size // groups])
        x[1].bend()
        return x

    def _layer_norm(self, _node: fx.Node, x: Axes, shape: Sequence[int], *vectors: Any) -> Axes:
        if len(shape) != 1:
            raise ValueError("a normalisation over several axes")
        for vector in vectors[:2]:
            if vector:
                vector[0].unify(x[-1])
        x[-1].bend()
        return x

    def _scaled_dot_product_attention(self, _node: fx.Node, q: Axes, k: Axes, v: Axes, *_: Any) -> Axes:
        for a, b, c in zip(q[:-2], k[:-2], v[:-2], strict=True):
            a.unify(b)
            a.unify(c)
        q[-1].unify(k[-1])
        k[-2].unify(v[-2])
        return [*q[:-1], v[-1]]

    def _add(self, _node: fx.Node, a: Axes, b: Any) -> Axes:
        return _broadcast(a, b) if isinstance(b, list) else _bent(a)

    _sub = _add

    def _mul(self, _node: fx.Node, a: Axes, b: Any) -> Axes:
        return _bent(_broadcast(a, b)) if isinstance(b, list) else a

    _div = _mul

    def _mean(self, _node: fx.Node, x: Axes, dims: Sequence[int], keep: bool = False) -> Axes:
        gone = {d % len(x) for d in dims}
        _pin([x[d] for d in gone])
        return [Axis(1) if d in gone else axis for d, axis in enumerate(x) if keep or d not in gone]

    def _flatten(self, node: fx.Node, x: Axes, *_: Any) -> Axes:
        return reshaped(x, _shape(node))

    _reshape = _view = _unflatten = _unsafe_view = _unsqueeze = _squeeze = _flatten

    def _permute(self, _node: fx.Node, x: Axes, dims: Sequence[int]) -> Axes:
        return [x[d] for d in dims]

    def _transpose(self, _node: fx.Node, x: Axes, a: int, b: int) -> Axes:
        moved = list(x)
        moved[a], moved[b] = moved[b], moved[a]
        return moved

    def _expand(self, node: fx.Node, x: Axes, *_: Any) -> Axes:
        shape = _shape(node)
        padded = [Axis(1)] * (len(shape) - len(x)) + x
        return [a if a.size == size else Axis(size, fixed=True) for a, size in zip(padded, shape, strict=True)]

    def _cat(self, _node: fx.Node, operands: Sequence[fx.Node], dim: int = 0) -> Axes:
        several = [self._of(operand) for operand in operands]
        dim = dim % len(several[0])
        out = list(several[0])
        for other in several[1:]:
            for d, axis in enumerate(other):
                if d != dim:
                    out[d].unify(axis)
        out[dim] = concatenation([axes[dim] for axes in several])
        return out

    def _select(self, _node: fx.Node, x: Axes, dim: int, _index: int) -> Axes:
        x[dim].pin()
        return [axis for d, axis in enumerate(x) if d != dim % len(x)]

    def _unbind(self, _node: fx.Node, x: Axes, dim: int = 0) -> list[Axes]:
        """The first factor of a linear layer's rows taken apart (queries, keys, values): these rows are pieces, each of
        units of its own.
        """
        first = x[dim].found()
        whole = first.parent.found() if first.parent else None
        rest = [axis for d, axis in enumerate(x) if d != dim % len(x)]
        if whole is None or not whole.parts or whole.parts[0].found() is not first:
            first.pin()
            return [rest for _ in range(first.size)]
        others = [part.found() for part in whole.parts[1:]]
        results = []
        for _ in range(first.size):
            own = {id(part): Axis(part.size) for part in others}
            chain = list(own.values())
            for outer, inner in pairwise(chain):
                inner.outer = outer
            whole.pieces.append(product(chain))
            results.append([own.get(id(axis.found()), axis) for axis in rest])
        whole.parts = []
        return results

    def _chunk(self, node: fx.Node, x: Axes, *_: Any) -> list[Axes]:
        dim = int(node.args[2]) if len(node.args) > 2 else 0  # type: ignore[arg-type]
        sizes = [int(value.shape[dim]) for value in node.meta["val"]]
        return [[piece if d == dim % len(x) else a for d, a in enumerate(x)] for piece in x[dim].cut(sizes)]

    _split = _split_with_sizes = _chunk

    def specification(self, network: nn.Module) -> Specification:
        state = network.state_dict(keep_vars=True)
        parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        owner = {spec.name: spec.tied_to or spec.name for spec in Structure.of(state)}
        known: dict[str, Axes] = {}
        for name, found in self.tensors.items():
            for one, other in zip(known.setdefault(owner[name], found), found, strict=True):
                one.unify(other)
        groups, tensors = _Groups(), {}
        described = {n: known.get(owner[n]) or [Axis(s, fixed=True) for s in state[n].shape] for n in state}
        shapes = {name: [_pieces(axis) for axis in found] for name, found in described.items()}
        for name, pieces in shapes.items():
            groups.name(name, pieces)
        for name, pieces in shapes.items():
            axes = tuple(tuple(groups.piece(piece) for piece in axis) for axis in pieces)
            tensors[name] = TensorAxes(axes=axes, cost=name in parameters)
        return Specification(groups=groups.groups(), tensors=tensors)


class _Groups:
    """Leaves that are units, named by the first tensor that has them."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._leaves: dict[str, Axis] = {}
        self._shared: set[str] = set()  # inner units that somewhere stand without their outer ones

    def name(self, tensor: str, axes: list[list[list[Axis]]]) -> None:
        for number, axis in enumerate(axes):
            for piece in axis:
                for at, leaf in enumerate(piece):
                    if leaf.fixed:
                        continue
                    name = self._names.setdefault(id(leaf), f"{tensor}.{number}.{len(self._names)}")
                    self._leaves[name] = leaf
                    before = piece[at - 1] if at else None
                    if leaf.outer is None or before is not leaf.outer.found() or before.fixed:
                        self._shared.add(name)

    def groups(self) -> dict[str, Group]:
        found = {}
        for name, leaf in self._leaves.items():
            outer = None if name in self._shared else self._names[id(leaf.outer.found())]  # type: ignore[union-attr]
            found[name] = Group(size=leaf.size, kind="permutation" if leaf.bent else "rotation", within=outer)
        for group in list(found.values()):  # units that others are within are reordered, not rotated
            if group.within:
                found[group.within] = found[group.within].model_copy(update={"kind": "permutation"})
        return found

    def piece(self, leaves: list[Axis]) -> Piece:
        return tuple(Factor(size=leaf.size, group=self._names.get(id(leaf))) for leaf in leaves)


def _pieces(axis: Axis) -> list[list[Axis]]:
    """The leaves of an axis, piece by piece."""
    axis = axis.found()
    if axis.pieces:
        return [piece for part in axis.pieces for piece in _pieces(part)]
    if not axis.parts:
        return [[axis]]
    first, *others = [_pieces(part) for part in axis.parts]
    if any(len(other) > 1 for other in others):
        axis.pin()
        return [[Axis(axis.size, fixed=True)]]
    return [[*piece, *(leaf for other in others for leaf in other[0])] for piece in first]


def _broadcast(a: Axes, b: Axes) -> Axes:
    """The axes of a sum or product of two tensors."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    out = list(longer)
    for d in range(1, len(shorter) + 1):
        one, other = longer[-d], shorter[-d]
        if one.size == other.size:
            one.unify(other)
        else:
            out[-d] = one if one.size > 1 else other
    return out


def _bent(axes: Axes) -> Axes:
    for axis in axes:
        axis.bend()
    return axes


def _pin(axes: Sequence[Axis]) -> None:
    for axis in axes:
        axis.pin()


def _shape(node: fx.Node) -> list[int]:
    value = node.meta.get("val")
    return [int(size) for size in value.shape] if isinstance(value, Tensor) else []
