"""UperNet on ADE20K in small, through mmsegmentation: the task, and the whole way through the command lines on data
that has the real layout. Loading, scoring and learning rates are compared with mmsegmentation's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from PIL import Image
from web_server import web

from evaluators.segmentation import IGNORE
from zoo.data import ade20k
from zoo.errors import Corrupt, Failed, MissingData, MissingExtra
from zoo.fetch import released
from zoo.formats.weights import read
from zoo.hub.licenses import ingredients
from zoo.networks import openmmlab
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks.segmentation import Config, SegmentationTask

pytest.importorskip("mmseg", reason="extra [seg] is not installed")
mmengine = pytest.importorskip("mmengine", reason="extra [seg] is not installed")

CLASSES = ("wall", "building", "sky", "floor", "tree")
TINY = {"name": "segmentation", "size": "tiny", "classes": CLASSES, "crop": 64, "validation": 0.15}
CPU = torch.device("cpu")
RECIPE = """
extends: ade20k/ade20k
task: {size: tiny, crop: 64, classes: [wall, building, sky, floor, tree], pretrained: false, validation: 0.15}
zoo: {checkpoints: 3, batch_size: 3, epochs: 8, learning_rate: 2.0e-3, save_learning_rate: 1.0e-4, save_every: 1}
method:
  name: rpg
  generator: {token_size: 4096, d_model: 32, d_state: 16, channels: [1, 4, 1]}
  train: {steps: 3, batch_size: 2, learning_rate: 1.0e-3, diffusion_batch: 8, precision: float32, optimizer: adamw}
generate: {n: 2, sampler: ddim, steps: 2}
eval: {n: 2, average_of: 2}
"""


def write_data(root: Path, training: int = 14, validation: int = 3) -> Path:
    """Photographs of rectangles of seven classes, two of which the tiny network does not know, in their colours."""
    rng = np.random.default_rng(0)
    for split, count in (("training", training), ("validation", validation)):
        for kind in ("images", "annotations"):
            (root / ade20k.FOLDER / kind / split).mkdir(parents=True)
        for i in range(count):
            labels = np.kron(rng.integers(0, 8, (3, 5)), np.ones((24 + i, 20), int)).astype(np.uint8)
            noise = rng.integers(0, 30, (*labels.shape, 3))
            image = (labels[..., None] * np.array([30, 7, 19]) + noise).astype(np.uint8)
            name = f"ADE_{split[:5]}_{i:08d}"
            Image.fromarray(image).save(root / ade20k.FOLDER / "images" / split / f"{name}.jpg")
            Image.fromarray(labels).save(root / ade20k.FOLDER / "annotations" / split / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("ade20k"))


@pytest.fixture(scope="module")
def task(data: Path) -> SegmentationTask:
    task = Config.model_validate(TINY).build(data, CPU)
    assert isinstance(task, SegmentationTask)
    task.scenes = dataclasses.replace(task.scenes, workers=0)
    return task


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which the tiny recipe has gone the whole way."""
    place = tmp_path_factory.mktemp("tiny")
    (place / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command in (
            f"rpg-zoo collect tiny.yaml --data-root {data}",
            "rpg train tiny.yaml",
            "rpg generate tiny",
            "rpg-zoo export zoos/tiny-generated generated-0001 --format mmseg --out made.pth",
            "rpg-zoo export zoos/tiny seed00020-0002 --format mmseg --out original.pth",
        ):
            call(command)
        yield place


def their_config(data: Path, place: Path) -> mmengine.Config:
    """mmsegmentation's own config of the paper's network, in small."""
    import mmseg

    file = "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py"
    config = mmengine.Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / file)
    crop = (64, 64)
    config.merge_from_dict(
        {
            "model.pretrained": None,
            "model.data_preprocessor.size": crop,
            "model.backbone": {"img_size": crop, "embed_dims": 48, "num_layers": 4, "num_heads": 3},
            "model.backbone.out_indices": [0, 1, 2, 3],
            "model.neck.embed_dim": 48,
            "model.decode_head": {"in_channels": [48] * 4, "channels": 32, "num_classes": 5},
            "model.auxiliary_head": {"in_channels": 48, "channels": 16, "num_classes": 5},
            "model.test_cfg": {"crop_size": crop, "stride": (42, 42)},
            "work_dir": str(place),
            "log_level": "ERROR",
        }
    )
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.norm_cfg.type = "BN"
    loader = config.test_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    loader.dataset.data_root = str(data / ade20k.FOLDER)
    loader.dataset.metainfo = {"classes": CLASSES}
    loader.dataset.pipeline[1].scale = (256, 64)
    return config


