"""Every family of networks goes the whole way through the command lines, in small: collect, train, generate, evaluate,
export, reload. The images are four classes of JPEGs in ImageNet's layout, and handwritten digits.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import call
from PIL import Image

from zoo.data import images
from zoo.data.imagenet import class_folders
from zoo.formats.weights import read
from zoo.recipe import task_of
from zoo.store import Zoo
from zoo.tasks.classification import Config

CPU = torch.device("cpu")
RPG = """
  generator: {token_size: 1024, d_model: 32, d_state: 16, channels: [1, 4, 1]}
  train: {steps: 4, batch_size: 2, learning_rate: 1.0e-3, diffusion_batch: 16, precision: float32}
generate: {n: 2, sampler: ddim, steps: 2}
"""
ZOO = "{checkpoints: 2, optimizer: adamw, learning_rate: 1.0e-3, batch_size: 8, epochs: 1, save_learning_rate: 1.0e-4}"


def write_recipe(name: str, task: str, zoo: str = ZOO) -> str:
    Path(f"{name}.yaml").write_text(f"task: {task}\nzoo: {zoo}\nmethod:\n  name: rpg{RPG}")
    return f"{name}.yaml"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet of four classes, five images of each to train on and one to test on."""
    monkeypatch.setitem(images.FORMATS, "imagenet", images.Format(4, 3, 224))
    rng = np.random.default_rng(0)
    for split, each in (("train", 5), ("val", 1)):
        for name in class_folders():
            folder = tmp_path / "data" / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(each):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
                (folder / f"{i}.JPEG").write_bytes(buffer.getvalue())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("test_vit.r160_in1k", "{depth: 2, patch_size: 8}"),
        ("test_convnext.r160_in1k", "{}"),
        ("test_resnet.r160_in1k", "{}"),
        ("test_efficientnet.r160_in1k", "{}"),
    ],
)
def test_a_family_goes_the_whole_way_on_photographs(model, options, photos):
    task = (
        f"{{name: classification, model: {model}, options: {options}, data: imagenet, image_size: 32, "
        "augment: randaugment, validation: 0.2}"
    )
    recipe = write_recipe("mini", task)
    values = json.loads(call(f"rpg-zoo collect {recipe} --dry-run --json"))["values"]
    for command in (
        f"rpg-zoo collect {recipe} --data-root {photos}",
        f"rpg train {recipe}",
        "rpg generate mini",
        "rpg-zoo export zoos/mini-generated generated-0001 --format timm",
        "rpg-zoo export zoos/mini seed00000-0001 --format timm --out original",
    ):
        call(command)
    made = Zoo.open(Path("zoos/mini-generated"))
    weights = made.load(made.entry("generated-0001"))
    assert made.structure.numel == values
    scored = json.loads(call(f"rpg eval --task mini --data-root {photos} --json"))
    assert [row["sha256"] for row in scored["checkpoints"]] == [entry.sha256 for entry in made.entries]

    directory = "exports/mini-generated-generated-0001"
    loaded = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())

    # timm's own preparation of a test image, by what config.json says, gives the logits that are scored.
    originals = Zoo.open(Path("zoos/mini"))
    opened = Config.from_json(json.dumps(_task_of(originals))).build(photos, CPU)
    mine = opened.build(0)
    opened.load(mine, originals.load(originals.entry("seed00000-0001")))
    loaded = timm.create_model("local-dir:original", pretrained=True).eval()
    (pixels, _), *_ = opened.images.plain("test", torch.arange(1), 1)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
    with Image.open(photos / "imagenet/val/n01440764/0.JPEG") as image, torch.no_grad():
        theirs = loaded(transform(image.convert("RGB"))[None])
        torch.testing.assert_close(theirs, mine.eval()(opened._prepared(pixels)))

    file = json.loads(call(f"rpg eval {directory}/model.safetensors --task {recipe} --data-root {photos} --json"))
    assert file["metrics"]["top1"] == _alone(scored, 1)


def _task_of(made: Zoo) -> dict:
    return task_of(made.manifest.origin).model_dump(mode="json")


def _alone(scored: dict, row: int) -> dict:
    value = scored["checkpoints"][row]["metrics"]["top1"]["value"]
    return {"best": value, "mean": value, "median": value, "min": value, "std": 0.0, "n": 1}


