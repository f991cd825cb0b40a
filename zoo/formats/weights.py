"""Weights of others, whatever is around them: out of their containers, under the network's own names, all of them.

The one way for importing, `rpg eval FILE` and `task.pretrained`. `read` takes the tensors out of a file; `fitted` gives
them the names, shapes and dtypes of a network, and refuses in one line what leaves a tensor out or has one too many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoint import content_hash, load_tensors
from zoo.errors import Corrupt
from zoo.files import parse_json, read_limited, sha256_file
from zoo.formats.arrays import load_arrays
from zoo.formats.inert import load_pickle, no_weights, stands_for
from zoo.structure import DTYPES, LONGEST_NAME, MOST_AXES, Structure, TensorSpec

log = logging.getLogger(__name__)

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".pth.tar", ".pt.tar", ".tar")
SAFETENSORS = ".safetensors"
ARRAYS = ".pkl"  # of NumPy arrays, as detectron2 publishes them
INDEX = ".index.json"
INDEX_BYTES = 2**26
STEMS = ("model", "pytorch_model", "adapter_model")
"""What files of weights in a directory of one network are called."""
CONTAINERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights"),
    *("teacher", "student", "generator", "params_ema", "state_dict_ema", "model_ema", "model_ema_state_dict"),
    *("ema_state_dict", "ema_model", "ema_model_state_dict", "net_ema", "ema", "averaged_model"),
)
"""The keys under which people keep a network's tensors, in the order in which they are preferred."""
DEEPEST = 4  # containers in each other
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and checkpointing put into names, anywhere."""
PREFIXES = ("module.", "model.", "net.", "network.", "backbone.", "encoder.", "_forward_module.")
"""What names of a whole network begin with inside of something else: DataParallel, Lightning's modules, ..."""
COUNTER = ".num_batches_tracked"  # of BatchNorm: older files lack it, and nothing depends on it
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, dense and on the CPU, under their names in it. `key` is the container that they were
    taken from; `others` are keys beside it that hold weights too; `about` is what else the file has at the top.
    """

    tensors: dict[str, Tensor]
    key: str = ""
    others: tuple[str, ...] = ()
    about: Mapping[str, Any] | None = None

    @property
    def note(self) -> str | None:
        """Which of several networks was taken, if there were several."""
        return f"{self.key} was taken, not {', '.join(self.others)}" if self.others else None


def suffix(name: str) -> str | None:
    """How a name ends, if that is a way in which files of weights end."""
    lower = name.lower()
    known = (SAFETENSORS, *sorted(PICKLES, key=len, reverse=True))
    return next((ending for ending in known if lower.endswith(ending)), None)


def in_directory(place: Path, stems: Sequence[str] = STEMS) -> Path:
    """The file of weights in a directory, by its name; the first that could be where there is none."""
    endings = (SAFETENSORS, SAFETENSORS + INDEX, ".bin", ".bin" + INDEX)
    names = [f"{stem}{ending}" for stem in stems for ending in endings]
    return next((place / name for name in names if (place / name).is_file()), place / names[0])


def read(path: Path, key: str | None = None) -> Weights:
    """The weights in a file: .safetensors; a pickle of torch's, or of NumPy arrays (.pkl), bare or in a container (with
    `key`, in that one); or the index of a network in several files.

    Raises Corrupt for what is damaged or wants code to run, ValueError for what holds no weights.
    """
    name = path.name.lower()
    if path.is_file() and (reason := no_weights(path)):
        raise Corrupt(f"{path} is {reason}")
    if name.endswith(INDEX):
        return Weights(_whole(path))
    if name.endswith(SAFETENSORS):
        if key:
            raise ValueError(f"{path} is no pickle; expected one with {key!r}")
        return Weights(load_tensors(path))
    content = load_arrays(path) if name.endswith(ARRAYS) else load_pickle(path)
    if key and not (isinstance(content, dict) and key in content):
        raise ValueError(f"{path} has no {key!r}")
    return _unwrapped(content, key, path)


def _unwrapped(content: object, key: str | None, path: Path) -> Weights:
    """The tensors in nested containers. Raises ValueError, with the keys that are there."""
    about = {k: v for k, v in content.items() if isinstance(k, str)} if isinstance(content, dict) else None
    taken: list[str] = []
    others: list[str] = []
    while isinstance(content, dict) and len(taken) < DEEPEST:
        if not (key and not taken) and _is_state(content):
            break
        known = [key] if key and not taken else [k for k in CONTAINERS if isinstance(content.get(k), dict)]
        usable = [k for k in known if k == key or _holds_tensors(content[k])] or known
        if not usable:
            break
        others += [".".join([*taken, k]) for k in usable[1:]]
        taken.append(usable[0])
        content = content[usable[0]]
    if not isinstance(content, dict) or not _is_state(content):
        raise ValueError(f"{path} {_description(content, taken)}")
    return Weights(dict(content), ".".join(taken), tuple(others), about if taken else None)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(map(_is_named_tensor, content.items()))


def _holds_tensors(content: object, depth: int = 0) -> bool:
    if not isinstance(content, dict) or depth > DEEPEST:
        return False
    return _is_state(content) or any(_holds_tensors(content.get(k), depth + 1) for k in CONTAINERS)


def _description(content: object, taken: Sequence[str]) -> str:
    """What a file holds instead of a state dict."""
    where = f"under {'.'.join(taken)!r} " if taken else ""
    if name := stands_for(content):
        return f"holds {where}an object of {name}; save its state_dict() instead"
    if not isinstance(content, dict):
        return f"holds {where}{type(content).__name__}; expected a state dict: names and dense tensors"
    if any(isinstance(value, Tensor) for value in content.values()):
        odd = next(key for key, value in content.items() if not _is_named_tensor((key, value)))
        what = _oddity(odd, content[odd])
        return f"holds {where}tensors, but {str(odd)[:60]!r} is {what}; expected a state dict: names and dense tensors"
    keys = _some([f"{key!s}"[:60] for key in content], 8) or "nothing"
    return f"holds {where}a dict of {keys}; expected a state dict, bare or under one of {', '.join(CONTAINERS)}"


def _oddity(name: object, value: object) -> str:
    """What an item of a state dict is that is no name and dense tensor."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if not isinstance(name, str):
        return f"under a key of type {type(name).__name__}, not under a name"
    if value.is_meta:
        return "without values (it was on the meta device)"
    if value.is_quantized or value.layout != torch.strided:
        return "quantised" if value.is_quantized else f"of layout {str(value.layout).removeprefix('torch.')}"
    return "a view that repeats values; save a copy of it"


