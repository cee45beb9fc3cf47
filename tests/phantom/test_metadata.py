"""A simulated cohort as a dataset: the official validator accepts it, and it says what it is."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import tof2perf
from tof2perf.cohorts import layout, workspace
from tof2perf.cohorts.participants import read_participants
from tof2perf.phantom.cohort import simulate_cohort
from tof2perf.phantom.metadata import AGE_BANDS, draw_participant, dsc_sidecar, tof_sidecar
from tof2perf.profiles import load_profile

KINDS = ("acute", "pegasus")
PARTS = (".", "derivatives/dsc", "derivatives/truth")

# Recommendations of BIDS that are not followed, and why: whatever else the validator remarks on is a failure.
NOT_FOLLOWED = {
    "HEDVersion": "no event tags are used",
    "CoilCombinationMethod": "the paper does not state it, and the phantom has no coils",
    "DeviceSerialNumber": "no device made these images",
    "DwellTime": "not stated, not simulated",
    "InstitutionAddress": "no institution made these images",
    "InstitutionalDepartmentName": "no institution made these images",
    "MatrixCoilMode": "the paper does not state it, and the phantom has no coils",
    "ReceiveCoilActiveElements": "the paper does not state it, and the phantom has no coils",
    "SequenceName": "the paper does not state the manufacturer's name of its sequence",
    "SoftwareVersions": "no scanner's software made these images; GeneratedBy names what did",
    "StationName": "no device made these images",
    "TOO_FEW_AUTHORS": "the authors sign together",
}


def make(folder: Path, kind: str, *, train: int = 1, seed: int = 3) -> Path:
    """Simulate a cohort of the smoke profile on grids as small as the phantom allows."""
    profile = load_profile("smoke")
    phantom = replace(
        profile.phantom,
        branching_points=100,
        head_mm=4.0,
        tof_shape=(24, 30, 12),
        tof_voxel_mm=(7.0, 7.0, 8.0),
        dsc_shape=(24, 24, 10),
        dsc_voxel_mm=(9.6, 9.6, 12.0),
    )
    cohort = replace(profile.cohorts[kind], train=train, validation=0, test=1)
    simulate_cohort(folder / kind, kind, cohort=cohort, phantom=phantom, seed=seed, jobs=1)
    return folder / kind


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A cohort of two patients of each kind."""
    folder = tmp_path_factory.mktemp("cohorts")
    for kind in KINDS:
        make(folder, kind)
    return folder


