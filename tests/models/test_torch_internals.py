"""What is not public in PyTorch is as `models/torch_internals.py` needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models import torch_internals as internals


def explain(name: str) -> str:
    return (
        f"PyTorch {torch.__version__} has changed {name}: adapt models/torch_internals.py, which "
        "alone uses it, or keep the older version by the bound in pyproject.toml"
    )


class Note(internals.TorchDispatchMode):
    """Notes every operation that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[internals.Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(internals.describe_operation(func))
        return func(*args, **(kwargs or {}))


def test_every_operation_is_seen_with_its_name_and_arguments() -> None:
    with Note() as note:
        torch.ones(2).add(torch.ones(2), alpha=2).mul_(3)
    expected = {
        "add": ("Tensor", ("self", "other", "alpha")),
        "mul_": ("Tensor", ("self", "other")),
    }
    found = {
        entry.name: (entry.overload, entry.arguments)
        for entry in note.operations
        if entry.name in expected
    }
    assert found == expected, explain("TorchDispatchMode or the schema of an operation")


def test_trees_are_walked_and_rebuilt() -> None:
    first, second = torch.ones(1), torch.zeros(1)
    tree = {"a": [first, 1], "b": (second,)}
    leaves = internals.tree_leaves(tree)
    assert [leaf for leaf in leaves if isinstance(leaf, Tensor)] == [first, second], explain(
        "tree_leaves"
    )
    doubled = internals.tree_map_only(Tensor, lambda tensor: tensor + 1, tree)
    assert doubled == {"a": [torch.full((1,), 2.0), 1], "b": (torch.ones(1),)}, explain(
        "tree_map_only"
    )


def test_layers_that_train_differently_share_these_classes() -> None:
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d)
    dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    for layer in (*norms, *dropouts):
        assert issubclass(layer, internals.LAYERS_THAT_TRAIN_DIFFERENTLY), explain(layer.__name__)
    assert not issubclass(nn.Conv2d, internals.LAYERS_THAT_TRAIN_DIFFERENTLY)


def test_operations_in_place_are_counted_on_views_too() -> None:
    with torch.inference_mode(), torch.inference_mode(mode=False):
        tensor = torch.ones(2)
        before = internals.count_changes(tensor)
        assert internals.count_changes(tensor.add(1)) == before, explain("Tensor._version")
        tensor[:1].relu_()
    assert internals.count_changes(tensor) > before, explain("Tensor._version")
    with torch.inference_mode():
        assert internals.count_changes(torch.ones(2)) == 0
