"""Count what the networks cost before they run: operations, weights and stored values.

The networks of :mod:`tof2perf.gan.networks` run on PyTorch's meta device, where a tensor has a shape and no content.
So the count cannot differ from what they do, needs no memory, and takes a tenth of a second at full size.
"""

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from tof2perf.gan.networks import PatchDiscriminator, UNetGenerator


class Arithmetic(NamedTuple):
    """Cost of one volume; operations are multiplications and additions of the convolutions alone.

    Attributes:
        step: operations of a training step, by layer of the generator (``down.0`` ..., ``up.0`` ..., ``output``) and
            ``discriminator``.
        forward: operations of one pass of the generator.
        weights: of both networks.
        activations: values that leave the layers of both networks in one pass, which the backward pass needs.
    """

    step: dict[str, int]
    forward: int
    weights: int
    activations: int


def count(
    network: Any, shape: tuple[int, ...], *, maps: int = 1, adversarial: bool = True, recompute: bool = False
) -> Arithmetic:
    """Count one volume through :meth:`tof2perf.gan.pix2pix.Pix2Pix.step`.

    The generator runs once forward and back; the discriminator forward and back for a real and a generated volume, and
    once more for the generator's loss.

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
    activations: list[int] = []
    for layer in (*generator.modules(), *(discriminator.modules() if adversarial else ())):
        if not list(layer.children()) and list(layer.parameters()):
            layer.register_forward_hook(lambda _, __, output: activations.append(output.numel()))
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        generated = generator(tof)
    if adversarial:
        discriminator(tof, generated)
    kept = sum(activations)
    with FlopCounterMode(display=False) as generating:
        generator(tof).sum().backward()
    step = {
        name.removeprefix("UNetGenerator.").removesuffix(".convolution"): sum(counts.values())
        for name, counts in generating.get_flop_counts().items()
        if name.endswith(".convolution")
    }
    step["output"] = generating.get_total_flops() - sum(step.values())
    with FlopCounterMode(display=False) as judging:
        if adversarial:
            discriminator(tof, target).sum().backward()
            discriminator(tof, generated).sum().backward()
            discriminator.requires_grad_(False)
            discriminator(tof, generated.requires_grad_()).sum().backward()
    weights = sum(weight.numel() for part in (generator, discriminator) for weight in part.parameters())
    return Arithmetic(step | {"discriminator": judging.get_total_flops()}, forward.get_total_flops(), weights, kept)
