"""Detection with detectron2 itself: its networks, data and scores are what detectron2 makes of them, and a tiny ViTDet
goes the whole way through the command lines. detectron2 is not on PyPI, so where it was not built these tests skip.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import coco_data
import numpy as np
import pytest
import torch
from commands import call

pytest.importorskip("detectron2", reason="detectron2 is not installed; `rpg doctor` says how")

from zoo.errors import Corrupt, Failed, MissingData
from zoo.networks import detectron
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.tasks import detection
from zoo.training.collect import Checkpoint, CollectConfig, Job, Progress, State, train

CPU = torch.device("cpu")
TASK = "{name: detection, model: vitdet-tiny, data: coco, classes: 2, image_size: 64, validation: 0.25}"
ZOO = """{checkpoints: 3, optimizer: adamw, learning_rate: 1.0e-3, weight_decay: 0.1, layer_decay: 0.7, batch_size: 3,
  epochs: 1, save_learning_rate: 1.0e-4}"""
RPG = """
  generator: {token_size: 1024, d_model: 32, d_state: 16, channels: [1, 4, 1]}
  train: {steps: 4, batch_size: 2, learning_rate: 1.0e-3, diffusion_batch: 16, precision: float32}
generate: {n: 2, sampler: ddim, steps: 2}
eval: {n: 2, average_of: 2}
"""


def config(**other: Any) -> detection.Config:
    tiny = {"name": "detection", "model": "vitdet-tiny", "data": "coco", "classes": 2, "image_size": 64}
    return detection.Config.model_validate({**tiny, "validation": 0.25, **other})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_data.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def task(root: Path) -> Any:
    made: Any = config().build(root, CPU)
    made.workers = 0
    return made


def detectron2_network(model: str = "vitdet-tiny", classes: int = 2, side: int = 64) -> Any:
    """The network by detectron2's own configuration file, changed as users change it."""
    from detectron2 import model_zoo
    from detectron2.config import instantiate

    lazy = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    if model == "vitdet-tiny":
        lazy.backbone.net.update(img_size=side, embed_dim=48, depth=4, num_heads=3, window_size=2, drop_path_rate=0.0)
        lazy.backbone.net.window_block_indexes = [0, 2]
        lazy.backbone.update(square_pad=side, out_channels=32)
        heads = lazy.roi_heads
        heads.num_classes = classes
        for head in (heads.box_head, heads.mask_head):
            head.input_shape.channels = 32
        heads.box_head.update(conv_dims=[32] * 4, fc_dims=[64])
        heads.box_predictor.update(test_score_thresh=0.0)
        heads.box_predictor.input_shape.channels = 64
        heads.mask_head.conv_dims = [32] * 5
        lazy.proposal_generator.head.in_channels = 32
        lazy.proposal_generator.anchor_generator.sizes = [[8], [16], [24], [32], [48]]
    return instantiate(lazy)


def test_networks_are_those_of_detectron2s_configuration(task: Any) -> None:
    mine, theirs = task.build(0), detectron2_network()
    assert str(mine) == str(theirs)
    assert {n: b.tolist() for n, b in mine.named_buffers()} == {n: b.tolist() for n, b in theirs.named_buffers()}
    assert Structure.of(mine.state_dict()) == Structure.of(theirs.state_dict()) == task.config.structure()


def test_the_papers_network_has_its_number_of_values() -> None:
    found = load_recipe("coco").task.structure()
    assert found.numel == 110_895_792
    assert {spec.kind for spec in found} == {"float"}


