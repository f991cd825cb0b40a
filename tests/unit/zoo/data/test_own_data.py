"""Image data sets of the user's own: class folders, and data sets of the Hub in local files."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from zoo.data.own import DatasetConfig, load_own, prepared
from zoo.errors import Corrupt, MissingData
from zoo.tasks.classification import ClassificationTask, Config

CPU = torch.device("cpu")


def picture(value: int, size: tuple[int, int] = (10, 14), mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.new(mode, size, value if bands == 1 else (value,) * bands)


def folders(root: Path, classes: dict[str, int], split: str = "", value: int = 0) -> Path:
    """So many pictures for each class, of one grey each and of different sizes."""
    for name, count in classes.items():
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(value + i, (5 + i, 9 + 2 * i)).save(folder / f"{i:03d}.png")
    return root


def config(**changed: object) -> DatasetConfig:
    return DatasetConfig(**({"name": "mine", "classes": 2, "size": 6} | changed))  # type: ignore[arg-type]


def greys(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_splits_of_their_own_are_read_class_by_class(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine", {"b": 2, "a": 3}, "train", value=10)
    folders(root, {"a": 1, "b": 1}, "test", value=50)
    (root / "train" / "a" / "notes.txt").write_text("no picture")
    (root / "train" / ".cache").mkdir()
    found = load_own("folder", config(), tmp_path)
    assert (found.train.shape, found.train.dtype) == ((5, 3, 6, 6), torch.uint8)
    assert greys(found.train) == [10, 11, 12, 10, 11]
    assert found.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert (greys(found.test), found.test_labels.tolist()) == ([50, 50], [0, 1])


def test_pictures_for_validation_are_used_for_nothing_else(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine", {"a": 3, "b": 2}, "train")
    folders(root, {"a": 1, "b": 2}, "val", value=90)
    folders(root, {"a": 1, "b": 1}, "test", value=50)
    section = Config(name="classification", model="cnn_digits", data="folder", dataset=config())
    task = ClassificationTask(section, load_own("folder", config(), tmp_path), CPU)
    assert greys(task.images.train[task.validation_index]) == [90, 90, 91]  # type: ignore[union-attr]
    assert greys(task.images.train[task.train_index]) == [0, 1, 2, 0, 1]  # type: ignore[union-attr]


def test_validation_pictures_are_the_test_where_there_is_no_other(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine", {"a": 3, "b": 2}, "train")
    folders(root, {"a": 1, "b": 1}, "val", value=90)
    found = load_own("folder", config(), tmp_path)
    assert (greys(found.test), found.validation) == ([90, 90], 0)


def test_one_folder_is_split_by_its_recorded_seed(tmp_path: Path) -> None:
    folders(tmp_path / "mine", {"a": 20, "b": 10})
    found, again, other = (load_own("folder", config(seed=seed), tmp_path) for seed in (0, 0, 1))
    assert torch.bincount(found.test_labels).tolist() == [4, 2]
    assert sorted(greys(found.train) + greys(found.test)) == sorted([*range(20), *range(10)])
    assert torch.equal(found.test, again.test)
    assert not torch.equal(found.test, other.test)
    assert found.fingerprint() == again.fingerprint() != other.fingerprint()


def test_classes_of_few_pictures_that_nothing_is_tested_on_are_said(tmp_path: Path, caplog) -> None:
    folders(tmp_path / "mine", {"a": 20, "b": 2})
    assert torch.bincount(load_own("folder", config(), tmp_path).test_labels).tolist() == [4]
    assert "so few images of 1 classes (the first is class 1) that task.dataset.test 0.2 leaves none" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"])
def test_pictures_of_any_kind_come_to_the_channels_of_the_recipe(tmp_path: Path, mode: str, channels: int) -> None:
    grey = 255 if mode == "1" else 200  # no dithering
    for name in "ab":
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGBA", (9, 7), (grey, grey, grey, 255)).convert("RGB" if mode == "CMYK" else "RGBA")
            image.convert(mode).save(tmp_path / "mine" / name / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    found = load_own("folder", config(channels=channels, test=0.4), tmp_path)
    assert found.test.shape == (2, channels, 6, 6)
    assert (found.test[:, : min(channels, 3)].int() - grey).abs().max() <= 2
    assert channels < 4 or (found.test[:, 3] == 255).all()


def test_transparent_parts_are_white_and_photographs_stand_upright() -> None:
    clear = Image.new("RGBA", (6, 6), (255, 0, 0, 0))
    assert np.asarray(prepared(clear, config())).min() == 255
    assert np.asarray(prepared(clear, config(channels=4)))[0, 0].tolist() == [255, 0, 0, 0]
    lying = Image.new("RGB", (12, 6), "black")
    lying.paste("white", (0, 0, 6, 6))  # its left half
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: left becomes up
    lying.save(data, "png", exif=exif)
    turned = np.asarray(prepared(Image.open(data), config(resize="stretch", channels=1)))
    assert (turned[0].min(), turned[-1].max()) == (255, 0)


def test_the_shorter_side_is_resized_and_the_centre_taken_unless_stretched() -> None:
    wide = Image.new("L", (30, 10), 0)
    wide.paste(255, (10, 0, 20, 10))  # the middle third
    assert np.asarray(prepared(wide, config(channels=1, size=10))).min() == 255
    stretched = np.asarray(prepared(wide, config(channels=1, size=9, resize="stretch")))[4]
    assert (stretched[0], stretched[4], stretched[8]) == (0, 255, 0)


def test_statistics_are_the_recipes_or_those_of_photographs() -> None:
    assert config().statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert config(channels=1).statistics == ((0.5,), (0.5,))
    assert config(mean=(0.1, 0.2, 0.3)).statistics[0] == (0.1, 0.2, 0.3)
    with pytest.raises(ValidationError, match="one for each of 3 channels"):
        config(std=(0.1,))


def test_what_is_not_there_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="--data-root DIR"):
        load_own("folder", config(), None)
    with pytest.raises(MissingData, match=r"no folder .*mine; expected DIR/mine"):
        load_own("folder", config(), tmp_path)
    with pytest.raises(MissingData, match=r"expected DIR/mine/test-00000-of-00001.parquet"):
        _ = load_own("hub", config(name="user/mine"), tmp_path).test


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"": {"a": 3}}, r"has 1 folders \(a\), task.dataset.classes is 2"),
        ({"": {"a": 3, "b": 2, "c": 1}}, r"has 3 folders \(a, b, c\)"),
        ({"": {"a": 3, "b": 0}}, "no pictures in .*b"),
        ({"": {"a": 1, "b": 1}}, "leaves 2 to train on and 0 to test on"),
        ({"train": {"a": 1, "b": 1}}, "has train alone"),
        ({"test": {"a": 1, "b": 1}}, "has test alone"),
        ({"train": {"a": 1, "b": 1}, "test": {"a": 1, "c": 1}}, "test has no folder b; expected the same classes"),
        ({"train": {"a": 1, "b": 1}, "test": {"a": 1}}, "test has no folder b"),
        ({"Train": {"a": 1, "b": 1}, "Test": {"a": 1, "b": 1}}, "has a folder Test beside Train; expected DIR/mine"),
        ({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}, "Val": {"a": 1, "b": 1}}, "a folder Val beside test, t"),
        ({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}, "": {"c": 1}}, "a folder c beside test, train"),
    ],
)
def test_folders_that_are_not_what_the_recipe_says(tmp_path: Path, made: dict, words: str) -> None:
    for split, classes in made.items():
        folders(tmp_path / "mine", classes, split)
    with pytest.raises(ValueError, match=words) as caught:
        _ = load_own("folder", config(), tmp_path).test
    assert "\n" not in str(caught.value)


def test_folders_without_pictures_beside_splits_are_of_no_matter(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine", {"a": 3, "b": 2}, "train")
    folders(root, {"a": 1, "b": 1}, "test")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._a.png").write_bytes(b"x")
    assert len(load_own("folder", config(), tmp_path).test) == 2


def test_hidden_folders_hold_no_pictures(tmp_path: Path) -> None:
    """Under a root that may itself be hidden."""
    root = tmp_path / ".data"
    folders(root / "mine", {"a": 5, "b": 5})
    folders(root / "mine" / "a", {".ipynb_checkpoints": 5, ".ipynb_checkpoints/deeper": 1, "more": 2}, value=100)
    found = load_own("folder", config(), root)
    assert sorted(greys(torch.cat([found.train, found.test]))) == sorted([*range(5), *range(5), 100, 101])


def test_what_is_trained_on_is_no_test() -> None:
    with pytest.raises(ValueError, match="test_split is train, which is trained on; name another, or null"):
        config(test_split="train")


def test_operations_on_colours_need_one_or_three_channels() -> None:
    with pytest.raises(ValueError, match="augment randaugment is for images of 1 or 3 channels, these have 4"):
        Config(
            name="classification", model="cnn_digits", data="folder", dataset=config(channels=4), augment="randaugment"
        )


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folders(tmp_path / "mine", {"a": 4, "b": 4})
    (tmp_path / "mine" / "b" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(Corrupt, match=r"mine/b/001.png cannot be decoded"):
        _ = load_own("folder", config(), tmp_path).train
    Image.new("I;16", (4, 4)).save(tmp_path / "mine" / "b" / "001.png")
    with pytest.raises(Corrupt, match="expected 8 bits a channel"):
        _ = load_own("folder", config(), tmp_path).train


@pytest.mark.parametrize("name", ["../mine", "/etc", "a/../../b", ".ssh", "a//b", "", "a\\..\\b:c"])
def test_names_never_leave_the_data_root(name: str) -> None:
    with pytest.raises(ValidationError):
        config(name=name)


@pytest.mark.parametrize("key", ["config", "train_split", "test_split"])
@pytest.mark.parametrize("name", ["../mine", "/etc", "a/../../b", ".ssh", "", "**", "a*"])
def test_parts_of_the_hubs_files_never_leave_the_data_root(key: str, name: str) -> None:
    """An absolute split had ended in a NotImplementedError, `..` had led elsewhere."""
    with pytest.raises(ValidationError, match=f"{key}\n"):
        config(**{key: name})


def test_a_slice_of_a_split_is_none_of_the_files(tmp_path: Path) -> None:
    hub_copy(tmp_path / "pets", {"train": [0, 1], "test1": [0, 1]}, ["cat", "dog"], ("image", "label"))
    with pytest.raises(MissingData, match=r"no test\[:1\]-\*.parquet"):
        _ = load_own("hub", config(name="user/pets", test_split="test[:1]"), tmp_path).test


def test_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    folders(tmp_path / "mine", {"a": 3, "b": 3})
    with pytest.raises(ValueError, match=r"choose a smaller task.dataset.size"):
        _ = load_own("folder", config(size=50_000), tmp_path).test


def hub_copy(root: Path, splits: dict[str, list[int]], names: list[str], columns: tuple[str, str]) -> None:
    """Parquet files as the Hub's tools write them, of pictures of different sizes with these labels."""
    features = datasets.Features({columns[0]: datasets.Image(), columns[1]: datasets.ClassLabel(names=names)})
    for split, labels in splits.items():
        images = [picture(40 + i, (8 + i, 6)) for i in range(len(labels))]
        rows = {columns[0]: images, columns[1]: labels}
        root.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("folder", ["", "data", "plain"])
