"""Zoo and ZooWriter: what is written is read back exactly; damage is found; a kill anywhere is repaired."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import zoo.store
import zoo.writer
from evaluators.metrics import Metric
from killing import check_kills, content
from zoo.checkpoint import content_hash, load_tensors, save_tensors, take_row, write_tensors
from zoo.errors import Corrupt, Failed, MissingData
from zoo.formats.weights import read
from zoo.listing import derived_place
from zoo.manifest import Entry, Manifest, Origin
from zoo.store import Zoo
from zoo.structure import DTYPES, Structure
from zoo.writer import ZooWriter

ORIGIN = Origin(
    name="toy",
    kind="collected",
    task={"name": "toy"},
    settings={"zoo": {"epochs": 10}},
    command=("rpg-zoo", "collect"),
    versions={"torch": "1"},
)


def network(seed: int) -> dict[str, torch.Tensor]:
    """A state dict with everything that is awkward: ties, BatchNorm, scalars, empty, constant and non-float tensors."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return weights | {
        "scalar": torch.tensor(seed + 0.5),
        "empty": torch.zeros(0, 4),
        "half": torch.randn(5).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "index": torch.arange(4).reshape(2, 2),
        "flag": torch.tensor([True, False]),
        "constant": torch.full((7,), 3.0),
        "strided": torch.randn(4, 6).t(),
    }


def write(path, count=3, origin=ORIGIN):
    structure = Structure.of(network(0))
    with ZooWriter(path, origin, structure) as writer:
        for seed in range(count):
            metrics = [Metric("top1", 90.0 + seed, 100, 1.0)]
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train", step=seed, metrics=metrics)
        return writer.finish()


def write_in_pieces(path, count=3):
    structure = Structure.of(network(0))
    with ZooWriter(path, ORIGIN, structure) as writer:
        for seed in range(count):
            if f"net-{seed}" not in writer.done:
                with writer.adding(f"net-{seed}", seed=seed, split="train", parents=["a" * 64]) as file:
                    put_in_pieces(file, structure, network(seed))
        return writer.finish()


def put_in_pieces(file, structure, tensors):
    for spec in reversed([spec for spec in structure if spec.tied_to is None]):
        flat = tensors[spec.name].contiguous().reshape(-1)
        for start in range(0, len(flat), 4):
            file.put(spec.name, start, flat[start : start + 4])


@pytest.fixture(params=["stacked", "single"])
def storage(request, monkeypatch):
    if request.param == "single":
        monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    return request.param


def test_round_trip_of_every_dtype_tie_and_shape(tmp_path, storage):
    made = write(tmp_path / "zoo")
    assert made.structure == Structure.of(network(0))
    for seed, entry in enumerate(Zoo.open(tmp_path / "zoo").entries):
        loaded, expected = made.load(entry), network(seed)
        assert list(loaded) == list(expected)
        for name, tensor in expected.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
        assert loaded["2.weight"] is loaded["0.weight"]
        assert entry.sha256 == content_hash(expected)
        assert entry.metrics["top1"].value == 90.0 + seed
    assert list(made.problems()) == []
    assert {p.name for p in (tmp_path / "zoo").iterdir()} == {"manifest.json", "index.parquet", "checkpoints"}


def test_a_single_file_is_complete_for_plain_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    write(tmp_path / "zoo")
    loaded = load_file(tmp_path / "zoo/checkpoints/net-1.safetensors")
    assert {name: t.tolist() for name, t in loaded.items()} == {name: t.tolist() for name, t in network(1).items()}


def test_stacks_split_at_their_size_and_a_row_is_read_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.writer, "STACK_ROWS", 2)
    made = write(tmp_path / "zoo", count=5)
    places = [(f"checkpoints/stack-{i // 2:05d}.safetensors", i % 2) for i in range(5)]
    assert [(entry.file, entry.row) for entry in made.entries] == places
    assert torch.equal(made.load(made.entries[4])["double"], network(4)["double"])
    path = made.path / made.entries[0].file
    with pytest.raises(Corrupt, match="no row 9"):
        take_row(load_tensors(path), 9, path)


def test_the_index_lists_every_checkpoint(tmp_path):
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(write(tmp_path / "zoo").path / "index.parquet").to_pylist()
    assert [(row["id"], row["top1"], row["split"]) for row in rows] == [
        (f"net-{i}", 90.0 + i, "train") for i in range(3)
    ]


