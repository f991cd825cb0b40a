"""`rpg`: train the recurrent diffusion on a zoo, generate networks, score them, report honestly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.console import command_line, describe_push, emit, run_cli, say
from zoo.options import DataRoot, Device, DryRun, Import, Json, Out, Precision, Set

if TYPE_CHECKING:
    pass

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)


ScriptOption = Annotated[
    str | None,
    typer.Option(
        "--script",
        metavar="FILE:FUNCTION",
        help="A function of yours that you trust, which measures each network, too.",
    ),
]
Originals = Annotated[
    str | None, typer.Option("--originals", help="The zoo it learnt from (default: found by its hash under zoos/).")
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="Settings of a method (`rpg methods`), or a YAML file, instead of the recipe's."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("demo"),
    overrides: Set = [],  # noqa: B006  # typer reads the default, nobody writes to it
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Collect, train, generate, compare and report on handwritten digits, in a few minutes on two CPU cores."""
    from rpg.demo import RECIPE
    from rpg.demo import demo as run_demo
    from zoo.recipe import load_recipe

    if dry_run:
        load_recipe(RECIPE, overrides)
        emit({"out": str(out), "recipe": RECIPE}, as_json, f"would run every stage of {RECIPE} into {out}")
        return
    found, seconds = run_demo(out, overrides, device, command_line("rpg"))
    times = ", ".join(f"{stage} {taken:.0f} s" for stage, taken in seconds.items())
    emit(found.to_json() | {"seconds": seconds}, as_json, f"{found.text()}\n{times}")


@app.command()
def methods(imports: Import = [], as_json: Json = False) -> None:  # noqa: B006
    """List the methods: what each is, what it suits, and the settings that come with it."""
    from rpg.methods import describe_methods
    from zoo.table import Table

    rows = describe_methods()
    columns = ("method", "trained", "settings", "what it is")
    cells = [(r["name"], "yes" if r["trained"] else "no", ", ".join(r["settings"]), r["what"]) for r in rows]
    emit({"methods": rows}, as_json, Table(columns, tuple(cells)).text())


