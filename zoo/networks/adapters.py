"""Adapters of frozen language models. peft and transformers are imported here only, and inside functions.

An adapter's tensors have the names of peft's `adapter_model.safetensors`, in the order of the model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from zoo.errors import Corrupt, MissingData, MissingExtra, brief
from zoo.files import parse_json, read_limited
from zoo.networks import tiny_llama
from zoo.seeds import global_seed
from zoo.structure import DTYPES, Structure

KNOWN = ("yahma/llama-7b-hf", "huggyllama/llama-7b")
"""Bases on the Hub whose sizes are those of transformers' `LlamaConfig`, which is LLaMA-7B's."""
PAD = 0  # LLaMA's unknown token, as in LLM-Adapters: not the end of a text, which has to be learnt
CONFIG_BYTES = 2**24
TOLD = (
    *("peft_type", "task_type", "peft_version", "auto_mapping", "inference_mode", "runtime_config"),
    *("base_model_name_or_path", "r", "lora_alpha", "use_dora", "lora_dropout", "dora_simple"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"),
    *("megatron_core", "qalora_group_size", "eva_config"),
)
"""Settings of an adapter that are compared, that its tensors tell, or that are for training or records alone. What else
a configuration sets may change what the adapter computes, in this or a later version of peft.
"""

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Settings:
    """What an adapter is: DoRA (Liu et al., 2024, https://arxiv.org/abs/2402.09353), of this rank and scale alpha /
    rank, on these modules of the base, which is a directory or the name of a repository on the Hub.
    """

    base: str
    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]


def adapter_config(settings: Settings) -> dict[str, Any]:
    """peft's `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.targets),
        "use_dora": True,
        "bias": "none",
        "inference_mode": True,
    }


def check_config(path: Path, settings: Settings) -> None:
    """Raise ValueError unless an `adapter_config.json` computes what these settings do: its tensors say which modules
    it is for, but not for which base and scale they were trained. NVlabs' DoRA, which has a type of its own, will do.
    Raises Corrupt for damaged JSON.
    """
    found = parse_json(read_limited(path, CONFIG_BYTES), path)
    if not isinstance(found, dict):
        raise Corrupt(f"{path} is not an object")
    expected = adapter_config(settings)
    for key in ("base_model_name_or_path", "r", "lora_alpha"):
        value = found.get(key)
        if value != expected[key] and not (key.startswith("base") and _same_place(value, settings.base)):
            raise ValueError(f"its {key} is {str(value)[:120]}, expected {expected[key]}; see task.model, rank, alpha")
    if found.get("peft_type") != "DORA" and not found.get("use_dora"):
        raise ValueError("it is an adapter without magnitudes, expected DoRA (use_dora: true)")
    for key, value in found.items():
        if key not in TOLD and not _is_neutral(key, value, found):
            raise ValueError(
                f"its {str(key)[:60]} is {str(value)[:120]}, with which it computes something else; expected peft's "
                "default"
            )


