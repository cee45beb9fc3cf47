"""Layers of the networks and the shapes of their outputs, for drawings."""

import torch
from torch import Tensor, nn


def blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name the layers that a drawing shows, in the order in which data pass them.

    Args:
        network: :class:`tof2perf.gan.networks.UNetGenerator` or ``PatchDiscriminator``.
    """
    layers = dict(network.named_children())
    downs = [(f"down {level}", block) for level, block in enumerate(layers["down"].children(), start=1)]
    if "up" not in layers:
        return [*downs, ("wide", layers["wide"]), ("logits", layers["output"])]
    ups = [*layers["up"].children(), layers["output"]]
    return [*downs, *((f"up {len(ups) - step}", block) for step, block in enumerate(ups))]


def layer_shapes(network: nn.Module, *volumes: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """Run a network once and read the shape of each layer's output.

    Args:
        network: generator or discriminator.
        volumes: what its ``forward`` takes, each (batch, channels, x, y, z).

    Returns:
        (name, (channels, x, y, z)) of the input and of every layer, in the order in which data pass them.
    """
    shapes = [("input", (sum(volume.shape[1] for volume in volumes), *volumes[0].shape[2:]))]
    hooks = [
        block.register_forward_hook(lambda _, __, output, name=name: shapes.append((name, tuple(output.shape[1:]))))
        for name, block in blocks(network)
    ]
    try:
        with torch.no_grad():
            network(*volumes)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
