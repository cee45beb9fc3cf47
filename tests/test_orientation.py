"""In whatever order of axes, voxel size, data type or format a patient is stored, the outcome in space is the same."""

import dataclasses
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.made_up_head import COHORT, MOTION, SETTINGS, head, images
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import inv_ornt_aff
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tof2perf import prediction
from tof2perf.cohorts import layout
from tof2perf.gan.networks import UNetGenerator
from tof2perf.gan.weights import write_tensors
from tof2perf.maps import MAPS
from tof2perf.preprocessing import preprocess
from tof2perf.preprocessing.training_range import RECORD
from tof2perf.system.files import write_json
from tof2perf.volumes import nifti
from tof2perf.volumes.hemispheres import left_right_axis
from tof2perf.volumes.nifti import write_volume

ORIENTATIONS = [
    np.column_stack([order, signs])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
KINDS = ("float32.nii.gz", "big-endian-scaled.nii", "float64.nii", "big-endian.nii.gz", "scaled.nii.gz")
STEP = {"tof": 1 / 16, "dscref": 1 / 16, "brain": 1.0} | dict.fromkeys(MAPS, 1 / 1024)  # exact in every data type
OFFSET = 2.0
COARSE = dataclasses.replace(
    SETTINGS, shape=(28, 32, 22), n4_mm=20.0, registration_mm=6.0
)  # forty-eight patients, and none is hard
NAMES = ("tof", "mask", *MAPS)
PATIENT = "sub-0001"

# Scans of one head: rotation (degrees about x, y, z), voxels (mm, gaps between slices included), shape, order of axes.
SCANS = {
    "sagittal slices 6 mm apart": ((0, 0, 0), (3.0, 3.5, 3.0), (66, 62, 54), ORIENTATIONS[19]),
    "axial slices 6 mm apart": ((0, 0, 0), (2.5, 2.5, 6.0), (66, 76, 26), ORIENTATIONS[5]),
    "oblique": ((15, -10, 20), (3.5, 3.5, 3.5), (54, 62, 46), ORIENTATIONS[0]),
    "oblique with long voxels, turned": ((-35, 5, 12), (2.5, 4.0, 5.0), (70, 54, 40), ORIENTATIONS[29]),
    "far from any axis": ((40, 35, -42), (3.5, 4.0, 3.5), (64, 56, 62), ORIENTATIONS[42]),
}


def store(path, image, kind, *, step):
    """Write an image, whose values are whole multiples of ``step``, in a file of some kind."""
    values = np.asarray(image.dataobj)
    header = nib.Nifti1Header(endianness=">" if "big-endian" in kind else "<")
    if "scaled" in kind:
        values = np.round((values - OFFSET) / step).astype(np.int16)
    header.set_data_dtype(np.float64 if "float64" in kind else values.dtype)
    stored = nib.Nifti1Image(values, image.affine, header)
    if "scaled" in kind:
        stored.header.set_slope_inter(step, OFFSET)
    path = path if kind.endswith(".gz") else path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(stored, path)


@pytest.fixture(scope="module")
def patient():
    """One patient's images, their values rounded to what every data type holds."""
    parts = images(np.random.default_rng(5))
    return {
        name: nib.Nifti1Image(np.round(np.asarray(part.dataobj) / STEP[name]) * np.float32(STEP[name]), part.affine)
        for name, part in parts.items()
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A generator of all maps that looks at left and right, with a record of how TOFs are prepared."""
    folder = tmp_path_factory.mktemp("weights") / "acute_all"
    network = UNetGenerator(
        levels=2, filters=2, maps=5, mirrored=True, generator=torch.Generator().manual_seed(4), spread=0.3
    )
    size = {"levels": 2, "generator_filters": 2, "input": "tof+mirror"}
    write_tensors(folder / "generator.safetensors", network.state_dict(), {"network": size, "map": "all"})
    record = {
        "run": "test",
        "source": "own data",
        "settings": dataclasses.asdict(COARSE),
        "intensity": "n4",
        "ranges": {},
        "skull_strip": [],
    }
    write_json(folder / RECORD, record)
    return folder


def prepared(folder, out):
    """Preprocess the patient; the volumes by name, as stored."""
    preprocess.preprocess_patient(folder, PATIENT, out, cohort=COHORT, settings=COARSE)
    return {name: nib.load(layout.preprocessed_path(out, PATIENT, name)) for name in NAMES}


def predicted(folder, weights, out):
    """Predict from the patient's TOF; the volumes by name, as stored."""
    made = prediction.predict(
        layout.file_path(folder, PATIENT, "tof"),
        weights,
        out,
        brain_mask=layout.file_path(folder, PATIENT, "brain"),
        progress=False,
    )
    return {name: nib.load(path) for name, path in made.paths.items()}


def write_turned(folder, parts, number):
    """Store every image of the patient in an order of axes and in a kind of file of its own."""
    for place, (name, image) in enumerate(parts.items()):
        turned = image.as_reoriented(ORIENTATIONS[(number + 17 * place) % 48])
        store(layout.file_path(folder, PATIENT, name), turned, KINDS[(number + place) % len(KINDS)], step=STEP[name])


@pytest.fixture(scope="module")
def upright(patient, weights, tmp_path_factory):
    """Outcome of preprocessing and prediction for the patient as it was scanned."""
    folder = tmp_path_factory.mktemp("upright")
    for name, image in patient.items():
        store(layout.file_path(folder, PATIENT, name), image, KINDS[0], step=STEP[name])
    return prepared(folder, folder / "out"), predicted(folder, weights, folder / "maps")


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.slow] if number % 6 else []) for number in range(48)]
)
def test_a_patient_stored_in_any_order_and_kind_of_file_gives_the_same_voxels(
    tmp_path, patient, weights, upright, number
):
    # The grids of this patient are exact in float32, so that turning it loses nothing: not a bit may differ.
    write_turned(tmp_path, patient, number)
    expected, maps = upright
    for name, image in prepared(tmp_path, tmp_path / "out").items():
        assert np.array_equal(image.affine, expected[name].affine), name
        assert np.array_equal(image.dataobj, expected[name].dataobj), name
    stored = nib.load(layout.file_path(tmp_path, PATIENT, "tof"))
    for name, image in predicted(tmp_path, weights, tmp_path / "maps").items():
        assert image.shape == stored.shape and np.array_equal(image.affine, stored.affine), name
        found = nib.as_closest_canonical(image)
        assert np.array_equal(found.affine, maps[name].affine), name
        assert np.array_equal(found.dataobj, maps[name].dataobj), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_what_its_name_says_and_read_alike(tmp_path, patient, kind):
    store(layout.file_path(tmp_path, PATIENT, "tof"), patient["tof"], kind, step=STEP["tof"])
    path = layout.file_path(tmp_path, PATIENT, "tof")
    stored = nib.load(path)
    assert path.name.endswith(kind[kind.index(".nii") :])
    assert stored.header.endianness == (">" if "big-endian" in kind else "<")
    assert stored.dataobj.slope == (STEP["tof"] if "scaled" in kind else 1)
    assert np.array_equal(nifti.read_volume(path).dataobj, patient["tof"].dataobj)


