# make demo: set-up, the demo's sweep, its tables and figures. make test: set-up, the tests.
PYTHON ?= python3
BIN := .venv/bin
# Fixed, because the last digits of a singular value decomposition depend on the number of threads.
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test faults lint format bench slurm clean

demo: .venv/installed
	$(BIN)/python -m bench.run -m +experiments=demo; status=$$?; $(BIN)/python -m bench.report demo && exit $$status

test: export OMP_NUM_THREADS = 1
test: .venv/installed
	$(BIN)/python -m pytest

# The long part: kills at random moments, several processes, ten thousand examples of wrong input each.
faults: export OMP_NUM_THREADS = 1
faults: export HYPOTHESIS_PROFILE = nightly
faults: .venv/installed
	$(BIN)/python -m pytest -m faults --durations=10 tests
	$(BIN)/python -m pytest --durations=10 tests/faults tests/fuzz

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Timings, each ratio beside its goal, into results/benchmarks; they assert nothing. FULL=1: 64 samples, whole grids.
bench: .venv/installed
	$(BIN)/python tests/benchmarks $(if $(FULL),--full)

# Sweeps on a real Slurm of one node, which is started and stopped for them: as root, with Debian's packages.
slurm: .venv/installed
	tests/slurm/run.sh

# torch comes first and alone: an index without a CPU build would otherwise be asked for one by every package.
.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv
