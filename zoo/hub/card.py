"""Cards: the README.md of a published zoo, checkpoint or generator, with the metadata that the Hub reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from zoo.hub.licenses import ingredients
from zoo.manifest import Entry, Origin
from zoo.recipe import task_of
from zoo.scoring import Score, summaries
from zoo.store import Zoo

SITE = "rpg-zoo"
INSTALL = "pip install rpg-zoo"
ALTS = {
    "similarity": "Accuracy of every network against how alike its errors are to a training checkpoint's",
    "distance": "Distances of every group to the nearest training checkpoint",
    "loss": "Training loss by step",
    "head": "Head weights along two principal components",
    "picture": "Head weights as colours, a row per network",
}
"""What a report's plots show, by name."""
HUB_DATA = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
"""Data sets by their names on the Hub."""
KINDS = {
    "classification": "image-classification",
    "binary": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "commonsense": "question-answering",
}
"""Task families by what the Hub calls them."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LOADING = {
    "timm": 'import timm\n\nmodel = timm.create_model("hf-hub:{repo}", pretrained=True)',
    "peft": "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
    'base = AutoModelForCausalLM.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "{repo}")',
    "mmseg": "from huggingface_hub import hf_hub_download\nfrom mmengine.runner import load_checkpoint\n\n"
    'load_checkpoint(model, hf_hub_download("{repo}", "{file}"))',
    "detectron2": "from detectron2.checkpoint import DetectionCheckpointer\n"
    "from huggingface_hub import hf_hub_download\n\n"
    'DetectionCheckpointer(model).load(hf_hub_download("{repo}", "{file}"))',
    "safetensors": "from huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\n"
    'model.load_state_dict(load_file(hf_hub_download("{repo}", "{file}")))',
}
"""How the Python of each library loads one of its models from the Hub."""


def zoo_card(
    zoo: Zoo,
    repo_id: str,
    license: str,
    scores: list[Score] | None = None,
    report: str = "",
    plots: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The card of a dataset repository that holds a zoo. `report` is Markdown, `plots` are images there and what they
    show.
    """
    metadata = {
        "license": license,
        "library_name": SITE,
        "pretty_name": f"Neural networks: {_named(zoo.manifest.origin)}",
        "tags": [SITE, "neural-network-weights", "model-zoo", zoo.manifest.origin.kind],
        "size_categories": [_size_category(len(zoo.entries))],
        "configs": [{"config_name": "default", "data_files": "index.parquet"}],
        **({"source_datasets": found} if (found := _datasets(zoo.manifest.origin)) else {}),
    }
    tick = "```"
    first = zoo.entries[0].id
    parts = [
        f"# {_named(zoo.manifest.origin)}: {len(zoo.entries)} neural networks as data",
        f"{_what(zoo)} `index.parquet` has a row per checkpoint; it is what the viewer shows and what "
        f'`datasets.load_dataset("{repo_id}")` reads. `manifest.json` has the hash of every file and checkpoint.',
        "## Loading",
        f"{tick}sh\n{INSTALL}\n{tick}",
        f'{tick}python\nfrom zoo.store import Zoo\n\nzoo = Zoo.open("hf://{repo_id}")  # downloads what is looked at\n'
        f'weights = zoo.load(zoo.entry("{first}"))  # a state dict, checked against its hash\n{tick}',
        f"{tick}sh\nrpg-zoo pull {repo_id}                          # everything, verified\n"
        f"rpg-zoo pull {repo_id} --select 'split=={zoo.entries[0].split}'\nrpg-zoo pull {repo_id} --id {first}\n{tick}",
        *_results(scores, report, plots),
        *_provenance(zoo, license),
    ]
    return _front_matter(metadata) + "\n\n".join(parts) + "\n"


def checkpoint_card(zoo: Zoo, id: str, repo_id: str, license: str, library: str, file: str) -> str:
    """The card of a model repository that holds one checkpoint, in a file, in the format of its library."""
    origin = zoo.manifest.origin
    metadata: dict[str, Any] = {"license": license, "library_name": library, "tags": [SITE, library, origin.kind]}
    base = task_of(origin).library_config().get("base_model_name_or_path", "")
    if HUB_ID.fullmatch(base):
        metadata["base_model"] = base
    metadata |= _data(origin) | _model_index(origin, zoo.entry(id))
    tick = "```"
    loading = LOADING[library].format(repo=repo_id, file=file, base=base)
    entry = zoo.entry(id)
    parts = [
        f"# {id} of {origin.name}",
        f"One network out of a zoo. {_what(zoo)}",
        f"## Loading\n\n{tick}python\n{loading}\n{tick}",
        f"SHA-256 of the checkpoint: `{entry.sha256}`, of the zoo's manifest: `{zoo.sha256}`.",
        *_provenance(zoo, license),
    ]
    return _front_matter(metadata) + "\n\n".join(parts) + "\n"