@app.command()
def train(
    what: Annotated[
        str | None, typer.Argument(metavar="RECIPE|ZOO", help="What to learn: a recipe, whose zoo is known, or a zoo.")
    ] = None,
    zoo: Annotated[str | None, typer.Option("--zoo", help="The zoo to learn from (default: zoos/<recipe>).")] = None,
    method: Method = None,
    split: Annotated[str, typer.Option(help="The checkpoints to learn from.")] = "train",
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    device: Device = "auto",
    track: Annotated[
        list[str],
        typer.Option("--track", metavar="TRACKER", help="Log to tensorboard (in the run's logs/), wandb or trackio."),
    ] = [],  # noqa: B006
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a generator on one split of a zoo (default place: runs/<recipe>, or runs/<recipe>-<method>).

    Run it again to continue.

    Task and structure are the zoo's; a recipe for other networks is refused. Without a recipe and a method, RPG learns
    in the size that suits the networks. On several devices: `accelerate launch $(which rpg) train RECIPE`.
    """
    from rpg.api import plan_training
    from rpg.processes import ignored_options

    if what is None and zoo is None:
        raise ValueError("say what to learn: a recipe (`rpg-zoo recipes`), or a zoo, as in rpg train --zoo zoos/digits")
    plan = plan_training(
        what,
        method,
        zoo=zoo,
        split=split,
        out=out,
        overrides=overrides,
        device=device,
        track=track,
        command=command_line("rpg"),
    )
    count, originals = len(plan.data.entries), plan.data.zoo.path
    if dry_run:
        result = {"out": str(plan.path), "zoo": str(originals), "checkpoints": count, "settings": plan.origin.settings}
        text = f"would learn {count} checkpoints of {originals} by method {plan.config.name} into {plan.path}"
        emit(result, as_json, text)
        return
    say(f"learning {count} checkpoints of {originals} by method {plan.config.name} into {plan.path}")
    for option in ignored_options():
        say(
            f"{option} of accelerate launch is ignored: precision and accumulation are the recipe's, FSDP's units fixed"
        )
    run = plan.carry_out()
    about = {"run": str(run.path), "recipe": plan.origin.name, "method": plan.config.name}
    emit(about | run.facts, as_json, f"learnt, in {run.path}")


@app.command()
def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, its name under runs/, or hf://.")],
    n: Annotated[int | None, typer.Option("-n", help="How many networks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn.")] = None,
    sampler: Annotated[str | None, typer.Option(help="RPG: ddpm, ddim or dpm++ (made for few steps, say 20).")] = None,
    condition: Annotated[
        list[str], typer.Option("--condition", metavar="BITS", help="The binary task to generate for; can be repeated.")
    ] = [],  # noqa: B006
    split: Annotated[
        str | None, typer.Option(help="Generate for every task of this split of the run's zoo, as in unseen.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="And for the complement of each of these tasks.")] = False,
    steps: Annotated[int | None, typer.Option(help="RPG: denoising steps.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="RPG: sequential, partial or full: tokens denoised together; less memory first.")
    ] = None,
    out: Out = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate networks from a trained run as a zoo (default place: zoos/<run>-generated).

    A run that was trained with conditions makes -n networks for every task that --condition and --split name.
    """
    from rpg.api import load, plan_generation
    from rpg.run import wanted_conditions

    flags = {"n": n, "seed": seed, "sampler": sampler, "steps": steps, "mode": mode}
    settings: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    trained = load(run)
    if condition or split or flip:
        settings["conditions"] = wanted_conditions(trained.record(), condition, split, flip)
    plan = plan_generation(trained, settings, out=out, device=device, command=command_line("rpg"))
    if dry_run:
        asked = plan.request.model_dump(mode="json")
        emit({"out": str(plan.path), **asked}, as_json, f"would generate {plan.count} networks into {plan.path}")
        return
    zoo = plan.carry_out()
    ids = [entry.id for entry in zoo.entries]
    emit(
        {"zoo": str(zoo.path), "sha256": zoo.sha256, "checkpoints": ids}, as_json, f"{len(ids)} networks in {zoo.path}"
    )


@app.command("eval")
def evaluate(
    weights: Annotated[
        str | None,
        typer.Argument(help="A zoo, or one .safetensors or .pth file (default: the newest generated zoo)."),
    ] = None,
    task: Annotated[str, typer.Option("--task", help="A recipe or task name.")] = ...,  # type: ignore[assignment]
    originals: Originals = None,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    precision: Precision = "float32",
    script: ScriptOption = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Score weights on a task's test data with the paper's statistics (default place: scores/<zoo>).

    Networks that were generated for binary tasks are set beside the originals and baselines, task by task.
    """
    from rpg.evaluation import eval_file, eval_zoo, find_generated, refuse_another_task
    from zoo.scoring import result, table
    from zoo.store import Zoo
    from zoo.tasks.scripted import Script

    measure = Script.load(script) if script else None
    if weights is not None and Path(weights).is_file():
        if out is not None:
            say("--out is ignored: the score of a single file is printed, not kept")
        if dry_run:
            emit({"file": weights}, as_json, f"would score {weights}")
            return
        scores = [eval_file(Path(weights), task, overrides, data_root, device, precision, measure)]
        emit(result(task, scores), as_json, table(scores))
        return
    zoo = find_generated(task) if weights is None else Zoo.open(weights)
    refuse_another_task(zoo, task)
    target = out or Path("scores") / zoo.name
    if dry_run:
        plan = {"out": str(target), "zoo": str(zoo.path), "checkpoints": len(zoo.entries)}
        emit(plan, as_json, f"would score {len(zoo.entries)} checkpoints of {zoo.path} into {target}")
        return
    found = eval_zoo(zoo, target, originals, overrides, data_root, device, precision, command_line("rpg"), measure)
    emit(result(task, found.scores) | found.tasks_json(), as_json, found.text())


Split = Annotated[
    str | None, typer.Option(help="The originals' split that was learnt from, where the zoos do not say.")
]


@app.command()
def report(
    zoos: Annotated[
        list[str], typer.Argument(metavar="ZOO...", help="Generated zoos (default: the newest of --task).")
    ] = [],  # noqa: B006
    task: Annotated[
        str | None, typer.Option("--task", help="A recipe or task name; of a recipe the section eval: holds.")
    ] = None,
    originals: Originals = None,
    split: Split = None,
    runs: Annotated[
        list[str],
        typer.Option("--run", help="A run that made some, for its loss curve (default: found under runs/)."),
    ] = [],  # noqa: B006
    baselines: Annotated[bool, typer.Option(help="Set baselines beside them.")] = True,
    plots: Annotated[str, typer.Option(help="Formats of the plots beside svg: png, pdf, or both as png,pdf.")] = "",
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    script: ScriptOption = None,
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compare generated networks with the originals and baselines; write Markdown, HTML, CSV, JSON and plots.

    Default place: reports/<zoo>. Several zoos stand side by side; those that differ in their seeds alone are seeds of
    one generator.
    """
    from rpg.evaluation import find_generated
    from rpg.reports.stage import plan_report
    from zoo.recipe import is_recipe
    from zoo.tasks.scripted import Script

    if not zoos and task is None:
        raise ValueError("say which networks: generated zoos, or --task RECIPE for the newest of a recipe")
    plan = plan_report(
        zoos or [find_generated(str(task))],
        originals=originals,
        split=split,
        baselines=baselines,
        runs=runs,
        out=out,
        overrides=overrides,
        recipe=task if task and is_recipe(task) else None,
        data_root=data_root,
        device=device,
        plots=[form for form in plots.split(",") if form],
        script=Script.load(script) if script else None,
        command=command_line("rpg"),
    )
    if dry_run:
        names = [str(zoo.path) for zoo in plan.zoos]
        found = {"out": str(plan.path), "generated": names, "originals": str(plan.originals.path)}
        emit(found, as_json, f"would compare {', '.join(names)} with {plan.originals.path} in {plan.path}")
        return
    made = plan.carry_out()
    emit(made.to_json(), as_json, made.text())


@app.command()
def compare(
    places: Annotated[list[str], typer.Argument(metavar="ZOO|REPORT...", help="Generated zoos, or reports.")],
    form: Annotated[str, typer.Option("--format", help="table, csv, latex or json.")] = "table",
    baselines: Annotated[bool, typer.Option(help="Set baselines beside the zoos.")] = True,
    overrides: Set = [],  # noqa: B006
    data_root: DataRoot = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
) -> None:
    """Print one table over several methods, seeds and tasks.

    Zoos of the same originals are compared first, each group in a report of its own under reports/.
    """
    from rpg.reports.comparisons import comparisons_table
    from rpg.reports.stage import comparisons_of
    from zoo.errors import suggest
    from zoo.table import FORMATS

    if form not in FORMATS:
        raise ValueError(f"no table format named {form!r}{suggest(form, FORMATS)}")
    found = comparisons_of(places, baselines, overrides, data_root, device, command_line("rpg"))
    emit({}, False, comparisons_table(found, form))


@app.command()
def ls(
    place: Annotated[Path, typer.Argument(help="A directory with zoos/, runs/, scores/ and reports/.")] = Path(),
    as_json: Json = False,
) -> None:
    """List what there is: zoos, runs, scores and reports, with size, method and main score."""
    from rpg.listing import listing
    from zoo.table import Table

    found = listing(place)
    text = Table.of(found).text() if found else f"nothing in {place.resolve()}: no zoos/, runs/, scores/ or reports/"
    emit({"artefacts": found}, as_json, text)


@app.command()
def estimate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or a method such as rpg-large.")],
    method: Method = None,
    overrides: Set = [],  # noqa: B006
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda (measured), or h100, h200, a100, rtx3090.")
    ] = "auto",
    parameters: Annotated[
        int | None,
        typer.Option("--parameters", min=1, help="Values per network, as one tensor, instead of the recipe's network."),
    ] = None,
    imports: Import = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Say what a recipe costs: tokens, parameters, memory, FLOPs, hours. Needs neither data nor weights."""
    from rpg.api import plan_estimate

    name, found = plan_estimate(recipe, method, overrides, device, parameters)
    emit({"recipe": name, **found.figures}, as_json, f"{name}: {found.text}")


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
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Publish a trained generator on the Hugging Face Hub (log in with `hf auth login`). Run it again to continue."""
    from rpg.api import load
    from rpg.publish import push_run
    from zoo.hub.client import Address, parse_address

    given = parse_address(repo_id)
    address = Address(given.repo_id, revision or given.revision)
    found = push_run(load(run), address, license, private=private, dry_run=dry_run)
    emit(found, as_json, describe_push(found))


def main() -> None:
    run_cli(app, "rpg")
