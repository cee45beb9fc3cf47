"""From trained weights and a TOF to a perfusion map in physical units."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.weights import WeightsError, read_tensors
from tof2perf.maps import MAPS, TOF_BOUNDS, chosen_maps, denormalise, get_map, normalise


def load_generator(model_folder: Path, *, device: torch.device | str = "cpu") -> UNetGenerator:
    """Build the generator that ``generator.safetensors`` describes and load its weights, in eval mode.

    Raises:
        WeightsError: missing, damaged or foreign file.
    """
    path = Path(model_folder) / "generator.safetensors"
    try:
        tensors, header = read_tensors(path)
    except WeightsError as error:
        raise WeightsError(f"{error}; train the model first (02-train)") from None
    network, maps = SimpleNamespace(**header["network"]), len(chosen_maps(header["map"]))
    with torch.device("meta"):  # without memory for first weights: at full size they would take seconds and 0.7 GB
        generator = UNetGenerator.from_profile(network, maps=maps)
    generator.load_state_dict(tensors, assign=True)
    return generator.to(device).eval()


def generate(generator: UNetGenerator, tof: np.ndarray, mask: np.ndarray, map_name: str) -> np.ndarray:
    """Generate one map: :func:`generate_maps` of that map alone."""
    return generate_maps(generator, tof, mask, [map_name])[map_name]


def generate_maps(
    generator: UNetGenerator, tof: np.ndarray, mask: np.ndarray, map_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Generate maps in one pass of the network.

    Args:
        generator: network from :func:`load_generator`.
        tof: preprocessed TOF (x, y, z), in units of the patient's median brain intensity; the first axis runs left to
            right.
        mask: brain (x, y, z); outside it the map is 0, as the measured maps are.
        map_names: the map the generator was trained for; of a generator that makes all five, those wanted.

    Returns:
        float32 (x, y, z) in the map's unit, by name.

    Raises:
        ValueError: unknown map, or TOF and mask of different shapes.
    """
    entries = [get_map(name) for name in map_names]
    if tof.shape != mask.shape:
        raise ValueError(f"TOF {tof.shape} and brain mask {mask.shape} differ in shape: give both on one grid")
    device = next(generator.parameters()).device
    volume = torch.from_numpy(normalise(np.asarray(tof, dtype=np.float32), TOF_BOUNDS)).to(device)[None, None]
    with torch.no_grad():
        channels = generator(volume)[0]
    generated = {}
    for entry in entries:
        channel = channels[list(MAPS).index(entry.name) if len(channels) > 1 else 0].cpu().numpy()
        generated[entry.name] = np.where(mask > 0, denormalise(channel, entry.bounds), 0).astype(np.float32)
    return generated