def generator_card(
    origin: Origin, method: str, what: str, facts: Mapping[str, Any], checkpoints: int, repo_id: str, license: str
) -> str:
    """The card of a model repository that holds a trained generator: `origin` is its run's, `what` its method in words,
    `facts` what that says of what it has learnt.
    """
    metadata: dict[str, Any] = {"license": license, "library_name": SITE}
    metadata |= {"tags": [SITE, "weight-generation", method]} | _data(origin)
    parts = [
        f"# A generator of neural networks: {origin.name}",
        f"It draws the weights of whole networks, learnt from {checkpoints} checkpoints of task {origin.family}. "
        f"Method: {what}. {', '.join(f'{name} {value}' for name, value in facts.items())}.",
        f"## Generating\n\n```sh\n{INSTALL}\nrpg generate hf://{repo_id} -n 10\n```",
        *_made(origin, license),
    ]
    return _front_matter(metadata) + "\n\n".join(parts) + "\n"


def read_plots(report: Path) -> list[tuple[str, bytes]]:
    """The plots of a report (`rpg report`), as what they show and SVG files, by their names."""
    found = sorted((report / "plots").glob("*.svg"))
    return [(ALTS.get(path.stem, path.stem), path.read_bytes()) for path in found]


def _front_matter(metadata: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n"


def _named(origin: Origin) -> str:
    """Its name, and what a derived zoo was derived by, such as `align`: its source has the same name."""
    by = [key for key in origin.settings if key != "split"] if origin.kind == "derived" else []
    return f"{origin.name} ({', '.join(by)})" if by else origin.name


def _what(zoo: Zoo) -> str:
    origin, splits = zoo.manifest.origin, [entry.split for entry in zoo.entries]
    counts = ", ".join(f"{splits.count(split)} of split `{split}`" for split in sorted(set(splits)))
    chosen = f" They are {zoo.manifest.selection}." if zoo.manifest.selection else ""
    return (
        f"{len(zoo.entries)} checkpoints ({counts}) of {zoo.structure.numel:,} values each, {origin.kind} for task "
        f"{origin.family} with recipe {origin.name}.{chosen}"
    )


def _results(scores: list[Score] | None, report: str, plots: Mapping[str, str]) -> list[str]:
    parts = ["## Results"] if scores or report else []
    if scores:
        rows = [
            f"| {name} | {s.best:.3f} | {s.mean:.3f} | {s.median:.3f} | {s.min:.3f} | {s.std:.3f} | {s.n} |"
            for name, s in summaries(scores).items()
        ]
        head = "| metric | best | mean | median | min | std | n |\n|---|---:|---:|---:|---:|---:|---:|"
        note = f"On test data: {scores[0].protocol}, {scores[0].samples} samples per network."
        parts += ["\n".join([head, *rows]), note]
    if report:
        parts.append(re.sub(r"^#", "###", report, flags=re.MULTILINE))
    return [*parts, *(f"![{plots[name]}]({name})" for name in plots)]


def _datasets(origin: Origin) -> list[str]:
    """The data set that networks of this origin were trained on, by its name on the Hub; none if it is not there."""
    name = HUB_DATA.get(_data_name(origin))
    return [name] if name else []


def _data_name(origin: Origin) -> str:
    """The data set that networks of this origin were trained on, as licences name it."""
    return ingredients(origin)[0].name


def _data(origin: Origin) -> dict[str, Any]:
    found = _datasets(origin)
    return {"datasets": found} if found else {}


def _model_index(origin: Origin, entry: Entry) -> dict[str, Any]:
    """What a network scored on validation data when it was made, as the Hub wants it; nothing where nobody measured."""
    if not entry.metrics or origin.family not in KINDS:
        return {}
    data = _data_name(origin)
    result = {
        "task": {"type": KINDS[origin.family]},
        "dataset": {"name": data, "type": HUB_DATA.get(data, data), "split": "validation"},
        "metrics": [{"type": name, "value": round(metric.value, 4)} for name, metric in entry.metrics.items()],
    }
    return {"model-index": [{"name": f"{origin.name}/{entry.id}", "results": [result]}]}


def _provenance(zoo: Zoo, license: str) -> list[str]:
    return [*_made(zoo.manifest.origin, license), f"Manifest: `{zoo.sha256}`."]


def _made(origin: Origin, license: str) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    terms = f"The weights: {license}. They were made of {'; '.join(map(str, ingredients(origin)))}."
    return [
        "## How it was made",
        f"`{shlex.join(origin.command)}`\n\nwith {versions}.",
        f"<details><summary>The whole recipe</summary>\n\n```yaml\n{origin.recipe_text().rstrip()}\n```\n\n</details>",
        "## Licence",
        terms,
    ]


def _size_category(count: int) -> str:
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
    return next((name for bound, name in bounds.items() if count < bound), "100K<n<1M")
