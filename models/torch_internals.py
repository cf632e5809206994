"""Names of PyTorch that this project uses although PyTorch does not promise to keep them.

No other file of the project imports a name of PyTorch's that begins with an underscore.
`tests/models/test_torch_internals.py` fails when a new version changes one of them, and names it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "LAYERS_THAT_TRAIN_DIFFERENTLY",
    "Operation",
    "TorchDispatchMode",
    "count_changes",
    "describe_operation",
    "tree_leaves",
    "tree_map_only",
]

LAYERS_THAT_TRAIN_DIFFERENTLY = (_NormBase, _DropoutNd)
"""Base classes of the layers that compute something else in training: norms and dropouts."""


class Operation(NamedTuple):
    """The signature of an operation of PyTorch.

    Attributes:
        name: Name without its namespace, such as "add".
        overload: Name of the overload, such as "Tensor"; "default" if it has none.
        arguments: Names of its arguments, in order.
    """

    name: str
    overload: str
    arguments: tuple[str, ...]


def describe_operation(func: Any) -> Operation:
    """Read the signature of an operation that a `TorchDispatchMode` received."""
    schema = func._schema
    arguments = tuple(argument.name for argument in schema.arguments)
    return Operation(schema.name.removeprefix("aten::"), func._overloadname, arguments)


def count_changes(tensor: Tensor) -> int:
    """Return a number that each operation in place on a tensor or its views increases.

    Always 0 for tensors that were made in inference mode, which do not count.
    """
    return 0 if tensor.is_inference() else int(tensor._version)
