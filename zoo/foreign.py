"""Checkpoints as other projects lay them out on disk: where they are, and what their places say about them.

| format       | layout                                                                                         |
|--------------|------------------------------------------------------------------------------------------------|
| `folder`     | .safetensors, .pth, .pt, .bin; RPG's authors' names `0007_acc0.9312_seed0020_tag.pth` are read |
| `modelzoo`   | the Model Zoos (Schürholt et al., 2022): Ray Tune's trials, `checkpoint_000005/checkpoints`     |
| `timm`       | directories with config.json and model.safetensors or pytorch_model.bin                        |
| `peft`       | directories with adapter_config.json and adapter_model.safetensors or .bin (NVlabs' DoRA, too) |
| `mmseg`      | .pth with `meta` and `state_dict`                                                              |
| `detectron2` | .pth with `model`                                                                              |

Nothing here is trusted: pickles are read with tensors only, JSON in bounded size, links out of the directory are not
followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.metrics import Metric
from zoo.checkpoint import load_foreign, load_pickle
from zoo.errors import Corrupt, suggest
from zoo.files import parse_json, read_limited

FORMATS = ("folder", "modelzoo", "timm", "peft", "mmseg", "detectron2")
PICKLES = (".pth", ".pt", ".bin")
DIRECTORIES = {
    "timm": ("config.json", "architecture", ("model.safetensors", "pytorch_model.bin")),
    "peft": ("adapter_config.json", "peft_type", ("adapter_model.safetensors", "adapter_model.bin")),
}
"""Formats with a directory per checkpoint: its configuration, a key of it, the file of weights."""
WRAPPERS = {"mmseg": "state_dict", "detectron2": "model"}
"""Formats with a file per checkpoint: the key of its tensors."""
MAGNITUDE = ".weight_m_wdecomp.weight"
JSON_BYTES = 2**24  # of one configuration or of a trial's results
LARGEST = 2**63 - 1  # what an entry's numbers may be
TRIAL_CHECKPOINT = re.compile(r"checkpoint_(\d{1,9})")


@dataclass(frozen=True)
class Source:
    """A checkpoint to import, and the fields of its entry. `problem` says why it cannot be, where that is known
    without reading it.
    """

    path: Path
    id: str
    seed: int = 0
    step: int = 0
    condition: str | None = None
    metrics: tuple[Metric, ...] = ()
    problem: str | None = None

    def load(self, form: str) -> dict[str, Tensor]:
        """Its tensors under their own names. Raises Corrupt or ValueError for what is no plain checkpoint."""
        tensors = load_foreign(self.path, WRAPPERS.get(form))
        return dict(map(_as_peft, tensors.items())) if form == "peft" else tensors


def _as_peft(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """A tensor of an adapter as peft has it: in NVlabs' DoRA magnitudes are the weights of layers with one input."""
    name, tensor = item
    if name.endswith(MAGNITUDE) and tensor.ndim == 2 and tensor.shape[1] == 1:
        return name.removesuffix(MAGNITUDE) + ".lora_magnitude_vector", tensor[:, 0]
    return item


def sources(place: Path, form: str) -> list[Source]:
    """What a file or directory holds in this format, with distinct ids, in the order of their paths; what looks like a
    checkpoint but is none has a `problem`.

    Raises ValueError when there is nothing.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form} is not a format{suggest(form, FORMATS)}")
    if form == "modelzoo":
        found = _trials(place)
    elif form in DIRECTORIES:
        found = _directories(place, form)
    else:
        found = map(_file, _files(place))
    inside = (_contained(source, place) for source in found)
    distinct = list(_distinct(inside))
    if not distinct:
        raise ValueError(f"{place} holds nothing in the format {form}; `rpg-zoo import --help` names the formats")
    return distinct


def detect(place: Path) -> str:
    """The format of a file or directory. Raises ValueError when it could be none of them, or several."""
    if not place.exists():
        raise ValueError(f"there is no {place}; expected a directory or file of checkpoints")
    found = [form for form in DIRECTORIES if any(_directories(place, form))]
    if any(_trials(place)):
        found.append("modelzoo")
    if not found:
        found = [_file_format(path) for path in _files(place) if path.suffix in (".safetensors", *PICKLES)][:1]
    if len(found) != 1:
        what = " and ".join(found) if found else "none of the formats"
        raise ValueError(f"{place} looks like {what}; say which with --format {'|'.join(FORMATS)}")
    return found[0]


def _file_format(path: Path) -> str:
    """Which of the formats with a file per checkpoint this one has."""
    content: object = None
    if path.suffix in PICKLES and path.is_file():
        with suppress(Corrupt):  # importing says why
            content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and "meta" in content:
        return "mmseg"
    return "detectron2" if isinstance(content, dict) and isinstance(content.get("model"), dict) else "folder"


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if not path.is_dir())


def _file(path: Path) -> Source:
    source = Source(path, path.stem)
    if path.suffix in (".pkl", ".pickle"):
        return replace(
            source,
            problem="a pickle of this kind may run code when it is read; save its tensors as .pth or .safetensors",
        )
    if path.suffix not in (".safetensors", *PICKLES):
        return replace(source, problem="not a checkpoint by its name (.safetensors, .pth, .pt, .bin)")
    return replace(source, **_fields(path.stem))


def _fields(stem: str) -> dict[str, Any]:
    """What a name by RPG's authors says: step, accuracy (of unknown data), seed, class."""
    fields: dict[str, Any] = {}
    for number, part in enumerate(stem.split("_")):
        if number == 0 and part.isascii() and part.isdigit():
            fields["step"] = min(int(part[:30]), LARGEST)
        elif match := re.fullmatch(r"acc([0-9]{1,3}(\.[0-9]{1,20})?)", part):
            fields["metrics"] = _accuracy("acc", float(match[1]))
        elif match := re.fullmatch(r"seed([0-9]{1,18})", part):
            fields["seed"] = int(match[1])
        elif match := re.fullmatch(r"class([0-9A-Za-z.-]{1,64})", part):
            fields["condition"] = match[1]
    return fields


