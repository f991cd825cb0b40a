"""A frozen LLaMA of two layers with a byte-level tokenizer, in a directory as transformers keeps them, and commonsense
data in LLM-Adapters' layout. For tests.
"""

from __future__ import annotations

import json
from pathlib import Path

from evaluators.questions import SETS, compose


def save_llama(path: Path, seed: int = 0, **sizes: int) -> Path:
    """Random weights; tokens are bytes, after the unknown one, beginning and end, numbered as LLaMA's are."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    words = {word: k for k, word in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    options = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(path)
    width = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2} | sizes
    config = LlamaConfig(
        vocab_size=len(words),
        max_position_embeddings=4096,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **width,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


def save_data(root: Path, each: int = 4, rows: int = 24) -> Path:
    """`each` questions in every set and `rows` texts to train on."""
    texts = []
    for name, kind in SETS.items():
        folder = root / "commonsense" / kind.folder
        folder.mkdir(parents=True)
        made = []
        for k in range(each):
            words = ("yes", "no") if name == "boolq" else kind.words[: 3 if name == "siqa" else 4]
            choices = words if name == "boolq" else [f"thing {(17 * k + 31 * j) % 100}" for j in range(len(words))]
            question = compose(name, f"which is {k}?", choices, 7 * k % len(choices))
            output = f"the correct answer is {question.word}"
            made.append({"instruction": question.instruction, "input": "", "output": output, "answer": question.word})
        (folder / "test.json").write_text(json.dumps(made))
        texts += made
    training = (texts * rows)[:rows]
    (root / "commonsense" / "commonsense_170k.json").write_text(json.dumps(training))
    return root
