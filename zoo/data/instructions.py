"""Instructions to train on and questions to score with: from local files in LLM-Adapters' layout, or from the Hub.

    DIR/commonsense/commonsense_170k.json          a list of {"instruction", "input", "output", "answer"}
    DIR/commonsense/<set>/test.json                the same, <set> being boolq, piqa, social_i_qa, hellaswag, ARC-Easy,
                                                   ARC-Challenge or openbookqa

Text, cut and labels are those of DoRA's fine-tuning script, which is LLM-Adapters' but for the stray comment that the
latter has in the first line of its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.questions import SETS, Question, parse, published
from zoo.data.tables import open_hub
from zoo.errors import Corrupt, MissingData, brief
from zoo.files import parse_json, read_limited

FILE_BYTES = 2**29  # of one file; commonsense_170k has 2**27
ADAPTERS = "https://github.com/AGI-Edgerunners/LLM-Adapters"
TRAINING = "zwhe99/commonsense_170k"
IGNORED = -100  # the label that cross entropy leaves out

# Where the sets were published, as lm-eval reads them: repository, configuration, split.
HUB: Mapping[str, tuple[str, str | None, str]] = {
    "boolq": ("aps/super_glue", "boolq", "validation"),
    "piqa": ("baber/piqa", None, "validation"),
    "siqa": ("lighteval/siqa", None, "validation"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "arc_e": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "arc_c": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "obqa": ("allenai/openbookqa", "main", "test"),
}


def load_questions(name: str, data_root: Path | None, limit: int | None) -> list[Question]:
    """The test questions of the set `name`, or the first `limit` of them. Raises MissingData or Corrupt."""
    if data_root is None:
        repo, config, split = HUB[name]
        where, read = f"{repo} on the Hugging Face Hub", published
        rows = open_hub(repo, split, f"give --data-root DIR with {_layout(name)}", config)
    else:
        path = data_root / "commonsense" / SETS[name].folder / "test.json"
        where, read = str(path), parse
        rows = _rows(path, f"expected {_layout(name)}; --set task.sets=[boolq,piqa] takes some of the sets")
    questions = []
    for number, row in enumerate(_first(rows, limit)):
        try:
            questions.append(read(name, row))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Corrupt(f"question {number} in {where} is not one of {name}: {brief(error)}") from error
    if not questions:
        raise Corrupt(f"there are no questions in {where}; expected {_layout(name)}")
    return questions


def load_training(data_root: Path | None) -> list[dict[str, str]]:
    """The rows of commonsense_170k. Raises MissingData or Corrupt."""
    layout = f"DIR/commonsense/commonsense_170k.json, which is ft-training_set/commonsense_170k.json of {ADAPTERS}"
    if data_root is None:
        where, rows = TRAINING, open_hub(TRAINING, "train", f"give --data-root DIR with {layout}")
    else:
        where = str(data_root / "commonsense" / "commonsense_170k.json")
        rows = _rows(Path(where), f"expected {layout}, or no data root at all, to read {TRAINING} from the Hub")
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("instruction", "output")):
            raise Corrupt(f"row {number} of {where} has no instruction and output; expected {layout}")
        found.append({"instruction": row["instruction"], "input": row.get("input") or "", "output": row["output"]})
    if not found:
        raise Corrupt(f"there are no rows in {where}; expected {layout}")
    return found


def training_text(row: Mapping[str, str]) -> str:
    """What a network is trained to write: instruction and response in DoRA's template, with all its spaces."""
    indent = " " * 16
    blank = f"\n{indent}\n"
    if row["input"]:
        opening = (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request. \n\n"
        )
        asked = f"{row['instruction']}{blank}{indent}### Input:\n{indent}{row['input']}"
    else:
        opening = (
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.  \n\n"
        )
        asked = row["instruction"]
    return f"{opening}{indent}### Instruction:\n{indent}{asked}{blank}{indent}### Response:\n{indent}{row['output']}"


def encode(tokenizer: Any, row: Mapping[str, str], cutoff: int, train_on_inputs: bool) -> tuple[list[int], list[int]]:
    """Token ids of a row's text and its labels, equally many, at most `cutoff`; the text's end is a token, where there
    is room. Unless one trains on inputs, the labels of all but the response are ignored.
    """
    ids = _tokens(tokenizer, training_text(row), cutoff)
    if len(ids) < cutoff and ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    if train_on_inputs:
        return ids, list(ids)
    asked = len(_tokens(tokenizer, training_text({**row, "output": ""}), cutoff))
    return ids, [IGNORED] * min(asked, len(ids)) + ids[asked:]


def _tokens(tokenizer: Any, text: str, cutoff: int) -> list[int]:
    return list(tokenizer(text, truncation=True, max_length=cutoff)["input_ids"])


def fingerprint(questions: Mapping[str, Sequence[Question]]) -> str:
    """8 hexadecimal digits that change with any question, answer or order."""
    digest = hashlib.sha256()
    for name in questions:
        for question in questions[name]:
            digest.update(repr((name, question.instruction, question.choices, question.answer)).encode())
    return digest.hexdigest()[:8]


def _layout(name: str) -> str:
    return (
        f"DIR/commonsense/{SETS[name].folder}/test.json, which is dataset/{SETS[name].folder}/test.json of {ADAPTERS}"
    )


def _rows(path: Path, otherwise: str) -> list[Any]:
    if not path.is_file():
        raise MissingData(f"no {path}; {otherwise}; `rpg-zoo fetch commonsense DIR` gets all of it")
    rows = parse_json(read_limited(path, FILE_BYTES), path)
    if not isinstance(rows, list):
        raise Corrupt(f"{path} is not a list of rows; {otherwise}")
    return rows


def _first(rows: Iterable[Any], limit: int | None) -> Iterable[Any]:
    for number, row in enumerate(rows):
        if number == limit:
            return
        yield row
