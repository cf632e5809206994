"""The paper's own measurements, shown as reference marks beside ours.

Source: Chen Yujia, Ning Yuan, Tang Kunjun, Liunie Tianhe, "Lightweight dual-branch semantic
    segmentation algorithm based on model pruning and knowledge distillation", Intelligent Computer
    and Applications 16(2), 134-140, 2026, doi:10.20169/j.issn.2095-2163.24040903, tables 2 and 4.

They were made with another machine, data set and image size, so they are never ranked together with
ours: no front, hypervolume or table includes them.
"""

from __future__ import annotations

from typing import NamedTuple

CITATION = (
    "Chen, Ning, Tang, Liunie: Lightweight dual-branch semantic segmentation algorithm based on "
    "model pruning and knowledge distillation. Intelligent Computer and Applications 16(2), "
    "134–140, 2026, tables 2 and 4"
)
DOI = "10.20169/j.issn.2095-2163.24040903"
CONDITIONS = "Cityscapes val, 1024×2048, RTX 4070 Ti"


class PublishedPoint(NamedTuple):
    """One network as a paper reports it.

    Attributes:
        name: Name of the network, with its pruning ratio if it is pruned.
        values: Measures by the names that runs use: miou (0 to 1), latency_ms, num_params, macs.
    """

    name: str
    values: dict[str, float]


def _point(
    name: str, millions: float, percent: float, gmacs: float, latency_ms: float
) -> PublishedPoint:
    values = {
        "miou": percent / 100,
        "latency_ms": latency_ms,
        "num_params": millions * 1e6,
        "macs": gmacs * 1e9,
    }
    return PublishedPoint(name, values)


PUBLISHED = (
    _point("LRASPP MobileNetV3-L", 3.21, 69.54, 18.49, 36.81),
    _point("BiSeNetV2", 3.36, 73.21, 98.86, 45.42),
    _point("ICNet ResNet-50", 47.53, 73.82, 122.00, 76.22),
    _point("Fast-SCNN", 1.40, 70.96, 7.48, 25.82),
    _point("CGNet", 0.50, 68.27, 27.73, 49.19),
    _point("Dual-branch ResNet-50", 40.96, 76.77, 497.00, 144.11),
    _point("Dual-branch, p 0.4, distilled", 14.74, 76.3, 185.93, 83.75),
    _point("Dual-branch, p 0.5, distilled", 10.26, 76.3, 133.49, 64.16),
    _point("Dual-branch, p 0.6, distilled", 6.54, 75.8, 88.08, 57.02),
)
