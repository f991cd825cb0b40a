"""Options of `rpg-zoo` (those that both programs share: zoo.options)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo import command_help as complete

RecipeNames = Annotated[
    list[str],
    typer.Argument(metavar="RECIPE...", help="Short names of recipes, or YAML files.", autocompletion=complete.recipes),
]
Workers = Annotated[int | None, typer.Option(min=1, help="How many networks to train at a time.")]
Engine = Annotated[str, typer.Option(help="Where workers run: local, or ray (a Ray cluster).")]
Source = Annotated[Path, typer.Argument(metavar="SRC", help="A directory of checkpoints, or one file.")]
SourceForm = Annotated[
    str | None,
    typer.Option("--format", help="folder, modelzoo, timm, peft, mmseg or detectron2 (default: what it looks like)."),
]
Purpose = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="What these networks do: needed to score them, not to learn them.",
        autocompletion=complete.recipes,
    ),
]
Cast = Annotated[bool, typer.Option("--cast", help="Convert floats to the recipe's; 16 bits to 32 are always.")]
Holdout = Annotated[str | None, typer.Option(help="Hold binary tasks out: published, random or no-neighbours.")]
CheckpointId = Annotated[str, typer.Argument(metavar="ID", help="A checkpoint, as `rpg-zoo ls ZOO` names it.")]
TargetForm = Annotated[str, typer.Option("--format", help="timm, peft, mmseg, detectron2, pth, ...")]
Kind = Annotated[str, typer.Option(help="noise, soup or gaussian.")]
Sigma = Annotated[float, typer.Option(help="Noise, in standard deviations of each tensor.")]
SoupOf = Annotated[int | None, typer.Option(help="How many networks a soup takes (default: all).")]
AlignTo = Annotated[str, typer.Option(help="universe (the mean of all), medoid, or the id of a network.")]
MatchBy = Annotated[str, typer.Option(help="weights, activations (on training images), or both.")]
RefineSteps = Annotated[int, typer.Option(min=0, help="Steps that lower the loss of means on training images.")]
Restarts = Annotated[int, typer.Option(help="Starts for every network, of which the best is kept.")]
Scale = Annotated[bool, typer.Option(help="Take scales to their balanced point first.")]
MeasureWorth = Annotated[bool, typer.Option(help="Measure averages on test images; without, weights alone.")]
Undo = Annotated[bool, typer.Option("--undo", help="From an aligned zoo, the original one, to the byte.")]
OnlyId = Annotated[str | None, typer.Option("--id", help="Only this checkpoint, as its library loads it.")]
Private = Annotated[bool, typer.Option("--private", help="If the repository is made, make it private.")]
Branch = Annotated[str | None, typer.Option("--revision", help="A branch other than main.")]
Select = Annotated[
    str | None, typer.Option("--select", help="Only these checkpoints, as in 'split==unseen and seed!=3'.")
]
Ids = Annotated[list[str], typer.Option("--id", help="Only this checkpoint; may be repeated.")]
ForRepo = Annotated[str, typer.Option("--repo", metavar="REPO_ID", help="The repository it is for.")]
ZooPath = Annotated[
    str,
    typer.Argument(
        metavar="ZOO",
        help="A zoo's directory, its name under zoos/, or hf://user/zoo.",
        autocompletion=complete.zoos,
    ),
]
Repo = Annotated[str, typer.Argument(metavar="REPO_ID", help="A repository on the Hugging Face Hub, as user/name.")]
License = Annotated[str | None, typer.Option("--license", help="Licence of the weights, as in cc-by-4.0.")]
Scores = Annotated[Path | None, typer.Option("--scores", help="Scores for the card (default: scores/<zoo>).")]
Report = Annotated[Path | None, typer.Option("--report", help="A report's directory, for the card: text and plots.")]