def _accuracy(name: str, value: object) -> tuple[Metric, ...]:
    """An accuracy, given as a share up to 1 or in percent. Nobody wrote down of how many samples: it is given the
    standard error of a single one, which is the largest that it can have.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:  # which NaN is not
        return ()
    share = float(value) if value <= 1 else value / 100
    return (Metric(name, 100 * share, n=1, stderr=100 * math.sqrt(share * (1 - share))),)


def _directories(place: Path, form: str) -> Iterator[Source]:
    """Directories with a configuration and weights: `place`, or those in it."""
    config_name, key, weights_names = DIRECTORIES[form]
    for directory in [place, *sorted(path for path in place.glob("*") if path.is_dir())]:
        config = directory / config_name
        weights = next((directory / name for name in weights_names if (directory / name).is_file()), None)
        if config.is_file() and (weights or form == "peft"):  # config.json alone is all sorts of things
            source = Source(weights or directory / weights_names[0], directory.resolve().name)
            problem = None if weights else f"has no {' or '.join(weights_names)}"
            yield replace(source, problem=problem or _lacks(config, key))


def _lacks(config: Path, key: str) -> str | None:
    try:
        content = parse_json(read_limited(config, JSON_BYTES), config)
    except Corrupt as error:
        return str(error)
    return None if isinstance(content, dict) and key in content else f"{config} has no {key!r}"


def _trials(place: Path) -> Iterator[Source]:
    """The checkpoints of Ray Tune's trials: directories with params.json, at any depth."""
    for params in sorted(place.rglob("params.json")):
        trial = params.parent
        numbered = sorted(
            (int(match[1]), path)
            for path in trial.iterdir()
            if path.is_dir() and (match := TRIAL_CHECKPOINT.fullmatch(path.name))
        )
        if not numbered:
            continue
        try:
            settings = parse_json(read_limited(params, JSON_BYTES), params)
            results, problem = _results(trial / "result.json"), None
        except Corrupt as error:
            settings, results, problem = {}, {}, str(error)
        seed = settings.get("seed") if isinstance(settings, dict) else None
        for step, path in numbered:
            yield Source(
                path / "checkpoints",
                f"{trial.name}-{step:06d}",
                seed=seed if type(seed) is int and abs(seed) <= LARGEST else 0,
                step=step,
                metrics=results.get(step, ()),
                problem=problem,
            )


def _results(path: Path) -> dict[int, tuple[Metric, ...]]:
    """Accuracies by training iteration: some zoos lack the row of the untrained network, so rows cannot be counted.

    Losses are left out: neither their samples nor their spread are known. Raises Corrupt for damaged JSON.
    """
    if not path.is_file():
        return {}
    found = {}
    for line in read_limited(path, JSON_BYTES).splitlines():
        row = parse_json(line, path)
        if isinstance(row, dict) and type(row.get("training_iteration")) is int:
            names = ("train_acc", "val_acc", "test_acc")
            found[row["training_iteration"]] = tuple(m for name in names for m in _accuracy(name, row.get(name)))
    return found


def activations(place: Path) -> list[str]:
    """The activation functions that the trials under `place` name."""
    found = set()
    for params in place.rglob("params.json"):
        try:
            settings = parse_json(read_limited(params, JSON_BYTES), params)
        except Corrupt:
            continue
        if isinstance(settings, dict) and isinstance(settings.get("model::nlin"), str):
            found.add(settings["model::nlin"][:40])
    return sorted(found)


def _contained(source: Source, place: Path) -> Source:
    """The source, refused where it is not a regular file inside `place`."""
    if source.problem:
        return source
    try:
        if not source.path.is_file():
            return replace(source, problem="missing, or not a regular file")
        if not source.path.resolve().is_relative_to(place.resolve()):
            return replace(source, problem=f"a link that points outside {place}")
    except (OSError, RuntimeError) as error:  # a loop of links
        return replace(source, problem=f"cannot be read: {error}")
    return source


def _distinct(found: Iterable[Source]) -> Iterator[Source]:
    """The sources with ids as manifests want them, numbered where two would be equal."""
    taken: set[str] = set()
    for source in found:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.id).lstrip("._-")[:110] or "checkpoint"
        id, number = plain, 1
        while not source.problem and id in taken:
            number += 1
            id = f"{plain}-{number}"
        if not source.problem:
            taken.add(id)
        yield replace(source, id=id)


def by_order(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Tensor]:
    """The tensors under the expected names, paired in order: the Model Zoos' names differ with their dropout.

    Raises ValueError where shape or dtype (torch's name) of a pair differ.
    """
    if len(tensors) != len(expected):
        raise ValueError(f"has {len(tensors)} tensors, expected {len(expected)}")
    renamed = {}
    for (name, tensor), (new, (shape, dtype)) in zip(tensors.items(), expected.items(), strict=True):
        found = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if found != (shape, dtype):
            raise ValueError(f"{name} is {found[1]}{list(found[0])}, expected {new} {dtype}{list(shape)}")
        renamed[new] = tensor
    return renamed
