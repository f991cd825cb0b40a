"""The weights that libraries have released of networks of our recipes, for `task.pretrained: true`.

Addresses and metrics are those of mmsegmentation's and detectron2's own tables (configs/mae/README.md and
projects/ViTDet/README.md). Nobody states whole checksums of these files. `digits` are those at the end of a file's
name: mmsegmentation's publishing script (tools/publish_model.py) takes them from a SHA-256, at first of the published
file, in later versions of the training checkpoint that it was made of. Those of detectron2's names are no SHA-256
(files whose SHA-256 others state have other digits). So digits prove nothing: they are compared where they could fit,
and a difference is said. What counts is that a file is whole, holds tensors alone, and has every tensor of the network
in its shape; and its SHA-256 goes on record with the zoo.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import Failed, MissingData
from zoo.fetch.download import Remote, complete, has_part, part_of
from zoo.files import Busy, sha256_file
from zoo.hub.client import downloads

log = logging.getLogger(__name__)

KIND = "weights"
WAITING = 1.0  # seconds between looks at another process's download
TERMS = "non-commercial (the MAE weights that it started from are CC BY-NC 4.0)"


@dataclass(frozen=True)
class Released:
    """A file of released weights: what they are, from where, about how many bytes, digits of its name, terms."""

    what: str
    urls: tuple[str, ...]
    bytes: int
    page: str
    terms: str
    digits: str = ""

    @property
    def name(self) -> str:
        return self.urls[0].rpartition("/")[2]


_MAE = "mae/upernet_mae-base_fp16_8x2_512x512_160k_ade20k"
_MAE_FILE = "upernet_mae-base_fp16_8x2_512x512_160k_ade20k_20220426_174752-f92a2975.pth"

RELEASED: dict[tuple[str, str], Released] = {
    ("mmseg", "base"): Released(
        "UperNet with MAE ViT-B, ADE20K, 512 px, 150 classes (mIoU 48.13)",
        (
            f"https://download.openmmlab.com/mmsegmentation/v0.5/{_MAE}/{_MAE_FILE}",
            f"https://mmassets.onedl.ai/mmsegmentation/v0.5/{_MAE}/{_MAE_FILE}",  # of the maintained fork
        ),
        756_000_000,
        "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/mae",
        TERMS,
        digits="f92a2975",
    ),
    ("detectron2", "vitdet-base"): Released(
        "ViTDet-B with Mask R-CNN's heads, COCO, 1024 px, 80 classes (box AP 51.6, mask AP 45.9)",
        ("https://dl.fbaipublicfiles.com/detectron2/ViTDet/COCO/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl",),
        444_000_000,
        "https://github.com/facebookresearch/detectron2/tree/main/projects/ViTDet",
        TERMS,
    ),
}
"""By library and name of the network (`task.size`, `task.model`)."""


def released(library: str, network: str) -> Path:
    """The file of the weights that this library has released of a network, downloaded once into the cache.

    Raises ValueError where there are none, MissingData where they cannot be had, Failed for a connection that stays
    lost: what has come is kept.
    """
    known = RELEASED.get((library, network))
    if known is None:
        raise ValueError(f"nobody has published weights of {network}; expected task.pretrained=false, or a file")
    place = downloads(KIND) / library / known.name
    waiting = False
    while not place.is_file() or has_part(place):
        try:
            _download(known, place)
        except Busy:  # another worker of this zoo, most likely
            if not waiting:
                log.info("another process is downloading %s; waiting for it", known.name)
            waiting = True
            time.sleep(WAITING)
    return place


def _download(known: Released, place: Path) -> None:
    """From the first address that has it, or from the one that has begun to give it."""
    with part_of(place) as part:
        if place.is_file():
            return
        begun = part.note.url if part.note else None
        urls = sorted(known.urls, key=lambda url: url != begun)
        log.info("downloading %s of %s; terms: %s", known.what, known.page, known.terms)
        for url in urls:
            try:
                complete(Remote(url, known.bytes, exact=False), part)
                break
            except (MissingData, Failed) as error:
                if part.size or url == urls[-1]:
                    raise
                log.info("%s", error)
        _compare(known, part.path)
        part.put_in_place()


def _compare(known: Released, path: Path) -> None:
    """Say whether the file's SHA-256 begins as its name ends, where that could be."""
    if known.digits and not (found := sha256_file(path)).startswith(known.digits):
        log.warning(
            f"the SHA-256 of {known.name} begins with {found[:8]}, its name ends in {known.digits}: the digits may be "
            "those of what it was made of, or it is another file; the zoo will record what was taken"
        )
