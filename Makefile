# Everything a developer or a new user runs. The environment is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-ray test-slow check format bench-optimizers bench-scale compose-check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[service,ray,dev,bench]"
	@touch $(STAMP)

demo: install ## tune a real job on this machine and save the recommended config
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-ray: install ## the engine ray, on a real Ray
	$(BIN)/python -m pytest -m "ray and not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install ## ruff, the format, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-optimizers: install ## WarpAdam beside its peers, all tuned alike; resumes where it was stopped
	$(BIN)/python -m benchmarks.optimizers

bench-scale: install ## 10,000 trials from 1,000 slots that train nothing
	$(BIN)/python -m benchmarks.scale

compose-check: install ## docker-compose.yml against the code, then its services natively on loopback
	$(BIN)/python -m pytest -m "" tests/docker

clean:
	rm -rf $(VENV) build *.egg-info
