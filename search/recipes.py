"""Recipes: each is a function that returns the full configuration of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models.pretrained
from search.config import StudyConfig
from search.space import make_space
from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.ranges import FloatRange

LITE0 = "tu-tf_efficientnet_lite0"
LITE0_WEIGHTS = "imagenet_backbones/efficientnet_lite0_timm.safetensors"
# The labels alone are hard to beat, and cwd_logits is the cheapest method that does
# (docs/distillers.md).
WORTHWHILE_DISTILLERS = ("none", "dkd", "cwd_logits")
# With the dual-branch paper's weights the labels are only a hundredth of the loss, which harms a
# short fine-tuning. So these recipes try the labels alone first, and search smaller weights for the
# teacher.
LABELS_FIRST: dict[str, Any] = {"distilled.distiller": "none", "sparse.sparsity_lambda": 1e-4}
SHORT_FINE_TUNING: dict[str, Any] = {
    "distiller": WORTHWHILE_DISTILLERS,
    "temperature": FloatRange(low=1.0, high=4.0),
    "beta": FloatRange(low=0.0, high=2.0),
}
STREETS_NETWORK = NetworkConfig(
    name="smp:Unet",
    kwargs={
        "encoder_name": "tu-tf_mobilenetv3_small_minimal_100",
        "encoder_weights": None,
        "decoder_channels": [48, 48, 48, 32, 32],
    },
)
STREETS_WEIGHTS = Path(models.pretrained.__file__).with_name("streets.safetensors")
# Without them, a fine-tuning forgets the rare classes first: 3.7 points of mIoU.
CLASS_WEIGHTS: dict[str, Any] = {"class_weighting": "enet", "class_weight_power": 0.35}
WHOLE_STREETS = AugmentationConfig(crop_size=(96, 192), scale_range=(0.9, 1.3))
CAMVID_OPTIMIZER = OptimizerConfig(
    name="adamw",
    lr=1e-3,
    weight_decay=0.01,
    schedule="one_cycle",
    warmup_fraction=0.1,
    backbone_lr_factor=0.5,
)
GPU_TEACHER = NetworkConfig(name="deeplabv3plus", backbone="resnet101", backbone_weights="imagenet")


def streets() -> StudyConfig:
    """A small search on built-in street scenes, trained from random weights: for trials of tools.

    It takes about 5 minutes on 2 CPU cores, in which no network becomes accurate.
    """
    optimizer = OptimizerConfig(
        name="adamw", lr=4e-3, weight_decay=0.01, schedule="one_cycle", warmup_fraction=0.1
    )
    training = TrainConfig(num_steps=210, batch_size=4, optimizer=optimizer)
    pipeline = PipelineConfig(
        data=DataConfig(
            name="synthetic",
            size=(96, 192),
            num_samples=160,
            augmentation=AugmentationConfig(crop_size=(96, 128), scale_range=(0.9, 1.2)),
        ),
        teacher=NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.5),
        student=NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.25),
        teacher_training=training,
        dense=training,
        sparse=replace(training, num_steps=60, optimizer=replace(optimizer, lr=1e-3)),
        distil=replace(training, num_steps=90),
        latency=LatencyConfig(max_seconds=2.0),
    )
    space = make_space(
        pruning_ratio=FloatRange(low=0.2, high=0.7, step=0.1),
        lr=FloatRange(low=1e-3, high=4e-3, log=True),
        **SHORT_FINE_TUNING,
    )
    first = {"distilled.lr": 3e-3, **LABELS_FIRST}
    return StudyConfig(
        recipe="streets",
        num_pipelines=12,
        stall_seconds=300.0,
        space=space,
        pipeline=pipeline,
        first_points=(first,),
    )


def quickstart() -> StudyConfig:
    """A small search on built-in street scenes: about 5 minutes on 2 CPU cores.

    It compresses a network that comes with the project, trained by the recipe `streets_network`,
    which also teaches the smaller ones.
    """
    base = streets()
    optimizer = replace(base.pipeline.distil.optimizer, lr=5e-4)
    training = replace(base.pipeline.distil, num_steps=320, optimizer=optimizer, **CLASS_WEIGHTS)
    pipeline = replace(
        base.pipeline,
        data=replace(base.pipeline.data, num_samples=600, augmentation=WHOLE_STREETS),
        student=replace(STREETS_NETWORK, weights=str(STREETS_WEIGHTS)),
        self_teaching=True,
        sparse=replace(training, num_steps=20),
        distil=training,
    )
    space = make_space(
        pruning_ratio=FloatRange(low=0.1, high=0.4, step=0.1),
        scope=("global_macs",),
        importance=("taylor",),
        round_to=(16,),  # the width of AVX-512, to which an engine pads
        lr=FloatRange(low=5e-4, high=4e-3, log=True),
        **SHORT_FINE_TUNING,
    )
    pruned = {"pruning_ratio": 0.1, "scope": "global_macs", "importance": "taylor", "round_to": 16}
    first = {
        **{f"pruned.{name}": value for name, value in pruned.items()},
        "distilled.lr": 2e-3,
        **LABELS_FIRST,
    }
    return replace(
        base,
        recipe="quickstart",
        num_pipelines=5,
        space=space,
        pipeline=pipeline,
        first_points=(first,),
    )


def streets_network() -> StudyConfig:
    """Trains the network of `quickstart`: half an hour on 2 cores with AMX, else over an hour.

    `python -m models.halve RUN_DIR/stages/dense-KEY/checkpoint.safetensors FILE` then stores it.
    """
    base = streets()
    pipeline = replace(
        base.pipeline,
        data=replace(base.pipeline.data, num_samples=3200, augmentation=WHOLE_STREETS),
        student=STREETS_NETWORK,
        self_teaching=True,
        dense=TrainConfig(
            num_steps=9000,
            batch_size=8,
            optimizer=base.pipeline.dense.optimizer,
            **CLASS_WEIGHTS,
        ),
        chain=("dense", "latency"),
    )
    return StudyConfig(recipe="streets_network", num_pipelines=1, pipeline=pipeline)


def camvid() -> StudyConfig:
    """Trains an accurate network on CamVid and compresses it: about an hour on 2 CPU cores.

    The network is DeepLabV3+ with an EfficientNet-Lite0 backbone. The backbone's ImageNet weights
    are read from $SEGFRONT_WEIGHTS if that folder has them, and downloaded otherwise. With
    --student and --student-weights, your own network is compressed instead. The data are CamVid
    (--data-root or --download).
    """
    training = TrainConfig(
        num_steps=2200,
        batch_size=4,
        optimizer=CAMVID_OPTIMIZER,
        **CLASS_WEIGHTS,
        batchnorm_batches=8,  # BatchNorm statistics of crops do not suit whole images
    )
    tuning = replace(training, num_steps=240, optimizer=replace(CAMVID_OPTIMIZER, lr=2e-4))
    pipeline = PipelineConfig(
        data=DataConfig(
            name="camvid",
            augmentation=AugmentationConfig(crop_size=(240, 320), scale_range=(0.75, 1.5)),
        ),
        student=NetworkConfig(
            name="deeplabv3plus",
            backbone=LITE0,
            backbone_weights=_local_or_downloaded(LITE0_WEIGHTS),
            decoder_channels=128,
        ),
        self_teaching=True,
        dense=training,
        sparse=replace(tuning, num_steps=60),
        distil=tuning,
        latency=LatencyConfig(max_seconds=5.0),
    )
    space = make_space(
        sparsity_lambda=(1e-6, 1e-5),  # 1e-4 costs 3 points in 60 steps (docs/results.md)
        pruning_ratio=FloatRange(low=0.45, high=0.9, step=0.05),
        scope=("global",),
        importance=("taylor",),
        round_to=(8,),  # on a CPU, other channel counts cost more time than they save
        lr=FloatRange(low=3e-4, high=3e-3, log=True),
        **SHORT_FINE_TUNING,
    )
    pruned = {"pruning_ratio": 0.55, "scope": "global", "importance": "taylor", "round_to": 8}
    first = {
        **{f"pruned.{name}": value for name, value in pruned.items()},
        **LABELS_FIRST,
        "sparse.sparsity_lambda": 1e-5,
        "distilled.lr": 1e-3,
    }
    return StudyConfig(
        recipe="camvid", num_pipelines=14, space=space, pipeline=pipeline, first_points=(first,)
    )


def papers_camvid() -> StudyConfig:
    """The papers' tables at small scale: networks, ratios, distillation; on 2 CPU cores.

    `python -m analysis.papers RUN_DIR` writes the tables and figures of papers 1 and 3 from it.
    Nine of the networks that the papers compare are trained in the same way. The dual-branch
    network is pruned at paper 1's ratios: without a teacher at each of them (its table 3), and also
    with DKD and the paper's weights at 0.4 to 0.6 (its table 4). The data are CamVid at 192 x 256
    (--data-root or --download).
    """
    base = camvid()
    accurate = base.pipeline.student
    names = (
        "lraspp_mobilenet_v3_large", "bisenetv2", "icnet_resnet50", "fast_scnn", "cgnet",  # paper 1
        "enet", "dabnet", "lednet", "tbfenet",  # paper 3
    )  # fmt: skip
    students = {name: NetworkConfig(name=name) for name in names}
    small = NetworkConfig(
        name="dual_branch",
        backbone=LITE0,
        backbone_weights=accurate.backbone_weights,
        width=0.25,
        output_stride=16,
    )
    training = replace(
        base.pipeline.dense, num_steps=360, class_weight_power=0.5, batchnorm_batches=0
    )
    pipeline = replace(
        base.pipeline,
        data=DataConfig(
            name="camvid",
            size=(192, 256),
            augmentation=AugmentationConfig(crop_size=(192, 256), scale_range=(0.75, 1.5)),
        ),
        teacher=accurate,
        student=small,
        self_teaching=False,
        students={"dual_branch": small, **students},
        # A long training learns the rare classes with less weight on them.
        teacher_training=replace(training, num_steps=900, class_weight_power=0.35),
        dense=training,
        sparse=replace(training, num_steps=100, optimizer=replace(CAMVID_OPTIMIZER, lr=5e-4)),
        distil=replace(training, num_steps=130),
        latency=LatencyConfig(max_seconds=3.0),
    )
    space = make_space(
        student=("dual_branch",),
        sparsity_lambda=(1e-5,),
        pruning_ratio=FloatRange(low=0.2, high=0.7, step=0.1),
        scope=("local",),
        round_to=(1,),
        distiller=("none", "dkd"),
        lr=FloatRange(low=5e-4, high=3e-3, log=True),
    )
    fixed = {"dense.student": "dual_branch", "sparse.sparsity_lambda": 1e-5, "distilled.lr": 1e-3}
    weights = {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "eta": 1.0}
    dkd = {f"distilled.dkd.{name}": value for name, value in weights.items()}
    plain = [
        {**fixed, "pruned.pruning_ratio": ratio, "distilled.distiller": "none"}
        for ratio in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ]
    taught = [
        {**fixed, "pruned.pruning_ratio": ratio, "distilled.distiller": "dkd", **dkd}
        for ratio in (0.4, 0.5, 0.6)
    ]
    return StudyConfig(
        recipe="papers_camvid",
        num_pipelines=len(plain) + len(taught),
        stop_hopeless=False,  # the tables need every row, dominated or not
        continuation=False,  # the paper prunes the same network at every ratio
        space=space,
        pipeline=pipeline,
        first_points=(*plain, *taught),
    )


def camvid_tbfenet() -> StudyConfig:
    """TBFENet on CamVid as in its paper: full images, Adam, 400 epochs, for a GPU (--data-root).

    Source: paper 3 (TBFENet), section 2.1: Adam, learning rate 1e-3, weight decay 2e-4, batches of
        8, poly schedule, cross-entropy.
    Differs: the paper does not state the number of epochs and has no teacher; both are our choice.
    """
    optimizer = OptimizerConfig(
        name="adam", lr=1e-3, weight_decay=2e-4, schedule="poly", max_grad_norm=None
    )
    training = TrainConfig(num_steps=18_400, batch_size=8, optimizer=optimizer)
    pipeline = PipelineConfig(
        data=DataConfig(
            name="camvid",
            augmentation=AugmentationConfig(crop_size=(360, 480), scale_range=(0.5, 2.0)),
        ),
        teacher=GPU_TEACHER,
        student=NetworkConfig(name="tbfenet"),
        teacher_training=replace(training, optimizer=replace(optimizer, backbone_lr_factor=0.1)),
        dense=training,
        sparse=replace(training, num_steps=4_600),
        distil=training,
    )
    return StudyConfig(
        recipe="camvid_tbfenet",
        num_pipelines=40,
        checkpoint_seconds=120.0,
        rungs=(0.25,),
        space=make_space(
            distiller=WORTHWHILE_DISTILLERS, lr=FloatRange(low=3e-4, high=3e-3, log=True)
        ),
        pipeline=pipeline,
        first_points=({"distilled.distiller": "none", "distilled.lr": 1e-3},),
    )


def camvid_road() -> StudyConfig:
    """Real-time road scenes as in paper 4: a light network learns logits and features; for a GPU.

    Source: paper 4 (Li et al. 2023), abstract: the asymmetric pyramid with coordinate attention is
        distilled from an accurate network that is not real-time.
    Differs: the abstract does not state the teacher, the loss or the number of steps; these are our
        choice (docs/distillers.md).
    """
    base = camvid_tbfenet()
    pipeline = replace(
        base.pipeline,
        student=NetworkConfig(name="asymmetric_pyramid", backbone_weights="imagenet"),
    )
    space = make_space(
        pruning_ratio=FloatRange(low=0.1, high=0.6, step=0.1),
        distiller=("kd+cwd_features", "kd"),
        lr=FloatRange(low=3e-4, high=3e-3, log=True),
    )
    return replace(
        base,
        recipe="camvid_road",
        space=space,
        pipeline=pipeline,
        first_points=({"distilled.distiller": "kd+cwd_features", "distilled.lr": 1e-3},),
    )


def cityscapes() -> StudyConfig:
    """Cityscapes as in the dual-branch paper: 40 000 iterations a stage, for GPUs (--data-root).

    Source: Chen et al. 2026, section 2; mmsegmentation's schedule_40k and its Cityscapes
        pipeline at 512x1024: SGD, momentum 0.9, weight decay 5e-4, poly schedule with power 0.9
        down to 1e-4.
    """
    optimizer = OptimizerConfig(
        name="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="poly",
        poly_power=0.9,
        min_lr=1e-4,
        max_grad_norm=None,
    )
    training = TrainConfig(num_steps=40_000, batch_size=8, optimizer=optimizer)
    pipeline = PipelineConfig(
        data=DataConfig(
            name="cityscapes",
            augmentation=AugmentationConfig(crop_size=(512, 1024), scale_range=(0.5, 2.0)),
        ),
        teacher=GPU_TEACHER,
        student=NetworkConfig(name="dual_branch", backbone_weights="imagenet", auxiliary=True),
        teacher_training=training,
        dense=training,
        sparse=training,
        distil=training,
    )
    return StudyConfig(
        recipe="cityscapes",
        num_pipelines=60,
        checkpoint_seconds=300.0,
        rungs=(0.25,),
        space=make_space(distiller=WORTHWHILE_DISTILLERS),
        pipeline=pipeline,
        first_points=({"distilled.distiller": "dkd"},),
    )


RECIPES: dict[str, Callable[[], StudyConfig]] = {
    "quickstart": quickstart,
    "streets": streets,
    "streets_network": streets_network,
    "camvid": camvid,
    "papers_camvid": papers_camvid,
    "camvid_tbfenet": camvid_tbfenet,
    "camvid_road": camvid_road,
    "cityscapes": cityscapes,
}


def describe_recipe(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").splitlines()[0]


def _local_or_downloaded(weights: str) -> str:
    try:
        NetworkConfig(backbone_weights=weights).weights_path()
    except ValueError:
        return "imagenet"
    return weights
