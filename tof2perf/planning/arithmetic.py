"""What the networks cost before they run: operations, weights and kept values, counted on shapes without memory.

The networks of :mod:`tof2perf.gan.networks` themselves run on PyTorch's meta device, where tensors have a shape and no
content, so the count cannot differ from what they do; full size takes a tenth of a second.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tof2perf.gan.networks import PatchDiscriminator, UNetGenerator


class Arithmetic(NamedTuple):
    """Cost of one volume; operations are multiplications and additions of the convolutions alone.

    Attributes:
        step: operations of a training step, by layer of the generator (``down.0`` ..., ``up.0`` ..., ``output``) and
            ``discriminator``.
        forward: operations of one pass of the generator.
        weights: of both networks.
        generator_weights: of the generator.
        activations: values that leave the layers of both networks in one pass, which the backward pass needs.
    """

    step: dict[str, int]
    forward: int
    weights: int
    generator_weights: int
    activations: int


def count(
    network: Any,
    shape: tuple[int, ...],
    *,
    maps: int = 1,
    adversarial: bool = True,
    recompute: bool = False,
) -> Arithmetic:
    """Count one volume through forward pass, training step and memory.

    The passes are those of :meth:`tof2perf.gan.pix2pix.Pix2Pix.step`: the generator once forward and back, the
    discriminator forward and back for a real and a generated volume, and once more for the generator's sake.

    Args:
        network: profile section.
        shape: voxels (x, y, z).
        maps: how many are made at once.
        adversarial: whether a discriminator is trained.
        recompute: whether activations are computed again in the backward pass.
    """
    with torch.device("meta"):
        generator = UNetGenerator.from_profile(network, maps=maps, recompute=recompute)
        discriminator = PatchDiscriminator.from_profile(network, maps=maps)
        tof, target = torch.empty(1, 1, *shape), torch.empty(1, maps, *shape)
    kept = _values_leaving(generator, tof) + adversarial * _values_leaving(discriminator, tof, target)
    forward = FlopCounterMode(display=False)
    with torch.no_grad(), forward:
        generator(tof)
    alone, judged = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with alone:
        generated = generator(tof)
        generated.sum().backward()
    layers = {
        name.removeprefix("UNetGenerator.").removesuffix(".convolution"): sum(counts.values())
        for name, counts in alone.get_flop_counts().items()
        if name.endswith(".convolution")
    }
    layers["output"] = alone.get_total_flops() - sum(layers.values())
    if adversarial:
        with judged:
            for volume in (target, generated.detach()):
                discriminator(tof, volume).sum().backward()
            discriminator.requires_grad_(False)
            discriminator(tof, generated.detach().requires_grad_(True)).sum().backward()
    parts = [sum(weight.numel() for weight in part.parameters()) for part in (generator, discriminator)]
    return Arithmetic(
        step=layers | {"discriminator": judged.get_total_flops()},
        forward=forward.get_total_flops(),
        weights=sum(parts),
        generator_weights=parts[0],
        activations=kept,
    )


def _values_leaving(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Values that leave the innermost modules of a network, whose work is done by layers with weights."""
    found: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append(output.numel()))
        for module in network.modules()
        if not list(module.children()) and list(module.parameters())
    ]
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(found)
