"""Image data: the digits' split, CIFAR-10 from parquet in the Hub's layout, and what is said when it is not there."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from zoo.data.images import Images, load_images, stratified_split
from zoo.data.pictures import read_picture
from zoo.errors import Corrupt, MissingData


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_split(root: Path, split: str, pixels: np.ndarray, labels: list[int], shard: int = 0, of: int = 1) -> Path:
    """A file in the layout of the Hub's repository, as pyarrow writes it: structs of encoded bytes and path."""
    folder = root / "cifar10" / "plain_text"
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
    path = folder / f"{split}-{shard:05d}-of-{of:05d}.parquet"
    pq.write_table(pa.table({"img": images, "label": pa.array(labels, pa.int64())}), path)
    return path


@pytest.mark.parametrize(
    ("mode", "fits"), [("RGBA", True), ("LA", True), ("CMYK", True), ("P", True), ("1", True), ("I;16", False)]
)
def test_pictures_of_other_modes_are_converted_or_refused(tmp_path: Path, mode: str, fits: bool) -> None:
    """Of 16 bits Pillow would keep the lowest 8 and cut the rest off: white pictures."""
    source = Image.fromarray(random_pixels(1)[0])
    if fits:
        picture = source.convert(mode)
    else:
        picture = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
        assert picture.mode == mode
    path = tmp_path / "x.tif"
    picture.save(path)
    if fits:
        assert np.array_equal(np.asarray(read_picture(path)), np.asarray(picture.convert("RGB")))
    else:
        with pytest.raises(ValueError, match="its values have more than 8 bits"):
            read_picture(path)
        assert read_picture(path, None).mode == mode


def random_pixels(n: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 3))
def test_a_stratified_split_takes_its_share_of_every_class_and_loses_nothing(labels, share, seed):
    labels = torch.tensor(labels)
    rest, taken = stratified_split(labels, share, torch.Generator().manual_seed(seed))
    assert sorted(rest.tolist() + taken.tolist()) == list(range(len(labels)))
    assert (rest.tolist(), taken.tolist()) == (sorted(rest.tolist()), sorted(taken.tolist()))
    for label in set(labels.tolist()):
        assert int((labels[taken] == label).sum()) == round(share * int((labels == label).sum()))


def test_a_stratified_split_is_random_and_a_function_of_the_generator():
    labels = torch.zeros(100, dtype=torch.int64)
    a, b, c = (stratified_split(labels, 0.5, torch.Generator().manual_seed(seed))[1] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, torch.arange(50))


def test_the_digits_are_all_there_once_in_a_fixed_stratified_split():
    images = load_images("digits", None)
    assert images.train.dtype == images.test.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.train.shape[1:] == images.test.shape[1:] == (1, 8, 8)
    assert (len(images.train), len(images.test)) == (1198, 599)

    source = load_digits()
    pixels = np.rint(source.images * 255 / 16).astype(np.uint8).reshape(1797, 64)
    expected = sorted((*row.tolist(), int(label)) for row, label in zip(pixels, source.target, strict=True))
    found = [
        (*image.flatten().tolist(), int(label))
        for part, labels in ((images.train, images.train_labels), (images.test, images.test_labels))
        for image, label in zip(part, labels, strict=True)
    ]
    assert sorted(found) == expected

    counts = np.bincount(source.target)
    assert torch.bincount(images.test_labels).tolist() == [round(n / 3) for n in counts]
    again = load_images("digits", None)
    assert torch.equal(images.train, again.train)
    assert images.fingerprint() == again.fingerprint()


def test_the_digits_statistics_are_those_of_the_training_images():
    images = load_images("digits", None)
    standard = images.normalize(images.train)
    assert standard.dtype == torch.float32
    assert abs(float(standard.mean())) < 1e-3
    assert abs(float(standard.std()) - 1) < 1e-3


def test_cifar10_is_read_in_order_from_all_parquet_files(tmp_path):
    train, test = random_pixels(5), random_pixels(3)
    write_split(tmp_path, "train", train[:3], [3, 1, 4], shard=0, of=2)
    write_split(tmp_path, "train", train[3:], [1, 5], shard=1, of=2)
    write_split(tmp_path, "test", test, [9, 2, 6])
    images = load_images("cifar10", tmp_path)
    assert np.array_equal(images.train.permute(0, 2, 3, 1).numpy(), train)
    assert np.array_equal(images.test.permute(0, 2, 3, 1).numpy(), test)
    assert images.train_labels.tolist() == [3, 1, 4, 1, 5]
    assert images.test_labels.tolist() == [9, 2, 6]
    assert images.train.is_contiguous()
    assert images.classes == 10

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's
    expected = torch.from_numpy(((test / 255 - mean) / std).transpose(0, 3, 1, 2))
    torch.testing.assert_close(images.normalize(images.test).double(), expected, rtol=1e-5, atol=1e-5)


