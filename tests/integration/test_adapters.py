"""DoRA adapters of a tiny LLaMA go the whole way through the command lines, and mean what peft, transformers and
LLM-Adapters' script say.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call
from tiny_llama import save_data, save_llama
from torch import Tensor

from evaluators import commonsense as evaluator
from evaluators.questions import SETS, prompt, wording
from zoo.checkpoint import content_hash
from zoo.data.instructions import IGNORED, encode, training_text
from zoo.networks import adapters
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks import commonsense
from zoo.training.collect import Checkpoint, State, jobs, train
from zoo.training.state import pack_state

peft = pytest.importorskip("peft", reason="language models need the extra [llm]")
transformers = pytest.importorskip("transformers", reason="language models need the extra [llm]")
pytest.importorskip("lm_eval", reason="scoring language models needs the extra [llm]")

CPU = torch.device("cpu")
RECIPE = """
task: {name: commonsense, model: llama, dtype: float32, rank: 2, alpha: 4, targets: [q_proj, v_proj, down_proj],
       cutoff: 64, validation: 4, beams: 2, max_new_tokens: 4}
zoo: {checkpoints: 3, optimizer: adamw, learning_rate: 0.05, batch_size: 10, epochs: 1, save_learning_rate: 0.05}
method:
  name: rpg
  generator: {token_size: 64, d_model: 32, d_state: 16, channels: [1, 4, 1]}
  train: {steps: 4, batch_size: 2, learning_rate: 1.0e-3, diffusion_batch: 16, precision: float32}
