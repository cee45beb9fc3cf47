# The paper from one command: `make paper`. Make keeps the graph of steps; what is stale is decided by content
# (tof2perf/pipeline/staleness.py), never by file times, so no prerequisite between steps is a time comparison: all are order-only.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error GNU Make 4.3 or newer is needed, this is $(MAKE_VERSION): use the one of environment.yml, or brew install make and gmake)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

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
## PARTS=          jobs that share the patients of a cohort: 1, or 8 with a launcher
PARTS ?= $(if $(strip $(RUN_CPU)),8,1)
## RANKS=1         processes that train one model together, started by srun; as many as devices in the profile
RANKS ?= 1
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
ifneq ($(words $(ROOT)x$(DATA)x),1)
$(error ROOT and DATA must not contain spaces: use a link to the folder)
endif
ifneq ($(DATA),)
ifeq ($(wildcard $(DATA)/.),)
$(error DATA=$(DATA): no such folder: give the one that holds your cohorts, see README.md)
endif
endif

RUN_NAME := $(PROFILE)$(if $(DATA),-$(notdir $(realpath $(DATA))))
RESULTS := $(patsubst ./%,%,$(ROOT)/results/$(RUN_NAME))
STAMPS := $(RESULTS)/.stamps
RUNNER = $(PYTHON) -m tof2perf.pipeline.steps --root $(ROOT) --run $(RUN_NAME) --profile $(PROFILE)$(if $(DATA), --data $(DATA))

# --- the graph --------------------------------------------------------------------------------------------------------
ifdef INSIDE
# $(call step,NAME,NOTEBOOK,PARAMETERS,STEPS BEFORE IT,OTHER FILES IT READS,WHAT IT WRITES,LAUNCHER); upstream first.
define step
STEPS += $(1)
AFTER.$(1) := $(4)
SPEC.$(1) := $(strip $(1) --notebook $(2) $(3) $(if $(4),--after $(4)) $(if $(5),--inputs $(5)) $(if $(6),--outputs $(6)))
$(STAMPS)/$(1).json: | $(patsubst %,$(STAMPS)/%.json,$(4))
	@$$(RUNNER) $(if $(7),--by $(7)) run $$(SPEC.$(1))
endef

# $(call share,NAME,PARTS,LAUNCHER): parts of a step, each a job of its own, that come before its notebook.
define share
$(STAMPS)/$(1).json: | $(foreach k,$(2),$(STAMPS)/$(1).part$(k))
$(STAMPS)/$(1).begun: | $(patsubst %,$(STAMPS)/%.json,$(AFTER.$(1)))
	@$$(RUNNER) begin $$(SPEC.$(1))
$(foreach k,$(2),$(STAMPS)/$(1).part$(k)): $(STAMPS)/$(1).part%: | $(STAMPS)/$(1).begun
	@$$(RUNNER) --by $(3) part $$*/$(words $(2)) $$(SPEC.$(1))
endef

# The profile says which cohorts and maps there are, and which model makes a map: a word a map, cohort/map/model or
# cohort/map/model/cohort to start from.
MAPS := $(shell $(PYTHON) -m tof2perf.profiles --profile $(PROFILE)$(if $(DATA), --data $(DATA)))
ifneq ($(.SHELLSTATUS),0)
$(error the cohorts of this run are not known; see the line above)
endif
cohort = $(word 1,$(subst /, ,$(1)))
map = $(word 2,$(subst /, ,$(1)))
model = $(word 3,$(subst /, ,$(1)))
twin = $(word 4,$(subst /, ,$(1)))
unique = $(if $(1),$(firstword $(1)) $(call unique,$(filter-out $(firstword $(1)),$(1))))
COHORTS := $(strip $(call unique,$(foreach m,$(MAPS),$(call cohort,$(m)))))
EVALUATIONS := $(foreach m,$(MAPS),03-evaluate-$(call cohort,$(m))-$(call map,$(m)))
# Lesions are analysed, and figures 1 to 4 drawn, of the cohort of the paper, or of the first that the run has.
FIRST := $(firstword $(filter acute,$(COHORTS)) $(COHORTS))
PREPARED := 01-preprocess-$(FIRST)
TMAX := 03-evaluate-$(FIRST)-tmax
TMAX_MODEL := 02-train-$(FIRST)-$(call model,$(filter $(FIRST)/tmax/%,$(MAPS)))
OTHERS := $(filter-out $(TMAX),$(filter 03-evaluate-$(FIRST)-%,$(EVALUATIONS)))
PREPROCESSED := data/preprocessed/$(RUN_NAME)
DROPPED := $(ROOT)/data/intake/$(RUN_NAME)/dropped.tsv
OUT := results/$(RUN_NAME)
# Every page says whose images it shows: the words stand in the descriptions of its cohorts.
described = $(foreach c,$(1),$(if $(DATA),$(DATA),$(ROOT)/data/simulated/$(PROFILE))/$(c)/dataset_description.json)

