"""`rpg`: train the recurrent diffusion on a zoo, generate networks, score them, report honestly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from zoo.console import command_line, describe_push, emit, open_task, pick_device, run_cli, say
from zoo.options import DataRoot, Device, DryRun, Json, Out, Precision, RecipeName, Set

if TYPE_CHECKING:
    from rpg.run import Run
    from zoo.store import Zoo
    from zoo.tasks.base import LabelledTask

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("demo"),
    overrides: Set = [],  # noqa: B006  # typer reads the default, nobody writes to it
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Collect, train, generate, compare and report on handwritten digits, in a few minutes on two CPU cores."""
    from rpg.demo import demo as run_demo
    from rpg.report import table
    from zoo.recipe import load_recipe

    recipe = load_recipe("digits", overrides)
    if dry_run:
        emit({"out": str(out), "recipe_sha256": recipe.sha256}, as_json, f"would run every stage of digits into {out}")
        return
    task = open_task(recipe, None, device)
    comparison, result = run_demo(recipe, task, out, command_line("rpg"), pick_device(device))
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result["seconds"].items())
    emit(result, as_json, f"{table(comparison)}\n\n{times}\nreport: {result['report']}")


@app.command()
def train(
    recipe: RecipeName,
    zoo: Annotated[Path | None, typer.Option("--zoo", help="The zoo to learn from (default: zoos/<recipe>).")] = None,
    split: Annotated[str, typer.Option(help="The checkpoints to learn from.")] = "train",
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    device: Device = "auto",
    track: Annotated[
        list[str],
        typer.Option("--track", metavar="TRACKER", help="Log to tensorboard (in the run's logs/), wandb or trackio."),
    ] = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a generator on one split of a zoo (default place: runs/<recipe>). Run it again to continue.

    On several devices: `accelerate launch $(which rpg) train RECIPE`.
    """
    from rpg.config import RPGConfig
    from rpg.processes import ignored_options
    from rpg.train import check, conditions_of
    from rpg.train import train as train_run
    from zoo.recipe import load_recipe
    from zoo.store import Zoo

    plan = load_recipe(recipe, overrides)
    config = plan.section("rpg", RPGConfig)
    place = pick_device(device)
    check(config.train, place, track)
    originals = Zoo.open(zoo or Path("zoos") / plan.name)
    entries = originals.select(split)
    conditions_of(config.generator, originals, entries)  # refuses a zoo without them
    path = out or Path("runs") / plan.name
    if dry_run:
        result = {
            "out": str(path),
            "zoo": str(originals.path),
            "checkpoints": len(entries),
            "steps": config.train.steps,
        }
        emit(result, as_json, f"would train {config.train.steps} steps on {len(entries)} checkpoints into {path}")
        return
    say(f"training on {len(entries)} checkpoints of {originals.path} into {path}")
    for option in ignored_options():
        say(
            f"{option} of accelerate launch is ignored: precision and accumulation are the recipe's, FSDP's units fixed"
        )
    origin = plan.origin("trained", command_line("rpg"), (originals.sha256,))
    origin = origin.model_copy(update={"settings": {"split": split}})
    run: Run = train_run(config, originals, entries, origin, path, place, track)
    emit(describe_run(run), as_json, f"trained generator in {path}")


@app.command()
def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, its name under runs/, or hf://.")],
    n: Annotated[int | None, typer.Option("-n", help="How many networks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of noise and permutation states.")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpm++ (made for few steps, say 20).")] = None,
    condition: Annotated[
        list[str], typer.Option("--condition", metavar="BITS", help="The binary task to generate for; can be repeated.")
    ] = [],  # noqa: B006
    split: Annotated[
        str | None, typer.Option(help="Generate for every task of this split of the run's zoo, as in unseen.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="And for the complement of each of these tasks.")] = False,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="sequential, partial or full: tokens denoised together; less memory first.")
    ] = None,
    out: Out = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate networks from a trained run as a zoo (default place: zoos/<recipe>-generated).

    A run that was trained with conditions makes -n networks for every task that --condition and --split name.
    """
    from rpg.config import GenerateConfig
    from rpg.generate import generate as generate_zoo
    from rpg.generate import members, wanted_conditions
    from zoo.recipe import validate

    trained = open_run(run)
    recipe = trained.recipe()
    flags = {"n": n, "seed": seed, "sampler": sampler, "steps": steps, "mode": mode}
    settings = recipe.section("generate", GenerateConfig).model_dump(mode="json")
    settings |= {key: value for key, value in flags.items() if value is not None}
    if condition or split or flip:
        settings["conditions"] = wanted_conditions(trained.record(), condition, split, flip)
    config = validate(GenerateConfig, settings, "")
    count = len(members(trained.record(), config))
    path = out or Path("zoos") / f"{recipe.name}-generated"
    if dry_run:
        emit({"out": str(path), **settings}, as_json, f"would generate {count} networks into {path}")
        return
    origin = recipe.origin("generated", command_line("rpg"), (trained.sha256,), config)
    zoo = generate_zoo(trained, config, origin, path, pick_device(device))
    ids = [entry.id for entry in zoo.entries]
    emit({"zoo": str(path), "sha256": zoo.sha256, "checkpoints": ids}, as_json, f"{len(ids)} networks in {path}")


@app.command("eval")
def evaluate(
    weights: Annotated[
        Path | None,
        typer.Argument(help="A zoo, or one .safetensors or .pth file (default: the newest generated zoo)."),
    ] = None,
    task: Annotated[str, typer.Option("--task", help="A recipe or task name.")] = ...,  # type: ignore[assignment]
    originals: Annotated[
        Path | None,
        typer.Option("--originals", help="For binary tasks: the zoo it learnt from (default: zoos/<recipe>)."),
    ] = None,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    precision: Precision = "float32",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score weights on a task's test data with the paper's statistics (default place: scores/<zoo>).

    Networks that were generated for binary tasks are set beside the originals and baselines, task by task.
    """
    from zoo.recipe import load_recipe, recipe_of
    from zoo.scoring import result, score, score_file, table
    from zoo.store import Zoo

    if weights is not None and weights.is_file():
        if out is not None:
            say("--out is ignored: the score of a single file is printed, not kept")
        if dry_run:
            emit({"file": str(weights)}, as_json, f"would score {weights}")
            return
        scores = [score_file(weights, open_task(load_recipe(task, overrides), data_root, device), precision)]
    else:
        zoo = find_generated(task) if weights is None else Zoo.open(weights)
        origin = zoo.manifest.origin
        if task not in (origin.name, origin.task):
            raise ValueError(f"{zoo.path} was made for {origin.name} ({origin.task}), not for --task {task}")
        target = out or Path("scores") / zoo.path.resolve().name
        if dry_run:
            plan = {"out": str(target), "zoo": str(zoo.path), "checkpoints": len(zoo.entries)}
            emit(plan, as_json, f"would score {len(zoo.entries)} checkpoints of {zoo.path} into {target}")
            return
        recipe = recipe_of(origin, overrides)
        opened = open_task(recipe, data_root, device)
        scores = score(zoo, opened, target, precision=precision)
        source = originals or Path("zoos") / origin.name
        if origin.kind == "generated" and opened.conditions and (originals or (source / "manifest.json").is_file()):
            from rpg.task_report import tasks_json, tasks_text
            from rpg.tasks import compare_tasks

            made_by = recipe.origin("perturbed", command_line("rpg"))
            tasks = compare_tasks(Zoo.open(source), zoo, cast("LabelledTask", opened), made_by, target)
            emit(result(task, scores) | tasks_json(tasks), as_json, f"{table(scores)}\n\n{tasks_text(tasks)}")
            return
    emit(result(task, scores), as_json, table(scores))


@app.command()
def report(
    generated: Annotated[Path | None, typer.Argument(help="A generated zoo (default: the newest of --task).")] = None,
    task: Annotated[str | None, typer.Option("--task", help="A recipe or task name.")] = None,
    originals: Annotated[
        Path | None, typer.Option("--originals", help="The zoo it learnt from (default: zoos/<recipe>).")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="The run that made it, for the loss curve (default: runs/<recipe>)."),
    ] = None,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compare generated networks with originals and baselines; write Markdown and HTML (default: reports/<recipe>)."""
    from rpg.compare import compare, groups_json
    from rpg.config import EvalConfig
    from rpg.report import provenance_of, table, write_report
    from rpg.run import read_losses
    from zoo.recipe import recipe_of
    from zoo.store import Zoo

    if generated is None and task is None:
        raise ValueError("say which networks: a generated zoo, or --task RECIPE for the newest of a recipe")
    zoo = Zoo.open(generated) if generated else find_generated(str(task))
    origin = zoo.manifest.origin
    if origin.kind != "generated":
        raise ValueError(f"{zoo.path} is a {origin.kind} zoo; `rpg report` takes a generated one")
    recipe = recipe_of(origin, overrides)
    config = recipe.section("eval", EvalConfig)
    source = Zoo.open(originals or Path("zoos") / origin.name)
    path = out or Path("reports") / origin.name
    maker = find_run(zoo, run)
    if dry_run:
        plan = {"out": str(path), "generated": str(zoo.path), "originals": str(source.path)}
        emit(plan, as_json, f"would compare {zoo.path} with {source.path} in {path}")
        return
    command = command_line("rpg")
    opened = open_task(recipe, data_root, device)
    made_by, losses = recipe.origin("perturbed", command), read_losses(maker) if maker else []
    if opened.conditions:
        from rpg.task_report import headline, tasks_json, tasks_text, write_task_report
        from rpg.tasks import compare_tasks

        tasks = compare_tasks(source, zoo, cast("LabelledTask", opened), made_by, path)
        page = write_task_report(tasks, losses, provenance_of(recipe, command), path)
        text = f"{tasks_text(tasks)}\n\n{headline(tasks)}\n\nreport: {page}"
        emit(tasks_json(tasks) | {"report": str(page)}, as_json, text)
        return
    comparison = compare(source, zoo, opened, config, made_by, path)
    page = write_report(comparison, losses, provenance_of(recipe, command), path)
    emit(
        groups_json(comparison, config) | {"report": str(page)},
        as_json,
        f"{table(comparison)}\n\nreport: {page}",
    )


@app.command()
def estimate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or a size such as rpg-large.")],
    overrides: Set = [],  # noqa: B006
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda (measured), or h100, h200, a100, rtx3090.")
    ] = "auto",
    parameters: Annotated[
        int | None,
        typer.Option("--parameters", min=1, help="Values per network, as one tensor, instead of the recipe's network."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a recipe costs: tokens, parameters, memory, FLOPs, hours. Needs neither data nor weights."""
    from rpg.config import GenerateConfig, RPGConfig
    from rpg.devices import DEVICES, measure
    from rpg.estimate import describe
    from rpg.estimate import estimate as estimate_cost
    from rpg.layout import generated
    from rpg.sizes import CHECKPOINTS
    from zoo.collect import CollectConfig, jobs
    from zoo.recipe import base_names, load_base, load_recipe

    num_states = CHECKPOINTS
    if recipe in base_names():
        if parameters is None:
            raise ValueError(f"{recipe} is a size and has no network; say how large one is: --parameters 50000")
        name, sections = recipe, load_base(recipe, overrides)
    else:
        plan = load_recipe(recipe, overrides)
        name, sections = plan.name, plan.sections
        assert isinstance(sections["zoo"], CollectConfig)
        training = [job for job in jobs(sections["zoo"], plan.task.conditions()) if job.split == "train"]
        num_states = sections["zoo"].checkpoints * len(training)
    config, sampling = sections["rpg"], sections["generate"]
    assert isinstance(config, RPGConfig)
    assert isinstance(sampling, GenerateConfig)
    shapes = [(parameters,)] if parameters else [spec.shape for spec in generated(plan.task.structure())]
    machine = DEVICES[device] if device in DEVICES else measure(pick_device(device))
    found = estimate_cost(config, sampling, shapes, num_states, machine)
    emit({"recipe": name, **found}, as_json, describe(name, found))


@app.command()
def doctor(as_json: Json = False) -> int:
    """Say what this machine has and lacks. Exit code 1 when the core cannot work."""
    from rpg.doctor import describe, examine

    found = examine()
    emit(found, as_json, describe(found))
    return 1 if found["problems"] else 0


@app.command()
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or its name under runs/.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="A repository on the Hub, as user/name.")],
    private: Annotated[bool, typer.Option("--private", help="If the repository is made, make it private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch other than main.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="Licence of the generator, as in cc-by-4.0.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a trained generator on the Hugging Face Hub (log in with `hf auth login`). Run it again to continue."""
    from rpg.publish import push_run
    from zoo.hub import Address, parse_address

    given = parse_address(repo_id)
    address = Address(given.repo_id, revision or given.revision)
    found = push_run(open_run(run), address, license, private=private, dry_run=dry_run, say=say)
    emit(found, as_json, describe_push(found))


def open_run(name: str) -> Run:
    """A trained run by directory, by name under runs/ or on the Hub. Raises MissingData when there is none."""
    from rpg.run import Run
    from zoo.hub import is_address, parse_address

    if is_address(name):
        from rpg.publish import fetch_run

        return fetch_run(parse_address(name)).require_trained()
    path = Path(name)
    return Run(path if path.is_dir() or len(path.parts) > 1 else Path("runs") / name).require_trained()


def find_run(zoo: Zoo, name: str | None) -> Run | None:
    """The run that made a generated zoo: the named one, or that of its recipe under runs/ if it is still there.

    Raises ValueError when the named one made something else.
    """
    from rpg.run import Run

    origin = zoo.manifest.origin
    run = open_run(name) if name else Run(Path("runs") / origin.name)
    if run.trained and run.sha256 in origin.parents:
        return run
    if name:
        raise ValueError(f"{zoo.path} was not made by {run.path}; leave --run out for a report without its loss curve")
    return None


def find_generated(task: str) -> Zoo:
    """The newest generated zoo under zoos/ for this recipe or task. Raises MissingData when there is none."""
    from zoo.errors import Corrupt, MissingData
    from zoo.store import Zoo

    manifests = sorted(Path("zoos").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for manifest in manifests:
        try:
            zoo = Zoo.open(manifest.parent)
        except Corrupt as error:
            say(f"passing over a damaged zoo: {error}")
            continue
        origin = zoo.manifest.origin
        if origin.kind == "generated" and task in (origin.name, origin.task):
            return zoo
    raise MissingData(
        f"no generated zoo for {task!r} under zoos/; make one with `rpg generate runs/{task}`, or name one"
    )


def describe_run(run: Run) -> dict[str, Any]:
    """A run in a few fields, for `--json`."""
    layout, record = run.layout(), run.record()
    return {
        "run": str(run.path),
        "recipe": record.origin.name,
        "num_parameters": record.num_parameters,
        "num_tokens": layout.num_tokens,
        "useful": layout.useful,
        "checkpoints": len(record.states),
    }


def main() -> None:
    run_cli(app, "rpg")