def _is_named_tensor(item: tuple[object, object]) -> bool:
    """Whether it is a name and a dense tensor whose values are there: a pickle can claim any size with strides of 0."""
    name, value = item
    if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided):
        return False
    if value.is_quantized or value.device.type != "cpu":
        return False
    return value.numel() * value.itemsize <= value.untyped_storage().nbytes()


def parts(index: Path) -> dict[str, str]:
    """The file of each tensor of a network in several files, as its index says. Raises Corrupt for an index that is
    damaged or names files elsewhere.
    """
    content = parse_json(read_limited(index, INDEX_BYTES), index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise Corrupt(f"{index} has no weight_map; expected the index of a network in several files")
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name or suffix(name) is None:
            raise Corrupt(f"{index} names {str(name)[:60]!r}; expected files of weights beside it")
    return found


def _whole(index: Path) -> dict[str, Tensor]:
    """The tensors of a network in several files. Raises Corrupt where they are not what the index says."""
    where = parts(index)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        path = index.parent / file
        if not path.is_file():
            raise Corrupt(f"its part {file} is missing")
        found = read(path).tensors
        listed = {name for name, place in where.items() if place == file}
        if listed != found.keys():
            name = min(listed ^ found.keys())
            raise Corrupt(f"{index.name} {'has' if name in listed else 'lacks'} {name[:120]}, unlike its part {file}")
        tensors |= found
    return {name: tensors[name] for name in where}


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers put into names: DataParallel, torch.compile, FSDP, AveragedModel."""
    names = {name: _without_wrappers(name) for name in tensors}
    counted = [name for name in tensors if name != "n_averaged"]
    while counted and all(names[name].startswith("module.") for name in counted):
        names |= {name: names[name].removeprefix("module.") for name in counted}
        if "n_averaged" in names:
            del names["n_averaged"]
    return _renamed(tensors, names)


def bare(names: Iterable[str]) -> str:
    """The longest chain of usual prefixes that all these names begin with."""
    found, names = "", list(names)
    while names and (more := [p for p in PREFIXES if all(name.startswith(found + p) for name in names)]):
        found += more[0]
    return found


def _without_wrappers(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    found = {new: tensors[old] for old, new in names.items()}
    if len(found) < len(names):
        raise ValueError("two of its tensors have one name without the prefixes of wrappers")
    return found


@dataclass(frozen=True)
class Fitted:
    """Weights under a network's names, in its order. `notes` say what was changed; `left` are the parts of another head
    that were left out.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def log_notes(file: Path, weights: Weights, found: Fitted) -> None:
    """Log what was taken of a file for `task.pretrained`, and what was changed."""
    for note in (weights.note, *found.notes):
        if note:
            log.info("task.pretrained %s: %s", file, note)


def hash_of(file: Path) -> str:
    """What a file of weights hashes to, for the record: its SHA-256; that of the tensors (content_hash) of a network in
    several files.
    """
    if file.name.lower().endswith(INDEX):
        return f"tensors {content_hash(read(file).tensors)}"
    return f"sha256 {sha256_file(file)}"


def fitted(
    tensors: Mapping[str, Tensor], structure: Structure, what: str, cast: bool = False, head: Sequence[str] = ()
) -> Fitted:
    """The tensors under the structure's names, shapes and dtypes. Prefixes of wrappers are dropped; a tensor that is
    tied to one that is there is that one; BatchNorm's counters that are missing are 0; 16-bit floats become 32-bit ones
    where the network has these, and with `cast` any floats any others. Of the modules in `head` nothing is taken unless
    the network's own are there, of their sizes.

    Raises ValueError unless that gives all of them and nothing else: a line with what is missing and unexpected, and
    a prefix that would fit.
    """
    expected = {spec.name: spec for spec in structure}
    found, prefix = _aligned(plain(tensors), expected)
    left = _other_head(found, expected, head)
    expected = {name: spec for name, spec in expected.items() if name not in left}
    found = {name: tensor for name, tensor in found.items() if not (left and _is_in(name, head))}
    notes = [f"names without {prefix!r}"] if prefix else []
    missing = [name for name in expected if name not in found]
    counters = [name for name in missing if name.endswith(COUNTER) and not expected[name].shape]
    for name in [name for name in found if name.endswith(COUNTER) and name not in expected]:
        if name.removesuffix(COUNTER) + ".running_mean" in expected:  # a network whose other files lack them
            del found[name]
    tied = {name: expected[name].tied_to for name in missing if expected[name].tied_to in found}
    found |= {name: torch.zeros((), dtype=DTYPES[expected[name].dtype]) for name in counters}
    found |= {name: found[str(source)] for name, source in tied.items()}
    if counters:
        notes.append("BatchNorm's counters (num_batches_tracked) are missing and were set to 0")
    lines = differences(found, expected)
    if lines:
        raise ValueError(f"{what} does not fit: {'; '.join(lines)}{_hint(tensors, expected)}")
    converted = {name: _converted(name, found[name], spec, cast) for name, spec in expected.items()}
    changed = [name for name in expected if found[name].dtype != converted[name].dtype]
    if changed:
        old = ", ".join(sorted({dtype(found[name]) for name in changed}))
        notes.append(f"{old} became {', '.join(sorted({expected[name].dtype for name in changed}))}")
    return Fitted(converted, tuple(notes), tuple(left))


def _is_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _other_head(found: Mapping[str, Tensor], expected: Mapping[str, TensorSpec], head: Sequence[str]) -> set[str]:
    """The network's tensors of these modules, if the file has none of them, or those of a head of another size. One
    that is cut, as a weight without its bias, is no other head.
    """
    own, theirs = ({name for name in names if _is_in(name, head)} for names in (expected, found))
    fit = {name for name in own & theirs if tuple(found[name].shape) == expected[name].shape}
    return own if not theirs or not (fit == theirs and theirs <= own) else set()


def _aligned(tensors: dict[str, Tensor], expected: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors without the chain of usual prefixes under which most of the expected names are found, and that chain.
    Names without it stay as they are.
    """
    chains, new = [""], [""]
    while new := [c + p for c in new for p in PREFIXES if any(name.startswith(c + p) for name in tensors)]:
        chains += new
    best = max(chains, key=lambda c: (sum(c + name in tensors for name in expected), -len(c)))
    names = {name: name.removeprefix(best) for name in tensors}
    if not best or len(set(names.values())) < len(names):
        return dict(tensors), ""
    return _renamed(tensors, names), best


def differences(found: Mapping[str, Tensor], expected: Mapping[str, TensorSpec]) -> list[str]:
    """What is missing, unexpected or of another shape, in up to three phrases."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} should be {list(spec.shape)}, found {list(found[name].shape)}"
        for name, spec in expected.items()
        if name in found and tuple(found[name].shape) != spec.shape
    ]
    named = (("missing", missing), ("unexpected", unexpected))
    return [f"{kind}: {_some(names, SHOWN)}" for kind, names in named if names] + (
        [_some(shapes, SHOWN)] if shapes else []
    )


def _hint(tensors: Mapping[str, Tensor], expected: Mapping[str, TensorSpec]) -> str:
    """The prefix under which all the expected tensors are in the file, if there is one."""
    first = next((name for name in expected if not name.endswith(COUNTER)), "")
    for name in tensors:
        prefix = name.removesuffix(first)
        if first and prefix and name != prefix and all(prefix + n in tensors for n in expected):
            return f"; its tensors with the prefix {prefix[:60]!r} would fit: save these alone, without it"
    return ""


def _converted(name: str, tensor: Tensor, spec: TensorSpec, cast: bool) -> Tensor:
    target = DTYPES[spec.dtype]
    if tensor.dtype == target:
        return tensor
    floats = tensor.is_floating_point() and target.is_floating_point
    if not floats or not (cast or torch.promote_types(tensor.dtype, target) == target):
        way = "; --cast converts it" if floats else ""
        raise ValueError(f"{name} is {dtype(tensor)}, expected {spec.dtype}{way}")
    converted = tensor.to(target)
    if not bool(converted.isfinite().eq(tensor.isfinite()).all()):
        raise ValueError(f"{name} has values too large for {spec.dtype}")
    return converted


def dtype(tensor: Tensor) -> str:
    """torch's name of its dtype, without the prefix."""
    return str(tensor.dtype).removeprefix("torch.")


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a tensor of a dtype that no checkpoint may have (complex, 8-bit floats), with a name that is
    too long, or with too many axes.
    """
    for name, tensor in tensors.items():
        if not 0 < len(name) <= LONGEST_NAME or tensor.ndim > MOST_AXES:
            raise ValueError(
                f"{name[:60]} ... has a name of {len(name)} characters and {tensor.ndim} axes; expected at most "
                f"{LONGEST_NAME} and {MOST_AXES}"
            )
        if dtype(tensor) not in DTYPES:
            raise ValueError(f"{name[:120]} has dtype {dtype(tensor)}; expected one of {', '.join(DTYPES)}")


def _some(names: Sequence[str], count: int) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(name[:120] for name in names[:count]) + more
