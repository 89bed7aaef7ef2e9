# make demo | make test | make check: each sets up .venv first, nothing else needs to be typed.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
# bytecode of the project is kept, or each of hundreds of processes would compile it again
unexport PYTHONDONTWRITEBYTECODE
export VIRTUAL_ENV := $(VENV)
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.cache/torch_extensions
export OMP_NUM_THREADS ?= 1
BACKBONE ?= llama
# pytest-xdist: more than cores, for many tests wait
WORKERS ?= 3
# a folder of wheels, for machines that reach no package registry: make wheelhouse on one that does, then make setup WHEELHOUSE=wheelhouse
PIP_FROM := $(if $(WHEELHOUSE),--no-index --find-links $(WHEELHOUSE))
LOCKED := --constraint constraints.txt
TORCHRUN := torchrun --nproc_per_node 2 -- train.py
DEMO := runs/demo-$(BACKBONE)
CARD := backbones/pocket/$(BACKBONE).yaml
COMMON := --backbone=$(CARD)

.PHONY: setup toolchain demo study study-full bench gpu gpu-wheels test test-quick test-all mutants test-floor test-slurm test-faults resolve lock wheel wheelhouse check docs clean

setup: toolchain $(VENV)/.ready .cache/.ops-built

toolchain:
	@command -v g++ >/dev/null || { echo "g++ is missing; DeepSpeed builds its CPU collectives with it. Fix: apt-get install -y g++" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; fix: make PYTHON=python3.11" >&2; exit 1; }

# DeepSpeed is built against torch, in this environment, and compiles nothing yet
export DS_BUILD_OPS ?= 0
INSTALL = $(VENV)/bin/pip install -q --disable-pip-version-check $(PIP_FROM)
MAKE_VENV = $(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing; fix: apt-get install -y python3-venv" >&2; exit 1; }

$(VENV)/.ready: requirements.txt requirements-dev.txt constraints.txt
	$(MAKE_VENV)
	$(INSTALL) $(LOCKED) setuptools wheel "$$(grep '^torch==' requirements.txt)"
	$(INSTALL) $(LOCKED) --no-build-isolation -r requirements-dev.txt
	@touch $@

# constraints.txt again, after a change of requirements: what they ask for is installed, and the rest stays as it is (UPGRADE=1: the newest of all)
lock: INSTALL += $(if $(UPGRADE),--upgrade --upgrade-strategy eager)
lock: toolchain
	$(MAKE_VENV)
	$(INSTALL) setuptools wheel "$$(grep '^torch==' requirements.txt)"
	$(INSTALL) --no-build-isolation -r requirements-dev.txt
	python -m tools.lock
	@touch $(VENV)/.ready

# the program as one file, for a machine without the clone: pip install dist/*.whl, then clinical-metaprompt --help
wheel: setup
	python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist .

# DeepSpeed's CPU collectives are compiled once (about a minute), not inside the first run
.cache/.ops-built: $(VENV)/.ready
	@mkdir -p .cache
	@python -m engine.distributed.build_ops
	@touch $@

demo: setup
	@test -f $(CARD) || { echo "there is no pocket backbone $(BACKBONE): $(CARD) is missing. Fix: make demo BACKBONE=llama" >&2; exit 1; }
	python -m clinical_tasks.pocket --output runs/pocket/data
	$(TORCHRUN) study --config=configs/pocket/study_demo.yaml $(COMMON) --run_dir=$(DEMO)
	@echo "The whole report: $(DEMO)/report.html. Curves: tensorboard --logdir $(DEMO). The same on your data: README.md"

# the metaprompt against its baselines, each tuned: ten tasks x (0, 4, 16, 64, all examples) x three seeds; goes on where it was
STUDY = python -m clinical_tasks.pocket --output runs/pocket/data && torchrun --nproc_per_node 2 -- train.py study $(COMMON) --run_dir=runs/study-$(BACKBONE)

study: setup
	$(STUDY) --config=configs/pocket/study.yaml
	python -m engine.reporting.study_page --study=runs/study-$(BACKBONE) --output=docs/evidence/results.md

# ablations, a transfer matrix, one source left out at a time besides: hours, in as many sittings as it takes (ONLY=transfer,rank)
study-full: study
	$(STUDY) --config=configs/pocket/study_full.yaml $(if $(ONLY),--only=$(ONLY))
	python -m engine.reporting.study_page --study=runs/study-$(BACKBONE) --output=docs/evidence/results.md

# speed beside its peers, what takes less than a quarter of an hour on two quiet cores: one after the other, then the page
RESULT = --output benchmarks/results/
bench: setup
	python -m benchmarks.roofline $(RESULT)roofline_modelled.json
	python -m benchmarks.attention --repeats 5 $(RESULT)attention_cpu.json
	python -m benchmarks.loss --repeats 4 $(RESULT)loss_cpu.json
	python -m benchmarks.projection --repeats 5 $(RESULT)projection_cpu.json
	python -m benchmarks.checkpoint $(RESULT)checkpoint_cpu.json
	python -m benchmarks.loader --pairs 2 --folder runs/loader $(RESULT)loader_cpu.json
	python -m benchmarks.long_notes --lengths 1024,2048,4096 $(RESULT)long_notes_cpu.json
	python -m benchmarks.evaluation --shapes pocket --regimes short $(RESULT)evaluation_cpu.json
	torchrun --nproc_per_node 2 -m benchmarks.one_pass $(RESULT)one_pass_cpu.json
	python -m benchmarks.vs_peft --regimes short --stages teach,distill --pairs 2 $(RESULT)vs_peft_cpu.json
	python -m benchmarks.performance_page

# for whoever has a GPU, below nine minutes: tests, ceilings, kernels, whole steps, PEFT beside them (MINUTES=5 for less). Where torch is installed already
# and no registry is reached: make gpu PYTHON=python3 WHEELS=gpu-wheels, with a folder that `make gpu-wheels GPU_PYTHON=3.12` has filled elsewhere
MINUTES ?= 9
GPU_PYTHON ?= 3.12
GPU_SITE := .cache/gpu-site
gpu: $(if $(WHEELS),,setup)
	@$(if $(WHEELS),$(PYTHON) -m pip install -q --no-index --no-deps --no-compile --upgrade --target $(GPU_SITE) $(WHEELS)/*.whl)
	PYTHONPATH=$(if $(WHEELS),$(CURDIR)/$(GPU_SITE)) PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True HF_HUB_OFFLINE=1 \
		$(if $(WHEELS),$(PYTHON),python) -m benchmarks.gpu --minutes $(MINUTES) $(GPU_OPTIONS)

# what a machine with torch, transformers, peft, safetensors, sentencepiece, tensorboard and pytest lacks besides; DeepSpeed has no wheel and is packed here
gpu-wheels: setup
	@mkdir -p gpu-wheels
	python -m pip wheel -q $(LOCKED) --no-deps --no-build-isolation -w gpu-wheels "$$(grep '^deepspeed==' requirements.txt)"
	python -m pip wheel -q $(LOCKED) --no-deps -w gpu-wheels "$$(grep '^fire==' requirements.txt)" "$$(grep '^rouge-score==' requirements.txt)"
	python -m pip download -q $(LOCKED) --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		$(foreach n,39 34 31 28 27 24 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 -d gpu-wheels \
		"$$(grep '^datasets==' requirements.txt)" hjson pydantic annotated-types typing-inspection termcolor dill multiprocess nltk lazy-loader
	python -m pip download -q $(LOCKED) --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		$(foreach n,39 34 31 28 27 24 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 -d gpu-wheels \
		"pydantic-core==$$(unzip -p gpu-wheels/pydantic-[0-9]*.whl '*/METADATA' | sed -n 's/^Requires-Dist: pydantic-core==//p')"

# WORKERS files at a time (tests/conftest.py); in the order of the folders: make test WORKERS=0
PYTEST := -m pytest -n $(WORKERS) --no-loadscope-reorder --durations=20
test-quick: WORKERS := 2
test-quick: setup
	python $(PYTEST) -m "not slow and not long"

# COVERAGE=1: which lines and branches ran in the tests' own processes; all: also in those that tests start, and which
# functions no test calls
export COVERAGE ?=
COVERED := .cache/coverage
test: setup
ifneq ($(COVERAGE),)
	rm -rf $(COVERED) && mkdir -p $(COVERED)
	coverage run $(PYTEST) -m "not long"
	coverage combine -q && coverage json -q -o $(COVERED)/report.json
	python -m tools.reached $(COVERED)/report.json $(if $(filter all,$(COVERAGE)),--check)
else
	python $(PYTEST) -m "not long"
endif

# every test, each command in a new interpreter as a user's has; then every fault a few times
test-all: setup
	NEW_INTERPRETERS=1 python $(PYTEST)
	python -m tests.faults.sweep --tries 2

# small changes of the source, drawn at random, and which of them the tests catch; the map of lines to tests is made once
COUNT ?= 200
SEED ?= 0
REACH := .cache/mutation/reach
mutants: $(REACH)/coverage
	python -m tools.mutation --count $(COUNT) --seed $(SEED)

$(REACH)/coverage: $(shell git ls-files '*.py') | setup
	rm -rf $(REACH) && mkdir -p $(REACH)
	coverage run --rcfile tools/mutation/coverage.ini $(PYTEST) -p tools.mutation.reach --ignore tests/slurm
	coverage combine -q --rcfile tools/mutation/coverage.ini

# on the oldest releases that are supported; FLOOR_VENV: an environment that holds requirements-floor.txt already
FLOOR_PYTHON ?= python3.12
FLOOR := $(or $(FLOOR_VENV),$(CURDIR)/.venv-floor)
FLOOR_TESTS := tests/prompt_modules tests/backbones \
	tests/distributed/test_zero3.py::test_training_leaves_the_backbone_alone_and_equals_one_process

# compiled collectives fit the torch that they were compiled for: a folder of its own
test-floor: export TORCH_EXTENSIONS_DIR = $(CURDIR)/.cache/torch_extensions_floor
test-floor: export VIRTUAL_ENV = $(FLOOR)
test-floor: export PATH := $(FLOOR)/bin:$(PATH)
test-floor: toolchain $(if $(FLOOR_VENV),,$(FLOOR)/.ready)
	"$(FLOOR)/bin/python" -m engine.distributed.build_ops
	"$(FLOOR)/bin/python" -m pytest $(FLOOR_TESTS)

$(CURDIR)/.venv-floor/.ready: requirements-floor.txt
	$(FLOOR_PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -q --disable-pip-version-check $(PIP_FROM) setuptools wheel "$$(grep '^torch==' $<)"
	$(@D)/bin/pip install -q --disable-pip-version-check --no-build-isolation $(PIP_FROM) -r $<
	@touch $@

# SLURM_LAB_SCRIPTS: a folder with slurm-up.sh and slurm-down.sh, which bring a SLURM of SLURM_NODES nodes up here; root. `make test` runs some of it
test-slurm: setup
	python -m pytest tests/launch_scripts tests/slurm

# every fault, on hundreds of runs: about half an hour on two cores; file systems are mounted as root
test-faults: setup
	python -m tests.faults.sweep --tries 20 --output docs/evidence/faults.md

# whether requirements-dev.txt can be installed with the torch that the registry serves (CUDA); installs nothing
TARGET ?= $(VENV)/resolve
resolve:
	$(PYTHON) -m pip install -q --disable-pip-version-check --dry-run --ignore-installed --target $(TARGET) --no-build-isolation \
		$(LOCKED) -r requirements-dev.txt "$$(sed -n 's/^torch==/torch===/p' requirements.txt)"

wheelhouse:
	$(PYTHON) -m pip download -q --disable-pip-version-check -d wheelhouse $(LOCKED) setuptools wheel "$$(grep '^torch==' requirements.txt)"
	$(PYTHON) -m pip download -q --disable-pip-version-check -d wheelhouse $(LOCKED) --no-build-isolation -r requirements-dev.txt

check: setup
	python -m tools.lock --check
	python -m tools.json_schemas --check
	python -m tools.reference_pages --check
	python -m tools.readability
	python -m tools.docstrings
	codespell
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# README.md and docs/ as a site, build/docs/index.html; warnings are errors, and nothing is fetched
docs: setup
	sphinx-build -q -W --keep-going -j 2 -d build/doctrees -c docs -b html . build/docs

clean:
	rm -rf .venv .venv-floor .cache runs gpu-wheels build dist *.egg-info
