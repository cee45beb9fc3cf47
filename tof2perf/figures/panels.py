"""Panels that the figure notebooks arrange: axial views, lesion outlines, colour bars, the source, saving."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from nibabel import orientations

from tof2perf.maps import PerfusionMap
from tof2perf.system.files import write_bytes, write_json, write_text

SINGLE_MM, DOUBLE_MM = 85.0, 180.0  # one and two columns of a journal
INCH = 25.4
REAL, GENERATED, BOTH = "#56B4E9", "#E69F00", "#FFFFFF"  # Okabe and Ito's blue and orange, safe for the colour-blind
# Predictors in charts; grey is for the mean map, which never looks at the patient.
PREDICTORS = {"gan": GENERATED, "mean-map": "0.6", "oracle": "#009E73"}
MARKERS = {"gan": "o", "mean-map": "s", "oracle": "^"}
TAGS = {"simulated": ("SIMULATED", GENERATED), "own data": ("OWN DATA", REAL)}  # by how the source begins
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib, so every machine sets the same text
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.5,
    "lines.linewidth": 0.8,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "pdf.fonttype": 42,  # fonts are embedded as TrueType, text stays text
    "savefig.dpi": 400,
    "figure.dpi": 150,
    "figure.facecolor": "white",
}


def use_style() -> None:
    """Give all figures one look; called once a notebook."""
    plt.style.use(STYLE)


class AxialView:
    """Axial pictures of one patient in the radiological convention: the patient's left is on the picture's right.

    Args:
        affine: (4, 4) voxel indices to mm (RAS+ world). Whatever orientation it states is honoured.
        mask: (x, y, z) brain mask. Pictures are cropped to it, and what lies outside is not drawn.
        margin_mm: rim left around the brain.

    Attributes:
        size_mm: width and height of every picture of this patient.
        extent: left, right, lower and upper edge of a picture, mm from its middle.

    Raises:
        ValueError: an empty brain mask.
    """

    def __init__(self, affine: np.ndarray, mask: np.ndarray, *, margin_mm: float = 4.0) -> None:
        self._turn = orientations.ornt_transform(
            orientations.io_orientation(affine), orientations.axcodes2ornt(("L", "P", "S"))
        )
        self._mask = self._turned(np.asarray(mask) > 0)  # axes towards the patient's left, back and head
        if not self._mask.any():
            raise ValueError("the brain mask is empty, there is nothing to show; check the preprocessed mask")
        voxel_mm = nib.affines.voxel_sizes(affine)
        self._voxel_mm = np.array([voxel_mm[list(self._turn[:, 0]).index(axis)] for axis in range(3)])
        self._box = tuple(self._extent(axis, margin_mm) for axis in range(2))
        self.size_mm = tuple((self._box[axis].stop - self._box[axis].start) * self._voxel_mm[axis] for axis in range(2))
        width, height = self.size_mm
        self.extent = (-width / 2, width / 2, height / 2, -height / 2)

    def section(self, volume: np.ndarray, index: int) -> np.ma.MaskedArray:
        """Cut one slice: rows from front to back, columns from the patient's right to left."""
        return self._picture(self._turned(volume)[:, :, index], self._mask[:, :, index])

    def mip(self, volume: np.ndarray, index: int, *, slab_mm: float) -> np.ma.MaskedArray:
        """Project the maximum of a slab of ``slab_mm`` around a slice, brain only."""
        half = max(round(slab_mm / 2 / self._voxel_mm[2]), 1)
        slab = slice(max(index - half, 0), index + half + 1)
        brain = self._mask[:, :, slab]
        highest = np.where(brain, self._turned(volume)[:, :, slab], -np.inf).max(axis=2)
        inside = np.asarray(brain.any(axis=2))
        return self._picture(np.where(inside, highest, 0), inside)

    def level(self, fraction: float) -> int:
        """Return the slice at a fraction of the brain's height: 0 is its lowest, 1 its highest slice."""
        inside = np.flatnonzero(self._mask.any(axis=(0, 1)))
        return round(inside[0] + fraction * (inside[-1] - inside[0]))

    def widest(self, lesion: np.ndarray) -> int:
        """Return the slice in which a lesion is largest; without one that at 0.6 of the brain's height."""
        area = np.count_nonzero(self._turned(lesion), axis=(0, 1))
        return int(area.argmax()) if area.any() else self.level(0.6)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of a picture's columns and rows, mm from its middle."""
        counts = [box.stop - box.start for box in self._box]
        return tuple((np.arange(n) - (n - 1) / 2) * size for n, size in zip(counts, self._voxel_mm[:2], strict=True))

    def _turned(self, volume: np.ndarray) -> np.ndarray:
        return orientations.apply_orientation(np.asarray(volume), self._turn)

    def _extent(self, axis: int, margin_mm: float) -> slice:
        inside = np.flatnonzero(self._mask.any(axis=tuple({0, 1, 2} - {axis})))
        margin = math.ceil(margin_mm / self._voxel_mm[axis])
        return slice(max(inside[0] - margin, 0), min(inside[-1] + margin + 1, self._mask.shape[axis]))

    def _picture(self, plane: np.ndarray, inside: np.ndarray) -> np.ma.MaskedArray:
        return np.ma.masked_array(plane, mask=~inside)[self._box].T