def test_the_recipe_has_mmsegmentations_network() -> None:
    import mmseg

    file = "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py"
    theirs = mmengine.Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / file).model.to_dict()
    theirs["pretrained"] = None
    for head in (theirs["decode_head"], theirs["auxiliary_head"]):
        head["norm_cfg"]["type"] = "BN"
    ours = openmmlab.settings("base", 512, 150)
    assert ours.pop("_scope_") == "mmseg"
    assert ours["data_preprocessor"].pop("test_cfg") == {"size": (512, 512)}
    assert ours == theirs

    config = load_recipe("ade20k").task
    structure, constants = config.structure(), config.frozen()
    buffers = (".running_mean", ".running_var", ".num_batches_tracked")
    parameters = sum(spec.numel for spec in structure if not spec.name.endswith(buffers))
    indices = sum(tensor.numel() for tensor in constants.values())
    assert (parameters, indices) == (163_877_228, 12_607_500)
    assert round((structure.numel + indices) / 1e6, 1) == 176.5
    meta = config.library_config()["meta"]["dataset_meta"]
    assert (len(meta["classes"]), len(meta["palette"]), meta["classes"][:2]) == (150, 150, ["wall", "building"])


def test_load_inverts_weights_and_the_structure_needs_no_network(task: SegmentationTask) -> None:
    model, other = task.build(0), task.build(1)
    weights, constants = task.weights(model), task.frozen(model)
    assert Structure.of(weights) == task.config.structure()
    assert {name: t.tolist() for name, t in task.config.frozen().items()} == {
        name: t.tolist() for name, t in constants.items()
    }
    assert weights.keys() | constants.keys() == model.state_dict().keys()
    assert all(name.endswith("relative_position_index") for name in constants)
    for given in (weights, weights | constants):
        task.load(other, given)
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
        task.load(other, task.weights(task.build(1)))
    again = task.weights(task.build(0))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    with pytest.raises(ValueError, match=r"does not fit the expected structure: missing: backbone\.cls_token"):
        task.load(other, {name: tensor for name, tensor in weights.items() if name != "backbone.cls_token"})


