"""Pickles of arrays: what NumPy's own unpickler gives, and nothing run of what is in them."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from zoo.errors import Corrupt
from zoo.formats.arrays import load_arrays
from zoo.formats.weights import read

KINDS = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "|b1")
ANY = arrays.arrays(st.sampled_from(KINDS).map(np.dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))


def load(data: bytes, folder: Path) -> object:
    (folder / "x.pkl").write_bytes(data)
    return load_arrays(folder / "x.pkl")


@settings(max_examples=60, deadline=None)
@given(given=ANY, protocol=st.integers(0, 4), columns=st.booleans())
def test_arrays_are_numpys(given: np.ndarray, protocol: int, columns: bool, tmp_path_factory) -> None:
    given = np.asfortranarray(given) if columns else given
    content = {"model": OrderedDict(a=given, b=given), "n": [1, 2.5, "x", None, True]}
    found = load(pickle.dumps(content, protocol), tmp_path_factory.getbasetemp())
    assert found["n"] == content["n"]  # type: ignore[index]
    for name in "ab":
        tensor = found["model"][name]  # type: ignore[index]
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), given)
        assert tensor.numpy().dtype == given.dtype


def test_weights_are_read_from_detectron2s_pickles(tmp_path: Path) -> None:
    model = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.zeros(2, np.float32)}
    (tmp_path / "model_final_abc.pkl").write_bytes(pickle.dumps({"model": model, "__author__": "somebody"}, 2))
    found = read(tmp_path / "model_final_abc.pkl")
    assert found.key == "model"
    assert found.tensors.keys() == model.keys()
    assert torch.equal(found.tensors["a.weight"], torch.arange(6.0).reshape(2, 3))


class Runs:
    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Runs(os.mkdir, "made"), "it wants posix.mkdir"),
        (Runs(eval, "1"), "it wants __builtin__.eval"),
        ({"model": Runs(getattr, {}, "clear")}, "it wants __builtin__.getattr"),
        (Runs(np.frombuffer, b"1234"), "it wants numpy"),
        (np.array([{}], dtype=object), "an array of type |O8"),
        (np.zeros(2, ">f4"), "an array of type >f4"),
        (np.zeros(2, "c8"), "an array of type <c8"),
        (np.zeros(2, "f4,i4"), "an array of type |V8"),
        (np.dtype("f4"), "it holds a Type"),
        ({("a",): 1}, "a key of type tuple"),
        ({1, 2}, "it wants __builtin__.set"),
    ],
)
def test_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Corrupt, match=re.escape("a pickle that needs more than arrays (")) as raised:
        load(pickle.dumps(content, 2), tmp_path)
    assert said in str(raised.value)
    assert not (tmp_path / "made").exists()


def crafted(shape: object, data: object, columns: object = False, type: str = "f4") -> bytes:
    """A pickle of one array with this state."""
    made = io.BytesIO()
    pickler = pickle._Pickler(made, 2)  # type: ignore[attr-defined]
    state = (1, shape, np.dtype(type), columns, data)
    pickler.dispatch_table = {Runs: lambda _: (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)}
    pickler.dump({"x": Runs(0)})
    return made.getvalue()


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((2**40,), b"1234"),
        ((-1,), b"1234"),
        ((1,), b"123"),
        ((1,), [1.0]),
        ([1], b"1234"),
        ((True,), b"1234"),
        (1, b"1"),
    ],
)
def test_arrays_that_claim_what_they_have_not(tmp_path: Path, shape: object, data: object) -> None:
    with pytest.raises(Corrupt, match="an array of shape"):
        load(crafted(shape, data), tmp_path)
    assert torch.equal(load(crafted((1,), b"\0\0\x80?"), tmp_path)["x"], torch.ones(1))  # type: ignore[index]


def test_a_file_that_unfolds_is_refused(tmp_path: Path) -> None:
    array = np.ones(5000, np.float32)
    first, *others = load(pickle.dumps([array] * 9, 3), tmp_path)  # type: ignore[misc]
    assert all(other is first for other in others)
    data = b"1234" * 5000  # once in the file, and claimed by several arrays
    state = (1, (5000,), np.dtype("f4"), False, data)
    made = [Runs(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b") for _ in range(9)]
    for one in made:
        one.call = (*one.call, state)
    with pytest.raises(Corrupt, match="unfold to more than its own size"):
        load(pickle.dumps(made, 3), tmp_path)


def test_a_file_changes_no_names_for_the_next(tmp_path: Path) -> None:
    """BUILD can set attributes of what a name stands for, for example of the class."""
    changed = b"\x80\x02cnumpy\ndtype\nN}U\x0c__setstate__K\x01s\x86b."
    with pytest.raises(Corrupt):
        load(changed, tmp_path)
    array = np.ones(3, np.float32)
    assert torch.equal(load(pickle.dumps(array, 2), tmp_path), torch.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"garbage", pickle.dumps(np.ones(5))[:-9]])
def test_damage_is_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"x\.pkl is damaged, or"):
        load(data, tmp_path)