def test_batchnorm_subset_is_generated_scored_and_exported_with_the_frozen_rest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole_task = "{name: classification, model: test_resnet, data: digits, image_size: 16, augment: flip}"
    settings = ZOO.replace("batch_size: 8", "batch_size: 400").replace(
        "}", ", head_epochs: 1, head_learning_rate: 0.01}"
    )
    whole = write_recipe("whole", whole_task, settings)
    part = write_recipe(
        "part",
        whole_task.replace(
            "}", ', pretrained: exports/whole-seed00000-0001, trainable: ["*.bn2.weight", "*.bn2.bias"]}'
        ),
        ZOO.replace("batch_size: 8", "batch_size: 400"),
    )
    line = call(f"rpg-zoo collect {part}", code=4)
    assert "no weights at exports/whole-seed00000-0001" in line
    assert "rpg-zoo export" in line
    for command in (
        f"rpg-zoo collect {whole}",
        "rpg-zoo export zoos/whole seed00000-0001 --format timm",
        f"rpg-zoo collect {part}",
        f"rpg train {part}",
        "rpg generate part",
        "rpg-zoo perturb zoos/part --kind soup",
        "rpg-zoo export zoos/part-generated generated-0000 --out made.safetensors",
        "rpg-zoo export zoos/part-generated generated-0000 --format pth --out made.pth",
    ):
        call(command)

    start = read(Path("exports/whole-seed00000-0001/model.safetensors")).tensors
    collected, made = Zoo.open(Path("zoos/part")), Zoo.open(Path("zoos/part-generated"))
    names = [name for name in start if name.endswith((".bn2.weight", ".bn2.bias"))]
    assert sorted(spec.name for spec in collected.structure) == sorted(names)
    first = collected.load(collected.entries[0])
    assert all(not torch.equal(first[name], start[name]) for name in names if name.endswith("bias"))
    for zoo_ in (collected, made, Zoo.open(Path("zoos/part-soup"))):
        assert list(zoo_.problems()) == []
        frozen = zoo_.frozen()
        assert set(frozen) == set(start) - set(names)
        assert all(torch.equal(tensor, start[name]) for name, tensor in frozen.items())

    expected = made.load(made.entries[0]) | made.frozen()
    for file in ("made.safetensors", "made.pth"):
        found = read(Path(file)).tensors
        assert set(found) == set(start)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    call("rpg-zoo export zoos/part seed00000-0000 --format pth --out original.pth")
    scored = json.loads(call("rpg-zoo score zoos/part --json"))["checkpoints"][0]
    alone = json.loads(call(f"rpg eval original.pth --task {part} --json"))["checkpoints"][0]
    assert alone["metrics"] == scored["metrics"]  # the loss among them
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1, checkpoint_path="made.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_networks_that_do_not_exist_are_refused_before_any_data_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = "{name: classification, model: resnet18.tv_in1k, pretrained: true, data: imagenet}"
    recipe = write_recipe("r", task)
    assert json.loads(call(f"rpg-zoo collect {recipe} --dry-run --json"))["values"] == 11_699_132
    line = call(f"rpg-zoo collect {recipe} --dry-run --set task.model=resnet18.tv_in2k", code=2)
    assert "did you mean resnet18.tv_in1k?" in line
    assert "imagenet/{train,val}" in call(f"rpg-zoo collect {recipe} --data-root {tmp_path}", code=4)
    line = call(f"rpg-zoo collect {recipe} --set task.data=digits --set task.image_size=32", code=4)
    assert "https://huggingface.co/timm/resnet18.tv_in1k" in line


def test_export_refuses_to_overwrite_and_may_be_repeated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe("r", "{name: classification, model: cnn_digits, data: digits}", ZOO.replace("8", "400"))
    call(f"rpg-zoo collect {recipe}")
    for form in ("timm", "safetensors", "pth"):
        plan = json.loads(call(f"rpg-zoo export zoos/r seed00000-0000 --format {form} --dry-run --json"))
        assert not Path(plan["out"]).exists()
        call(f"rpg-zoo export zoos/r seed00000-0000 --format {form}")
        before = {path: path.read_bytes() for path in Path("exports").rglob("*") if path.is_file()}
        call(f"rpg-zoo export zoos/r seed00000-0000 --format {form}")
        line = call(f"rpg-zoo export zoos/r seed00000-0001 --format {form} --out {plan['out']}", code=2)
        assert "holds something else; choose another place with --out" in line
        assert {path: path.read_bytes() for path in Path("exports").rglob("*") if path.is_file()} == before
    assert "safetensors" in call("rpg-zoo export zoos/r seed00000-0000 --format safetensor", code=2)
    assert "no checkpoint 'seed1'" in call("rpg-zoo export zoos/r seed1", code=2)
    loaded = timm.create_model("local-dir:exports/r-seed00000-0000", pretrained=True)
    assert torch.equal(loaded.head[0].weight, read(Path("exports/r-seed00000-0000.pth")).tensors["head.0.weight"])