ifeq ($(DATA),)
$(foreach c,$(COHORTS),$(eval $(call step,00-simulate-$(c),00-simulate,-p cohort $(c),,,data/simulated/$(PROFILE)/$(c) \
    data/oracle/$(PROFILE)/$(c),RUN_CPU)))
endif
$(foreach c,$(COHORTS),$(eval $(call step,01-preprocess-$(c),01-preprocess,-p cohort $(c),$(if \
    $(DATA),,00-simulate-$(c)),$(if $(DATA),$(DATA)/$(c) $(DROPPED)),$(PREPROCESSED)/$(c),RUN_CPU)))

# $(call train,COHORT,MODEL,COHORT TO START FROM)
define train
$(call step,02-train-$(1)-$(2),02-train,-p cohort $(1) -p map_name $(2),$(strip \
    01-preprocess-$(1) $(if $(3),02-train-$(3)-$(2))),$(call described,$(1)),$(OUT)/models/$(1)_$(2),$(strip \
    $(if $(filter 1,$(RANKS)),RUN_GPU,RUN_CPU)))
endef
# $(call evaluate,COHORT,MAP,MODEL)
define evaluate
$(call step,03-evaluate-$(1)-$(2),03-evaluate,-p cohort $(1) -p map_name $(2),$(strip \
    $(if $(DATA),,00-simulate-$(1)) 01-preprocess-$(1) 02-train-$(1)-$(3)),$(call described,$(1)),$(OUT)/metrics/$(1)_$(2).csv $(OUT)/metrics/$(1)_$(2)_relative.csv \
    '$(OUT)/predictions/$(1)/*_$(2).nii.gz',RUN_CPU)
endef
MODELS := $(call unique,$(foreach m,$(MAPS),$(call cohort,$(m))/$(call model,$(m))/$(call twin,$(m))))
$(foreach m,$(MODELS),$(eval $(call train,$(call cohort,$(m)),$(call map,$(m)),$(call model,$(m)))))
$(foreach m,$(MAPS),$(eval $(call evaluate,$(call cohort,$(m)),$(call map,$(m)),$(call model,$(m)))))

# $(call page,NAME,STEPS BEFORE IT,OTHER FILES IT READS,WHAT IT WRITES,COHORT): a notebook that runs once.
define page
$(call step,$(1),$(1),$(if $(5),-p cohort $(5)),$(2),$(strip $(3) $(call described,$(or $(5),$(COHORTS)))),$(4))
endef
$(eval $(call page,12-rating,$(PREPARED) $(TMAX),$(ROOT)/data/rating/$(RUN_NAME),$(OUT)/rating,$(FIRST)))
$(eval $(call page,04-dice,$(if $(DATA),,00-simulate-$(FIRST)) $(PREPARED) $(TMAX) 12-rating,$(strip \
    data/published $(ROOT)/data/rating/$(RUN_NAME)),$(strip \
    '$(OUT)/tables/dice*' '$(OUT)/tables/lesion_*' $(OUT)/lesions/$(FIRST)),$(FIRST)))
$(eval $(call page,05-table1,$(EVALUATIONS) 04-dice,data/published,'$(OUT)/tables/table1.*' $(OUT)/tables/comparison.csv))
$(eval $(call page,06-figure1,$(PREPARED) $(TMAX_MODEL) $(TMAX),,'$(OUT)/figures/figure1.*',$(FIRST)))
$(eval $(call page,07-figure2,$(PREPARED) $(TMAX) 04-dice,,'$(OUT)/figures/figure2.*',$(FIRST)))
ifneq ($(OTHERS),)
$(eval $(call page,08-figure3,$(PREPARED) $(OTHERS) 04-dice,,'$(OUT)/figures/figure3.*',$(FIRST)))
endif
$(eval $(call page,09-figure4,$(PREPARED) $(TMAX) 04-dice,,'$(OUT)/figures/figure4.*',$(FIRST)))
ifneq ($(filter pegasus,$(COHORTS)),)
$(eval $(call page,10-appendix4,$(strip \
    01-preprocess-pegasus $(filter 03-evaluate-pegasus-%,$(EVALUATIONS))),,'$(OUT)/figures/appendix4.*',pegasus))
endif
$(eval $(call page,11-distributions,$(EVALUATIONS),,'$(OUT)/figures/distributions*'))
$(eval $(call page,13-baselines,$(EVALUATIONS) 04-dice 05-table1,$(call described,$(COHORTS)),$(strip \
    '$(OUT)/tables/baselines.*' $(OUT)/tables/ceiling.csv '$(OUT)/figures/ceiling.*'),$(FIRST)))
