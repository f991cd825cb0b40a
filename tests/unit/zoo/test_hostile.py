"""Files that may be anyone's: readers answer only with our own errors, in bounded memory and time, and run no code."""

import io
import json
import os
import resource
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import readers
import zoo.files
from rpg.run import Run, RunRecord, read_losses
from rpg.tokens.layout import Layout
from zoo.checkpoint import load_tensors, save_tensors
from zoo.cli import app
from zoo.console import plain, run_cli
from zoo.errors import Corrupt, MissingData
from zoo.files import Journal, parse_json, read_limited
from zoo.formats.inert import load_pickle
from zoo.formats.weights import read
from zoo.listing import recipe_problem
from zoo.manifest import Entry, Manifest
from zoo.recipe import load_recipe, task_of
from zoo.scoring import score
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

EXAMPLES = readers.examples()
NAMES = sorted(EXAMPLES)
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, count: int = 2) -> Zoo:
    with ZooWriter(path, readers.origin(), Structure.of(readers.WEIGHTS)) as writer:
        for k in range(count):
            writer.add(f"net-{k}", readers.WEIGHTS | {"n": torch.tensor(k)}, seed=k, split="train")
        return writer.finish()


def rewrite(zoo: Zoo, old: str, new: str) -> Zoo:
    """The zoo opened again after a change of its manifest's text."""
    text = (zoo.path / "manifest.json").read_text()
    assert old in text
    (zoo.path / "manifest.json").write_text(text.replace(old, new))
    return Zoo.open(zoo.path)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('"image_size": 1000000000', "task.image_size: Input should be less than or equal to 16384"),
        ('"crop_padding": 1000000000', "task.crop_padding"),
        ('"options": {"depth": 1000000000}', "options.depth is 1000000000; expected numbers of at most 16,777,216"),
        ('"options": {"depth": [1, -1e18]}', "options.depth is -1e+18; expected"),
    ],
)
def test_absurd_numbers_of_a_task_are_found(tmp_path: Path, field: str, said: str) -> None:
    zoo = write(tmp_path / "zoo")
    assert recipe_problem(zoo) == []
    [problem] = recipe_problem(rewrite(zoo, '"model": "cnn_digits"', f'"model": "cnn_digits", {field}'))
    assert said in problem
    assert "pydantic" not in problem


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_valid(tmp_path: Path, name: str) -> None:
    readers.readers(tmp_path)[name](EXAMPLES[name])


@pytest.mark.parametrize("name", NAMES)
@MANY
@given(data=st.data())
def test_changed_bytes_give_our_errors(tmp_path: Path, name: str, data: st.DataObject) -> None:
    example = bytearray(EXAMPLES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(example)))
        end = data.draw(st.integers(start, min(start + 8, len(example))))
        example[start:end] = data.draw(st.binary(max_size=8))
    with suppress(*readers.OURS):
        readers.readers(tmp_path)[name](bytes(example))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in readers.BINARY])
@MANY
@given(data=st.data())
def test_changed_values_give_our_errors(tmp_path: Path, name: str, data: st.DataObject) -> None:
    changed = readers.mutated(name, EXAMPLES[name], lambda n: data.draw(st.integers(0, n - 1)))
    with suppress(*readers.OURS):
        readers.readers(tmp_path)[name](changed)


JSON_READERS = ("manifest", "layout", "run", "score", "journal")


@pytest.mark.parametrize("name", JSON_READERS)
@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'"\xff\xfe"',
        b"\xff\xfe{\x00}\x00",
        b'{"a": ' + b"9" * 100_000 + b"}",
        b"",
        b"\0",
    ],
    ids=range(11),
)
def test_json_that_parsers_dislike(tmp_path: Path, name: str, text: bytes) -> None:
    start = EXAMPLES[name].splitlines()[0] + b"\n" if name == "journal" else b""
    with pytest.raises(Corrupt, match=r"^[^\n]+$"):
        readers.readers(tmp_path)[name](start + text + b"\n")


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    text = EXAMPLES["manifest"].decode().replace('"seed":1', '"seed":1,"seed":2')
    with pytest.raises(Corrupt, match="twice"):
        Manifest.parse(text, "manifest.json")
    assert parse_json('[{"a": 1}, {"a": 2}]', "x") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"id":"a"', '"id":"../a"'),
        ('"id":"a"', '"id":"a\\u001b[2J"'),
        ('"id":"a"', '"id":"a\\n"'),
        ('"file":"checkpoints/a', '"file":"../checkpoints/a'),
        ('"files":{', '"files":{"/etc/passwd":{"bytes":1,"sha256":"' + "0" * 64 + '"},'),
        ('"row":null', '"row":-1'),
        ('"seed":1', '"seed":9223372036854775808'),
        ('"shape":[2,3]', '"shape":[-2,3]'),
        ('"shape":[2,3]', '"shape":[1000000000000000000]'),
        ('"shape":[2,3]', '"shape":[1099511627776,1099511627776]'),
        ('"name":"digits"', '"name":"\\u001b]0;owned\\u0007"'),
        ('"condition":null', '"condition":"a\\nb"'),
        ('"metrics":{}', '"metrics":{"\\u001b":{"name":"\\u001b","value":1.0,"n":1,"stderr":0.0}}'),
        ('"model":"cnn_digits"', '"model":"a\\u202eb"'),
        ('"kind":"collected"', '"kind":"executed"'),
        ('"model":"', '"model":"' + "x" * 2_000_000),
    ],
)  # fmt: skip
def test_manifests_that_are_refused(old: str, new: str) -> None:
    text = EXAMPLES["manifest"].decode()
    assert old in text
    with pytest.raises(Corrupt, match=r"^[^\n\x1b]+$"):
        Manifest.parse(text.replace(old, new, 1), "manifest.json")


