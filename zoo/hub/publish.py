"""Zoos to and from the Hugging Face Hub, as dataset repositories laid out like the zoo's directory plus a card.

A pull of everything gives the same bytes. A pull of a selection is a zoo of its own: the same checkpoints under the
same ids and hashes, newly stacked, whose origin names the parent's manifest in `parents` and what was selected in
`settings`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.errors import Corrupt, suggest
from zoo.files import read_limited, sha256_file, unwritable_is_failed, write_bytes
from zoo.formats.exporting import FORMATS, export_checkpoint
from zoo.formats.sources import SOURCES, Sources
from zoo.hub import client as hub
from zoo.hub.card import checkpoint_card, read_plots, zoo_card
from zoo.hub.licenses import license_for
from zoo.manifest import MANIFEST_BYTES, Entry, Manifest, Sha256
from zoo.recipe import task_of
from zoo.scoring import Score, read_scores, scores_among
from zoo.store import FROZEN, Zoo
from zoo.structure import Frozen
from zoo.writer import ZooWriter

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
OWNED = ("checkpoints/", "plots/", FROZEN, SOURCES)  # what an older zoo may have left in the repository
PULL = "pull.json"
SELECTABLE = ("id", "file", "row", "sha256", "seed", "step", "split", "condition")


def push_zoo(
    zoo: Zoo,
    address: hub.Address,
    license: str | None,
    scores: Path | None,
    report: Path | None,
    *,
    private: bool,
    dry_run: bool,
) -> dict[str, Any]:
    """Publish a zoo; what was sent, and by `dry_run` only what would be. Raises ValueError when no licence is known,
    Corrupt when the zoo is not sound.
    """
    with TemporaryDirectory() as place:
        files = {name: zoo.path / name for name in zoo.manifest.files}
        terms = license_for(zoo.manifest.origin, license)
        files |= write_card(zoo, address, terms, scores, report, Path(place))
        files[MANIFEST] = zoo.path / MANIFEST
        plan = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            skipped = zoo.unlisted()
            return {"repo": address.repo_id, "files": plan, "bytes": sum(plan.values()), "skipped": skipped}
        if problem := next(chain(zoo.problems(), Sources.problems(zoo)), None):
            raise Corrupt(f"{problem}; a zoo is published when `rpg-zoo verify {zoo.path}` finds it sound")
        hub.check_card(files["README.md"].read_text(encoding="utf-8"), "dataset")
        tag = f"zoo-{zoo.sha256[:12]}"
        return hub.publish(address, files, MANIFEST, "dataset", owned=OWNED, private=private, tag=tag)


def write_card(
    zoo: Zoo, address: hub.Address, terms: str, scores: Path | None, report: Path | None, place: Path
) -> dict[str, Path]:
    """Write README.md, with these terms as the licence, and the plots of a report into `place`; their paths by name in
    the repository. Scores are those of the directory `scores`, or of scores/<zoo> if it has them.
    """
    files, shown = {}, {}
    for number, (alt, svg) in enumerate(read_plots(report) if report else [], 1):
        name = f"plots/plot-{number}.svg"
        files[name], shown[name] = place / name, alt
        write_bytes(place / name, svg)
    text = report / "report.md" if report else None
    if text is not None and not text.is_file():
        raise ValueError(f"--report {report} has no report.md; `rpg report` writes one")
    body = text.read_text(encoding="utf-8") if text else ""
    card = zoo_card(zoo, address.repo_id, terms, _scores(zoo, scores), body, shown)
    write_bytes(place / "README.md", card.encode())
    return files | {"README.md": place / "README.md"}


def _scores(zoo: Zoo, given: Path | None) -> list[Score] | None:
    """The scores for the card: of all networks, or none. Raises ValueError where a place was given that lacks some."""
    place = given or Path("scores") / zoo.name
    found = scores_among(read_scores(place), zoo.entries)
    if len(found) == len(zoo):
        return found
    lacking = f"{place} has scores of {len(found)} of {len(zoo)} checkpoints"
    if given:
        raise ValueError(f"--scores {lacking}; expected all, as `rpg-zoo score {zoo.path} --out {place}` makes them")
    if found:
        log.warning(f"{lacking}: the card is without them; `rpg-zoo score {zoo.path}` makes the rest")
    return None


def push_checkpoint(
    zoo: Zoo,
    id: str,
    address: hub.Address,
    license: str | None,
    *,
    private: bool,
    dry_run: bool,
) -> dict[str, Any]:
    """Publish one checkpoint as a model repository in the format of its networks' library: what
    `timm.create_model("hf-hub:...")` or `PeftModel.from_pretrained` load, or a file for mmseg or detectron2, or of
    networks of no library.
    """
    entry, terms = zoo.entry(id), license_for(zoo.manifest.origin, license)
    library = task_of(zoo.manifest.origin).native() or "safetensors"
    how = FORMATS[library]
    with TemporaryDirectory() as place:
        folder = Path(place) / "model"
        last = how.config or f"model{how.ending}"
        export_checkpoint(zoo, entry, library, folder if how.config else folder / last)
        card = checkpoint_card(zoo, id, address.repo_id, terms, library, last)
        write_bytes(folder / "README.md", card.encode())
        files = {path.name: path for path in sorted(folder.iterdir())}
        plan = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            return {"repo": address.repo_id, "files": plan, "bytes": sum(plan.values())}
        hub.check_card(card, "model")
        tag = f"weights-{entry.sha256[:12]}"
        return hub.publish(address, files, last, "model", owned=(), private=private, tag=tag)


class Pull(Frozen):
    """`pull.json`: which commit of what is being pulled into a directory, and the branch or tag that was asked for;
    gone when it is a zoo.
    """

    repo: str
    commit: str
    revision: str | None = None
    manifest: Sha256


def pull_zoo(address: hub.Address, out: Path, select: str | None, ids: Collection[str]) -> Zoo:
    """A published zoo, or the checkpoints that `select` and `ids` choose, at `out`; continues after an interruption.

    Every file and checkpoint is checked against the manifest's hashes. Raises ValueError when `out` holds something
    else or nothing is selected.
    """
    if select is None and not ids:
        return _pull_whole(address, out)
    remote = Zoo.open(str(address))
    entries = selected(remote, address, select, ids)
    origin = remote.manifest.origin
    selection = {"selected": select or "", "ids": sorted(ids)}
    origin = origin.model_copy(
        update={
            "parents": (*origin.parents, remote.sha256),
            "settings": origin.settings | {"selection": selection},
        }
    )
    log.info("pulling %s of %s checkpoints of %s into %s", len(entries), len(remote.entries), address, out)
    with ZooWriter(out, origin, remote.structure, remote.frozen()) as writer:
        left = [entry for entry in entries if entry.id not in writer.done]
        for entry, tensors in zip(left, remote.checkpoints(left), strict=True):
            writer.add(
                entry.id,
                tensors,
                seed=entry.seed,
                split=entry.split,
                step=entry.step,
                condition=entry.condition,
                metrics=list(entry.metrics.values()),
                parents=entry.parents,
            )
        sources = Sources.of(remote)
        extra = {SOURCES: sources.only({entry.id for entry in entries}).to_bytes()} if sources else None
        return writer.finish(extra)


def selected(remote: Zoo, address: hub.Address, select: str | None, ids: Collection[str]) -> list[Entry]:
    """The checkpoints of a published zoo that `select` and `ids` choose; all, if these choose nothing. Raises
    ValueError when they choose what is not there.
    """
    keep = parse_selection(select) if select else lambda entry: True
    entries = [entry for entry in remote.entries if keep(entry) and (not ids or entry.id in ids)]
    if unknown := sorted(set(ids) - {entry.id for entry in remote.entries}):
        raise ValueError(f"{address} has no checkpoint {unknown[0]!r}; `rpg-zoo ls {address}` lists them")
    if not entries:
        raise ValueError(f"nothing in {address} is selected by {select}; `rpg-zoo ls {address}` lists what there is")
    return entries


def _pull_whole(address: hub.Address, out: Path) -> Zoo:
    """The zoo's files as they are, the manifest last."""
    there = out / PULL
    if there.is_file():  # the commit that was begun with, though the repository may have moved on
        begun = Pull.parse(read_limited(there, MANIFEST_BYTES), there)
        if begun.repo != address.repo_id or address.revision not in (None, begun.commit, begun.revision):
            raise ValueError(f"{out} is a pull of {begun.repo} begun earlier; choose another place with --out")
        address, asked = hub.Address(begun.repo, begun.commit), begun.revision
    else:
        address, asked = hub.resolve(address, "dataset"), address.revision
    source = hub.fetch(address, MANIFEST, "dataset")
    data = read_limited(source, MANIFEST_BYTES)
    sha256 = hashlib.sha256(data).hexdigest()
    other = (out / MANIFEST).is_file() and sha256_file(out / MANIFEST) != sha256
    if other or _is_foreign(out):
        raise ValueError(f"{out} exists and holds something else; choose another place with --out")
    assert address.revision
    manifest = Manifest.parse(data, source)
    begun = Pull(repo=address.repo_id, commit=address.revision, revision=asked, manifest=sha256)
    write_bytes(there, begun.to_json(indent=1).encode())
    log.info("pulling %s checkpoints of %s into %s", len(manifest.entries), address.repo_id, out)
    for name, record in manifest.files.items():
        path = out / name
        if record.problem(path) is None:
            continue
        with unwritable_is_failed(path):
            path.unlink(missing_ok=True)
        hub.fetch(address, name, "dataset", into=out)
        if problem := record.problem(path):
            path.unlink(missing_ok=True)
            raise Corrupt(f"{problem}: the repository {address} does not hold what its manifest says")
    zoo = Zoo(out, manifest, manifest.identity_of(data))
    if problem := next(chain(zoo.damage(), Sources.problems(zoo)), None):
        raise Corrupt(f"{problem}: the repository {address} does not hold a sound zoo")
    write_bytes(out / MANIFEST, data)
    hub.forget_downloads(out)
    there.unlink()
    return zoo


