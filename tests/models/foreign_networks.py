"""Networks as users write them, none of them ours: each does something with its channels."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Outputs = namedtuple("Outputs", ["logits", "edges"])


def block(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Plain(nn.Module):
    """A stem, a middle that the subclasses vary, a head."""

    def __init__(self, num_classes: int, depth: int = 1) -> None:
        super().__init__()
        self.stem = block(3, 16, stride=2)
        self.body = nn.Sequential(*(block(16, 16) for _ in range(depth)))
        self.head = nn.Conv2d(self.width(), num_classes, 1)

    def width(self) -> int:
        return 16

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.body(self.stem(images))))


class Summed(Plain):
    """PIDNet's PagFM: a gate from the sum over channels."""

    def middle(self, x: Tensor) -> Tensor:
        y = self.body(x)
        gate = torch.sigmoid(torch.sum(x * y, dim=1).unsqueeze(1))
        return gate * x + (1 - gate) * y


class Averaged(Plain):
    """PP-LiteSeg's UAFM: attention from mean and maximum over channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.attend = nn.Conv2d(2, 1, 3, padding=1)
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        views = torch.cat((x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True)[0]), dim=1)
        return self.last(x * self.attend(views).sigmoid())


class Largest(Plain):
    """A maximum over channels that are never below zero."""

    def middle(self, x: Tensor) -> Tensor:
        return x * torch.amax(x, dim=1, keepdim=True).sigmoid()


class Concatenated(Plain):
    def width(self) -> int:
        return 32

    def middle(self, x: Tensor) -> Tensor:
        return torch.cat((x, F.max_pool2d(x, 3, 1, 1)), dim=1)


class Chunked(Plain):
    def middle(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((second, first.relu()), dim=1)


class SplitBySize(Plain):
    """Sizes that stand in the code: what they split must stay."""

    def middle(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, [10, 6], dim=1)
        return torch.cat((second, first), dim=1)


class Picked(Plain):
    """A channel picked by number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        return self.last(x * x[:, 3:4].sigmoid())


class Grouped(Plain):
    """Grouped convolutions of unequal neighbours, as in RegSeg, and a depthwise multiplier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.one = block(16, 24, groups=2)
        self.two = block(24, 16, groups=4)
        self.more = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.less = nn.Conv2d(32, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.less(self.more(self.two(self.one(x)))) + x


class Shuffled(Plain):
    """ShuffleNet's channel shuffle by views."""

    def middle(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class PixelShuffled(Plain):
    def width(self) -> int:
        return 4

    def middle(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)


class Reused(Plain):
    """One module called twice, and two modules of one weight."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.second.weight = self.first.weight

    def middle(self, x: Tensor) -> Tensor:
        return self.second(self.body(self.body(self.first(x))).relu())


class LayerNormed(Plain):
    """A ConvNeXt block: LayerNorm over channels, a linear bottleneck, a scale per channel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.gamma = nn.Parameter(torch.full((16,), 0.1))

    def middle(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Attentive(Plain):
    """Attention over places, with torch's own module beside a convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.last(tokens.transpose(1, 2).reshape(x.shape))


class NonLocal(Plain):
    """Attention by matrix products of convolutions, whose sizes come from the tensors."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.query, self.key, self.value = (nn.Conv2d(16, 8, 1) for _ in range(3))
        self.back = nn.Conv2d(8, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(dim=-1)
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[-2:])
        return x + self.back(attended)


class SqueezedAndExcited(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.squeeze, self.excite = nn.Linear(16, 8), nn.Linear(8, 16)

    def middle(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean(dim=(2, 3))).relu()).sigmoid()
        return x * gate.view(x.shape[0], -1, 1, 1)


class Standardised(Plain):
    """A convolution that computes its weights anew at every call."""

    class Conv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, padding=1)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = self.Conv(16, 16, 3)

    def middle(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class GroupNormed(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.wide = nn.Sequential(nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24), nn.ReLU())
        self.narrow = nn.Conv2d(24, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x))


class ShuffledByLibrary(Plain):
    def middle(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x, 4)


class Gated(Plain):
    """A gated linear unit."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.wide = block(16, 32)

    def middle(self, x: Tensor) -> Tensor:
        return F.glu(self.wide(x), dim=1)


class Transposed(Plain):
    """Transposed convolutions, in groups and depthwise."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.grouped = nn.ConvTranspose2d(16, 32, 2, 2, groups=4)
        self.depthwise = nn.ConvTranspose2d(32, 32, 2, 2, groups=32)
        self.narrow = block(32, 16)

    def middle(self, x: Tensor) -> Tensor:
        return self.narrow(self.depthwise(self.grouped(x)))


class WeightNormed(Plain):
    """A convolution whose weight is computed by torch's own parametrisation."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1))

    def middle(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class Resized(Plain):
    """F.interpolate, with and without a size, and padding."""

    def middle(self, x: Tensor) -> Tensor:
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        return x + F.interpolate(F.pad(small, (1, 1, 1, 1)), size=x.shape[-2:], mode="nearest")


class TiedToImage(Plain):
    def width(self) -> int:
        return 19

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(self.stem(images))
        return self.head(torch.cat((x, F.avg_pool2d(images, 3, 2, 1)), dim=1))


class Auxiliary(Plain):
    """Heads that run in training only; the logits come first, and not all others are logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.auxiliary = nn.Sequential(
            block(16, 8), nn.Dropout2d(0.5), nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, images: Tensor):
        x = self.stem(images)
        logits = self.head(self.body(x))
        return (logits, self.auxiliary(x), x) if self.training else logits


class AsMapping(Plain):
    def forward(self, images: Tensor):
        x = super().forward(images)
        return OrderedDict(aux=x.neg(), out=x)


class AsObject(Plain):
    def forward(self, images: Tensor):
        return SimpleNamespace(logits=super().forward(images), loss=None)


class AsTuple(Plain):
    def forward(self, images: Tensor):
        return Outputs(super().forward(images), None)


class MultiplesOf32(Plain):
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] % 32 or images.shape[-2] % 32:
            raise AssertionError("sizes must be multiples of 32")
        return super().forward(images)


