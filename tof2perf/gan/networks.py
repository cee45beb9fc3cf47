"""The 3D pix2pix networks: a U-Net generator and a patch discriminator."""

import itertools
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tof2perf.gan.convolutions import Convolution, FirstConvolution, LastTransposed, Transposed

BACKGROUND = -1.0  # of normalised volumes
LEAK = 0.2  # slope of LeakyReLU for negative values, as in pix2pix
EMPTY = -2.0  # first bias of the generator's output layer: tanh(-2) = -0.96, the background of every map
WIDEST = 8  # the number of filters doubles from level to level, up to this multiple of the first


class UNetGenerator(nn.Module):
    """U-Net of pix2pix in 3D: 4x4x4 kernels, stride 2, skip connections, tanh output.

    Isola et al. 2017 (arXiv:1611.07004), appendix 6.1, and Kossen et al. (the paper), Figure 1. Every level halves
    each axis; the last up-sampling gives the full size. If an axis is no multiple of 2**levels, the volume is mirrored
    at its borders up to the next multiple and the output is cropped, so the grid of the output is that of the input.

    Normalisation is per volume and channel (instance normalisation, Ulyanov et al. 2016, arXiv:1607.08022). At batch
    size 1 pix2pix's batch normalisation does the same in training; without running statistics, inference is the same
    too. The first level is not normalised, so that absolute intensities reach the output through its skip connection.
    The bottleneck is not normalised either: its few voxels have no meaningful variance.

    Args:
        levels: how often the volume is halved; the bottleneck of 64x64x32 with 5 levels is 2x2x1 voxels.
        filters: channels of the first level; they double per level up to 8 times as many.
        maps: how many maps are made at once, the channels of the output.
        mirrored: give the network the TOF's left-right mirror as a second channel, so that every voxel meets its
            counterpart in the other hemisphere. The volumes must then run left to right along their first axis, as
            preprocessing leaves them.
        recompute: keep no activations inside the levels during training but compute them again in the backward pass:
            less memory, more time, the same result.
        generator: source of the initial weights; None draws from a generator seeded with 0.
        spread: standard deviation of the initial weights, N(0, spread).
    """

    # PyTorch's layers draw first weights from the global random state: it is put back, and the weights are drawn anew.
    @torch.random.fork_rng(devices=[])
    def __init__(
        self,
        *,
        levels: int,
        filters: int,
        maps: int = 1,
        mirrored: bool = False,
        recompute: bool = False,
        generator: torch.Generator | None = None,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        if levels < 2 or filters < 1:
            raise ValueError(f"a U-Net needs at least 2 levels and 1 filter, got {levels} levels and {filters} filters")
        self.levels, self.mirrored, self.recompute = levels, mirrored, recompute
        widths = [filters * min(2**level, WIDEST) for level in range(levels)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            before = 1 + mirrored if level == 0 else widths[level - 1]
            self.down.append(Down(Convolution(before, width), normalised=0 < level < levels - 1))
        for level in reversed(range(1, levels)):
            inside = widths[level] if level == levels - 1 else 2 * widths[level]  # below the bottleneck: with the skip
            self.up.append(Up(inside, widths[level - 1]))
        self.output = LastTransposed(2 * widths[0], maps)
        _draw_weights(self, generator, spread)
        # Three quarters of a volume are background at -1. A start at 0 would cost hundreds of steps in which this bias
        # dominates all gradients; from here lesions are learned in half the epochs.
        nn.init.constant_(self.output.bias, EMPTY)

    @classmethod
    def from_profile(cls, network: Any, **options: Any) -> Self:
        """Build the generator of a profile's ``network`` section; ``options`` are further arguments of the class."""
        size = {"levels": network.levels, "filters": network.generator_filters}
        return cls(**size, mirrored=network.input == "tof+mirror", **options)

    def forward(self, tof: Tensor) -> Tensor:
        """Turn TOF volumes (batch, 1, x, y, z) in [-1, 1] into maps (batch, maps, x, y, z) in (-1, 1).

        Raises:
            ValueError: a volume too small for the number of levels.
        """
        volume, inside = self._padded(tof)
        volume = volume - BACKGROUND  # the zeros that convolutions add around a volume then mean background, not vessel
        if self.mirrored:
            volume = torch.cat([volume, volume.flip(2)], dim=1)
        skips = []
        for down in self.down:
            volume = self._passed(down, volume)
            skips.append(volume)
        volumes: tuple[Tensor, ...] = (skips.pop(),)
        for up in self.up:
            volumes = (self._passed(up, *volumes), skips.pop())
        return torch.tanh(self._passed(self.output, *volumes))[inside]

    def _passed(self, block: nn.Module, *volumes: Tensor) -> Tensor:
        """Pass volumes through a block; with ``recompute`` keep nothing inside it for the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *volumes, use_reentrant=False, preserve_rng_state=False)
        return block(*volumes)

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
    sigmoid belongs to the loss. A volume too thin for the layers is padded with background. Instance normalisation as
    in the generator, so the pairs of a batch do not affect each other.

    Args:
        filters: channels of the first convolution; they double per layer up to 8 times as many.
        layers: number of convolutions with stride 2.
        maps: how many maps of one patient are judged together.
        generator, spread: initial weights, as for the generator network.
    """

    @torch.random.fork_rng(devices=[])
    def __init__(
        self,
        *,
        filters: int,
        layers: int = 3,
        maps: int = 1,
        generator: torch.Generator | None = None,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        if layers < 1 or filters < 1:
            raise ValueError(f"a discriminator needs at least 1 layer and 1 filter, got {layers} and {filters}")
        self.layers = layers
        widths = [filters * min(2**layer, WIDEST) for layer in range(layers + 1)]
        self.down = nn.ModuleList()
        self.down.append(Down(FirstConvolution(maps, widths[0])))
        for before, width in itertools.pairwise(widths[:-1]):
            self.down.append(Down(Convolution(before, width), normalised=True))
        self.wide = Down(nn.Conv3d(widths[-2], widths[-1], kernel_size=4, padding=1), normalised=True)
        self.output = nn.Conv3d(widths[-1], 1, kernel_size=4, padding=1)
        _draw_weights(self, generator, spread)

    @classmethod
    def from_profile(cls, network: Any, **options: Any) -> Self:
        """Build the discriminator of a profile's ``network`` section; ``options`` as for the generator."""
        return cls(filters=network.discriminator_filters, layers=network.discriminator_layers, **options)

    def forward(self, tof: Tensor, perfusion: Tensor) -> Tensor:
        """Judge TOFs (batch, 1, x, y, z) together with maps (batch, maps, x, y, z).

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


class Down(nn.Module):
    """4x4x4 convolution (one of stride 2 halves each axis), optional instance normalisation, LeakyReLU."""

    def __init__(self, convolution: nn.Conv3d, *, normalised: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.normalisation = _normalisation(convolution.out_channels) if normalised else nn.Identity()

    def forward(self, *volumes: Tensor) -> Tensor:
        return F.leaky_relu(self.normalisation(self.convolution(*volumes)), LEAK, inplace=True)


class Up(nn.Module):
    """4x4x4 transposed convolution of stride 2 (doubles each axis), instance normalisation, ReLU.

    Several volumes are taken as the channels of one.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.convolution = Transposed(channels, filters)
        self.normalisation = _normalisation(filters)

    def forward(self, *volumes: Tensor) -> Tensor:
        volume = torch.cat(volumes, dim=1) if len(volumes) > 1 else volumes[0]
        return F.relu(self.normalisation(self.convolution(volume)), inplace=True)


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
