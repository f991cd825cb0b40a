"""The pages of a zoo: its checkpoints, and a checkpoint's tensors and neighbours."""

from __future__ import annotations

from functools import partial

import numpy as np

from rpg.board.pages import TOP, lineage
from rpg.board.plots import heat_plot, histogram_plot
from rpg.board.shelf import Shelf, Unknown
from rpg.board.tensors import distances_to, summarize_tensor, values_to_read
from rpg.board.view import Links, Part, Press, View, address, listed
from zoo.errors import brief
from zoo.listing import checkpoints_table, imported_files, zoo_line
from zoo.manifest import Entry
from zoo.store import Zoo
from zoo.structure import TensorSpec
from zoo.table import Record

NEIGHBOURS = 10
VALUES_AT_ONCE = 2**27  # read for neighbours unasked: about a second


def zoo_page(shelf: Shelf, name: str, search: str) -> View:
    """A zoo: what it is, its parents, its checkpoints."""
    zoo = shelf.zoo(name)
    origin = zoo.manifest.origin
    table = checkpoints_table(zoo.entries, imported_files(zoo))
    rows: list[tuple[Record, Links]] = [
        (record, {"id": address("zoos", name, str(record["id"]))}) for record in table.to_json()
    ]
    checkpoints, note = listed(rows, search, table.digits)
    about = [
        ("kind", origin.kind),
        ("task", origin.family),
        ("content", zoo_line(zoo)),
        ("command", " ".join(origin.command)),
        ("manifest", f"{zoo.sha256[:12]}, manifest.json"),
    ]
    places = {"manifest": address("files", "zoos", name, "manifest.json")}
    parts = [
        Part("What it is", about, places),
        lineage(shelf, "zoo", name),
        Part("Checkpoints", text=[note], tables=[checkpoints]),
        Part("Tensors", tables=[listed([(_spec(spec), {}) for spec in zoo.structure])[0]]),
        Part("Task and settings", code=origin.recipe_text()),
    ]
    return View(name, "zoo", parts, [TOP], search=search)


def _spec(spec: TensorSpec) -> Record:
    shape = " × ".join(map(str, spec.shape)) or "one value"
    found: Record = {"tensor": spec.name, "shape": shape, "values": spec.numel, "dtype": spec.dtype}
    return found | {"kind": spec.kind if spec.tied_to is None else f"tied to {spec.tied_to}"}


def _entry(zoo: Zoo, id: str) -> Entry:
    found = next((entry for entry in zoo.entries if entry.id == id), None)
    if found is None:
        raise Unknown(f"no checkpoint of that name in {zoo.path.name}")
    return found


def checkpoint_page(shelf: Shelf, name: str, id: str, asked: bool) -> View:
    """A checkpoint: its record, the networks nearest to it (`asked`: however long that takes), its tensors."""
    zoo = shelf.zoo(name)
    entry = _entry(zoo, id)
    about = [("split", entry.split), ("seed", str(entry.seed)), ("step", str(entry.step)), ("file", entry.file)]
    about += [("task", entry.condition)] if entry.condition is not None else []
    about += [(m.name, f"{m.value:.3f} ± {m.stderr:.3f}, of {m.n} samples") for m in entry.metrics.values()]
    rows: list[tuple[Record, Links]] = [
        (_spec(spec), {"tensor": address("zoos", name, id, "tensor", name=spec.name)}) for spec in zoo.structure
    ]
    parts = [
        Part("What it is", about),
        *_neighbours(shelf, zoo, entry, asked),
        Part("Tensors", tables=[listed(rows)[0]]),
    ]
    return View(id, "checkpoint", parts, [TOP, (name, address("zoos", name))])


def _neighbours(shelf: Shelf, zoo: Zoo, entry: Entry, asked: bool) -> list[Part]:
    """The nearest networks of its own zoo, and of those that it was learnt from."""
    own = [other for other in zoo.entries if other.id != entry.id]
    found = [_nearest("Nearest in its own zoo", zoo, entry, zoo, own, asked)] if own else []
    source = zoo.manifest.origin.source
    if source is None:
        return found
    for item in shelf.kin("zoo", zoo.path.name).parents:
        if item.kind == "zoo" and source.zoo in item.known_by:
            parent = shelf.zoo(item.name)
            title = f"Nearest in {item.name}, split {source.split}, which it was learnt from"
            found.append(_nearest(title, zoo, entry, parent, parent.select(source.split), asked))
    return found


def _nearest(title: str, zoo: Zoo, entry: Entry, source: Zoo, others: list[Entry], asked: bool) -> Part:
    values = values_to_read(others, zoo)
    if values > VALUES_AT_ONCE and not asked:
        place = address("zoos", zoo.path.name, entry.id, neighbours="measured")
        return Part(
            title, [("not measured yet", f"measure, which reads {values:,} values")], {"not measured yet": place}
        )
    try:
        distances = distances_to(zoo, entry, source, others)
    except ValueError as error:
        return Part(title, text=[f"They cannot be compared: {brief(error)}"])
    if not np.isfinite(distances).all():
        return Part(title, text=["Some of these networks, or this one, hold values that are not finite."])
    order = np.argsort(distances, kind="stable")[:NEIGHBOURS]
    rows: list[tuple[Record, Links]] = []
    for k in order:
        one = others[k]
        record: Record = {"network": one.id, "distance": float(distances[k]), "split": one.split, "seed": one.seed}
        rows.append((record, {"network": address("zoos", source.path.name, one.id)}))
    text = [f"Euclidean distance of all weights, to the nearest of {len(others)} networks first."]
    first = others[int(order[0])]
    rest = [other for other in others if other.id != first.id]
    if source is not zoo and rest:
        apart = float(distances_to(source, first, source, rest).min())
        text.append(f"For comparison: {first.id} is at {apart:.4g} from the nearest of the others there.")
    return Part(title, text=text, tables=[listed(rows, digits={"distance": 4})[0]])


def tensor_page(shelf: Shelf, press: Press, name: str, id: str, tensor: str) -> View:
    """A tensor of a checkpoint: its numbers, histogram and heat map."""
    zoo = shelf.zoo(name)
    entry = _entry(zoo, id)
    spec = next((spec for spec in zoo.structure if spec.name == tensor), None)
    if spec is None:
        raise Unknown(f"no tensor of that name in {zoo.path.name}")
    trail = [TOP, (name, address("zoos", name)), (id, address("zoos", name, id))]
    about = [(key, str(value)) for key, value in _spec(spec).items() if key != "tensor"]
    try:
        found = summarize_tensor(zoo.load(entry)[tensor])
    except ValueError as error:
        return View(tensor, "tensor", [Part("What it is", about, text=[brief(error).capitalize() + "."])], trail)
    about += [(key, f"{value:.6g}") for key, value in (("mean", found.mean), ("standard deviation", found.std),
                                                      ("lowest", found.low), ("highest", found.high))]  # fmt: skip
    about += [("not finite", f"{found.not_finite} values, left out")] if found.not_finite else []
    rows, columns = found.cells.shape
    heat = f"First axis down, all others across, in {rows} × {columns} cells; each is the mean of its values."
    drawings = [
        (press.draw(partial(histogram_plot, tensor, found)), "The dashed line is the mean."),
        (press.draw(partial(heat_plot, tensor, found)), heat),
    ]
    return View(tensor, "tensor", [Part("What it is", about), Part("Values", drawings=drawings)], trail)