def test_a_data_set_of_the_hub_is_read_from_its_files_by_its_columns(tmp_path: Path, folder: str) -> None:
    hub_copy(tmp_path / "pets" / folder, {"train": [0, 1, 1], "dev": [1, 0]}, ["cat", "dog"], ("photo", "kind"))
    section = config(name="user/pets", config="plain" if folder == "plain" else None, image="photo", label="kind")
    found = load_own("hub", section.model_copy(update={"test_split": "dev"}), tmp_path)
    assert (greys(found.train), found.train_labels.tolist()) == ([40, 41, 42], [0, 1, 1])
    assert (greys(found.test), found.test_labels.tolist()) == ([40, 41], [1, 0])
    assert found.test.shape == (2, 3, 6, 6)


def test_a_data_set_of_the_hub_without_a_test_split_is_divided(tmp_path: Path) -> None:
    hub_copy(tmp_path / "pets", {"train": [0, 1] * 10}, ["cat", "dog"], ("image", "label"))
    found = load_own("hub", config(name="user/pets", test_split=None), tmp_path)
    assert (len(found.train), len(found.test)) == (16, 4)


def test_a_data_set_of_the_hub_that_is_not_what_the_recipe_says(tmp_path: Path) -> None:
    hub_copy(tmp_path / "pets", {"train": [0, 1], "test": [0, 2]}, ["cat", "dog", "eel"], ("image", "label"))
    with pytest.raises(ValueError, match=r"user/pets has 3 classes \(cat, dog, eel\), task.dataset.classes is 2"):
        _ = load_own("hub", config(name="user/pets"), tmp_path).test
    for named, words in (({"image": "photo"}, "images in photo"), ({"label": "kind"}, "labels in kind")):
        with pytest.raises(ValueError, match=f"has the columns image, label; expected .*{words}.*task.dataset.image"):
            _ = load_own("hub", config(name="user/pets", classes=3, **named), tmp_path).test


def test_without_network_a_data_set_of_the_hub_is_missing() -> None:
    with pytest.raises(MissingData, match="cannot get user/nowhere from the Hugging Face Hub"):
        _ = load_own("hub", config(name="user/nowhere"), None).test


def test_a_recipe_says_which_data_set_and_only_where_there_is_one() -> None:
    section = Config(name="classification", model="cnn_small", data="folder", dataset=config(classes=7, channels=1))
    assert (
        section.structure().numel
        == Config(name="classification", model="cnn_small", data="digits").structure().numel - 3 * 21
    )
    assert (section.side, section.classes, section.source) == (6, 7, "folder mine")
    assert section.preparation()["input_size"] == (1, 6, 6)
    for changed in ({"data": "folder", "dataset": None}, {"data": "digits", "dataset": config()}):
        with pytest.raises(ValidationError, match="dataset goes with data: folder"):
            Config(**({"name": "classification", "model": "cnn_small"} | changed))  # type: ignore[arg-type]
