"""A small data set in COCO's layout: light and dark rectangles on noise, two classes, numbered 3 and 7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "light", "supercategory": "box"}, {"id": 7, "name": "dark", "supercategory": "box"}]
COUNTS = {"train2017": 10, "val2017": 4}


def write(root: Path) -> Path:
    """Makes `root/coco`; returns `root`. The last training image shows nothing, the one before it only a crowd."""
    rng = np.random.default_rng(0)
    (root / "coco" / "annotations").mkdir(parents=True)
    for name, count in COUNTS.items():
        folder = root / "coco" / name
        folder.mkdir()
        images, objects = [], []
        for i in range(count):
            rows, columns = (48, 64) if i % 2 else (64, 56)
            pixels = rng.integers(80, 170, (rows, columns, 3), dtype=np.uint8)
            for k in range(0 if name == "train2017" and i == count - 1 else 2):
                one = _rectangle(rng, id=2 * i + k + 1, image=100 + i, crowd=name == "train2017" and i == count - 2)
                x, y, w, h = one["bbox"]
                pixels[y : y + h, x : x + w] = 250 if one["category_id"] == 3 else 5
                objects.append(one)
            Image.fromarray(pixels).save(folder / f"{i:012d}.jpg", quality=95)
            images.append({"id": 100 + i, "file_name": f"{i:012d}.jpg", "height": rows, "width": columns})
        content = {"info": {}, "licenses": [], "images": images, "annotations": objects, "categories": CATEGORIES}
        (root / "coco" / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


def _rectangle(rng: np.random.Generator, id: int, image: int, crowd: bool) -> dict[str, Any]:
    x, y, w, h = (int(v) for v in (*rng.integers(2, 24, 2), *rng.integers(12, 22, 2)))
    outline = [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]
    return {
        "id": id,
        "image_id": image,
        "category_id": int(rng.choice([3, 7])),
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": int(crowd),
        "segmentation": {"size": [64, 64], "counts": [0, 4096]} if crowd else [outline],
    }