def image_grid(
    views: Sequence[AxialView],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    width_mm: float = DOUBLE_MM,
    bars: str = "right",
    note_mm: float | Sequence[float] = 0.0,
    title_mm: float = 5.0,
) -> tuple[Figure, np.ndarray, np.ndarray]:
    """Make a sheet of equal picture frames, in true millimetres, with axes for colour bars and the source label.

    Args:
        views: all patients that will be shown; every frame has the size of the largest, so that scales are equal.
        rows: titles of the rows, at the left.
        columns: titles of the columns, at the top.
        label: source and profile, printed at the foot of the sheet.
        width_mm: width of the sheet.
        bars: ``right`` gives one colour-bar axis a row, ``below`` one a column, ``none`` none.
        note_mm: room for numbers below the pictures of each row, or one value for all rows.
        title_mm: room for the titles of the columns.

    Returns:
        figure, frames as (rows, columns) array of axes, bars as array of axes.
    """
    frame_mm = [max(view.size_mm[axis] for view in views) for axis in range(2)]
    gap, left, foot = 1.2, 5.0 + 2.5 * max(row.count("\n") for row in rows), 5.0
    right, below = (13.0 if bars == "right" else 1.0), (9.0 if bars == "below" else 0.0)
    width = (width_mm - left - right - gap * (len(columns) - 1)) / len(columns)
    height = width * frame_mm[1] / frame_mm[0]
    notes = np.broadcast_to(note_mm, len(rows))
    tops = title_mm + np.arange(len(rows)) * (height + gap) + np.cumsum([0, *notes[:-1]])
    height_mm = tops[-1] + height + notes[-1] + below + foot
    figure = plt.figure(figsize=(width_mm / INCH, height_mm / INCH))

    def place(x: float, y: float, w: float, h: float) -> Axes:  # mm from the upper left corner
        return figure.add_axes((x / width_mm, 1 - (y + h) / height_mm, w / width_mm, h / height_mm))

    frames = np.empty((len(rows), len(columns)), dtype=object)
    for i, j in np.ndindex(frames.shape):
        axis = place(left + j * (width + gap), tops[i], width, height)
        axis.set(xlim=(-frame_mm[0] / 2, frame_mm[0] / 2), ylim=(frame_mm[1] / 2, -frame_mm[1] / 2), facecolor="black")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        frames[i, j] = axis
    for axis, title in zip(frames[0], columns, strict=True):
        axis.set_title(title, pad=3)
    for axis, title in zip(frames[:, 0], rows, strict=True):
        axis.set_ylabel(title, labelpad=3)
    bottom = height_mm - foot - below
    places: dict[str, list[tuple[float, float, float, float]]] = {
        "right": [(width_mm - right + 2, top + 0.1 * height, 2, 0.8 * height) for top in tops],
        "below": [(left + j * (width + gap) + 0.1 * width, bottom + 1, 0.8 * width, 2) for j in range(len(columns))],
        "none": [],
    }
    sign(figure, label)
    return figure, frames, np.array([place(*where) for where in places[bars]], dtype=object)


