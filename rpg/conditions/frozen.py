"""Words and images as frozen encoders see them: CLIP (Radford et al. 2021), by transformers.

Legend: N words or images, F values of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MissingData, brief
from zoo.networks.adapters import transformers_library

IMAGES_AT_ONCE = 64
EXPECTED = (
    "expected a directory as transformers saves one, or the name of a repository on the Hugging Face Hub, as in "
    "openai/clip-vit-base-patch32"
)


def text_features(encoder: str, texts: Sequence[str]) -> Tensor:
    """Unit vectors, float32 (N, F). Raises MissingData when there is no whole CLIP at `encoder`, a directory or the
    name of a repository on the Hub; ValueError for a text that is longer than it reads, and for two that it cannot tell
    apart, as where its vocabulary is not there.
    """
    model, tokenizer = _load(encoder, "AutoTokenizer")
    seen: dict[tuple[int, ...], str] = {}
    longest, words = model.config.text_config.max_position_embeddings, model.config.text_config.vocab_size
    if 2 * len(tokenizer) < words:  # transformers makes one of nothing where its files are not there
        raise MissingData(f"the tokenizer at {encoder} knows {len(tokenizer)} tokens of {words}; {EXPECTED}")
    for text in texts:
        tokens = tuple(tokenizer(text)["input_ids"])
        if len(tokens) > longest:
            raise ValueError(f"{text[:60]!r}... has {len(tokens)} tokens; {encoder} reads {longest} at most")
        if (other := seen.setdefault(tokens, text)) != text:
            raise ValueError(f"{other[:60]!r} and {text[:60]!r} are the same to {encoder}; expected words it knows")
    with torch.no_grad():
        read = model.text_model(**tokenizer(list(texts), padding=True, return_tensors="pt")).pooler_output
        return F.normalize(model.text_projection(read).float(), dim=-1)


def image_features(encoder: str, images: Tensor) -> Tensor:
    """The same of images (N, 3, H, W) from 0 to 1, which are resized as the encoder wants them."""
    model, processor = _load(encoder, "AutoImageProcessor")
    found = []
    with torch.no_grad():
        for part in images.split(IMAGES_AT_ONCE):
            pixels = processor(list(part), do_rescale=False, return_tensors="pt")["pixel_values"]
            found.append(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
        return F.normalize(torch.cat(found).float(), dim=-1)


def _load(encoder: str, reader: str) -> tuple[Any, Any]:
    """The whole model, for a part of it would take a projection of another size for random numbers, and a reader."""
    transformers = transformers_library()
    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        model, info = transformers.CLIPModel.from_pretrained(encoder, output_loading_info=True, **options)
        found = getattr(transformers, reader).from_pretrained(encoder, **options)
    except Exception as error:  # what transformers and safetensors raise of damaged files is of many kinds
        raise MissingData(f"no CLIP at {encoder} ({brief(error)}); {EXPECTED}") from error
    if lacking := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise MissingData(f"no CLIP at {encoder}, which lacks {lacking[0]} and {len(lacking) - 1} others; {EXPECTED}")
    return model.eval(), found
