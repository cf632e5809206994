"""PyTorch's own compiler."""

from __future__ import annotations

import shutil
from typing import Any

from torch import nn

from models.engines.engine import Session
from models.engines.pytorch import PyTorch, PyTorchSession, prepare
from models.engines.settings import EngineError, EngineSettings


class TorchCompile(PyTorch):
    """Runs networks compiled by Inductor for images of one size."""

    name = "torch_compile"

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        super().check(settings)
        compilers = ("g++", "clang++", "c++")
        if settings.device_type == "cpu" and not any(map(shutil.which, compilers)):
            raise EngineError(
                f"torch_compile needs a C++ compiler on the path ({', '.join(compilers)}): "
                "install one, or choose onnxruntime"
            )

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        folded = ", BatchNorm folded" if settings.fold_batchnorm else ""
        return {**super().describe(settings), "graph_optimization": f"Inductor{folded}"}

    def build(
        self, model: nn.Module, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `Engine.build`; the network is compiled at the first run, which takes a minute."""
        self.check(settings)
        ready = prepare(model, input_shape, settings)
        ready.compile(dynamic=False)
        return PyTorchSession(ready, settings)
