"""Options of `rpg` (those that both programs share: zoo.options)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo import command_help as complete

What = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE|ZOO",
        help="What to learn: a recipe, whose zoo is known, or a zoo (default: the newest collected zoo).",
        autocompletion=complete.recipes_or_zoos,
    ),
]
FromZoo = Annotated[
    str | None,
    typer.Option("--zoo", help="The zoo to learn from (default: zoos/<recipe>).", autocompletion=complete.zoos),
]
Track = Annotated[
    list[str],
    typer.Option("--track", metavar="TRACKER", help="Log to tensorboard (in the run's logs/), wandb or trackio."),
]
StepWorkers = Annotated[int | None, typer.Option("--workers", min=1, help="How many steps to take at a time.")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run's directory, its name under runs/, or hf://.", autocompletion=complete.runs
    ),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        help="RPG: ddpm, ddim or dpm++ (made for few steps, say 20).",
        autocompletion=complete.samplers,
    ),
]
Conditions = Annotated[
    list[str],
    typer.Option(
        "--condition",
        metavar="BITS|CLASSES|METRIC|TEXT",
        help="What to generate for: a binary task, 0100010111 or 'cat,dog | truck', loss=0.1, or 'animals against "
        "vehicles'; can be repeated.",
    ),
]
TasksOf = Annotated[
    str | None,
    typer.Option("--split", help="Generate for every task of this split of the run's zoo, as unseen, or all."),
]
WithScores = Annotated[bool, typer.Option("--score", help="Score each network as it comes, into scores/<zoo>.")]
Mode = Annotated[
    str | None, typer.Option(help="RPG: sequential, partial or full: tokens denoised together; less memory first.")
]
Weights = Annotated[
    str | None,
    typer.Argument(
        help="A zoo, or one .safetensors or .pth file (default: the newest generated zoo).",
        autocompletion=complete.zoos,
    ),
]
EvalTask = Annotated[
    str | None,
    typer.Option("--task", help="A recipe or task name (default: the zoo's).", autocompletion=complete.recipes),
]
Zoos = Annotated[
    list[str],
    typer.Argument(
        metavar="ZOO...", help="Generated zoos (default: the newest of --task).", autocompletion=complete.zoos
    ),
]
ReportTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="A recipe or task name; of a recipe the section eval: holds.",
        autocompletion=complete.recipes,
    ),
]
Runs = Annotated[
    list[str],
    typer.Option("--run", help="A run that made some, for its loss curve (default: found under runs/)."),
]
Plots = Annotated[str, typer.Option(help="Formats of the plots beside svg: png, pdf, or both as png,pdf.")]
Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="ZOO|DIR",
        help="Networks that tell all classes apart, to set beside those for binary tasks: a zoo, or exported for timm.",
        autocompletion=complete.zoos,
    ),
]
Tables = Annotated[
    Path, typer.Option("--out", help="Where tables go; zoos, runs and scores are in their usual places.")
]
Places = Annotated[
    list[str],
    typer.Argument(
        metavar="ZOO|REPORT...", help="Generated zoos, or reports.", autocompletion=complete.zoos_or_reports
    ),
]
Form = Annotated[
    str,
    typer.Option(
        "--format",
        help="table, csv, latex or json.",
        autocompletion=complete.table_formats,
    ),
]
RecipeOrMethod = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe, or a method such as rpg-large.", autocompletion=complete.recipes),
]
EstimateDevice = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda (measured), or h100, h200, a100, rtx3090.")
]
Parameters = Annotated[
    int | None,
    typer.Option("--parameters", min=1, help="Values per network, as one tensor, instead of the recipe's network."),
]
PushedRun = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's directory, or its name under runs/.", autocompletion=complete.runs),
]
Originals = Annotated[
    str | None,
    typer.Option(
        "--originals",
        help="The zoo it learnt from (default: found by its hash under zoos/).",
        autocompletion=complete.zoos,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="Settings of a method (`rpg methods`), or a YAML file, instead of the recipe's.",
        autocompletion=complete.methods,
    ),
]
Split = Annotated[
    str | None, typer.Option(help="The originals' split that was learnt from, where the zoos do not say.")
]
ScriptOption = Annotated[
    str | None,
    typer.Option(
        "--script",
        metavar="FILE:FUNCTION",
        help="A function of yours that you trust, which measures each network, too.",
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        metavar="KEY[,KEY...]=VALUES",
        help="One line for each value of a setting, or of `parameters`; A,...,B doubles from A to B.",
    ),
]
SweepPlot = Annotated[Path | None, typer.Option("--plot", help="Draw what --sweep finds: a new SVG file.")]
Place = Annotated[Path, typer.Argument(metavar="DIR", help="A directory with zoos/, runs/, scores/ and reports/.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any that is free.")]
Host = Annotated[
    str, typer.Option("--host", help="The address to listen on: others than 127.0.0.1 let other machines read.")
]
