# One virtual environment, one graph. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH :=

.DEFAULT_GOAL := help
.PHONY: help repro repair rehearse test test-slow lint format plan preset manifest publish compare pictures bench-peers torture clean clean-partial

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) cannot create a virtual environment (on Debian: apt install python3-venv)"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

repro: $(BIN)/.installed  ## install, check params.yaml, derive the plan, run the pipeline, print the metrics
	@python -m tools.plan --raw
	@python -m tools.mend
	@dvc repro
	@python -m tools.summary

repair: $(BIN)/.installed  ## remove a damaged output with its copy in DVC's cache: make repair F=data/cache/…/frames.h5
	@python -m tools.repair "$(F)"

torture: $(BIN)/.installed  ## kill, damage and starve a tiny run, at least 50 times: make torture [F=folder K=50 O=kill]
	@python -m tools.torture --kills $(or $(K),50) $(if $(O),--only $(O)) $(F)

rehearse: $(BIN)/.installed  ## run preset paper in small, on fictional corpora: make rehearse [F=folder C=casme2 E='*-linear']
	@python -m tools.rehearse --corpora "$(C)" --only "$(E)" "$(F)"

test: $(BIN)/.installed lint  ## lint and the fast tests
	@python -m pytest -m 'not slow' -n logical --dist loadfile

test-slow: $(BIN)/.installed  ## the tests that take minutes
	@python -m pytest -m slow -n logical --dist loadfile

lint: $(BIN)/.installed  ## ruff: rules and format, mypy: types of mer/; nothing is rewritten
	@ruff check .
	@ruff format --check .
	@mypy

format: $(BIN)/.installed  ## let ruff rewrite what `make lint` complains about
	@ruff check --fix .
	@ruff format .

plan: $(BIN)/.installed  ## derive plan.yaml from params.yaml, and say what that adds and removes, and what the stages cost
	@python -m tools.plan

preset: $(BIN)/.installed  ## write params.yaml and plan.yaml from conf/: make preset P=uamrn C=casme2,samm
	@python -m tools.preset "$(P)" "$(C)"

manifest: $(BIN)/.installed  ## list a raw corpus for DVC, after unpacking or changing it: make manifest C=casme2
	@python -m tools.manifest "$(C)"

pictures: $(BIN)/.installed  ## copy the demo's pictures, and a view of its report, to docs/images
	@python -m tools.pictures

bench-peers: .venv-peers/.installed  ## what benchmarks compare with, in an environment of its own

.venv-peers/.installed: Makefile
	@$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check 'opencv-contrib-python-headless>=4.11,<5'
	@touch $@

publish: $(BIN)/.installed  ## copy the present results into results/<preset>/ for git
	@python -m tools.publish
	@dvc repro --quiet

compare: $(BIN)/.installed  ## what differs from a commit, and which parameters or code caused it: make compare REV=HEAD~1
	@python -m tools.revisions "$(REV)"

clean: clean-partial

clean-partial: $(BIN)/.installed  ## remove unfinished work (data/.partial); finished outputs and DVC's cache stay
	@python -m tools.clean
