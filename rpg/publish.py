"""Generators to and from the Hugging Face Hub: model repositories with the files of a run, not its training state."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rpg.run import Run
from zoo.files import write_bytes
from zoo.hub import client as hub
from zoo.hub.card import generator_card
from zoo.hub.licenses import license_for

LAST = "trained.json"


def push_run(run: Run, address: hub.Address, license: str | None, *, private: bool, dry_run: bool) -> dict[str, Any]:
    """Publish a trained run; what was sent, and by `dry_run` only what would be. Raises ValueError when no licence is
    known.
    """
    record = run.record()
    terms = license_for(record.origin, license)
    name, what = run.config().name, run.method().about.what
    card = generator_card(record.origin, name, what, run.facts, len(record.networks), address.repo_id, terms)
    with TemporaryDirectory() as place:
        readme = Path(place) / "README.md"
        write_bytes(readme, card.encode())
        files = {"README.md": readme} | {name: run.path / name for name in run.files}
        plan = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            return {"repo": address.repo_id, "files": plan, "bytes": sum(plan.values())}
        hub.check_card(card, "model")
        tag = f"generator-{run.sha256[:12]}"
        return hub.publish(address, files, LAST, "model", owned=(), private=private, tag=tag)


def fetch_run(address: hub.Address) -> Run:
    """A published run, its files not yet checked: in a directory of its own, since what huggingface_hub's cache holds
    are links, and a zoo of networks in a run is not read through links out of it.
    """
    pinned = hub.resolve(address, "model")
    assert pinned.revision
    run = Run(hub.downloads("generators") / pinned.revision)
    for name in (LAST, run.record_path.name):
        hub.fetch(pinned, name, "model", into=run.path)
    for _ in range(2):  # the manifest of networks that a run keeps names further files
        for name in run.files:
            hub.fetch(pinned, name, "model", into=run.path)
    return run
