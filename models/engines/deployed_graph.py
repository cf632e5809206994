"""The ONNX bytes that an engine times: a network as it is deployed, from uint8 images on."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.deployment.graph import DeployedGraph
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.onnx_graph import ExportError, translate
from models.engines.settings import DTYPES, EngineError, EngineSettings
from models.normalization import Normalization

# Any values: what they are changes no latency.
NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class InOtherNumbers(nn.Module):
    """A network that takes and returns float32 and computes in other numbers.

    Args:
        model: The network.
        dtype: Of its computation.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) float32 to logits in float32."""
        logits: Tensor = self.model(images.to(self.dtype))
        return logits.float()


def translate_for_engine(
    model: nn.Module,
    input_shape: tuple[int, int, int, int],
    settings: EngineSettings,
    *,
    is_typed: bool = False,
) -> bytes:
    """Translate a copy of a network to ONNX for uint8 images of one size, which it normalises.

    Args:
        model: Left untouched.
        input_shape: (N, 3, H, W).
        settings: Whether BatchNorms are folded, and the numbers that are computed in.
        is_typed: Whether the file itself states these numbers; else it is in float32 and the engine
            chooses.

    Raises:
        EngineError: The network cannot be translated or folded.
    """
    network = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format).eval()
    try:
        if settings.fold_batchnorm:
            fold_batchnorms(network, torch.randn(input_shape))
        if is_typed and settings.dtype != DTYPES[0]:
            network = InOtherNumbers(network, getattr(torch, settings.dtype))
        opset = 18 if is_typed and settings.dtype == "bfloat16" else 17
        whole = DeployedGraph(network, NORMALIZATION, input_shape[2:]).eval()
        images = torch.zeros(input_shape, dtype=torch.uint8)
        return translate(whole, images, opset).content
    except (ExportError, RuntimeError) as error:
        raise EngineError(f"the network cannot be made ready: {error}") from error