def _same_place(given: object, base: str) -> bool:
    """Whether these are one directory, or one repository, however they are written."""
    if not isinstance(given, str) or len(given) > 1000:
        return False
    try:
        return Path(given) == Path(base) or (Path(base).is_dir() and Path(given).resolve() == Path(base).resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _is_neutral(key: object, value: object, config: Mapping[str, Any]) -> bool:
    """Whether a setting leaves the function of an adapter as it is."""
    if key == "init_lora_weights":  # others than these change the base, too
        return value is None or value in (True, False, "gaussian", "eva", "orthogonal")
    if key == "revision":
        return value in (None, "main")
    if key in ("rank_pattern", "alpha_pattern") and isinstance(value, Mapping):
        same = config.get("r" if key == "rank_pattern" else "lora_alpha")
        return all(each == same for each in value.values())
    return not value or value == "none"


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen language model and its tokenizer, which pads on the left with PAD."""

    model: nn.Module
    tokenizer: Any


def load_base(name: str, dtype: Dtype, device: torch.device) -> Base:
    """The base model on the device. Raises MissingExtra, or MissingData when it is not there."""
    transformers = transformers_library()
    if name == tiny_llama.NAME:
        return _base(tiny_llama.model(transformers).to(DTYPES[dtype]), tiny_llama.tokenizer(transformers), device)
    wanted = (
        f"expected a directory with config.json, model.safetensors and the tokenizer's files, or the name of a "
        f"repository on the Hugging Face Hub, as in --set task.model={KNOWN[0]}"
    )
    _check_place(name, wanted)
    options = {"trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[dtype], **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MissingData(f"no language model at {name} ({brief(error)}); {wanted}") from error
    return _base(model, tokenizer, device)


def _base(model: nn.Module, tokenizer: Any, device: torch.device) -> Base:
    tokenizer.pad_token_id = PAD
    tokenizer.padding_side = "left"
    return Base(model.to(device).eval().requires_grad_(False), tokenizer)


class Adapted(nn.Module):
    """A base with an adapter: token ids (B, L) and mask (B, L) -> logits (B, L, V). Its state is the adapter's alone;
    the base, in `network`, is not among what is saved.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.network(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def state_dict(self, *_: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # no `destination`
        return adapter_tensors(self.network, keep_vars=bool(options.get("keep_vars")))

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> None:
        """Raises ValueError unless these are all tensors of the adapter, with their shapes."""
        own = self.state_dict()
        Structure.of(own).check(state_dict, "the adapter")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state_dict[name])


def adapted(base: nn.Module, settings: Settings, seed: int) -> Adapted:
    """A new adapter on the base, whose own tensors are shared, not copied. Equal seeds give equal adapters: A starts at
    random, B at zero, the magnitudes are those of the base. Raises MissingExtra, or ValueError for modules that the
    base does not have.
    """
    peft = _peft()
    names = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "task_type")
    options = {name: value for name, value in adapter_config(settings).items() if name in names}
    linear = {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    for name in settings.targets:
        if name not in linear:
            raise ValueError(
                f"task.targets: {settings.base} has no linear module {name!r}; it has {', '.join(sorted(linear))}"
            )
    shared = {id(tensor): tensor for tensor in base.parameters()}
    with global_seed(seed, "adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft uses
        network = peft.get_peft_model(copy.deepcopy(base, shared), peft.LoraConfig(**options))
    return Adapted(network)


def adapter_tensors(network: Any, keep_vars: bool = False) -> dict[str, Tensor]:
    """The adapter's tensors under their names in peft's files."""
    found = _named(network)
    return found if keep_vars else {name: tensor.detach() for name, tensor in found.items()}


def _named(network: Any) -> dict[str, Tensor]:
    state = network.state_dict(keep_vars=True)
    return dict(_peft().get_peft_model_state_dict(network, state_dict=state, save_embedding_layers=False))


def meta_adapter(settings: Settings) -> dict[str, Tensor]:
    """The adapter's tensors without memory: from the base's sizes alone, without its weights. Raises as `adapted`
    does, and MissingData when the base's sizes are not known here.
    """
    transformers = transformers_library()
    config = _base_config(settings.base)
    with torch.device("meta"):
        base = transformers.AutoModelForCausalLM.from_config(config).float()
        return adapter_tensors(adapted(base, settings, seed=0).network, keep_vars=True)


def _base_config(name: str) -> Any:
    transformers = transformers_library()
    if name in KNOWN:
        return transformers.LlamaConfig()
    if name == tiny_llama.NAME:
        return tiny_llama.config(transformers)
    wanted = f"expected its config.json there, or one of {', '.join(KNOWN)} as task.model, whose sizes are known"
    _check_place(name, wanted)
    try:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise MissingData(f"no language model at {name} ({brief(error)}); {wanted}") from error


def _check_place(name: str, wanted: str) -> None:
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if (looks_like_path or Path(name).exists()) and not (Path(name) / "config.json").is_file():
        raise MissingData(f"no language model at {name}; {wanted}")


@contextmanager
def evaluating(model: Adapted) -> Iterator[None]:
    """In the block the model is in evaluation mode and each layer's norm, which DoRA divides by, is computed once for
    the adapter as it is now, not for every token. Memory: that of the adapted matrices, in float32.
    """
    from peft.helpers import DoraCaching

    model.train()  # forgets what was kept for an earlier adapter
    model.eval()
    try:
        with DoraCaching():
            yield
    finally:
        model.train()
        model.eval()


def pad(rows: Sequence[Sequence[int]], value: int, multiple: int = 8) -> Tensor:
    """Rows of numbers as int64 (B, L), filled with `value` on the left; L is a multiple of `multiple`."""
    length = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[value] * (length - len(row)) + list(row) for row in rows])


def transformers_library() -> Any:
    """transformers itself, without its progress bars. Raises MissingExtra where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise _missing("transformers") from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise _missing("peft") from error
    return peft


def _missing(library: str) -> MissingExtra:
    return MissingExtra(f"language models need {library}; install it with `pip install 'rpg-zoo[llm]'`")