def test_the_turned_patients_differ_as_stored_and_left_is_not_right_in_the_outcome(patient, upright):
    shapes = {patient["tof"].as_reoriented(orientation).shape for orientation in ORIENTATIONS}
    assert len(shapes) == 6
    for image in (*upright[0].values(), upright[1]["tmax"]):
        values = np.asarray(image.dataobj, dtype=float)
        assert np.abs(values - values[::-1]).max() > 0.1


# --- oblique and anisotropic scans ----------------------------------------------------------------------------------


def scanned(rotation, voxel_mm, shape, orientation, *, motion=None):
    """Tissue, brain, scalp of the head on a grid around it that is turned in space, stored in some order of axes."""
    linear = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ np.diag(voxel_mm)
    affine = from_matvec(linear, (0, 0, 5) - linear @ (np.subtract(shape, 1) / 2))
    blank = nib.Nifti1Image(np.zeros(shape, np.float32), affine).as_reoriented(orientation)
    points = apply_affine(blank.affine, np.stack(np.indices(blank.shape), axis=-1))
    return blank.affine, head(points if motion is None else apply_affine(np.linalg.inv(motion), points))


def looked_up(image, points):
    """Values of an image at points in the world (mm)."""
    return ndimage.map_coordinates(
        np.asarray(image.dataobj, dtype=float), apply_affine(np.linalg.inv(image.affine), points).T, order=1
    )


def dice(image, points, brain):
    inside = looked_up(image, points) > 0.5
    return 2 * (inside & brain).sum() / (inside.sum() + brain.sum())


