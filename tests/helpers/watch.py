"""What the notebooks of a run truly read: files, folders, modules of the package, keys of the profile.

Laid into a checkout as ``sitecustomize.py``, Python loads it in every process that starts there, workers of joblib
included. What is found stands in ``watched/`` beside the checkout, a file a step: a line a thing, kind and name.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

CHECKOUT = os.path.dirname(os.path.realpath(__file__))
WATCHED = os.path.join(os.path.dirname(CHECKOUT), "watched")
STEP = "TOF2PERF_WATCHED_STEP"  # by this variable a kernel and its workers know the step that they belong to


class Watch:
    """Notes every thing once, in one piece, so that lines of parallel processes never mix."""

    def __init__(self, step: str):
        os.makedirs(WATCHED, exist_ok=True)
        self.target = os.open(os.path.join(WATCHED, step), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.noted: set[str] = set()

    def note(self, kind: str, name: str) -> None:
        line = f"{kind} {name}\n"
        if line not in self.noted:
            self.noted.add(line)
            os.write(self.target, line.encode())

    def path(self, kind: str, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.realpath(os.fsdecode(path))
            if full.startswith(CHECKOUT + os.sep):
                self.note(kind, os.path.relpath(full, CHECKOUT))

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
            self.path("write" if writes else "read", path)
        elif event in ("os.listdir", "os.scandir"):
            self.path("list", "." if arguments[0] is None else arguments[0])
        elif event == "import" and arguments[0].split(".")[0] == "tof2perf":
            self.note("import", arguments[0])


class Keys(dict):
    """A mapping of the profile that notes which of its values are read; whether it has a key is no reading of it."""

    def __new__(cls, content, path=None, watch=None):
        return dict(content) if path is None else super().__new__(cls)  # a copy of a part is no profile any more

    def __init__(self, content, path, watch):
        super().__init__(content)
        self._path, self._watch = path, watch

    def __reduce__(self):
        return dict, (dict(self),)

    def _read(self, key):
        if not _is_section(dict.get(self, key)):
            self._watch.note("key", ".".join([*self._path, str(key)]))

    def __getitem__(self, key):
        self._read(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self._read(key)
        return super().get(key, default)

    def _whole(self):
        self._watch.note("key", ".".join(self._path))

    def __iter__(self):
        self._whole()
        return super().__iter__()

    def keys(self):
        self._whole()
        return super().keys()

    def values(self):
        self._whole()
        return super().values()

    def items(self):
        self._whole()
        return super().items()


def _is_section(value: object) -> bool:
    return hasattr(value, "__dataclass_fields__") or isinstance(value, Keys)


def watch_profiles(module, watch: Watch) -> None:
    """Let ``load_profile`` return a profile whose sections know where they lie in it and note what is read."""
    paths: dict[int, tuple[tuple[str, ...], object]] = {}

    def read(self, name):
        value = object.__getattribute__(self, name)
        known = paths.get(id(self))
        if known and known[1] is self and name in type(self).__dataclass_fields__ and not _is_section(value):
            watch.note("key", ".".join([*known[0], name]))
        return value

    def label(value, path):
        if isinstance(value, dict):
            return Keys({key: label(entry, (*path, key)) for key, entry in value.items()}, path, watch)
        if hasattr(value, "__dataclass_fields__"):
            paths[id(value)] = (path, value)
            for name in type(value).__dataclass_fields__:
                object.__setattr__(value, name, label(object.__getattribute__(value, name), (*path, name)))
        return value

    load = module.load_profile
    module.load_profile = lambda name: label(load(name), ())
    for kind in vars(module).values():
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
            kind.__getattribute__ = read


def watch_safetensors(module, watch: Watch) -> None:
    """Weights are opened by compiled code, of which Python's own watch learns nothing."""
    opened = module.safe_open

    def safe_open(path, *arguments, **options):
        watch.path("read", path)
        return opened(path, *arguments, **options)

    module.safe_open = safe_open


class Finder:
    """Changes the two modules above as soon as they are loaded."""

    changes = {"tof2perf.profiles": watch_profiles, "safetensors": watch_safetensors}  # noqa: RUF012

    def __init__(self, watch: Watch):
        self.watch = watch

    def find_spec(self, name, path, target=None):
        change = self.changes.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if change else None
        if spec is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            change(module, self.watch)

        spec.loader.exec_module = exec_module
        return spec


def begin(words: list[str], environment: os._Environ) -> None:
    """Watch a process that a step has started; the step itself, which takes fingerprints, only leaves its name."""
    if STEP in environment:
        watch = Watch(environment[STEP])
        sys.meta_path.insert(0, Finder(watch))
        sys.addaudithook(watch)
    elif "tof2perf.make" in words and "run" in words:
        environment[STEP] = words[words.index("run") + 1]


def read_watched(folder: Path) -> dict[str, dict[str, set[str]]]:
    """What was noted: step -> kind (read, write, list, import, key) -> names."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(folder.iterdir()):
        kinds = found.setdefault(path.name, {})
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, name = line.split(" ", 1)
            kinds.setdefault(kind, set()).add(name)
    return found


if __name__ == "sitecustomize":
    begin(sys.orig_argv, os.environ)
