"""The ONNX file that an engine times: a network as it is deployed, taking uint8 images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from models.deployment.graph import DeployedGraph
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.onnx_graph import translate
from models.engines.settings import DTYPES, EngineError, EngineSettings
from models.normalization import Normalization

# The values do not matter for the latency.
NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class InOtherNumbers(nn.Module):
    """A network that takes and returns float32 and computes in another dtype.

    Args:
        model: The network.
        dtype: Dtype of its computation.
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
    """Translate a copy of a network, with normalisation, to ONNX for uint8 images of one size.

    Args:
        model: Network, which is not changed.
        input_shape: Shape of the images, (N, 3, H, W).
        settings: Engine settings; `fold_batchnorm` and `dtype` are used.
        is_typed: Whether the file itself is written in `settings.dtype`; else it is in float32 and
            the engine converts it.

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
    except Exception as error:  # a user's network may raise any exception
        raise EngineError(f"the network cannot be translated for the engine: {error}") from error
