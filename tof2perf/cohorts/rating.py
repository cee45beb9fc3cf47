"""Blinded rating as in the paper: maps go out under pseudonyms, edited masks come back and are checked.

A rater saw 20 real and 20 generated Tmax maps under pseudonyms and in random order, began with Tmax > 6 s and removed
by hand what lies outside the hypoperfused area. Here maps and preliminary masks are written as NIfTI for any editor. A
key file in a folder of its own tells which case is which; the rater does not open it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes

from tof2perf.system.files import digest, write_json, write_text
from tof2perf.volumes.nifti import in_mask, inspect, list_images, read_mask, stem, write_volume

MASK, TMAX = "_mask.nii.gz", "_tmax.nii.gz"
INSTRUCTIONS = """\
Blinded rating of Tmax maps
===========================

For each case there is a map, case-XXXXXX_tmax.nii.gz (in s), and a preliminary mask, case-XXXXXX_mask.nii.gz, which is
Tmax > {threshold:g} s.

1. Open the map and load the mask as segmentation, in any editor that reads NIfTI (ITK-SNAP, 3D Slicer, FSLeyes).
2. Remove artefacts outside the hypoperfused area. Leave an empty mask if there is no lesion.
3. Save the mask under its own name, on its own grid, into the folder

       {returned}

4. When all {count} masks are there, run `make paper` (or `make dice`) again. Masks that are missing, misnamed or on
   another grid are named.

Cases are in random order. Please do not open the folder `sealed` before all masks are saved.
"""


class RatingError(ValueError):
    """Masks that cannot be used; the message names each in one line."""


@dataclass(frozen=True)
class Case:
    """One map to rate: patient, ``real`` or ``gan``, Tmax (x, y, z) in s, brain mask and affine."""

    patient: str
    kind: str
    tmax: np.ndarray
    brain: np.ndarray
    affine: np.ndarray


def export_cases(
    folder: Path, key_path: Path, cases: Iterable[Case], *, threshold_s: float, returned: str, rng: np.random.Generator
) -> list[str]:
    """Write maps and preliminary masks under pseudonyms, and the key apart from them.

    A pseudonym is drawn from a random salt and the map itself: its order says nothing, and a map that changes gets
    another one, so that masks of an older export are noticed.

    Args:
        folder: where the rater finds map, mask and instructions.
        key_path: JSON file that tells cases from pseudonyms; not in ``folder``.
        cases: the maps.
        threshold_s: of the preliminary masks.
        returned: folder that the edited masks belong into, as the instructions state it.
        rng: draws the salt.

    Returns:
        The pseudonyms in their order, which is random with respect to the cases.

    Raises:
        RatingError: the key would lie among the maps.
    """
    if Path(folder) in Path(key_path).parents:
        raise RatingError(f"{key_path}: the key lies among the maps that the rater sees; give it a folder of its own")
    salt = rng.bytes(16)
    key = {}
    for case in cases:
        tmax = np.where(case.brain, case.tmax, 0).astype(np.float32)
        name = "case-" + digest(salt + case.kind.encode() + tmax.tobytes())[:6]
        write_volume(Path(folder) / f"{name}{TMAX}", tmax, case.affine)
        write_volume(Path(folder) / f"{name}{MASK}", tmax > threshold_s, case.affine)
        key[name] = {
            "participant_id": case.patient,
            "kind": case.kind,
            "shape": list(tmax.shape),
            "affine": np.asarray(case.affine, dtype=float).tolist(),
        }
    names = sorted(key)
    text = INSTRUCTIONS.format(threshold=threshold_s, returned=returned, count=len(names))
    write_text(Path(folder) / "README.txt", text)
    write_json(Path(key_path), {"threshold_s": threshold_s, "cases": {name: key[name] for name in names}})
    return names


def collect_masks(folder: Path, key_path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Read what a rater has returned.

    Args:
        folder: with one edited mask for every case; may be missing or without images before the rating.
        key_path: the key of the export.

    Returns:
        Mask (x, y, z) bool by (patient, kind); empty before the rating.

    Raises:
        RatingError: masks that are missing, misnamed, on another grid or no masks, each by name; or no key.
    """
    images = list_images(Path(folder))
    if not images:
        return {}
    if not Path(key_path).is_file():
        raise RatingError(f"{key_path}: missing, the masks in {folder} cannot be told apart; export the cases first")
    cases = json.loads(Path(key_path).read_text(encoding="utf-8"))["cases"]
    returned, masks = {stem(path): path for path in images}, {}
    expected = {f"{name}_mask" for name in cases}
    problems = [f"{path.name} belongs to no case of this export" for path in images if stem(path) not in expected]
    for name, case in cases.items():
        try:
            masks[case["participant_id"], case["kind"]] = _read_mask(returned[f"{name}_mask"], case)
        except KeyError:
            problems.append(f"{name}{MASK} is missing")
        except RatingError as error:
            problems.append(str(error))
    if problems:
        raise RatingError(f"{folder}: {len(problems)} of the rater's masks cannot be used: {'; '.join(problems)}")
    return masks


def describe_edits(folder: Path, key_path: Path, exported: Path) -> list[dict[str, str | float]]:
    """Measure what the rater did to each preliminary mask, under its pseudonym.

    Args:
        folder: with the edited masks, all of them usable (:func:`collect_masks`).
        key_path: the key of the export.
        exported: folder of the export.

    Returns:
        A row a case: ``case``, ``preliminary_ml``, ``removed_ml``, ``added_ml``.
    """
    cases = json.loads(Path(key_path).read_text(encoding="utf-8"))["cases"]
    masks = collect_masks(folder, key_path)
    rows: list[dict[str, str | float]] = []
    for name, case in cases.items():
        image = read_mask(Path(exported) / f"{name}{MASK}")
        before, after = in_mask(image), masks[case["participant_id"], case["kind"]]
        ml = float(voxel_sizes(image.affine).prod() / 1000)
        numbers = {"preliminary": before, "removed": before & ~after, "added": after & ~before}
        rows.append({"case": name, **{f"{k}_ml": np.count_nonzero(v) * ml for k, v in numbers.items()}})
    return rows


def _read_mask(path: Path, case: dict) -> np.ndarray:
    """Read one mask on the grid of its case; an editor may have stored the axes in another order or direction."""
    image, findings = inspect(path, constant=True)
    if image is None:
        raise RatingError(f"{path.name} {next(finding.problem for finding in findings if finding.fatal)}")
    affine = np.array(case["affine"])
    turn = orientations.ornt_transform(orientations.io_orientation(image.affine), orientations.io_orientation(affine))
    turned = image.as_reoriented(turn)
    if list(turned.shape) != case["shape"] or not np.allclose(turned.affine, affine, atol=1e-2):
        raise RatingError(f"{path.name} lies on another grid than its map ({'x'.join(map(str, turned.shape))} voxels)")
    values = np.asarray(turned.dataobj)
    if len(set(np.unique(values).tolist()) - {0}) > 1 or values.min() < 0:
        raise RatingError(f"{path.name} is no mask: it holds more than 0 and one label")
    return in_mask(turned)
