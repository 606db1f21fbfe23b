# Two commands for a person with Python 3.11 and nothing else: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread for tiny batches: with two, small operations wait for each other longer than they work.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test soak lint format clean

demo: $(STAMP)
	$(BIN)/seqrl demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

# Hours of bad luck in minutes: runs killed everywhere and full disks, then a hundred thousand broken files for the readers.
soak: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m tests.soak --points 72 --pairs 6
	$(TEST_ENV) $(BIN)/python -m tests.fuzz --inputs 100000

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# The stamp is younger than pyproject.toml only after a complete installation, so an interrupted one is repeated.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all,test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
