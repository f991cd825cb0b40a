"""Checkpoints as other projects lay them out on disk: where they are, and what their places say about them.

| format       | layout                                                                                          |
|--------------|-------------------------------------------------------------------------------------------------|
| `folder`     | files .safetensors .pth .pt .bin .ckpt .th .pth.tar, or NAME.index.json of one in several files  |
| `modelzoo`   | the Model Zoos (zoo.formats.trials): Ray Tune's trials, `checkpoint_000005/checkpoints`          |
| `timm`       | directories with config.json and model.safetensors or pytorch_model.bin                         |
| `peft`       | directories with adapter_config.json and adapter_model.safetensors or .bin (NVlabs' DoRA, too)  |
| `mmseg`      | .pth with `state_dict` (and `meta`)                                                              |
| `detectron2` | .pth with `model`                                                                               |

Nothing here is trusted: pickles run nothing (zoo.formats.inert), JSON is read in bounded size, links out of the source
are not followed. What looks like a checkpoint and is none gets a reason; nothing is passed over in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from torch import Tensor

from evaluators.metrics import Metric
from zoo.errors import Corrupt, suggest
from zoo.files import parse_json, read_limited
from zoo.formats import trials
from zoo.formats.naming import CACHE, fields, id_of, training_folder
from zoo.formats.weights import INDEX, Weights, in_directory, parts, read, suffix

FORMATS = ("folder", "modelzoo", "timm", "peft", "mmseg", "detectron2")
DIRECTORIES = {
    "timm": ("config.json", "architecture", ("model", "pytorch_model")),
    "peft": ("adapter_config.json", "peft_type", ("adapter_model",)),
}
"""Formats with a directory per checkpoint: its configuration, a key of it, how files of weights are called there."""
WRAPPERS = {"mmseg": "state_dict", "detectron2": "model"}
"""Formats with a file per checkpoint: the key of its tensors."""
MAGNITUDE = ".weight_m_wdecomp.weight"
JSON_BYTES = 2**24  # of one configuration
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.[a-z.]+", re.IGNORECASE)
NOT_WEIGHTS = {
    r"(optimizer|optim|scheduler|scaler|sampler|rng_state|random_states|training_args|trainer_state)([_-]?\d+)*\..+": (
        "state of training, not weights"
    ),
    r"stack-\d{5}\.safetensors": "by its name a stack of several networks of a zoo; import or pull the zoo itself",
    r"(consolidated\.\d+|.*mp_rank_\d+.*|zero_pp_rank_.*)\.(pth|pt|safetensors)": (
        "by its name a part of a network that was cut for several devices; save it whole"
    ),
}
"""Names of files that hold no network, although their endings say so."""


@dataclass(frozen=True)
class Source:
    """A checkpoint to import, by its `name`, the path inside the source, and the fields of its entry. `problem` says
    why it cannot be, where that is known without reading it; `config` is the configuration beside it. `folder` is that
    of its training, where nothing else says which one it is of. What lies `beside` a checkpoint is not asked for.
    """

    path: Path
    name: str
    id: str
    seed: int = 0
    step: int = 0
    condition: str | None = None
    metrics: tuple[Metric, ...] = ()
    problem: str | None = None
    config: Path | None = None
    folder: PurePath | None = None
    beside: bool = False

    def load(self, form: str) -> Weights:
        """Its tensors under their own names. Raises Corrupt or ValueError for what is no plain checkpoint."""
        weights = read(self.path, WRAPPERS.get(form))
        if form != "peft":
            return weights
        return replace(weights, tensors=dict(map(_as_peft, weights.tensors.items())))


def _as_peft(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """A tensor of an adapter as peft has it: in NVlabs' DoRA magnitudes are the weights of layers with one input."""
    name, tensor = item
    if name.endswith(MAGNITUDE) and tensor.ndim == 2 and tensor.shape[1] == 1:
        return name.removesuffix(MAGNITUDE) + ".lora_magnitude_vector", tensor[:, 0]
    return item


