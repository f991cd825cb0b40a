"""What lies in a working directory: zoos, runs, scores, reports."""

from __future__ import annotations

from pathlib import Path

from rpg.reports.inputs import REPORT
from rpg.run import Run
from zoo.errors import Corrupt, MissingData, brief
from zoo.files import parse_json, read_limited
from zoo.manifest import MANIFEST_BYTES, Origin
from zoo.scoring import Score, read_scores, scores_among, summaries
from zoo.store import Zoo
from zoo.table import Record


def listing(place: Path) -> list[Record]:
    """A row per artefact: what it is, where, by which method, of how many networks, its size in bytes and its main
    score, a mean over networks. One that is damaged or unfinished is listed as such.
    """
    rows = []
    for what, kind, files, describe in (
        ("zoos", "zoo", ("manifest.json", "journal.jsonl"), _zoo),
        ("runs", "run", ("run.json",), _run),
        ("scores", "scores", ("scores.jsonl",), _scores),
        ("reports", "report", (REPORT,), _report),
    ):
        for path in sorted({file.parent for name in files for file in (place / what).glob(f"*/{name}")}):
            row: Record = {"what": kind, "name": path.name}
            try:
                row |= describe(path)
            except (Corrupt, MissingData, ValueError, OSError) as error:
                row["state"] = brief(error)
            rows.append(row | {"bytes": _size(path)})
    return rows


def _zoo(path: Path) -> Record:
    if not (path / "manifest.json").is_file():
        return {"state": "unfinished"}
    zoo = Zoo.open(path)
    origin = zoo.manifest.origin
    return {"kind": origin.kind, "task": origin.family, "method": method_name(origin), "networks": len(zoo)}


def _run(path: Path) -> Record:
    run = Run(path)
    record = run.record()
    row: Record = {"task": record.origin.family, "method": method_name(record.origin), "networks": len(record.networks)}
    return row if run.trained else row | {"state": "unfinished"}


def _scores(path: Path) -> Record:
    """Of the zoo that the scores are called after, where it is there."""
    scores = own_scores(path)
    if not scores:
        return {"state": "empty"}
    name, summary = next(iter(summaries(scores).items()), (None, None))
    row: Record = {"networks": len(scores)}
    return row if summary is None else row | {"score": f"{name} {summary.mean:.2f}"}


def own_scores(path: Path) -> list[Score]:
    """Of scores/NAME, which may hold those of originals and baselines, too, and of several protocols, the comparable
    ones of zoos/NAME; where that is not there, all under the last evaluator and protocol.
    """
    scores, zoo = read_scores(path), path.parent.parent / "zoos" / path.name
    if not scores:
        return []
    if (zoo / "manifest.json").is_file():
        return scores_among(scores, Zoo.open(zoo).entries)
    last = scores[-1]
    return [score for score in scores if (score.evaluator, score.protocol) == (last.evaluator, last.protocol)]


def _report(path: Path) -> Record:
    found = parse_json(read_limited(path / REPORT, MANIFEST_BYTES), path / REPORT)
    groups = found.get("groups") if isinstance(found, dict) else None
    if not isinstance(groups, list):
        raise Corrupt(f"{path / REPORT} is not a report of ours")
    generated = [g.get("name") for g in groups if isinstance(g, dict) and g.get("kind") == "generated"]
    return {"task": str(found.get("originals", "")), "method": ", ".join(map(str, generated)) or None}


def method_name(origin: Origin) -> str | None:
    """The method that made an artefact, if one did."""
    method = origin.settings.get("method")
    return str(method.get("name")) if isinstance(method, dict) else None


def _size(path: Path) -> int | None:
    """Of all files; None where some may not be looked at."""
    try:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError:
        return None
