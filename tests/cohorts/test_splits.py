"""Splits that are drawn: from the seed, in the profile's proportions, each stratum spread over them."""

import dataclasses

import pandas as pd
import pytest

from tof2perf.cohorts.splits import draw_splits, strata
from tof2perf.profiles import CohortProfile
from tof2perf.volumes.nifti import CohortError

ACUTE = CohortProfile(train=4, validation=1, test=1)


def test_splits_are_drawn_from_the_seed_and_spread_over_strata():
    groups = {f"sub-{n:04d}": "M1" if n % 2 else "M2" for n in range(40)}
    cohort = dataclasses.replace(ACUTE, train=20, validation=10, test=10)
    first, again, other = (draw_splits(groups, cohort=cohort, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    table = pd.Series(first).to_frame("split").assign(stratum=pd.Series(groups)).value_counts().unstack(0)
    assert table.loc["M1"].to_dict() == {"test": 5, "train": 10, "validation": 5} == table.loc["M2"].to_dict()


@pytest.mark.parametrize("people", [3, 4, 7, 149])
def test_every_split_has_a_patient_and_proportions_are_kept(people):
    splits = draw_splits(
        {f"sub-{n:04d}": "all" for n in range(people)},
        cohort=dataclasses.replace(ACUTE, train=110, validation=15, test=24),
        seed=0,
    )
    count = pd.Series(splits).value_counts()
    assert count.sum() == people and count.min() >= 1 and len(count) == 3
    if people == 149:
        assert count["train"] == pytest.approx(110, abs=2) and count["test"] == pytest.approx(24, abs=1)


def test_two_patients_are_too_few():
    with pytest.raises(CohortError, match="at least 3"):
        draw_splits({"sub-1": "", "sub-2": ""}, cohort=ACUTE, seed=0)


def test_strata_come_from_the_table_or_else_from_the_volume_of_late_tissue():
    table = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "site": ["M1", "M2"]})
    assert strata(table, ["sub-1", "sub-2"], {}) == {"sub-1": "M1", "sub-2": "M2"}
    volumes = {"sub-1": 90.0, "sub-2": 0.0, "sub-3": 40.0, "sub-4": 1.0}
    assert strata(None, list(volumes), volumes) == {"sub-2": "0", "sub-4": "1", "sub-3": "2", "sub-1": "3"}
