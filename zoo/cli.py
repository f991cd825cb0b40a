"""`rpg-zoo`: make, import, look at, check, score and perturb zoos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.derive.command  # whose commands are the program's, too
import zoo.fetch.command  # noqa: F401
from zoo import cli_options as given
from zoo.command_help import DERIVE, LOOK, MAKE, SHARE, examples
from zoo.console import command_line, describe_push, emit, plain, run_cli, say, say_next
from zoo.options import DataRoot, Device, DryRun, Import, Json, Out, Precision, Set
from zoo.program import app


@app.command(rich_help_panel=MAKE, epilog=examples("rpg-zoo recipes"))
def recipes(as_json: Json = False) -> None:
    """List the recipes that come with the package: their networks, what they take, which scores to expect."""
    from zoo.listing import recipes_found, recipes_table

    found = recipes_found()
    emit({"recipes": found}, as_json, recipes_table(found).text())


@app.command(rich_help_panel=MAKE, epilog=examples("rpg-zoo collect digits --set zoo.checkpoints=20 --dry-run"))
def collect(
    recipes: given.RecipeNames,
    overrides: Set = [],  # noqa: B006  # typer reads the default, nobody writes to it
    out: Out = None,
    workers: given.Workers = None,
    engine: given.Engine = "local",
    data_root: DataRoot = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train networks and save their weights as a zoo. Run it again to continue after an interruption.

    With several recipes, --set applies to each of them and --out is the directory of their zoos. Workers are one with
    --engine local, and as many as the cluster has GPUs (or CPUs) with --engine ray.
    """
    from zoo.api import collection
    from zoo.listing import describe
    from zoo.recipe import load_recipe
    from zoo.training.collect import jobs
    from zoo.training.engines import collect_zoos

    loaded = [load_recipe(name, overrides) for name in recipes]
    places = [out if out and len(loaded) == 1 else (out or Path("zoos")) / recipe.name for recipe in loaded]
    if len(set(places)) < len(places):
        raise ValueError(f"got {', '.join(map(str, places))} as places to collect into; expected each recipe once")
    command = command_line("rpg-zoo")
    plans = [collection(recipe, command, place) for recipe, place in zip(loaded, places, strict=True)]
    counts = [len(jobs(plan.config, plan.task.conditions())) for plan in plans]
    runs = sum(counts)
    if workers and workers > runs:
        say(f"--workers {workers} is ignored beyond {runs}: a worker trains one network at a time, of {runs}")
        workers = runs
    rows: list[dict[str, Any]] = [
        {
            "out": str(plan.path),
            "runs": count,
            "checkpoints": count * plan.config.saved,
            "fingerprint": plan.origin.fingerprint,
        }
        for plan, count in zip(plans, counts, strict=True)
    ]
    if dry_run:
        for row, plan in zip(rows, plans, strict=True):
            structure = plan.task.structure()  # which also checks the network
            row["values"] = structure.numel
            row["bytes"] = row["checkpoints"] * structure.nbytes
        text = [
            f"would train {r['runs']} network(s) and save {r['checkpoints']} checkpoints of {r['values']:,} values "
            f"to {r['out']} ({r['bytes'] / 1e9:.2g} GB)"
            for r in rows
        ]
        emit(rows[0] if len(rows) == 1 else {"zoos": rows}, as_json, "\n".join(text))
        return
    for row in rows:
        say(f"collecting {row['checkpoints']} checkpoints into {row['out']}")
    zoos = collect_zoos(plans, engine, workers, data_root, device)
    found = [describe(zoo) for zoo in zoos]
    text = [f"{len(zoo.entries)} checkpoints in {zoo.path}" for zoo in zoos]
    emit(found[0] if len(found) == 1 else {"zoos": found}, as_json, "\n".join(text))
    if len(zoos) == 1:
        recipe = recipes if loaded[0].method else []  # without one RPG learns, in the size that suits the networks
        say_next(["rpg", "train", *recipe, *(["--zoo", str(places[0])] if out or not recipe else [])], as_json)


