"""Drawings of networks: the output of each layer as a box, with arrows from box to box."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Polygon
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


def draw_layers(
    axis: Axes,
    layers: Sequence[tuple[str, tuple[int, ...]]],
    places: Sequence[tuple[float, float]],
    *,
    colours: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Draw the output of each layer of a network as a box, with arrows from box to box.

    A box's height and depth follow the number of voxels along the first and the last axis, its width the number of
    channels, all on a logarithmic scale.

    Args:
        axis: with data coordinates in mm.
        layers: (name, (channels, x, y, z)) in order, from :func:`layer_shapes`.
        places: (x, y) of the middle of each box, mm.
        colours: one a box.
        scale: factor on the size of all boxes.
    """
    before = None
    for (_, (channels, x, y, z)), (across, up), colour in zip(layers, places, colours, strict=True):
        width = scale * (0.8 + 0.5 * math.log2(channels))
        height, depth = (scale * (1.5 + 2.2 * math.log2(voxels)) for voxels in (x, z))
        _cuboid(axis, across, up, (width, height, 0.35 * depth), colour=colour)
        text = f"{channels}\n{x}×{y}×{z}"
        axis.text(across, up - height / 2 - 0.6, text, fontsize=5, ha="center", va="top", linespacing=1.1)
        if before is not None:
            arrow(axis, before, (across - width / 2 - 0.2, up))
        before = (across + width / 2 + 0.15 * depth, up)


def arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], *, colour: str = "black", dashed: bool = False
) -> None:
    """Draw an arrow between two points of a drawing."""
    style = {"arrowstyle": "-|>,head_length=0.25,head_width=0.12", "color": colour, "linewidth": 0.6}
    style |= {"linestyle": (0, (3, 2)) if dashed else "solid", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style, zorder=0.5)


def _cuboid(axis: Axes, x: float, y: float, size: tuple[float, float, float], *, colour: str) -> None:
    """Draw a box of width, height and depth whose front has its middle at (x, y)."""
    (width, height, depth), base = size, np.array(to_rgb(colour))
    left, right, low, high = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    faces = {
        0.0: [(left, low), (right, low), (right, high), (left, high)],
        0.5: [(left, high), (right, high), (right + depth, high + depth), (left + depth, high + depth)],
        0.25: [(right, low), (right + depth, low + depth), (right + depth, high + depth), (right, high)],
    }
    for lighter, corners in faces.items():
        axis.add_patch(Polygon(corners, facecolor=base + (1 - base) * lighter, edgecolor="black", linewidth=0.3))
