"""The steps of a run, each declared once: its notebook, what comes before it, what it reads and what it writes.

Make's rules are written from this list. ``make status``, the tests and the plan read the same list.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tof2perf.system.run import Run


@dataclass(frozen=True)
class Step:
    """One notebook with its parameters.

    Attributes:
        name: unique; names the stamp and the executed notebook.
        notebook: path of a file in ``notebooks/``, without its suffix.
        parameters: values beside profile, root and data, which are given wherever a notebook has them.
        after: steps whose results it reads.
        inputs: files or folders, beside those results, that it reads.
        outputs: files, folders or patterns it writes, relative to the root.
        launcher: environment variable with the words before its command on a cluster; empty if it always runs here.
    """

    name: str
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    launcher: str = ""

    @property
    def for_students(self) -> bool:
        """Whether it is a page of the book alone, and no part of the paper."""
        return self.notebook.startswith("explore/")

    def source(self, run: Run) -> Path:
        """The stored notebook."""
        return run.repository / "notebooks" / f"{self.notebook}.ipynb"


def steps(run: Run, profile: Any, cohorts: Iterable[str]) -> Iterator[Step]:
    """List the steps of a run, each after those it needs: first the paper, then the pages for students.

    Args:
        run: where it reads and writes.
        profile: :class:`tof2perf.profiles.Profile`; its cohorts, ``initialise_from`` and ``together`` are read.
        cohorts: names of the cohorts of this run, see :func:`tof2perf.profiles.run_cohorts`.
    """
    # A cohort whose models start from another's comes after it.
    ordered = sorted(cohorts, key=lambda name: name in profile.initialise_from)
    maps = {cohort: profile.cohorts[cohort].maps for cohort in ordered}
    out = f"results/{run.name}"
    before: tuple[str, ...]
    made: tuple[str, ...]
    tables: tuple[str, ...]

    def described(*names: str) -> tuple[str, ...]:
        """The descriptions of cohorts: from them a page says whose images it shows."""
        return tuple(str(run.cohort(name) / "dataset_description.json") for name in names)

    def simulated(*names: str) -> tuple[str, ...]:
        return () if run.data else tuple(f"00-simulate-{name}" for name in names)

    def trained(cohort: str, map_name: str) -> str:
        return f"02-train-{cohort}-{'all' if profile.together else map_name}"

    def evaluated(cohort: str) -> tuple[str, ...]:
        return tuple(f"03-evaluate-{cohort}-{name}" for name in maps[cohort])

    # --- data, models, metrics: what may take hours -------------------------------------------------------------------
    for cohort in maps if not run.data else ():
        places = tuple(f"data/{kind}/{run.profile}/{cohort}" for kind in ("simulated", "oracle"))
        yield Step(f"00-simulate-{cohort}", "00-simulate", {"cohort": cohort}, outputs=places, launcher="RUN_CPU")
    for cohort in maps:
        given = (str(run.cohort(cohort)), str(run.dropped)) if run.data else ()
        made = (f"data/preprocessed/{run.name}/{cohort}",)
        name = f"01-preprocess-{cohort}"
        yield Step(name, "01-preprocess", {"cohort": cohort}, simulated(cohort), given, made, "RUN_CPU")
    for cohort, names in maps.items():
        parent = profile.initialise_from.get(cohort)
        for model in ["all"] if profile.together else names:
            before = (f"01-preprocess-{cohort}", *((trained(parent, model),) if parent in maps else ()))
            chosen = {"cohort": cohort, "map_name": model}
            made = (f"{out}/models/{cohort}_{model}",)
            yield Step(trained(cohort, model), "02-train", chosen, before, described(cohort), made, "RUN_GPU")
    for cohort, names in maps.items():
        for name in names:
            before = (*simulated(cohort), f"01-preprocess-{cohort}", trained(cohort, name))
            chosen = {"cohort": cohort, "map_name": name}
            metrics = (f"{out}/metrics/{cohort}_{name}.csv", f"{out}/metrics/{cohort}_{name}_relative.csv")
            made = (*metrics, f"{out}/predictions/{cohort}/*_{name}.nii.gz")
            step = f"03-evaluate-{cohort}-{name}"
            yield Step(step, "03-evaluate", chosen, before, described(cohort), made, "RUN_CPU")

    # --- tables and figures -------------------------------------------------------------------------------------------
    # Lesions are analysed, and figures 1 to 4 drawn, of the cohort of the paper, or of the first that the run has.
    first = "acute" if "acute" in maps else ordered[0]
    every = tuple(name for cohort in maps for name in evaluated(cohort))
    prepared, tmax = f"01-preprocess-{first}", f"03-evaluate-{first}-tmax"
    tmax_model = trained(first, "tmax")
    others = tuple(name for name in evaluated(first) if name != tmax)
    rated = str(run.rated)

    def page(name: str, after: Iterable[str], *outputs: str, cohort: str = "", inputs: tuple[str, ...] = ()) -> Step:
        """A notebook that runs once, about one cohort or about all."""
        read = (*inputs, *described(*([cohort] if cohort else maps)))
        made = tuple(f"{out}/{output}" for output in outputs)
        return Step(name, name, {"cohort": cohort} if cohort else {}, tuple(after), read, made)

    yield page("12-rating", (prepared, tmax), "rating", cohort=first, inputs=(rated,))
    before = (*simulated(first), prepared, tmax, "12-rating")
    tables = ("tables/dice*", "tables/lesion_*", f"lesions/{first}")
    yield page("04-dice", before, *tables, cohort=first, inputs=("data/published", rated))
    tables = ("tables/table1.*", "tables/comparison.csv")
    yield page("05-table1", (*every, "04-dice"), *tables, inputs=("data/published",))
    yield page("06-figure1", (prepared, tmax_model, tmax), "figures/figure1.*", cohort=first)
    yield page("07-figure2", (prepared, tmax, "04-dice"), "figures/figure2.*", cohort=first)
    if others:
        yield page("08-figure3", (prepared, *others, "04-dice"), "figures/figure3.*", cohort=first)
    yield page("09-figure4", (prepared, tmax, "04-dice"), "figures/figure4.*", cohort=first)
    if "pegasus" in maps:
        before = ("01-preprocess-pegasus", *evaluated("pegasus"))
        yield page("10-appendix4", before, "figures/appendix4.*", cohort="pegasus")
    yield page("11-distributions", every, "figures/distributions*")
    made = ("tables/baselines.*", "tables/ceiling.csv", "figures/ceiling.*")
    yield page("13-baselines", (*every, "04-dice", "05-table1"), *made, cohort=first, inputs=described(*maps))
    yield page("14-lesions", (prepared, tmax, "04-dice"), "figures/lesion_*", cohort=first)

    # --- pages for students: those that need no results make their own patients ---------------------------------------
    def lesson(name: str, after: Iterable[str] = (), *outputs: str, inputs: Iterable[str] = (), **chosen: str) -> Step:
        made = tuple(f"{out}/explore/{output}" for output in outputs)
        return Step(f"explore-{name}", f"explore/{name}", chosen, tuple(after), tuple(inputs), made)

    if not run.data:
        yield lesson("perfusion", (), "perfusion_methods.csv")
        yield lesson("phantom", simulated(*maps), "phantom.csv", "phantom_patients.csv")
        yield lesson("patient", (), "patient.csv")
    whose = described(first)
    yield lesson("browse", (prepared, tmax, *others, "04-dice"), inputs=whose, cohort=first)
    if not profile.together:  # these look into the model of one map
        yield lesson("gan", (prepared, tmax_model), inputs=whose, cohort=first)
        read = ("data/published", f"results/reference/{run.profile}/ablations", *whose)
        before = (prepared, tmax_model, tmax, "04-dice", "05-table1")
        yield lesson("metrics", before, "metrics_findings.csv", inputs=read, cohort=first)
    yield lesson("hyperparameters", profile="smoke")
    yield lesson("ablations", profile="smoke")
