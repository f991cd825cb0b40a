"""A frozen LLaMA of fifty thousand values with random weights, made on the spot, whose tokens are the words of
made-up questions (zoo.data.made_questions): a base for adapters that needs neither downloads nor files. transformers
is handed in by the module that imports it (zoo.networks.adapters).

Adapters of a random network can learn a rule that depends on a few words of a text, and little else.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from evaluators.questions import prompt
from zoo.data.instructions import training_text
from zoo.data.made_questions import questions
from zoo.seeds import global_seed

NAME = "made:tiny-llama"
SEED = 0
BLOCKS, WORDS_IN_AND_OUT = 0.12, 0.5
"""Deviations of the weights: words outweigh what the blocks make of them at random, as in trained networks, and a text
can have one likely next word, which takes large weights where there are few.
"""
SPECIAL = ("<unk>", "<s>", "</s>")
"""Unknown, beginning and end, numbered as LLaMA's are."""
WORDS = re.compile(r"\w+|[^\w\s]+")  # as tokenizers' Whitespace divides


def words() -> list[str]:
    """All words of the questions and of what is written around them, sorted."""
    test, training = questions()
    asked = [*training, *(question for name in test for question in test[name])]
    texts = {prompt(question.instruction) for question in asked}
    texts |= {
        training_text({"instruction": "", "input": "", "output": f"the correct answer is {q.word}"}) for q in asked
    }
    return sorted({word for text in texts for word in WORDS.findall(text)})


def config(transformers: Any) -> Any:
    """Its sizes, a `LlamaConfig`."""
    return transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(words()),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=BLOCKS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def model(transformers: Any) -> Any:
    """The network, on the CPU, float32."""
    with global_seed(SEED, "tiny-llama"):
        made = transformers.LlamaForCausalLM(config(transformers))
    with torch.no_grad():
        for words in (made.model.embed_tokens, made.lm_head):
            words.weight.mul_(WORDS_IN_AND_OUT / BLOCKS)
    return made


def tokenizer(transformers: Any) -> Any:
    """A token for each word; blanks and lines are lost."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate([*SPECIAL, *words()])}
    made = Tokenizer(models.WordLevel(numbers, unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