class Place:
    """A directory or file of checkpoints: the regular files in it, and what is left out, with the reason.

    Hidden folders, zoos of our own and links to folders are not entered. Raises ValueError when there is nothing, or
    when it is a zoo itself.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"there is no {path}; expected a directory or file of checkpoints")
        if path.is_dir() and _is_zoo(path):
            raise ValueError(f"{path} is a zoo already; use it as it is, or `rpg-zoo split` or `rpg-zoo export` it")
        self.path = path
        self.files: list[Path] = []
        self.left_out: list[Source] = []
        if path.is_dir():
            self._walk()
        else:
            self.files.append(path)
        self.files.sort()
        self.root = self._cache() or (path if path.is_dir() else path.parent)

    def name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix() if path != self.path else path.name

    def source(self, path: Path, problem: str | None = None, named: PurePath | None = None) -> Source:
        """The source at a path of this place; its id and fields are those of `named`, its path without the ending."""
        if named is None:
            named = PurePath(self.name(path))
            ending = INDEX if named.name.lower().endswith(INDEX) else suffix(named.name) or ""
            named = named.with_name(named.name[: len(named.name) - len(ending)] or "checkpoint")
            if ending == INDEX:
                named = named.with_suffix("")
            if named.name == "model" and len(named.parts) > 1:  # the folder is the name
                named = named.parent
        found = Source(path, self.name(path), id_of(named), problem=problem)
        if problem:
            return found
        said, folder = fields(named), training_folder(PurePath(self.name(path)))
        return replace(found, folder=None if "seed" in said else folder, **said)

    def _walk(self) -> None:
        folders = [self.path]
        while folders:
            folder = folders.pop()
            try:
                inside = list(os.scandir(folder))
            except OSError as error:
                self._leave_out(folder, f"cannot be read: {error.strerror}")
                continue
            for item in inside:
                path = Path(item.path)
                if item.name.startswith("."):
                    self._leave_out(path, "hidden")
                elif not path.is_dir():  # nor a link to one
                    self.files.append(path)
                elif item.is_symlink():
                    self._leave_out(path, "a link to a folder")
                elif _is_zoo(path):
                    self._leave_out(path, "a zoo of ours, not a checkpoint; use it as it is")
                else:
                    folders.append(path)

    def _leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append(self.source(path, reason))

    def _cache(self) -> Path | None:
        """The repository in the Hub's cache of which this place is a snapshot, or a file: files are links into it."""
        whole = (self.path if self.path.is_dir() else self.path.parent).resolve()
        inside = whole.parent.name == "snapshots" and CACHE.fullmatch(whole.parent.parent.name)
        return whole.parent.parent if inside else None

    def problem(self, path: Path) -> str | None:
        """What forbids reading the file at this path, if anything does."""
        try:
            if not path.is_file():
                return "missing, or not a regular file"
            if path != self.path and not path.resolve().is_relative_to(self.root.resolve()):
                return f"a link that points outside {self.path}"
        except (OSError, RuntimeError) as error:  # a loop of links
            return f"cannot be read: {error}"
        return None


def _is_zoo(path: Path) -> bool:
    """Whether a directory is a zoo of ours, or one that is being made."""
    return (path / "checkpoints").is_dir() and any((path / n).is_file() for n in ("manifest.json", "journal.jsonl"))


