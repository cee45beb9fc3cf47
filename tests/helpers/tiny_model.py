"""Weights of a tiny network, where training leaves them."""

import torch

from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.weights import write_tensors

SIZE = {"levels": 2, "generator_filters": 2, "input": "tof+mirror"}


def write_model(folder, map_name, *, seed=4):
    network = UNetGenerator(
        levels=2,
        filters=2,
        maps=5 if map_name == "all" else 1,
        mirrored=True,
        generator=torch.Generator().manual_seed(seed),
        spread=0.3,
    )
    write_tensors(folder / "generator.safetensors", network.state_dict(), {"network": SIZE, "map": map_name})
    return folder