def test_order_of_arrival_does_not_matter(tmp_path):
    write(tmp_path / "a")
    with ZooWriter(tmp_path / "b", ORIGIN, Structure.of(network(0))) as writer:
        for seed in (2, 0, 1):
            metrics = [Metric("top1", 90.0 + seed, 100, 1.0)]
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train", step=seed, metrics=metrics)
        writer.finish()
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("write", [write, write_in_pieces])
def test_a_kill_before_any_disk_operation_is_repaired_to_the_same_bytes(tmp_path, storage, write):
    expected = content(write(tmp_path / "whole").path)
    assert check_kills(write, tmp_path, expected) > 10


def test_a_checkpoint_in_pieces_has_the_bytes_of_a_whole_one(tmp_path, storage):
    structure = Structure.of(network(0))
    with ZooWriter(tmp_path / "whole", ORIGIN, structure) as writer:
        for seed in range(3):
            writer.add(f"net-{seed}", network(seed), seed=seed, split="train", parents=["a" * 64])
        writer.finish()
    write_in_pieces(tmp_path / "pieces")
    assert content(tmp_path / "pieces") == content(tmp_path / "whole")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=8,
    )
)
def test_a_file_in_pieces_is_that_of_safetensors_for_any_names_and_dtypes(tmp_path_factory, plan):
    tensors = {name: torch.randint(0, 2, shape).to(DTYPES[dtype]) for name, (dtype, shape) in plan.items()}
    structure, place = Structure.of(tensors), tmp_path_factory.mktemp("pieces")
    save_tensors(place / "whole", tensors)
    with write_tensors(place / "pieces", structure) as file:
        put_in_pieces(file, structure, tensors)
        assert file.content_hash() == content_hash(tensors)
    assert (place / "pieces").read_bytes() == (place / "whole").read_bytes()


def test_a_failure_between_pieces_leaves_nothing_but_a_zoo_to_continue(tmp_path):
    def fail_between():
        with (
            ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer,
            writer.adding("net-0", seed=0, split="train") as file,
        ):
            file.put("scalar", 0, torch.ones(1))
            raise Failed("diverged")

    with pytest.raises(Failed, match="diverged"):
        fail_between()
    assert [path.name for path in (tmp_path / "zoo").rglob("*") if path.is_file()] == ["journal.jsonl"]
    write_in_pieces(tmp_path / "zoo")


def test_an_unfinished_zoo_is_not_opened(tmp_path):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        writer.add("net-0", network(0), seed=0, split="train")
    with pytest.raises(MissingData, match="not finished"):
        Zoo.open(tmp_path / "zoo")
    with pytest.raises(MissingData, match="no zoo at"):
        Zoo.open(tmp_path / "nowhere")


def test_another_recipe_or_foreign_files_are_never_overwritten(tmp_path):
    made = write(tmp_path / "zoo")
    before = content(made.path)
    other = ORIGIN.model_copy(update={"settings": {"zoo": {"epochs": 5}}})
    with pytest.raises(ValueError, match=r"holds another zoo: zoo\.epochs 10 -> 5; choose another place with --out"):
        write(tmp_path / "zoo", origin=other)
    assert content(made.path) == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a zoo"):
        write(tmp_path / "home")
    assert content(tmp_path / "home") == {"thesis.txt": b"mine"}


def test_a_checkpoint_of_another_structure_is_refused_and_the_zoo_goes_on(tmp_path):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        wrong = network(0) | {"scalar": torch.zeros(2)}
        with pytest.raises(ValueError, match=r"net-0 does not fit.*scalar float32\[\], found scalar float32\[2\]"):
            writer.add("net-0", wrong, seed=0, split="train")
        writer.add("net-0", network(0), seed=0, split="train")
        assert len(writer.finish().entries) == 1


def test_a_full_disk_keeps_what_was_finished(tmp_path, monkeypatch):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        writer.add("net-0", network(0), seed=0, split="train")
        with monkeypatch.context() as patch:

            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", full)
            with pytest.raises(Failed, match="No space left"):
                writer.add("net-1", network(1), seed=1, split="train")
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        assert list(writer.done) == ["net-0"]
        writer.add("net-1", network(1), seed=1, split="train")
        assert list(writer.finish().problems()) == []


