"""The papers' own numbers, as their tables print them.

Paper 1: Chen et al. 2026 (dual-branch network, slimming, decoupled distillation), tables 2 to 4.
Paper 3: Sun et al. (TBFENet), tables 1 to 4. They were measured with other machines, data and image
sizes than ours, so they are shown beside our numbers and never ranked with them.
"""

from __future__ import annotations

PAPER_1 = "Paper 1: Cityscapes val, 1024 × 2048, RTX 4070 Ti, 40 000 iterations"
PAPER_3_CAMVID = "Paper 3: CamVid test, RTX 2080 Ti, size as stated"
PAPER_3_AVERAGES = (
    "Some averages that paper 3 prints below this table differ from the averages of its cells: "
    "75.1 is printed and 73.1 computed for TBFENet, 71.5 and 71.0 for DFANet, 58.3 and 57.7 for "
    "ENet"
)
PAPER_3_CITYSCAPES = "Paper 3: Cityscapes test, RTX 2080 Ti, size as stated"

Row = dict[str, float | str]


def _rows(columns: tuple[str, ...], *rows: tuple[float | str | None, ...]) -> list[Row]:
    return [
        {name: cell for name, cell in zip(columns, row, strict=True) if cell is not None}
        for row in rows
    ]


PARAMS, MIOU, MACS, LATENCY = "Parameters (M)", "mIoU (%)", "MACs (G)", "Latency (ms)"
SIZE, SPEED, RATIO, CLASS = "Input size", "Speed (1/s)", "Pruning ratio", "Class"
BEFORE, AFTER = "mIoU before (%)", "mIoU after (%)"
NETWORK = "Network"

