"""What the builders of specifications share: spaces of units, and the layers that write and read them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from zoo.symmetry.specification import Axis, Diagonal, Factor, Group, Specification, TensorAxes, fixed

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)  # f(cx) = c f(x) for c > 0
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Space:
    """Units that layers write and others read: one piece of an axis. `diagonal` multiplies what is written and divides
    what is read.
    """

    factors: tuple[Factor, ...]
    diagonal: str | None = None

    @property
    def size(self) -> int:
        return math.prod(factor.size for factor in self.factors)

    def written(self, **powers: int) -> Axis:
        """The axis of a tensor whose values become the units' values, with these powers of other diagonals."""
        return self._axis({**({self.diagonal: 1} if self.diagonal else {}), **powers})

    def read(self, repeat: int = 1, **powers: int) -> Axis:
        """The axis of a tensor that units' values are multiplied with; `repeat`: positions a unit has (flatten)."""
        axis = self._axis({**({self.diagonal: -1} if self.diagonal else {}), **powers})
        return ((*axis[0], Factor(size=repeat)),) if repeat > 1 else axis

    def along(self, **powers: int) -> Axis:
        """The axis of a tensor that the units' own numbers do not change, but these powers of other diagonals."""
        return self._axis(powers)

    def _axis(self, powers: dict[str, int]) -> Axis:
        *outer, last = self.factors
        return ((*outer, last.model_copy(update={"powers": powers})),)