def show(axis: Axes, view: AxialView, picture: np.ma.MaskedArray, *, colours: str, limits: tuple[float, float]) -> None:
    """Draw a picture into a frame with its middle in the frame's middle and mark the patient's sides."""
    palette = plt.get_cmap(colours).with_extremes(bad="black")
    style: dict[str, Any] = {"extent": view.extent, "interpolation": "nearest", "aspect": "auto", "cmap": palette}
    axis.imshow(picture.filled(np.nan), vmin=limits[0], vmax=limits[1], **style)
    axis.text(0.02, 0.97, "R", transform=axis.transAxes, color="white", fontsize=5.5, ha="left", va="top")
    axis.text(0.98, 0.97, "L", transform=axis.transAxes, color="white", fontsize=5.5, ha="right", va="top")


def show_map(
    axis: Axes,
    view: AxialView,
    volume: np.ndarray,
    entry: PerfusionMap,
    index: int,
    *,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw a slice of a perfusion map in its own colours, over its fixed range unless ``limits`` narrow it."""
    show(axis, view, view.section(volume, index), colours=entry.colormap, limits=limits or entry.bounds)


def tof_window(pictures: Sequence[np.ma.MaskedArray]) -> tuple[float, float]:
    """Choose one grey-scale window for several TOF pictures: from 0 to their 99.8th percentile."""
    brightest = np.percentile(np.concatenate([picture.compressed() for picture in pictures]), 99.8)
    return 0.0, max(round(float(brightest), 1), 0.1)


def map_window(entry: PerfusionMap, pictures: Sequence[np.ma.MaskedArray]) -> tuple[float, float]:
    """Choose one range of colours for several pictures: as many tenths of the map's range as 99.5 % of pixels need.

    At least four tenths, so that noise is not blown up to fill the colours.
    """
    low, high = entry.bounds
    top = np.percentile(np.concatenate([picture.compressed() for picture in pictures]), 99.5)
    tenths = min(max(math.ceil(10 * (top - low) / (high - low)), 4), 10)
    return low, low + tenths * (high - low) / 10


def outline(axis: Axes, view: AxialView, lesion: np.ndarray, index: int, *, colour: str, dashed: bool = False) -> None:
    """Draw the outline of a lesion mask in one slice; nothing where the slice has none."""
    inside = view.section(np.asarray(lesion, dtype=float), index).filled(0)
    if inside.any():
        style = (0, (2, 1)) if dashed else "solid"
        axis.contour(*view.centres(), inside, levels=[0.5], colors=[colour], linewidths=0.9, linestyles=[style])


def note(axis: Axes, text: str) -> None:
    """Print numbers below a picture."""
    axis.set_xlabel(text, fontsize=6, labelpad=1.5)


def scale_bar(axis: Axes, length_mm: float = 50.0) -> None:
    """Draw a bar of ``length_mm`` into the lower right corner of a frame."""
    right, bottom = axis.get_xlim()[1] - 5, axis.get_ylim()[0] - 5
    axis.plot([right - length_mm, right], [bottom, bottom], color="white", linewidth=1.2, solid_capstyle="butt")
    style: dict[str, Any] = {"color": "white", "fontsize": 5.5, "ha": "center", "va": "bottom"}
    axis.text(right - length_mm / 2, bottom - 2, f"{length_mm:g} mm", **style)


def colour_bar(axis: Axes, *, colours: str, limits: tuple[float, float], text: str, beyond: bool = False) -> None:
    """Fill an axis with a colour bar, upright or lying as the axis is shaped.

    Args:
        axis: where to draw.
        colours: name of the colour map.
        limits: values at its ends.
        text: quantity and unit.
        beyond: add the arrow that says that higher values share the last colour.
    """
    box = axis.get_window_extent()
    orientation = "vertical" if box.height > box.width else "horizontal"
    bar = axis.figure.colorbar(
        ScalarMappable(Normalize(*limits), colours),
        cax=axis,
        extend="max" if beyond else "neither",
        orientation=orientation,
        ticks=MaxNLocator(4, steps=[1, 2, 3, 4, 5, 10]),
    )
    bar.outline.set_linewidth(0.4)
    bar.set_label(text, labelpad=2)


def sign(figure: Figure, label: str) -> None:
    """Print source and profile at the foot of a figure, after a coloured tag for simulated or own data.

    A constrained layout leaves 5 mm for it.

    Args:
        figure: to sign.
        label: source and profile. Simulated data have an orange tag, the user's own a blue one. Published numbers and
            calculations have none.
    """
    width, height = figure.get_size_inches() * INCH
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.set(rect=(0, 5 / height, 1, 1 - 5 / height))
    style: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": 6.5}
    tag = next((tag for start, tag in TAGS.items() if label.startswith(start)), None)
    if tag is not None:
        box = {"facecolor": tag[1], "edgecolor": "none", "boxstyle": "square,pad=0.25"}
        figure.text(1.5 / width, 1.2 / height, tag[0], weight="bold", bbox=box, gid="tag", **style)
    start_mm = 1.5 if tag is None else 19.0
    figure.text(start_mm / width, 1.2 / height, label, style="italic", gid="source", **style)


def finish(figure: Figure, label: str) -> None:
    """Sign a figure on a page for students and show it."""
    figure.set_layout_engine("constrained")
    sign(figure, label)
    plt.show()


def choose(scores: pd.Series, *, higher_is_better: bool) -> list[tuple[str, str]]:
    """Choose the best, two average and the worst patient by the numbers.

    Average are the two patients whose score is nearest to the mean of all. With three patients one is average, with two
    there is best and worst, with one only that one.

    Args:
        scores: one number a patient, indexed by patient; nan is left out.

    Returns:
        (title, patient) from best to worst, each patient once; empty without patients.
    """
    ranked = scores.dropna().sort_values(ascending=not higher_is_better, kind="stable")
    if len(ranked) < 2:
        return [("only patient", patient) for patient in ranked.index]
    middle = (ranked.iloc[1:-1] - ranked.mean()).abs().sort_values(kind="stable").index[:2]
    between = [("average", patient) for patient in ranked.index if patient in middle]
    return [("best", ranked.index[0]), *between, ("worst", ranked.index[-1])]


def save_figure(figure: Figure, folder: Path, name: str, numbers: Mapping, *, caption: str) -> None:
    """Write ``<name>.pdf``, ``.png``, ``.json`` and ``.txt``, each atomically, the same bytes for the same figure.

    Args:
        figure: signed with its source (:func:`sign`).
        folder: where to write; made if missing.
        numbers: what the figure shows; nan becomes null.
        caption: explains the figure; written to ``<name>.txt`` with the source.

    Raises:
        ValueError: the figure does not state its source.
    """
    label = next((text.get_text() for text in figure.texts if text.get_gid() == "source"), None)
    if label is None:
        raise ValueError(f"figure '{name}' does not state its source; call sign(figure, label) before saving")
    metadata = {"pdf": {"CreationDate": None, "ModDate": None, "Title": f"{name} ({label})"}, "png": {"Software": None}}
    for kind, entries in metadata.items():
        rendered = io.BytesIO()
        figure.savefig(rendered, format=kind, metadata=entries)
        write_bytes(Path(folder) / f"{name}.{kind}", rendered.getvalue())
    write_json(Path(folder) / f"{name}.json", {"figure": name, "source": label, **_plain(numbers)})
    write_text(Path(folder) / f"{name}.txt", f"{' '.join(caption.split())} Source: {label}.\n")


def _plain(value: Any) -> Any:
    """Convert numbers to the types of JSON: no NumPy types, no nan."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
