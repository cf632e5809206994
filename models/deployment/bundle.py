"""A deployment bundle: a folder with the network's files, their description and a script."""

from __future__ import annotations

import colorsys
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.files.atomic_file import write_atomically
from models.normalization import Normalization

MODEL_FILE = "model.onnx"
DESCRIPTION_FILE = "model.json"
SCRIPT_FILE = "predict.py"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleContent:
    """The content of model.json, which describes the network's files.

    Attributes:
        classes: Names of the classes, in the order of the network's outputs.
        colors: "#rrggbb" of each class; None: generated colours.
        normalization: Normalisation that the file applies to uint8 images.
        value_range: Values that become 0 and 255 in images of more than 8 bits; None: not known,
            or the network was trained on images of 8 bits.
        miou: mIoU of the files in their engine on the validation split, in 0..1; None: not
            evaluated.
        latency_ms: Latency of the file in that engine; None: not measured.
        made: How the network was made (trial, stage, settings, further measurements),
            JSON-serialisable.
    """

    classes: Sequence[str]
    colors: Sequence[str] | None = None
    normalization: Normalization
    value_range: tuple[float, float] | None = None
    miou: float | None = None
    latency_ms: float | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.colors is not None and len(self.colors) != len(self.classes):
            raise ValueError(
                f"colors must have one entry per class, got {len(self.colors)} for "
                f"{len(self.classes)}"
            )


def describe_bundle(
    folder: Path,
    content: BundleContent,
    files: Sequence[str],
    input_shape: tuple[int, int, int, int],
    engine: Mapping[str, Any],
) -> None:
    """Write model.json and predict.py beside a network's files.

    Args:
        folder: Folder of the files.
        content: Content of model.json.
        files: Names of the files; the engine reads the first one.
        input_shape: Shape of the images, (N, 3, H, W).
        engine: Description of the engine, from `Engine.describe`.
    """
    colors = content.colors or draw_colors(len(content.classes))
    number, _, height, width = input_shape
    description = {
        "version": VERSION,
        "file": files[0],
        "files": list(dict.fromkeys(files)),
        "engine": dict(engine),
        "input": {
            "name": "images",
            "shape": list(input_shape),
            "dtype": "uint8",
            "channels": "RGB",
            "range": content.value_range,
        },
        "normalization": {**asdict(content.normalization), "where": "inside the file"},
        "output": {"name": "logits", "shape": [number, len(content.classes), height, width]},
        "classes": [
            {"name": name, "colour": [int(color[i : i + 2], 16) for i in (1, 3, 5)]}
            for name, color in zip(content.classes, colors, strict=True)
        ],
        "miou": content.miou,
        "latency_ms": content.latency_ms,
        "made": dict(content.made),
    }
    write_atomically(folder / DESCRIPTION_FILE, json.dumps(description, indent=1) + "\n")
    shutil.copyfile(Path(__file__).with_name(SCRIPT_FILE), folder / SCRIPT_FILE)


def read_bundle(folder: Path) -> dict[str, Any]:
    """Read the model.json of a bundle."""
    description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_text())
    return description


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a deployment bundle."""
    return (folder / DESCRIPTION_FILE).is_file()


def is_complete_bundle(folder: Path) -> bool:
    """Whether a folder is a deployment bundle with all of its files."""
    return is_bundle(folder) and all(
        (folder / name).is_file() for name in read_bundle(folder)["files"]
    )


def update_bundle(folder: Path, changes: Mapping[str, Any]) -> None:
    """Replace entries of a bundle's model.json."""
    description = read_bundle(folder) | dict(changes)
    write_atomically(folder / DESCRIPTION_FILE, json.dumps(description, indent=1) + "\n")


def copy_bundle(source: Path, folder: Path, changes: Mapping[str, Any]) -> None:
    """Copy the files of a bundle and no others.

    Args:
        source: A folder that `is_bundle`.
        folder: Folder to copy to; made if missing.
        changes: Entries of model.json to replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*read_bundle(source)["files"], SCRIPT_FILE, DESCRIPTION_FILE):
        shutil.copyfile(source / name, folder / name)
    update_bundle(folder, changes)


def draw_colors(number: int) -> list[str]:
    """Generate distinct colours: hues a golden section apart, at three levels of brightness."""
    colors = []
    for index in range(number):
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 1 - index % 3 * 0.25)
        colors.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return colors
