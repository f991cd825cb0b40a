"""The classification task: its stream of batches, its weights, its evaluation."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import functional as reference

from zoo.checkpoint import save_tensors
from zoo.data.images import Images
from zoo.errors import MissingData
from zoo.structure import Structure
from zoo.tasks import config_class
from zoo.tasks.classification import ClassificationTask, Config

CPU = torch.device("cpu")


def digits_task(augment: str = "none") -> ClassificationTask:
    config = Config(name="classification", model="cnn_digits", data="digits", augment=augment)
    task = config.build(None, CPU)
    assert isinstance(task, ClassificationTask)
    return task


def numbered_task(n: int, augment: str = "none", validation: float = 0.1) -> ClassificationTask:
    """A task whose image i is filled with the value i, and whose label is i % 10."""
    number, labels = torch.arange(n, dtype=torch.uint8), torch.arange(n) % 10
    pixels = number.view(n, 1, 1, 1).expand(n, 1, 8, 8).contiguous()
    config = Config(name="classification", model="cnn_digits", data="digits", augment=augment, validation=validation)
    return ClassificationTask(config, Images.of((pixels, labels), (pixels, labels), (0.0,), (1.0,), classes=10), CPU)


def numbers(images: torch.Tensor) -> list[int]:
    """Which images of a numbered task these are."""
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def assert_same_batches(left: list, right: list) -> None:
    for (images, labels), (other_images, other_labels) in zip(left, right, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 180, 1000])
def test_an_epoch_visits_every_training_image_once_and_no_validation_image(batch_size):
    task = numbered_task(200)
    steps = task.steps_per_epoch(batch_size)
    epochs = [list(islice(task.batches(5, epoch * steps, batch_size), steps)) for epoch in range(2)]
    visits = [[number for images, _ in epoch for number in numbers(images)] for epoch in epochs]
    for visit in visits:
        assert sorted(visit) == task.train_index.tolist()
    assert visits[0] != visits[1]

    sizes = [len(labels) for _, labels in epochs[0]]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_validation_images_are_a_stratified_share_and_the_same_for_every_seed():
    task = numbered_task(200)
    assert sorted([*task.train_index.tolist(), *task.validation_index.tolist()]) == list(range(200))
    assert torch.bincount(task.images.train_labels[task.validation_index]).tolist() == [2] * 10
    assert torch.equal(task.validation_index, numbered_task(200).validation_index)


def test_labels_stay_with_their_images():
    for images, labels in islice(numbered_task(100).batches(0, 0, 16), 20):
        assert [number % 10 for number in numbers(images)] == labels.tolist()


@pytest.mark.parametrize("augment", ["none", "flip", "autoaugment"])
@pytest.mark.parametrize("first_step", [1, 10, 11, 25])
def test_a_resumed_stream_equals_the_uninterrupted_one(augment, first_step):
    task = digits_task(augment)
    assert task.steps_per_epoch(100) == 11  # so the steps above are mid-epoch, its last, the next one's first, later
    whole = list(islice(task.batches(3, 0, 100), 27))
    torch.rand(3)  # the global generator's state plays no part
    assert_same_batches(
        list(islice(digits_task(augment).batches(3, first_step, 100), 27 - first_step)), whole[first_step:]
    )


@pytest.mark.parametrize("augment", ["none", "autoaugment"])
def test_other_seeds_give_other_batches(augment):
    task = digits_task(augment)
    (first, _), (second, _) = (next(task.batches(seed, 0, 100)) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_every_batch_of_every_epoch_is_augmented_by_draws_of_its_own():
    image = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images, labels = image.expand(100, 1, 8, 8).contiguous(), torch.arange(100) % 10
    config = Config(name="classification", model="cnn_digits", data="digits", augment="flip")
    task = ClassificationTask(config, Images.of((images, labels), (images, labels), (0.0,), (1.0,), classes=10), CPU)
    flips = [tuple(batch[:, 0, 0, 0].tolist()) for batch, _ in islice(task.batches(0, 0, 30), 9)]  # of equal images
    assert len(set(flips)) == 9


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    list(islice(digits_task("autoaugment").batches(0, 0, 100), 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_changes_training_images_only():
    plain, augmented = digits_task("none"), digits_task("autoaugment")
    model = plain.build(0)
    assert not torch.equal(next(plain.batches(0, 0, 100))[0], next(augmented.batches(0, 0, 100))[0])
    for split in ("validation", "test"):
        assert plain.evaluate(model, split).metrics == augmented.evaluate(model, split).metrics


def test_weights_and_load_are_inverse_with_batchnorm_statistics():
    task = digits_task()
    model = task.build(0)
    model.train()
    for batch in islice(task.batches(0, 0, 100), 3):
        task.loss(model, batch)  # moves the running statistics
    weights = task.weights(model)
    assert list(weights) == list(model.state_dict())
    assert int(weights["module.1.num_batches_tracked"]) == 3
    assert not torch.equal(weights["module.1.running_mean"], torch.zeros(8))

    other = task.build(1)
    parameters = list(other.parameters())
    task.load(other, weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    assert all(a is b for a, b in zip(other.parameters(), parameters, strict=True))  # in place
    assert task.evaluate(other, "test").metrics == task.evaluate(model, "test").metrics


def test_weights_are_copies():
    task = digits_task()
    model = task.build(0)
    weights = task.weights(model)
    before = weights["head.0.bias"].clone()
    with torch.no_grad():
        model.head[0].bias += 1
    assert torch.equal(weights["head.0.bias"], before)
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_tied_tensors_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    task = digits_task()
    weights = task.weights(model)
    assert weights["1.weight"] is weights["0.weight"]
    assert [spec.tied_to for spec in Structure.of(weights)] == [None, None, "0.weight", None]

    task.load(model, {name: torch.full_like(tensor, 2.0) for name, tensor in weights.items()})
    assert model[1].weight is model[0].weight
    assert torch.equal(model[0].weight, torch.full((4, 4), 2.0))


def test_load_is_strict():
    task = digits_task()
    model = task.build(0)
    weights = task.weights(model)
    for wrong, message in [
        ({name: tensor for name, tensor in weights.items() if name != "head.0.bias"}, "missing: head.0.bias"),
        (weights | {"extra": torch.zeros(1)}, "unexpected: extra"),
        (weights | {"head.0.bias": torch.zeros(1)}, "differs: expected head.0.bias"),
        (weights | {"head.0.bias": torch.zeros(10, dtype=torch.float64)}, "differs: expected head.0.bias float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            task.load(model, wrong)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.weights(model).items())


def test_equal_seeds_build_equal_models():
    task = digits_task()
    first, again, other = (task.weights(task.build(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_is_a_hand_loop_over_the_images_in_order(split):
    task = digits_task()
    images = task.images
    pixels, labels = images.test, images.test_labels
    if split == "validation":
        pixels, labels = images.train[task.validation_index], images.train_labels[task.validation_index]

    model = task.build(0)
    model.train()
    for batch in islice(task.batches(0, 0, 100), 5):
        task.loss(model, batch)
    evaluation = task.evaluate(model, split)
    assert not model.training

    correct, loss = [], 0.0
    with torch.no_grad():
        for image, label in zip(pixels, labels, strict=True):
            logits = model((image[None].float() / 255 - images.mean[0]) / images.std[0])[0]
            correct.append(int(logits.argmax()) == int(label))
            loss += float(logits.logsumexp(0) - logits[label]) / len(labels)
    assert evaluation.correct.tolist() == correct
    metrics = {metric.name: metric for metric in evaluation.metrics}
    assert metrics[task.main_metric].value == pytest.approx(100 * sum(correct) / len(correct))
    assert metrics["loss"].value == pytest.approx(loss, rel=1e-4)


def test_a_second_network_is_evaluated_on_the_same_images():
    task = digits_task()
    first, second = task.build(0), task.build(1)
    expected = digits_task().evaluate(second, "test")
    task.evaluate(first, "test")
    assert task.evaluate(second, "test").metrics == expected.metrics


def test_training_by_the_demos_settings_reads_digits():
    task = digits_task()
    model = task.build(0)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for batch in islice(task.batches(0, 0, 100), 12 * task.steps_per_epoch(100)):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    assert task.evaluate(model, "test").metrics[0].value >= 95


def test_the_protocol_names_the_data():
    assert numbered_task(200).protocol.startswith("digits test, 200 images, data ")
    assert numbered_task(200).protocol != numbered_task(199).protocol


def test_a_validation_share_without_images_is_refused():
    with pytest.raises(ValueError, match=r"task\.validation 0\.1 of 20 images leaves 20 to train on and 0"):
        numbered_task(20).start(0)
    with pytest.raises(ValueError, match=r"validation"):
        Config(name="classification", model="cnn_digits", data="digits", validation=0.0)


def test_an_unknown_network_or_task_gets_a_suggestion():
    task = ClassificationTask(
        Config(name="classification", model="cnn_digit", data="digits"), digits_task().images, CPU
    )
    with pytest.raises(ValueError, match="did you mean cnn_digits"):
        task.build(0)
    with pytest.raises(ValueError, match="did you mean classification"):
        config_class("clasification")


def test_all_of_it_runs_on_the_given_device():
    task = ClassificationTask(digits_task("flip").config, digits_task().images, torch.device("meta"))
    images, labels = next(task.batches(0, 0, 100))
    assert images.device.type == labels.device.type == "meta"
    assert next(task.build(0).parameters()).device.type == "meta"


def family_task(model: str, pretrained: object = False, **options: object) -> ClassificationTask:
    size = 32 if "convnext" in model else 16
    settings = {
        "name": "classification",
        "model": model,
        "data": "digits",
        "image_size": size,
        "pretrained": pretrained,
    }
    task = Config(**settings | options).build(None, CPU)
    assert isinstance(task, ClassificationTask)
    return task


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Weights of a ResNet with BatchNorm for digits, as somebody might have them."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    task = family_task("test_resnet")
    model = task.build(7).train()
    task.loss(model, next(task.batches(0, 0, 200))).backward()
    save_tensors(path, model.state_dict())
    return path


@pytest.mark.parametrize(
    "model", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "cnn_digits", "vit_tiny_two_layer_head"]
)
def test_the_structure_without_memory_is_that_of_the_weights(model):
    options = {"image_size": 8} if model == "cnn_digits" else {"options": {"patch_size": 8}} if "vit" in model else {}
    task = family_task(model, **options)
    assert task.config.structure() == Structure.of(task.weights(task.build(0)))


names = st.sampled_from(["*", "conv1.*", "*.bn2.weight", "layer1.*", "*.weight", "fc.*", "*.running_mean"])


@settings(max_examples=8)
@given(patterns=st.lists(names, min_size=1, max_size=3), seed=st.integers(0, 3))
def test_weights_and_frozen_are_all_of_the_model_and_load_inverts_them(patterns, seed, weights_file):
    task = family_task("test_resnet", str(weights_file), trainable=tuple(patterns))
    model, other = task.build(seed), task.build(seed + 1)
    weights, frozen = task.weights(model), task.frozen(model)
    state = model.state_dict()
    assert sorted([*weights, *frozen]) == sorted(state)
    assert task.config.structure() == Structure.of(weights)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    task.load(other, weights)
    expected = {name: state[name] if name in weights else before[name] for name in state}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    task.load(other, weights | frozen)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    if len(frozen) > 1:
        with pytest.raises(ValueError, match="missing"):
            task.load(other, weights | dict([*frozen.items()][1:]))


def test_training_changes_the_chosen_tensors_and_nothing_else(weights_file):
    task = family_task("test_resnet", str(weights_file), trainable=("layer1.*",))
    model = task.start(0)
    frozen, weights = task.frozen(model), task.weights(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    for batch in islice(task.batches(0, 0, 200), 2):
        model.train()
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in task.frozen(model).items())
    changed = {name for name, tensor in task.weights(model).items() if not torch.equal(tensor, weights[name])}
    assert changed == set(weights)  # BatchNorm's statistics among them


def test_with_frozen_statistics_the_training_loss_is_that_of_evaluation(weights_file):
    task = family_task("test_resnet", str(weights_file), trainable=("*.bn2.weight", "*.bn2.bias"))
    model, batch = task.start(0), next(task.batches(0, 0, 100))
    with torch.no_grad():
        training, evaluation = (
            task.loss(model.train(), batch),
            nn.functional.cross_entropy(model.eval()(batch[0]), batch[1]),
        )
    torch.testing.assert_close(training, evaluation)


@pytest.mark.parametrize("form", ["file", "directory", "timm's name"])
def test_pretrained_weights_come_from_files(form, weights_file):
    source = {"file": weights_file, "directory": weights_file.parent, "timm's name": f"local-dir:{weights_file.parent}"}
    task = family_task("test_resnet", str(source[form]))
    started, built = task.weights(task.start(3)), task.weights(task.build(3))
    assert all(torch.equal(tensor, started[name]) for name, tensor in load_file(weights_file).items())
    assert not torch.equal(built["fc.weight"], started["fc.weight"])


def test_a_head_for_other_classes_starts_at_random_and_the_rest_as_pretrained(weights_file, tmp_path):
    tensors = load_file(weights_file)
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(1000, tensors["fc.weight"].shape[1]), torch.zeros(1000)
    save_tensors(tmp_path / "big.safetensors", tensors)
    task = family_task("test_resnet", str(tmp_path / "big.safetensors"))
    first, again, other = (task.weights(task.start(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert all(torch.equal(first[name], tensors[name]) for name in first if not name.startswith("fc."))


def test_pretrained_weights_that_are_not_there_or_do_not_fit_are_explained(weights_file, tmp_path):
    with pytest.raises(MissingData, match=r"no weights at nowhere; expected a \.safetensors or \.pth file"):
        family_task("test_resnet", "nowhere").start(0)
    with pytest.raises(
        MissingData, match=r"weights test_resnet from the Hugging Face Hub.*huggingface.co/timm/test_resnet"
    ):
        family_task("test_resnet", True).start(0)
    with pytest.raises(ValueError, match=r"does not fit: missing: stem.0.weight, .*; unexpected: bn1.bias, "):
        family_task("test_convnext", str(weights_file)).start(0)
    with pytest.raises(ValueError, match="set pretrained, too"):
        family_task("test_resnet", trainable=("fc.*",))
    with pytest.raises(ValueError, match=r"'fd\.\*' matches no tensor of test_resnet"):
        family_task("test_resnet", True, trainable=("fd.*",)).config.structure()


def test_the_head_is_the_classifier():
    for model, names in [
        ("test_resnet", ["fc.weight", "fc.bias"]),
        ("test_convnext", ["head.fc.weight", "head.fc.bias"]),
    ]:
        task = family_task(model)
        built = task.build(0)
        owned = dict(built.named_parameters())
        assert [id(parameter) for parameter in task.head(built)] == [id(owned[name]) for name in names]


def test_images_are_resized_on_the_device_as_the_library_does_it():
    small, large = digits_task(), family_task("test_resnet", image_size=24)
    (before, labels), (after, same) = (next(task.batches(0, 0, 100)) for task in (small, large))
    assert torch.equal(labels, same)
    assert after.shape == (len(labels), 1, 24, 24)
    torch.testing.assert_close(after, reference.resize(before, [24, 24], antialias=True), atol=1e-5, rtol=1e-5)
    assert "images at 24 px" in large.protocol


@pytest.mark.parametrize("augment", ["none", "flip", "autoaugment", "randaugment"])
def test_crops_resume_where_they_stopped(augment):
    task = numbered_task(200)
    task.config = task.config.model_copy(update={"crop_padding": 2, "augment": augment})
    whole = list(islice(task.batches(3, 0, 50), 6))
    assert_same_batches(list(islice(task.batches(3, 4, 50), 2)), whole[4:])
    if augment == "none":
        black = {
            tuple((batch[i, 0] == 0).nonzero().flatten().tolist()) for batch, _ in whole for i in range(len(batch))
        }
        assert len(black) > 10  # borders of many kinds


def test_frozen_tensors_come_from_the_pretrained_weights_alone(weights_file, tmp_path):
    task = family_task("test_resnet", str(weights_file), trainable=("layer1.*",))
    expected, found = task.frozen(task.start(5)), task.config.frozen()
    assert list(found) == list(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert family_task("test_resnet").config.frozen() == {}

    tensors = load_file(weights_file)
    tensors["fc.weight"], tensors["fc.bias"] = tensors["fc.weight"][:3].clone(), tensors["fc.bias"][:3].clone()
    save_tensors(tmp_path / "small.safetensors", tensors)
    with pytest.raises(ValueError, match=r"fc\.weight is frozen, but starts at random.*another number of classes"):
        family_task("test_resnet", str(tmp_path / "small.safetensors"), trainable=("layer1.*",)).start(0)
    family_task("test_resnet", str(tmp_path / "small.safetensors"), trainable=("layer1.*", "fc.*")).start(0)