NETWORKS_1 = _rows(
    (NETWORK, PARAMS, MIOU, MACS, LATENCY),
    ("LRASPP", 3.21, 69.54, 18.49, 36.81),
    ("BiSeNetV2", 3.36, 73.21, 98.86, 45.42),
    ("ICNet ResNet-50", 47.53, 73.82, 122.00, 76.22),
    ("Fast-SCNN", 1.40, 70.96, 7.48, 25.82),
    ("CGNet", 0.50, 68.27, 27.73, 49.19),
    ("Dual-branch", 40.96, 76.77, 497.00, 144.11),
)
RATIOS_1 = _rows(
    (RATIO, PARAMS, MIOU, MACS, LATENCY),
    (0.0, 40.96, 75.8, 497.00, 144.11),
    (0.2, 26.21, 75.5, 316.12, 107.69),
    (0.3, 20.07, 76.0, 249.16, 96.23),
    (0.4, 14.74, 75.5, 185.93, 83.75),
    (0.5, 10.26, 75.3, 133.49, 64.16),
    (0.6, 6.54, 74.6, 88.08, 57.02),
    (0.7, 3.67, 67.4, 53.37, 44.16),
)
DISTILLATION_1 = _rows(
    (RATIO, PARAMS, BEFORE, AFTER, LATENCY),
    (0.4, 14.74, 75.5, 76.3, 83.75),
    (0.5, 10.26, 75.3, 76.3, 64.16),
    (0.6, 6.54, 74.6, 75.8, 57.02),
)
ABLATION_3 = _rows(
    (NETWORK, PARAMS, MIOU),
    ("Semantic branch", 0.8729, 68.27),
    ("+ channel attention", 0.8731, 68.95),
    ("+ spatial branch, added", 0.9032, 69.12),
    ("+ spatial branch, concatenated", 0.9056, 69.56),
    ("+ spatial branch, FFM", 0.9050, 70.13),
    ("+ spatial attention", 0.9051, 70.58),
    ("dilations 1,1,2,1,2,2,5,7,9,17", 0.5286, 65.75),
    ("dilations 1,1,2,2,5,1,1,2,2,4,4,8,8,16,16", 0.9047, 70.16),
    ("TBFENet", 0.9051, 70.58),
)
CAMVID_3 = _rows(
    (NETWORK, SIZE, PARAMS, MACS, SPEED, MIOU),
    ("ENet", "360 × 480", 0.36, 3.8, 103, 51.3),
    ("SegNet", "360 × 480", 29.50, 286, 37, 55.6),
    ("SwiftNet", "720 × 960", 11.80, 104, 31, 62.2),
    ("DFANet", "720 × 960", 7.80, 3.4, 121, 63.9),
    ("ICNet ResNet-50", "720 × 960", 26.50, 28.3, 29, 64.2),
    ("EDANet", "360 × 480", 0.68, None, 81, 65.7),
    ("BiSeNet", "720 × 960", 5.80, 14.8, 89, 65.9),
    ("DABNet", "360 × 480", 0.76, 10.5, 27, 66.5),
    ("LEDNet", "360 × 480", 0.95, None, 75, 67.1),
    ("BiSeNetV2", "720 × 960", 49.00, 55.3, 103, 69.3),
    ("TBFENet", "360 × 480", 0.91, 9.3, 107, 70.5),
)
CITYSCAPES_3 = _rows(
    (NETWORK, SIZE, PARAMS, SPEED, MIOU),
    ("SegNet", "640 × 360", 29.50, 17, 56.5),
    ("ENet", "512 × 1024", 0.36, 98, 58.3),
    ("ESPNet", "512 × 1024", 0.36, 113, 60.2),
    ("CGNet", "360 × 640", 0.50, 50, 64.3),
    ("NDNet", "1024 × 2048", 0.50, 40, 65.1),
    ("EDANet", "512 × 1024", 0.68, 81, 66.7),
    ("ERFNet", "512 × 1024", 2.10, 42, 67.5),
    ("Fast-SCNN", "1024 × 2048", 1.11, 120, 68.0),
    ("BiSeNet", "768 × 1536", 5.80, 106, 68.4),
    ("ICNet ResNet-50", "1024 × 2048", 26.50, 30, 69.5),
    ("DABNet", "1024 × 2048", 0.80, 28, 70.1),
    ("LEDNet", "512 × 1024", 0.90, 52, 70.3),
    ("MSCFNet", "512 × 1024", 1.15, 50, 70.9),
    ("DFANet", "512 × 1024", 7.80, 108, 71.5),
    ("BiSeNetV2", "512 × 1024", 3.40, 126, 73.3),
    ("TBFENet", "512 × 1024", 0.91, 97, 75.1),
)
CLASSES_3 = _rows(
    (CLASS, "SegNet", "ENet", "ESPNet", "ERFNet", "ICNet ResNet-50", "DABNet", "LEDNet", "DFANet",
     "TBFENet"),
    ("road", 96.4, 96.3, 97, 97.7, 97.1, 97.9, 98.1, 98.1, 98.9),
    ("sky", 91.8, 90.6, 92.6, 94.2, 93.5, 92.8, 94.9, 94.9, 95.5),
    ("car", 89.3, 90.6, 92.3, 92.8, 92.6, 93.7, 90.9, 94.3, 95.3),
    ("vegetation", 87, 88.6, 90.8, 91.4, 91.5, 91.8, 92.6, 92.4, 93.5),
    ("building", 84, 75, 76.2, 89.8, 89.7, 90.6, 91.6, 91.6, 92.4),
    ("sidewalk", 73.2, 74.2, 77.5, 81, 79.2, 82, 79.5, 83.1, 84),
    ("person", 62.8, 65.5, 67, 76.8, 74.6, 78.1, 76.2, 80.4, 83.9),
    ("bus", 43.1, 50.5, 52.5, 60.1, 72.7, 63.7, 64, 60.9, 67.3),
    ("traffic sign", 45.1, 44, 46.3, 65.3, 63.4, 67.7, 72.8, 71.4, 72.6),
    ("bicycle", 51.9, 55.4, 57.2, 61.7, 70.5, 66.8, 71.6, 67.7, 71.4),
    ("terrain", 63.8, 61.4, 63.2, 68.2, 68.3, 70.1, 61.2, 69.7, 71.4),
    ("traffic light", 39.8, 34.1, 35.6, 59.8, 60.4, 63.5, 61.3, 67.2, 68.3),
    ("rider", 42.8, 38.4, 40.9, 57.1, 56.1, 57.8, 53.7, 61.1, 63.9),
    ("pole", 35.7, 43.4, 45, 56.3, 61.5, 59.3, 62.8, 62.6, 62.4),
    ("train", 44.1, 48.1, 50.1, 51.8, 51.3, 56, 52.7, 52.5, 53.1),
    ("motorcycle", 35.8, 38.8, 41.8, 47.3, 53.6, 51.3, 44.4, 55.3, 58.8),
    ("wall", 28.4, 32.2, 35, 42.5, 43.2, 45.5, 47.7, 45.4, 50.2),
    ("fence", 29, 33.2, 36.1, 48, 48.9, 50.1, 49.9, 50.6, 53.7),
    ("truck", 38.1, 36.9, 38.1, 50.8, 51.3, 52.8, 64.4, 50, 52.1),
)  # fmt: skip

LABELS = {
    "lraspp_mobilenet_v3_large": "LRASPP",
    "bisenetv2": "BiSeNetV2",
    "bisenet_resnet18": "BiSeNet",
    "icnet_resnet50": "ICNet ResNet-50",
    "fast_scnn": "Fast-SCNN",
    "cgnet": "CGNet",
    "dual_branch": "Dual-branch",
    "enet": "ENet",
    "segnet": "SegNet",
    "swiftnet_resnet18": "SwiftNet",
    "dfanet": "DFANet",
    "edanet": "EDANet",
    "dabnet": "DABNet",
    "lednet": "LEDNet",
    "tbfenet": "TBFENet",
    "espnet": "ESPNet",
    "ndnet": "NDNet",
    "erfnet": "ERFNet",
    "mscfnet": "MSCFNet",
    "deeplabv3plus": "DeepLabV3+",
}
"""Name of a network in this project -> its name in the tables."""

SAME_CLASS = {"tree": "vegetation", "pavement": "sidewalk", "pedestrian": "person",
              "sign": "traffic sign", "bicyclist": "bicycle"}  # fmt: skip
"""Class of CamVid -> the most similar class of Cityscapes."""
