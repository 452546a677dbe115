"""STC connector: features of T frames to tokens of T' x H' x W', by convolutions in space, then in time, then in space.

    s1 -> sampler -> s2 -> readout
    stage    4 x silu(conv1x1(se(dwconv3x3(conv1x1(x)))) + shortcut(x)), a norm over channels after every convolution
    sampler  silu(conv 2 x 2 x 2, stride 2), padded by one in `stc_connector`, not in `stc_connector_v35`
    readout  linear, GELU, linear

The modules' names are the released weights'. Source: VideoLLaMA2 (arXiv 2406.07476), RegNet blocks (arXiv 2003.13678).
"""

import torch.nn.functional as F
from torch import Tensor, nn

DEPTH = 4  # blocks of a stage
EPSILON = 1e-5
SQUEEZE = 0.25  # width of a squeeze-excite layer over its block's input width


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class NormedConv(nn.Module):
    """Convolution without bias, its norm, and SiLU if asked for."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, groups: int = 1, activate: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = ChannelNorm(outer, eps=EPSILON)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.silu(x) if self.activate else x


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole picture holds of them."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * weight.sigmoid()


class Block(nn.Module):
    """A RegNet bottleneck of full width: [B, inner, H, W] -> [B, outer, H, W]."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(inner, outer)
        self.conv2 = NormedConv(outer, outer, kernel=3, groups=outer)
        self.se = SqueezeExcite(outer, round(inner * SQUEEZE))
        self.conv3 = NormedConv(outer, outer, activate=False)
        self.downsample = NormedConv(inner, outer, activate=False) if inner != outer else None

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        return F.silu(self.conv3(self.se(self.conv2(self.conv1(x)))) + short)


def stage(inner: int, outer: int) -> nn.Sequential:
    """Blocks b1 to b4; the first changes the width."""
    blocks = nn.Sequential()
    for number in range(DEPTH):
        blocks.add_module(f"b{number + 1}", Block(outer if number else inner, outer))
    return blocks


class STCConnector(nn.Module):
    """Tower features [B, T, N, inner] to language tokens [B, T' * H' * W', outer], w fastest."""

    def __init__(self, inner: int, outer: int, padding: int) -> None:
        super().__init__()
        self.s1 = stage(inner, outer)
        self.sampler = nn.Sequential(nn.Conv3d(outer, outer, 2, stride=2, padding=padding), nn.SiLU())
        self.s2 = stage(outer, outer)
        self.readout = nn.Sequential(nn.Linear(outer, outer), nn.GELU(), nn.Linear(outer, outer))

    def forward(self, features: Tensor) -> Tensor:
        batch, frames, patches, _ = features.shape
        side = int(patches**0.5)
        x = self.s1(features.flatten(0, 1).mT.unflatten(2, (side, side)))
        x = self.sampler(x.unflatten(0, (batch, frames)).transpose(1, 2))  # [B, C, T', H', W']
        steps = x.shape[2]
        x = self.s2(x.transpose(1, 2).flatten(0, 1))  # [B * T', C, H', W']
        tokens: Tensor = self.readout(x.flatten(2).mT.unflatten(0, (batch, steps)).flatten(1, 2))
        return tokens
