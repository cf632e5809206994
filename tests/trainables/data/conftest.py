from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import CITYSCAPES_CLASSES, create_dataset
from trainables.data.cityscapes import LABEL_IDS

SIZES = {"camvid": (12, 16), "cityscapes": (16, 32), "folder": (10, 14)}
CLASSES = {"camvid": 11, "cityscapes": 19, "folder": 3}
IGNORED = {"camvid": 11, "cityscapes": 0, "folder": 255}


def write_pair(image_path: Path, mask_path: Path, size: tuple[int, int], labels: list[int]) -> None:
    """A random image and a mask that cycles through the labels."""
    rng = np.random.default_rng(len(image_path.name))
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image_path)
    mask = np.resize(np.array(labels, dtype=np.uint8), size)
    Image.fromarray(mask).save(mask_path)


def camvid_tree(root: Path) -> None:
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        lines = []
        for index in range(count):
            name = f"{split}_{index:02d}.png"
            pair = (root / split / name, root / f"{split}annot" / name)
            write_pair(*pair, SIZES["camvid"], list(range(12)))
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        (root / f"{split}.txt").write_text("".join(lines))


def cityscapes_tree(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            city, stem = f"city{index % 2}", f"city{index % 2}_{index:06d}_000019"
            image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            mask = root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
            write_pair(image, mask, SIZES["cityscapes"], [0, *LABEL_IDS, 33, 9])


def folder_tree(root: Path) -> None:
    for index in range(20):
        image = root / "images" / f"{index}.jpg"
        write_pair(image, root / "masks" / f"{index}.png", SIZES["folder"], [0, 1, 2, 255])
    (root / "classes.txt").write_text("ground\nthing\nsky\n")


TREES = {"camvid": camvid_tree, "cityscapes": cityscapes_tree, "folder": folder_tree}


@pytest.fixture
def open_dataset(tmp_path):
    """Opens a small data set of any name; the trees of files are made once per test."""

    def open_one(name: str, split: str = "train", **options):
        if name.startswith("synthetic"):
            options = {"size": (32, 64), "num_samples": 6} | options
            return create_dataset(name, None, split, **options)
        root = tmp_path / name
        if not root.exists():
            TREES[name](root)
        return create_dataset(name, root, split, **options)

    return open_one


@pytest.fixture
def expected_classes():
    drawn = dict.fromkeys(("synthetic", "synthetic_drives"), len(CITYSCAPES_CLASSES))
    return {**drawn, **CLASSES}


class Tree:
    """A data set of image and mask arrays, written as the folders that users have."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        samples: int = 4,
        *,
        classes: str | None = "background\nobject\n",
        labels: tuple[int, ...] = (0, 1),
        val: int = 2,
        image: str = "images/{}.png",
        mask: str = "masks/{}.png",
        lists: bool = True,
    ) -> Path:
        """Random grey images with masks whose left half is the first label, and two lists."""
        rng = np.random.default_rng(0)
        names = [f"img{index}" for index in range(samples)]
        for name in names:
            pixels = rng.integers(0, 256, (12, 16), dtype=np.uint8)
            target = np.full((12, 16), labels[-1], dtype=np.uint8)
            target[:, :8] = labels[0]
            self.save(image.format(name), pixels)
            self.save(mask.format(name), target)
        if classes is not None:
            (self.root / "classes.txt").write_text(classes, encoding="utf-8")
        if lists:
            self.list("train", names[:-val])
            self.list("val", names[-val:])
        return self.root

    def save(self, name: str, pixels: np.ndarray, **options: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    def list(self, split: str, lines: list[str]) -> None:
        (self.root / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")

    def open(self, split: str = "train", **options: object):
        return create_dataset("folder", self.root, split, **options)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    root = tmp_path / "tree"
    root.mkdir()
    return Tree(root)
