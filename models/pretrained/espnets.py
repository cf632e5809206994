"""Tensor names of S. Mehta's checkpoints (sacmehta/ESPNet and copies of it, sacmehta/EdgeNets)."""

from __future__ import annotations

import re

from models.blocks.channel_layers import ChannelSum
from models.networks.espnetv2 import POOLING_SCALES
from models.pretrained.renaming import Rewrites, Tensors, drop, rename, split

_ESPNET: Rewrites = (
    (r"^encoder\.classifier\.", "classifier_1."),
    (r"^encoder\.", ""),
    (r"\bc1\.conv\.", "reduce."),
    (r"\bd1\.conv\.", "undilated."),
    (r"\bd2\.conv\.", "dilated.0."),
    (r"\bd4\.conv\.", "dilated.1."),
    (r"\bd8\.conv\.", "dilated.2."),
    (r"\bd16\.conv\.", "dilated.3."),
    (r"^(level[23]_0)\.(bn|act)\.", r"\1.norm.\2."),
    (r"\.bn\.(bn|act)\.", r".norm.\1."),
    (r"^(level1|conv)\.conv\.", r"\1.0."),
    (r"^(level1|conv)\.bn\.", r"\1.1."),
    (r"^(level1|conv)\.act\.", r"\1.2."),
    (r"\.bn\.", ".0."),
    (r"\.act\.", ".1."),
    (r"^(level[23])_0\.", r"\1_down."),
    (r"^b([123])\.", r"level\1_norm."),
    (r"^classifier_1\.conv\.", "level3_project.0."),
    (r"^br\.", "level3_project.1."),
    (r"^up_l3\.0\.", "level3_up."),
    (r"^level3_C\.conv\.", "level2_project."),
    (r"^combine_l2_l3\.", "level2_merge."),
    (r"^up_l2\.", "level2_up."),
    (r"^conv\.", "level1_merge."),
)

_ESPNETV2: Rewrites = (
    (r"^base_net\.", ""),
    (r"\.(proj_1x1|conv_1x1_exp|inp_reinf\.\d)\.conv\.", r".\1.0."),
    (r"\.(proj_1x1|conv_1x1_exp|inp_reinf\.\d)\.bn\.", r".\1.1."),
    (r"\.(proj_1x1|inp_reinf\.\d)\.act\.", r".\1.2."),
    (r"^level1\.conv\.", "level1.0."),
    (r"^level1\.bn\.", "level1.1."),
    (r"^level1\.act\.", "level1.2."),
    (r"\.br_after_cat\.bn\.", ".br_after_cat.0."),
    (r"\.br_after_cat\.act\.", ".br_after_cat.1."),
    (r"\.module_act\.", ".act."),
    (r"^(level[34]\.\d)\.(?!act\.)", r"\1.eesp."),
    (r"^(level[234])_0\.", r"\1_down."),
    (r"\.proj_1x1\.", ".reduce."),
    (r"\.spp_dw\.(\d)\.conv\.", r".views.\1."),
    (r"\.br_after_cat\.", ".norm."),
    (r"\.conv_1x1_exp\.", ".expand."),
    (r"\.inp_reinf\.", ".reinforce."),
    (r"^bu_dec_l1\.br\.br\.", "pyramid4.1."),
    (r"^bu_dec_l2\.br\.br\.", "pyramid3.1."),
    (r"^bu_dec_l3\.br\.br\.", "pyramid2.1."),
    (r"^bu_dec_l1\.", "pyramid4.0."),
    (r"^bu_dec_l2\.", "pyramid3.0."),
    (r"^bu_dec_l3\.", "pyramid2.0."),
    (r"^bu_dec_l4\.", "pyramid1."),
    (r"\.projection_layer\.cbr\.", ".reduce."),
    (r"\.stages\.", ".views."),
    (r"\.merge_layer\.2\.cbr\.1\.", ".norm.0."),
    (r"\.merge_layer\.2\.cbr\.2\.", ".norm.1."),
    (r"\.merge_layer\.3\.", ".project."),
    (r"^merge_enc_dec_l2\.", "merge3."),
    (r"^merge_enc_dec_l3\.", "merge2."),
    (r"^merge_enc_dec_l4\.", "merge1."),
    (r"\.expansion_layer\.cbr\.", ".expand."),
    (r"\.wt_layer\.1\.", ".weigh."),
    (r"^bu_br_l2\.", "merge3.norm."),
    (r"^bu_br_l3\.", "merge2.norm."),
    (r"^bu_br_l4\.", "merge1.norm."),
)


def convert_espnet(tensors: Tensors) -> Tensors:
    """Rename the tensors of an ESPNet to our names, with or without an "encoder." prefix."""
    return rename(tensors, _ESPNET)


def convert_espnetv2(tensors: Tensors) -> Tensors:
    """Rename the tensors of an ESPNetv2 to our names.

    The BatchNorm and the grouped convolution over five shuffled maps are split into five of each,
    and the PReLU that the strided units never apply is left out. A grouped convolution with several
    inputs per output becomes a depthwise one and a sum.
    """
    views = range(len(POOLING_SCALES))
    tensors = drop(tensors, (r"^base_net\.level\d_0\.eesp\.module_act\.",))
    tensors = split(tensors, r"merge_layer\.0\.br\.", [f"norms.{i}." for i in views])
    tensors = split(tensors, r"merge_layer\.2\.cbr\.0\.", [f"fuse.{i}." for i in views], dim=1)
    return _sum_depthwise(rename(tensors, _ESPNETV2))


def _sum_depthwise(tensors: Tensors) -> Tensors:
    """Rewrite the grouped convolutions that `espnetv2.EfficientMerge` writes as sums."""
    rewritten: Tensors = {}
    for name, weight in tensors.items():
        rewritten[name] = weight
        merge = re.fullmatch(r"(merge\d\.)expand\.0\.weight", name)
        if not merge:
            continue
        in_channels = tensors[f"{merge[1]}weigh.weight"].shape[1]
        out_channels, run = weight.shape[:2]
        if run > 1 and out_channels * run == in_channels:
            del rewritten[name]
            rewritten[f"{merge[1]}expand.0.0.weight"] = weight.reshape(-1, 1, *weight.shape[2:])
            owners = ChannelSum(in_channels, out_channels).owners
            rewritten[f"{merge[1]}expand.0.1.owners"] = owners
    return rewritten
