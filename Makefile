# `make help` lists what there is; see README.md and CONTRIBUTING.md.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
LAB_OPTIONS ?=
# What another project set for Python, pip or pytest does not hold here: PIP_USER or PYTHONPATH
# would bring in, or install to, other folders. How the package index is reached is kept.
KEPT := PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_PROXY PIP_TRUSTED_HOST \
  PIP_CERT PIP_CLIENT_CERT PIP_CONFIG_FILE PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_TIMEOUT \
  PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_KEYRING_PROVIDER PIP_DISABLE_PIP_VERSION_CHECK PYTHON \
  PYTHONUTF8 PYTHONIOENCODING PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONHASHSEED
OTHERS := $(filter-out $(KEPT),$(filter PIP_% PYTHON% PYTEST_%,$(.VARIABLES)))
$(foreach name,$(OTHERS),$(eval unexport $(name)))
export PIP_USER := 0
# Where the home folder cannot be written, Jupyter, Chromium and others keep their files in _build.
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo yes),yes)
ifeq ($(shell test -d "$$HOME/.cache/course_utils" && echo yes),yes)
export COURSE_ASSETS ?= $(HOME)/.cache/course_utils
endif
export HOME := $(CURDIR)/_build/home
$(shell mkdir -p _build/home)
endif
# Threads that wait spin for a moment, then give their core away. Spinning long makes a step of a
# small model many times slower when another process runs; not spinning, twice as slow always.
export GOMP_SPINCOUNT ?= 10000

ifeq ($(MAKECMDGOALS),chapter)
ifneq ($(shell [[ "$(N)" =~ ^[0-9]+$$ ]] && echo yes),yes)
$(error Say which chapter: make chapter N=6)
endif
endif

.PHONY: help book test chapter links lab serve bench clean format models
book: models ## the executed book in _build/html
	$(BIN)/python -m tools.book

test: models ## unit tests, every notebook, the built site in a real browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/notebooks.py --check
	$(BIN)/python -m tools.homework --check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not site"
	$(BIN)/python -m tools.book
	$(BIN)/python -m pytest -n 2 -m site

chapter: models ## one chapter, executed and checked: make chapter N=6
	$(BIN)/python tools/notebooks.py --check
	$(BIN)/python -m pytest tests/test_notebooks.py -k "$$(printf '%02d_' "$$((10#$(N)))")"
	$(BIN)/python -m tools.book --chapter $(N)

links: models ## asks every address in the book whether it is still there
	$(BIN)/python -m tools.book --links

lab: models ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks $(LAB_OPTIONS)

serve: book ## the built book on http://127.0.0.1:8000
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

bench: models ## the benchmark tables; forty minutes, with nothing else running
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(BENCH_OPTIONS)

format: .venv/ready ## one style for code and notebooks; writes the students' homework
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/notebooks.py
	$(BIN)/python -m tools.homework

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

clean: ## remove .venv and _build
	rm -rf .venv _build

models: .venv/ready ## fetch the models and texts that the chapters need
	$(BIN)/python -m course_utils fetch --chapters

# The environment. It is made again from nothing when the requirements change.
.venv/ready: requirements.txt pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or run 'make PYTHON=/path/to/python3'."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$("$(PYTHON)" --version); the course needs Python 3.11 or newer. Run 'make PYTHON=python3.12', for example."; exit 1; }
	rm -rf .venv
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
