"""ERFNet: residual blocks of one-dimensional convolutions in encoder and decoder."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.network import SegmentationNetwork


class ERFNet(SegmentationNetwork):
    """ERFNet (efficient residual factorized network), with an encoder down to 1/8.

    2.064 M parameters with 19 classes, as in the authors' code; published 2.1 M (rounded).

    Source: Romera et al., "ERFNet: efficient residual factorized ConvNet for real-time semantic
        segmentation", IEEE T-ITS 19(1), 2018, https://doi.org/10.1109/TITS.2017.2750080, table I;
        details that it leaves open from the authors' code,
        https://github.com/Eromera/erfnet_pytorch.
    Differs: at odd sizes the maps are rounded up, and the logits are cropped.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvPoolDownsampling(3, 16, nn.ReLU(inplace=True), bias=True),
            ConvPoolDownsampling(16, 64, nn.ReLU(inplace=True), bias=True),
            *(NonBottleneck1D(64, dropout=0.03) for _ in range(5)),
            ConvPoolDownsampling(64, 128, nn.ReLU(inplace=True), bias=True),
            *(NonBottleneck1D(128, dilation=d, dropout=0.3) for d in (2, 4, 8, 16) * 2),
        )
        self.decoder = nn.Sequential(
            Upsampler(128, 64),
            NonBottleneck1D(64),
            NonBottleneck1D(64),
            Upsampler(64, 16),
            NonBottleneck1D(16),
            NonBottleneck1D(16),
        )
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        height, width = images.shape[-2:]
        logits = self.classifier(self.decoder(self.encoder(images)))
        return (logits[..., :height, :width],)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class NonBottleneck1D(nn.Module):
    """Two 3x3 convolutions, each as 3x1 and 1x3, the second pair dilated; dropout, sum, ReLU.

    Source: https://doi.org/10.1109/TITS.2017.2750080, figure 2c.

    Args:
        channels: Channels of the input and of the output.
        dilation: Dilation of the second pair.
        dropout: Dropout probability of a channel.
    """

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        d = dilation
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(channels),
            nn.Dropout2d(dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return F.relu(features + self.branch(features))


class Upsampler(nn.Sequential):
    """A transposed 3x3 convolution that doubles the size, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