$(eval $(call page,14-lesions,$(PREPARED) $(TMAX) 04-dice,,'$(OUT)/figures/lesion_*',$(FIRST)))

# Pages for students: part of the book, not of the paper. Those that need no results make their own patients.
PAPER := $(STEPS)
# $(call lesson,NAME,PARAMETERS,STEPS BEFORE IT,WHAT IT WRITES,OTHER FILES IT READS)
lesson = $(eval $(call step,explore-$(1),explore/$(1),$(2),$(3),$(5),$(foreach file,$(4),$(OUT)/explore/$(file))))
ifeq ($(DATA),)
$(call lesson,perfusion,,,perfusion_methods.csv)
$(call lesson,phantom,,$(foreach c,$(COHORTS),00-simulate-$(c)),phantom.csv phantom_patients.csv)
$(call lesson,patient,,,patient.csv)
endif
$(call lesson,browse,-p cohort $(FIRST),$(PREPARED) $(TMAX) $(OTHERS) 04-dice,,$(call described,$(FIRST)))
ifneq ($(call model,$(filter $(FIRST)/tmax/%,$(MAPS))),all)  # these look into the model of one map
$(call lesson,gan,-p cohort $(FIRST),$(PREPARED) $(TMAX_MODEL),,$(call described,$(FIRST)))
$(call lesson,metrics,-p cohort $(FIRST),$(PREPARED) $(TMAX_MODEL) $(TMAX) 04-dice 05-table1,metrics_findings.csv,$(strip \
    data/published results/reference/$(PROFILE)/ablations $(call described,$(FIRST))))
endif
$(call lesson,hyperparameters,-p profile smoke,,)
$(call lesson,ablations,-p profile smoke,,)

PLANNED := $(if $(filter book status,$(MAKECMDGOALS)),$(STEPS),$(PAPER))
PLAN = $(foreach step,$(PLANNED),: $(SPEC.$(step)))
endif

# --- what a reader calls ----------------------------------------------------------------------------------------------
BUILDS := paper book figure1 figure2 figure3 figure4 appendix4 distributions table1 dice
.PHONY: FORCE build help smoke test bench chaos plan check verify status lint lock lab truth spread clean clean-all $(BUILDS)

ifndef INSIDE
# One make at a time works in a results folder: what follows runs inside a lock on it.
$(BUILDS): build
	@:
build: | environment
	+@$(if $(shell command -v $(PYTHON)),$(RUNNER) lock) $(MAKE) INSIDE=1 $(if \
	    $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(CORES)) $(filter $(BUILDS),$(MAKECMDGOALS))
else
ifneq ($(shell command -v $(PYTHON)),)
VISIT := $(shell $(RUNNER) stale $(PLAN))
ifneq ($(.SHELLSTATUS),0)
$(error the steps cannot be compared with their results; see the line above)
endif
$(patsubst %,$(STAMPS)/%.json,$(filter $(PLANNED),$(VISIT))): FORCE
$(RESULTS)/manifest.json: $(if $(filter manifest,$(VISIT)),FORCE)
ifneq ($(PARTS),1)
$(foreach s,$(filter 00-% 01-%,$(VISIT)),$(eval $(call share,$(s),$(shell seq $(PARTS)),RUN_CPU)))
endif
ifneq ($(RANKS),1)
$(foreach s,$(filter 02-%,$(VISIT)),$(eval $(call share,$(s),1,RUN_GPU)))
endif
endif
$(RESULTS)/manifest.json: | $(patsubst %,$(STAMPS)/%.json,$(PLANNED))
	@$(PYTHON) -m tof2perf.pipeline.provenance --profile $(PROFILE) --root $(ROOT)$(if $(DATA), --data $(DATA))

paper: $(RESULTS)/manifest.json  ## every figure and table of the paper, into results/PROFILE
book: $(RESULTS)/manifest.json  ## the paper and the pages for students as a site to read in a browser, no network needed
	@$(PYTHON) -m tof2perf.report.book $(RESULTS)
figure1: $(STAMPS)/06-figure1.json  ## one result and what it needs: figure1 .. figure4, appendix4, distributions,
figure2: $(STAMPS)/07-figure2.json  ## table1, dice
figure3: $(STAMPS)/08-figure3.json
figure4: $(STAMPS)/09-figure4.json
appendix4: $(STAMPS)/10-appendix4.json
distributions: $(STAMPS)/11-distributions.json
table1: $(STAMPS)/05-table1.json
dice: $(STAMPS)/04-dice.json
# What needs a cohort or map that this run does not have.
$(filter-out $(patsubst %,$(STAMPS)/%.json,$(STEPS)),$(STAMPS)/08-figure3.json $(STAMPS)/10-appendix4.json):
	@echo "$(basename $(notdir $@)): no cohort of this run ($(COHORTS)) has what it shows" >&2; exit 1
