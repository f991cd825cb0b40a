"""Structure: which tensors a checkpoint holds, in which order.

A checkpoint file forgets the order of its tensors (safetensors sorts them) and which of them are tied; tokenisation
needs the first and generation the second. A Structure keeps both beside the files, and says for every tensor how it
may be treated:

| kind          | what                                     | generated?                                         |
|---------------|------------------------------------------|----------------------------------------------------|
| `float`       | parameters and floating-point buffers    | yes, standardised                                  |
| `running_var` | BatchNorm running variances              | yes, standardised after a log transform            |
| `constant`    | integer and boolean buffers              | no, carried over from a training checkpoint        |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from typing_extensions import Self

from zoo.errors import Corrupt
from zoo.files import parse_json

Kind = Literal["float", "running_var", "constant"]
MAX_VALUES = 2**40  # in a checkpoint; whoever claims more would have us count for ever
MAX_TENSORS = 100_000
LONGEST_NAME = 512  # characters
MOST_AXES = 16
Size = Annotated[int, Field(ge=0, le=MAX_VALUES)]


DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    )
}


class Frozen(BaseModel):
    """Base of everything that is written to disk: immutable, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_json(self, indent: int | None = None) -> str:
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.model_validate_json(text)

    @classmethod
    def parse(cls, text: str | bytes, where: object) -> Self:
        """`from_json` for files, trusted or not. Raises Corrupt with the field and the first fault, in one line."""
        parse_json(text, where)  # pydantic's own parser takes the last of equal keys
        try:
            return cls.from_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, fault["loc"])) or "JSON"
            raise Corrupt(f"{where} is damaged or not a {cls.__name__}: {field}: {fault['msg']}") from error


class TensorSpec(Frozen):
    """One tensor: its name in the state dict, shape, dtype (torch's name without the prefix) and kind.

    `tied_to` names an earlier tensor of the structure that shares this one's memory in the model.
    """

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    shape: tuple[Size, ...] = Field(max_length=MOST_AXES)
    dtype: str
    kind: Kind
    tied_to: str | None = None

    @model_validator(mode="after")
    def _known_dtype(self) -> Self:
        if self.dtype not in DTYPES:
            raise ValueError(f"tensor {self.name!r} has dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if (self.kind == "constant") == DTYPES[self.dtype].is_floating_point:
            raise ValueError(f"tensor {self.name!r} of dtype {self.dtype} cannot be of kind {self.kind!r}")
        return self

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        tied = f", tied to {self.tied_to}" if self.tied_to else ""
        return f"{self.name} {self.dtype}{list(self.shape)}{tied}"


class Structure(Frozen):
    """The tensors of a checkpoint in state-dict order. Checkpoints with equal structures fit the same model."""

    tensors: Annotated[tuple[TensorSpec, ...], Field(max_length=MAX_TENSORS)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.numel > MAX_VALUES:
            raise ValueError(f"a checkpoint of {self.numel:.2e} values; at most {MAX_VALUES:,} are supported")
        seen: dict[str, TensorSpec] = {}
        for spec in self.tensors:
            if spec.name in seen:
                raise ValueError(f"tensor {spec.name!r} is listed twice")
            if spec.tied_to is not None:
                target = seen.get(spec.tied_to)
                if target is None or target.tied_to is not None:
                    raise ValueError(
                        f"tensor {spec.name!r} is tied to {spec.tied_to!r}, which is not an earlier tensor"
                    )
                if (target.shape, target.dtype) != (spec.shape, spec.dtype):
                    raise ValueError(f"tied tensors {spec.name!r} and {spec.tied_to!r} differ in shape or dtype")
            seen[spec.name] = spec
        return self

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Structure:
        """The structure of a state dict, in its own order. Tensors that share memory, shape and strides are tied; on
        the meta device, where there is no memory, those that are one object (`state_dict(keep_vars=True)`).

        Raises ValueError for a dtype that no checkpoint may have (complex, quantised).
        """
        owners: dict[tuple[object, ...], str] = {}
        specs = []
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype not in DTYPES:
                raise ValueError(f"tensor {name!r} has dtype {dtype}; expected one of {', '.join(DTYPES)}")
            address = id(tensor) if tensor.is_meta else tensor.untyped_storage().data_ptr()
            key = (address, tensor.storage_offset(), tensor.shape, tensor.stride())
            shared = tensor.numel() > 0 and address != 0
            owner = owners.setdefault(key, name) if shared else name
            specs.append(
                TensorSpec(
                    name=name,
                    shape=tuple(tensor.shape),
                    dtype=dtype,
                    kind=_kind(name, tensor.dtype),
                    tied_to=None if owner == name else owner,
                )
            )
        return cls(tensors=tuple(specs))

    def __iter__(self) -> Iterator[TensorSpec]:  # type: ignore[override]  # pydantic iterates over fields
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def numel(self) -> int:
        """Values in one checkpoint, tied tensors counted once, constants included."""
        return sum(spec.numel for spec in self.tensors if spec.tied_to is None)

    @property
    def nbytes(self) -> int:
        """What these values take."""
        return sum(spec.numel * DTYPES[spec.dtype].itemsize for spec in self.tensors if spec.tied_to is None)

    def diff(self, other: Structure) -> list[str]:
        """What separates `other` from this structure, a line each, for people; empty if they are equal."""
        mine = {spec.name: spec for spec in self.tensors}
        theirs = {spec.name: spec for spec in other.tensors}
        lines = [f"missing: {mine[name]}" for name in mine if name not in theirs]
        lines += [f"unexpected: {theirs[name]}" for name in theirs if name not in mine]
        lines += [
            f"differs: expected {mine[name]}, found {theirs[name]}"
            for name in mine
            if name in theirs and mine[name] != theirs[name]
        ]
        if not lines and list(mine) != list(theirs):
            at = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
            lines.append(f"order: tensor {at} should be {list(mine)[at]}, found {list(theirs)[at]}")
        return lines

    def check(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Raise ValueError unless `tensors` has these names, shapes and dtypes, in any order, tied or not."""
        found = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
        expected = {spec.name: (spec.shape, spec.dtype) for spec in self.tensors}
        if found != expected:
            order = [name for name in expected if name in tensors] + [name for name in tensors if name not in expected]
            lines = Structure(tensors=tuple(spec.model_copy(update={"tied_to": None}) for spec in self.tensors)).diff(
                Structure.of({name: tensors[name].clone() for name in order})
            )
            more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
            raise ValueError(f"{what} does not fit the expected structure: {'; '.join(lines[:3])}{more}")


def _kind(name: str, dtype: torch.dtype) -> Kind:
    if not dtype.is_floating_point:
        return "constant"
    return "running_var" if name.rpartition(".")[2] == "running_var" else "float"
