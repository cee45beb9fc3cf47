"""Drawings of networks show the shapes of the data that pass the real networks."""

import matplotlib.pyplot as plt
import torch
from helpers.cells import run_cells

from tof2perf.figures import networks, panels
from tof2perf.gan.networks import PatchDiscriminator, UNetGenerator


def test_layer_shapes_are_those_of_the_data_passing_the_real_network():
    volume = torch.zeros(1, 1, 16, 16, 8)
    assert networks.layer_shapes(UNetGenerator(levels=3, filters=4), volume) == [
        ("input", (1, 16, 16, 8)),
        ("down 1", (4, 8, 8, 4)),
        ("down 2", (8, 4, 4, 2)),
        ("down 3", (16, 2, 2, 1)),
        ("up 3", (8, 4, 4, 2)),
        ("up 2", (4, 8, 8, 4)),
        ("up 1", (1, 16, 16, 8)),
    ]
    assert networks.layer_shapes(PatchDiscriminator(filters=4, layers=1), volume, volume) == [
        ("input", (2, 16, 16, 8)),
        ("down 1", (4, 8, 8, 4)),
        ("wide", (8, 7, 7, 3)),
        ("logits", (1, 6, 6, 2)),
    ]


def test_reading_layer_shapes_leaves_no_hook_behind():
    network = UNetGenerator(levels=2, filters=2)
    networks.layer_shapes(network, torch.zeros(1, 1, 8, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_drawing_of_a_network_shows_every_shape():
    axis = plt.figure().add_subplot(xlim=(0, 100), ylim=(0, 100))
    layers = [("input", (1, 32, 32, 16)), ("down 1", (8, 16, 16, 8))]
    draw_layers = run_cells("06-figure1", "drawing")["draw_layers"]
    draw_layers(axis, layers, [(20, 50), (60, 50)], colours=["0.5", panels.REAL])
    assert [text.get_text() for text in axis.texts if text.get_text()] == ["1\n32×32×16", "8\n16×16×8"]
    assert len(axis.patches) == 6  # three faces a box