def outcome(folder, scan, weights, rng):
    """Preprocess a scan of the head and predict from it, with a generator that hands its input on."""
    rotation, voxel_mm, shape, orientation = scan
    affine, (tissue, brain, scalp) = scanned(rotation, voxel_mm, shape, orientation)
    tof = np.where(brain, 300 + 200 * tissue, 20.0) + 400 * scalp + rng.normal(0, 5, brain.shape)
    dsc_affine, (tissue, moved, _) = scanned(rotation[::-1], voxel_mm, shape, orientation[::-1], motion=MOTION)
    reference = np.where(moved, 900 - 400 * tissue**2, 10.0) + rng.normal(0, 5, moved.shape)
    parts = {"tof": (tof, affine), "brain": (brain, affine), "dscref": (reference, dsc_affine)}
    parts |= {name: (np.where(moved, k * (1 + tissue), 0), dsc_affine) for k, name in enumerate(MAPS, start=1)}
    for name, (values, place) in parts.items():
        write_volume(layout.file_path(folder, PATIENT, name), values, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "generate_maps", lambda _, tof, mask, names: dict.fromkeys(names, tof * mask))
        made = predicted(folder, weights, folder / "maps")
    assert np.allclose(made["cbf"].affine, affine) and made["cbf"].shape == brain.shape
    found = prepared(folder, folder / "out")
    return found | {"put back": made["cbf"], "mask put back": made["mask"]}


@pytest.fixture(scope="module")
def points():
    """A lattice of points around the head (mm); which lie in the brain, and which well inside it."""
    lattice = np.stack(np.meshgrid(*(np.arange(-90, 91, 4.0),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return lattice, head(lattice)[1], np.linalg.norm((lattice - (0, 0, 5)) / (58, 72, 52), axis=-1) < 0.8


@pytest.fixture(scope="module")
def fine(weights, tmp_path_factory):
    """Outcome of an upright scan with fine voxels."""
    scan = ((0, 0, 0), (3.0, 3.0, 3.0), (66, 72, 54), ORIENTATIONS[0])
    return outcome(tmp_path_factory.mktemp("fine"), scan, weights, np.random.default_rng(6))


@pytest.mark.parametrize("scan", SCANS)
def test_an_oblique_scan_shows_the_same_tissue_at_the_same_place(tmp_path, rng, weights, points, fine, scan):
    # The grid of the network fills another field of view for each scan, with voxels of 6 to 10 mm that average other
    # tissue, and registration leaves some tenths of a millimetre: the maps differed by up to 0.04 of their amplitude,
    # the TOF by 0.03. A head shifted by 6 mm would differ by 0.13 and 0.05, one whose left is right by 0.25 and 0.10.
    lattice, brain, deep = points
    found = outcome(tmp_path, SCANS[scan], weights, rng)
    for name in ("mask", "mask put back"):
        assert dice(found[name], lattice, brain) > 0.95
    for name in ("tof", "put back", *MAPS):
        amplitude, most = (1 + list(MAPS).index(name), 0.06) if name in MAPS else (1, 0.035)
        first, second = (looked_up(image[name], lattice[deep]) for image in (fine, found))
        assert np.abs(first - second).mean() / amplitude < most, name


def test_the_left_right_axis_of_a_prepared_scan_is_its_first_however_oblique_it_was(rng):
    for _ in range(200):
        linear = Rotation.random(random_state=rng).as_matrix() @ np.diag(rng.uniform(0.4, 6.0, 3))
        orientation = ORIENTATIONS[rng.integers(48)]
        affine = from_matvec(linear, rng.uniform(-90, 90, 3)) @ inv_ornt_aff(orientation, (4, 5, 6))
        image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine)
        assert left_right_axis(nib.as_closest_canonical(image).affine) == 0


def test_a_position_given_as_quaternion_alone_is_that_of_the_matrix(tmp_path, patient):
    image = patient["tof"].as_reoriented(ORIENTATIONS[30])
    linear = Rotation.from_euler("xyz", (10, 20, -30), degrees=True).as_matrix()
    turned = nib.Nifti1Image(np.asarray(image.dataobj), from_matvec(linear) @ image.affine)
    turned.set_qform(turned.affine, code=1)
    turned.set_sform(None, code=0)
    nib.save(turned, tmp_path / "quaternion.nii")
    read = nifti.read_volume(tmp_path / "quaternion.nii")
    assert np.allclose(read.affine, from_matvec(linear) @ image.affine, atol=1e-3)  # mm; it holds three float32 numbers