@app.command(
    "import",
    rich_help_panel=MAKE,
    epilog=examples("rpg-zoo import checkpoints/ --recipe cifar10-cnn-small", "rpg-zoo import model.pth --dry-run"),
)
def import_checkpoints(
    place: given.Source,
    form: given.SourceForm = None,
    recipe: given.Purpose = None,
    overrides: Set = [],  # noqa: B006
    cast: given.Cast = False,
    holdout: given.Holdout = None,
    out: Out = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo of checkpoints from elsewhere (default place: zoos/<SRC>). Pickles are read without their code; what
    is not taken is listed with the reason.
    """
    from zoo.conditions import Holdout
    from zoo.formats.importing import Plan, import_zoo
    from zoo.formats.weights import suffix
    from zoo.recipe import load_purpose, validate

    if overrides and recipe is None:
        say("--set is ignored without --recipe")
    plan = Plan(
        place,
        form,
        load_purpose(recipe, overrides) if recipe else None,
        cast,
        validate(Holdout, {"kind": holdout}, "") if holdout else None,
    )
    name = place.resolve().name
    ending = suffix(name) or "" if place.is_file() else ""
    target = out or Path("zoos") / name[: len(name) - len(ending)]
    report = import_zoo(plan, command_line("rpg-zoo"), target, dry_run)
    verb = "would import" if dry_run else "imported"
    counts = (
        f"{verb} {len(report.taken)} checkpoints into {target} as {report.form}, skipped {len(report.skipped)} files"
    )
    emit(report.to_json(), as_json, f"{report.table()}\n{counts}")


@app.command(rich_help_panel=LOOK, epilog=examples("rpg-zoo ls digits", "rpg-zoo ls zoos"))
def ls(path: given.ZooPath, as_json: Json = False) -> None:
    """List a zoo's checkpoints, or the zoos of a directory."""
    from zoo.listing import checkpoint_rows, checkpoints_table, describe, imported_files, zoo_line, zoos_in, zoos_table
    from zoo.store import Zoo, find

    place = find(path, "zoos")
    if place.is_dir() and not (place / "manifest.json").is_file() and not (place / "journal.jsonl").is_file():
        zoos = zoos_in(place)
        emit({"zoos": [describe(zoo) for zoo in zoos]}, as_json, zoos_table(zoos).text())
        return
    zoo = Zoo.open(path)
    text = f"{checkpoints_table(zoo.entries, imported_files(zoo)).text()}\n{zoo_line(zoo)}"
    emit({"zoo": str(path), "checkpoints": checkpoint_rows(zoo)}, as_json, text)


@app.command(rich_help_panel=LOOK, epilog=examples("rpg-zoo show digits"))
def show(path: given.ZooPath, as_json: Json = False) -> None:
    """Show what a zoo is and where it came from."""
    from zoo.listing import describe, imported_files, imported_text
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    origin = zoo.manifest.origin
    tensors = "\n".join(f"  {plain(str(spec))}" for spec in zoo.structure)
    emit(
        describe(zoo)
        | {"structure": zoo.structure.model_dump(mode="json"), "origin": origin.model_dump(mode="json")}
        | ({"sources": files} if (files := imported_files(zoo)) else {}),
        as_json,
        f"{path}: {origin.kind} {'with recipe' if origin.task else 'from'} {origin.name} ({origin.family}) "
        f"by `{plain(' '.join(origin.command))}`\n"
        f"{len(zoo.entries)} checkpoints of {zoo.structure.numel:,} values in {len(zoo.structure)} tensors\n"
        f"{imported_text(zoo)}{tensors}\nrecipe:\n{origin.recipe_text()}",
    )


@app.command(rich_help_panel=LOOK, epilog=examples("rpg-zoo verify digits"))
def verify(path: given.ZooPath, imports: Import = [], as_json: Json = False) -> int:  # noqa: B006
    """Check every file and every checkpoint against the manifest. Exit code 1 when something is wrong."""
    from zoo.formats.sources import Sources
    from zoo.hub.client import is_address
    from zoo.listing import recipe_problem
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    problems = [*recipe_problem(zoo), *map(plain, [*zoo.problems(), *Sources.problems(zoo)])]
    skipped = [] if is_address(path) else zoo.unlisted()
    sound = f"{path} is sound: {len(zoo.entries)} checkpoints, {len(zoo.manifest.files)} files"
    lines = [
        *(problems or [sound]),
        *(f"{plain(name)} is no part of the zoo and was not looked at" for name in skipped),
    ]
    found = {"zoo": str(path), "sound": not problems, "problems": problems, "skipped": skipped}
    emit(found, as_json, "\n".join(lines))
    return 1 if problems else 0


@app.command(rich_help_panel=LOOK, epilog=examples("rpg-zoo score digits", "rpg-zoo score hf://user/zoo --device cuda"))
def score(
    path: given.ZooPath,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    precision: Precision = "float32",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score every checkpoint on the test data of the zoo's task (default place: scores/<zoo>)."""
    from zoo.api import score as score_zoo
    from zoo.scoring import result, table
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    origin = zoo.manifest.origin
    target = out or Path("scores") / zoo.name
    if dry_run:
        plan = {"out": str(target), "checkpoints": len(zoo.entries)}
        emit(plan, as_json, f"would score {len(zoo.entries)} checkpoints into {target}")
        return
    scores = score_zoo(zoo, out=target, overrides=overrides, data_root=data_root, device=device, precision=precision)
    emit(result(origin.name, scores), as_json, table(scores))


@app.command(rich_help_panel=SHARE, epilog=examples("rpg-zoo export digits seed00000-0049 --format timm"))
def export(
    path: given.ZooPath,
    id: given.CheckpointId,
    form: given.TargetForm = "safetensors",
    out: Out = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write one checkpoint, whole, for other libraries to load (default place: exports/<zoo>-<id>)."""
    from zoo.errors import suggest
    from zoo.formats.exporting import FORMATS, export_checkpoint
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    entry = zoo.entry(id)
    if form not in FORMATS:
        raise ValueError(f"--format {form} is not a format{suggest(form, FORMATS)}")
    target = out or Path("exports") / f"{zoo.name}-{id}{FORMATS[form].ending}"
    result = {"out": str(target), "id": id, "sha256": entry.sha256, "format": form}
    if dry_run:
        emit(result, as_json, f"would write {id} to {target}")
        return
    usage = export_checkpoint(zoo, entry, form, target)
    emit(result | {"load": usage}, as_json, f"{id} in {target}; load it with\n  {usage}")


@app.command(rich_help_panel=DERIVE, epilog=examples("rpg-zoo perturb digits --kind noise --sigma 0.1 -n 10"))
def perturb(
    path: given.ZooPath,
    kind: given.Kind = "noise",
    sigma: given.Sigma = 0.05,
    of: given.SoupOf = None,
    n: Annotated[int, typer.Option("-n", help="How many networks to make.")] = 10,
    seed: int = 0,
    split: Annotated[str, typer.Option(help="Which checkpoints to start from.")] = "train",
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo of noised, mixed or Gaussian networks from a zoo (default place: zoos/<zoo>-<kind>)."""
    from zoo.derive.perturb import PerturbConfig
    from zoo.derive.perturb import perturb as perturb_zoo
    from zoo.listing import derived_place, describe
    from zoo.recipe import validate
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    entries = zoo.select(split)
    target = derived_place(path, zoo, kind, out)
    settings = {"kind": kind, "n": n, "seed": seed, "sigma": sigma, "of": of}
    config = validate(PerturbConfig, settings, "")
    if dry_run:
        emit(
            {"out": str(target), **settings},
            as_json,
            f"would write {kind} networks from {len(entries)} to {target}",
        )
        return
    origin = zoo.manifest.origin.model_copy(update={"command": command_line("rpg-zoo")})
    made = perturb_zoo(config, zoo, entries, origin, target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


@app.command(rich_help_panel=DERIVE, epilog=examples("rpg-zoo align digits --restarts 8"))
def align(
    path: given.ZooPath,
    to: given.AlignTo = "universe",
    match: given.MatchBy = "weights",
    refine: given.RefineSteps = 0,
    restarts: given.Restarts = 4,
    scale: given.Scale = True,
    seed: int = 0,
    measure: given.MeasureWorth = True,
    undo: given.Undo = False,
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring networks that differ by their symmetries together: the order of units, scales, signs, heads (default place:
    zoos/<zoo>-aligned). Each computes what it computed. Prints what it is worth, and keeps that in scores/<zoo>.
    """
    from zoo.derive.aligning import carry_out

    settings = {"to": to, "match": match, "refine": refine, "restarts": restarts, "scale": scale, "seed": seed}
    where = {"data_root": data_root, "device": device, "measure": measure}
    found, text = carry_out(path, settings, command_line("rpg-zoo"), out, undo, dry_run, where)
    emit(found, as_json, text)


@app.command(rich_help_panel=SHARE, epilog=examples("rpg-zoo push digits user/zoo --license cc-by-4.0 --dry-run"))
def push(
    path: given.ZooPath,
    repo_id: given.Repo,
    id: given.OnlyId = None,
    private: given.Private = False,
    revision: given.Branch = None,
    license: given.License = None,
    scores: given.Scores = None,
    report: given.Report = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a zoo on the Hugging Face Hub (log in with `hf auth login`). Run it again to continue."""
    from zoo.hub.client import Address, is_address, parse_address
    from zoo.hub.publish import push_checkpoint, push_zoo
    from zoo.store import Zoo

    if is_address(path) and id is None:
        raise ValueError(f"{path} is published already; pull it first, or name a directory")
    zoo = Zoo.open(path)
    address = Address(parse_address(repo_id).repo_id, revision or parse_address(repo_id).revision)
    if id is not None:
        if scores or report:
            say("--scores and --report are ignored: they are about zoos, not about one checkpoint")
        found = push_checkpoint(zoo, id, address, license, private=private, dry_run=dry_run)
    else:
        found = push_zoo(zoo, address, license, scores, report, private=private, dry_run=dry_run)
    emit(found, as_json, describe_push(found))


@app.command(rich_help_panel=SHARE, epilog=examples("rpg-zoo pull user/zoo --select 'split==train'"))
def pull(
    repo_id: given.Repo,
    select: given.Select = None,
    ids: given.Ids = [],  # noqa: B006
    revision: Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit.")] = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch a published zoo and check all of it (default place: zoos/<name>). Run it again to continue."""
    from zoo.hub.client import Address, parse_address
    from zoo.hub.publish import pull_zoo, selected
    from zoo.listing import describe
    from zoo.store import Zoo

    parsed = parse_address(repo_id)
    address = Address(parsed.repo_id, revision or parsed.revision)
    target = out or Path("zoos") / address.name
    if dry_run:
        remote = Zoo.open(str(address))
        count = len(selected(remote, address, select, ids))
        found = describe(remote) | {"selected": count, "out": str(target)}
        emit(found, as_json, f"would pull {count} of {len(remote)} checkpoints of {address} into {target}")
        return
    zoo = pull_zoo(address, target, select, ids)
    emit(describe(zoo), as_json, f"{len(zoo.entries)} checkpoints in {target}")


@app.command(rich_help_panel=SHARE, epilog=examples("rpg-zoo card digits --report reports/digits-generated"))
def card(
    path: given.ZooPath,
    repo_id: given.ForRepo = "user/zoo",
    license: given.License = None,
    scores: given.Scores = None,
    report: given.Report = None,
    imports: Import = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print the card that `rpg-zoo push` would publish with a zoo."""
    from tempfile import TemporaryDirectory

    from zoo.hub.client import parse_address
    from zoo.hub.licenses import PLACEHOLDER, license_or_placeholder
    from zoo.hub.publish import write_card
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    with TemporaryDirectory() as folder:
        terms = license_or_placeholder(zoo.manifest.origin, license)
        files = write_card(zoo, parse_address(repo_id), terms, scores, report, Path(folder))
        text = files["README.md"].read_text(encoding="utf-8")
    if terms == PLACEHOLDER:
        say("the licence of these weights is not known: `rpg-zoo push` will ask for --license")
    emit({"zoo": str(path), "card": text}, as_json, text)


def main() -> None:
    run_cli(app, "rpg-zoo")
