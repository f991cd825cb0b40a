"""Zoo -> the same networks with their units in one order, and back: `rpg-zoo align`.

Every network computes what it computed. The elements that took the networks there are kept in `alignment/`, with what
rounding took from their last bits, so that `unalign` gives the original bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from zoo.checkpoint import content_hash, load_tensors, save_tensors
from zoo.derive.alignment import AlignConfig, Alignment, solve
from zoo.errors import Corrupt, MissingData
from zoo.files import read_limited, write_bytes
from zoo.manifest import MANIFEST_BYTES, Entry, Origin, settings_of
from zoo.progress import progress
from zoo.store import Zoo, derivation
from zoo.structure import Structure
from zoo.symmetry.action import Element, Stack, act, inverse, taken
from zoo.symmetry.activations import Record
from zoo.symmetry.refine import Images
from zoo.symmetry.specification import Specification
from zoo.writer import STACK_ROWS, ZooWriter

DIRECTORY = "alignment"
REFINING = ".refining.safetensors"  # what an interrupted refinement goes on from
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


def align(
    config: AlignConfig,
    zoo: Zoo,
    specification: Specification,
    origin: Origin,
    path: Path,
    record: Record | None = None,
    images: Images | None = None,
) -> Zoo:
    """Make the aligned zoo at `path`, or continue it; ids, splits, seeds and metrics stay.

    `origin` says how it came about; parent and settings are filled in here. `record` is for `config.match` other than
    weights (zoo.symmetry.activations.recorder, of training images), `images` for `config.refine`. Raises what `solve`
    raises.
    """
    with _writer(zoo, origin, path, settings_of(config)) as writer:
        if writer.complete:
            return writer.finish()
        alignment, element = _solved(config, zoo, specification, path, record, images)
        with progress(f"aligning {zoo.path.name}", len(zoo.entries)) as bar:
            for number, block in enumerate(_blocks(zoo)):
                bits: dict[str, Tensor] = {}
                for k, (entry, weights) in enumerate(zip(block, zoo.checkpoints(block), strict=True)):
                    own = taken(element, torch.tensor([alignment.rows[entry.id]]))
                    moved, lost = _there(alignment.specification, zoo.structure, own, weights)
                    bits |= {f"{k}/{name}": tensor for name, tensor in lost.items()}
                    _add(writer, entry, moved)
                    bar.advance(1)
                save_tensors(path / DIRECTORY / f"bits-{number:05d}.safetensors", bits)
        (path / DIRECTORY / REFINING).unlink(missing_ok=True)
        return writer.finish(beside=[file for file in (path / DIRECTORY).iterdir() if not file.name.startswith(".")])


def unalign(zoo: Zoo, origin: Origin, path: Path) -> Zoo:
    """The zoo that was aligned, at `path`: every checkpoint with its original bytes.

    Raises MissingData when no alignment is beside this zoo, Corrupt when it does not lead to the originals.
    """
    alignment = read_alignment(zoo)
    element = load_tensors(zoo.file(f"{DIRECTORY}/elements.safetensors"))
    if unknown := [entry.id for entry in zoo.entries if entry.id not in alignment.rows]:
        raise Corrupt(f"{zoo.path}: its alignment says nothing of {unknown[0]}")
    places = {id: divmod(k, _block_size(zoo)) for k, id in enumerate(alignment.rows)}  # where networks stood then
    with _writer(zoo, origin, path, {"undo": True}) as writer:
        for number, members in groupby(zoo.entries, lambda entry: places[entry.id][0]):
            block = list(members)
            if all(entry.id in writer.done for entry in block):
                continue
            bits = load_tensors(zoo.file(f"{DIRECTORY}/bits-{number:05d}.safetensors"))
            for entry, weights in zip(block, zoo.checkpoints(block), strict=True):
                k, own = places[entry.id][1], taken(element, torch.tensor([alignment.rows[entry.id]]))
                lost = {name.partition("/")[2]: t for name, t in bits.items() if name.startswith(f"{k}/")}
                original = _back(alignment.specification, zoo.structure, own, weights, lost)
                if entry.parents != (content_hash(original),):
                    raise Corrupt(f"{zoo.path}: the alignment of {entry.id} does not lead back to the original")
                _add(writer, entry, original)
        return writer.finish()


def read_alignment(zoo: Zoo) -> Alignment:
    """What is kept beside an aligned zoo. Raises MissingData when it is not one."""
    place = zoo.path / DIRECTORY / "alignment.json"
    try:
        file = zoo.file(f"{DIRECTORY}/alignment.json")
    except MissingData:
        file = place
    if not file.is_file():
        raise MissingData(f"{zoo.path} is not aligned (no {place}); make an aligned zoo with `rpg-zoo align`")
    return Alignment.parse(read_limited(file, MANIFEST_BYTES), place)


def _writer(zoo: Zoo, origin: Origin, path: Path, settings: dict[str, JsonValue]) -> ZooWriter:
    """Where the derived zoo is written: its parent and settings make it what it is."""
    made_by = derivation(zoo, zoo.entries, "align", settings)
    made_by["settings"] = {"align": settings}  # of all splits
    return ZooWriter(path, origin.model_copy(update=made_by), zoo.structure, zoo.frozen())


def _solved(
    config: AlignConfig,
    zoo: Zoo,
    specification: Specification,
    path: Path,
    record: Record | None,
    images: Images | None,
) -> tuple[Alignment, Element]:
    """The alignment, from where an interrupted call has put it or solved now."""
    about, elements = (path / DIRECTORY / name for name in ("alignment.json", "elements.safetensors"))
    if about.is_file():  # written last
        alignment = Alignment.parse(read_limited(about, MANIFEST_BYTES), about)
        if (alignment.config, alignment.source, alignment.specification) == (config, zoo.sha256, specification):
            return alignment, load_tensors(elements)
    state = path / DIRECTORY / REFINING
    alignment, element = solve(config, zoo, specification, record, images, state)
    save_tensors(elements, element)
    write_bytes(about, alignment.to_json(indent=1).encode())
    return alignment, element


def _blocks(zoo: Zoo) -> list[tuple[Entry, ...]]:
    """Entries whose lost bits are kept in one file: as many as a stack holds, or one."""
    size = _block_size(zoo)
    return [zoo.entries[start : start + size] for start in range(0, len(zoo.entries), size)]


def _block_size(zoo: Zoo) -> int:
    return STACK_ROWS if zoo.entries[0].row is not None else 1


def _there(
    specification: Specification, structure: Structure, element: Element, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A network after the element, and what has to be added to the bits of the way back to get the original's."""
    moved = _acted(specification, structure, element, weights)
    back = _acted(specification, structure, inverse(specification, element), moved)
    lost = {}
    for spec in structure:
        if spec.tied_to is None and not torch.equal(_bits(back[spec.name]), _bits(weights[spec.name])):
            lost[spec.name] = _smallest(_bits(weights[spec.name]) - _bits(back[spec.name]))
    return moved, lost