def _is_foreign(out: Path) -> bool:
    """Whether a directory holds things and is neither a zoo nor a pull that was begun."""
    begun = any((out / name).exists() for name in (MANIFEST, PULL))
    return out.exists() and not begun and (not out.is_dir() or any(not _is_ours(path) for path in out.iterdir()))


def _is_ours(path: Path) -> bool:
    return path.name == f".{PULL}.tmp"


def parse_selection(text: str) -> Callable[[Entry], bool]:
    """A test of entries out of `field==value` and `field!=value` joined by `and`; values compare as text, `none` is an
    empty field. Raises ValueError for anything else.
    """
    terms = []
    for term in text.split(" and "):
        operator = "!=" if "!=" in term else "=="
        field, found, value = (part.strip() for part in term.partition(operator))
        if not found or not field or not value or "=" in value:
            raise ValueError(f"--select {text!r} is not understood; expected as in 'split==unseen and seed!=3'")
        if field not in SELECTABLE:
            raise ValueError(f"--select {text!r}: checkpoints have no field {field!r}{suggest(field, SELECTABLE)}")
        terms.append((field, operator == "==", value.strip("'\"")))

    def keep(entry: Entry) -> bool:
        return all((_text(getattr(entry, field)) == value) == equal for field, equal, value in terms)

    return keep


def _text(value: object) -> str:
    return "none" if value is None else str(value)
