"""The oracle knows what the TOF shows, and nothing else about the patient."""

import dataclasses
import json

import numpy as np
import pytest

from tof2perf.cohorts import layout
from tof2perf.cohorts.oracle import read_oracle
from tof2perf.phantom import oracle
from tof2perf.phantom.cohort import simulate_cohort
from tof2perf.phantom.disease import COLLATERAL_START_S, Disease, Lesion
from tof2perf.phantom.patient import draw_patient, patient_seed, patient_stream
from tof2perf.profiles import load_profile
from tof2perf.system.files import write_text


@pytest.fixture(scope="module")
def profile():
    return load_profile("smoke")


@pytest.fixture(scope="module")
def patient(profile):
    return draw_patient(cohort=profile.cohorts["acute"], phantom=profile.phantom, rng=np.random.default_rng(3))


def occluded(patient, *, site="M1", open_again=False, ml=150.0, start_s=0.1):
    node = patient.tree.trunk("left M1")[2]
    disease = Disease("acute", (Lesion(site, "left", node, 1.0, open_again),), ml, start_s)
    return dataclasses.replace(patient, disease=disease)


def test_invisible_lesions_are_unknown_and_collaterals_are_those_of_the_population(patient, profile):
    rules = profile.cohorts["acute"].disease
    seen = oracle.seen_disease(occluded(patient).disease, rules)
    assert seen.lesions == occluded(patient).disease.lesions
    assert seen.hypoperfused_ml == rules.hypoperfused_ml["M1"]
    assert seen.collateral_start_s == np.mean(COLLATERAL_START_S)
    for hidden in (occluded(patient, open_again=True), occluded(patient, site="distal")):
        unseen = oracle.seen_disease(hidden.disease, rules)
        assert unseen.lesions == () and unseen.hypoperfused_ml == 0


def test_patients_who_look_alike_get_the_same_maps_whatever_their_collaterals(patient, profile):
    settings = {"cohort": profile.cohorts["acute"], "phantom": profile.phantom}
    measured = [
        oracle.oracle_maps(person, **settings, rng=np.random.default_rng(0))[0]
        for person in (
            occluded(patient),
            dataclasses.replace(occluded(patient, ml=3.0, start_s=0.4), bolus=None, perfusion=None),
        )
    ]
    for name in measured[0]:
        assert np.array_equal(measured[0][name], measured[1][name])
    late = measured[0]["tmax"] > 6
    assert 20 < late.sum() * np.prod(profile.phantom.dsc_voxel_mm) / 1000 < 400  # the median of M1 is 100 ml


def test_the_oracle_of_an_invisible_lesion_is_healthy(patient, profile):
    settings = {"cohort": profile.cohorts["acute"], "phantom": profile.phantom}
    shown, hidden = (
        oracle.oracle_maps(occluded(patient, open_again=again), **settings, rng=np.random.default_rng(0))[0]["tmax"]
        for again in (False, True)
    )
    assert (hidden > 6).sum() < 0.1 * (shown > 6).sum()


def test_oracles_are_written_for_test_patients_alone_and_read_on_the_grid_of_the_evaluation(tmp_path, profile):
    rules = dataclasses.replace(profile.cohorts["pegasus"], train=1, validation=0, test=1)
    folder, target = tmp_path / "pegasus", tmp_path / "oracle"
    write_text(folder / "participants.tsv", "participant_id\tsplit\nsub-0001\ttrain\nsub-0002\ttest\n")
    written = oracle.write_oracles(
        target, folder, "pegasus", cohort=rules, phantom=profile.phantom, seed=profile.seed, jobs=1
    )
    assert written == ["sub-0002"] and len(list(target.iterdir())) == 5

    drawn = draw_patient(
        cohort=rules, phantom=profile.phantom, rng=patient_stream(patient_seed(profile.seed, "pegasus", 1))
    )
    mask = drawn.head.brain & (drawn.head.gm + drawn.head.wm > 0.5)
    cbf = read_oracle(target, "sub-0002", "cbf", mask=mask, affine=drawn.head.affine)
    assert cbf.shape == mask.shape and not cbf[~mask].any()
    grey, white = drawn.head.gm > 0.9, drawn.head.wm > 0.95
    assert cbf[grey & (cbf > 0)].mean() > 1.3 * cbf[white & (cbf > 0)].mean()  # the same head, in the same place


def test_the_oracle_draws_the_very_patients_who_were_simulated(tmp_path, profile, monkeypatch):
    rules = dataclasses.replace(profile.cohorts["acute"], train=0, validation=0, test=2)
    settings = {"cohort": rules, "phantom": profile.phantom, "seed": profile.seed, "jobs": 1}
    simulate_cohort(tmp_path, "acute", **settings)
    drawn = []
    monkeypatch.setattr(oracle, "oracle_maps", lambda patient, **_: (drawn.append(patient), ({}, None))[1])
    patients = oracle.write_oracles(tmp_path / "oracle", tmp_path, "acute", **settings)
    assert len(drawn) == len(patients) == 2
    for patient, name in zip(drawn, patients, strict=True):
        truth = json.loads(layout.truth_path(tmp_path, name, "motion").read_text())
        assert patient.poses[0].tolist() == truth["tof_to_dsc_mm"]
        assert patient.bolus.arrival_s == truth["bolus_arrival_s"]
