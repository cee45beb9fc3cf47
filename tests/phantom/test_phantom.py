"""The phantom: physics and geometry that must hold whatever the seed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, signal, stats

from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.perfusion import dsc
from tof2perf.perfusion.dsc import analyse_series
from tof2perf.phantom import bolus as boluses
from tof2perf.phantom import patient as phantom_patient
from tof2perf.phantom import scanner
from tof2perf.phantom.cohort import simulate_cohort
from tof2perf.phantom.disease import Disease, Lesion, circulate, draw_disease
from tof2perf.phantom.haemodynamics import GM_CBF, HYPOPERFUSED_DELAY_S, WM_CBF, true_perfusion
from tof2perf.phantom.head import load_template, make_head
from tof2perf.phantom.patient import rigid, simulate_patient
from tof2perf.phantom.vessels import compartment, grow_tree
from tof2perf.profiles import load_profile
from tof2perf.volumes import nifti

HEALTHY = Disease("acute", (), hypoperfused_ml=0.0, collateral_start_s=0.3)


def tissue_points(count: int, seed: int = 5) -> np.ndarray:
    template = load_template()
    demand = (GM_CBF * template.gm + WM_CBF * template.wm).ravel()
    chosen = np.random.default_rng(seed).choice(demand.size, count, p=demand / demand.sum(dtype=float))
    voxels = np.stack(np.unravel_index(chosen, template.gm.shape), axis=1)
    return voxels @ template.affine[:3, :3].T + template.affine[:3, 3]


@pytest.fixture(scope="module")
def tree():
    settling = load_template().towards_csf
    return grow_tree(tissue=tissue_points(800), towards_csf=settling, rng=np.random.default_rng(5))


@pytest.fixture(scope="module")
def head():
    return make_head(spacing_mm=4.0, rng=np.random.default_rng(5))


def m1_occlusion(tree, *, side="left", ml=100.0, open_again=False) -> Disease:
    return Disease("acute", (Lesion("M1", side, tree.trunk(f"{side} M1")[2], 1.0, open_again),), ml, 0.3)


def test_tissue_fractions_of_a_head_sum_to_one_inside_the_brain(head):
    assert np.allclose((head.gm + head.wm + head.csf)[head.brain], 1.0, atol=1e-5)
    assert head.gm.min() >= 0 and head.wm.min() >= 0


def test_scanner_and_template_space_are_inverse(head, rng):
    points = rng.uniform(-60, 60, (200, 3))
    assert np.abs(head.to_template(head.to_scanner(points)) - points).max() < 0.01


def test_brain_volume_is_that_of_an_adult(head):
    assert 1000 < head.brain.sum() * 4.0**3 / 1000 < 1900  # ml


def test_parents_come_before_children_and_every_node_reaches_an_inlet(tree):
    assert (tree.parent < np.arange(len(tree.parent))).all()
    assert (tree.parent < 0).sum() == 3


def test_radii_obey_murrays_law_at_every_fork_above_the_circle(tree):
    cubed = np.bincount(tree.parent[tree.parent >= 0], tree.radius_mm[tree.parent >= 0] ** 3, len(tree.parent))
    inner = np.setdiff1d(np.arange(len(cubed)), tree.leaves)
    carotid = [tree.names.index(f"{side} ICA") for side in ("left", "right")]
    inner = inner[~np.isin(tree.segment[inner], carotid)]
    assert np.allclose(cubed[inner], tree.radius_mm[inner] ** 3)


def test_flow_is_conserved_at_every_fork(tree):
    children = np.bincount(tree.parent[tree.parent >= 0], tree.flow_ml_s[tree.parent >= 0], len(tree.parent))
    inner = np.setdiff1d(np.arange(len(children)), tree.leaves)
    assert np.allclose(children[inner], tree.flow_ml_s[inner])


@pytest.mark.parametrize(("name", "ml_per_min"), [("M1", 0.21 * 717), ("A1", 0.12 * 717), ("P1", 0.08 * 717)])
def test_flow_of_the_large_arteries_is_near_the_measured_one(tree, name, ml_per_min):
    # doi 10.1038/jcbfm.2014.241; the tree is grown, not fitted, so a factor of 1.7 is allowed
    flow = 60 * np.mean([tree.flow_ml_s[tree.trunk(f"{side} {name}")[0]] for side in ("left", "right")])
    assert ml_per_min / 1.7 < flow < ml_per_min * 1.7


def test_branches_do_not_cross_the_falx(tree):
    grown = np.arange(tree.trunk_nodes, len(tree.parent))
    for side, sign in (("left", -1), ("right", 1)):
        own = [
            k for k in grown if tree.names[tree.segment[k]].startswith(side) and "CA" not in tree.names[tree.segment[k]]
        ]
        assert (sign * tree.position[own, 0] > -6.0).mean() > 0.99


def test_compartments_of_mirrored_points_are_mirrored(rng):
    points = rng.uniform(-60, 60, (500, 3))
    here, there = compartment(points), compartment(points * [-1, 1, 1])
    assert np.array_equal(np.where(here == 2, 2, 1 - here), there)


def test_no_disease_supplies_everything(tree):
    assert np.array_equal(circulate(tree, HEALTHY).supply, np.ones(len(tree.parent)))


def test_an_m1_occlusion_starves_its_own_side_only(tree):
    supply = circulate(tree, m1_occlusion(tree)).supply
    assert supply[tree.trunk("left M2 superior")].max() == 0.0
    assert supply[tree.trunk("right M2 superior")].min() == 1.0
    assert supply[tree.trunk("left A1")].min() == 1.0


def test_the_circle_of_willis_feeds_beyond_a_carotid_occlusion(tree):
    blocked = Disease("acute", (Lesion("ICA", "left", tree.trunk("left ICA")[12], 1.0),), 0.0, 0.3)
    line = tree.communicating["ACom"][0]
    wide = replace(tree, communicating=dict.fromkeys(tree.communicating, (line, 0.9)))
    narrow = replace(tree, communicating=dict.fromkeys(tree.communicating, (line, 0.2)))
    target = tree.trunk("left M1")[0]
    assert circulate(wide, blocked).supply[target] == 1.0
    assert circulate(narrow, blocked).supply[target] == 0.0


def test_a_tighter_stenosis_never_passes_more(tree):
    node = tree.trunk("left M1")[2]
    passed = [
        circulate(tree, Disease("acute", (Lesion("M1", "left", node, degree),), 0.0, 0.3)).supply[node]
        for degree in (0.0, 0.4, 0.6, 0.8, 0.95, 1.0)
    ]
    assert passed[0] == 1.0 and passed[-1] == 0.0 and (np.diff(passed) <= 0).all()


def test_blood_that_crosses_the_circle_comes_later_and_is_still_seen(tree):
    open_front = {name: (line, 0.9 if name == "ACom" else 0.2) for name, (line, _) in tree.communicating.items()}
    wide = replace(tree, communicating=open_front)
    blocked = Disease("acute", (Lesion("ICA", "left", tree.trunk("left ICA")[12], 1.0),), 0.0, 0.3)
    target = tree.trunk("left M1")[-1]
    healthy, crossing = (circulate(wide, disease).arrival_s(wide) for disease in (HEALTHY, blocked))
    assert healthy[target] + 0.05 < crossing[target] < healthy[target] + 1.0
    pulses = scanner.pulses_seen(wide, blocked, wide.position[:, 2], np.array([-70.0]))
    assert np.isfinite(pulses[target]) and np.isinf(pulses[tree.trunk("left ICA")[-2]])


def test_arrival_grows_from_parent_to_child(tree):
    arrival = circulate(tree, HEALTHY).arrival_s(tree)
    below = tree.parent >= 0
    assert (arrival[below] > arrival[tree.parent[below]]).all()


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"course": "flu"}, "unknown course 'flu'"),
        ({"sites": {"M1": 0.5}}, "shares of the sites sum to 0.5"),
        ({"sites": {"M9": 1.0}, "hypoperfused_ml": {"M9": 1.0}}, "unknown site 'M9'"),
        ({"sites": {"M1": 1.0}, "hypoperfused_ml": {}, "good_collaterals": 0.0}, "no volume for the site 'M1'"),
    ],
)
def test_distributions_that_make_no_sense_are_an_error(tree, rng, change, remark):
    with pytest.raises(ValueError, match=remark):
        draw_disease(tree, replace(load_profile("laptop").cohorts["acute"].disease, **change), rng=rng)


@pytest.mark.parametrize("cohort", ["acute", "pegasus"])
def test_diseases_are_drawn_at_the_rates_of_the_profile(tree, rng, cohort):
    profile = load_profile("laptop").cohorts[cohort].disease
    drawn = [draw_disease(tree, profile, rng=rng) for _ in range(1500)]
    first = [disease.lesions[0] for disease in drawn if disease.lesions]
    # Four standard errors of a share of 1,500 are at most 0.052.
    assert np.mean([not disease.lesions for disease in drawn]) == pytest.approx(profile.sites.get("none", 0), abs=0.052)
    assert np.mean([len(disease.lesions) > 1 for disease in drawn]) == pytest.approx(profile.bilateral, abs=0.052)
    for site in set(profile.sites) - {"none", "recanalised", "M1", "M2"}:
        assert np.mean([lesion.site == site for lesion in first]) == pytest.approx(profile.sites[site], abs=0.06)
    assert np.mean([lesion.degree >= 1 for lesion in first]) == pytest.approx(profile.occluded, abs=0.06)
    assert np.mean([lesion.open_again for lesion in first]) == pytest.approx(
        profile.sites.get("recanalised", 0), abs=0.03
    )
    volumes = [disease.hypoperfused_ml for disease in drawn if disease.lesions and disease.lesions[0].site == "M1"]
    volumes = [volume for volume in volumes if volume > 0]
    assert np.median(volumes) == pytest.approx(profile.hypoperfused_ml["M1"], rel=0.25)
    assert np.log(volumes).std() == pytest.approx(profile.hypoperfused_spread, rel=0.15)


def test_the_hypoperfused_volume_is_the_one_drawn_and_never_falls_when_more_is_wanted(head, tree):
    delays = [
        true_perfusion(head, tree, m1_occlusion(tree, ml=ml), rng=np.random.default_rng(1)).delay
        for ml in (0.0, 40.0, 120.0)
    ]
    volumes = [(delay > HYPOPERFUSED_DELAY_S).sum() * 4.0**3 / 1000 for delay in delays]
    assert volumes == pytest.approx([0.0, 40.0, 120.0], abs=12.0)
    assert (delays[1] - delays[0]).min() > -1e-4 and (delays[2] - delays[1]).min() > -1e-4


def test_the_deficit_lies_in_the_territory_of_the_blocked_artery(head, tree):
    truth = true_perfusion(head, tree, m1_occlusion(tree, ml=150.0), rng=np.random.default_rng(1))
    lesion = truth.tmax() > 6.0
    x = (np.argwhere(lesion) @ head.affine[:3, :3].T + head.affine[:3, 3])[:, 0]
    assert lesion.sum() * 4.0**3 / 1000 > 30  # ml
    assert (x < 0).mean() > 0.95
    healthy = head.brain & (truth.supply > 0.95) & (truth.cbf > 0)
    assert truth.transit_shape > 0 and truth.collateral_grade in ("good", "moderate", "poor")
    assert truth.cbf[lesion].mean() < 0.75 * truth.cbf[healthy].mean()
    assert truth.mtt[lesion].mean() > 1.2 * truth.mtt[healthy].mean()


def test_healthy_perfusion_lies_in_the_published_ranges(head, tree):
    truth = true_perfusion(head, tree, HEALTHY, rng=np.random.default_rng(1))
    grey, white = (head.gm > 0.85) & head.brain, (head.wm > 0.95) & head.brain
    assert 40 < truth.cbf[grey].mean() < 62 and 16 < truth.cbf[white].mean() < 30
    assert 3.7 < truth.cbv[grey].mean() < 5.4 and 1.6 < truth.cbv[white].mean() < 2.4
    assert truth.delay[head.brain].max() < 3.0


def test_perfusion_maps_are_related_by_the_central_volume_theorem(head, tree):
    truth = true_perfusion(head, tree, m1_occlusion(tree), rng=np.random.default_rng(1))
    inside = truth.cbf > 1
    assert np.allclose(truth.mtt[inside], 60 * truth.cbv[inside] / truth.cbf[inside], rtol=1e-4)


def test_true_tmax_is_the_peak_of_the_dispersed_residue(head, tree):
    # Two exponentials, dispersion d and transit time m, peak at log(m / d) d m / (m - d); a delay adds to it.
    truth = replace(true_perfusion(head, tree, m1_occlusion(tree), rng=np.random.default_rng(1)), transit_shape=1.0)
    late = (truth.dispersion > 0.2) & (truth.cbf > 0) & (np.abs(truth.mtt - truth.dispersion) > 0.1)
    d, m = truth.dispersion[late], truth.mtt[late]
    assert np.abs(truth.tmax()[late] - truth.delay[late] - np.log(m / d) * d * m / (m - d)).max() < 0.08
    sharp = (truth.dispersion == 0) & (truth.cbf > 0)
    assert np.array_equal(truth.tmax()[sharp], truth.delay[sharp])


def test_trunks_run_through_the_spaces_that_the_template_has(tree):
    template = load_template()
    csf = template.brain - template.gm - template.wm
    assert 0.15 < csf.sum() / template.brain.sum() < 0.25
    index = (tree.position[: tree.trunk_nodes] - template.affine[:3, 3]) @ np.linalg.inv(template.affine[:3, :3])
    fluid = ndimage.map_coordinates(csf, index.T, order=1)
    for name, least in (("M1", 0.6), ("A1", 0.6), ("A2", 0.35), ("M2 superior", 0.35), ("M2 inferior", 0.35)):
        nodes = np.concatenate([tree.trunk(f"{side} {name}") for side in ("left", "right")])
        assert fluid[nodes].mean() > least, name


def test_settings_of_the_scanner_change_what_they_say(head, tree):
    shape = (36, 44, 24)
    affine = scanner.grid_affine(shape, (5.0, 5.0, 5.0), (0.0, -18.0, 8.0))
    brain = scanner.resample(head.brain.astype(np.float32), head.affine, affine, shape) > 0.9

    def tof(**changes) -> np.ndarray:
        settings = replace(scanner.NOMINAL, **changes)
        rng = np.random.default_rng(2)
        image = scanner.acquire_tof(
            head, tree, HEALTHY, affine=affine, shape=shape, snr=1000.0, settings=settings, rng=rng
        )
        return image / np.median(image[brain])

    plain = tof()
    assert (tof(suppression=0.3)[brain] > 1.5).sum() > 1.2 * (plain[brain] > 1.5).sum()  # blood is brighter than tissue
    assert tof(blur_mm=6.0)[brain].max() < plain[brain].max()
    assert tof(shading=0.0)[brain].std() < plain[brain].std() < tof(shading=0.3)[brain].std()
    assert tof(noise=60.0)[brain].std() > plain[brain].std()
    faces = np.round((scanner.NOMINAL.slab_bottoms_mm(-54.5, 120.0)[1:] + 52.0) / 5.0).astype(int)
    dip = (tof(slab_dip=0.3) - plain).mean(axis=(0, 1))
    assert set(np.argsort(dip)[:4]) >= {int(face) for face in faces}


def test_inflow_gives_the_blood_to_white_matter_ratios_of_the_steady_state_model():
    # 3.2, 2.5, 2.0, 1.4, 0.89 and 0.69 at TR 22 ms and 18 degrees for 0, 5, 10, 20, 40 and infinitely many pulses
    ratio = scanner.blood_signal(np.array([0, 5, 10, 20, 40, np.inf])) / scanner.steady_state("wm")
    assert np.allclose(ratio, [3.2, 2.5, 2.0, 1.4, 0.89, 0.69], rtol=0.06)


def test_blood_behind_an_occlusion_is_saturated_and_before_it_is_not(head, tree):
    height = head.to_scanner(tree.position)[:, 2]
    slabs = np.array([-45.0, -15.0, 15.0])
    healthy = scanner.pulses_seen(tree, HEALTHY, height, slabs)
    blocked = scanner.pulses_seen(tree, m1_occlusion(tree), height, slabs)
    assert np.isinf(blocked[tree.trunk("left M2 inferior")]).all()
    assert np.array_equal(blocked[tree.trunk("left ICA")], healthy[tree.trunk("left ICA")])
    assert np.isfinite(healthy).all()


def test_a_recanalised_artery_looks_healthy_in_the_tof(head, tree):
    height = head.to_scanner(tree.position)[:, 2]
    slabs = np.array([-45.0, -15.0, 15.0])
    assert np.array_equal(
        scanner.pulses_seen(tree, m1_occlusion(tree, open_again=True), height, slabs),
        scanner.pulses_seen(tree, HEALTHY, height, slabs),
    )


def test_a_rendered_vessel_keeps_its_volume_however_coarse_the_grid(tree, rng):
    volumes = []
    for voxel in (2.0, 4.0):
        shape = tuple(int(240 / voxel) for _ in range(3))
        affine = scanner.grid_affine(shape, (voxel,) * 3, (0.0, -18.0, 0.0))
        radius = np.full(len(tree.parent), 0.3)
        fraction, value = scanner.draw_vessels(
            tree.parent,
            np.full(len(radius), 7.0),
            position=tree.position,
            radius_mm=radius,
            affine=affine,
            shape=shape,
            rng=rng,
        )
        volumes.append(fraction.sum() * voxel**3)
        assert np.allclose(value[fraction > 1e-6], 7.0, rtol=1e-4)
    expected = (np.pi * 0.3**2 * tree.length_mm()).sum()
    assert np.allclose(volumes, expected, rtol=0.03)


def test_noise_is_rician_in_tissue_and_rayleigh_in_air(rng):
    signal, sigma = np.zeros((30, 30, 30), dtype=np.float32), 300.0
    signal[:10], signal[10:20] = 400.0, 0.5  # where a signal is next to nothing, both say the same
    measured = scanner._magnitude(signal, sigma, rng)
    for rows, level in ((slice(0, 10), 400.0), (slice(10, 20), 0.5), (slice(20, 30), 0.0)):
        expected = stats.rice(level / sigma, scale=sigma)
        low, high = np.rint(expected.ppf([0.1, 0.9]))
        assert np.isclose(measured[rows].mean(), expected.mean(), rtol=0.03)
        assert np.isclose(np.mean((measured[rows] >= low) & (measured[rows] <= high)), 0.8, atol=0.02)


def test_aligned_and_turned_grids_are_sampled_alike(rng):
    volume = rng.random((12, 10, 8)).astype(np.float32)
    source, target = np.diag([2.0, 2.0, 2.0, 1.0]), np.diag([1.5, 1.1, 2.6, 1.0])
    target[:3, 3] = 1.0, 2.0, 0.5
    turned = target.copy()
    turned[0, 1] = 1e-4  # enough not to count as aligned
    straight = scanner.resample(volume, source, target, (11, 12, 6))
    assert np.abs(straight - scanner.resample(volume, source, turned, (11, 12, 6))).max() < 2e-3
    assert straight.std() > 0.1


@pytest.mark.parametrize("shape", [1.0, 2.5])
def test_tissue_curves_equal_a_direct_convolution(rng, shape):
    arterial = boluses.Bolus(arrival_s=15.0, scale_s=1.5, peak_rate=300.0)
    cbf, mtt, delay, blur = (rng.uniform(*bounds, 20) for bounds in ((10, 70), (2, 12), (0, 8), (0.3, 4)))
    times, fine = 1.4 * np.arange(60), 0.005
    ours = boluses.tissue_curves(
        arterial, cbf=cbf, mtt=mtt, delay=delay, dispersion=blur, times=times, transit_shape=shape
    )
    t = np.arange(0, times[-1] + 1, fine)
    for k in range(20):
        residue = stats.gamma.sf(t, shape, scale=mtt[k] / shape)
        blurred = signal.fftconvolve(arterial(t - delay[k]), np.exp(-t / blur[k]) / blur[k])[: len(t)] * fine
        curve = cbf[k] / (6000 * dsc.KAPPA) * signal.fftconvolve(blurred, residue)[: len(t)] * fine
        expected = np.interp(times, t, curve)
        assert np.abs(ours[k] - expected).max() < 0.01 * expected.max()


def test_a_later_bolus_only_shifts_the_curve():
    arterial = boluses.Bolus(10.0, 1.5, 300.0)
    same = {"cbf": np.full(2, 50.0), "mtt": np.full(2, 5.0), "dispersion": np.zeros(2), "times": np.arange(50.0)}
    early, late = boluses.tissue_curves(arterial, delay=np.array([0.0, 3.0]), **same)
    assert np.allclose(early[:-3], late[3:], atol=0.01 * early.max())


def test_signal_drop_of_grey_matter_is_about_forty_per_cent():
    arterial = boluses.Bolus(10.0, boluses.SCALE_S, boluses.PEAK_RATE_1_S)
    one = {"cbf": np.array([60.0]), "mtt": np.array([4.0]), "delay": np.zeros(1), "dispersion": np.zeros(1)}
    rate = boluses.tissue_curves(arterial, **one, times=0.5 * np.arange(100))
    assert 0.33 < 1 - np.exp(-0.036 * rate.max()) < 0.47
    floor = np.exp(-0.036 * boluses.ARTERIAL_CALIBRATION * boluses.PEAK_RATE_1_S)
    assert 0.2 < floor < 0.3  # where an artery fills what it can; about 0.4 where it fills two thirds of that
    assert 0.35 < floor**0.65 < 0.45


@pytest.fixture(scope="module")
def smoke_patient(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    profile = load_profile("smoke")
    simulate_patient(folder, "sub-0001", cohort=profile.cohorts["acute"], phantom=profile.phantom, seed=(1, 2, 3))
    return folder, profile


def test_a_patient_has_all_files_of_the_contract(smoke_patient):
    folder, profile = smoke_patient
    tof = nifti.read_volume(layout.file_path(folder, "sub-0001", "tof"))
    series = nifti.read_volume(layout.file_path(folder, "sub-0001", "dsc"), ndim=4)
    assert tof.shape == profile.phantom.tof_shape
    assert series.shape == (*profile.phantom.dsc_shape, profile.cohorts["acute"].frames)
    assert all(layout.file_path(folder, "sub-0001", name).is_file() for name in MAPS)
    for name in ("brain", "cbf", "cbv", "mtt", "delay", "tmax", "motion"):
        assert layout.truth_path(folder, "sub-0001", name).is_file()


def test_same_seed_gives_the_same_bytes_and_a_finished_patient_is_kept(smoke_patient, tmp_path):
    folder, profile = smoke_patient
    arguments = {"cohort": profile.cohorts["acute"], "phantom": profile.phantom, "seed": (1, 2, 3)}
    row = simulate_patient(tmp_path, "sub-0001", **arguments)
    here, there = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (folder, tmp_path))
    assert here == there
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert simulate_patient(tmp_path, "sub-0001", **arguments) == row
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_other_code_with_the_same_numbers_makes_the_same_patient(smoke_patient, tmp_path, monkeypatch):
    """So that a comment in the phantom reruns nothing after it: what depends on the code's text is hidden."""
    folder, profile = smoke_patient
    monkeypatch.setattr(phantom_patient, "_recipe", lambda *arguments: "of other code")
    arguments = {"cohort": profile.cohorts["acute"], "phantom": profile.phantom, "seed": (1, 2, 3)}
    simulate_patient(tmp_path, "sub-0001", **arguments)
    here, there = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file() and not p.name.startswith(".")}
        for f in (folder, tmp_path)
    )
    assert here == there
    (key,) = tmp_path.rglob(".*_made-from")
    assert key.read_text() == "of other code"
    monkeypatch.undo()
    simulate_patient(tmp_path, "sub-0001", **arguments)
    assert key.read_text() != "of other code"


