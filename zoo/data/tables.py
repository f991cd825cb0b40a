"""Data sets as tables of rows; `datasets` is imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import MissingData


def open_parquet(files: Sequence[str]) -> Any:
    """Local parquet files as a stream, so nothing is copied into the cache of `datasets`. Raises OSError or ValueError
    where they cannot be read.
    """
    from datasets import load_dataset

    return load_dataset("parquet", data_files=list(files), split="train", streaming=True)


def open_hub(repo: str, split: str, otherwise: str, config: str | None = None) -> Any:
    """A split of a data set on the Hugging Face Hub, downloaded. Raises MissingData where that is out of reach, which
    says what to do `otherwise`.
    """
    from datasets import load_dataset

    try:
        return load_dataset(repo, config, split=split)
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise MissingData(
            f"cannot get {repo} from the Hugging Face Hub ({reason}); without network, {otherwise}"
        ) from error


def undecoded_images(dataset: Any, column: str) -> Any:
    """The data set with the images of a column as bytes of their files."""
    from datasets import Image

    return dataset.cast_column(column, Image(decode=False))
