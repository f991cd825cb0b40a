"""Frozen encoders: what transformers' whole CLIP says of the same words and images; what is refused."""

from __future__ import annotations

import shutil

import pytest
import tiny_clip
import torch
from transformers import AutoImageProcessor, AutoTokenizer, BertConfig, BertModel

from rpg.conditions.classes import signed
from rpg.conditions.frozen import image_features, text_features
from zoo.errors import MissingData


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    return str(place), tiny_clip.save(place)


@torch.no_grad()
def test_words_are_read_as_the_whole_model_reads_them_each_alone(clip) -> None:
    place, model = clip
    texts, tokenizer = ["cat", "animals against vehicles", "7"], AutoTokenizer.from_pretrained(place)
    found = text_features(place, texts)
    for text, feature in zip(texts, found, strict=True):  # padding beside longer texts changes nothing
        expected = model(**tokenizer(text, return_tensors="pt"), pixel_values=torch.zeros(1, 3, 8, 8)).text_embeds
        torch.testing.assert_close(feature[None], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_are_seen_as_the_whole_model_sees_them(clip) -> None:
    place, model = clip
    images = torch.rand(3, 3, 32, 32)
    pixels = AutoImageProcessor.from_pretrained(place)((images * 255).round().byte(), return_tensors="pt").pixel_values
    expected = model(input_ids=torch.tensor([[2, 3]]), pixel_values=pixels).image_embeds
    torch.testing.assert_close(image_features(place, images), expected, rtol=0.01, atol=0.01)  # of bytes, rounded


def test_what_is_no_encoder_or_too_long_is_refused(clip, tmp_path) -> None:
    with pytest.raises(MissingData, match=r"no CLIP at .*expected a directory as transformers saves one"):
        text_features(str(tmp_path), ["cat"])
    BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(MissingData, match=r"no CLIP at .*bert"):
        text_features(str(tmp_path / "bert"), ["cat"])
    damaged = shutil.copytree(clip[0], tmp_path / "damaged") / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    with pytest.raises(MissingData, match=r"no CLIP at .*damaged"):
        text_features(str(damaged.parent), ["cat"])
    for texts in (["zebra", "giraffe"], ["cat", " cat"]):  # of words it does not know all are alike
        with pytest.raises(ValueError, match=f"{texts[0]!r} and {texts[1]!r} are the same to"):
            text_features(clip[0], texts)
    without = shutil.copytree(clip[0], tmp_path / "without", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(MissingData, match=r"tokenizer at .*without knows 2 tokens of 18"):
        text_features(str(without), ["cat", "animals"])
    with pytest.raises(ValueError, match=f"has 22 tokens; .* reads {tiny_clip.LONGEST} at most"):
        text_features(clip[0], ["cat " * 20])


def test_classes_have_the_sign_of_their_label() -> None:
    features = torch.randn(3, 5)
    found = signed(("101", "011"), features)
    torch.testing.assert_close(
        found, torch.stack([features, features]) * torch.tensor([[[1.0], [-1], [1]], [[-1], [1], [1]]])
    )
