"""Layers that refer to channels by number, so pruning must tell them what it removed.

Removing a channel's weights is enough for a convolution or a BatchNorm. A shuffle, a split or an
attention over neighbouring channels depends on the position of each channel. The layers here are
told by `keep` which channels are left, and then compute exactly what they would compute if the
removed channels were present and zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ChannelLayer(nn.Module, ABC):
    """A layer whose output channels each come from one input channel, or each sum several.

    `models.channels.tracing` follows channels through it by `get_sources`, whatever it computes;
    `models.channels.widths` lists the subclasses.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels

    @abstractmethod
    def get_sources(self) -> list[int]:
        """Return the input channel that each output channel comes from, each at most once.

        Empty if outputs are sums of inputs: inputs and outputs are then pruned independently.
        """

    @abstractmethod
    def keep(self, inputs: Sequence[int]) -> None:
        """Keep only these input channels and the output channels that come from them.

        Args:
            inputs: Numbers of the channels in the current layer, ascending.
        """

    def keep_outputs(self, outputs: Sequence[int]) -> None:
        """Keep only these output channels; does nothing where outputs follow from the inputs.

        Args:
            outputs: Numbers of the channels in the current layer, ascending.
        """


class MixingLayer(ChannelLayer):
    """A channel layer whose outputs are sums over inputs, so both are pruned independently."""

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return []

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        self.in_channels = len(inputs)

    def keep_outputs(self, outputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep_outputs`."""
        self.out_channels = len(outputs)


class ChannelShuffle(ChannelLayer):
    """Interleaves groups of channels: the first of each, the second of each, and so on.

    Source: Zhang et al., "ShuffleNet", https://arxiv.org/abs/1707.01083, section 3.1.
    Differs: the order is stored in a buffer, because it is no longer an interleaving after pruning.

    Args:
        channels: Channels of the input and of the output, a multiple of `groups`.
        groups: Number of groups to interleave.
    """

    order: Tensor

    def __init__(self, channels: int, groups: int = 2) -> None:
        super().__init__(channels, channels)
        if channels % groups:
            raise ValueError(f"channels must be a multiple of {groups}, got {channels}")
        self.register_buffer("order", torch.arange(channels).view(groups, -1).t().flatten())

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return features.index_select(1, self.order)

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        sources: list[int] = self.order.tolist()
        return sources

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        number = {channel: i for i, channel in enumerate(inputs)}
        order = [number[source] for source in self.get_sources() if source in number]
        self.order = torch.tensor(order, device=self.order.device)
        self.in_channels = self.out_channels = len(order)


class ChannelHalf(ChannelLayer):
    """The first or the second half of the channels; two of them split a map.

    Pruning removes channels in pairs that mirror each other (`models.channels.tracing`), so that
    the halves stay equal.

    Args:
        channels: Channels of the input, an even number.
        half: Which half to return, 0 or 1.
    """

    def __init__(self, channels: int, half: int) -> None:
        super().__init__(channels, channels // 2)
        self.start = half * (channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels / 2, H, W)."""
        return features.narrow(1, self.start, self.out_channels)

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return list(range(self.start, self.start + self.out_channels))

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        end = self.start + self.out_channels
        self.in_channels = len(inputs)
        self.out_channels = sum(self.start <= channel < end for channel in inputs)
        self.start = sum(channel < self.start for channel in inputs)


class ChannelSum(MixingLayer):
    """Sums runs of neighbouring channels.

    A depthwise convolution followed by this layer equals a grouped convolution, but pruning can
    remove any of its inputs and outputs.

    Args:
        in_channels: Channels of the input, a multiple of `out_channels`.
        out_channels: Channels of the output.
    """

    owners: Tensor
    """Output that each input is added to; `out_channels` if that output was removed."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        if in_channels % out_channels:
            raise ValueError(f"in_channels must be a multiple of {out_channels}, got {in_channels}")
        run = in_channels // out_channels
        self.register_buffer("owners", torch.arange(out_channels).repeat_interleave(run))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        number, _, height, width = features.shape
        sums = features.new_zeros(number, self.out_channels + 1, height, width)
        return sums.index_add(1, self.owners, features)[:, : self.out_channels]

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        device = self.owners.device
        self.owners = self.owners.index_select(0, torch.tensor(inputs, device=device))
        super().keep(inputs)

    def keep_outputs(self, outputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep_outputs`."""
        number = {channel: i for i, channel in enumerate(outputs)}
        owners = [number.get(owner, len(outputs)) for owner in self.owners.tolist()]
        self.owners = torch.tensor(owners, device=self.owners.device)
        super().keep_outputs(outputs)


class ChannelTotal(MixingLayer):
    """The sum over all channels, repeated for each output channel.

    Networks use it to compute one weight per position from one map and multiply it with the
    channels of another. Pruning removes channels of its input and of its output independently.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, which are all equal.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return features.sum(dim=1, keepdim=True).expand(-1, self.out_channels, -1, -1)
