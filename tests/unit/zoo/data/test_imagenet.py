"""ImageNet in its real layouts, made small: folders of JPEGs and parquet files of four classes."""

from __future__ import annotations

import io
import shutil
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

from zoo.data import images
from zoo.errors import Corrupt, MissingData
from zoo.tasks.classification import ClassificationTask, Config

CPU = torch.device("cpu")
WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")


def jpeg(number: int) -> bytes:
    """A picture of its own, wider or taller than it is long."""
    size = (40, 52 + number % 7, 3) if number % 2 else (52 + number % 5, 40, 3)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size[1::-1], Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def pictures(split: str) -> list[tuple[str, int, bytes]]:
    """File name, label and JPEG, five of each class to train on and two to test on."""
    each, first = (5, 0) if split == "train" else (2, 1000)
    return [(f"{WNIDS[i // each]}_{i}.JPEG", i // each, jpeg(first + i)) for i in range(each * len(WNIDS))]


def write_folders(root: Path) -> Path:
    for split, name in (("train", "train"), ("validation", "val")):
        for file, label, data in pictures(split):
            path = root / "imagenet" / name / WNIDS[label] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def write_parquet(root: Path) -> Path:
    """As the Hub's ILSVRC/imagenet-1k has it."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))})
    (root / "imagenet-1k" / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        rows = pictures(split)
        table = {"image": [{"bytes": d, "path": f} for f, _, d in rows], "label": [label for _, label, _ in rows]}
        path = root / "imagenet-1k" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(table, features=features).to_parquet(str(path))
    return root


@pytest.fixture(autouse=True)
def four_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(images.FORMATS, "imagenet", images.Format(4, 3, 32))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def open_task(root: Path | None, augment: str = "none", model: str = "test_resnet") -> ClassificationTask:
    config = Config(name="classification", model=model, data="imagenet", augment=augment, validation=0.2)
    task = config.build(root, CPU)
    assert isinstance(task, ClassificationTask)
    return task


def assert_same(left: list, right: list) -> None:
    for (pixels, labels), (others, theirs) in zip(left, right, strict=True):
        assert torch.equal(pixels, others)
        assert torch.equal(labels, theirs)


def by_hand(data: bytes) -> torch.Tensor:
    """timm's evaluation for test_resnet (crop_pct 0.95, bilinear) at 32 px, in torchvision's functions."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = reference.resize(image, 33, reference.InterpolationMode.BILINEAR)
    return reference.pil_to_tensor(reference.center_crop(image, 32))


@pytest.mark.parametrize("write", [write_folders, write_parquet])
def test_both_layouts_give_every_image_its_label_in_order_and_timms_evaluation(write, tmp_path):
    photos = open_task(write(tmp_path)).images
    for split, name in (("train", "train"), ("test", "validation")):
        rows = pictures(name)
        index = torch.arange(len(rows))
        pixels, labels = (torch.cat(part) for part in zip(*photos.plain(split, index, 3), strict=True))
        assert labels.tolist() == [label for _, label, _ in rows]
        assert torch.equal(pixels, torch.stack([by_hand(data) for _, _, data in rows]))
    assert photos.preparation["crop_pct"] == 0.95
    assert photos.preparation["interpolation"] == "bilinear"


@pytest.mark.parametrize("augment", ["none", "flip", "randaugment", "autoaugment"])
def test_batches_do_not_depend_on_workers_nor_on_where_they_start(augment, tmp_path):
    whole = list(islice(open_task(write_folders(tmp_path), augment).batches(3, 0, 6), 9))
    for workers, first in ((0, 0), (2, 4)):
        task = open_task(tmp_path, augment)
        object.__setattr__(task.images, "workers", workers)
        before = torch.get_rng_state()
        assert_same(list(islice(task.batches(3, first, 6), 9 - first)), whole[first:])
        assert torch.equal(torch.get_rng_state(), before)
    other, _ = next(open_task(tmp_path, augment).batches(4, 0, 6))
    assert not torch.equal(other, whole[0][0])


def test_an_image_is_augmented_anew_in_every_epoch(tmp_path):
    task = open_task(write_folders(tmp_path), "randaugment")
    assert task.steps_per_epoch(16) == 1
    epochs = [batch for batch, _ in islice(task.batches(0, 0, 16), 2)]
    first = {tuple(image.flatten().tolist()) for image in epochs[0]}
    second = {tuple(image.flatten().tolist()) for image in epochs[1]}
    assert len(first & second) < 8


def test_validation_is_a_fixed_share_of_train_and_not_trained_on(tmp_path):
    task = open_task(write_folders(tmp_path))
    assert torch.bincount(task.images.train_labels[task.validation_index]).tolist() == [1] * 4
    held = {tuple(i.flatten().tolist()) for (i,) in _prepared(task, task.validation_index)}
    seen = {tuple(i.flatten().tolist()) for batch, _ in islice(task.batches(0, 0, 16), 3) for i in batch}
    assert len(seen) == 16
    assert not seen & held
    assert task.protocol.startswith("imagenet test, 8 images, data ")


def _prepared(task: ClassificationTask, index: torch.Tensor) -> list[tuple[torch.Tensor]]:
    return [(image,) for batch, _ in task.images.plain("train", index, 4) for image in task._prepared(batch)]


def test_evaluation_is_a_hand_loop(tmp_path):
    task = open_task(write_folders(tmp_path))
    model = task.build(0)
    evaluation = task.evaluate(model, "test")
    correct = []
    mean, std = (torch.tensor(images.STATISTICS["imagenet"][k])[:, None, None] for k in (0, 1))
    for _, label, data in pictures("validation"):
        with torch.no_grad():
            logits = model(((by_hand(data).float() / 255 - mean) / std)[None])
        correct.append(int(logits.argmax()) == label)
    assert evaluation.correct.tolist() == correct


def test_photographs_are_decoded_once_for_all_networks(tmp_path):
    task = open_task(write_folders(tmp_path))
    first = [task.evaluate(task.build(seed), "test") for seed in (0, 1)]
    for file in (tmp_path / "imagenet" / "val").rglob("*.JPEG"):
        file.unlink()
    again = [task.evaluate(task.build(seed), "test") for seed in (0, 1)]
    assert [e.metrics for e in again] == [e.metrics for e in first]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named_in_one_line(workers, tmp_path):
    write_folders(tmp_path)
    broken = tmp_path / "imagenet" / "val" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    task = open_task(tmp_path)
    object.__setattr__(task.images, "workers", workers)
    with pytest.raises(Corrupt, match=rf"image 2 \({WNIDS[1]}/{WNIDS[1]}_2.JPEG\) cannot be decoded") as caught:
        task.evaluate(task.build(0), "test")
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said_with_layout_and_source(tmp_path):
    with pytest.raises(MissingData, match=r"imagenet/\{train,val\}/<wnid>.*image-net\.org.*imagenet-1k/data"):
        open_task(tmp_path)
    with pytest.raises(MissingData, match=r"cannot get ILSVRC/imagenet-1k .*hf auth login"):
        open_task(None)


def test_a_part_of_the_classes_is_refused_because_it_would_shift_the_others(tmp_path):
    root = write_folders(tmp_path)
    for file in (root / "imagenet" / "val" / WNIDS[2]).iterdir():
        file.unlink()
    with pytest.raises(Corrupt, match=r"ImageNet \(test\) has images of 3 classes; expected 4"):
        open_task(root)


def test_a_class_of_another_name_is_refused_because_it_would_shift_the_others(tmp_path):
    folder = write_folders(tmp_path) / "imagenet" / "val"
    (folder / WNIDS[1]).rename(folder / "n77777777")
    with pytest.raises(Corrupt, match=rf"val has no folder for 1 classes: {WNIDS[1]}; it has 1 others: n77777777"):
        open_task(tmp_path)


def test_hidden_files_are_none_of_the_images(tmp_path):
    root = write_folders(tmp_path)
    fingerprint = open_task(root).images.fingerprint()
    folder = root / "imagenet" / "val"
    (folder / ".ipynb_checkpoints").mkdir()
    for place in (
        folder / WNIDS[0] / "._x.JPEG",
        folder / ".ipynb_checkpoints" / "x.JPEG",
        folder / WNIDS[0] / "x.tmp",
    ):
        place.write_bytes(b"")
    assert open_task(root).images.fingerprint() == fingerprint


@pytest.mark.parametrize("write", [write_folders, write_parquet])
def test_scoring_needs_no_training_images(tmp_path, write):
    root = write(tmp_path)
    whole = open_task(root)
    for place in (root / "imagenet" / "train", *(root / "imagenet-1k" / "data").glob("train-*")):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    alone = open_task(root)
    assert alone.protocol == whole.protocol
    assert alone.evaluate(alone.build(0), "test").metrics == whole.evaluate(whole.build(0), "test").metrics
    with pytest.raises(MissingData, match=r"no ImageNet \(train\)"):
        alone.start(0)


def test_parquet_columns_of_other_names_and_empty_pictures(tmp_path):
    path = write_parquet(tmp_path) / "imagenet-1k" / "data" / "validation-00000-of-00001.parquet"
    whole = open_task(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.rename_columns({"image": "img", "label": "labels"}), path)
    again = open_task(tmp_path)
    assert again.evaluate(again.build(0), "test").metrics == whole.evaluate(whole.build(0), "test").metrics
    pq.write_table(table.rename_columns({"image": "picture"}), path)
    with pytest.raises(Corrupt, match="has the columns picture, label; expected images in img or image"):
        open_task(tmp_path)
    images = table["image"].to_pylist()
    images[3] = {"bytes": b"", "path": "x"}
    pq.write_table(table.set_column(0, "image", pa.array(images)), path)
    task = open_task(tmp_path)
    with pytest.raises(Corrupt, match=r"image 3 \(row 3 of .*validation-00000.*\) cannot be decoded: it is empty"):
        task.evaluate(task.build(0), "test")


def test_unsorted_validation_images_are_refused(tmp_path):
    root = write_folders(tmp_path)
    for file in (root / "imagenet" / "val").glob("*/*"):
        file.rename(root / "imagenet" / "val" / file.name)
    with pytest.raises(Corrupt, match=r"no images in the folders of .*have to be sorted"):
        open_task(root)
