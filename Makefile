# make demo            train on a built-in simulation, print a table, write demo/
# make demo DATA=x.h5mu   the same with your file
# make test            the whole test suite
# make paper-run       the paper's experiments, those that are not finished yet (hours)
# make paper           tables and figures of docs/paper.md from their results
# make peers           scvenn beside MULTIVI, totalVI, MOFA+ and PCA: benchmarks/peers (hours),
#                      and beside the packages that benchmarks/peers/rivals.py has installed
# make bench           speed beside MULTIVI, time and memory by size: docs/performance.md (an hour)
# make bench-scale     memory and speed of data on disk, up to a million cells: docs/large_data.md (hours)
# make bench-mapping   new batches mapped onto a model, beside other ways: docs/mapping.md (hours)
# make fuzz            any MuData, and mutated files of models and data: tests/fuzz.py (hours)
# make soak            kills, signals, damaged files and an hour of use without growth (hours)
# make figures         the figures of docs/, and the results of its examples (minutes)
# make tutorials       execute the notebooks of tutorials/ again (minutes)
# make lint types      style and type checks
# make docs            the documentation, in docs/_build/html; nothing is fetched
# make locks           constraints/*.lock: the tested sets with the SHA-256 of every file, by uv
#
# Each sets up .venv first. PYTHON=python3.12 chooses the interpreter (3.11 or newer).

PYTHON ?= python3
DATA ?=

VERSION := $(shell $(PYTHON) -c 'import sys; print("%d%02d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error $(PYTHON) does not run here; choose another Python, 3.11 or newer, with PYTHON=/path/to/python3.12)
endif
ifeq ($(shell test "$(VERSION)" -ge 311 2>/dev/null && echo ok),)
$(error $(PYTHON) is not Python 3.11 or newer; choose another one with PYTHON=python3.12)
endif

# The tested set of packages for this Python, where there is one.
CONSTRAINTS := $(wildcard constraints/py$(VERSION).txt)
BIN := .venv/bin
READY := .venv/.ready-$(VERSION)

.PHONY: demo test paper-run paper peers bench bench-scale bench-mapping fuzz soak figures tutorials lint types docs locks clean

demo: $(READY)
	$(BIN)/python benchmarks/demo.py $(DATA)

# two workers with one thread each, in what they start too; a file's fixtures are made once; a worker
# that crashes ends the run, which would else wait for ever
test: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations=20

paper-run: $(READY)
	$(BIN)/python benchmarks/paper/run.py

paper: $(READY)
	$(BIN)/python benchmarks/paper/render.py
	$(BIN)/python benchmarks/pictures.py

peers: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=-c %) -e '.[peers]'
	$(BIN)/python benchmarks/peers/run.py
	$(BIN)/python benchmarks/peers/render.py
	$(BIN)/python benchmarks/pictures.py

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scaling.py

bench-scale: $(READY)
	$(BIN)/python benchmarks/scale.py

bench-mapping: $(READY)
	$(BIN)/python benchmarks/mapping.py --csv benchmarks/mapping.csv
	$(BIN)/python benchmarks/mapping.py --render
	$(BIN)/python benchmarks/missing_features.py

fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check 'atheris>=3'
	SCVENN_FUZZ_EXAMPLES=3000 $(BIN)/python -m pytest -q tests/test_any_mudata.py
	$(BIN)/python -m tests.fuzz data 1000
	$(BIN)/python -m tests.fuzz models 20
	$(BIN)/python -m tests.fuzz values 60

soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --soak -v --durations=0

figures: $(READY)
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/examples.py

tutorials: $(READY)
	TQDM_DISABLE=1 $(BIN)/jupyter execute --inplace tutorials/*.ipynb

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html

# of all platforms; one of the set for Python 3.11 needs 3.11.5
locks: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(foreach set,311:3.11.5 312:3.12,$(LOCK))

define LOCK
$(BIN)/uv pip compile pyproject.toml --extra all --extra dev --extra docs \
	-c constraints/py$(word 1,$(subst :, ,$(set))).txt --universal \
	--python-version $(word 2,$(subst :, ,$(set))) --generate-hashes --no-annotate --quiet \
	--custom-compile-command 'make locks' -o constraints/py$(word 1,$(subst :, ,$(set))).lock

endef

$(READY): pyproject.toml $(CONSTRAINTS)
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=-c %) -e '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv demo docs/_build docs/generated docs/tutorials