@pytest.mark.parametrize("offset", [0, 9, 300, -1])
def test_every_flipped_bit_is_found(tmp_path, storage, offset):
    made = write(tmp_path / "zoo")
    path = made.path / made.entries[0].file
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert any("has changed" in problem for problem in made.problems())


def test_truncated_missing_swapped_and_extra_files_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    made = write(tmp_path / "zoo")
    files = [made.path / entry.file for entry in made.entries]
    a, b = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(b)
    files[1].write_bytes(a)
    with pytest.raises(Corrupt, match=r"net-0 .* is not the checkpoint of the manifest"):
        made.load(made.entries[0])
    files[1].write_bytes(b[: len(b) // 2])
    with pytest.raises(Corrupt, match="not a whole safetensors file"):
        made.load(made.entries[1])
    files[2].unlink()
    with pytest.raises(Corrupt, match="missing"):
        made.load(made.entries[2])
    (made.path / "checkpoints" / "extra").write_bytes(b"")
    problems = "\n".join(made.problems())
    assert "net-1.safetensors has" in problems
    assert "net-2.safetensors is missing" in problems
    assert "extra is not in the manifest" in problems


def test_swapped_rows_of_a_stack_are_found(tmp_path):
    made = write(tmp_path / "zoo")
    path = made.path / made.entries[0].file
    save_tensors(path, {name: tensor.flip(0) for name, tensor in load_file(path).items()})
    assert torch.equal(made.load(made.entries[1])["double"], network(1)["double"])
    with pytest.raises(Corrupt, match="is not the checkpoint"):
        made.load(made.entries[0])


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../b", "a//b", "./a", "a\\b", "C:evil", "a\nb", ""])
def test_names_that_leave_the_directory_are_refused(tmp_path, name):
    manifest = json.loads((write(tmp_path / "zoo").path / "manifest.json").read_text())
    manifest["entries"][0]["file"] = name
    manifest["files"][name] = manifest["files"]["index.parquet"]
    with pytest.raises(Corrupt, match="damaged or not a Manifest"):
        Manifest.parse(json.dumps(manifest), "manifest.json")


def test_a_link_out_of_the_zoo_is_not_followed(tmp_path):
    made = write(tmp_path / "zoo")
    path = made.path / made.entries[0].file
    outside = tmp_path / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(Corrupt, match="points outside"):
        made.load(made.entries[0])
    assert any("points outside" in problem for problem in made.problems())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 2}'])
def test_a_damaged_manifest_is_one_clear_error(tmp_path, text):
    made = write(tmp_path / "zoo")
    (made.path / "manifest.json").write_bytes(text)
    with pytest.raises(Corrupt, match=r"manifest\.json is damaged"):
        Zoo.open(made.path)


def test_a_path_is_a_place_and_a_plain_text_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual, here = write(Path("zoos/mine"), count=2), write(Path("mine"), count=3)
    assert len(here) == 3  # what was written, not what has the same name
    assert Zoo.open("mine").path == usual.path
    assert [len(Zoo.open(place)) for place in ("./mine", Path("mine"), Path("zoos/mine"))] == [3, 3, 2]


def test_a_linked_zoo_has_the_name_of_its_link(tmp_path, monkeypatch):
    """So that scores and what is derived from it are found beside the link."""
    write(tmp_path / "shared/other")
    (tmp_path / "zoos").mkdir()
    (tmp_path / "zoos/mine").symlink_to(tmp_path / "shared/other")
    zoo = Zoo.open(tmp_path / "zoos/mine")
    assert zoo.name == "mine"
    assert derived_place("mine", zoo, "soup", None) == tmp_path / "zoos/mine-soup"
    monkeypatch.chdir(tmp_path / "zoos/mine")
    assert Zoo.open(".").name == "other"  # where the process is has one name


def test_frozen_tensors_that_are_missing_are_a_problem(tmp_path):
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"frozen": "a" * 64}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert [problem for problem in Zoo.open(tmp_path).problems() if "frozen.safetensors" in problem]


@pytest.mark.parametrize("name", ["manifest.json", "journal.jsonl", "pull.json", ".cache/a"])
def test_files_of_a_zoo_do_not_take_the_names_that_say_how_far_it_is_made(tmp_path, name):
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": "a" * 64}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match=f"cannot be called {name}"):
        Zoo.open(tmp_path)