generate: {n: 2, sampler: ddim, steps: 2}
eval: {n: 2, average_of: 2, noise: [0.1]}
"""

Shell = Callable[..., str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the base, the data, a zoo, a run and generated adapters."""
    path = tmp_path_factory.mktemp("adapters")
    save_llama(path / "llama")
    save_data(path / "data", each=2)
    (path / "mini.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for command in ("rpg-zoo collect mini.yaml --data-root data", "rpg train mini.yaml", "rpg generate mini"):
            call(command)
    return path


@pytest.fixture
def shell(place: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs commands there."""
    monkeypatch.chdir(place)
    return call


@pytest.fixture
def task(place: Path, monkeypatch: pytest.MonkeyPatch) -> commonsense.CommonsenseTask:
    monkeypatch.chdir(place)
    return opened()


def opened(**changed: Any) -> commonsense.CommonsenseTask:
    config = load_recipe("mini.yaml").task.model_copy(update=changed)
    built = config.build(Path("data"), CPU)
    assert isinstance(built, commonsense.CommonsenseTask)
    return built


def first(path: str) -> dict[str, Tensor]:
    made = Zoo.open(Path(path))
    return made.load(made.entries[0])


def test_the_weights_are_the_adapter_alone(task: commonsense.CommonsenseTask) -> None:
    made = Zoo.open(Path("zoos/mini"))
    assert made.structure == task.config.structure()
    assert made.frozen() == {}
    model = task.build(0)
    assert made.structure == Structure.of(task.weights(model))
    assert list(first("zoos/mini")) == list(peft.get_peft_model_state_dict(model.network))
    assert Zoo.open(Path("zoos/mini-generated")).structure == made.structure
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}


def test_both_protocols_through_the_command_line(shell: Shell) -> None:
    generated = json.loads(shell("rpg eval --task mini --data-root data --json"))
    ranked = json.loads(shell("rpg eval --task commonsense --data-root data --set task.answer_by=loglikelihood --json"))
    assert generated["protocol"].startswith("generate and match, 2 beams, 4 tokens: boolq 2, piqa 2")
    assert ranked["protocol"].startswith("log-likelihood of the choices: boolq 2, piqa 2")
    for found, extra in ((generated, {"answered"}), (ranked, {f"{n}_norm" for n in SETS if SETS[n].normed})):
        assert set(found["metrics"]) == {*SETS, "mean", *extra}
        assert len(found["checkpoints"]) == 2
        for row in found["checkpoints"]:
            metrics = row["metrics"]
            assert {name: metrics[name]["n"] for name in SETS} == dict.fromkeys(SETS, 2)
            assert metrics["mean"]["value"] == pytest.approx(sum(metrics[name]["value"] for name in SETS) / 7)
            assert all(metric["stderr"] >= 0 for metric in metrics.values())
    text = shell(
        "rpg-zoo score zoos/mini --data-root data --set task.answer_by=loglikelihood --set task.sets=[piqa,siqa]"
    )
    assert [line.split()[0] for line in text.splitlines()] == [
        "metric",
        "piqa",
        "siqa",
        "mean",
        "piqa_norm",
        "protocol",
    ]
    assert text.splitlines()[1].split()[6:8] == ["3", "2"]  # networks, questions
    assert shell("rpg-zoo verify zoos/mini-generated")


def test_adapters_are_scored_one_after_the_other_as_alone(task: commonsense.CommonsenseTask) -> None:
    """With the base loaded once: nothing of one adapter stays for the next."""
    made = Zoo.open(Path("zoos/mini"))
    model = task.build(0)
    base = {name: tensor.clone() for name, tensor in task.base.model.state_dict().items()}
    adapters_ = [made.load(entry) for entry in made.entries]
    assert len({content_hash(weights) for weights in adapters_}) == 3
    ids = torch.tensor([[1, 50, 60, 70]])
    for weights in adapters_:
        alone = task.build(1)
        task.load(alone, weights)
        task.load(model, weights)
        assert {n: t.tolist() for n, t in task.weights(model).items()} == {n: t.tolist() for n, t in weights.items()}
        with torch.no_grad():
            expected = alone.eval()(ids, torch.ones_like(ids))
            with adapters.evaluating(model):
                assert all(torch.equal(model(ids, torch.ones_like(ids)), expected) for _ in range(2))
    assert all(torch.equal(tensor, base[name]) for name, tensor in task.base.model.state_dict().items())


def test_peft_loads_an_export_without_a_key_too_many_or_too_few(
    shell: Shell, task: commonsense.CommonsenseTask
) -> None:
    usage = shell("rpg-zoo export zoos/mini-generated generated-0001 --format peft --out exported")
    assert 'peft.PeftModel.from_pretrained(base, "exported")' in usage
    made = Zoo.open(Path("zoos/mini-generated"))
    weights = made.load(made.entry("generated-0001"))
    base = transformers.AutoModelForCausalLM.from_pretrained("llama")
    network = peft.PeftModel.from_pretrained(base, "exported").eval()
    loaded = peft.get_peft_model_state_dict(network)
    assert list(loaded) == list(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())
    result = peft.set_peft_model_state_dict(network, peft.utils.load_peft_weights("exported"))
    assert result.unexpected_keys == []
    assert [key for key in result.missing_keys if "lora_" in key] == []

    mine = task.build(0)
    task.load(mine, weights)
    ids = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = mine.eval()(ids, torch.ones_like(ids))
        assert torch.equal(network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, expected)
    again = peft.AutoPeftModelForCausalLM.from_pretrained("exported").eval()  # finds the base by its name
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, expected)
    config = peft.PeftConfig.from_pretrained("exported")
    assert (config.use_dora, config.r, config.lora_alpha) == (True, 2, 4)


def test_an_export_comes_back(shell: Shell, place: Path) -> None:
    for number in range(2):
        out = f"--format peft --out there/{number}"
        shell(f"rpg-zoo export zoos/mini-generated generated-000{number} {out}")
    found = json.loads(shell("rpg-zoo import there --recipe mini.yaml --out zoos/back --json"))
    assert (found["format"], found["skipped"]) == ("peft", [])
    hashes = [entry.sha256 for entry in Zoo.open(Path("zoos/back")).entries]
    assert hashes == [entry.sha256 for entry in Zoo.open(Path("zoos/mini-generated")).entries]
    line = shell("rpg-zoo export zoos/mini seed00000-0000 --format timm", code=2)
    assert "peft" in line


def test_the_adapter_of_nvlabs_is_read(shell: Shell, place: Path) -> None:
    weights = first("zoos/mini-generated")
    theirs = {}
    for name, tensor in weights.items():
        stem = name.removesuffix(".lora_magnitude_vector")
        theirs |= {name: tensor} if stem == name else {f"{stem}.weight_m_wdecomp.weight": tensor[:, None]}
    folder = place / "nvlabs"
    folder.mkdir()
    torch.save(theirs, folder / "adapter_model.bin")
    config = adapters.adapter_config(load_recipe("mini.yaml").task.adapter)
    del config["use_dora"]
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "DORA", "dora_simple": True}))
    shell("rpg-zoo import nvlabs --recipe mini.yaml --out zoos/nvlabs")
    assert Zoo.open(Path("zoos/nvlabs")).entries[0].sha256 == content_hash(weights)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"base_model_name_or_path": "other/llama"}, "its base_model_name_or_path is other/llama, expected llama"),
        ({"lora_alpha": 16}, "its lora_alpha is 16, expected 4"),
        ({"use_rslora": True}, "its use_rslora is True, with which it computes something else"),
        ({"alpha_pattern": {"q_proj": 7}}, "its alpha_pattern is {'q_proj': 7}"),
        ({"rank_pattern": {"q_proj": 1}}, "its rank_pattern is {'q_proj': 1}"),
        ({"bias": "all"}, "its bias is all"),
        ({"fan_in_fan_out": True}, "its fan_in_fan_out is True"),
        ({"init_lora_weights": "pissa"}, "its init_lora_weights is pissa"),
        ({"modules_to_save": ["lm_head"]}, "its modules_to_save is ['lm_head']"),
        ({"a_setting_of_tomorrow": 3}, "its a_setting_of_tomorrow is 3"),
        ({"use_dora": False}, "without magnitudes, expected DoRA"),
    ],
)
def test_an_adapter_of_something_else_is_refused(changed: dict, said: str, shell: Shell, place: Path) -> None:
    shutil.rmtree(place / "foreign", ignore_errors=True)
    shell("rpg-zoo export zoos/mini seed00000-0000 --format peft --out foreign")
    path = place / "foreign" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert said in shell("rpg-zoo import foreign --recipe mini.yaml --out zoos/foreign --dry-run", code=2)


@pytest.mark.parametrize(
    "changed",
    [
        {"target_modules": r".*\.(q_proj|v_proj|down_proj)"},
        {"target_modules": "all-linear"},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"base_model_name_or_path": "./llama/"},
        {"base_model_name_or_path": "ABSOLUTE"},
        {"alpha_pattern": {"q_proj": 4}, "rank_pattern": {}, "bias": "none", "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_an_adapter_that_says_the_same_otherwise_is_taken(changed: dict, shell: Shell, place: Path) -> None:
    shutil.rmtree(place / "foreign", ignore_errors=True)
    shell("rpg-zoo export zoos/mini seed00000-0000 --format peft --out foreign")
    path = place / "foreign" / "adapter_config.json"
    if changed.get("base_model_name_or_path") == "ABSOLUTE":
        changed = {"base_model_name_or_path": str((place / "llama").resolve())}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    report = json.loads(shell("rpg-zoo import foreign --recipe mini.yaml --out zoos/foreign --dry-run --json"))
    assert (len(report["taken"]), report["skipped"]) == (1, [])


def test_tensors_of_other_modules_are_refused(shell: Shell, place: Path) -> None:
    shell("rpg-zoo export zoos/mini seed00000-0000 --format safetensors --out one.safetensors")
    more = "--set task.targets=[q_proj,v_proj,down_proj,up_proj]"
    line = shell(f"rpg eval one.safetensors --task mini.yaml --data-root data {more}", code=2)
    assert "missing: base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in line
    alone = json.loads(shell("rpg eval one.safetensors --task mini.yaml --data-root data --json"))
    assert alone["metrics"]["mean"]["n"] == 1
    line = shell("rpg-zoo collect mini.yaml --dry-run --set task.targets=[q_proj,nothing]", code=2)
    assert "no linear module 'nothing'" in line


def test_missing_things_are_named(shell: Shell, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = shell("rpg-zoo score zoos/mini --data-root nowhere", code=4)
    assert "no nowhere/commonsense/boolq/test.json; expected DIR/commonsense/boolq/test.json, which is" in line
    assert "LLM-Adapters" in line
    line = shell("rpg-zoo score zoos/mini --data-root data --out x --set task.model=./gone", code=4)
    assert "no language model at ./gone; expected a directory with config.json" in line
    assert "config.json" in shell("rpg-zoo collect mini.yaml --dry-run --set task.model=some/base", code=4)
    save_data(place / "half")
    (place / "half/commonsense/commonsense_170k.json").unlink()
    line = shell("rpg-zoo collect mini.yaml --out zoos/half --data-root half", code=4)
    assert "ft-training_set/commonsense_170k.json" in line
    (place / "half/commonsense/piqa/test.json").write_text('[{"instruction": "?", "answer": "x"}]')
    line = shell("rpg-zoo score zoos/mini --data-root half", code=1)
    assert "question 0 in half/commonsense/piqa/test.json is not one of piqa" in line
    line = shell("rpg-zoo collect mini.yaml --dry-run --set task.sets=[boolq,winogrande]", code=2)
    assert "task.sets" in line


@pytest.mark.parametrize(("library", "command"), [("peft", "rpg estimate mini.yaml"), ("lm_eval", "score")])
def test_an_absent_extra_is_named(library: str, command: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    if command == "score":
        command = "rpg-zoo score zoos/mini --data-root data --out unscored"
    assert "pip install 'rpg-zoo[llm]'" in shell(command, code=3)


def test_a_report_sets_them_beside_the_baselines(shell: Shell) -> None:
    few = "--set task.sets=[boolq,piqa] --set task.answer_by=loglikelihood"
    found = json.loads(shell(f"rpg report --task mini --data-root data {few} --json"))
    assert "mean" in found["groups"]["generated"]["metrics"]
    assert Path(found["report"]).is_file()


def test_log_likelihoods_are_those_of_the_model(task: commonsense.CommonsenseTask) -> None:
    model = task.build(0)
    task.load(model, first("zoos/mini"))
    asked = [question for questions in task.questions.values() for question in questions][::3]
    expected, tokenizer = [], task.base.tokenizer
    for question in asked:
        context, choices = wording(question)
        start = len(tokenizer(context)["input_ids"])
        values = []
        for choice in choices:
            ids = torch.tensor([tokenizer(f"{context} {choice}")["input_ids"]])
            with torch.no_grad():
                logs = model.eval()(ids, torch.ones_like(ids)).log_softmax(2)
            values.append(sum(float(logs[0, k - 1, ids[0, k]]) for k in range(start, ids.shape[1])))
        expected.append(values)
    lm = evaluator.language_model(model.network, tokenizer, batch_size=3)
    requests = [
        evaluator._request("loglikelihood", (wording(question)[0], f" {choice}"), 0)
        for question in asked
        for choice in question.choices
    ]
    found = [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
    assert found == pytest.approx([value for values in expected for value in values], rel=1e-4)
    right = [max(range(len(v)), key=v.__getitem__) == q.answer for v, q in zip(expected, asked, strict=True)]
    assert evaluator.ranked(lm, asked)[0].tolist() == right


def test_generation_is_that_of_llm_adapters(task: commonsense.CommonsenseTask) -> None:
    """Their call of transformers, a prompt at a time, without lm-eval; here prompts of unlike length share batches."""
    model = task.build(0)
    task.load(model, first("zoos/mini"))
    asked = [question for questions in task.questions.values() for question in questions][::2]
    tokenizer = task.base.tokenizer
    expected = []
    for question in asked:
        ids = tokenizer([prompt(question.instruction)], return_tensors="pt", padding=True)["input_ids"]
        with torch.no_grad():
            made = model.network.eval().generate(input_ids=ids, num_beams=4, max_new_tokens=8, pad_token_id=0)
        whole = tokenizer.batch_decode(made, skip_special_tokens=True)[0]
        expected.append(whole.split("### Response:")[-1].strip())
    lm = evaluator.language_model(model.network, tokenizer, batch_size=4)
    how = {"num_beams": 4, "do_sample": False, "max_gen_toks": 8, "until": []}
    requests = [evaluator._request("generate_until", (prompt(q.instruction), how), k) for k, q in enumerate(asked)]
    assert [text.strip() for text in lm.generate_until(requests, disable_tqdm=True)] == expected
    assert len(set(expected)) > 1


def test_texts_and_labels_are_those_of_the_training_script(task: commonsense.CommonsenseTask) -> None:
    row = {"instruction": "ASK", "input": "", "output": "the correct answer is true"}
    lines = [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.  ",
        "",
        "                ### Instruction:",
        "                ASK",
        "                ",
        "                ### Response:",
        "                the correct answer is true",
    ]
    assert training_text(row) == "\n".join(lines)
    with_input = training_text(row | {"input": "MORE"}).split("\n")
    assert with_input[4:8] == [" " * 16, " " * 16 + "### Input:", " " * 16 + "MORE", " " * 16]

    tokenizer = task.base.tokenizer
    ids, labels = encode(tokenizer, row, 1000, train_on_inputs=True)
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(ids[1:-1]) == training_text(row)
    assert labels == ids
    masked_ids, masked = encode(tokenizer, row, 1000, train_on_inputs=False)
    assert masked_ids == ids
    known = [label for label in masked if label != IGNORED]
    assert tokenizer.decode(known) == "the correct answer is true</s>"
    assert masked[: len(ids) - len(known)] == [IGNORED] * (len(ids) - len(known))
    cut, labels = encode(tokenizer, row, 40, train_on_inputs=True)  # an unfinished text has no end
    assert cut == labels == ids[:40]
    assert encode(tokenizer, row, 40, train_on_inputs=False)[1] == [IGNORED] * 40


def test_padding_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a batch is the mean over all labelled tokens, whatever the lengths."""
    monkeypatch.chdir(place)
    task = opened(cutoff=600)
    model = task.build(0).eval()
    ids, labels = task._batch(torch.tensor([0, 3, 7]))
    assert ids.shape[1] % 8 == 0
    assert len({int((row != adapters.PAD).sum()) for row in ids}) == 3
    torch.testing.assert_close(labels.where(labels != IGNORED, 0), ids)
    rows = [row[row != adapters.PAD] for row in ids]
    longer = (
        adapters.pad([row.tolist() for row in rows], adapters.PAD, 600),
        adapters.pad([r.tolist() for r in rows], IGNORED, 600),
    )
    total, count = 0.0, 0
    for row in rows:
        alone = task.loss(model, (row[None], row[None])).detach()
        total, count = total + float(alone) * (len(row) - 1), count + len(row) - 1
    for batch in ((ids, labels), longer):
        assert float(task.loss(model, batch).detach()) == pytest.approx(total / count, rel=1e-5)


def test_batches_depend_on_seed_and_number_alone_and_validation_is_never_trained_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    task = opened(cutoff=600)

    def batches(first_step: int, count: int) -> list[list[list[int]]]:
        stream = task.batches(3, first_step, 10)
        return [next(stream)[0].tolist() for _ in range(count)]

    assert task.steps_per_epoch(10) == 2  # of 24 texts 4 are held out
    five = batches(0, 5)
    assert batches(3, 2) == five[3:]
    assert five[0] != five[2]
    trained, held = (set(index.tolist()) for index in (task.train_index, task.validation_index))
    assert (len(trained), len(held), trained & held) == (20, 4, set())
    assert task.evaluate(task.build(0), "validation").correct.shape == (4,)


def test_training_resumes_from_a_state_without_the_base(task: commonsense.CommonsenseTask) -> None:
    config = load_recipe("mini.yaml").zoo
    job = jobs(config)[0]
    events, states = [], []
    for event in train(config, task, job, None, ()):
        events.append(event)
        if isinstance(event, State):  # training goes on to change its tensors
            states.append({name: tensor.clone() for name, tensor in event.tensors.items()})
    resumed = list(train(config, task, job, states[0], ()))
    whole, again = ([e.tensors for e in run if isinstance(e, Checkpoint)] for run in (events, resumed))
    assert [content_hash(tensors) for tensors in again] == [content_hash(tensors) for tensors in whole]
    assert len(whole) == 3
    assert [content_hash(tensors) for tensors in whole] == [
        Zoo.open(Path("zoos/mini")).entry(job.checkpoint_id(k)).sha256 for k in range(3)
    ]
    model = task.build(0)
    packed = pack_state(model, torch.optim.SGD([torch.zeros(1)]), 1)
    assert {name for name in packed if name.startswith("model.")} == {f"model.{name}" for name in whole[0]}


def test_a_base_of_half_precision_has_adapters_of_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    half = opened(dtype="bfloat16")
    model = half.build(0)
    assert Structure.of(half.weights(model)) == half.config.structure()
    assert {tensor.dtype for tensor in half.base.model.state_dict().values()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(half.loss(model, next(half.batches(0, 0, 4))).isfinite())
        assert half.evaluate(model, "test").correct.shape == (14,)


REFERENCE = """
include: {lm_eval}/tasks/{file}
task: reference_{name}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{train: {data}, validation: {data}, test: {data}}}, cache_dir: {cache}}}
"""


def _siqa(context: str, question: str, *choices: str) -> dict[str, Any]:
    return {"context": context, "question": question} | dict(
        zip(("answerA", "answerB", "answerC"), choices, strict=True)
    )


# lm-eval's tasks of the same names, and a question in the columns of their data.
TASKS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "piqa": ("piqa/piqa.yaml", lambda q: {"goal": q.question, "sol1": q.choices[0], "sol2": q.choices[1]}),
    "siqa": ("siqa/siqa.yaml", lambda q: _siqa(*q.question.split(" ", 1), *q.choices)),
    "arc_e": ("arc/arc_easy.yaml", lambda q: {"question": q.question}),
    "obqa": ("openbookqa/openbookqa.yaml", lambda q: {"question_stem": q.question}),
}


@pytest.mark.slow
def test_scores_are_those_of_lm_evals_own_tasks(
    task: commonsense.CommonsenseTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    save_data(tmp_path / "many", each=40)
    many = task.config.model_copy(update={"sets": tuple(TASKS)}).build(tmp_path / "many", CPU)
    assert isinstance(many, commonsense.CommonsenseTask)
    place = Path(lm_eval.__file__).parent
    (tmp_path / "tasks").mkdir()
    for name, (file, columns) in TASKS.items():
        rows = []
        for question in many.questions[name]:
            row = columns(question) | {
                "label": question.answer + (name == "siqa"),
                "answerKey": "ABCDE"[question.answer],
            }
            letters = list("ABCDE"[: len(question.choices)])
            rows.append(json.dumps(row | {"choices": {"text": question.choices, "label": letters}}))
        data = tmp_path / f"{name}.json"
        data.write_text("\n".join(rows))
        text = REFERENCE.format(lm_eval=place, file=file, name=name, data=data, cache=tmp_path / "cache")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    model = many.build(0)
    many.load(model, first("zoos/mini"))
    lm = evaluator.language_model(model.network.eval(), many.base.tokenizer, batch_size=8)
    expected = lm_eval.simple_evaluate(
        model=lm,
        tasks=[f"reference_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
        log_samples=False,
    )["results"]
    found = {
        m.name: m.value for m in evaluator.evaluate(lm, many.questions, evaluator.Settings("loglikelihood")).metrics
    }
    for name in TASKS:
        reference = expected[f"reference_{name}"]
        assert found[name] == pytest.approx(100 * reference["acc,none"])
        if SETS[name].normed:
            assert found[f"{name}_norm"] == pytest.approx(100 * reference["acc_norm,none"])
