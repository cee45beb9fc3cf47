"""Random edits of a small paper: what depends on them reruns and nothing else, and ``status`` says why.

What each step reads stands in a table, written by hand, and what it must write is worked out beside it: the expectation
owes nothing to the code under test.
"""

import contextlib
import copy
import functools
import importlib
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml
from helpers.fresh import forget
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tof2perf.pipeline import execution, staleness, steps
from tof2perf.pipeline.graph import Step
from tof2perf.system.run import Run

# --- the paper --------------------------------------------------------------------------------------------------------

# A note changes a module and none of its numbers; a value changes both.
MODULES = {
    "__init__": "NUMBER = {value}\n",
    "ground": "SCALE = {value}\n",
    "model": """\
from tof2perf.ground import SCALE

def fit(rate, epochs):
    from tof2perf import late
    return SCALE * rate * epochs + late.BONUS + {value}
""",
    "late": "import tof2perf.later\n\nBONUS = {value} + tof2perf.later.EXTRA\n",
    "later": "EXTRA = {value}\n",
    "figures": "from . import ground\n\ndef draw(number):\n    return f'{{number}} at {{ground.SCALE}} in {value}'\n",
    "inner/__init__": "LEAST = {value}\n",
    "inner/deep": """\
from .. import units
from . import LEAST

def judge(number, threshold):
    return number * units.ML > 10 * threshold + LEAST + {value}
""",
    "units": "ML = {value}\n",
    "unused": "from tof2perf import model\n\nNOTHING = {value}\n",
}

HEAD = "import json\nfrom pathlib import Path\n\nimport yaml\n"

SETUP = """\
class Section(dict):
    __getattr__ = dict.__getitem__

def load_profile(name):
    text = Path("profiles", f"{name}.yaml").read_text()
    return json.loads(json.dumps(yaml.load(text, yaml.CSafeLoader)), object_hook=Section)

profile = load_profile(profile)
results = Path(root) / "results" / profile.name
results.mkdir(parents=True, exist_ok=True)
"""

# What a cell may read in addition.
READER = "flip = profile.training.flip\nfrom tof2perf import unused\n"

# Parameters, imports, and the cell that computes; ``bonus`` and ``read`` are set in cells before it.
NOTEBOOKS = {
    "prepare": (
        "",
        HEAD,
        "text = sum(int(file.read_text()) for file in Path(root).glob('given/sub-*.txt')) // 4 + profile.seed + bonus",
        "prepared",
    ),
    "train": (
        'cohort = "acute"\n',
        HEAD + "from tof2perf.model import fit\n",
        "text = fit(profile.training.rate, profile.epochs[cohort])"
        " + profile.cohorts[cohort].size + read('prepared') + bonus",
        "model_{cohort}",
    ),
    "evaluate": (
        "",
        HEAD + "import tof2perf.inner.deep\n",
        "text = int(tof2perf.inner.deep.judge(read('model_acute') + read('model_pegasus'),"
        " profile.evaluation.threshold)) + bonus",
        "score",
    ),
    "figure": (
        "",
        HEAD + "from tof2perf import figures\n",
        'text = f\'{profile.cohorts["acute"].title}: {figures.draw(read("score"))}, {bonus}\'',
        "figure",
    ),
    "summary": (
        "level = 1\n",
        HEAD,
        'text = f\'{sorted(profile.evaluation.items())} {profile.display.get("colour", "grey")}\''
        " f' {read(\"prepared\")} {level} {bonus}'",
        "summary",
    ),
}

PROFILE = {
    "name": "tiny",
    "seed": 1,
    "training": {"rate": 1, "flip": True},
    "epochs": {"acute": 2, "pegasus": 1},
    "cohorts": {"acute": {"size": 2, "title": "Acute"}, "pegasus": {"size": 1, "title": "PEGASUS"}},
    "evaluation": {"threshold": 1},
    "display": {"size": 1},
}