def test_deconvolved_maps_follow_the_truth(smoke_patient):
    folder, _ = smoke_patient
    measured, true = (
        {name: nifti.read_volume(path(folder, "sub-0001", name)).get_fdata() for name in ("cbf", "cbv", "tmax")}
        for path in (layout.file_path, layout.truth_path)
    )
    inside = (true["cbf"] > 15) & (measured["cbf"] > 0)
    ratio = measured["cbf"][inside].mean() / true["cbf"][inside].mean()
    assert 0.5 < ratio < 1.5
    for name in measured:  # by rank, since voxels with arteries measure far more blood than tissue has
        assert stats.spearmanr(measured[name][inside], true[name][inside]).statistic > 0.5, name


def test_scaling_the_scanner_gain_leaves_the_maps_unchanged(smoke_patient):
    folder, profile = smoke_patient
    image = nifti.read_volume(layout.file_path(folder, "sub-0001", "dsc"), ndim=4)
    protocol = profile.cohorts["acute"]
    setting = {
        "tr": protocol.repetition_time_s,
        "te": protocol.echo_time_s,
        "voxel_mm": profile.phantom.dsc_voxel_mm,
        "analysis": replace(protocol.perfusion, motion_correction=False),
    }
    once = analyse_series(image.get_fdata(), **setting).maps
    scaled = analyse_series(2.0 * image.get_fdata(), **setting).maps
    for name in once:
        assert np.allclose(once[name], scaled[name], rtol=1e-3, atol=1e-3)


def test_flow_and_volume_of_a_series_alone_are_near_those_of_a_console_that_knows_its_calibration(smoke_patient):
    folder, profile = smoke_patient
    series = np.asarray(nifti.read_volume(layout.file_path(folder, "sub-0001", "dsc"), ndim=4).dataobj)
    protocol, voxel_mm = profile.cohorts["acute"], profile.phantom.dsc_voxel_mm
    found = analyse_series(series, protocol.repetition_time_s, protocol.echo_time_s, voxel_mm, protocol.perfusion)
    for name in ("cbf", "cbv"):  # they had been ten times too high
        shipped = nifti.read_volume(layout.file_path(folder, "sub-0001", name)).get_fdata()
        inside = shipped > 0
        assert np.median(found.maps[name][inside]) == pytest.approx(np.median(shipped[inside]), rel=0.3), name


def test_an_aif_that_cannot_be_placed_is_an_error(smoke_patient):
    _, profile = smoke_patient
    analysis = profile.cohorts["pegasus"].perfusion
    series = np.full((4, 4, 4, 40), 100.0) * np.where(np.arange(40) < 12, 1.0, 0.6)
    with pytest.raises(ValueError, match="unknown AIF 'contralateral M2'"):
        analyse_series(series, tr=1.4, te=0.03, voxel_mm=(4.0, 4.0, 4.0), analysis=analysis)