def test_batches_are_functions_of_seed_and_number(task: SegmentationTask) -> None:
    def take(seed: int, first: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(islice(task.batches(seed, first, 2), count))

    whole = take(0, 0, 8)  # an epoch has six
    assert all(images.shape == (2, 3, 64, 64) and labels.shape == (2, 64, 64) for images, labels in whole)
    assert {int(v) for _, labels in whole for v in labels.unique()} <= {*range(5), IGNORE}
    rng = np.random.get_state()[1].copy()  # what others draw in between changes nothing, nor the other way round
    for first in (1, 6, 7):
        for mine, other in zip(whole[first:], take(0, first, 8 - first), strict=True):
            assert torch.equal(mine[0], other[0])
            assert torch.equal(mine[1], other[1])
    assert np.array_equal(rng, np.random.get_state()[1])
    assert not torch.equal(whole[0][0], take(1, 0, 1)[0][0])


def test_validation_images_are_never_trained_on(task: SegmentationTask, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = openmmlab.read_image
    monkeypatch.setattr(openmmlab, "read_image", lambda path: (read.append(path.name), original(path))[1])
    list(islice(task.batches(3, 0, 2), 6))
    trained = set(read)
    read.clear()
    task.evaluate(task.build(0), "validation")
    assert (len(trained), len(set(read))) == (12, 2)
    assert not trained & set(read)
    read.clear()
    task.evaluate(task.build(0), "test")
    assert read == [f"ADE_valid_{i:08d}.jpg" for i in range(3)]


def test_labels_are_shifted_and_other_classes_do_not_count(task: SegmentationTask) -> None:
    stored = ade20k.read_labels(task.scenes.test[1][1])
    _, labels = list(task.scenes.plain("test", torch.arange(2)))[1]
    assert labels.shape == stored.shape == (75, 100)
    expected = np.where((stored >= 1) & (stored <= 5), stored - 1, IGNORE)
    assert np.array_equal(labels.numpy(), expected)
    reordered = ade20k.label_table(("tree", "wall"), openmmlab.ade20k()[0])
    assert (reordered[5], reordered[1], reordered[2], reordered[0]) == (0, 1, IGNORE, IGNORE)


def test_learning_rates_are_those_of_mmsegmentation(task: SegmentationTask) -> None:
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DefaultScope
    from mmseg.engine.optimizers import LayerDecayOptimizerConstructor  # noqa: F401  # registers itself

    model = task.build(0)
    settings = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 1.0, "betas": (0.9, 0.999), "weight_decay": 0.05},
        "paramwise_cfg": {"num_layers": 4, "layer_decay_rate": 0.65},
        "constructor": "LayerDecayOptimizerConstructor",
    }
    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs = build_optim_wrapper(model, settings).param_groups
    mine = set(map(id, model.parameters()))  # they add one that is nobody's
    expected = {id(p): (g["lr"], g["weight_decay"]) for g in theirs for p in g["params"] if id(p) in mine}
    groups = task.groups(model, 0.65)
    found = {id(p): (group["lr_scale"], group.get("weight_decay", 0.05)) for group in groups for p in group["params"]}
    assert found == {key: (pytest.approx(rate), decay) for key, (rate, decay) in expected.items()}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["lr_scale"] for group in task.groups(model, 1.0)} == {1.0}