PLAN = [
    Step("prepare", "prepare", {}, (), ("given",), ("results/tiny/prepared.txt",)),
    Step("train-acute", "train", {"cohort": "acute"}, ("prepare",), (), ("results/tiny/model_acute.txt",)),
    Step("train-pegasus", "train", {"cohort": "pegasus"}, ("prepare",), (), ("results/tiny/model_pegasus.txt",)),
    Step("evaluate", "evaluate", {}, ("train-acute", "train-pegasus"), (), ("results/tiny/score*",)),
    Step("figure", "figure", {}, ("evaluate",), (), ("results/tiny/figure.txt",)),
    Step("summary", "summary", {"level": 1}, ("prepare",), (), ("results/tiny/summary.txt",)),
]
NAMES = [step.name for step in PLAN]
AFTER = {step.name: step.after for step in PLAN}
OUTPUT = {
    "prepare": "prepared",
    "train-acute": "model_acute",
    "train-pegasus": "model_pegasus",
    "evaluate": "score",
    "figure": "figure",
    "summary": "summary",
}

# --- what each step reads, by hand ------------------------------------------------------------------------------------

TRAINING_MODULES = ("__init__", "model", "ground", "late", "later")
READ_MODULES = {
    "prepare": (),
    "train-acute": TRAINING_MODULES,
    "train-pegasus": TRAINING_MODULES,
    "evaluate": ("__init__", "inner/__init__", "inner/deep", "units"),
    "figure": ("__init__", "figures", "ground"),
    "summary": (),
}
READER_MODULES = ("__init__", "unused", "model", "ground", "late", "later")
READER_KEYS = ("training.flip",)
READ_KEYS = {
    "prepare": ("seed",),
    "train-acute": ("training.rate", "epochs.acute", "cohorts.acute.size"),
    "train-pegasus": ("training.rate", "epochs.pegasus", "cohorts.pegasus.size"),
    "evaluate": ("evaluation.threshold",),
    "figure": ("cohorts.acute.title",),
    "summary": ("evaluation", "display"),  # whole sections, new keys included
}
PARAMETERS = {"train-acute": "cohort", "train-pegasus": "cohort", "summary": "level"}

# Keys that may be edited, with values to choose from; None takes the key away. Nobody reads those without a step above.
EDITED_KEYS = {
    "seed": (1, 2, 3),
    "training.rate": (1, 3),
    "training.flip": (True, False),
    "training.new": (None, 1, 2),
    "epochs.acute": (2, 5),
    "epochs.pegasus": (1, 2),
    "epochs.third": (None, 1),
    "cohorts.acute.size": (2, 3),
    "cohorts.acute.title": ("Acute", "Acute stroke"),
    "cohorts.acute.new": (None, "n"),
    "cohorts.pegasus.size": (1, 4),
    "cohorts.pegasus.title": ("PEGASUS", "Chronic"),
    "evaluation.threshold": (1, 2, 9),
    "evaluation.bootstrap": (None, 500),
    "display.size": (1, 2),
    "display.colour": (None, "red"),
    "unheard": (None, {"of": 1}, {"of": 2}),
}


def module_name(module: str) -> str:
    return ".".join(["tof2perf", *module.removesuffix("__init__").rstrip("/").split("/")]).rstrip(".")


def at(content: dict, key: str) -> object:
    return functools.reduce(lambda part, name: part[name], key.split("."), content)


def named(names: list[str]) -> str:
    """As status lists names: three, and how many more."""
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- running a notebook without an interpreter of its own ------------------------------------------------------------


def write_notebook(path: Path, now: dict, name: str) -> None:
    parameters, imports, compute, output = NOTEBOOKS[name]
    state, (prose, cell_name, hidden, late) = now["cells"][name], now["prose"][name]
    cells = [
        ("parameters", f'profile = "tiny"\nroot = ".."\n{parameters}'),
        ("imports", imports),
        ("setup", SETUP),
        ("bonus", f"bonus = {state['value']}  # note {state['note']}\n{READER if state['reader'] else ''}"),
        (cell_name, "def read(name):\n    return int((results / f'{name}.txt').read_text())"),
        ("compute", compute),
        ("save", f"(results / f'{output}.txt').write_text(str(text))"),
    ]
    if state["moved"]:
        cells[3], cells[4] = cells[4], cells[3]
    if state["twin"]:
        cells.append(("twin", cells[-1][1]))
    stored = [("code", *cell) for cell in cells]
    stored.insert(2 if late else 0, ("markdown", "title", prose))
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    for kind, identity, source in stored:
        cell = {"cell_type": kind, "id": identity, "metadata": {}, "source": source}
        if kind == "code":
            cell |= {"outputs": [], "execution_count": None}
        if identity == "parameters":
            cell["metadata"] = {"tags": ["parameters"]}
        if identity == "setup" and hidden:
            cell["metadata"] = {"tags": ["hide-input"]}
        book["cells"].append(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book))