class Weighted(Plain):
    """Attention U-Net and scSE: one channel weights all others, by product and by quotient."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.gate = nn.Sequential(nn.Conv2d(16, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        y = torch.lerp(x, self.last(x * gate), gate)
        return torch.where(gate > 0.5, y, x / (1 + gate))


class AddedToAll(Plain):
    """One channel is added to all others, so that none of them is ever zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.shade = nn.Conv2d(16, 1, 1)
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        return self.last(x + self.shade(x))


class InstanceNormed(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        norms = ({}, {"affine": True}, {"track_running_stats": True})
        self.blocks = nn.Sequential()
        for options in norms:
            self.blocks += nn.Sequential(
                nn.Conv2d(16, 16, 1), nn.InstanceNorm2d(16, **options), nn.ReLU()
            )

    def middle(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Scaleless(Plain):
    """BatchNorms without scales and shifts, and without shifts alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.blocks = nn.Sequential(
            nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24, affine=False), nn.ReLU(),
            nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16, bias=False), nn.ReLU(),
        )  # fmt: skip

    def middle(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Synchronised(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.body = nn.SyncBatchNorm.convert_sync_batchnorm(self.body)


class Neighbouring(Plain):
    """Efficient channel attention: a Conv1d over neighbouring channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.attend = nn.Conv1d(1, 1, 3, padding=1)
        self.last = block(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        gate = self.attend(x.mean(dim=(2, 3)).unsqueeze(1)).sigmoid()
        return self.last(x * gate.view(x.shape[0], -1, 1, 1))


class PaddedLargest(Plain):
    """A maximum over channels that padding does not keep from being below zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.Conv2d(16, 16, 1)

    def middle(self, x: Tensor) -> Tensor:
        y = F.pad(self.conv(x), (1, 1, 1, 1), mode="reflect")
        return x * y.amax(dim=1, keepdim=True)[..., 1:-1, 1:-1].sigmoid()


class EndsInSoftmax(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class OfOneSize(nn.Module):
    """A layer over all places, as in a vision transformer."""

    def __init__(self, num_classes: int, image_size: tuple[int, int] = (224, 224)) -> None:
        super().__init__()
        self.stem = block(3, 16, stride=2)
        places = (image_size[0] // 32) * (image_size[1] // 32)
        self.mix = nn.Linear(places, places)
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(images), 16)
        return self.head(self.mix(x.flatten(2)).view(x.shape))


class NothingToPrune(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.patches(images).permute(0, 2, 3, 1))
        return self.head(x.permute(0, 3, 1, 2))


class ClassesAlone(nn.Conv2d):
    def __init__(self, num_classes: int) -> None:
        super().__init__(3, num_classes, 1)


class CopiedByNobody(Plain):
    """What the old weight norm leaves: a weight that is computed and no parameter."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        scale = nn.Parameter(torch.ones(1))
        weight = self.head.weight.data
        del self.head.weight
        self.head.scale, self.head.weight = scale, weight * scale


class SharedFirstLayer(nn.Module):
    """Two groups of channels begin at the same layer: 48 with `a`, 16 with `b`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.a, self.b = block(3, 64), block(3, 48), block(3, 16)
        self.head = nn.Conv2d(64, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return self.head(x + torch.cat((self.a(images), self.b(images)), dim=1))


def with_classes(classes: int, depth: int = 1) -> nn.Module:
    return Plain(classes, depth)


def with_n_classes(n_classes: int) -> nn.Module:
    return Plain(n_classes)


def without_classes(depth: int = 1) -> nn.Module:
    return Plain(5, depth)


def scripted(num_classes: int) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # deprecated, but files of it are around
        return torch.jit.trace(Plain(num_classes).eval(), torch.zeros(1, 3, 64, 64))


def not_a_module(num_classes: int) -> int:
    return num_classes


PRUNABLE = {
    Plain: False, Summed: False, Averaged: True, Largest: False, Concatenated: False,
    Chunked: False, SplitBySize: True, Picked: True, Grouped: False, Shuffled: False,
    PixelShuffled: False, Reused: False, LayerNormed: True, Attentive: True, NonLocal: False,
    SqueezedAndExcited: False, Standardised: True, GroupNormed: True, Resized: False,
    TiedToImage: False, Auxiliary: False, AsMapping: False, AsObject: False, AsTuple: False,
    MultiplesOf32: False, ShuffledByLibrary: False, Gated: False, Transposed: False,
    WeightNormed: True, SharedFirstLayer: False, Weighted: False, AddedToAll: True,
    InstanceNormed: False, Scaleless: False, Synchronised: False, Neighbouring: True,
    PaddedLargest: True, EndsInSoftmax: False,
}  # fmt: skip
"""Whether some layers have to be left whole."""
