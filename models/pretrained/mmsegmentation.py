"""Tensor names of mmsegmentation's checkpoints, for networks that are the same as ours."""

from __future__ import annotations

import re

import torch

from models.pretrained.renaming import Rewrites, Tensors, rename

_CONV_MODULE: Rewrites = ((r"\.conv\.", ".0."), (r"\.bn\.", ".1."))
_FCN_HEADS: Rewrites = (
    (r"^decode_head\.convs\.0\.", "head.0."),
    (r"^decode_head\.conv_seg\.", "head.2."),
    (r"^auxiliary_head\.(\d+)\.convs\.0\.", r"auxiliary_heads.\1.0."),
    (r"^auxiliary_head\.(\d+)\.conv_seg\.", r"auxiliary_heads.\1.2."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary_head.0."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary_head.2."),
)
_PSPNET: Rewrites = (
    (r"^backbone\.stem\.([0-6])\.", r"backbone.model.conv1.\1."),
    (r"^backbone\.stem\.7\.", "backbone.model.bn1."),
    (r"^backbone\.(conv1|bn1|layer\d)\.", r"backbone.model.\1."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"pyramid.branches.\1."),
    (r"^decode_head\.bottleneck\.", "head.0."),
)
_BISENETV2: Rewrites = (
    (r"^backbone\.detail\.detail_branch\.0\.(\d)\.", r"detail.\1."),
    (r"^backbone\.detail\.detail_branch\.1\.0\.", "detail.2."),
    (r"^backbone\.detail\.detail_branch\.1\.1\.", "detail.3."),
    (r"^backbone\.detail\.detail_branch\.1\.2\.", "detail.4."),
    (r"^backbone\.detail\.detail_branch\.2\.0\.", "detail.5."),
    (r"^backbone\.detail\.detail_branch\.2\.1\.", "detail.6."),
    (r"^backbone\.detail\.detail_branch\.2\.2\.", "detail.7."),
    (r"^backbone\.semantic\.stage1\.conv_first\.", "stem.first."),
    (r"^backbone\.semantic\.stage1\.convs\.", "stem.convolved."),
    (r"^backbone\.semantic\.stage1\.fuse_last\.", "stem.fuse."),
    (r"^backbone\.semantic\.stage4_CEBlock\.gap\.1\.", "context.norm."),
    (r"^backbone\.semantic\.stage4_CEBlock\.conv_gap\.", "context.project."),
    (r"^backbone\.semantic\.stage4_CEBlock\.conv_last\.", "context.mix."),
    (r"^backbone\.semantic\.stage2\.", "semantic.0."),
    (r"^backbone\.semantic\.stage3\.", "semantic.1."),
    (r"^backbone\.semantic\.stage4\.", "semantic.2."),
    (r"^(semantic\.\d\.\d)\.conv1\.", r"\1.gather."),
    (r"^(semantic\.\d\.\d)\.dwconv\.", r"\1.depthwise."),
    (r"^(semantic\.\d\.\d)\.conv2\.0\.", r"\1.project."),
    (r"^(semantic\.\d\.\d)\.shortcut\.0\.depthwise_conv\.", r"\1.shortcut.0."),
    (r"^(semantic\.\d\.\d)\.shortcut\.0\.pointwise_conv\.", r"\1.shortcut.1."),
    (r"^backbone\.bga\.", "aggregation."),
    (r"\.detail_dwconv\.0\.depthwise_conv\.", ".detail_keep."),
    (r"\.detail_dwconv\.0\.pointwise_conv\.conv\.", ".detail_keep.2."),
    (r"\.semantic_dwconv\.0\.depthwise_conv\.", ".semantic_keep."),
    (r"\.semantic_dwconv\.0\.pointwise_conv\.conv\.", ".semantic_keep.2."),
    (r"\.semantic_conv\.0\.", ".semantic_up."),
    (r"^aggregation\.conv\.(conv|bn)\.", r"aggregation.fuse.\1."),
)
_COPIES = 6
_EXPANDING = re.compile(r"^(backbone\.semantic\.stage\d\.\d)\.dwconv\.")
_EXPANDED = re.compile(r"^backbone\.semantic\.stage\d\.\d\.conv2\.0\.conv\.")


def convert_pspnet(tensors: Tensors) -> Tensors:
    """Rename the tensors of a PSPNet (resnet-d8; V1c's stem is timm's resnet*c) to our names."""
    return rename(tensors, (*_PSPNET, *_FCN_HEADS, *_CONV_MODULE))


def convert_bisenetv2(tensors: Tensors) -> Tensors:
    """Rename the tensors of a BiSeNetV2 to our names.

    mmsegmentation expands each channel to six adjacent ones by one convolution; we use six
    convolutions.
    """
    parted: Tensors = {}
    for name, tensor in tensors.items():
        if _EXPANDING.match(name):
            for copy in range(_COPIES):
                part = tensor[copy::_COPIES] if tensor.ndim else tensor
                parted[_EXPANDING.sub(rf"\1.dwconv.{copy}.", name)] = part
        elif _EXPANDED.match(name):
            copies = [tensor[:, copy::_COPIES] for copy in range(_COPIES)]
            parted[name] = torch.cat(copies, dim=1)
        else:
            parted[name] = tensor
    return rename(parted, (*_BISENETV2, *_FCN_HEADS, *_CONV_MODULE))
