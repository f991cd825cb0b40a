"""Which data sets can be fetched, and what is known of them: addresses, sizes, checksums, terms.

Their publishers state no checksums. Those of COCO and ADE20K are TensorFlow Datasets' records (url_checksums/coco.txt
and ade20k.txt at https://github.com/tensorflow/datasets); those of LLM-Adapters' files are git's, of the commit that
the addresses name. Sizes that nobody states are marked: `exact=False`. What unpacking takes is about so much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.data.ade20k import FOLDER
from zoo.data.ade20k import SOURCE as ADE20K
from zoo.data.coco import SOURCE as COCO_PAGE
from zoo.data.instructions import ADAPTERS
from zoo.errors import suggest
from zoo.fetch.download import Digest, Remote
from zoo.fetch.pieces import ArchivePiece, FilePiece, HubPiece, Piece
from zoo.hub.licenses import DATA

TFDS = "as TensorFlow Datasets has it"
COMMIT = "816657208af4db747803f87ba40a4c71383fed7a"
RAW = f"https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/{COMMIT}"
IMAGENET_PAGE = "https://image-net.org/download.php"
IMAGENET_BYTES = 150_000_000_000  # about


@dataclass(frozen=True)
class DataSet:
    """A data set, the page about it, its terms, and the pieces that it comes in."""

    name: str
    page: str
    terms: str
    pieces: tuple[Piece, ...]


def _coco(place: str, path: str, size: int, sha256: str, holds: Mapping[str, int], unpacked: int) -> ArchivePiece:
    # over HTTP: the certificate of this host is another's
    remote = Remote(f"http://images.cocodataset.org/{path}", size, digest=Digest("sha256", sha256, TFDS))
    return ArchivePiece(f"coco/{place}", remote, holds, unpacked)


def _questions(folder: str, size: int, blob: str, exact: bool = True) -> FilePiece:
    remote = Remote(f"{RAW}/dataset/{folder}/test.json", size, exact, Digest("git", blob, "as GitHub lists it"))
    return FilePiece(f"commonsense/{folder}/test.json", remote)


def sets() -> dict[str, DataSet]:
    """All of them by name."""
    found = (_ade20k(), _coco_2017(), _imagenet(), _commonsense())
    return {one.name: one for one in found}


def data_set(name: str) -> DataSet:
    """The one of this name. Raises ValueError for another."""
    known = sets()
    if name not in known:
        raise ValueError(f"no data set is called {name!r}{suggest(name, known)}")
    return known[name]


def _ade20k() -> DataSet:
    sha256 = "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29"
    holds = {
        f"{kind}/{split}/{ending}": count
        for kind, ending in (("images", "*.jpg"), ("annotations", "*.png"))
        for split, count in (("training", 20210), ("validation", 2000))
    }
    remote = Remote(ADE20K, 967_382_037, digest=Digest("sha256", sha256, TFDS))
    pieces = (ArchivePiece(FOLDER, remote, holds, unpacked=1_000_000_000),)
    return DataSet("ade20k", "https://ade20k.csail.mit.edu", DATA["ade20k"][1], pieces)


def _coco_2017() -> DataSet:
    pieces = (
        _coco(
            "annotations",
            "annotations/annotations_trainval2017.zip",
            252_907_541,
            "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            {"instances_train2017.json": 1, "instances_val2017.json": 1},
            unpacked=840_000_000,
        ),
        _coco(
            "val2017",
            "zips/val2017.zip",
            815_585_330,
            "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            {"*.jpg": 5000},
            unpacked=820_000_000,
        ),
        _coco(
            "train2017",
            "zips/train2017.zip",
            19_336_861_798,
            "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            {"*.jpg": 118_287},
            unpacked=19_400_000_000,
        ),
    )
    return DataSet("coco", COCO_PAGE, DATA["coco"][1], pieces)


def _imagenet() -> DataSet:
    otherwise = (
        f"with an account of {IMAGENET_PAGE} get ILSVRC2012_img_train.tar (147,897,477,120 bytes) and "
        "ILSVRC2012_img_val.tar (6,744,924,160), and unpack them into DIR/imagenet/{train,val}/<wnid>/*.JPEG, a folder "
        "for each class"
    )
    piece = HubPiece(
        "imagenet-1k",
        "ILSVRC/imagenet-1k",
        ("data/train-*.parquet", "data/validation-*.parquet"),
        bytes=IMAGENET_BYTES,
        instead={"imagenet/train/n*": 1000, "imagenet/val/n*": 1000},
        otherwise=otherwise,
    )
    return DataSet("imagenet", IMAGENET_PAGE, DATA["imagenet"][1], (piece,))


def _commonsense() -> DataSet:
    training = Remote(
        f"{RAW}/ft-training_set/commonsense_170k.json",
        100_000_000,
        exact=False,
        digest=Digest("git", "529e426b33d4cdb1d0c4a275a1a7245ad081fd91", "as GitHub lists it"),
    )
    pieces = (
        _questions("boolq", 899_151, "6d7edb0a8e8a6566b546ccf0d98d24e48db3fdf3"),
        _questions("piqa", 913_157, "f7a1c260692ef31796d4763cb6334f316a754fed"),
        _questions("social_i_qa", 843_748, "eadf221799ca394367b144c0f86ee0436db409d2"),
        _questions("hellaswag", 10_000_000, "183c4920415f83ba4b793c4873a33e7e10bd1be5", exact=False),
        _questions("ARC-Easy", 1_157_216, "6c0d30aaedaeca148df6bcd7aaacf7c31e6ad70f"),
        _questions("ARC-Challenge", 622_510, "9540685439144200b5a7e48dab9ca4655be2af09"),
        _questions("openbookqa", 202_545, "a6e69676104bcb77237388c3b5a3f0dcbb81d1e2"),
        FilePiece("commonsense/commonsense_170k.json", training),
    )
    terms = f"{DATA['commonsense_170k'][1]}, and the terms of each question set's authors"
    return DataSet("commonsense", ADAPTERS, terms, pieces)