class Builder:
    """Collects groups and tensors; `done` makes the specification."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self.state: dict[str, Tensor] = network.state_dict(keep_vars=True)
        self.groups: dict[str, Group] = {}
        self.diagonals: dict[str, Diagonal] = {}
        self.tensors: dict[str, TensorAxes] = {}
        self.outputs: dict[str, Axis] = {}

    def done(self) -> Specification:
        """Tensors that were not named stay as they are. Raises ValueError when that is a mistake: for more than a
        scalar.
        """
        for name, tensor in self.state.items():
            if name not in self.tensors:
                if tensor.ndim:
                    raise ValueError(f"{name} {tuple(tensor.shape)} is not described by the builder of this network")
                self.tensors[name] = TensorAxes(axes=(), cost=False)
        tensors = {name: self.tensors[name] for name in self.state}
        return Specification(groups=self.groups, diagonals=self.diagonals, tensors=tensors, outputs=self.outputs)

    def space(self, name: str, size: int, kind: str | None = None, sets: int | None = None) -> Space:
        """New units. `kind` ("scale", "sign"): a diagonal that whoever writes and reads them carries. `sets`: how many
        sets of them GroupNorm normalises together.
        """
        if sets is not None and 1 < sets < size:
            self.groups[f"{name}.sets"] = Group(size=sets)
            self.groups[name] = Group(size=size // sets, within=f"{name}.sets")
            space = Space((Factor(size=sets, group=f"{name}.sets"), Factor(size=size // sets, group=name)))
        else:
            self.groups[name] = Group(size=size)
            space = Space((Factor(size=size, group=name),))
        return self.carrying(space, name, kind) if kind else space

    def carrying(self, space: Space, name: str, kind: str) -> Space:
        """The same units with a diagonal of their own."""
        return replace(space, diagonal=self._diagonal(f"{name}.{kind}", str(space.factors[-1].group), kind))

    def _diagonal(self, name: str, on: str, kind: Any, gain: str | None = None) -> str:
        self.diagonals[name] = Diagonal(on=on, kind=kind, gain=gain)
        return name

    def tensor(self, name: str, *axes: Axis, cost: bool = True) -> None:
        """Describe one tensor; axes that are not given are fixed."""
        shape = self.state[name].shape
        self.tensors[name] = TensorAxes(axes=(*axes, *(fixed(size) for size in shape[len(axes) :])), cost=cost)

    def weights(self, module: str, out: Axis, into: Axis) -> None:
        """A linear layer or convolution, with its bias if there is one."""
        self.tensor(f"{module}.weight", out, into)
        if f"{module}.bias" in self.state:
            self.tensor(f"{module}.bias", out)

    def vectors(self, module: str, axis: Axis) -> None:
        """A normalisation's or a scale's weight and bias, and other vectors along the units."""
        for name in self.state:
            if name.rpartition(".")[0] == module:
                self.tensor(name, axis)

    def normalised(self, layer: str, norm: str | None, into: Axis, space: Space) -> None:
        """A layer that writes `space` from `into`, through a normalisation if there is one."""
        own = self._filters(norm, space)
        self.weights(layer, space.along(**own), into)
        self._normalisation(layer, norm, space, own)

    def depthwise(self, layer: str, norm: str | None, before: Space, space: Space) -> None:
        """A filter for each channel: `before` and `space` are the same units with diagonals of their own."""
        own = self._filters(norm, space)
        read = {before.diagonal: -1} if before.diagonal else {}
        self.tensor(f"{layer}.weight", space.along(**own, **read))
        if f"{layer}.bias" in self.state:
            self.tensor(f"{layer}.bias", space.along(**own))
        self._normalisation(layer, norm, space, own)

    def perceptron(self, name: str, stream: Space, gamma: str) -> None:
        """Two layers with a smooth activation between them, `fc1` and `fc2`, that read a stream and add to it, times
        `gamma` where there is one: a sign between `fc2` and `gamma` is free.
        """
        inner = self.space(f"{name}.fc1", len(self.state[f"{name}.fc1.weight"]))
        self.weights(f"{name}.fc1", inner.written(), stream.read())
        self.outputs[f"{name}.fc1"] = inner.written()
        self.vectors(f"{name}.norm", inner.along())
        self.weights(f"{name}.fc2", self.layer_scaled(gamma, stream), inner.read())

    def layer_scaled(self, gamma: str, stream: Space) -> Axis:
        """The axis of what is multiplied by the vector `gamma`, if there is one, before it is added to a stream."""
        if gamma not in self.state:
            return stream.along()
        sign = {self._diagonal(f"{gamma}.sign", str(stream.factors[-1].group), "sign", gamma): 1}
        self.tensor(gamma, stream.along(**sign))
        return stream.along(**sign)

    def _filters(self, norm: str | None, space: Space) -> dict[str, int]:
        """The powers of a filter that writes `space`. Before BatchNorm its sign is free, if BatchNorm's weight turns
        with it, and the units' own diagonal acts on BatchNorm's weight and bias. Raises ValueError for a normalisation
        without them, which removes what a filter is scaled by.
        """
        bare = norm is not None and f"{norm}.weight" not in self.state
        if bare and space.diagonal and not isinstance(self.modules.get(norm), nn.Identity | None):
            raise ValueError(f"{norm} has no weight and bias; expected a normalisation that learns them")
        if norm is None or f"{norm}.weight" not in self.state:
            return {space.diagonal: 1} if space.diagonal else {}
        if isinstance(self.modules[norm], NORMS) and len(space.factors) == 1:
            return {self._diagonal(f"{norm}.sign", str(space.factors[0].group), "sign", f"{norm}.weight"): 1}
        return {}

    def _normalisation(self, layer: str, norm: str | None, space: Space, own: dict[str, int]) -> None:
        if norm is None or f"{norm}.weight" not in self.state:
            self.outputs[layer] = space.written()
            return
        if space.diagonal and self.diagonals[space.diagonal].kind == "scale":
            decided = {"gain": f"{norm}.weight"}
            self.diagonals[space.diagonal] = self.diagonals[space.diagonal].model_copy(update=decided)
        self.tensor(f"{norm}.weight", space.written(**own))
        self.tensor(f"{norm}.bias", space.written())
        if f"{norm}.running_mean" in self.state:
            self.tensor(f"{norm}.running_mean", space.along(**own), cost=False)
            self.tensor(f"{norm}.running_var", space.along(**dict.fromkeys(own, 2)), cost=False)
        self.outputs[norm] = space.written()


def kind_of(activation: nn.Module) -> str | None:
    """What a unit may be multiplied by before this activation, to be divided by after it."""
    if isinstance(activation, HOMOGENEOUS):
        return "scale"
    return "sign" if isinstance(activation, nn.Tanh) else None
