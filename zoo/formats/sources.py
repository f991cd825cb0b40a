"""`sources.json` of an imported zoo: where each checkpoint was, and the configuration that lay beside it.

With these configurations a zoo that was imported without a recipe can be exported again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, NonNegativeInt, model_validator
from typing_extensions import Self

from zoo.errors import Corrupt
from zoo.files import parse_json, read_limited
from zoo.manifest import Id, Name
from zoo.store import Zoo
from zoo.structure import Frozen

SOURCES = "sources.json"
BYTES = 2**27
CONFIG_BYTES = 2**24  # of one configuration
NVLABS = ("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type")
"""The settings of NVlabs' DoRA that peft's have, too."""


class Record(Frozen):
    """Where a checkpoint was: its path in the source, and the number of its configuration."""

    file: Name
    config: NonNegativeInt | None = None


class Sources(Frozen):
    """The records of all checkpoints by their ids, and the different configurations."""

    format: str
    networks: dict[Id, Record]
    configs: tuple[dict[str, JsonValue], ...] = ()

    @model_validator(mode="after")
    def _there(self) -> Self:
        if any(record.config is not None and record.config >= len(self.configs) for record in self.networks.values()):
            raise ValueError("a record names a configuration that is not there")
        return self

    @classmethod
    def of(cls, zoo: Zoo) -> Self | None:
        """That of a zoo, if it was imported. Raises Corrupt when it is damaged."""
        if SOURCES not in zoo.manifest.files:
            return None
        path = zoo.file(SOURCES)
        return cls.parse(read_limited(path, BYTES), path)

    @classmethod
    def problems(cls, zoo: Zoo) -> list[str]:
        """What is wrong with a zoo's, in a line, if anything is."""
        try:
            cls.of(zoo)
        except Corrupt as error:
            return [str(error)]
        return []

    def config(self, id: str) -> dict[str, JsonValue] | None:
        record = self.networks.get(id)
        return None if record is None or record.config is None else self.configs[record.config]

    def to_bytes(self) -> bytes:
        """The file."""
        return self.to_json(indent=1).encode()

    def only(self, ids: Collection[str]) -> Self:
        """The records of some checkpoints."""
        return self.model_copy(update={"networks": {id: r for id, r in self.networks.items() if id in ids}})


class Recorder:
    """Collects the records of an import."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._networks: dict[str, Record] = {}
        self._configs: list[dict[str, JsonValue]] = []

    def add(self, id: str, file: str, config: Mapping[str, Any] | None) -> None:
        number = None
        if config is not None:
            plain = dict(config)
            if plain not in self._configs:
                self._configs.append(plain)
            number = self._configs.index(plain)
        self._networks[id] = Record(file=_plain(file), config=number)

    def to_bytes(self) -> bytes:
        networks = dict(sorted(self._networks.items()))
        return Sources(format=self._form, networks=networks, configs=tuple(self._configs)).to_bytes()


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "-" for c in text)[:512]


def read_config(path: Path, form: str) -> dict[str, Any]:
    """The configuration beside a checkpoint, as the library of this format reads it. Raises Corrupt when it is damaged,
    ValueError for settings of NVlabs' DoRA that peft does not have.
    """
    found = parse_json(read_limited(path, CONFIG_BYTES), path)
    if not isinstance(found, dict):
        raise Corrupt(f"{path} is not an object")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Corrupt(f"{path} holds text that is not Unicode: {error.reason}") from error
    if form != "peft" or found.get("peft_type") != "DORA":
        return found
    known = {*NVLABS, "peft_type", "inference_mode", "fan_in_fan_out", "dora_simple", "init_lora_weights"}
    if odd := [key for key, value in found.items() if value and key not in known]:
        raise ValueError(f"{path} has {odd[0]}, which peft's DoRA has not")
    kept = {key: found[key] for key in (*NVLABS, "fan_in_fan_out") if key in found}
    return {"peft_type": "LORA", **kept, "use_dora": True, "inference_mode": True}
