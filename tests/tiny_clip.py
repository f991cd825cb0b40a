"""A CLIP of a few thousand values with random weights, saved as transformers saves one, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

WIDTH = 16  # of what it gives
LONGEST = 12


def save(place: Path) -> CLIPModel:
    """The model, saved at `place` with what reads words and images for it."""
    words = ["<pad>", "<unk>", "<start>", "<end>", *map(str, range(10)), "animals", "vehicles", "cat", "against"]
    vocabulary = {word: k for k, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=words[0], eos_token=words[3], model_max_length=LONGEST
    ).save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(place)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(words), max_position_embeddings=LONGEST, pad_token_id=0, bos_token_id=2, eos_token_id=3, **small
    )
    vision = CLIPVisionConfig(image_size=8, patch_size=4, **small)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(
            CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
        ).eval()
    model.save_pretrained(place)
    return model