def remarks(folder: Path) -> list[dict]:
    """What the official BIDS validator remarks on. Its schema comes with it; it is kept from any network."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    assert program.is_file(), f"{program}: missing; install requirements-lock.txt, bids-validator-deno is part of it"
    offline = os.environ | dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run([program, "--format", "json", folder], env=offline, capture_output=True, text=True)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)["issues"]["issues"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_the_bids_validator_finds_no_error_and_no_unexplained_warning(root, kind, part):
    found = Counter((entry["severity"], entry.get("subCode") or entry["code"]) for entry in remarks(root / kind / part))
    assert {name for severity, name in found if severity == "error"} == set()
    assert {name for _, name in found} <= NOT_FOLLOWED.keys()


def test_the_validator_does_look_at_the_files(root, tmp_path):
    # Were the whole folder ignored by mistake, the test above would pass too.
    copy = tmp_path / "acute"
    shutil.copytree(root / "acute", copy)
    layout.file_path(copy, "sub-0001", "tof").rename(copy / "sub-0001" / "anat" / "sub-0001_acq-tof_angiography.nii.gz")
    (copy / "derivatives" / "dsc" / "sub-0001" / "perf" / "sub-0001_flow.nii.gz").write_bytes(b"")
    for part in PARTS[:2]:
        assert "error" in {entry["severity"] for entry in remarks(copy / part)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_of_bidsignore_is_explained_or_names_a_file_that_exists(root, kind):
    for part in PARTS:
        folder = root / kind / part
        lines = (folder / ".bidsignore").read_text().splitlines()
        assert lines[0].startswith("# ")
        for pattern in (line for line in lines if not line.startswith("#")):
            assert list(folder.glob(pattern.lstrip("/"))), f"{part}: {pattern} ignores nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_and_every_truth_has_a_unit_and_a_description(root, kind):
    for path in (root / kind / "derivatives").rglob("sub-*.nii.gz"):
        name = path.name.split("_", 1)[1].removesuffix(".nii.gz")
        if name != "desc-ref_dscref":
            sidecar = json.loads((path.parents[1 + (path.parent.name == "perf")] / f"{name}.json").read_text())
            assert sidecar["Units"] and sidecar["Description"] and sidecar["Simulated"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_participants_carry_what_a_reader_splits_by_and_every_value_is_described(root, kind):
    table = read_participants(root / kind).reset_index()
    columns = json.loads((root / kind / "participants.json").read_text())
    assert {"age_band", "site", "occlusion_site", "collateral_grade", "split"} <= set(table)
    assert list(columns) == list(table)
    for name, column in columns.items():
        assert column["Description"]
        assert set(table[name]) <= set(column.get("Levels", table[name]))


def test_the_shipped_profiles_simulate_the_published_timing():
    # Methods of the paper: TR 2220 and 1390 ms, TE 36 and 29 ms; TOF TR/TE 22/3.86 ms, 18 degrees, at 3 T.
    for name in ("smoke", "laptop"):
        profile = load_profile(name)
        for kind, expected in (("acute", (2.22, 0.036)), ("pegasus", (1.39, 0.029))):
            series, tof = (make(profile.cohorts[kind], profile.phantom) for make in (dsc_sidecar, tof_sidecar))
            assert (series["RepetitionTime"], series["EchoTime"]) == expected
            assert (tof["RepetitionTimeExcitation"], tof["EchoTime"], tof["FlipAngle"]) == (0.022, 0.00386, 18)
            assert series["MagneticFieldStrength"] == tof["MagneticFieldStrength"] == 3
            assert series["ContrastBolusIngredient"] == "GADOLINIUM"
            for sidecar in (series, tof):
                shared = sidecar.keys() & sidecar["PublishedProtocol"].keys() - {
                    "AcquisitionVoxelSize",
                    "NumberOfVolumes",
                }
                assert shared and all(sidecar[key] == sidecar["PublishedProtocol"][key] for key in shared)


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_simulated_cohort_can_pass_for_a_patient(root, kind):
    assert workspace.source(root / kind) == "simulated cohort"
    for path in (root / kind).glob("sub-*/*/*.json"):
        sidecar = json.loads(path.read_text())
        assert sidecar["Simulated"] is True and sidecar["InstitutionName"].startswith("none")
    for part in PARTS:
        assert "Nobody was scanned" in (root / kind / part / "README").read_text()
        description = json.loads((root / kind / part / "dataset_description.json").read_text())
        assert description["GeneratedBy"][0]["Version"] == tof2perf.__version__


def test_same_seed_gives_the_same_bytes_of_a_whole_cohort(root, tmp_path):
    again = make(tmp_path, "acute")
    here, there = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (root / "acute", again)
    )
    assert here == there


def test_a_patients_row_does_not_depend_on_how_many_are_made(root, tmp_path):
    few = pd.read_csv(root / "pegasus" / "participants.tsv", sep="\t", keep_default_na=False)
    more = pd.read_csv(make(tmp_path, "pegasus", train=2) / "participants.tsv", sep="\t", keep_default_na=False)
    pd.testing.assert_frame_equal(more.head(2).drop(columns="split"), few.drop(columns="split"))


def test_age_bands_follow_the_stated_distribution():
    # Normal with a mean of 68 and a standard deviation of 14 years, or 69 and 9 for chronic disease, cut at 18 and 100:
    # the shares below 40 and from 80 on are differences of the normal distribution function.
    for course, young, old in (("acute", 0.0228, 0.1867), ("chronic", 0.0006, 0.1106)):
        drawn = Counter(draw_participant(course, (11, number))["age_band"] for number in range(4000))
        assert drawn.keys() <= AGE_BANDS.keys()
        assert drawn["18-39"] / 4000 == pytest.approx(young, abs=0.008)
        assert drawn["80+"] / 4000 == pytest.approx(old, abs=0.025)


def test_an_unknown_course_is_one_clear_line():
    with pytest.raises(ValueError, match="unknown course 'flu' of a disease: choose acute or chronic"):
        draw_participant("flu", (1,))
