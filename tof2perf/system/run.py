"""The folders of one run, which pipeline and science share."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tof2perf.system.codebase import REPOSITORY


@dataclass(frozen=True)
class Run:
    """Where one run reads and writes.

    Attributes:
        profile: the profile's name.
        root: folder that holds ``data/`` and ``results/``.
        data: folder with the user's own cohorts (one BIDS folder each); empty for the simulated cohorts.
        repository: folder with ``notebooks/``, the package and the lock file.
    """

    profile: str
    root: Path | str
    data: str = ""
    repository: Path = REPOSITORY

    @cached_property
    def name(self) -> str:
        """Name of the results folder; own data never share a folder with simulated ones."""
        return f"{self.profile}-{Path(self.data).resolve().name}" if self.data else self.profile

    @cached_property
    def results(self) -> Path:
        """Folder of everything this run computes."""
        return Path(self.root) / "results" / self.name

    def cohort(self, cohort: str) -> Path:
        """BIDS folder of a cohort."""
        base = Path(self.data) if self.data else Path(self.root) / "data" / "simulated" / self.profile
        return base / cohort

    @property
    def dropped(self) -> Path:
        """List of the patients that a check leaves out; it lies outside the user's folder."""
        return Path(self.root) / "data" / "intake" / self.name / "dropped.tsv"

    @property
    def rated(self) -> Path:
        """Folder that a rater drops edited masks into; it belongs to the user, and no step clears it."""
        return Path(self.root) / "data" / "rating" / self.name

    def stamp(self, step: str) -> Path:
        """What is known of a finished step."""
        return self.results / ".stamps" / f"{step}.json"

    def executed(self, step: str) -> Path:
        """The executed notebook of a finished step."""
        return self.results / "notebooks" / f"{step}.ipynb"

    def failed(self, step: str) -> Path:
        """The notebook of a failed step, up to the cell that failed."""
        return self.results / "failed" / f"{step}.ipynb"