def _back(
    specification: Specification,
    structure: Structure,
    element: Element,
    weights: Mapping[str, Tensor],
    lost: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    back = _acted(specification, structure, inverse(specification, element), weights)
    for spec in structure:
        if spec.tied_to is not None:
            back[spec.name] = back[spec.tied_to]
        elif spec.name in lost:
            bits = _bits(back[spec.name])
            back[spec.name] = (bits + lost[spec.name].to(bits.dtype)).view(back[spec.name].dtype)
    return back


def _acted(specification: Specification, structure: Structure, element: Element, weights: Stack) -> dict[str, Tensor]:
    """One network after the element; tied tensors stay one tensor."""
    moved = act(specification, element, {name: weights[name][None] for name in specification.tensors})
    return {spec.name: moved[spec.tied_to or spec.name][0] for spec in structure}


def _bits(tensor: Tensor) -> Tensor:
    """The tensor's bits as integers."""
    return tensor.contiguous().view({dtype.itemsize: dtype for dtype in INTEGERS}[tensor.dtype.itemsize])


def _smallest(numbers: Tensor) -> Tensor:
    """The same integers in the smallest type that holds them."""
    low, high = int(numbers.min()), int(numbers.max())
    fitting = (dtype for dtype in INTEGERS if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max)
    return numbers.to(next(fitting))


def _add(writer: ZooWriter, entry: Entry, tensors: Mapping[str, Tensor]) -> None:
    about = {"seed": entry.seed, "split": entry.split, "step": entry.step, "condition": entry.condition}
    writer.add(entry.id, tensors, metrics=list(entry.metrics.values()), parents=(entry.sha256,), **about)  # type: ignore[arg-type]  # each is what `add` takes