def test_equal_seeds_give_equal_networks(task: Any) -> None:
    before = torch.get_rng_state()
    one, same, other = (task.weights(task.build(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "backbone.net.blocks.0.attn.qkv.weight"
    assert not torch.equal(one[name], other[name])
    assert task.frozen(task.build(0)) == {}


def described(batch: Any) -> list[Any]:
    return [
        (
            sample["image_id"],
            sample["image"].tolist(),
            sample["instances"].gt_boxes.tensor.tolist(),
            sample["instances"].gt_classes.tolist(),
        )
        for sample in batch
    ]


def test_batches_are_a_function_of_seed_and_number(task: Any) -> None:
    assert task.steps_per_epoch(3) == 2  # 8 images with objects, 2 of them held out
    batches = [described(batch) for batch in islice(task.batches(0, 0, 3), 6)]
    assert [described(batch) for batch in islice(task.batches(0, 3, 3), 3)] == batches[3:]
    assert [described(batch) for batch in islice(task.batches(1, 0, 3), 1)] != batches[:1]
    seen = {sample[0] for batch in batches for sample in batch}
    assert seen == {100 + i for i in task.train_index.tolist()}
    assert len(task.validation_index) == 2
    classes = {number for batch in batches for sample in batch for number in sample[3]}
    assert classes == {0, 1}


def test_workers_make_the_same_batches(task: Any, root: Path) -> None:
    other: Any = config().build(root, CPU)
    other.workers = 1
    mine, theirs = (described(next(iter(one.batches(0, 0, 3)))) for one in (task, other))
    assert mine == theirs


def test_learning_rates_and_decay_are_detectron2s(task: Any) -> None:
    network = task.build(0)
    groups = task.groups(network, 0.7)
    settings = {id(p): (g["lr_scale"], g.get("weight_decay", "as set")) for g in groups for p in g["params"]}
    assert len(settings) == sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    expected = {
        "backbone.net.pos_embed": (0.7**5, 0.0),
        "backbone.net.patch_embed.proj.weight": (0.7**5, "as set"),
        "backbone.net.blocks.0.attn.qkv.weight": (0.7**4, "as set"),
        "backbone.net.blocks.3.norm1.weight": (0.7, 0.0),
        "roi_heads.box_predictor.cls_score.weight": (1.0, "as set"),
    }
    for name, value in expected.items():
        assert settings[id(network.get_parameter(name))] == pytest.approx(value) or settings[
            id(network.get_parameter(name))
        ] == (pytest.approx(value[0]), value[1])
    names = {name for name, p in network.named_parameters() if any(p is q for q in task.head(network))}
    assert names == {
        f"roi_heads.{part}.{kind}"
        for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        for kind in ("weight", "bias")
    }


def collect_config(**other: Any) -> CollectConfig:
    settings = {"optimizer": "adamw", "learning_rate": 1e-3, "epochs": 1, "save_learning_rate": 1e-4, "batch_size": 3}
    return CollectConfig.model_validate({"checkpoints": 1, **settings, **other})


def test_training_resumes_to_the_same_weights(task: Any) -> None:
    settings, job = collect_config(), Job(0, "train", 0)
    state: dict[str, torch.Tensor] = {}
    for event in train(settings, task, job, None, ()):
        if isinstance(event, State):
            state = {name: tensor.clone() for name, tensor in event.tensors.items()}  # training goes on in them
    assert isinstance(event, Progress)
    mine, theirs = (
        [event for event in train(settings, task, job, start, ()) if isinstance(event, Checkpoint)][-1]
        for start in (None, state)
    )
    assert mine.step == theirs.step == 3
    for name, tensor in mine.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert {metric.name for metric in mine.metrics} >= {"box_AP", "mask_AP"}


def test_the_loss_falls(task: Any) -> None:
    network = task.build(0).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    torch.manual_seed(0)
    losses = []
    for batch in islice(task.batches(0, 0, 3), 10):
        losses.append(task.loss(network, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_diverged_training_is_said(task: Any) -> None:
    network = task.build(0).train()
    with torch.no_grad():
        network.proposal_generator.rpn_head.objectness_logits.bias.fill_(float("nan"))
    with pytest.raises(Failed, match=r"diverged.*lower zoo.learning_rate"):
        task.loss(network, next(iter(task.batches(0, 0, 3))))


def test_scores_are_those_of_detectron2s_evaluator(task: Any, root: Path) -> None:
    from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts, transforms
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset

    network = task.build(3)
    with torch.no_grad():  # boxes as the anchors are, so that some of them find something
        network.roi_heads.box_predictor.bbox_pred.weight.zero_()
    found = {metric.name: metric.value for metric in task.evaluate(network, "test").metrics}
    files = root / "coco"
    register_coco_instances("rpg_val", {}, str(files / "annotations/instances_val2017.json"), str(files / "val2017"))
    resize = transforms.ResizeShortestEdge(64, max_size=64)
    mapper = DatasetMapper(is_train=False, augmentations=[resize], image_format="RGB")
    loader = build_detection_test_loader(get_detection_dataset_dicts("rpg_val", filter_empty=False), mapper=mapper)
    evaluator = COCOEvaluator("rpg_val", use_fast_impl=False)
    expected = inference_on_dataset(network, loader, evaluator)
    assert expected["bbox"]["AP50"] > 0
    for kind, theirs in (("box", "bbox"), ("mask", "segm")):
        for name in ("AP", "AP50", "AP75", "APs"):
            assert found[f"{kind}_{name}"] == pytest.approx(expected[theirs][name])


def test_pretrained_weights_are_a_whole_network_or_a_backbone(task: Any, root: Path, tmp_path: Path) -> None:
    weights = task.weights(task.build(5))
    torch.save({"model": weights, "iteration": 7}, tmp_path / "whole.pth")
    mine: Any = config(pretrained=str(tmp_path / "whole.pth")).build(root, CPU)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in mine.start(0).state_dict().items())

    import timm

    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=4, num_heads=3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    mine = config(pretrained=str(tmp_path / "vit.pth")).build(root, CPU)
    started, fresh = mine.start(0).state_dict(), mine.build(0).state_dict()
    taken = {n for n in fresh if n.removeprefix("backbone.net.") in vit.state_dict()}
    assert len(taken) == 2 + 1 + 4 * 12
    for name, tensor in started.items():
        origin = vit.state_dict()[name.removeprefix("backbone.net.")] if name in taken else fresh[name]
        assert torch.equal(tensor, origin), name

    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"do not fit .* pos_embed should be \[1, 197, 48\], found \[1, 197"):
        config(pretrained=str(tmp_path / "wide.pth")).build(root, CPU).start(0)
    with pytest.raises(MissingData, match=r"there is no .*nowhere.pth"):
        config(pretrained=str(tmp_path / "nowhere.pth")).build(root, CPU).start(0)
    with pytest.raises(ValueError, match="no network named 'vit_bas'"):
        config(pretrained="vit_bas").build(root, CPU).start(0)


def test_released_weights_are_a_pickle_of_arrays(
    task: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = task.weights(task.build(5))
    model = {name: tensor.numpy() for name, tensor in weights.items()}
    model["pixel_mean"] = np.array(detectron.MEAN, np.float32).reshape(3, 1, 1)
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": model}, 2))
    monkeypatch.setattr("zoo.tasks.detection.released", lambda library, model: tmp_path / "model_final.pkl")
    mine: Any = config(pretrained=True).build(root, CPU)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in mine.start(0).state_dict().items())
    del model["roi_heads.box_predictor.cls_score.bias"]
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": model}, 2))
    with pytest.raises(ValueError, match=r"does not fit: missing: roi_heads\.box_predictor\.cls_score\.bias"):
        mine.start(0)


def test_a_damaged_image_is_said_in_one_line(tmp_path: Path) -> None:
    root = coco_data.write(tmp_path)
    image = root / "coco" / "val2017" / f"{2:012d}.jpg"
    image.write_bytes(image.read_bytes()[:100])
    task: Any = config().build(root, CPU)
    task.workers = 0
    with pytest.raises(Corrupt, match=r"000002.jpg or its annotations cannot be read"):
        task.evaluate(task.build(0), "test")


WITHOUT_EXTENSION = """
import sys
sys.modules["detectron2._C"] = None
from pathlib import Path
import torch
from zoo.tasks import detection
settings = dict(name="detection", model="vitdet-tiny", data="coco", classes=2, image_size=64, validation=0.25)
task = detection.Config(**settings).build(Path(sys.argv[1]), torch.device("cpu"))
task.workers = 0
network = task.build(0).train()
task.loss(network, next(iter(task.batches(0, 0, 2)))).backward()
print({metric.name: metric.value for metric in task.evaluate(network, "test").metrics}["box_AP"])
"""


def test_the_compiled_extension_is_not_needed(task: Any, root: Path) -> None:
    expected = {metric.name: metric.value for metric in task.evaluate(task.build(0), "test").metrics}["box_AP"]
    command = [sys.executable, "-c", WITHOUT_EXTENSION, str(root)]
    place = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[-1]) == expected


def test_a_tiny_network_goes_the_whole_way(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(f"task: {TASK}\nzoo: {ZOO}\nmethod:\n  name: rpg{RPG}")
    for command in (
        f"rpg-zoo collect mini.yaml --data-root {root}",
        "rpg train mini.yaml",
        "rpg generate mini",
        f"rpg report --task mini --data-root {root}",
        "rpg-zoo export zoos/mini-generated generated-0001 --format detectron2",
        "rpg-zoo import exports --recipe mini.yaml --format detectron2 --out zoos/back",
    ):
        call(command)
    made, back = Zoo.open(Path("zoos/mini-generated")), Zoo.open(Path("zoos/back"))
    entry = made.entry("generated-0001")
    assert [one.sha256 for one in back.entries] == [entry.sha256]
    scored = json.loads(call(f"rpg eval --task mini --data-root {root} --json"))
    again = json.loads(call(f"rpg-zoo score zoos/back --data-root {root} --json"))
    assert again["checkpoints"][0]["metrics"] == scored["checkpoints"][1]["metrics"]
    assert {"box_AP", "mask_AP", "box_AP50"} <= set(scored["metrics"])
    assert "box_AP" in Path("reports/mini-generated/report.md").read_text()
    exported_file_loads(made.load(entry), root)

    refused = call("rpg-zoo export zoos/mini seed00000-0001 --format timm", 2)
    assert "detectron2's" in refused
    other = "--set task.classes=3 --out zoos/other --format detectron2"
    assert "does not fit" in call(f"rpg-zoo import exports --recipe mini.yaml {other}", 2)
    assert "task.classes=2" in call(
        f"rpg-zoo collect mini.yaml --data-root {root} --set task.classes=3 --out zoos/three", 2
    )
    assert "cocodataset.org" in call(f"rpg-zoo collect mini.yaml --data-root {tmp_path} --out zoos/none", 4)


def exported_file_loads(weights: dict[str, torch.Tensor], root: Path) -> None:
    """With detectron2's own loader into its own network, with nothing missing, to the same outputs."""
    from detectron2.checkpoint import DetectionCheckpointer

    file = "exports/mini-generated-generated-0001.pth"
    assert set(torch.load(file, weights_only=True)) == {"model"}
    network = detectron2_network()
    checkpointer = DetectionCheckpointer(network)
    keys: list[Any] = []
    load = checkpointer._load_model
    checkpointer._load_model = lambda checkpoint: keys.append(load(checkpoint))
    assert checkpointer.load(file) == {}
    assert (keys[0].missing_keys, keys[0].unexpected_keys, keys[0].incorrect_shapes) == ([], [], [])
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    mine: Any = config().build(root, CPU)
    mine.workers = 0
    model = mine.build(0)
    mine.load(model, weights)
    with torch.no_grad():
        image = detectron.Samples(mine.test, 64)[0, 1]
        one, other = (net.eval()([image])[0]["instances"] for net in (model, network))
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(one.scores, other.scores)