def test_the_head_moves_between_frames_and_correction_brings_the_maps_back(tmp_path):
    profile = load_profile("smoke")
    phantom = replace(profile.phantom, move_deg=2.0, move_mm=2.0, tof_shape=(20, 24, 10), tof_voxel_mm=(8.0, 8.0, 9.0))
    agreement = {}
    for name, moves, corrected in (("still", 0.0, False), ("moved", 12.0, False), ("corrected", 12.0, True)):
        protocol = profile.cohorts["acute"]
        cohort = replace(protocol, head_moves=moves, perfusion=replace(protocol.perfusion, motion_correction=corrected))
        simulate_patient(tmp_path / name, "sub-0001", cohort=cohort, phantom=phantom, seed=(1, 2, 3))
        # CBV suffers most: it adds up what moved tissue edges leave in every later frame.
        measured, true = (
            nifti.read_volume(path(tmp_path / name, "sub-0001", "cbv")).get_fdata()
            for path in (layout.file_path, layout.truth_path)
        )
        inside = (true > 1.2) & (measured > 0)
        agreement[name] = stats.spearmanr(measured[inside], true[inside]).statistic
    assert agreement["moved"] < agreement["still"] - 0.1
    assert agreement["corrected"] > agreement["moved"] + 0.05


def test_rigid_turns_about_the_centre_and_keeps_distances(rng):
    centre = np.array([1.0, 2.0, 3.0])
    matrix = rigid(np.array([3.0, -2.0, 5.0]), np.zeros(3), centre)
    assert np.allclose(matrix[:3, :3] @ centre + matrix[:3, 3], centre)
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3))


def test_a_patient_does_not_depend_on_how_many_are_made(tmp_path):
    profile = load_profile("smoke")
    protocol = profile.cohorts["pegasus"]
    phantom = replace(profile.phantom, tof_shape=(20, 24, 10), tof_voxel_mm=(8.0, 8.0, 9.0), branching_points=100)
    for name, count in (("few", 1), ("more", 2)):
        cohort = replace(protocol, train=count, validation=1, test=0)
        simulate_cohort(tmp_path / name, "pegasus", cohort=cohort, phantom=phantom, seed=9, jobs=1)
    for role in ("tof", "dsc"):
        few, more = (layout.file_path(tmp_path / name, "sub-0002", role) for name in ("few", "more"))
        assert few.read_bytes() == more.read_bytes()
