"""The 3D pix2pix networks: a U-Net generator and a patch discriminator."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BACKGROUND = -1.0  # of normalised volumes
LEAK = 0.2  # slope of LeakyReLU for negative values, as in pix2pix
EMPTY = -2.0  # the generator's last offset at the start: tanh(-2) = -0.96, the background of every map
WIDEST = 8  # the number of filters doubles from level to level, up to this multiple of the first


class UNetGenerator(nn.Module):
    """U-Net of pix2pix in 3D: 4x4x4 kernels, stride 2, skip connections, tanh output.

    Isola et al. 2017 (arXiv:1611.07004), appendix 6.1, and Kossen et al. (the paper), Figure 1. Every level halves
    each axis; the last up-sampling gives the full size. A volume whose axes are no multiples of 2**levels is mirrored
    at its borders up to the next multiple and the result is cropped, so any grid goes in and comes out unchanged.

    Normalisation is per volume and channel (instance normalisation, Ulyanov et al. 2016, arXiv:1607.08022). At batch
    size 1 that is what pix2pix's batch normalisation does in training, but it needs no running statistics and therefore
    behaves the same in inference. The first level is not normalised, so that absolute intensities reach the output
    through its skip connection, nor is the bottleneck, where a handful of voxels has no meaningful variance.

    Args:
        levels: how often the volume is halved; the bottleneck of 64x64x32 with 5 levels is 2x2x1 voxels.
        filters: channels of the first level; they double per level up to 8 times as many.
        generator: source of the initial weights; None draws from a generator seeded with 0.
        spread: standard deviation of the initial weights, N(0, spread).
    """

    # PyTorch's layers draw first weights from the global random state: it is put back, and the weights are drawn anew.
    @torch.random.fork_rng(devices=[])
    def __init__(
        self, *, levels: int, filters: int, generator: torch.Generator | None = None, spread: float = 0.02
    ) -> None:
        super().__init__()
        if levels < 2 or filters < 1:
            raise ValueError(f"a U-Net needs at least 2 levels and 1 filter, got {levels} levels and {filters} filters")
        self.levels = levels
        widths = [filters * min(2**level, WIDEST) for level in range(levels)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            before = 1 if level == 0 else widths[level - 1]
            convolution = nn.Conv3d(before, width, kernel_size=4, stride=2, padding=1)
            self.down.append(Down(convolution, normalised=0 < level < levels - 1))
        for level in reversed(range(1, levels)):
            inside = widths[level] if level == levels - 1 else 2 * widths[level]  # below the bottleneck: with the skip
            self.up.append(Up(inside, widths[level - 1]))
        self.output = UpConvolution(2 * widths[0], 1)
        _draw_weights(self, generator, spread)
        # Three quarters of a volume are background at -1. Starting there and not at 0 spares the network hundreds of
        # steps in which this one number rules all gradients: lesions are learned in half the epochs.
        nn.init.constant_(self.output.bias, EMPTY)

    def forward(self, tof: Tensor) -> Tensor:
        """Turn TOF volumes (batch, 1, x, y, z) in [-1, 1] into maps of the same shape in (-1, 1).

        Raises:
            ValueError: a volume too small for the number of levels.
        """
        volume, inside = self._padded(tof)
        volume = volume - BACKGROUND  # the zeros that convolutions add around a volume then mean background, not vessel
        skips = []
        for down in self.down:
            volume = down(volume)
            skips.append(volume)
        volume = skips.pop()
        for up in self.up:
            volume = torch.cat([up(volume), skips.pop()], dim=1)
        return torch.tanh(self.output(volume))[inside]

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """The layers a drawing of the network shows, named, in the order in which data pass them."""
        downs = [(f"down {level}", block) for level, block in enumerate(self.down, start=1)]
        ups = [(f"up {self.levels - step}", block) for step, block in enumerate(self.up)]
        return [*downs, *ups, ("up 1", self.output)]

    def _padded(self, tof: Tensor) -> tuple[Tensor, tuple]:
        """Mirror the borders up to the next multiple of 2**levels; also return the slices that undo it."""
        shape = tof.shape[2:]
        missing = [-length % 2**self.levels for length in shape]
        before = [lack // 2 for lack in missing]
        inside = (..., *(slice(start, start + length) for start, length in zip(before, shape, strict=True)))
        if not any(missing):
            return tof, inside
        if any(lack - lack // 2 >= length for lack, length in zip(missing, shape, strict=True)):
            raise ValueError(f"{self.levels} levels are too many for a volume of {tuple(shape)}: use fewer levels")
        # F.pad counts from the last axis backwards.
        widths = [w for lack, start in zip(missing[::-1], before[::-1], strict=True) for w in (start, lack - start)]
        return F.pad(tof, widths, mode="reflect"), inside


class PatchDiscriminator(nn.Module):
    """PatchGAN of pix2pix in 3D: judges overlapping patches of (TOF, map) pairs.

    Isola et al. 2017 (arXiv:1611.07004), appendix 6.1: ``layers`` convolutions of stride 2, then two of stride 1, all
    4x4x4; with 3 layers each answer sees a patch of 70 voxels a side (or the whole volume). Returns logits: the
    sigmoid belongs to the loss. A volume too thin for the layers is continued with background. Instance normalisation
    as in the generator, so a batch of several pairs is judged as each pair alone would be.

    Args:
        filters: channels of the first convolution; they double per layer up to 8 times as many.
        layers: number of convolutions with stride 2.
        generator, spread: initial weights, as for the generator network.
    """

    @torch.random.fork_rng(devices=[])
    def __init__(
        self, *, filters: int, layers: int = 3, generator: torch.Generator | None = None, spread: float = 0.02
    ) -> None:
        super().__init__()
        if layers < 1 or filters < 1:
            raise ValueError(f"a discriminator needs at least 1 layer and 1 filter, got {layers} and {filters}")
        self.layers = layers
        widths = [filters * min(2**layer, WIDEST) for layer in range(layers + 1)]
        self.down = nn.ModuleList()
        self.down.append(Down(PairConvolution(widths[0])))
        for before, width in itertools.pairwise(widths[:-1]):
            self.down.append(Down(nn.Conv3d(before, width, kernel_size=4, stride=2, padding=1), normalised=True))
        self.wide = Down(nn.Conv3d(widths[-2], widths[-1], kernel_size=4, padding=1), normalised=True)
        self.output = nn.Conv3d(widths[-1], 1, kernel_size=4, padding=1)
        _draw_weights(self, generator, spread)

    def forward(self, tof: Tensor, perfusion: Tensor) -> Tensor:
        """Judge pairs of TOF and map, each (batch, 1, x, y, z).

        Returns:
            Logits (batch, 1, x', y', z'), positive where a patch of the map looks real.
        """
        pair = [volume - BACKGROUND for volume in (tof, perfusion)]
        lacking = [max(0, 3 * 2**self.layers - length) for length in reversed(tof.shape[2:])]
        if any(lacking):
            margins = [width for lack in lacking for width in (lack // 2, lack - lack // 2)]
            pair = [F.pad(volume, margins) for volume in pair]
        first, *others = self.down
        volume = first(*pair)
        for down in others:
            volume = down(volume)
        return self.output(self.wide(volume))

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """The layers a drawing of the network shows, named, in the order in which data pass them."""
        downs = [(f"down {layer}", block) for layer, block in enumerate(self.down, start=1)]
        return [*downs, ("wide", self.wide), ("logits", self.output)]


class Down(nn.Module):
    """A 4x4x4 convolution (of stride 2 it halves each axis), instance normalisation where asked for, LeakyReLU."""

    def __init__(self, convolution: nn.Conv3d, *, normalised: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.normalisation = _normalisation(convolution.out_channels) if normalised else nn.Identity()

    def forward(self, *volumes: Tensor) -> Tensor:
        return F.leaky_relu(self.normalisation(self.convolution(*volumes)), LEAK)


class Up(nn.Module):
    """4x4x4 transposed convolution of stride 2 (doubles each axis), instance normalisation, ReLU."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose3d(channels, filters, kernel_size=4, stride=2, padding=1)
        self.normalisation = _normalisation(filters)

    def forward(self, volume: Tensor) -> Tensor:
        return F.relu(self.normalisation(self.convolution(volume)))


class PairConvolution(nn.Conv3d):
    """4x4x4 convolution of stride 2 over a pair of one-channel volumes, as if they were the channels of one.

    Where the generator learns through the discriminator, the usual gradient for two channels at full resolution costs
    more than all other layers of the discriminator. Taken apart, the first volume (the TOF, which nobody changes) needs
    none, and the second goes through a dense 2x2x2 convolution: its voxels are sorted by their place in blocks of 2x2x2
    into 8 channels, the weights likewise. Same weights, same result (to rounding), a third of the time.
    """

    def __init__(self, filters: int) -> None:
        super().__init__(2, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        if not second.requires_grad:
            return super().forward(torch.cat([first, second], dim=1))
        response = F.conv3d(first, self.weight[:, :1], self.bias, stride=2, padding=1)
        filters = self.weight.shape[0]
        # Tap k = 2 a + p of an output voxel i meets voxel p of block i + a of the padded volume.
        dense = self.weight[:, 1].reshape(filters, 2, 2, 2, 2, 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
        padded = F.pad(second, (1, 1) * 3)
        batch, _, nx, ny, nz = padded.shape
        blocks = padded.reshape(batch, nx // 2, 2, ny // 2, 2, nz // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
        return response + F.conv3d(
            blocks.reshape(batch, 8, nx // 2, ny // 2, nz // 2), dense.reshape(filters, 8, 2, 2, 2)
        )


class UpConvolution(nn.ConvTranspose3d):
    """4x4x4 transposed convolution of stride 2 and padding 1, computed as a dense 2x2x2 convolution.

    Each of the 2x2x2 output voxels that an input voxel turns into sees 2x2x2 of the 4x4x4 weights. Sorted by that
    position, the weights are those of an ordinary 2x2x2 convolution with 8 times as many outputs, which are then
    interleaved. Same weights, same result (to rounding), but the processor works on 8 output channels where the usual
    algorithm has a single one: the generator's last layer takes a third of the time.
    """

    bias: Tensor

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=4, stride=2, padding=1)

    def forward(self, volume: Tensor) -> Tensor:  # type: ignore[override]
        channels, filters = self.weight.shape[:2]
        # Output voxel 2j - 1 + p lies between input voxels j - 1 and j and takes their taps k = 2 (1 - a) + p, where
        # a = 0 is voxel j - 1 and p its place in the pair (2j - 1, 2j): hence each axis of 4 splits into (2, 2).
        taps = self.weight.reshape(channels, filters, 2, 2, 2, 2, 2, 2).flip(2, 4, 6)
        dense = taps.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(filters * 8, channels, 2, 2, 2)
        pairs = F.conv3d(volume, dense, self.bias.repeat_interleave(8), padding=1)  # (batch, 8 filters, x+1, y+1, z+1)
        batch, _, nx, ny, nz = pairs.shape
        pairs = pairs.reshape(batch, filters, 2, 2, 2, nx, ny, nz).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return pairs.reshape(batch, filters, 2 * nx, 2 * ny, 2 * nz)[..., 1:-1, 1:-1, 1:-1]


def layer_shapes(network: UNetGenerator | PatchDiscriminator, *inputs: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Run a network once and read the shape that leaves each of its blocks.

    Args:
        network: :class:`UNetGenerator` or :class:`PatchDiscriminator`.
        inputs: what its ``forward`` takes, each (batch, channels, x, y, z).

    Returns:
        (name, (channels, x, y, z)) of the input and of every block, in the order in which data pass them.
    """
    shapes = [("input", (sum(volume.shape[1] for volume in inputs), *inputs[0].shape[2:]))]
    hooks = [
        block.register_forward_hook(lambda _, __, output, name=name: shapes.append((name, tuple(output.shape[1:]))))
        for name, block in network.blocks()
    ]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _normalisation(channels: int) -> nn.Module:
    """Instance normalisation with a learned scale and offset: a group of its own for each channel."""
    return nn.GroupNorm(channels, channels)


def _draw_weights(network: nn.Module, generator: torch.Generator | None, spread: float) -> None:
    """Weights N(0, spread), offsets 0, normalisation at identity."""
    generator = generator or torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.normal_(module.weight, 0.0, spread, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
