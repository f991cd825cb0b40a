"""Texts of the commonsense questions: LLM-Adapters' instructions, prompt and matching, lm-eval's wording."""

from __future__ import annotations

import pytest

from evaluators.questions import SETS, compose, matched, parse, prompt, published, wording

ROWS = {
    "boolq": {
        "instruction": "Please answer the following question with true or false, question: is the sky blue?\n\n"
        "Answer format: true/false",
        "answer": "true",
    },
    "piqa": {
        "instruction": "Please choose the correct solution to the question: Dry a cup.\n\nSolution1: Use a towel. \n\n"
        "Solution2: Use  water.\n\nAnswer format: solution1/solution2",
        "answer": "solution1",
    },
    "siqa": {
        "instruction": "Please choose the correct answer to the question: Ann left. Why?\n\nAnswer1: to sleep Answer2: "
        "to eat Answer3: to Answer1: it\n\nAnswer format: answer1/answer2/answer3",
        "answer": "answer2",
    },
    "hellaswag": {
        "instruction": "Please choose the correct ending to complete the given sentence: Travel: [header] How to fly "
        "[title] Book. A man\n\nEnding1: [step] books  it. Ending2: sits. Ending3: runs. Ending4: eats.\n\n"
        "Answer format: ending1/ending2/ending3/ending4",
        "answer": "ending4",
    },
    "arc_c": {
        "instruction": "Please choose the correct answer to the question: Which?\n\nAnswer1: a Answer2: b Answer3: c "
        "Answer4: d Answer5: e\n\nAnswer format: answer1/answer2/answer3/answer4/answer5",
        "answer": "answer5",
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_instructions_are_taken_apart_and_put_together_again(name: str) -> None:
    question = parse(name, ROWS[name])
    assert question.word == ROWS[name]["answer"]
    assert compose(name, question.question, question.choices, question.answer) == question


def test_spaces_belong_to_choices() -> None:
    assert parse("piqa", ROWS["piqa"]).choices == ("Use a towel. ", "Use  water.")


def test_a_choice_may_name_another() -> None:
    row = ROWS["siqa"]
    assert parse("siqa", row).choices == ("to sleep", "to eat", "to Answer1: it")


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("boolq", {"answer": "yes"}, "'yes' is none of true/false"),
        ("piqa", {"instruction": "Please choose"}, "begins with 'Please choose the correct solution"),
        ("siqa", {"instruction": ROWS["piqa"]["instruction"]}, "begins with"),
        ("piqa", {"instruction": ROWS["piqa"]["instruction"].replace("solution2", "answer2")}, "are called solution1"),
        ("siqa", {"instruction": ROWS["siqa"]["instruction"].replace(" Answer2:", " 2:")}, "no 'Answer2'"),
        ("boolq", {"instruction": 3}, "expected an object with an instruction"),
    ],
)
def test_what_is_no_question_of_the_set_is_refused(name: str, changed: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(name, ROWS[name] | changed)


def test_the_prompt_is_that_of_llm_adapters() -> None:
    """Their text, as a transcript of LLaMA-7B with DoRA shows it: sixteen spaces before a line, one after the first."""
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. ",
        "",
        "                ### Instruction:",
        "                INSTRUCTION",
        "",
        "                ### Response:",
        "                ",
    ]
    assert prompt("INSTRUCTION") == "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [  # scored by hand, by the rule: the first match, as it is written, after the last "### Response:"
        ("boolq", "the correct answer is true", "true"),
        ("boolq", " the correct answer is false, not true", "false"),
        ("boolq", "True", ""),
        ("boolq", "it is untrue", "true"),
        ("piqa", "solution 1", ""),
        ("piqa", "answer1 solution2", "solution2"),
        ("siqa", "the correct answer is answer3</s>", "answer3"),
        ("arc_e", "answer12", "answer1"),
        ("arc_c", "answer6 or answer5", "answer5"),
        ("obqa", "", ""),
        ("hellaswag", "ending1\n### Response:\nending4", "ending4"),
        ("hellaswag", "Ending2: he sits", ""),
    ],
)
def test_the_first_match_is_the_answer(name: str, text: str, answer: str) -> None:
    assert matched(name, text) == answer


def test_the_other_wording_is_that_of_lm_eval() -> None:
    found = {name: wording(parse(name, row)) for name, row in ROWS.items()}
    assert found["boolq"] == ("Question: is the sky blue?\nAnswer:", ("yes", "no"))
    assert found["piqa"] == ("Question: Dry a cup.\nAnswer:", ("Use a towel. ", "Use  water."))
    assert found["siqa"] == ("Q: Ann left. Why?\nA:", ("to sleep", "to eat", "to Answer1: it"))
    assert found["hellaswag"] == ("Travel: How to fly. Book. A man", (" books it.", "sits.", "runs.", "eats."))
    assert wording(compose("obqa", "Fish are", ("a", "b"), 0)) == ("Fish are", ("a", "b"))


def test_published_rows_become_the_same_questions() -> None:
    rows = {
        "boolq": {"question": "is the sky blue", "passage": "", "label": 1},
        "piqa": {"goal": "Dry a cup.", "sol1": "Use a towel. ", "sol2": "Use  water.", "label": 0},
        "siqa": {
            "context": "Ann left.",
            "question": "Why?",
            "answerA": "to sleep",
            "answerB": "to eat",
            "answerC": "to Answer1: it",
            "label": "2",
        },
        "hellaswag": {
            "activity_label": "Travel",
            "ctx": "[header] How to fly [title] Book. A man",
            "endings": ["[step] books  it.", "sits.", "runs.", "eats."],
            "label": "3",
        },
        "arc_c": {
            "question": "Which?",
            "choices": {"text": list("abcde"), "label": list("ABCDE")},
            "answerKey": "E",
        },
    }
    for name, row in rows.items():
        assert published(name, row) == parse(name, ROWS[name])
    obqa = {"question_stem": "Fish", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": " B"}
    assert published("obqa", obqa) == compose("obqa", "Fish", ("a", "b"), 1)


def test_the_sentence_to_be_ended_begins_as_lm_eval_has_it() -> None:
    row = {"activity_label": "Roof", "ctx": "On a roof. he and Bob", "endings": list("abcd"), "label": "3"}
    parts = {"ctx_a": "On a roof.", "ctx_b": "he and Bob"}
    assert wording(published("hellaswag", row | parts))[0] == "Roof: On a roof. He and bob"
    assert wording(published("hellaswag", row))[0] == "Roof: On a roof. he and Bob"
    whole = published("hellaswag", row | {"ctx_a": "On a roof.", "ctx_b": ""})
    assert whole.instruction.startswith(
        "Please choose the correct ending to complete the given sentence: Roof: On a roof.\n"
    )


def test_every_set_of_the_paper_is_there() -> None:
    assert list(SETS) == ["boolq", "piqa", "siqa", "hellaswag", "arc_e", "arc_c", "obqa"]
