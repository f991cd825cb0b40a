"""`rpg`: train the recurrent diffusion on a zoo, generate networks, score them, report honestly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import rpg.cli_polish
import rpg.cli_sweep
import rpg.reproduce.command  # noqa: F401  # whose commands are the program's, too
from rpg.options import (
    Classifier,
    Conditions,
    EstimateDevice,
    EvalTask,
    Form,
    FromZoo,
    Host,
    Method,
    Mode,
    Originals,
    Parameters,
    Place,
    Places,
    Plots,
    Port,
    PushedRun,
    RecipeOrMethod,
    ReportTask,
    RunName,
    Runs,
    SamplerName,
    ScriptOption,
    Split,
    Sweep,
    SweepPlot,
    TasksOf,
    Track,
    Weights,
    What,
    WithScores,
    Zoos,
)
from rpg.program import app
from zoo.command_help import AROUND, FIRST, JUDGE, LEARN, examples
from zoo.console import command_line, describe_push, emit, is_first_process, run_cli, say, say_next
from zoo.names import typed
from zoo.options import DataRoot, Device, DryRun, Import, Json, Out, Precision, Set


@app.command(rich_help_panel=FIRST, epilog=examples("rpg demo", "rpg demo --set method.train.steps=300 --out quick"))
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


@app.command(rich_help_panel=LEARN, epilog=examples("rpg methods", "rpg methods --json"))
def methods(imports: Import = [], as_json: Json = False) -> None:  # noqa: B006
    """List the methods: what each is, what it suits, and the settings that come with it."""
    from rpg.methods import describe_methods
    from zoo.table import Table

    rows = describe_methods()
    columns = ("method", "trained", "settings", "what it is")
    cells = [(r["name"], "yes" if r["trained"] else "no", ", ".join(r["settings"]), r["what"]) for r in rows]
    emit({"methods": rows}, as_json, Table(columns, tuple(cells)).text())


@app.command(
    rich_help_panel=LEARN,
    epilog=examples(
        "rpg train",
        "rpg train digits",
        "rpg train --zoo zoos/digits --method gaussian",
        "rpg train digits --set method.train.steps=500 --dry-run",
    ),
)
def train(
    what: What = None,
    zoo: FromZoo = None,
    method: Method = None,
    split: Annotated[str, typer.Option(help="The checkpoints to learn from.")] = "train",
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    track: Track = [],  # noqa: B006
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a generator on one split of a zoo (default place: runs/<recipe>, or runs/<recipe>-<method>). Run it again
    to continue.

    Task and structure are the zoo's; a recipe for other networks is refused. Without a recipe and a zoo the newest
    collected zoo under zoos/ is learnt, as its name says. Without a recipe and a method, RPG learns in the size that
    suits the networks. On several devices: `accelerate launch $(which rpg) train RECIPE`.
    """
    from rpg.api import plan_training
    from rpg.evaluation import find_collected
    from rpg.processes import ignored_options
    from zoo.health import warn_of_guessers
    from zoo.progress import duration

    if what is None and zoo is None:
        what, zoo = find_collected()
        say(f"learning the newest collected zoo, as `rpg train {what}{f' --zoo {zoo}' if zoo else ''}` does")
    plan = plan_training(
        what,
        method,
        zoo=zoo,
        split=split,
        out=out,
        overrides=overrides,
        data_root=data_root,
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
    warn_of_guessers(plan.data.zoo, split)
    if plan.unfinished and is_first_process():
        least = duration(3600 * plan.estimate().fit_hours)
        say(f"it takes at least {least} on this machine (`rpg estimate` says more)")
    for option in ignored_options():
        say(
            f"{option} of accelerate launch is ignored: precision and accumulation are the recipe's, FSDP's units fixed"
        )
    run = plan.carry_out()
    about = {"run": str(run.path), "name": plan.origin.name, "method": plan.config.name}
    spent = run.spent
    took = {} if spent is None else {"spent": spent.model_dump(mode="json")}
    emit(about | run.facts | took, as_json, f"learnt, in {run.path}" + (f"\n{spent.text()}" if spent else ""))
    unseen = any(entry.split == "unseen" for entry in plan.data.zoo.entries)
    say_next(["rpg", "generate", typed(run.path, "runs"), *["--split", "unseen"] * unseen], as_json)


@app.command(
    rich_help_panel=LEARN,
    epilog=examples(
        "rpg generate digits -n 10 --score",
        "rpg generate digits --sampler dpm++ --steps 20 --seed 1 --out zoos/digits-fast",
    ),
)
def generate(
    run: RunName,
    n: Annotated[int | None, typer.Option("-n", help="How many networks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn.")] = None,
    sampler: SamplerName = None,
    condition: Conditions = [],  # noqa: B006
    split: TasksOf = None,
    flip: Annotated[bool, typer.Option("--flip", help="And for the complement of each of these tasks.")] = False,
    steps: Annotated[int | None, typer.Option(help="RPG: denoising steps.")] = None,
    mode: Mode = None,
    with_scores: WithScores = False,
    overrides: Set = [],  # noqa: B006
    out: Out = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    imports: Import = [],  # noqa: B006
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate networks from a trained run as a zoo (default place: zoos/<run>-generated).

    A run that was told conditions makes -n networks for everything that --condition and --split name.
    """
    from rpg.api import load, plan_generation
    from rpg.run import wanted_conditions
    from zoo.recipe import drawn_of
    from zoo.scoring import result, table

    trained = load(run)
    flags: dict[str, Any] = {"n": n, "seed": seed, "sampler": sampler, "steps": steps, "mode": mode}
    flags["conditions"] = wanted_conditions(trained, condition, split, flip) if condition or split or flip else None
    settings = drawn_of(overrides, {key: value for key, value in flags.items() if value is not None})
    told, asked = settings.get("steps"), {**trained.record().draw, **settings}
    if told is not None and asked.get("sampler") == "readout":
        raise ValueError(f"--steps {told} are of diffusion, and sampler = readout takes none; leave them out")
    plan = plan_generation(trained, settings, out=out, data_root=data_root, device=device, command=command_line("rpg"))
    if dry_run:
        asked = plan.request.model_dump(mode="json")
        emit({"out": str(plan.path), **asked}, as_json, f"would generate {plan.count} networks into {plan.path}")
        return
    if with_scores:
        zoo, scores = plan.carry_out_and_score(data_root, Path("scores") / plan.path.name)
    else:
        zoo, scores = plan.carry_out(), []
    ids = [entry.id for entry in zoo.entries]
    found: dict[str, Any] = {"zoo": str(zoo.path), "sha256": zoo.sha256, "checkpoints": ids}
    text = f"{len(ids)} networks in {zoo.path}"
    if scores:
        found |= {"scores": result(zoo.manifest.origin.name, scores)}
        text = f"{table(scores)}\n{text}"
    if spent := zoo.manifest.spent:
        found["spent"] = spent.model_dump(mode="json")
        text = f"{text}\n{spent.text()}"
    emit(found, as_json, text)
    say_next(["rpg", "report", typed(zoo.path, "zoos")], as_json)


@app.command(
    "eval",
    rich_help_panel=JUDGE,
    epilog=examples("rpg eval digits-generated", "rpg eval network.safetensors --task digits"),
)
def evaluate(
    weights: Weights = None,
    task: EvalTask = None,
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
    from rpg.evaluation import eval_file, eval_zoo, zoo_to_score
    from zoo.scoring import result, table
    from zoo.tasks.scripted import Script

    measure = Script.load(script) if script else None
    if weights is not None and Path(weights).is_file():
        if out is not None:
            say("--out is ignored: the score of a single file is printed, not kept")
        if dry_run:
            emit({"file": weights}, as_json, f"would score {weights}")
            return
        scores = [eval_file(Path(weights), task, overrides, data_root, device, precision, measure)]
        emit(result(str(task), scores), as_json, table(scores))
        return
    zoo = zoo_to_score(weights, task)
    target = out or Path("scores") / zoo.name
    if dry_run:
        plan = {"out": str(target), "zoo": str(zoo.path), "checkpoints": len(zoo.entries)}
        emit(plan, as_json, f"would score {len(zoo.entries)} checkpoints of {zoo.path} into {target}")
        return
    found = eval_zoo(zoo, target, originals, overrides, data_root, device, precision, command_line("rpg"), measure)
    emit(result(task or zoo.manifest.origin.name, found.scores) | found.tasks_json(), as_json, found.text())


@app.command(
    rich_help_panel=JUDGE, epilog=examples("rpg report digits-generated", "rpg report --task digits --plots png,pdf")
)
def report(
    zoos: Zoos = [],  # noqa: B006
    task: ReportTask = None,
    originals: Originals = None,
    split: Split = None,
    runs: Runs = [],  # noqa: B006
    baselines: Annotated[bool, typer.Option(help="Set baselines beside them.")] = True,
    plots: Plots = "",
    classifier: Classifier = None,
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
    from rpg.evaluation import find_generated, refuse_unknown
    from rpg.reports.stage import plan_report
    from zoo.recipe import is_recipe
    from zoo.tasks.scripted import Script

    if not zoos and task is None:
        raise ValueError("say which networks: generated zoos, or --task RECIPE for the newest of a recipe")
    if task is not None:
        refuse_unknown(task)
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
        classifier=classifier,
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


@app.command(
    rich_help_panel=JUDGE,
    epilog=examples(
        "rpg compare digits-generated digits-gaussian-generated", "rpg compare reports/digits-generated --format latex"
    ),
)
def compare(
    places: Places,
    form: Form = "table",
    baselines: Annotated[bool, typer.Option(help="Show baselines, those of reports, too.")] = True,
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


@app.command(rich_help_panel=AROUND, epilog=examples("rpg ls", "rpg ls demo --json"))
def ls(place: Place = Path(), as_json: Json = False) -> None:
    """List what there is: zoos, runs, scores and reports, with size, method and main score."""
    from rpg.listing import listing
    from zoo.table import Table

    found = listing(place)
    text = Table.of(found).text() if found else f"nothing in {place.resolve()}: no zoos/, runs/, scores/ or reports/"
    emit({"artefacts": found}, as_json, text)


@app.command(rich_help_panel=AROUND, epilog=examples("rpg board", "rpg board demo --port 0"))
def board(place: Place = Path(), port: Port = 8642, host: Host = "127.0.0.1", as_json: Json = False) -> None:
    """Show zoos, runs, scores and reports as pages for a browser, until Ctrl-C. Reads only."""
    from rpg.board.app import show

    show(place, host, port, lambda address: emit({"address": address}, as_json, f"{address}  (Ctrl-C ends it)"))


@app.command(
    rich_help_panel=LEARN,
    epilog=examples("rpg estimate digits", "rpg estimate rpg-large --parameters 86000000 --device h100"),
)
def estimate(
    recipe: RecipeOrMethod,
    method: Method = None,
    overrides: Set = [],  # noqa: B006
    device: EstimateDevice = "auto",
    parameters: Parameters = None,
    sweep: Sweep = None,
    plot: SweepPlot = None,
    imports: Import = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Say what a recipe costs: tokens, parameters, memory, FLOPs, time. Needs neither data nor weights."""
    from rpg.api import find_device, plan_estimate, plan_sweep
    from rpg.sweep import DIGITS, check_plot, draw
    from zoo.table import Table

    check_plot(plot, sweep)
    if sweep is not None:
        machine = find_device(device)
        keys, rows = plan_sweep(recipe, method, overrides, machine, parameters, sweep)
        shown = Table.of(rows, DIGITS).text()
        emit({"recipe": recipe, "sweep": keys, "device": machine.name, "rows": rows}, as_json, shown)
        if plot is not None:
            draw(plot, keys, rows, machine.memory)
        return
    name, found = plan_estimate(recipe, method, overrides, device, parameters)
    emit({"recipe": name, **found.figures}, as_json, f"{name}: {found.text}")


@app.command(rich_help_panel=AROUND, epilog=examples("rpg doctor"))
def doctor(as_json: Json = False) -> int:
    """Say what this machine has and lacks. Exit code 1 when the core cannot work."""
    from rpg.doctor import describe, examine

    found = examine()
    emit(found, as_json, describe(found))
    return 1 if found["problems"] else 0


@app.command(rich_help_panel=AROUND, epilog=examples("rpg push digits user/digits-generator --dry-run"))
def push(
    run: PushedRun,
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