def test_sizes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo_path = write(tmp_path / "zoo").path
    with (zoo_path / "manifest.json").open("r+b") as file:
        file.truncate(10**9)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Corrupt, match="134,217,728"):
        Zoo.open(zoo_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    monkeypatch.setattr(zoo.files, "JOURNAL_BYTES", 10)
    (tmp_path / "journal.jsonl").write_text("{}\n" * 10)
    with pytest.raises(Corrupt, match="more than 10"):
        Journal(tmp_path / "journal.jsonl")


def test_devices_pipes_and_links_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "link").symlink_to("mine")
    for name in ("pipe", "zero"):
        for reads in (lambda path: read_limited(path, 10), load_pickle, Journal):
            with pytest.raises(Corrupt):
                reads(tmp_path / name)
    with pytest.raises(Corrupt, match="link"):
        Journal(tmp_path / "link")  # would cut the unfinished line off a file of somebody else
    assert (tmp_path / "mine").read_text() == "precious"
    for name in ("pipe", "zero"):
        place = tmp_path / f"zoo-{name}"
        place.mkdir()
        (tmp_path / name).rename(place / "manifest.json")
        with pytest.raises(MissingData):
            Zoo.open(place)


@pytest.mark.parametrize("kind", ["outside", "loop", "device", "pipe", "directory"])
def test_a_checkpoint_file_that_is_something_else(tmp_path: Path, kind: str) -> None:
    found = write(tmp_path / "zoo")
    stack = found.path / "checkpoints" / "stack-00000.safetensors"
    stack.rename(tmp_path / "elsewhere")
    makers = {
        "outside": lambda: stack.symlink_to(tmp_path / "elsewhere"),
        "loop": lambda: stack.symlink_to(stack.name),
        "device": lambda: stack.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(stack),
        "directory": stack.mkdir,
    }
    makers[kind]()
    with pytest.raises(Corrupt, match=r"outside|missing|cannot be read"):
        found.load(found.entries[0])
    assert list(found.problems())


def test_a_row_out_of_range(tmp_path: Path) -> None:
    found = rewrite(write(tmp_path / "zoo"), '"row": 1', '"row": 7')
    with pytest.raises(Corrupt, match="row 7"):
        found.load(found.entries[1])


def test_the_index_is_never_read_back(tmp_path: Path) -> None:
    found = write(tmp_path / "zoo")
    (found.path / "index.parquet").unlink()
    os.mkfifo(found.path / "index.parquet")  # reading it would hang
    again = Zoo.open(found.path)
    assert [int(weights["n"]) for weights in again.checkpoints(again.entries)] == [0, 1]
    assert any("index.parquet is missing" in problem for problem in again.problems())


def safetensors_file(path: Path, header: bytes, size: int | None = None, body: bytes = b"") -> Path:
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header + body)
    return path


@pytest.mark.parametrize(
    ("size", "tensor"),
    [
        (2**31, {}),
        (2**63, {}),
        (None, {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}),
        (None, {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}),
        (None, {"dtype": "F32", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}),
        (None, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}),
        (None, {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}),
        (None, {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}),
        (None, {"dtype": "os:system", "shape": [1], "data_offsets": [0, 4]}),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, size: int | None, tensor: dict[str, object]) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", json.dumps({"a": tensor}).encode(), size, b"\0" * 4)
    with pytest.raises(Corrupt):
        load_tensors(path)


def test_pickles_that_unfold(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**15)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match="dense tensors"):
        read(tmp_path / "wide.pth")
    plain_file = io.BytesIO()
    torch.save({"a": torch.zeros(1_000_000)}, plain_file)
    with zipfile.ZipFile(plain_file) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(Corrupt, match="larger than the file"):
        read(tmp_path / "bomb.pth")


def test_layouts_that_would_count_for_ever() -> None:
    started = time.monotonic()
    shape = [2**40 - 87, 1]  # a prime number of channels
    text = EXAMPLES["layout"].decode().replace("[2,3]", json.dumps(shape).replace(" ", ""))
    with pytest.raises(Corrupt, match="token"):
        Layout.parse(text, "layout.json")
    assert time.monotonic() - started < 5


