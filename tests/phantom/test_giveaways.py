"""Nothing in a simulated scan depends on a diseased artery but through its flow."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from helpers.probe import pooled, probe
from scipy import ndimage, stats

from tof2perf.phantom import scanner
from tof2perf.phantom.disease import Disease, Lesion
from tof2perf.phantom.patient import Patient, draw_patient, patient_stream, scan_dsc, scan_tof
from tof2perf.profiles import load_profile

PROFILE = load_profile("smoke")
ACUTE = PROFILE.cohorts["acute"]
PHANTOM = replace(
    PROFILE.phantom,
    head_mm=4.0,
    branching_points=200,
    tof_shape=(60, 72, 32),
    tof_voxel_mm=(2.6, 2.7, 2.8),
    dsc_shape=(24, 24, 13),
    dsc_voxel_mm=(9.6, 9.6, 10.0),
)
HEALTHY = Disease("acute", (), hypoperfused_ml=0.0, collateral_start_s=0.3)


@cache
def scanned(disease: Disease) -> tuple[Patient, np.ndarray, np.ndarray]:
    """One patient with a disease, the TOF and the DSC series, simulated as all patients are."""
    rng = patient_stream((7, 1))
    patient = draw_patient(cohort=ACUTE, phantom=PHANTOM, rng=rng, disease=disease)
    tof_rng, dsc_rng = rng.spawn(2)
    tof = scan_tof(patient, phantom=PHANTOM, rng=tof_rng)
    return patient, tof, scan_dsc(patient, cohort=ACUTE, phantom=PHANTOM, rng=dsc_rng)[0]


def voxels_of(patient: Patient, nodes: np.ndarray) -> np.ndarray:
    """Voxels of the TOF (x, y, z) that hold a part of the edges above these nodes (n,) bool, with two voxels around.

    One voxel is for the blur, one for where in a vessel its points come to lie.
    """
    tree, (affine, _) = patient.tree, patient.grids(PHANTOM)
    position, radius_mm = patient.head.to_scanner(tree.position), np.where(nodes, tree.radius_mm, 0.0)
    share, _ = scanner.draw_vessels(
        tree.parent,
        radius_mm,
        position=position,
        radius_mm=radius_mm,
        affine=affine,
        shape=PHANTOM.tof_shape,
        rng=np.random.default_rng(0),
    )
    near = ndimage.binary_dilation(share > 0, np.ones((3, 3, 3)), iterations=2)
    for line, _ in tree.communicating.values():
        index = np.rint((patient.head.to_scanner(line) - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
        for x, y, z in index:
            near[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3] = True
    return near


@pytest.mark.parametrize(("site", "degree"), [("M1", 1.0), ("M2 superior", 1.0), ("ICA", 0.9)])
def test_the_same_patient_with_and_without_a_lesion_differs_in_the_affected_arteries_alone(site, degree):
    healthy, tof, series = scanned(HEALTHY)
    node = int(healthy.tree.trunk(f"left {site}")[3])
    lesion = Lesion(site.split()[0], "left", node, degree)
    ill, tof_ill, series_ill = scanned(replace(HEALTHY, lesions=(lesion,), hypoperfused_ml=60.0))

    for name in ("gm", "wm", "csf", "brain", "skull", "scalp", "affine"):
        assert np.array_equal(getattr(healthy.head, name), getattr(ill.head, name)), name
    assert np.array_equal(healthy.tree.position, ill.tree.position)
    assert np.array_equal(healthy.poses, ill.poses) and healthy.bolus == ill.bolus

    behind = healthy.tree.below(node)
    behind[healthy.tree.trunk(f"left {site}")] = True  # a stenosis is drawn a little upstream as well
    affected = voxels_of(healthy, behind)
    assert np.array_equal(tof[~affected], tof_ill[~affected])
    assert (tof != tof_ill).any() and affected.mean() < 0.25

    # Before the bolus nobody can tell; afterwards only tissue and arteries whose flow has changed differ.
    early = int(healthy.bolus.arrival_s / ACUTE.repetition_time_s) + 1
    assert np.array_equal(series[..., :early], series_ill[..., :early])
    _, affine = healthy.grids(PHANTOM)
    far = affine[0, 3] + affine[0, 0] * np.arange(series.shape[0]) > 45.0  # arrival times are smoothed over 32 mm
    assert np.array_equal(series[far], series_ill[far]) and not np.array_equal(series, series_ill)


def test_an_artery_that_is_open_again_leaves_no_trace_in_the_tof():
    healthy, tof, _ = scanned(HEALTHY)
    lesion = Lesion("M1", "left", int(healthy.tree.trunk("left M1")[3]), 1.0, open_again=True)
    assert np.array_equal(tof, scanned(replace(HEALTHY, lesions=(lesion,), hypoperfused_ml=60.0))[1])


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TOFs of 48 patients as drawn, the same with their vessels as in health (48, x, y, z), and the side (48,).

    The side is -1 left, 1 right, 0 for no lesion.
    """
    disease = replace(ACUTE.disease, sites={"none": 0.3, "M1": 0.7}, occluded=1.0, good_collaterals=1.0)
    rules = replace(ACUTE, disease=disease)
    drawn, replaced, sides = [], [], []
    for number in range(48):
        patient = draw_patient(cohort=rules, phantom=PHANTOM, rng=patient_stream((7, number)))
        tof, healthy = (
            scan_tof(one, phantom=PHANTOM, rng=patient_stream((8, number))).astype(np.float32)
            for one in (patient, replace(patient, disease=HEALTHY))
        )
        vessels = voxels_of(patient, np.ones(len(patient.tree.parent), dtype=bool))
        drawn.append(tof)
        replaced.append(np.where(vessels, healthy, tof))
        sides.append({"left": -1, "right": 1}[patient.disease.lesions[0].side] if patient.disease.lesions else 0)
    return np.array(drawn), np.array(replaced), np.array(sides)


def test_a_linear_probe_finds_the_side_of_a_lesion_by_the_vessels(cohort):
    drawn, _, sides = cohort
    assert lower_bound(drawn, sides, "side") > 0.5


@pytest.mark.parametrize("question", ["side", "presence"])
def test_without_the_vessels_a_linear_probe_is_no_better_than_chance(cohort, question):
    _, replaced, sides = cohort
    assert lower_bound(replaced, sides, question) <= 0.5


def lower_bound(tofs: np.ndarray, sides: np.ndarray, question: str) -> float:
    """Lower end of the 95 % interval of a linear probe's accuracy at the side or the presence of a lesion."""
    if question == "side":
        tofs, labels = tofs[sides != 0], sides[sides != 0] > 0
    else:
        labels = sides != 0
    right = probe(pooled(tofs, mirrored=question == "side"), labels)
    return stats.binomtest(int(right.sum()), len(right)).proportion_ci().low
