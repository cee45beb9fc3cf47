# The paper from one command: `make paper`. The steps are declared in tof2perf/pipeline/graph.py. What is stale is decided
# by content (tof2perf/pipeline/staleness.py), never by file times: no step is a file here.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION): use the one of environment.yml, or brew install make and gmake)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The environment may hold a DATA or ROOT of another program, so variables are taken from make's own words alone.
ifndef INSIDE
VARIABLES := PROFILE DATA ROOT RUN RUN_CPU RUN_GPU SITE PYTHON DROP ONLY SEEDS DEVICES RATE FROM
$(foreach name,$(VARIABLES),$(if $(filter environment,$(origin $(name))),$(if $(filter 0,$(MAKELEVEL)),$(warning \
    $(name) is set in the environment, which make does not read: write make TARGET $(name)=...))$(eval undefine $(name))))
endif

## PROFILE=laptop  size of the run: a file in notebooks/profiles
PROFILE := laptop
## DATA=           folder with your own BIDS cohorts in place of the simulated ones
DATA :=
## ROOT=.          folder that data/ and results/ are written to
ROOT := .
## RUN=            launcher of the heavy steps, for example RUN="srun -q -n1 -c4 --gres=gpu:1" on a cluster
RUN :=
## SITE=.site.mk   what else a cluster wants, by kind of step (README.md, "On a cluster"); RUN comes before it
SITE := .site.mk
-include $(SITE)
# Simulation, preprocessing and evaluation compute on processors, training on a GPU where there is one.
RUN_CPU := $(or $(RUN),$(RUN_CPU))
RUN_GPU := $(or $(RUN),$(RUN_GPU))
export RUN_CPU RUN_GPU
# An active environment serves if it was made for this project; else .venv is made here.
ACTIVE := $(firstword $(foreach env,$(VIRTUAL_ENV) $(CONDA_PREFIX),$(if \
            $(wildcard $(env)/lib/python3*/site-packages/tof2perf-*.dist-info),$(env))))
## PYTHON=         interpreter with the packages of requirements-lock.txt
PYTHON ?= $(if $(ACTIVE),$(ACTIVE)/bin/python,.venv/bin/python)

# Without its variable nproc counts the cores: it would take a caller's threads for them.
CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Five models train at once, so each step gets a fifth of the cores.
THREADS := $(shell threads=$$(($(CORES) / 5)); echo $$((threads > 0 ? threads : 1)))
export OMP_NUM_THREADS := $(THREADS)
export MKL_NUM_THREADS := $(THREADS)
export OPENBLAS_NUM_THREADS := $(THREADS)
export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS := $(THREADS)
export PYTHONHASHSEED := 0
export PYTHONPATH := $(CURDIR)

