# make demo: build a real model and let it answer.   make test: prove that all of this works.
# Both do all the set-up there is, with python3.11 where there is one; `make setup PYTHON=…` names another interpreter.
PYTHON ?= $(or $(shell python3.11 -c '' 2>/dev/null && echo python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
THREE_AT_A_TIME := --numprocesses 3 --dist loadgroup --no-loadscope-reorder
RESULTS := artifacts/*/*/*/*/*/*

.PHONY: setup demo doctor docs test test-fast fuzz chaos lint benchmark benchmark-scale

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null || { echo "error: Python: $(PYTHON) is \
	missing or too old; install Python 3.11 and its venv module, and name it: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) scripts/doctor.py --before-setup
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python scripts/doctor.py --before-setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# Only the QNN libraries of this package are used, so it comes without what it depends on.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps onnxruntime-qnn==2.5.0
	touch $@

demo: setup
	$(BIN)/snakemake run
	@echo
	@for texts in $(RESULTS)/outputs.txt; do echo "== $$texts"; cat "$$texts"; done
	@find artifacts -type f ! -name '*.manifest.json' ! -name '.*' | sort | xargs ls -s --block-size=K

# What is wrong with this machine, and how to mend it.
doctor: setup
	$(BIN)/python scripts/doctor.py

# The page that is made from the schemas.
docs: setup
	$(BIN)/python scripts/reference.py

test: setup lint
	$(BIN)/pytest $(THREE_AT_A_TIME)

test-fast: setup lint
	$(BIN)/pytest $(THREE_AT_A_TIME) -m "not slow" tests/unit

# 5000 malformed inputs, another 5000 each time: `make fuzz SEED=7` repeats one.
fuzz: SEED ?= $(shell date +%s)
fuzz: setup
	$(BIN)/python tests/fuzz --count 5000 --seed $(SEED)

# 100 kills at random moments; `make chaos SEED=7` repeats them, as far as moments can be.
chaos: SEED ?= $(shell date +%s)
chaos: setup
	$(BIN)/python tests/chaos --kills 100 --seed $(SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules

benchmark: setup
	$(BIN)/snakemake quantize
	$(BIN)/python benchmarks/lowering.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/seq_mse.py
	$(BIN)/python benchmarks/modes.py
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/dry_run.py
	$(BIN)/python benchmarks/devices.py

# For hours, and with up to 22 GB of memory; `benchmarks/scale.py --only ROW` makes one row.
benchmark-scale: setup
	$(BIN)/python benchmarks/scale.py
