"""Columns of a zoo: what `load` gives, bit for bit, in pieces; and no damage unseen."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import zoo.writer
from zoo.checkpoint import read_header
from zoo.errors import Corrupt
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import DTYPES, Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})
Network = dict[str, torch.Tensor]


def written(path: Path, networks: list[Network], stacked: bool = True, rows: int = 256) -> Zoo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.writer, "STACK_ROWS", rows)
        if not stacked:
            patch.setattr(zoo.writer, "STACK_BELOW", 0)
        with ZooWriter(path, ORIGIN, Structure.of(networks[0])) as writer:
            for seed, network in enumerate(networks):
                writer.add(f"net-{seed:03d}", network, seed=seed, split="train")
            return writer.finish()


def together(made: Zoo, entries, values: int) -> dict[str, torch.Tensor]:
    """(entries, values) of every tensor, from columns; checks that they come in order, without gaps, small enough."""
    found: dict[str, list[torch.Tensor]] = {}
    for column in made.columns(entries, values):
        pieces = found.setdefault(column.spec.name, [])
        assert column.start == sum(piece.shape[1] for piece in pieces)
        assert column.block.shape[0] == len(entries)
        assert 0 < column.block.numel() <= max(values, len(entries))
        assert column.block.dtype == DTYPES[column.spec.dtype]
        pieces.append(column.block)
    order = [s.name for s in made.structure if s.kind != "constant" and s.tied_to is None and s.numel]
    assert list(found) == order
    return {name: torch.cat(pieces, 1) for name, pieces in found.items()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def zoos(draw) -> list[Network]:
    """Networks of one random structure: every dtype, ties, running variances, scalars, empty tensors."""
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6))
    dtypes = draw(st.lists(st.sampled_from(sorted(DTYPES)), min_size=len(shapes), max_size=len(shapes)))
    names = [f"t{i}{draw(st.sampled_from(['.weight', '.running_var']))}" for i in range(len(shapes))]
    tied = draw(st.booleans())
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def network() -> Network:
        tensors = {}
        for name, shape, dtype in zip(names, shapes, dtypes, strict=True):
            bits = torch.randint(0, 256, (*shape, DTYPES[dtype].itemsize), generator=rng, dtype=torch.uint8)
            number = bits[..., 0] % 2 == 0 if dtype == "bool" else bits.view(DTYPES[dtype])[..., 0].nan_to_num()
            tensors[name] = number.contiguous()
        return tensors | ({"z.tied": tensors[names[0]]} if tied else {})

    return [network() for _ in range(draw(st.integers(1, 7)))]


@given(zoos(), st.integers(1, 40), st.booleans(), st.sampled_from([2, 3, 256]), st.randoms())
def test_columns_are_what_load_gives(networks, values, stacked, rows, random):
    with TemporaryDirectory() as folder:
        made = written(Path(folder) / "zoo", networks, stacked, rows)
        entries = random.sample(made.entries, random.randint(1, len(made.entries)))
        for name, block in together(Zoo.open(made.path), entries, values).items():
            for entry, row in zip(entries, block, strict=True):
                assert raw(row) == raw(made.load(entry)[name])


def network(seed: int = 0) -> Network:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, generator=rng)
    return {
        "weight": weight,
        "tied": weight,
        "steps": torch.tensor(seed),
        "n.running_var": torch.rand(4, generator=rng),
    }


def test_constants_are_columns_of_their_own_kind(tmp_path):
    made = written(tmp_path / "zoo", [network(seed) for seed in range(3)])
    (column,) = made.columns(made.entries, kinds=("constant",))
    assert (column.spec.name, column.start, column.block.tolist()) == ("steps", 0, [[0], [1], [2]])


@pytest.mark.parametrize("stacked", [True, False])
def test_changed_values_are_found_before_the_first_column(tmp_path, stacked):
    made = written(tmp_path / "zoo", [network(seed) for seed in range(3)], stacked)
    path = made.file(made.entries[2].file)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last network's last tensor
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=r"net-002 .* is not the checkpoint of the manifest"):
        next(Zoo.open(made.path).columns(made.entries))


def test_what_was_found_sound_is_not_hashed_again(tmp_path, monkeypatch):
    made = written(tmp_path / "zoo", [network(seed) for seed in range(3)])
    opened, hashed = Zoo.open(made.path), []
    stored_hash = zoo.columns.stored_hash
    monkeypatch.setattr("zoo.columns.stored_hash", lambda *given: hashed.append(1) or stored_hash(*given))
    opened.load(made.entries[0])
    for _ in range(2):
        assert len(list(opened.columns(made.entries))) == 2
    assert len(hashed) == 2


def test_tied_tensors_that_differ_are_found(tmp_path):
    broken = network() | {"tied": network()["weight"] + 1}
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network())) as writer:
        writer.add("net-0", broken, seed=0, split="train")
        made = writer.finish()
    for _ in range(2):
        with pytest.raises(Corrupt, match="weight are tied but differ"):
            next(made.columns(made.entries))
    opened = Zoo.open(made.path)
    with pytest.raises(Corrupt, match="tied but differ"):
        opened.load(opened.entries[0])
    with pytest.raises(Corrupt, match="tied but differ"):  # its bytes have been hashed, and yet it is not sound
        next(opened.columns(opened.entries))


def damage_header(path: Path, change) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def set_offsets(first: int, last: int):
    return lambda header: header["weight"].update(data_offsets=[first, last])


@pytest.mark.parametrize(
    "change",
    [
        set_offsets(0, 119),
        set_offsets(-120, 0),
        set_offsets(8, 128),
        set_offsets(2**70, 2**70 + 120),
        lambda header: header["weight"].update(shape=[31]),
        lambda header: header["weight"].update(shape=[30, True]),
        lambda header: header["weight"].update(shape=[0, 2**63]),
        lambda header: header["weight"].update(dtype="F8_E5M2"),
        lambda header: header["weight"].pop("dtype"),
        lambda header: header.pop("weight"),
        lambda header: header.update(weight=[1]),
    ],
)
def test_a_damaged_header_is_corrupt_as_for_load(tmp_path, change):
    made = written(tmp_path / "zoo", [network()], stacked=False)
    damage_header(made.file(made.entries[0].file), change)
    with pytest.raises(Corrupt, match="whole safetensors"):
        next(made.columns(made.entries))
    with pytest.raises(Corrupt):
        Zoo.open(made.path).load(made.entries[0])


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 64, b"\x08" + bytes(7) + b"not JSON", b"\x02" + bytes(7) + b"[]"]
)
def test_files_that_are_no_safetensors_are_corrupt(tmp_path, content):
    made = written(tmp_path / "zoo", [network()])
    made.file(made.entries[0].file).write_bytes(content)
    with pytest.raises(Corrupt):
        next(made.columns(made.entries))


def test_truncated_missing_swapped_and_foreign_files_are_corrupt(tmp_path):
    made = written(tmp_path / "zoo", [network(0), network(1)], stacked=False)
    path, other = (made.file(entry.file) for entry in made.entries)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(Corrupt, match="its header says"):
        next(made.columns(made.entries))
    path.write_bytes(other.read_bytes())
    with pytest.raises(Corrupt, match=r"net-000 .* is not the checkpoint"):
        next(made.columns(made.entries))
    save_file({"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(Corrupt, match="does not fit the expected structure"):
        next(made.columns(made.entries))
    path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        next(made.columns(made.entries))


def test_a_row_that_is_not_there_is_corrupt(tmp_path):
    made = written(tmp_path / "zoo", [network()])
    with pytest.raises(Corrupt, match="no row 7"):
        next(made.columns([made.entries[0].model_copy(update={"row": 7})]))


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(tmp_path):
    made = written(tmp_path / "zoo", [network()], stacked=False)
    columns = made.columns(made.entries, values=30)
    path = made.file(made.entries[0].file)
    next(columns)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(Corrupt, match="it ends before byte"):
        next(columns)


def test_a_header_says_where_safetensors_finds_the_tensors(tmp_path):
    made = written(tmp_path / "zoo", [network(seed) for seed in range(3)])
    path = made.file(made.entries[0].file)
    content, header = path.read_bytes(), read_header(path)
    found = {name: content[t.offset : t.offset + t.nbytes] for name, t in header.items()}
    assert found == {name: raw(tensor) for name, tensor in load_file(path).items()}