def test_training_starts_from_a_whole_network_or_from_its_backbone(task: SegmentationTask, tmp_path: Path) -> None:
    def start(pretrained: bool | str, seed: int = 1) -> dict[str, torch.Tensor]:
        config = task.config.model_copy(update={"pretrained": pretrained})
        return SegmentationTask(config, task.scenes, CPU).start(seed).state_dict()

    state = task.build(0).state_dict()
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "whole.pth")
    whole = start(str(tmp_path / "whole.pth"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in state.items())

    backbone = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    mae = {name: t for name, t in backbone.items() if "relative_position" not in name and "gamma" not in name}
    mae["pos_embed"] = torch.cat([mae["pos_embed"][:, :1], mae["pos_embed"].new_ones(1, 9, 48)], 1)  # of 48 px
    torch.save(mae | {"ln1.weight": torch.ones(48)}, tmp_path / "mae.pth")
    part, fresh = start(str(tmp_path / "mae.pth")), task.build(1).state_dict()
    name = "layers.2.attn.qkv.weight"
    assert torch.equal(part[f"backbone.{name}"], mae[name])
    assert torch.allclose(part["backbone.pos_embed"][:, 1:], torch.ones(1, 16, 48))
    assert torch.equal(part["decode_head.conv_seg.weight"], fresh["decode_head.conv_seg.weight"])

    torch.save({name: t for name, t in mae.items() if "layers.3" not in name}, tmp_path / "shallow.pth")
    with pytest.raises(ValueError, match=r"holds no weights of this backbone: they have no layers\.3\.ln1\.weight"):
        start(str(tmp_path / "shallow.pth"))
    torch.save({**state, "decode_head.conv_seg.bias": torch.zeros(7)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"decode_head\.conv_seg\.bias should be \[5\], found \[7\]"):
        start(str(tmp_path / "other.pth"))
    with pytest.raises(MissingData, match=r"--set task\.pretrained=FILE"):
        start(str(tmp_path / "nothing.pth"))
    with pytest.raises(
        ValueError, match=r"nobody has published weights of tiny; expected task\.pretrained=false, or a"
    ):
        start(True)


def test_released_weights_are_downloaded_loaded_and_recorded(
    task: SegmentationTask,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of it but for the address is as for mmsegmentation's own file."""
    state = task.build(7).state_dict()
    torch.save({"meta": {"classes": CLASSES}, "state_dict": state}, tmp_path / "made.pth")
    file = (tmp_path / "made.pth").read_bytes()
    hashed = hashlib.sha256(file).hexdigest()
    monkeypatch.setattr(released, "downloads", lambda kind: tmp_path / "cache" / kind)
    with web(monkeypatch) as server:
        url, served = server.add("/b/net-f92a2975.pth", file)
        urls = (f"{server.endpoint}/a/net-f92a2975.pth", url)  # the first has it no longer
        known = replace(released.RELEASED["mmseg", "base"], urls=urls)
        monkeypatch.setitem(released.RELEASED, ("mmseg", "tiny"), known)
        config = task.config.model_copy(update={"pretrained": True})
        start = SegmentationTask(config, task.scenes, CPU).start

        served.drops = [5000] + [0] * 9
        with pytest.raises(Failed, match=r"cannot be reached, or not for long .*; 5,000 bytes of it are kept"):
            start(1)
        served.drops.clear()
        assert config.started_from() == {"net-f92a2975.pth": f"sha256 {hashed}"}
        assert server.asked[-1] == ("/b/net-f92a2975.pth", "bytes=5000-")
    place = tmp_path / "cache/weights/mmseg/net-f92a2975.pth"
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert place.read_bytes() == file
    started = start(1).state_dict()  # with nobody to ask any more
    assert all(torch.equal(tensor, started[name]) for name, tensor in state.items())

    caplog.clear()
    released._compare(replace(known, digits=hashed[:8]), place)
    assert caplog.messages == []
    released._compare(known, place)
    assert f"begins with {hashed[:8]}, its name ends in f92a2975" in caplog.text

    del state["decode_head.conv_seg.bias"]
    torch.save({"state_dict": state}, place)
    with pytest.raises(ValueError, match=r"net-f92a2975\.pth does not fit: missing: decode_head\.conv_seg\.bias$"):
        start(1)
    (part,) = [part for part in ingredients(load_recipe("ade20k").collected(("x",))) if "f92a2975" in part.name]
    assert part.terms == released.TERMS


def test_the_released_weights_are_those_of_mmsegmentations_table() -> None:
    import mmseg
    import yaml

    table = Path(mmseg.__file__).parent / ".mim/configs/mae/metafile.yaml"
    (theirs,) = yaml.safe_load(table.read_text())["Models"]
    known = released.RELEASED["mmseg", "base"]
    assert theirs["Weights"].partition("/mmsegmentation/")[2] == known.urls[0].partition("/mmsegmentation/")[2]
    assert theirs["Weights"] in known.urls
    assert f"mIoU {theirs['Results']['Metrics']['mIoU']}" in known.what
    assert known.digits == Path(theirs["Weights"]).stem.rpartition("-")[2]


def test_images_lower_than_a_crop_are_segmented(task: SegmentationTask) -> None:
    model = task.build(0).eval()
    with torch.no_grad():
        found = openmmlab.predict(model, torch.zeros(3, 20, 256, dtype=torch.uint8), (10, 128))
    assert (found.shape, found.dtype) == ((10, 128), torch.int64)


def test_the_whole_way(done: Path, data: Path) -> None:
    originals, made = Zoo.open(done / "zoos/tiny"), Zoo.open(done / "zoos/tiny-generated")
    assert list(originals.problems()) == list(made.problems()) == []
    assert set(originals.frozen()) == {f"backbone.layers.{i}.attn.relative_position_index" for i in range(4)}
    assert originals.frozen().keys() == made.frozen().keys()
    scored = json.loads(call(f"rpg eval --task tiny --data-root {data} --json"))
    assert scored["protocol"].startswith("ade20k validation, 3 images, 5 classes, slide 64 px by 42, data ")
    assert [row["sha256"] for row in scored["checkpoints"]] == [entry.sha256 for entry in made.entries]
    assert set(scored["metrics"]) == {"mIoU", "mAcc", "aAcc"}
    alone = json.loads(call(f"rpg eval made.pth --task tiny.yaml --data-root {data} --json"))["checkpoints"][0]
    assert alone["metrics"] == scored["checkpoints"][1]["metrics"]
    call(f"rpg report --task tiny --data-root {data}")
    report = (done / "reports/tiny-generated/report.md").read_text()
    assert "mIoU" in report


def test_their_loader_reads_what_is_exported_and_computes_the_same(
    done: Path, data: Path, task: SegmentationTask
) -> None:
    from mmengine.registry import DefaultScope
    from mmengine.runner import load_checkpoint
    from mmseg.registry import MODELS

    made = Zoo.open(done / "zoos/tiny-generated")
    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs = MODELS.build(their_config(data, done).model)
    content = load_checkpoint(theirs, str(done / "made.pth"), strict=True, map_location="cpu")
    assert content["meta"]["dataset_meta"]["classes"] == list(CLASSES)
    assert content["meta"]["dataset_meta"]["palette"][1] == [180, 120, 120]
    mine = task.build(0)
    task.load(mine, made.load(made.entry("generated-0001")))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(mine.eval()(images), theirs.eval()(images))


def test_scores_are_those_of_mmsegmentations_metric(done: Path, data: Path, task: SegmentationTask) -> None:
    from mmengine.registry import DefaultScope
    from mmseg.evaluation import IoUMetric
    from mmseg.registry import DATASETS, MODELS

    config = their_config(data, done)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model, scenes = MODELS.build(config.model), DATASETS.build(config.test_dataloader.dataset)
    model.load_state_dict(read(done / "original.pth", "state_dict").tensors)
    metric = IoUMetric()
    metric.dataset_meta = scenes.metainfo
    with torch.no_grad():
        for i in range(3):
            item = scenes[i]
            batch = {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
            metric.process(batch, [sample.to_dict() for sample in model.eval().test_step(batch)])
    theirs = metric.compute_metrics(metric.results)

    mine = task.build(0)
    task.load(mine, read(done / "original.pth", "state_dict").tensors)
    found = {m.name: m.value for m in task.evaluate(mine, "test").metrics}
    assert found == {name: pytest.approx(float(value), abs=0.0051) for name, value in theirs.items()}  # they round
    assert found["mIoU"] > 10  # the network has learnt something: a constant answer has 4 or so


@pytest.mark.slow
def test_scores_are_those_of_mmengines_runner(done: Path, data: Path, task: SegmentationTask) -> None:
    from mmengine.runner import Runner

    config = their_config(data, done)
    config.load_from = str(done / "original.pth")
    config.default_hooks.pop("visualization")
    theirs = Runner.from_cfg(config).test()
    mine = task.build(0)
    task.load(mine, read(done / "original.pth", "state_dict").tensors)
    found = {m.name: m.value for m in task.evaluate(mine, "test").metrics}
    assert found == {name: pytest.approx(float(value), abs=0.0051) for name, value in theirs.items()}


def test_what_is_exported_can_be_imported(done: Path) -> None:
    made = Zoo.open(done / "zoos/tiny-generated")
    report = json.loads(call("rpg-zoo import made.pth --recipe tiny.yaml --out zoos/back --json"))
    assert (report["format"], len(report["taken"]), report["skipped"]) == ("folder", 1, [])
    back = Zoo.open(done / "zoos/back")
    assert [entry.sha256 for entry in back.entries] == [made.entry("generated-0001").sha256]
    assert all(torch.equal(tensor, made.frozen()[name]) for name, tensor in back.frozen().items())

    content = torch.load(done / "made.pth", weights_only=True)
    index = "backbone.layers.1.attn.relative_position_index"
    content["state_dict"][index] = content["state_dict"][index] + 1
    torch.save(content, done / "odd.pth")
    assert f"{index} differs" in call("rpg-zoo import odd.pth --recipe tiny.yaml --out zoos/odd", code=2)
    line = call("rpg-zoo import made.pth --recipe tiny.yaml --set task.classes=[wall,sky] --out zoos/odd", code=2)
    assert "decode_head.conv_seg.weight should be [2, 32, 1, 1]" in line


def test_bad_input_is_one_line(done: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = f"rpg-zoo collect tiny.yaml --out {tmp_path / 'zoo'}"
    layout = "ADEChallengeData2016/{images,annotations}/{training,validation}"
    assert layout in call(f"{collect} --data-root {tmp_path}", code=4)
    assert layout in call(collect, code=4)
    line = call(f"{collect} --data-root {data} --set task.classes=[wall,trees]", code=2)
    assert line.endswith("task.classes has 'trees', which is no class of these data; did you mean tree?")
    assert "has one twice" in call(f"{collect} --data-root {data} --set task.classes=[wall,wall]", code=2)
    assert "multiple of 32" in call(f"{collect} --data-root {data} --set task.crop=70", code=2)
    assert "leaves 14 to train on and 0" in call(f"{collect} --data-root {data} --set task.validation=0.01", code=2)
    assert "choose another zoo.batch_size" in call(f"{collect} --data-root {data} --set zoo.batch_size=1", code=2)
    (done / "two.yaml").write_text(RECIPE.replace("wall, building, sky, floor, tree", "wall, sky"))
    line = call(f"rpg eval made.pth --task two.yaml --data-root {data}", code=2)
    assert "made.pth does not fit: decode_head.conv_seg.weight should be [2, 32, 1, 1]" in line
    monkeypatch.setitem(__import__("sys").modules, "mmseg.registry", None)
    line = call(f"{collect} --data-root {data}", code=3)
    assert "pip install 'rpg-zoo[seg]'" in line


def test_label_maps_of_other_data_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    faults = {
        r"map\.png has labels up to 180; expected one channel of 8 bits with labels from 0 to 150": np.uint8(180),
        r"map\.png has values of type uint16; expected one channel of 8 bits": np.uint16(7),
        r"map\.png has values of type bool": np.True_,
        r"map\.png has 3 channels": np.zeros(3, np.uint8),
    }
    for message, value in faults.items():
        Image.fromarray(np.full((4, 5, *value.shape), value)).save(file)
        with pytest.raises(Corrupt, match=message):
            ade20k.read_labels(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(Corrupt, match=r"map\.png cannot be decoded"):
        ade20k.read_labels(file)


def test_damaged_data_are_named(tmp_path: Path) -> None:
    root = write_data(tmp_path, training=7, validation=1)
    folder = root / ade20k.FOLDER
    image = folder / "images/validation/ADE_valid_00000000.jpg"

    def evaluate(workers: int) -> None:
        task = Config.model_validate(TINY).build(root, CPU)
        assert isinstance(task, SegmentationTask)
        task.scenes = dataclasses.replace(task.scenes, workers=workers)
        task.evaluate(task.build(0), "test")

    Image.new("RGB", (9, 9)).save(image)
    for workers in (0, 1):
        with pytest.raises(Corrupt, match=r"00000000\.jpg is \(9, 9\) pixels, but its label map .* is \(72, 100\)$"):
            evaluate(workers)
    image.write_bytes(b"no image")
    with pytest.raises(Corrupt, match=r"00000000\.jpg cannot be decoded: no image that OpenCV knows"):
        evaluate(0)
    (folder / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(Corrupt, match=r"ADE_train_00000002\.jpg has no label map"):
        evaluate(0)


def test_without_mmsegmentation_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mmseg", None)
    monkeypatch.delitem(__import__("sys").modules, "mmseg.datasets", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'rpg-zoo\[seg\]'"):
        openmmlab.ade20k()
