"""The split of each patient: as the user's ``participants.tsv`` gives it, or drawn evenly over what matters."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tof2perf.cohorts import layout
from tof2perf.cohorts.participants import SPLITS
from tof2perf.profiles import CohortProfile
from tof2perf.volumes.nifti import CohortError, Finding

TABLE = Path("participants.tsv")
STRATA = ("occlusion_site", "disease", "site")  # columns of participants.tsv by which patients are spread over splits


def listed_patients(folder: Path, table: pd.DataFrame | None) -> list[str]:
    """Return the patients to use, one entry a session: those of the table, or all that have a folder without it.

    A row names a person, that is all sessions, or one session (``sub-XXXX_ses-YY``).
    """
    found = layout.list_patients(folder)
    if table is None:
        return found
    names: list[str] = []
    for row in table.participant_id:
        names += [name for name in found if row in (name, layout.subject(name))] or [row]
    return list(dict.fromkeys(names))


def given_splits(table: pd.DataFrame | None, patients: Collection[str]) -> dict[str, str]:
    """Return the split of every patient as ``participants.tsv`` gives it; empty if it has no such column.

    Raises:
        CohortError: a patient without a split or with an unknown one, or a person in two.
    """
    if table is None or "split" not in table:
        return {}
    people = table.participant_id.map(layout.subject)
    splits: dict[str, str] = {}
    for patient in patients:
        person = layout.subject(patient)
        own = table.split[table.participant_id.isin([patient, person])].tolist()
        several = sorted(set(table.split[people == person]))
        if unknown := set(own) - set(SPLITS):
            remedy = f"use one of {', '.join(SPLITS)} for all patients, or remove the column to have splits drawn"
            raise Finding(TABLE, f"{patient} has split '{unknown.pop()}'", remedy).error()
        if len(several) > 1:
            raise Finding(TABLE, f"{person} is in two splits ({', '.join(several)})", "choose one of them").error()
        splits[patient] = own[0]
    return splits


def strata(table: pd.DataFrame | None, patients: Collection[str], late_ml: Mapping[str, float]) -> dict[str, str]:
    """Return what each person is spread by: columns of the table (:data:`STRATA`), else the quarter of late tissue.

    Returns:
        Person -> stratum. A person with several sessions counts once, by the largest volume.
    """
    people = list(dict.fromkeys(layout.subject(patient) for patient in patients))
    columns = [name for name in STRATA if table is not None and name in table]
    if table is not None and columns:
        rows = table.set_index(table.participant_id.map(layout.subject))
        rows = rows[~rows.index.duplicated()]
        return {person: " ".join(rows.loc[person, columns]) for person in people}
    largest = {person: max(late_ml[name] for name in patients if layout.subject(name) == person) for person in people}
    order = sorted(people, key=lambda person: (largest[person], person))
    return {person: str(4 * place // len(order)) for place, person in enumerate(order)}


def draw_splits(groups: Mapping[str, str], *, cohort: CohortProfile, seed: int) -> dict[str, str]:
    """Draw the splits of people in the profile's proportions, each stratum spread over them, at least one a split.

    Args:
        groups: person -> stratum.
        cohort: its ``train``, ``validation`` and ``test`` are the proportions.
        seed: the same people and seed give the same splits.

    Returns:
        Person -> split.

    Raises:
        CohortError: fewer people than splits.
    """
    if len(groups) < len(SPLITS):
        raise CohortError(f"{len(groups)} usable patients: at least 3 are needed, one for each split; add patients")
    shares = np.array([getattr(cohort, split) for split in SPLITS], dtype=float)
    spare = len(groups) - len(shares)  # each split has one already; largest remainders take the rest
    exact = np.maximum(shares / shares.sum() * len(groups) - 1, 0)
    exact *= spare / max(exact.sum(), 1e-9)
    counts = np.floor(exact).astype(int)
    for place in np.argsort(-(exact - counts), kind="stable")[: spare - counts.sum()]:
        counts[place] += 1
    wanted = {split: int(count) + 1 for split, count in zip(SPLITS, counts, strict=True)}
    people = sorted(groups)
    drawn = stratified_split([groups[name] for name in people], wanted, rng=np.random.default_rng(seed))
    return dict(zip(people, drawn, strict=True))


def stratified_split(strata: Sequence[str], counts: Mapping[str, int], *, rng: np.random.Generator) -> list[str]:
    """Assign patients to splits so that each stratum is spread over them as evenly as whole patients allow.

    Patients are ordered by stratum and by chance within it; each goes to the split that lags most behind its share.

    Args:
        strata: stratum of each patient, for example the site of the occlusion.
        counts: patients of each split; they sum to the number of patients.
        rng: orders the patients of a stratum.

    Raises:
        ValueError: the counts do not sum to the number of patients.
    """
    if sum(counts.values()) != len(strata):
        raise ValueError(f"splits hold {sum(counts.values())} patients, the cohort {len(strata)}: make them equal")
    chance = rng.permutation(len(strata))
    given = dict.fromkeys(counts, 0)
    assigned = [""] * len(strata)
    for place, patient in enumerate(sorted(range(len(strata)), key=lambda k: (strata[k], chance[k])), start=1):
        behind = {split: count * place / len(strata) - given[split] for split, count in counts.items()}
        split = max(behind, key=lambda name: behind[name])
        assigned[patient], given[split] = split, given[split] + 1
    return assigned