def test_cifar10_as_the_datasets_library_writes_it_reads_the_same(tmp_path):
    pixels = random_pixels(4)
    for split in ("train", "test"):
        write_split(tmp_path / "plain", split, pixels, [0, 1, 2, 9])
        folder = tmp_path / "library" / "cifar10" / "plain_text"
        folder.mkdir(parents=True, exist_ok=True)
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
        rows = {"img": [Image.fromarray(image) for image in pixels], "label": [0, 1, 2, 9]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    plain, library = (load_images("cifar10", tmp_path / name) for name in ("plain", "library"))
    assert torch.equal(plain.train, library.train)
    assert plain.fingerprint() == library.fingerprint()


def test_a_missing_folder_names_the_layout_and_the_source(tmp_path):
    with pytest.raises(MissingData, match=r"cifar10/plain_text/train-\*\.parquet.*uoft-cs/cifar10"):
        _ = load_images("cifar10", tmp_path).test


def test_a_missing_test_file_is_named(tmp_path):
    write_split(tmp_path, "train", random_pixels(2), [0, 1])
    images = load_images("cifar10", tmp_path)
    assert images.train_labels.tolist() == [0, 1]
    with pytest.raises(MissingData, match=r"no test-\*\.parquet in"):
        _ = images.test


def test_a_hub_out_of_reach_is_missing_data(monkeypatch):
    def unreachable(*_args: object, **_options: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(MissingData, match=r"uoft-cs/cifar10.*--data-root DIR with DIR/cifar10/plain_text"):
        _ = load_images("cifar10", None).train


def test_damaged_parquet_is_corrupt(tmp_path):
    path = write_split(tmp_path, "train", random_pixels(40), [0] * 40)
    whole = path.read_bytes()
    middle_zeroed = whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * (len(whole) // 3) :]
    for damaged in (b"", b"not parquet", whole[: len(whole) // 2], middle_zeroed):
        path.write_bytes(damaged)
        with pytest.raises(Corrupt, match=r"train-00000-of-00001.parquet cannot be (read|decoded)"):
            _ = load_images("cifar10", tmp_path).train


def test_other_columns_sizes_and_labels_are_corrupt(tmp_path):
    def said() -> str:
        with pytest.raises(Corrupt) as error:
            _ = load_images("cifar10", tmp_path).train
        return str(error.value).replace(f"{tmp_path}/cifar10/plain_text/", "")

    path = write_split(tmp_path, "train", random_pixels(2), [0, 1])
    row = "row 1 of train-00000-of-00001.parquet"
    for old, new in (("img", "image"), ("label", "labels")):
        pq.write_table(pq.read_table(path).rename_columns({old: new}), path)
        assert load_images("cifar10", tmp_path).train_labels.tolist() == [0, 1]
    pq.write_table(pq.read_table(path).rename_columns({"image": "picture"}), path)
    assert "has the columns picture, labels; expected images in img or image and labels in label or labels" in said()
    write_split(tmp_path, "train", random_pixels(2, size=16), [0, 1])
    assert "has shape (16, 16, 3); expected (32, 32, 3)" in said()
    write_split(tmp_path, "train", random_pixels(2), [0, 10])
    assert said() == f"{row} has label 10; expected one from 0 to 9"
    write_split(tmp_path, "train", random_pixels(2), [0, None])
    assert said() == f"{row} has no label; expected one from 0 to 9"
    table = pq.read_table(path)
    for data, reason in ((b"", "it is empty"), (png(random_pixels(1)[0])[:60], "truncated"), (b"x", "cannot identify")):
        images = [{"bytes": png(random_pixels(1)[0]), "path": ""}, {"bytes": data, "path": ""}]
        pq.write_table(pa.table({"img": images, "label": [0, 1]}), path)
        assert said().startswith(f"the image in {row} cannot be decoded: ")
        assert reason in said()
        assert "BytesIO" not in said()
    pq.write_table(table.set_column(0, "img", pa.array([None, None], table.schema.field("img").type)), path)
    assert "row 0 of train-00000-of-00001.parquet" in said()
    write_split(tmp_path, "train", random_pixels(0), [])
    assert "there are no images" in said()


def test_files_of_another_version_or_none_of_a_part_are_named(tmp_path):
    write_split(tmp_path, "test", random_pixels(2), [0, 1])
    folder = tmp_path / "cifar10" / "plain_text"

    def said(name: str) -> str:
        (folder / name).write_bytes((folder / "test-00000-of-00001.parquet").read_bytes())
        with pytest.raises(Corrupt) as error:
            _ = load_images("cifar10", tmp_path).test
        (folder / name).unlink()
        return str(error.value)

    for name in ("test-00001-of-00003.parquet", "test-00000-of-00001 (1).parquet", "test-copy.parquet"):
        assert name in said(name)
    assert "different versions" in said("test-00000-of-00001-0123456789abcdef.parquet")
    for name in (".test-00000-of-00009.parquet", "test-00000-of-00002.parquet.tmp"):  # hidden, half-written
        (folder / name).write_bytes(b"")
    assert load_images("cifar10", tmp_path).test_labels.tolist() == [0, 1]
    (folder / "test-00000-of-00001.parquet").rename(folder / "test-00000-of-00002.parquet")
    with pytest.raises(Corrupt, match=r"test-00001-of-00002.parquet is missing"):
        _ = load_images("cifar10", tmp_path).test


def test_splits_that_number_the_classes_otherwise_are_refused(tmp_path):
    folder = tmp_path / "cifar10" / "plain_text"
    folder.mkdir(parents=True)
    names = [f"kind{k}" for k in range(10)]
    for split, classes in (("train", names), ("test", [*names[:8], names[9], names[8]])):
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
        rows = {"img": [Image.fromarray(image) for image in random_pixels(2)], "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    with pytest.raises(Corrupt, match=r"label 8 is 'kind9' in .*test-00000.*, but 'kind8' in .*train-00000"):
        _ = load_images("cifar10", tmp_path).test
    (folder / "train-00000-of-00001.parquet").write_bytes(b"damaged")  # which scoring does not need
    assert load_images("cifar10", tmp_path).test_labels.tolist() == [0, 1]


def test_the_fingerprint_changes_with_test_pixels_labels_order_and_normalisation():
    pixels, labels = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), torch.tensor([0, 1])
    changed = pixels.clone()
    changed[0, 0, 0, 0] += 1
    variants = [
        Images.of((pixels, labels), (pixels, labels), (0.5,), (0.5,), 2),
        Images.of((pixels, labels), (changed, labels), (0.5,), (0.5,), 2),
        Images.of((pixels, labels), (pixels, labels.flip(0)), (0.5,), (0.5,), 2),
        Images.of((pixels, labels), (pixels.flip(0), labels), (0.5,), (0.5,), 2),
        Images.of((pixels, labels), (pixels, labels), (0.5,), (0.25,), 2),
    ]
    assert len({variant.fingerprint() for variant in variants}) == 5


def write_cifar100(root: Path) -> None:
    """In the layout of the Hub's uoft-cs/cifar100: coarse labels stand beside the fine ones."""
    folder = root / "cifar100" / "cifar100"
    folder.mkdir(parents=True)
    for split, n in (("train", 4), ("test", 2)):
        images = [{"bytes": png(image), "path": None} for image in random_pixels(n)]
        fine, coarse = pa.array([99 - i for i in range(n)], pa.int64()), pa.array([0] * n, pa.int64())
        table = pa.table({"img": images, "fine_label": fine, "coarse_label": coarse})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_cifar100_has_its_fine_labels(tmp_path):
    write_cifar100(tmp_path)
    images = load_images("cifar100", tmp_path)
    assert images.train_labels.tolist() == [99, 98, 97, 96]
    assert images.test_labels.tolist() == [99, 98]
    assert torch.equal(images.test, torch.from_numpy(random_pixels(2)).permute(0, 3, 1, 2))
    assert images.classes == 100
    with pytest.raises(MissingData, match=r"cifar100/cifar100/train-\*\.parquet.*uoft-cs/cifar100"):
        _ = load_images("cifar100", tmp_path / "elsewhere").test