def test_selecting_a_split_that_is_not_there_names_those_that_are(tmp_path):
    made = write(tmp_path / "zoo")
    assert len(made.select("train")) == 3
    with pytest.raises(ValueError, match=r"it has train"):
        made.select("heldout")
    with pytest.raises(ValueError, match=r"no checkpoint 'x'"):
        made.entry("x")


def test_tied_tensors_that_differ_are_corrupt(tmp_path):
    weights = network(0)
    weights["2.weight"] = weights["2.weight"].clone() + 1
    structure = Structure.of(network(0))
    with ZooWriter(tmp_path / "zoo", ORIGIN, structure) as writer:
        writer.add("net-0", weights, seed=0, split="train")
        made = writer.finish()
    with pytest.raises(Corrupt, match="tied but differ"):
        made.load(made.entries[0])


def test_foreign_files_never_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Corrupt, match="needs more than tensors"):
        read(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "fine.pth")
    assert torch.equal(read(tmp_path / "fine.pth").tensors["a"], torch.ones(2))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a state dict"):
        read(tmp_path / "list.pth")


def test_entries_and_manifests_round_trip_as_json(tmp_path):
    made = write(tmp_path / "zoo")
    assert Manifest.from_json(made.manifest.to_json()) == made.manifest
    assert Entry.from_json(made.entries[0].to_json()) == made.entries[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_an_unfinished_zoo_is_found_before_it_is_sealed(tmp_path, storage, damage):
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer:
        entry = writer.add("net-0", network(0), seed=0, split="train")
        part = writer._part(entry.id)
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    if damage == "remove":
        part.unlink()
    else:
        part.write_bytes(data if damage == "flip" else data[:-9])
    with pytest.raises(Corrupt, match=r"remove .*zoo and start again|not a whole safetensors"):
        write(tmp_path / "zoo")


def test_a_zoo_needs_a_checkpoint(tmp_path):
    with (
        ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(network(0))) as writer,
        pytest.raises(ValueError, match="no checkpoints yet"),
    ):
        writer.finish()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02", b"PK\x03\x04"])
def test_foreign_files_that_are_no_checkpoints_are_corrupt(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(Corrupt, match=r"damaged|empty"):
        read(tmp_path / "x.pth")


def test_foreign_content_that_is_no_state_dict_is_refused(tmp_path):
    for odd in ({1: torch.ones(1)}, {"a": torch.ones(2).to_sparse()}, {"a": 3}):
        torch.save(odd, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="expected a state dict"):
            read(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="dtype complex64; expected one of"):
        Structure.of({"a": torch.ones(1, dtype=torch.complex64)})


@pytest.mark.parametrize("threads_from", [0, 10**9])
def test_iterating_gives_every_checkpoint_in_order_and_hashes_each_once(tmp_path, storage, monkeypatch, threads_from):
    monkeypatch.setattr(zoo.store, "READ_AHEAD_FROM", threads_from)
    write(tmp_path / "zoo", count=5)
    made = Zoo.open(tmp_path / "zoo")
    hashed = []
    monkeypatch.setattr(zoo.store, "content_hash", lambda tensors: hashed.append(tensors) or content_hash(tensors))
    order = [made.entries[i] for i in (4, 0, 3, 1, 2, 0)]
    for _ in range(2):
        found = list(made.checkpoints(order))
        for entry, weights in zip(order, found, strict=True):
            expected = network(int(entry.id.removeprefix("net-")))
            assert list(weights) == list(expected)
            assert content_hash(weights) == entry.sha256
        assert len(hashed) == 5
    made.load(order[0])
    assert len(hashed) == 6  # loading one always checks it


@pytest.mark.parametrize("threads_from", [0, 10**9])
def test_iterating_stops_at_the_damaged_checkpoint(tmp_path, monkeypatch, threads_from):
    monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    monkeypatch.setattr(zoo.store, "READ_AHEAD_FROM", threads_from)
    made = write(tmp_path / "zoo", count=5)
    path = made.path / made.entries[3].file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    seen = []
    with pytest.raises(Corrupt, match=r"net-3 .* is not the checkpoint of the manifest"):
        seen.extend(weights for weights in made.checkpoints(made.entries))
    assert len(seen) == 3
