"""Settings of a network and a training small enough for a test."""

import dataclasses

SHAPE = (16, 16, 8)


@dataclasses.dataclass(frozen=True)
class Network:
    levels: int = 3
    generator_filters: int = 2
    discriminator_filters: int = 2
    discriminator_layers: int = 1
    input: str = "tof"


@dataclasses.dataclass(frozen=True)
class Training:
    generator_rate: float = 2e-3
    discriminator_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    adversarial_weight: float = 1.0
    l1_weight: float = 100.0
    ssim_weight: float = 10.0
    flip: bool = True
    schedule: str = "linear"
    decay_from: float = 0.5
    criterion: str = "mae"
    initial_spread: float = 0.02
    device: str = "cpu"
    objective: str = "intended"
    batch: int = 1
    precision: str = "float32"
    checkpoint_activations: bool = False
    devices: int = 1
