"""The five perfusion maps: name, unit, physical range, colour map, label, and the scaling to [-1, 1]."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

Values = TypeVar("Values", "np.ndarray", "torch.Tensor")

# TOF intensities have no unit. Preprocessing divides each TOF by the median of its own brain, so that parenchyma lies
# near 1 and inflowing blood near 2 to 3; this range (in medians) is mapped to [-1, 1]. Assumption, the same for all.
TOF_BOUNDS = (0.4, 2.4)


@dataclass(frozen=True)
class PerfusionMap:
    """One perfusion parameter.

    Attributes:
        name: key used in file names and tables.
        label: name as printed.
        unit: physical unit on disk and in figures.
        bounds: physical range that is mapped to [-1, 1] for the network; values outside are clipped. The ranges are
            fixed (assumption: they hold healthy tissue and severe hypoperfusion), so no split's extremes enter.
        colormap: Matplotlib name of a perceptually uniform colour map.
    """

    name: str
    label: str
    unit: str
    bounds: tuple[float, float]
    colormap: str

    @property
    def axis(self) -> str:
        """Label for an axis or colour bar, e.g. ``Tmax (s)``."""
        return f"{self.label} ({self.unit})"


MAPS: dict[str, PerfusionMap] = {
    entry.name: entry
    for entry in (
        PerfusionMap("tmax", "Tmax", "s", (0.0, 20.0), "inferno"),
        PerfusionMap("cbf", "CBF", "ml/100 g/min", (0.0, 120.0), "viridis"),
        PerfusionMap("cbv", "CBV", "ml/100 g", (0.0, 12.0), "cividis"),
        PerfusionMap("mtt", "MTT", "s", (0.0, 20.0), "plasma"),
        PerfusionMap("ttp", "TTP", "s", (0.0, 30.0), "magma"),
    )
}


def get_map(name: str) -> PerfusionMap:
    """Look a map up by name.

    Raises:
        ValueError: no such map; the message lists the known names.

    >>> get_map("tmax").axis
    'Tmax (s)'
    """
    if name not in MAPS:
        raise ValueError(f"unknown map '{name}': choose one of {', '.join(MAPS)}")
    return MAPS[name]


def chosen_maps(name: str) -> tuple[PerfusionMap, ...]:
    """The map of that name; of ``all``, the five of them, which one network can make at once.

    Raises:
        ValueError: no such map; the message lists the known names.

    >>> [entry.name for entry in chosen_maps("all")]
    ['tmax', 'cbf', 'cbv', 'mtt', 'ttp']
    """
    return tuple(MAPS.values()) if name == "all" else (get_map(name),)


def normalise(values: Values, bounds: tuple[float, float]) -> Values:
    """Map physical ``values`` (array or tensor, any shape) from ``bounds`` to [-1, 1]; values outside are clipped."""
    low, high = bounds
    return ((values - low) * (2.0 / (high - low)) - 1.0).clip(-1.0, 1.0)


def denormalise(values: Values, bounds: tuple[float, float]) -> Values:
    """Inverse of :func:`normalise` for values inside ``bounds``."""
    low, high = bounds
    return (values + 1.0) * ((high - low) / 2.0) + low
