"""Fast 4x4x4 convolutions of pix2pix: the algorithm depends on the size, weights and results do not.

Reading the networks needs nothing of this: each class is the layer of PyTorch that it inherits from.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 32  # voxels of the coarser grid, batch included, up to which one matrix product is faster than a convolution
MANY = 2**25  # values beyond which two volumes are not joined before their convolution


class Convolution(nn.Conv3d):
    """4x4x4 convolution of stride 2 and padding 1.

    At the bottom of the U-Net a few voxels are convolved with a million weights. The processor's convolution first
    reorders the weights, which costs ten times the arithmetic there. Instead the volume is cut into one column of 4x4x4
    voxels per output voxel, and one matrix product takes the weights as they are.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        batch, channels, *shape = volume.shape
        grid = [length // 2 for length in shape]
        if volume.device.type != "cpu" or batch * grid[0] * grid[1] * grid[2] > FEW:
            return super().forward(volume)
        columns = F.pad(volume, (1,) * 6).unfold(2, 4, 2).unfold(3, 4, 2).unfold(4, 4, 2)
        columns = columns.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(-1, channels * 64)  # (answers, taps)
        answers = F.linear(columns, self.weight.flatten(1), self.bias)
        return answers.unflatten(0, (batch, *grid)).permute(0, 4, 1, 2, 3).contiguous()


class Transposed(nn.ConvTranspose3d):
    """4x4x4 transposed convolution of stride 2 and padding 1, the counterpart of :class:`Convolution`.

    For few voxels one matrix product gives the 4x4x4 outputs of every voxel, which are then added where those of
    neighbours overlap. Along each axis outputs 0 and 1 belong to the voxel's own pair, 2 and 3 to the next pair.
    """

    bias: Tensor

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, volume: Tensor) -> Tensor:  # type: ignore[override]
        batch, channels, *grid = volume.shape
        if volume.device.type != "cpu" or batch * grid[0] * grid[1] * grid[2] > FEW:
            return super().forward(volume)
        rows = volume.permute(0, 2, 3, 4, 1).reshape(-1, channels)
        answers = (rows @ self.weight.flatten(1)).reshape(batch, *grid, -1, 2, 2, 2, 2, 2, 2)
        for axis, pair in ((1, 5), (2, 6), (3, 7)):  # each turn adds up one axis and removes its first factor of 2
            own, following = answers.unbind(pair)
            nothing = torch.zeros_like(own.narrow(axis, 0, 1))
            answers = torch.cat([own, nothing], dim=axis) + torch.cat([nothing, following], dim=axis)
        doubled = answers.permute(0, 4, 1, 5, 2, 6, 3, 7)  # (batch, filters, x + 1, 2, y + 1, 2, z + 1, 2)
        doubled = doubled.flatten(6, 7).flatten(4, 5).flatten(2, 3)[..., 1:-1, 1:-1, 1:-1]
        return doubled + self.bias[:, None, None, None]


class FirstConvolution(nn.Conv3d):
    """:class:`Convolution` of a TOF and its maps, two volumes that count as the channels of one.

    When the generator learns through the discriminator, the usual gradient for a few channels at full resolution costs
    more than all other layers of the discriminator. The TOF needs no gradient, so it is convolved apart. The maps go
    through a dense 2x2x2 convolution: their voxels are sorted by their place in blocks of 2x2x2 into 8 channels each,
    the weights likewise. Same weights, same result (to rounding), a third of the time.
    """

    def __init__(self, maps: int, filters: int) -> None:
        super().__init__(1 + maps, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, tof: Tensor, maps: Tensor) -> Tensor:  # type: ignore[override]
        if not maps.requires_grad:
            return super().forward(torch.cat([tof, maps], dim=1))
        response = F.conv3d(tof, self.weight[:, :1], self.bias, stride=2, padding=1)
        filters, channels = self.weight.shape[0], maps.shape[1]
        # Tap k = 2 a + p of an output voxel i meets voxel p of block i + a of the padded volume.
        dense = self.weight[:, 1:].reshape(filters, channels, 2, 2, 2, 2, 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        padded = F.pad(maps, (1,) * 6)
        batch, _, nx, ny, nz = padded.shape
        blocks = padded.reshape(batch, channels, nx // 2, 2, ny // 2, 2, nz // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        blocks = blocks.reshape(batch, channels * 8, nx // 2, ny // 2, nz // 2)
        return response.add_(F.conv3d(blocks, dense.reshape(filters, channels * 8, 2, 2, 2)))


class LastTransposed(nn.ConvTranspose3d):
    """4x4x4 transposed convolution of stride 2 and padding 1 to few filters, computed as dense 2x2x2 convolutions.

    An input voxel becomes 2x2x2 output voxels, and each of these uses 2x2x2 of the 4x4x4 weights. Sorted by that
    position, the weights are those of an ordinary 2x2x2 convolution with 8 times as many outputs, which are then
    interleaved. Same weights, same result (to rounding), but the processor works on 8 output channels instead of one:
    the generator's last layer takes a third of the time.

    The channels may come as several volumes. Large ones are not joined: at full size that copy would be the largest
    tensor of the whole network. Small ones are, because PyTorch has no fast convolution of 16 channels or fewer.
    """

    bias: Tensor

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, *volumes: Tensor) -> Tensor:  # type: ignore[override]
        if sum(volume.numel() for volume in volumes) <= MANY:
            volumes = (torch.cat(volumes, dim=1),)
        channels, filters = self.weight.shape[:2]
        # Output voxel 2j - 1 + p lies between input voxels j - 1 and j and takes their taps k = 2 (1 - a) + p, where
        # a = 0 is voxel j - 1 and p its place in the pair (2j - 1, 2j): hence each axis of 4 splits into (2, 2).
        taps = self.weight.reshape(channels, filters, 2, 2, 2, 2, 2, 2).flip(2, 4, 6)
        dense = taps.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(filters * 8, channels, 2, 2, 2)
        parts = dense.split([volume.shape[1] for volume in volumes], dim=1)
        pairs = F.conv3d(volumes[0], parts[0], self.bias.repeat_interleave(8), padding=1)
        for volume, part in zip(volumes[1:], parts[1:], strict=True):
            pairs = pairs + F.conv3d(volume, part, padding=1)  # (batch, 8 filters, x + 1, y + 1, z + 1)
        batch, _, nx, ny, nz = pairs.shape
        pairs = pairs.reshape(batch, filters, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return pairs.reshape(batch, filters, 2 * nx, 2 * ny, 2 * nz)[..., 1:-1, 1:-1, 1:-1]
