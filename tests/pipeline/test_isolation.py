"""What the user's machine holds does not reach the results: settings of libraries, and odd folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.miniature import REPOSITORY

from tof2perf.pipeline.execution import run_notebook

# A figure with an image, as displayed and as saved, a table, a progress bar, a check that must be made.
CELLS = [
    "size = 4",
    "import hashlib, io\nimport matplotlib.pyplot as plt\nimport numpy as np, pandas as pd\nfrom tqdm.auto import tqdm",
    "figure, ax = plt.subplots()\nax.imshow(np.arange(size**2).reshape(size, size))\nax.set_title('title')",
    "with io.BytesIO() as file:\n"
    "    figure.savefig(file, format='png')\n"
    "    print(hashlib.sha256(file.getvalue()).hexdigest())",
    "pd.DataFrame({'a': [1.23456789], 'b': ['text']})",
    "for _ in tqdm(range(3), desc='epochs'): pass",
    "try:\n    assert False\nexcept AssertionError:\n    print('checked')\nelse:\n    raise RuntimeError('none')",
]
STARTUP = "import matplotlib.pyplot as plt\nplt.style.use('dark_background')\nprint('hello from startup')\n"


@pytest.fixture
def book(tmp_path) -> Path:
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(CELLS)]
    cells[0].metadata.tags = ["parameters"]
    (tmp_path / "nb").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "nb" / "book.ipynb")
    return tmp_path / "nb" / "book.ipynb"


def execute(book: Path, target: Path) -> bytes:
    run_notebook(book, target, parameters={"size": 5}, failed=target.with_name("failed.ipynb"))
    return target.read_bytes()


def test_settings_of_matplotlib_ipython_jupyter_python_and_tqdm_leave_every_byte_as_it_was(book, tmp_path, monkeypatch):
    clean = execute(book, tmp_path / "clean.ipynb")
    assert b"image/png" in clean and b"epochs: 100%" in clean
    home = tmp_path / "home"
    files = {
        ".config/matplotlib/matplotlibrc": "image.origin: lower\nfigure.facecolor: black\nfont.size: 20\n",
        ".ipython/profile_default/startup/00-dark.py": STARTUP,
        ".ipython/profile_default/ipython_kernel_config.py": "c.InlineBackend.figure_formats = {'svg'}\n",
        ".ipython/profile_default/ipython_config.py": "c.InteractiveShellApp.exec_lines = ['print(1)']\n",
        ".jupyter/jupyter_config.py": "c.NotebookClient.allow_errors = True\n",
        "startup.py": STARTUP,
        "matplotlibrc": "image.origin: lower\n",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    variables = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "MPLBACKEND": "agg",
        "IPYTHONDIR": str(home / ".ipython"),
        "JUPYTER_CONFIG_DIR": str(home / ".jupyter"),
        "PYTHONSTARTUP": str(home / "startup.py"),
        "PYTHONOPTIMIZE": "1",
        "TQDM_DISABLE": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert execute(book, tmp_path / "hostile.ipynb") == clean


# --- shared memory ----------------------------------------------------------------------------------------------------

POOL = """
import joblib
from tof2perf.system.workers import one_thread_each, tied
with one_thread_each():
    print(*joblib.Parallel(n_jobs=2, return_as="generator", **tied())(joblib.delayed(abs)(-n) for n in range(3)))
print(*joblib.Parallel(n_jobs=2, return_as="generator", **tied())(joblib.delayed(abs)(-n) for n in range(3)))
"""


@pytest.mark.parametrize(
    "fault", ["mount -t tmpfs -o ro none /dev/shm", "umount -l /dev/shm"], ids=["read-only", "gone"]
)
def test_without_shared_memory_patients_are_worked_on_one_after_another(fault):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mounts of one's own may be made here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{fault} && exec "$@"', "sh", sys.executable, "-c", POOL],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["0 1 2", "0 1 2"], done.stderr