@contextlib.contextmanager
def only_modules_of(repository: Path):
    """Import the package afresh from another folder, and forget it afterwards."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "tof2perf"}
    before, compiled = Path.cwd(), sys.dont_write_bytecode
    sys.path.insert(0, str(repository))
    sys.dont_write_bytecode = True
    os.chdir(repository / "notebooks")
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(before)
        sys.dont_write_bytecode = compiled
        sys.path.remove(str(repository))
        for name in [name for name in sys.modules if name.split(".")[0] == "tof2perf"]:
            del sys.modules[name]
        sys.modules.update(hidden)


def run_here(source, target, *, parameters, failed, on_progress=None):
    book = json.loads(source.read_text())
    code = [cell["source"] for cell in book["cells"] if cell["cell_type"] == "code"]
    with only_modules_of(source.parent.parent):
        variables: dict = {}
        exec(code[0], variables)
        variables |= parameters
        for cell in code[1:]:
            exec(cell, variables)
    for number, cell in enumerate(cell for cell in book["cells"] if cell["cell_type"] == "code"):
        cell |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "ran"}], "execution_count": number}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(book))


# --- edits ------------------------------------------------------------------------------------------------------------

values, notes = st.integers(1, 3), st.integers(0, 1)
times = st.sampled_from([None, None, "past", "future"])


class Paper(RuleBasedStateMachine):
    """A finished paper that is edited, asked for its status, and made again.

    ``now`` is what the author has written, ``made`` by step what it was last made from, ``results`` what it then wrote,
    ``disk`` what lies there.
    """

    def __init__(self):
        super().__init__()
        self.ran: list[str] = []
        self.folder = Path(tempfile.mkdtemp(prefix="paper-"))
        self.run = Run("tiny", self.folder, repository=self.folder)
        self.patch = mock.patch.object(execution, "run_notebook", self.run_notebook)
        self.patch.start()

    def teardown(self):
        self.patch.stop()
        forget()
        shutil.rmtree(self.folder)

    def run_notebook(self, source, target, **options):
        self.ran.append(target.stem)
        run_here(source, target, **options)

    @initialize()
    def finish_it_once(self):
        self.now = {
            "modules": dict.fromkeys(MODULES, (1, 0)),
            "cells": {
                name: {"value": 0, "note": 0, "reader": False, "moved": False, "twin": False} for name in NOTEBOOKS
            },
            "prose": dict.fromkeys(NOTEBOOKS, ("# Title", "read", False, False)),
            "profile": copy.deepcopy(PROFILE),
            "lock": "numpy==1\n",
            "given": {"sub-1.txt": "3", "sub-2.txt": "5"},
            "level": 1,
        }
        self.made: dict[str, dict] = {}
        self.prose: dict[str, str] = {}
        self.results: dict[str, str] = {}
        self.disk: dict[str, str | None] = {}
        self.book: dict[str, str] = {}  # "there", "missing" or "changed"
        self.write_all(None)
        self.make("every step")

    # --- writing ---

    def write(self, path: Path, text: str, when: str | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.set_time(path, when)

    def set_time(self, path: Path, when: str | None) -> None:
        if when:
            seconds = 1 if when == "past" else time.time() + 1e6
            os.utime(path, (seconds, seconds))

    def write_module(self, module: str, when: str | None) -> None:
        value, note = self.now["modules"][module]
        source = f"# note {note}\n" + MODULES[module].format(value=value)
        self.write(self.folder / "tof2perf" / f"{module}.py", source, when)

    def write_profile(self, when: str | None, comment: str = "") -> None:
        text = comment + yaml.safe_dump(self.now["profile"], sort_keys=bool(comment))
        self.write(self.folder / "notebooks" / "profiles" / "tiny.yaml", text, when)

    def write_all(self, when: str | None) -> None:
        for module in MODULES:
            self.write_module(module, when)
        for name in NOTEBOOKS:
            write_notebook(self.folder / "notebooks" / f"{name}.ipynb", self.now, name)
        self.write_profile(when)
        self.write(self.folder / "requirements-lock.txt", self.now["lock"], when)
        (self.folder / "given").mkdir(exist_ok=True)
        for path in (self.folder / "given").iterdir():
            path.unlink()
        for name, content in self.now["given"].items():
            self.write(self.folder / "given" / name, content, when)

    # --- what is expected ---

    def plan(self) -> list[Step]:
        given = {"summary": {"level": self.now["level"]}}
        return [Step(s.name, s.notebook, given.get(s.name, s.parameters), s.after, s.inputs, s.outputs) for s in PLAN]

    def reads(self, step: str) -> dict[str, dict]:
        """All that the table says a step reads, by kind, as it is now."""
        now, notebook = self.now, step.split("-")[0]
        more = now["cells"][notebook]["reader"]
        modules = {*READ_MODULES[step], *(READER_MODULES if more else ())}
        keys = {*READ_KEYS[step], *(READER_KEYS if more else ())}
        return {
            "cells": dict(now["cells"][notebook]),
            "modules": {module_name(module): now["modules"][module] for module in modules},
            "profile": {key: copy.deepcopy(at(now["profile"], key)) for key in keys},
            "parameters": {"level": now["level"]} if step == "summary" else {},
            "files": {f"given/{name}": text for name, text in now["given"].items() if step == "prepare"},
            "upstream": {name: self.results[name] for name in AFTER[step] if name in self.made},
            "lock": {"lock": now["lock"]},
        }

    def computed(self, step: str) -> str:
        """What a step must write, worked out without it."""
        value = {module: entry[0] for module, entry in self.now["modules"].items()}
        profile, bonus = self.now["profile"], self.now["cells"][step.split("-")[0]]["value"]
        before = {OUTPUT[name]: self.results[name] for name in AFTER[step]}
        if step == "prepare":
            return str(sum(map(int, self.now["given"].values())) // 4 + profile["seed"] + bonus)
        if step.startswith("train"):
            cohort = step.split("-")[1]
            learnt = value["ground"] * profile["training"]["rate"] * profile["epochs"][cohort]
            learnt += value["late"] + value["later"] + value["model"]
            return str(learnt + profile["cohorts"][cohort]["size"] + int(before["prepared"]) + bonus)
        if step == "evaluate":
            total = (int(before["model_acute"]) + int(before["model_pegasus"])) * value["units"]
            least = 10 * profile["evaluation"]["threshold"] + value["inner/__init__"] + value["inner/deep"]
            return str(int(total > least) + bonus)
        if step == "figure":
            title = profile["cohorts"]["acute"]["title"]
            return f"{title}: {before['score']} at {value['ground']} in {value['figures']}, {bonus}"
        colour = profile["display"].get("colour", "grey")
        return f"{sorted(profile['evaluation'].items())} {colour} {before['prepared']} {self.now['level']} {bonus}"

    def reasons(self, step: str) -> list[str]:
        """Why a step must run, in the words of status; of damaged results the first."""
        old, new = self.made[step], self.reads(step)
        found = []
        if old["cells"] != new["cells"]:
            was, now = old["cells"], new["cells"]
            changed = ["bonus"] if any(was[part] != now[part] for part in ("value", "note", "reader")) else []
            changed += ["twin"] if now["twin"] and not was["twin"] else []
            if changed:
                found.append(f"code cell {', '.join(changed)} changed")
            elif was["twin"] and not now["twin"]:
                found.append("code cell twin removed")
            else:
                found.append("code cells moved")
        phrases = {
            "modules": "module {} changed",
            "profile": "profile key {} changed",
            "parameters": "parameter {} changed",
            "files": "input {} changed",
            "upstream": "{} gave other results",
        }
        for kind, phrase in phrases.items():
            names = old[kind].keys() & new[kind].keys()
            changed = [name for name in names if old[kind][name] != new[kind][name]]
            if changed:
                found.append(phrase.format(named(changed)))
            if kind == "files":
                gone, come = old[kind].keys() - new[kind].keys(), new[kind].keys() - old[kind].keys()
                found += [f"input {named(come)} is new"] if come else []
                found += [f"input {named(gone)} is gone"] if gone else []
        if old["lock"] != new["lock"]:
            found.append("requirements-lock.txt changed")
        if found:
            return found
        if self.disk[step] != self.results[step]:
            deed = "is missing" if self.disk[step] is None else "was changed since"
            return [f"results/tiny/{OUTPUT[step]}.txt {deed}"]
        if self.book[step] != "there":
            return [f"its executed notebook {'is missing' if self.book[step] == 'missing' else 'was changed since'}"]
        return []

    def expected_status(self) -> dict[str, tuple[str, str]]:
        status: dict[str, tuple[str, str]] = {}
        for step in NAMES:
            reasons = self.reasons(step) if step in self.made else []
            busy = [name for name in AFTER[step] if status[name][0] not in ("fresh", "prose")]
            if step not in self.made:
                status[step] = ("missing", "has not run yet")
            elif reasons:
                status[step] = ("stale", "; ".join(reasons))
            elif busy:
                status[step] = ("waiting", f"{', '.join(busy)} must run first")
            elif self.prose[step] != self.now["prose"][step.split("-")[0]]:
                status[step] = ("prose", "only prose changed")
            else:
                status[step] = ("fresh", "")
        return status

    # --- edits ---

    @rule(module=st.sampled_from(list(MODULES)), value=values, note=notes, when=times)
    def edit_a_module(self, module, value, note, when):
        self.now["modules"][module] = (value, note)
        self.write_module(module, when)

    @rule(
        name=st.sampled_from(list(NOTEBOOKS)),
        change=st.fixed_dictionaries({}, optional={"value": values, "note": notes, "reader": st.booleans()}),
        moved=st.booleans(),
        twin=st.booleans(),
        when=times,
    )
    def edit_code(self, name, change, moved, twin, when):
        self.now["cells"][name] |= change | {"moved": moved, "twin": twin}
        path = self.folder / "notebooks" / f"{name}.ipynb"
        write_notebook(path, self.now, name)
        self.set_time(path, when)

    @rule(
        name=st.sampled_from(list(NOTEBOOKS)),
        text=st.sampled_from(["# Title", "# Better title", "# Title\n\nMore"]),
        cell_name=st.sampled_from(["read", "read-a-number"]),
        hidden=st.booleans(),
        late=st.booleans(),
    )
    def edit_prose(self, name, text, cell_name, hidden, late):
        self.now["prose"][name] = (text, cell_name, hidden, late)
        write_notebook(self.folder / "notebooks" / f"{name}.ipynb", self.now, name)

    @rule(edit=st.sampled_from([(key, value) for key, chosen in EDITED_KEYS.items() for value in chosen]), when=times)
    def edit_the_profile(self, edit, when):
        key, value = edit
        *above, name = key.split(".")
        section = functools.reduce(lambda part, entry: part[entry], above, self.now["profile"])
        if value is None:
            section.pop(name, None)
        else:
            section[name] = copy.deepcopy(value)
        self.write_profile(when)

    @rule()
    def comment_and_sort_the_profile(self):
        self.write_profile(None, "# A comment, and keys in another order.\n")

    @rule(version=st.integers(1, 2))
    def edit_the_lock(self, version):
        self.now["lock"] = f"numpy=={version}\n"
        self.write(self.folder / "requirements-lock.txt", self.now["lock"], None)

    @rule(number=st.integers(1, 5), content=st.sampled_from([None, "3", "5", "7"]), when=times)
    def edit_a_patient(self, number, content, when):
        name = f"sub-{number}.txt"
        if content is None:
            self.now["given"].pop(name, None)
            (self.folder / "given" / name).unlink(missing_ok=True)
        else:
            self.now["given"][name] = content
            self.write(self.folder / "given" / name, content, when)

    @rule()
    def let_a_system_leave_a_hidden_file(self):
        self.write(self.folder / "given" / ".DS_Store", "nothing", None)

    @rule(level=st.integers(1, 2))
    def edit_a_parameter_in_the_makefile(self, level):
        self.now["level"] = level

    @rule(name=st.sampled_from(["helper", "inner/other"]), note=notes)
    def add_a_module_that_nobody_imports(self, name, note):
        self.write(self.folder / "tof2perf" / f"{name}.py", f"# {note}\n", None)

    @rule(step=st.sampled_from(NAMES), content=st.sampled_from([None, "spoilt", "as it was"]), when=times)
    def tamper_with_a_result(self, step, content, when):
        path = self.run.results / f"{OUTPUT[step]}.txt"
        self.disk[step] = self.results[step] if content == "as it was" else content
        if content is None:
            path.unlink(missing_ok=True)
        else:
            self.write(path, self.disk[step], when)

    @rule(step=st.sampled_from(NAMES), how=st.sampled_from(["missing", "changed"]))
    def tamper_with_an_executed_notebook(self, step, how):
        self.book[step] = how
        path = self.run.executed(step)
        if how == "missing":
            path.unlink(missing_ok=True)
        else:
            path.write_text('{"cells": []}')

    @rule(step=st.sampled_from(NAMES), text=st.sampled_from([None, "", '{"inputs": ', "{}"]))
    def damage_a_stamp(self, step, text):
        self.made.pop(step, None)
        if text is None:
            self.run.stamp(step).unlink(missing_ok=True)
        else:
            self.run.stamp(step).write_text(text)

    @rule(
        pattern=st.sampled_from(["*.py", "*.ipynb", "*.txt", "*.yaml", "*.json"]),
        when=st.sampled_from(["past", "future"]),
    )
    def touch(self, pattern, when):
        for path in self.folder.rglob(pattern):
            self.set_time(path, when)

    @rule(step=st.sampled_from(NAMES), when=times)
    def undo_all_that_a_step_was_not_made_from(self, step, when):
        """Bring back what a step was last made from: it is fresh again, unless its results were touched."""
        if step not in self.made:
            return
        made = self.made[step]
        self.now["cells"][step.split("-")[0]] = dict(made["cells"])
        for module in MODULES:
            if module_name(module) in made["modules"]:
                self.now["modules"][module] = made["modules"][module_name(module)]
        for key, value in made["profile"].items():
            *above, name = key.split(".")
            section = functools.reduce(lambda part, entry: part[entry], above, self.now["profile"])
            section[name] = copy.deepcopy(value)
        if step == "prepare":
            self.now["given"] = {name.removeprefix("given/"): text for name, text in made["files"].items()}
        self.now["level"] = made["parameters"].get("level", self.now["level"])
        self.now["lock"] = made["lock"]["lock"]
        self.write_all(when)

    # --- what must hold ---

    @invariant()
    def status_gives_the_true_reason(self):
        forget()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            steps.print_status(self.plan(), self.run)
        lines = {line.split()[0]: line for line in printed.getvalue().splitlines()[:-1]}
        for step, (state, reason) in self.expected_status().items():
            assert lines[step].split()[1] == state, lines[step]
            assert lines[step].endswith(f"  {reason}" if reason else " s"), (lines[step], reason)

    @rule(goal=st.sampled_from(["every step", "every step", *NAMES]))
    def make(self, goal):
        """Visit what must be visited, as the Makefile does, and nothing else runs than what the table says."""
        wanted = set(NAMES) if goal == "every step" else {goal}
        while more := set(itertools.chain(*(AFTER[name] for name in wanted))) - wanted:
            wanted |= more
        expected = []
        for step in [name for name in NAMES if name in wanted]:
            if step not in self.made or self.reasons(step):
                expected.append(step)
                self.made[step] = self.reads(step)
                self.results[step] = self.disk[step] = self.computed(step)
                self.book[step] = "there"
            self.prose[step] = self.now["prose"][step.split("-")[0]]
        self.ran.clear()
        forget()
        plan = self.plan()
        verdicts = staleness.judge_all(plan, self.run)
        for step in plan:
            if step.name in wanted and verdicts[step.name].state != "fresh":
                steps.run_step(step, self.run)
        assert self.ran == expected
        for step in wanted:
            assert (self.run.results / f"{OUTPUT[step]}.txt").read_text() == self.results[step]
            stored = json.loads((self.folder / "notebooks" / f"{step.split('-')[0]}.ipynb").read_text())["cells"]
            executed = json.loads(self.run.executed(step).read_text())["cells"]
            for before, after in zip(stored, executed, strict=True):
                assert (before["id"], before["source"]) == (after["id"], "".join(after["source"]))
                assert before["metadata"].get("tags", []) == after["metadata"].get("tags", [])
                assert after["cell_type"] == "markdown" or after["outputs"]


FEW = settings(
    max_examples=5,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class TestPaper(Paper.TestCase):
    settings = FEW


@pytest.mark.slow
class TestPaperAtLength(Paper.TestCase):
    settings = settings(FEW, max_examples=30)


# --- every edit alone -------------------------------------------------------------------------------------------------

ALONE = [
    *[("edit_a_module", {"module": module, "value": 2, "note": 0}) for module in MODULES],
    *[("edit_a_module", {"module": module, "value": 1, "note": 1}) for module in MODULES],
    *[
        ("edit_code", {"name": name, "change": change, "moved": moved, "twin": twin})
        for name in NOTEBOOKS
        for change, moved, twin in (
            ({"value": 1}, False, False),
            ({"note": 1}, False, False),
            ({"reader": True}, False, False),
            ({}, True, False),
            ({}, False, True),
        )
    ],
    *[("edit_the_profile", {"edit": (key, chosen[-1])}) for key, chosen in EDITED_KEYS.items()],
    *[
        ("edit_a_patient", {"number": number, "content": content})
        for number, content in ((1, None), (2, "7"), (3, "3"))
    ],
]


@pytest.mark.parametrize(
    "edits", [pytest.param(ALONE[::8], id="some"), pytest.param(ALONE, id="all", marks=pytest.mark.slow)]
)
def test_every_edit_alone_reruns_what_depends_on_it_and_undone_nothing(edits):
    """Chance may pass an edit by; here each is made to a finished paper, and taken back before and after a rerun."""
    paper = Paper()
    try:
        paper.finish_it_once()
        finished = copy.deepcopy(paper.now)
        for name, given in edits:
            for rerun in (False, True):
                getattr(paper, name)(**given, when=None)
                paper.status_gives_the_true_reason()
                if rerun:
                    paper.make("every step")
                paper.now = copy.deepcopy(finished)
                paper.write_all(None)
                if not rerun:
                    assert {state for state, _ in paper.expected_status().values()} == {"fresh"}, (name, given)
                paper.status_gives_the_true_reason()
                paper.make("every step")
    finally:
        paper.teardown()