def sources(place: Place, form: str) -> list[Source]:
    """What a place holds in this format, with distinct ids, in the order of their paths; what looks like a checkpoint
    but is none, or is there a second time, has a `problem`.

    Raises ValueError when there is nothing.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form} is not a format{suggest(form, FORMATS)}")
    if form == "modelzoo":
        found = [_trial(place, trial) for trial in trials.checkpoints(place.files)]
    elif form in DIRECTORIES:
        found = list(_directories(place, form))
    else:
        found = list(_files(place))
    if not found:
        raise ValueError(f"{place.path} holds nothing in the format {form}; `rpg-zoo import --help` names the formats")
    whole = sorted([*found, *place.left_out], key=lambda source: PurePath(source.name))
    return list(_seeded(list(_distinct(_once(place, whole)))))


def detect(place: Place) -> str:
    """The format of a place. Raises ValueError when it could be none of them, or several."""
    found = [form for form, (config, key, _) in DIRECTORIES.items() if _any_config(place, config, key)]
    if next(trials.checkpoints(place.files), None):
        found.append("modelzoo")
    if not found and any(suffix(path.name) or path.name.endswith(INDEX) for path in place.files):
        found = ["folder"]
    if len(found) != 1:
        what = " and ".join(found) if found else "none of the formats"
        raise ValueError(f"{place.path} looks like {what}; say which with --format {'|'.join(FORMATS)}")
    return found[0]


def _any_config(place: Place, name: str, key: str) -> bool:
    return any(path.name == name and _lacks(path, key) is None for path in place.files)


def _trial(place: Place, trial: trials.Trial) -> Source:
    named = PurePath(f"{trial.path.parents[1].name}-{trial.step:06d}")
    return replace(
        Source(trial.path, place.name(trial.path), id_of(named)),
        seed=trial.seed,
        step=trial.step,
        metrics=trial.metrics,
    )


def _files(place: Place) -> Iterator[Source]:
    """A source for every file; the parts of a network are none, its index is one."""
    claimed: set[Path] = set()
    indices = [path for path in place.files if path.name.lower().endswith(INDEX)]
    for index in indices:
        try:
            names = set(parts(index).values())
        except (Corrupt, OSError) as error:
            yield place.source(index, str(error))
            continue
        claimed |= {index.parent / name for name in names}
        yield place.source(index, _parts_problem(index, names, place))
    for path in place.files:
        if path not in claimed and path not in indices:
            yield place.source(path, _name_problem(place, path))


def _parts_problem(index: Path, names: set[str], place: Place) -> str | None:
    if lost := sorted(name for name in names if not (index.parent / name).is_file()):
        return f"its part {lost[0]} is missing" + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else "")
    for name in sorted(names):
        if against := place.problem(index.parent / name):
            return f"its part {name}: {against}"
    stems = {match[1] for name in names if (match := PART.fullmatch(name))}
    beside = (path.name for path in place.files if path.parent == index.parent and path.name not in names)
    others = [
        n for n in beside if (match := PART.fullmatch(n)) and match[1] in stems and (suffix(n) or "?") in index.name
    ]
    return f"{others[0]} lies beside its parts, but is not in the index" if others else None


def _name_problem(place: Place, path: Path) -> str | None:
    """What the name of a file has against it."""
    name = path.name.lower()
    if any(CACHE.fullmatch(part) for part in place.path.resolve().parts[-1:] + path.relative_to(place.path).parts[:-2]):
        folders = path.relative_to(place.path.parent).parts[:-1]
        if "blobs" in folders or "refs" in folders:
            return "of the Hub's cache; its snapshots name what it is"
    for pattern, reason in NOT_WEIGHTS.items():
        if re.fullmatch(pattern, name):
            return reason
    if name.endswith((".pkl", ".pickle")):
        return "a pickle of this kind may run code when it is read; save its tensors as .pth or .safetensors"
    if suffix(name) is None:
        return "not a checkpoint by its name (.safetensors, .pth, .pt, .bin, .ckpt, .th, .pth.tar)"
    if PART.fullmatch(name):
        return "part of a network in several files; expected its index beside it, as model.safetensors.index.json"
    return None


def _directories(place: Place, form: str) -> Iterator[Source]:
    """Directories with a configuration and weights, and files of weights that are in none."""
    config_name, key, stems = DIRECTORIES[form]
    folders = {path.parent: path for path in place.files if path.name == config_name}
    for folder, config in folders.items():
        weights = in_directory(folder, stems)
        named = PurePath(place.name(folder)) if folder != place.path else PurePath(*folder.resolve().parts[-3:])
        if folder == place.path and not CACHE.fullmatch(named.parts[0]):
            named = PurePath(folder.resolve().name)
        lacking = None if weights.is_file() else f"has no {' or '.join(f'{stem}.safetensors' for stem in stems)}"
        problem = lacking or place.problem(config) or _lacks(config, key) or _directory_problem(weights, place)
        source = place.source(weights if weights.is_file() else folder, problem, named)
        yield replace(source, config=config)
    for path in place.files:
        if not suffix(path.name) or _name_problem(place, path):
            continue
        if path.parent not in folders:
            yield place.source(path, f"has no {config_name} beside it, which a checkpoint of {form} has")
        elif path != (taken := in_directory(path.parent, stems)):
            against = f"lies beside {taken.name}, which is taken of this folder"
            yield replace(place.source(path, against), beside=True)


def _directory_problem(weights: Path, place: Place) -> str | None:
    """What is against the parts of a network whose file of weights is an index."""
    if not weights.name.lower().endswith(INDEX):
        return None
    try:
        return _parts_problem(weights, set(parts(weights).values()), place)
    except (Corrupt, OSError) as error:
        return str(error)


def _lacks(config: Path, key: str) -> str | None:
    try:
        content = parse_json(read_limited(config, JSON_BYTES), config)
    except (Corrupt, OSError) as error:
        return str(error)
    return None if isinstance(content, dict) and key in content else f"{config} has no {key!r}"


def _once(place: Place, found: Iterable[Source]) -> Iterator[Source]:
    """The sources, refused where they are no regular files of the place, or the same file under another name: of a
    file and links to it the file counts.
    """
    found = [source if source.problem else replace(source, problem=place.problem(source.path)) for source in found]
    owners: dict[Path, Source] = {}
    for source in sorted(found, key=lambda source: source.path.is_symlink()):
        if not source.problem:
            owners.setdefault(source.path.resolve(), source)
    for source in found:
        owner = source if source.problem else owners[source.path.resolve()]
        yield source if owner is source else replace(source, problem=f"a link to {owner.name}, the same file")


def _seeded(found: Sequence[Source]) -> Iterator[Source]:
    """The sources, those of each folder with a seed of their own: they are taken for those of a training of its own."""
    numbers = {folder: k for k, folder in enumerate(sorted({s.folder for s in found if s.folder is not None}))}
    for source in found:
        yield source if source.folder is None else replace(source, seed=numbers[source.folder])


def _distinct(found: Iterable[Source]) -> Iterator[Source]:
    """The sources with ids of their own, numbered where two would be equal, or on some file systems one file."""
    taken: set[str] = set()
    for source in found:
        id, number = source.id, 1
        while not source.problem and id.lower() in taken:
            number += 1
            id = f"{source.id}-{number}"
        if not source.problem:
            taken.add(id.lower())
        yield replace(source, id=id)
