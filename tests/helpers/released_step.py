"""The released code's training step in words of our own, as a yardstick for time: not for training anything.

What it does differently (see notebooks/book/departures.md): batch normalisation; activations before each
convolution of the generator, over the copied skip connections as well; the discriminator ends in a sigmoid and its loss
takes logits; the generated volume is not detached, so the discriminator's loss, the adversarial loss and the
reconstruction loss each run back through the generator; SSIM is computed in NumPy, in double precision; every backward
pass keeps its graph, which is let go only when the next step has built its own.
"""

import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = {"kernel_size": 4, "stride": 2, "padding": 1}


class Generator(nn.Module):
    """pix2pix's U-Net in 3D with batch normalisation; every skip connection is copied, then rectified once more."""

    def __init__(self, *, levels: int, filters: int) -> None:
        super().__init__()
        widths = [filters * min(2**level, 8) for level in range(levels)]
        self.down = nn.ModuleList([nn.Conv3d(1, widths[0], **KERNEL)])
        for level in range(1, levels):
            last = level == levels - 1
            convolution = nn.Conv3d(widths[level - 1], widths[level], bias=False, **KERNEL)
            normalised = [] if last else [nn.BatchNorm3d(widths[level])]
            self.down.append(nn.Sequential(nn.LeakyReLU(0.2, inplace=True), convolution, *normalised))
        self.up = nn.ModuleList()
        for level in reversed(range(1, levels)):
            inside = widths[level] if level == levels - 1 else 2 * widths[level]
            convolution = nn.ConvTranspose3d(inside, widths[level - 1], bias=False, **KERNEL)
            self.up.append(nn.Sequential(nn.ReLU(inplace=True), convolution, nn.BatchNorm3d(widths[level - 1])))
        self.last = nn.Sequential(nn.ReLU(inplace=True), nn.ConvTranspose3d(2 * widths[0], 1, **KERNEL), nn.Tanh())

    def forward(self, volume: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            volume = down(volume)
            skips.append(volume)
        volume = skips.pop()
        for up in self.up:
            volume = torch.cat([skips.pop(), up(volume)], dim=1)
        return self.last(volume)


def discriminator(*, filters: int, layers: int = 3) -> nn.Module:
    """PatchGAN in 3D that ends in a sigmoid."""
    parts: list[nn.Module] = [nn.Conv3d(2, filters, **KERNEL), nn.LeakyReLU(0.2, inplace=True)]
    width = filters
    for layer in range(1, layers):
        before, width = width, filters * 2**layer
        parts += [nn.Conv3d(before, width, **KERNEL), nn.BatchNorm3d(width), nn.LeakyReLU(0.2, inplace=True)]
    wide = filters * 2**layers
    parts += [nn.Conv3d(width, wide, kernel_size=4, padding=1), nn.BatchNorm3d(wide), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*parts, nn.Conv3d(wide, 1, kernel_size=4, padding=1), nn.Sigmoid())


class ReleasedStep:
    """Both networks, their optimisers, and one step."""

    def __init__(self, *, levels: int, filters: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator = Generator(levels=levels, filters=filters)
            self.discriminator = discriminator(filters=filters)
        self.g_adam = torch.optim.Adam(self.generator.parameters(), lr=1e-4, betas=(0.5, 0.999))
        self.d_adam = torch.optim.Adam(self.discriminator.parameters(), lr=1e-5, betas=(0.5, 0.999))
        self.kept: tuple[Tensor, ...] = ()  # what the variables of the released loop hold on to until the next step

    def __call__(self, tof: Tensor, target: Tensor) -> float:
        generated = self.generator(tof)
        real = _against(self.discriminator(torch.cat([tof, target], dim=1)), 1.0)
        fake = _against(self.discriminator(torch.cat([tof, generated], dim=1)), 0.0)

        self.d_adam.zero_grad()
        real.backward(retain_graph=True)
        fake.backward(retain_graph=True)
        self.d_adam.step()

        deceived = _against(self.discriminator(torch.cat([tof, generated], dim=1)), 1.0)
        volumes = [volume.detach()[0, 0].numpy().astype(float) for volume in (generated, target)]
        similarity = structural_similarity(*volumes, data_range=2.0)
        loss = 0.16 * F.l1_loss(generated, target) + 0.84 * (1 - (float(similarity) + 1) / 2)
        self.g_adam.zero_grad()
        deceived.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        self.g_adam.step()
        self.kept = (generated, real, fake, deceived, loss)
        return loss.item()


def _against(probabilities: Tensor, answer: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(probabilities, torch.full_like(probabilities, answer))