PROFILES := $(basename $(notdir $(wildcard notebooks/profiles/*.yaml)))
ifeq ($(filter $(PROFILES),$(PROFILE)),)
$(error unknown profile '$(PROFILE)': choose one of $(PROFILES))
endif
GIVEN := $(value ROOT)$(value DATA)
ifneq ($(words x$(GIVEN)x)$(findstring ',$(GIVEN))$(findstring $$,$(GIVEN)),1)
$(error ROOT and DATA must not contain spaces, quotes or dollar signs: use a link to the folder)
endif
ifneq ($(DATA),)
ifeq ($(wildcard $(DATA)/.),)
$(error DATA=$(DATA): no such folder: give the one that holds your cohorts, see README.md)
endif
endif

RESULTS := $(patsubst ./%,%,$(ROOT)/results/$(PROFILE)$(if $(DATA),-$(notdir $(realpath $(DATA)))))
OF_RUN = --profile $(PROFILE) --root '$(ROOT)'$(if $(DATA), --data '$(DATA)')
PIPELINE = $(PYTHON) -m tof2perf.make $(OF_RUN)
# Make starts a command of plain words, single quotes included, without a shell: if make is killed, no shell hides that
# from the command.

# --- what a reader calls ----------------------------------------------------------------------------------------------
BUILDS := paper book figure1 figure2 figure3 figure4 appendix4 distributions table1 dice
.PHONY: FORCE build help smoke test test-all bench chaos plan check verify status lint lock lab truth spread clean clean-all \
    environment $(BUILDS)

ifndef INSIDE
# One make at a time works in a results folder: what follows runs inside a lock on it.
$(BUILDS): build
	@:
build: | environment
	+@$(PIPELINE) lock -- $(MAKE) INSIDE=1 $(if \
	    $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(CORES)) $(filter $(BUILDS),$(MAKECMDGOALS))
else
# A rule for each step, written by tof2perf/pipeline/steps.py: only what must be visited has a recipe.
WRITTEN := $(shell $(PIPELINE) rules $(if $(filter book,$(MAKECMDGOALS)),--book))
ifneq ($(.SHELLSTATUS),0)
$(error the steps of this run are not known; see the line above)
endif
include $(RESULTS)/.stamps/rules.mk

paper: manifest  ## every figure and table of the paper, into results/PROFILE
book: manifest  ## the paper and the pages for students as a site to read in a browser, no network needed
	@$(PYTHON) -m tof2perf.report.book '$(RESULTS)'
figure1: 06-figure1  ## one result and what it needs: figure1 .. figure4, appendix4, distributions,
figure2: 07-figure2  ## table1, dice
figure3: 08-figure3
figure4: 09-figure4
appendix4: 10-appendix4
distributions: 11-distributions
table1: 05-table1
dice: 04-dice
$(filter-out $(STEPS),08-figure3 10-appendix4):
	@echo "$@: no cohort of this run ($(COHORTS)) has what it shows" >&2; exit 1
$(filter-out book,$(BUILDS)):
	@echo '$@: up to date in $(RESULTS)'
endif

smoke:  ## the same with the smallest profile: does everything work here?
	+@$(MAKE) paper PROFILE=smoke

TESTS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
test: lint  ## lint, unit tests and a smoke run in a temporary folder
	@$(TESTS) -m 'not slow'

test-all: lint  ## the same and the slow tests: Slurm, a browser, faults in the middle of a run
	@$(TESTS)

lint: | environment  ## style, types and import floors
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy --no-error-summary
	@$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-logo

bench: | environment  ## time and memory of simulation, deconvolution and the training step: results/benchmarks.json
	@mkdir -p '$(ROOT)/results'
	@OMP_NUM_THREADS=$(CORES) MKL_NUM_THREADS=$(CORES) $(PYTHON) -m pytest -q -p no:cacheprovider $(wildcard tests/bench/bench_*.py) \
	    --benchmark-json='$(ROOT)/results/benchmarks.json' --benchmark-columns=min,median,rounds
	@$(PYTHON) tests/tools/benchmark_tables.py '$(ROOT)/results/benchmarks.json'

chaos: | environment  ## every fault that long runs meet, on copies of a smoke run, and what the next make does: a matrix
	@PYTHONPATH='$(CURDIR):$(CURDIR)/tests' $(PYTHON) tests/tools/chaos.py$(if $(ONLY), --only '$(ONLY)')

plan: | environment  ## hours, disk and memory before a run, or FROM=results/laptop; for machines elsewhere CORES= DEVICES= RATE= (TFLOP/s)
	@$(PYTHON) -m tof2perf.planning.plan $(OF_RUN) --cores $(CORES)$(if $(DEVICES), --devices '$(DEVICES)')$(if \
	    $(RATE), --rate '$(RATE)')$(if $(FROM), --from '$(FROM)')

status: | environment  ## every step: fresh, stale and why, missing or failed
	@$(PIPELINE) status

check: | environment  ## every problem in your own data, before hours are spent: DATA=folder; DROP=1 leaves patients out
	$(if $(DATA),,$(error make check needs DATA=FOLDER, the folder that holds your cohorts))@$(PYTHON) -m \
	    tof2perf.cohorts.check $(OF_RUN)$(if $(filter-out 0,$(DROP)), --drop)

verify: | environment  ## compare the tables with results/reference/PROFILE
	@$(PYTHON) -m tof2perf.report.verification '$(RESULTS)' results/reference/$(PROFILE)

spread: | environment  ## tolerances of verify from finished runs with other seeds, given as SEEDS="folder folder ..."
	@$(PYTHON) -m tof2perf.report.spread results/reference/$(PROFILE) $(foreach folder,$(SEEDS),'$(folder)')

truth: | environment  ## what the pipeline found beside what the phantom knows, for simulated cohorts
	@$(PYTHON) tests/tools/truth_report.py --profile $(PROFILE) --root '$(ROOT)'

lab: | environment  ## JupyterLab on the notebooks
	@$(PYTHON) -m jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks

clean:  ## remove figures, tables and caches, never data or models
	rm -rf $(foreach name,figures tables book failed manifest.json,'$(RESULTS)/$(name)')
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

clean-all: clean  ## remove all that was generated, of every profile, and .venv
	rm -rf $(foreach kind,simulated oracle intake preprocessed,'$(ROOT)/data/$(kind)') .venv tof2perf.egg-info
	find '$(ROOT)/results' -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +

help:  ## this list
	@printf 'make TARGET [VARIABLE=value]...   (variables are read from here and from SITE, not from the environment)\n\n'
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@printf '\n'; sed -n 's/^## \(.*\)/  \1/p' Makefile; printf '\nprofiles: $(PROFILES)\n'

# --- the environment --------------------------------------------------------------------------------------------------
ifeq ($(PYTHON),.venv/bin/python)
environment: | .venv/requirements-lock.txt
endif

# What was installed is remembered as a copy of the lock file, so a new lock is noticed whatever the clocks say.
.venv/requirements-lock.txt: $(if $(shell cmp -s requirements-lock.txt .venv/requirements-lock.txt || echo differs),FORCE)
	@base=; for name in python3.11 python3 python3.13 python3.12; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then base=$$name; break; fi; done; \
	if [ -z "$$base" ]; then echo "Python 3.11 or newer is needed, as python3 on the PATH" >&2; exit 1; fi; \
	echo "installing requirements-lock.txt into .venv with $$base: some minutes, once"; \
	{ [ -x .venv/bin/python ] || $$base -m venv .venv; } && export PIP_USER=0 && \
	.venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements-lock.txt && \
	.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	cp requirements-lock.txt $@

# appnope is what IPython's kernel adds on macOS; everything else in the lock is the same on Linux and macOS.
TORCH := 2.13.0
APPNOPE := 0.1.4
lock:  ## take the newest versions that fit pyproject.toml into requirements-lock.txt
	rm -rf .venv.new
	python3 -m venv .venv.new
	.venv.new/bin/python -m pip install -qq torch==$(TORCH) setuptools
	.venv.new/bin/python -m pip install -qq --no-build-isolation -e .[book,dev]
	{ echo '# Exact versions of everything, written by `make lock`; .venv and environment.yml both install from this file.'; \
	  echo '# What torch adds for NVIDIA GPUs on Linux it pins exactly itself.'; \
	  { .venv.new/bin/python -m pip freeze -qq --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; \
	    echo 'appnope==$(APPNOPE) ; sys_platform == "darwin"'; } | LC_ALL=C sort -f; } > requirements-lock.txt.new
	mv requirements-lock.txt.new requirements-lock.txt
	rm -rf .venv.new
