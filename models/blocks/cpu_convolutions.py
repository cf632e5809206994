"""Convolutions that train correctly and fast on a CPU, where PyTorch's own do not.

oneDNN has fast backward kernels only for undilated depthwise convolutions, and its kernel for
dilated convolutions is wrong in bfloat16. Autograd is slow where a padded map is cropped again,
because the memory is strided. The layers here compute the same values with operations that are
correct and fast. They are used only for training on a CPU: inference, GPUs, tracing and export use
PyTorch's own layers.
"""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F


def use_cpu_convolutions(model: nn.Module) -> None:
    """Switch the layers of a network to the classes of this module where one applies, in place.

    Parameters, names and hooks stay as they are, and outputs stay equal up to rounding.

    Args:
        model: Any network; subclasses of PyTorch's or timm's layers are left as they are.
    """
    for module in model.modules():
        if type(module) is Conv2dSame:
            module.__class__ = SamePaddedConv2d
        elif type(module) is nn.Conv2d and _is_dilated_depthwise(module):
            module.__class__ = DilatedDepthwiseConv2d
        elif type(module) is nn.Conv2d and module.dilation[0] > 1:
            module.__class__ = DilatedConv2d


class SamePaddedConv2d(Conv2dSame):
    """TensorFlow's "same" padding (asymmetric at stride 2) without a padded copy of the map.

    Instead of padding the map asymmetrically, it prepends a zero row and column to the kernel and
    pads the map by one more on every side, which gives the same sums. The kernel is small and the
    map is large, and the gradient of the map stays contiguous.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Compute (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
        if not _trains_on_cpu(self, images) or self.dilation != (1, 1):
            return super().forward(images)  # type: ignore[no-any-return, no-untyped-call]
        before, uneven = [], []
        for length, size, stride in zip(
            images.shape[-2:], self.kernel_size, self.stride, strict=True
        ):
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            uneven.append(total % 2)
            before.append(total // 2 + total % 2)
        weight = self.weight
        if any(uneven):
            weight = F.pad(weight, (uneven[1], 0, uneven[0], 0))
        return F.conv2d(images, weight, self.bias, self.stride, before, 1, self.groups)


class DilatedConv2d(nn.Conv2d):
    """A dilated convolution whose weight gradient is right in bfloat16 too.

    In channels_last, oneDNN sums uninitialised memory when a layer has more than 16 input channels
    and their number is not a multiple of 16; the gradient is then NaN or silently wrong. Pruning
    makes such layers. Their maps are copied into contiguous memory, where the gradient is right.
    (torch 2.15 on AVX512-BF16: this explains all 913 wrong gradients among 12 716 random
    convolutions.)
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if not (
            _trains_on_cpu(self, input)
            and (self.groups > 1 or (self.in_channels > 16 and self.in_channels % 16))
            and (input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        ):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        # clone() rather than contiguous(): the strides of a depthwise kernel fit both formats.
        weight = weight.clone(memory_format=torch.contiguous_format)
        output: Tensor = super()._conv_forward(input.contiguous(), weight, bias)
        if input.is_contiguous(memory_format=torch.channels_last):
            output = output.contiguous(memory_format=torch.channels_last)
        return output


class DilatedDepthwiseConv2d(DilatedConv2d):
    """A dilated depthwise convolution, computed as an undilated one on the d x d interleaved maps.

    Source: Yu and Koltun, https://arxiv.org/abs/1511.07122 (dilation); Chen et al.,
        https://arxiv.org/abs/1706.05587, section 3 (the same convolution on a coarser grid).
        TensorFlow does the same (space_to_batch).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  PyTorch's name
        """Compute (N, C, H, W) -> (N, C, H, W)."""
        if (
            not _trains_on_cpu(self, input)
            or any(
                -(-length // dilation) < size  # oneDNN is slow where the kernel exceeds the map
                for length, size, dilation in zip(
                    input.shape[-2:], self.kernel_size, self.dilation, strict=True
                )
            )
        ):
            return super().forward(input)
        batch, channels, height, width = input.shape
        down, right = self.dilation
        padded = F.pad(input, (0, -width % right, 0, -height % down))
        rows, columns = padded.shape[-2] // down, padded.shape[-1] // right
        maps = (
            padded.permute(0, 2, 3, 1)  # channels last, so that channels are moved together
            .reshape(batch, rows, down, columns, right, channels)
            .permute(2, 4, 0, 1, 3, 5)
            .reshape(down * right * batch, rows, columns, channels)
            .permute(0, 3, 1, 2)
        )
        padding = [size // 2 for size in self.kernel_size]
        maps = F.conv2d(maps, self.weight, self.bias, 1, padding, 1, self.groups)
        return (
            maps.permute(0, 2, 3, 1)
            .reshape(down, right, batch, rows, columns, channels)
            .permute(2, 3, 0, 4, 1, 5)
            .reshape(batch, rows * down, columns * right, channels)
            .permute(0, 3, 1, 2)[..., :height, :width]
            .contiguous(memory_format=torch.channels_last)
        )


def _trains_on_cpu(module: nn.Module, images: Tensor) -> bool:
    return module.training and images.device.type == "cpu" and torch.is_grad_enabled()


def _is_dilated_depthwise(layer: nn.Conv2d) -> bool:
    evenly_padded = tuple(
        dilation * (size // 2)
        for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
    )
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.stride == (1, 1)
        and layer.dilation != (1, 1)
        and layer.padding == evenly_padded
        and layer.padding_mode == "zeros"
        and all(size % 2 for size in layer.kernel_size)
    )