$(filter-out book,$(BUILDS)):
	@echo "$@: up to date in $(RESULTS)"
endif

smoke:  ## the same with the smallest profile: does everything work here?
	+@$(MAKE) paper PROFILE=smoke

test: lint  ## lint, unit tests and a smoke run in a temporary folder
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: | environment  ## style, types and import floors
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy --no-error-summary
	@$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-logo

bench: | environment  ## time and memory of simulation, deconvolution and the training step: results/benchmarks.json
	@mkdir -p $(ROOT)/results
	@OMP_NUM_THREADS=$(CORES) MKL_NUM_THREADS=$(CORES) $(PYTHON) -m pytest -q -p no:cacheprovider $(wildcard tests/bench/bench_*.py) \
	    --benchmark-json=$(ROOT)/results/benchmarks.json --benchmark-columns=min,median,rounds
	@$(PYTHON) tests/tools/benchmark_tables.py $(ROOT)/results/benchmarks.json

chaos: | environment  ## every fault that long runs meet, on copies of a smoke run, and what the next make does: a matrix
	@$(PYTHON) tests/tools/chaos.py$(if $(ONLY), --only '$(ONLY)')

plan: | environment  ## before anything runs: patients, steps, disk, memory, hours; here, or with DEVICES= RATE= (TFLOP/s) JOBS= elsewhere
	@$(PYTHON) -m tof2perf.planning.plan --profile $(PROFILE) --root $(ROOT) --cores $(CORES)$(if $(DATA), --data $(DATA))$(if \
	    $(DEVICES), --devices $(DEVICES))$(if $(RATE), --rate $(RATE))$(if $(JOBS), --jobs $(JOBS))

status: | environment  ## every step: fresh, stale and why, missing or failed
ifdef INSIDE
	@$(RUNNER) status $(PLAN)
else
	@$(MAKE) INSIDE=1 status
endif

check: | environment  ## every problem in your own data, before hours are spent: DATA=folder; DROP=1 leaves patients out
	$(if $(DATA),,$(error make check needs DATA=FOLDER, the folder that holds your cohorts))@$(PYTHON) -m tof2perf.cohorts.check \
	    --data $(DATA) --profile $(PROFILE) --root $(ROOT)$(if $(filter-out 0,$(DROP)), --drop)

verify: | environment  ## compare the tables with results/reference/PROFILE
	@$(PYTHON) -m tof2perf.report.verification $(RESULTS) results/reference/$(PROFILE)

spread: | environment  ## tolerances of verify from finished runs with other seeds, given as SEEDS="folder folder ..."
	@$(PYTHON) -m tof2perf.report.spread results/reference/$(PROFILE) $(SEEDS)

truth: | environment  ## what the pipeline found beside what the phantom knows, for simulated cohorts
	@$(PYTHON) tests/tools/truth_report.py --profile $(PROFILE) --root $(ROOT)

lab: | environment  ## JupyterLab on the notebooks
	@$(PYTHON) -m jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks

clean:  ## remove figures, tables and caches, never data or models
	rm -rf $(RESULTS)/figures $(RESULTS)/tables $(RESULTS)/book $(RESULTS)/failed $(RESULTS)/manifest.json
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

clean-all: clean  ## remove all that was generated, of every profile, and .venv
	rm -rf $(ROOT)/data/simulated $(ROOT)/data/oracle $(ROOT)/data/intake $(ROOT)/data/preprocessed .venv tof2perf.egg-info
	find $(ROOT)/results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +

help:  ## this list
	@printf 'make TARGET [VARIABLE=value]...\n\n'
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@printf '\n'; sed -n 's/^## \(.*\)/  \1/p' Makefile; printf '\nprofiles: $(PROFILES)\n'

# --- the environment --------------------------------------------------------------------------------------------------
.PHONY: environment
ifeq ($(PYTHON),.venv/bin/python)
environment: | .venv/requirements-lock.txt
else
environment: ;
endif

# What was installed is remembered as a copy of the lock file, so a new lock is noticed whatever the clocks say.
.venv/requirements-lock.txt: $(if $(shell cmp -s requirements-lock.txt .venv/requirements-lock.txt || echo differs),FORCE)
	@base=; for name in python3.11 python3 python3.13 python3.12; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then base=$$name; break; fi; done; \
	if [ -z "$$base" ]; then echo "Python 3.11 or newer is needed, as python3 on the PATH" >&2; exit 1; fi; \
	echo "installing requirements-lock.txt into .venv with $$base: some minutes, once"; \
	{ [ -x .venv/bin/python ] || $$base -m venv .venv; } && \
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
