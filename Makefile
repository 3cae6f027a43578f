# The commands of this project; `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
VENV_TENSORFLOW ?= .venv-tensorflow
VENV_PORTS ?= .venv-ports

PACKAGES := mlp_workload jax_mlp reference_torch twincheck mlp_compare examples experiments fuzz website
FULL_EXTRAS := [dev,bench,compare,export,tensorboard,visdom]
TENSORFLOW_EXTRAS := [test,tfds]
PORTS_EXTRAS := [ports]
# Threads that wait by spinning would take the cores from the other worker's.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

# Of each reader.
FUZZ_SECONDS ?= 600

# An empty file inside an environment says what is installed there, so that a second `make train` starts at once.
BASE := $(VENV)/.base-installed
FULL := $(VENV)/.full-installed
FUZZ := $(VENV)/.fuzz-installed
SITE := $(VENV)/.site-installed
TENSORFLOW := $(VENV_TENSORFLOW)/.tensorflow-installed
PORTS := $(VENV_PORTS)/.ports-installed

# Before version 25.3, pip hands PIP_CONSTRAINT on to the environments it builds packages in; later it hands on
# PIP_BUILD_CONSTRAINT. The path stays relative because pip splits these variables at spaces.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(1)/bin/python -m pip install

IS_NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit( \
	"Python 3.11 or later is needed, and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make ... PYTHON=python3.12")

# $(call install,ENVIRONMENT,EXTRAS) makes the environment, or repairs one that was left half-finished, and fills it.
define install
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 \
		|| $(1)/bin/python -m ensurepip --default-pip >/dev/null 2>&1 \
		|| { $(PYTHON) -c '$(IS_NEW_ENOUGH)' && $(PYTHON) -m venv $(if $(wildcard $(1)/pyvenv.cfg),--clear) $(1); }
	$(call PIP_INSTALL,$(1)) --editable '.$(2)'
endef

.NOTPARALLEL:
.PHONY: help setup train test test-all test-long test-tensorflow test-ports package knocks gpu-check fuzz check site clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(FULL)  ## make the full environment in .venv/: JAX, PyTorch, Visdom, the test and lint tools (PYTHON=python3)

train: $(BASE)  ## train with JAX, setting up what that needs (ARGS='--preset leaky --epochs 3')
	$(VENV)/bin/python -m jax_mlp.train $(ARGS)

test: $(FULL)  ## run the tests but the long ones (PYTEST_ARGS='-k parity')
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-all: test test-long test-tensorflow test-ports package site  ## run every test: also whole runs, TensorFlow, the wheel, the lessons

test-long: $(FULL)  ## run the tests that `make test` leaves out
	$(PYTEST) -m "long" $(PYTEST_ARGS)

knocks: $(FULL)  ## kill 200 runs at random moments, 80 at random steps, and resume them; takes half an hour
	KILLS=100 STOPS=20 $(PYTEST) --timeout 0 -rP tests/commands/test_knocks.py -k 'kills or step_of_a_whole'

gpu-check: $(FULL)  ## check all on this machine's GPU, or what a CPU can (CUDA=cuda13 installs JAX for it; ARGS='--quick')
	$(if $(CUDA),$(call PIP_INSTALL,$(VENV)) --editable '.[$(CUDA)]')
	$(VENV)/bin/python -m mlp_compare.gpu_check $(ARGS)

test-tensorflow: $(TENSORFLOW)  ## run the tests that need TensorFlow, in an environment of their own
	$(VENV_TENSORFLOW)/bin/python -m pytest $(PYTEST_ARGS) tests/with_tensorflow

test-ports: $(PORTS)  ## check PyTorch models against JAX ports of them, in an environment of its own (PYTEST_ARGS='-k bert')
	HF_HUB_OFFLINE=1 $(subst $(VENV)/,$(VENV_PORTS)/,$(PYTEST)) --timeout 900 $(PYTEST_ARGS) tests/ports

package: $(FULL)  ## build the wheel and its source into dist/, install the wheel elsewhere and try it
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(VENV)/bin/python -m build
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/with_package

fuzz: $(FUZZ)  ## feed the readers of files of others what a fuzzer makes of good ones (FUZZ_SECONDS=600 ARGS='idx trace')
	$(VENV)/bin/python -m fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

check: $(FULL)  ## lint, format, types, import boundaries
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m mypy $(addprefix -p ,$(PACKAGES))
	$(VENV)/bin/lint-imports --no-logo

# The second variable silences a notice about what will follow the theme.
site: $(SITE)  ## run the lessons and build the site with them in build/site/
	OMP_WAIT_POLICY=PASSIVE NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build
	$(VENV)/bin/python website/check.py build/site

clean:  ## back to a fresh clone, but for runs/, which holds your results
	rm -rf .venv .venv-tensorflow .venv-ports build dist
	rm -rf .hypothesis .import_linter_cache fuzz-findings .mypy_cache .pytest_cache .ruff_cache
	find . -path ./runs -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(BASE): pyproject.toml constraints.txt
	$(call install,$(VENV))
	@touch $@

$(FULL): pyproject.toml constraints.txt
	$(call install,$(VENV),$(FULL_EXTRAS))
	@touch $(BASE) $@

$(FUZZ): pyproject.toml constraints.txt
	$(call install,$(VENV),[fuzz])
	@touch $(BASE) $@

$(SITE): pyproject.toml constraints.txt
	$(call install,$(VENV),[site])
	@touch $(BASE) $@

$(PORTS): pyproject.toml constraints.txt
	$(call install,$(VENV_PORTS),$(PORTS_EXTRAS))
	@touch $@

$(TENSORFLOW): pyproject.toml constraints.txt
	$(call install,$(VENV_TENSORFLOW),$(TENSORFLOW_EXTRAS))
	@touch $@
