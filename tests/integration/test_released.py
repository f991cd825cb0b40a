"""Released weights of detectron2: a pickle of arrays from a loopback server, where detectron2 itself is not needed."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from web_server import WebServer, web

from zoo.errors import Failed, MissingData
from zoo.fetch import released
from zoo.files import Busy
from zoo.networks.detectron import MEAN, STD
from zoo.tasks.detection import Config

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def config(pretrained: object) -> Config:
    return Config.model_validate(
        {"name": "detection", "model": "vitdet-tiny", "data": "coco", "classes": 2, "pretrained": pretrained}
    )


def made(path: Path, mean: list[float] = MEAN) -> bytes:
    constants = {"pixel_mean": np.array(mean).reshape(3, 1, 1), "pixel_std": np.array(STD).reshape(3, 1, 1)}
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": np.ones((3, 4), np.float32)}
    path.write_bytes(pickle.dumps({"model": {"roi_heads.x": WEIGHT, **constants, **anchors}}, 2))
    return path.read_bytes()


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with web(monkeypatch) as server:
        url, _ = server.add("/model_final_abc.pkl", made(tmp_path / "made"))
        known = replace(released.RELEASED["detectron2", "vitdet-base"], urls=(url,))
        monkeypatch.setitem(released.RELEASED, ("detectron2", "vitdet-tiny"), known)
        monkeypatch.setattr(released, "downloads", lambda kind: tmp_path / "cache" / kind)
        yield server


def test_a_pickle_of_arrays_is_downloaded_once_and_recorded(offered: WebServer, tmp_path: Path) -> None:
    for _ in range(2):
        found = config(True).weights()
        assert found.keys() == {"roi_heads.x"}
        assert torch.equal(found["roi_heads.x"], torch.from_numpy(WEIGHT))
    assert len(offered.asked) == 1
    (recorded,) = config(True).started_from().items()
    assert recorded[0] == "model_final_abc.pkl"
    place = tmp_path / "cache/weights/detectron2/model_final_abc.pkl"
    assert config(str(place)).started_from() == dict([recorded])
    assert config(None).started_from() == config(False).started_from() == {}


def test_what_they_are_not_is_one_line(offered: WebServer, tmp_path: Path) -> None:
    made(tmp_path / "other.pkl", mean=[103.5, 116.3, 123.7])
    with pytest.raises(ValueError, match=r"its pixel_mean is \[103\.5, .*\], expected .*: they were trained on other"):
        config(str(tmp_path / "other.pkl")).weights()
    with pytest.raises(MissingData, match=r"there is no .*nowhere\.pkl; task\.pretrained should be true, a file"):
        config(str(tmp_path / "nowhere.pkl")).weights()
    offered.files.clear()
    with pytest.raises(MissingData, match=r"answers 404; it may have moved: get the file from elsewhere and put it at"):
        config(True).weights()
    with pytest.raises(
        ValueError, match=r"nobody has published weights of huge; expected task\.pretrained=false, or a"
    ):
        released.released("detectron2", "huge")


def test_another_process_that_downloads_is_waited_for(
    offered: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "cache/weights/detectron2/model_final_abc.pkl"
    monkeypatch.setattr(released, "WAITING", 0.01)
    caplog.set_level("INFO")
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with released.part_of(place):
            held.set()
            done.wait(9)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(9)
    threading.Timer(0.1, done.set).start()
    assert config(True).weights().keys() == {"roi_heads.x"}
    thread.join()
    assert "another process is downloading model_final_abc.pkl; waiting for it" in caplog.messages
    assert issubclass(Busy, Failed)
