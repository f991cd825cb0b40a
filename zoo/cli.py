"""`rpg-zoo`: make, import, look at, check, score and perturb zoos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.console import command_line, describe_push, emit, plain, run_cli, say
from zoo.options import DataRoot, Device, DryRun, Import, Json, Out, Precision, Set

if TYPE_CHECKING:
    pass

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)

ZooPath = Annotated[Path, typer.Argument(metavar="ZOO", help="A zoo's directory, or hf://user/zoo.")]


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes that come with the package."""
    from zoo.listing import recipes_table
    from zoo.recipe import load_recipe, recipe_names

    tasks = {name: load_recipe(name).task.model_dump(mode="json") for name in recipe_names()}
    emit({"recipes": tasks}, as_json, recipes_table(tasks).text())


@app.command()
def collect(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Short names of recipes, or YAML files.")],
    overrides: Set = [],  # noqa: B006  # typer reads the default, nobody writes to it
    out: Out = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many networks to train at a time.")] = None,
    engine: Annotated[str, typer.Option(help="Where workers run: local, or ray (a Ray cluster).")] = "local",
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
        say(
            f"--workers {workers} is ignored beyond {runs}: a worker trains one network at a time, and there are {runs}"
        )
        workers = runs
    rows = [
        {
            "out": str(plan.path),
            "runs": count,
            "checkpoints": count * plan.config.checkpoints,
            "fingerprint": plan.origin.fingerprint,
        }
        for plan, count in zip(plans, counts, strict=True)
    ]
    if dry_run:
        for row, plan in zip(rows, plans, strict=True):
            row["values"] = plan.task.structure().numel  # which also checks the network
        text = [
            f"would train {r['runs']} network(s) and save {r['checkpoints']} checkpoints of {r['values']:,} values "
            f"to {r['out']}"
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


@app.command("import")
def import_checkpoints(
    place: Annotated[Path, typer.Argument(metavar="SRC", help="A directory of checkpoints, or one file.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="folder, modelzoo, timm, peft, mmseg or detectron2 (default: what it looks like)."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="What these networks do: needed to score them, not to learn them.")
    ] = None,
    overrides: Set = [],  # noqa: B006
    cast: Annotated[
        bool, typer.Option("--cast", help="Convert floats to the recipe's; 16 bits to 32 are always.")
    ] = False,
    holdout: Annotated[
        str | None, typer.Option(help="Hold binary tasks out: published, random or no-neighbours.")
    ] = None,
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


@app.command()
def ls(path: ZooPath, as_json: Json = False) -> None:
    """List a zoo's checkpoints."""
    from zoo.listing import checkpoints_table
    from zoo.store import Zoo

    entries = Zoo.open(path).entries
    rows = [entry.model_dump(mode="json") for entry in entries]
    emit({"zoo": str(path), "checkpoints": rows}, as_json, checkpoints_table(entries).text())


@app.command()
def show(path: ZooPath, as_json: Json = False) -> None:
    """Show what a zoo is and where it came from."""
    from zoo.listing import describe
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    origin = zoo.manifest.origin
    tensors = "\n".join(f"  {plain(str(spec))}" for spec in zoo.structure)
    emit(
        describe(zoo) | {"structure": zoo.structure.model_dump(mode="json"), "origin": origin.model_dump(mode="json")},
        as_json,
        f"{path}: {origin.kind} {'with recipe' if origin.task else 'from'} {origin.name} ({origin.family}) "
        f"by `{plain(' '.join(origin.command))}`\n"
        f"{len(zoo.entries)} checkpoints of {zoo.structure.numel:,} values in {len(zoo.structure)} tensors\n"
        f"{tensors}\nrecipe:\n{origin.recipe_text()}",
    )


@app.command()
def verify(path: ZooPath, imports: Import = [], as_json: Json = False) -> int:  # noqa: B006
    """Check every file and every checkpoint against the manifest. Exit code 1 when something is wrong."""
    from zoo.hub.client import is_address
    from zoo.listing import recipe_problem
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    problems = [*recipe_problem(zoo), *map(plain, zoo.problems())]
    skipped = [] if is_address(path) else zoo.unlisted()
    sound = f"{path} is sound: {len(zoo.entries)} checkpoints, {len(zoo.manifest.files)} files"
    lines = [
        *(problems or [sound]),
        *(f"{plain(name)} is no part of the zoo and was not looked at" for name in skipped),
    ]
    found = {"zoo": str(path), "sound": not problems, "problems": problems, "skipped": skipped}
    emit(found, as_json, "\n".join(lines))
    return 1 if problems else 0


@app.command()
def score(
    path: ZooPath,
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


@app.command()
def export(
    path: ZooPath,
    id: Annotated[str, typer.Argument(metavar="ID", help="A checkpoint, as `rpg-zoo ls ZOO` names it.")],
    form: Annotated[str, typer.Option("--format", help="timm, peft, mmseg, detectron2, pth, ...")] = "safetensors",
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


@app.command()
def perturb(
    path: ZooPath,
    kind: Annotated[str, typer.Option(help="noise, soup or gaussian.")] = "noise",
    sigma: Annotated[float, typer.Option(help="Noise, in standard deviations of each tensor.")] = 0.05,
    of: Annotated[int | None, typer.Option(help="How many networks a soup takes (default: all).")] = None,
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


@app.command()
def split(
    path: ZooPath,
    holdout: Annotated[str, typer.Option(help="published, random or no-neighbours.")],
    n: Annotated[int | None, typer.Option("-n", help="How many tasks to hold out (default: 20).")] = None,
    seed: int = 0,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a zoo with other tasks held out from one of binary tasks, without training (default place:
    zoos/<zoo>-<holdout>).
    """
    from zoo.conditions import Holdout
    from zoo.derive.split import plan_split, split_zoo
    from zoo.listing import derived_place, describe
    from zoo.recipe import validate
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    target = derived_place(path, zoo, holdout, out)
    settings = {"kind": holdout, "seed": seed} | ({} if n is None else {"n": n})
    config = validate(Holdout, settings, "")
    if dry_run:
        counts = plan_split(zoo, config)
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        emit({"out": str(target), **settings, "splits": counts}, as_json, f"would write {text} to {target}")
        return
    made = split_zoo(zoo, config, command_line("rpg-zoo"), target)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


@app.command()
def align(
    path: ZooPath,
    to: Annotated[str, typer.Option(help="universe (the mean of all), medoid, or the id of a network.")] = "universe",
    restarts: Annotated[int, typer.Option(help="Starts for every network, of which the best is kept.")] = 4,
    scale: Annotated[bool, typer.Option(help="Take scales to their balanced point first.")] = True,
    seed: int = 0,
    undo: Annotated[bool, typer.Option("--undo", help="From an aligned zoo, the original one, to the byte.")] = False,
    out: Out = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring networks that differ by their symmetries together: the order of units, scales, signs, heads (default place:
    zoos/<zoo>-aligned). Each computes what it computed.
    """
    from zoo.api import align as align_zoo
    from zoo.api import unalign as unalign_zoo
    from zoo.listing import derived_place, describe
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    target = derived_place(path, zoo, "original" if undo else "aligned", out)
    if dry_run:
        what = "undo the alignment of" if undo else "align"
        emit({"out": str(target), "to": to}, as_json, f"would {what} {len(zoo.entries)} networks into {target}")
        return
    command = command_line("rpg-zoo")
    if undo:
        made = unalign_zoo(zoo, out=target, command=command)
    else:
        made = align_zoo(zoo, to=to, restarts=restarts, scale=scale, seed=seed, out=target, command=command)
    emit(describe(made), as_json, f"{len(made.entries)} checkpoints in {target}")


Repo = Annotated[str, typer.Argument(metavar="REPO_ID", help="A repository on the Hugging Face Hub, as user/name.")]
License = Annotated[str | None, typer.Option("--license", help="Licence of the weights, as in cc-by-4.0.")]
Scores = Annotated[Path | None, typer.Option("--scores", help="Scores for the card (default: scores/<zoo>).")]
Report = Annotated[Path | None, typer.Option("--report", help="A report's directory, for the card: text and plots.")]


@app.command()
def push(
    path: ZooPath,
    repo_id: Repo,
    id: Annotated[str | None, typer.Option("--id", help="Only this checkpoint, as its library loads it.")] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made, make it private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch other than main.")] = None,
    license: License = None,
    scores: Scores = None,
    report: Report = None,
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
        place = scores or Path("scores") / zoo.name
        found = push_zoo(zoo, address, license, place, report, private=private, dry_run=dry_run)
    emit(found, as_json, describe_push(found))


@app.command()
def pull(
    repo_id: Repo,
    select: Annotated[
        str | None, typer.Option("--select", help="Only these checkpoints, as in 'split==unseen and seed!=3'.")
    ] = None,
    ids: Annotated[list[str], typer.Option("--id", help="Only this checkpoint; may be repeated.")] = [],  # noqa: B006
    revision: Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit.")] = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch a published zoo and check all of it (default place: zoos/<name>). Run it again to continue."""
    from zoo.hub.client import Address, parse_address
    from zoo.hub.publish import pull_zoo
    from zoo.listing import describe
    from zoo.store import Zoo

    given = parse_address(repo_id)
    address = Address(given.repo_id, revision or given.revision)
    target = out or Path("zoos") / address.name
    if dry_run:
        found = describe(Zoo.open(str(address))) | {"out": str(target)}
        emit(found, as_json, f"would pull from {found['checkpoints']} checkpoints of {address} into {target}")
        return
    zoo = pull_zoo(address, target, select, ids)
    emit(describe(zoo), as_json, f"{len(zoo.entries)} checkpoints in {target}")


@app.command()
def card(
    path: ZooPath,
    repo_id: Annotated[str, typer.Option("--repo", metavar="REPO_ID", help="The repository it is for.")] = "user/zoo",
    license: License = None,
    scores: Scores = None,
    report: Report = None,
    imports: Import = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Print the card that `rpg-zoo push` would publish with a zoo."""
    from tempfile import TemporaryDirectory

    from zoo.hub.client import parse_address
    from zoo.hub.publish import write_card
    from zoo.store import Zoo

    zoo = Zoo.open(path)
    place = scores or Path("scores") / zoo.name
    with TemporaryDirectory() as folder:
        files = write_card(zoo, parse_address(repo_id), license, place, report, Path(folder))
        text = files["README.md"].read_text(encoding="utf-8")
    emit({"zoo": str(path), "card": text}, as_json, text)


def main() -> None:
    run_cli(app, "rpg-zoo")