def test_run_records_stay_in_their_run(tmp_path: Path) -> None:
    record = {"../../secret": {"bytes": 1, "sha256": "0" * 64}}
    text = EXAMPLES["run"].decode().replace('"files":{}', f'"files":{json.dumps(record)}')
    with pytest.raises(Corrupt, match="leaves"):
        RunRecord.parse(text, "run.json")
    (tmp_path / "metrics.jsonl").write_text('{"step": "x"}\n')
    with pytest.raises(Corrupt, match="step"):
        read_losses(Run(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "os:system"},
        {"name": "os"},
        {"name": "zoo.tasks.classification"},
        {"name": "../classification"},
        {"model": "os:system"},
        {"model": "local-dir:/etc"},
        {"model": "hf-hub:somebody/model"},
        {"data": "/etc/passwd"},
        {"model": "${oc.env:HOME}"},
        {"options": {"checkpoint_path": "/etc/passwd"}},
        {"options": {"pretrained_cfg": "hf-hub:x"}},
        {"options": {"cache_dir": "/"}},
    ],
    ids=str,
)
def test_a_recipe_names_no_code_but_registered_tasks(change: dict[str, object]) -> None:
    """So nothing needs a flag that says it may be trusted."""
    config = json.loads(json.dumps(load_recipe("digits").task.model_dump(mode="json"))) | change
    theirs = readers.origin().model_copy(update={"task": config})
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        task_of(theirs).build(None, torch.device("cpu")).build(0)


@pytest.mark.parametrize(
    "text",
    [
        "extends: ../../../etc/passwd\n",
        "extends: _methods/rpg-tiny\n",
        "!!python/object/apply:os.system [mkdir ran-code]\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
        "{" * 50_000,
        "{" * 900,
        "- " * 30_000,
        "? " * 30_000,
        "a: " * 20_000,
        "x" * 100_000,
        "? [1, 2]\n: 3\n",
        "task: ${oc.env:HOME}\n",
        "hydra: {}\n",
    ],
)
def test_recipe_texts_that_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        load_recipe(str(tmp_path / "theirs.yaml"))
    assert not Path("ran-code").exists()


def test_scoring_reads_no_file_that_a_recipe_names(tmp_path: Path) -> None:
    """`task.pretrained` is for training, which nobody does with a recipe from a manifest: scoring builds the network,
    and its weights are all in the zoo. A pipe would hang whoever reads it.
    """
    os.mkfifo(tmp_path / "secret.pth")
    recipe = load_recipe("digits", [f"task.pretrained={tmp_path / 'secret.pth'}"])
    origin = recipe.collected(("x",))
    task = task_of(origin).build(None, torch.device("cpu"))
    weights = task.weights(task.build(0))
    with ZooWriter(tmp_path / "zoo", origin, Structure.of(weights)) as writer:
        writer.add("a", weights, seed=0, split="train")
        found = writer.finish()
    assert [s.id for s in score(found, task, tmp_path / "scores")] == ["a"]


def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["rpg-zoo", *command])
    with pytest.raises(SystemExit) as exit:
        run_cli(app, "rpg-zoo")
    return (int(exit.value.code or 0), *capsys.readouterr())


def test_terminals_are_not_given_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"a\x1b[2J\nfake": torch.zeros(2)}
    origin = readers.origin().model_copy(update={"command": ("x\x1b]0;owned\x07\n", "\u202e")})
    with ZooWriter(tmp_path / "zoo", origin, Structure.of(weights)) as writer:
        writer.add("a", weights, seed=0, split="train")
        writer.finish()
    (tmp_path / "zoo" / "checkpoints" / "x\x1b[2J\nzoo is sound").write_text("")
    for command in ("show", "ls", "verify"):
        _, out, err = shell(monkeypatch, capsys, command, str(tmp_path / "zoo"))
        assert all(c.isprintable() or c == "\n" for c in out + err)
    assert out.count("\n") == 1
    assert plain("é\x1b\n\ud800", keep="\n") == "é\\x1b\n\\ud800"


def test_verify_reports_a_broken_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write(tmp_path / "zoo")
    code, out, _ = shell(monkeypatch, capsys, "verify", str(found.path))
    assert (code, "is sound" in out) == (0, True)
    rewrite(found, "cnn_digits", "${oc.env:HOME}")
    code, out, _ = shell(monkeypatch, capsys, "verify", str(found.path))
    assert code == 1
    assert "task in the manifest cannot be used here" in out


def test_entries_in_journals_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "zoo"
    ZooWriter(path, readers.origin(), Structure.of(readers.WEIGHTS)).close()
    with (path / "journal.jsonl").open("a") as file:
        file.write(readers.entry().to_json().replace('"id":"a"', '"id":"../a"') + "\n")
    with pytest.raises(Corrupt, match="id"):
        ZooWriter(path, readers.origin(), Structure.of(readers.WEIGHTS))
    with pytest.raises(Corrupt):
        Entry.parse(b"null", "x")


def test_files_of_ours_still_pass(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", readers.WEIGHTS)
    assert load_tensors(tmp_path / "x.safetensors").keys() == readers.WEIGHTS.keys()
