# Every target first makes a virtual environment in .venv with the tested versions.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := .venv/bin/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/installed
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-gpu drawing lint format submit recipe ensemble sweep-report benchmark clean clean-gldv2

DEMO := runs/demo
TRAIN := $(BIN)/python train.py experiment=demo
EXTRACT := $(BIN)/python extract.py
RERANK := $(BIN)/python rerank.py
# Input, output and re-rankers of `make submit`.
RUN ?=
SUBMISSION ?= $(RUN)/submission
CHAIN ?= [alpha_qe,two_stage]
SOLUTION ?=
# SUBMIT=1 sends the checked file with Kaggle's client.
SUBMIT ?= 0
COMPETITION ?= landmark-retrieval-2019
SEND = $(BIN)/landmark submit '$(SUBMISSION)' '--competition=$(COMPETITION)' '--message=$(RUN)' $(if $(filter 1,$(SUBMIT)),--send)
# Photos, output and stages of `make recipe`; each stage starts from the embedder of the previous one.
GLDV1 ?=
GLDV2 ?=
RECIPE ?= runs/recipe
STAGES ?= gldv1_pretrain gldv2_clean scale_up
# Extra settings of every stage, of the first stage only (such as weights=FILE), and of every extraction.
OVERRIDES ?=
FIRST ?=
EXTRACT_OVERRIDES ?=
# Embedder, output and rule of `make clean-gldv2`.
EMBEDDER ?= $(RECIPE)/gldv1_pretrain/embedder
CLEANED ?= runs/clean-gldv2
CLEAN_OVERRIDES ?=
# Sweep of the six models that `make ensemble` concatenates, and their weights.
ENSEMBLE ?=
WEIGHTS ?= 0.5 1 1 0.5 1 1
DIR ?=

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(INSTALLED) ## Make .venv and install the package with its dependencies

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11. Run make PYTHON=python3.11." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[develop]'
	@touch $@

demo: $(INSTALLED) ## Train on the toy world, extract, search, re-rank, score, write a submission
	@rm -rf $(DEMO)
	$(TRAIN) trainer.max_epochs=0 hydra.run.dir=$(DEMO)/untrained
	$(TRAIN) hydra.run.dir=$(DEMO)/trained
	for split in query gallery; do \
		$(EXTRACT) embedder=$(DEMO)/untrained/embedder extract=single split=$$split output=$(DEMO)/stores/untrained-$$split; \
		$(EXTRACT) embedder=$(DEMO)/trained/embedder extract=single split=$$split output=$(DEMO)/stores/single-$$split; \
	done
	for split in query gallery train; do \
		$(EXTRACT) embedder=$(DEMO)/trained/embedder split=$$split output=$(DEMO)/stores/multiscale-$$split; \
	done
	for name in untrained single; do \
		$(RERANK) query=$(DEMO)/stores/$$name-query gallery=$(DEMO)/stores/$$name-gallery output=$(DEMO)/rankings/$$name; \
	done
	$(RERANK) query=$(DEMO)/stores/multiscale-query gallery=$(DEMO)/stores/multiscale-gallery \
		train=$(DEMO)/stores/multiscale-train 'rerank=$(CHAIN)' rerank.alpha_qe.n=1 output=$(DEMO)/rankings/multiscale
	@echo
	@$(BIN)/landmark compare untrained=$(DEMO)/rankings/untrained \
		trained=$(DEMO)/rankings/single 'trained, multi-scale=$(DEMO)/rankings/multiscale'
	@echo "submission: $(DEMO)/rankings/multiscale/submission.csv"
	@echo "report: $(DEMO)/rankings/multiscale/report.html"

submit: $(INSTALLED) ## RUN=… Make and check submission.csv from a run; SOLUTION=CSV scores it, SUBMIT=1 sends it
	@test -n "$(RUN)" || { echo "error: RUN is missing. Run make submit RUN=runs/train/DATE/TIME." >&2; exit 2; }
	@case '$(SUBMIT)' in ''|0|1) ;; *) echo "error: SUBMIT=$(SUBMIT) is not valid. Pass 1 to send the submission, or 0." >&2; exit 2;; esac
	@test -z "$(SOLUTION)" || test -f "$(SOLUTION)" || { echo "error: SOLUTION=$(SOLUTION) does not exist." >&2; exit 2; }
	@$(SEND) --ready
	for split in query gallery train; do \
		$(EXTRACT) embedder=$(RUN)/embedder split=$$split output=$(SUBMISSION)/$$split overwrite=true; \
	done
	$(RERANK) query=$(SUBMISSION)/query gallery=$(SUBMISSION)/gallery train=$(SUBMISSION)/train \
		'rerank=$(CHAIN)' output=$(SUBMISSION)/ranking overwrite=true
	@if [ -n "$(SOLUTION)" ]; then \
		$(BIN)/landmark score task=retrieval \
			"solution='$(SOLUTION)'" "submission='$(SUBMISSION)/ranking/submission.csv'"; \
	fi
	@$(SEND)

recipe: $(INSTALLED) ## GLDV1=… GLDV2=… Train the recipe's stages in order, skipping finished ones
	@for stage in $(STAGES); do \
		case $$stage in *gldv1*) root='$(GLDV1)' name=GLDV1;; *) root='$(GLDV2)' name=GLDV2;; esac; \
		test -n "$$root" || { echo "error: $$name is missing. Run make recipe $$name=FOLDER with the root of its photos." >&2; exit 2; }; \
	done
	@previous=; for stage in $(STAGES); do \
		case $$stage in *gldv1*) root='$(GLDV1)';; *) root='$(GLDV2)';; esac; \
		folder='$(RECIPE)'/$$stage; \
		case $$stage in ensemble*) job='/$${hydra:job.num}';; *) job=;; esac; \
		if [ -n "$$previous" ]; then more="init=$$previous$$job/embedder"; else more='$(FIRST)'; fi; \
		echo "== $$stage"; \
		$(BIN)/python train.py experiment=$$stage data.root="$$root" hydra.run.dir=$$folder \
			hydra.sweep.dir=$$folder $$more $(OVERRIDES); \
		previous=$$folder; \
	done

clean-gldv2: $(INSTALLED) ## GLDV2=… Clean GLDv2's train photos as in 2019: verified neighbours, 3 of 30 inliers
	@test -n "$(GLDV2)" || { echo "error: GLDV2 is missing. Run make clean-gldv2 GLDV2=FOLDER with the root of its photos." >&2; exit 2; }
	@test -e "$(EMBEDDER)" || { echo "error: $(EMBEDDER) does not exist. Run make recipe GLDV1=FOLDER STAGES=gldv1_pretrain, or pass EMBEDDER=RUN/embedder." >&2; exit 2; }
	$(EXTRACT) embedder='$(EMBEDDER)' data=gldv2 data.root='$(GLDV2)' data.validation_landmarks=0 \
		split=train local=rootsift output='$(CLEANED)/train' $(EXTRACT_OVERRIDES)
	$(BIN)/python clean.py train='$(CLEANED)/train' output='$(CLEANED)/cleaned' verify=inliers_2019 \
		k=1000 candidates=100 min_inliers=30 min_neighbours=3 $(CLEAN_OVERRIDES)
	@echo "train on it: data=gldv2 data.root=$(GLDV2) data.clean=$(abspath $(CLEANED))/cleaned/cleaned.csv"

ensemble: $(INSTALLED) ## ENSEMBLE=SWEEP Extract with each of its six models and concatenate to 3,072 dimensions
	@test -n "$(ENSEMBLE)" || { echo "error: ENSEMBLE is missing. Run make ensemble ENSEMBLE=runs/recipe/ensemble_scale_up." >&2; exit 2; }
	for split in query gallery train; do \
		stores=; for weight in $(WEIGHTS); do \
			member=$$(wc -w <<< "$$stores"); store=$(ENSEMBLE)/stores/$$split-$$member; stores="$$stores $$store"; \
			$(EXTRACT) embedder=$(ENSEMBLE)/$$member/embedder split=$$split output=$$store $(EXTRACT_OVERRIDES); \
		done; \
		$(BIN)/python -m landmark store ensemble $(ENSEMBLE)/stores/$$split $$stores --weights $(WEIGHTS) --overwrite; \
	done

sweep-report: $(INSTALLED) ## DIR=SWEEP Write a table and a plot of a sweep's jobs
	@$(BIN)/landmark sweep $(DIR)

test: $(INSTALLED) ## Run all tests but the slow ones
	$(PYTEST) -m 'not slow'

test-all: $(INSTALLED) ## Run all tests
	$(PYTEST)

test-gpu: ## Run the tests that need a CUDA GPU, in .venv if it exists, else with PYTHON
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m pytest --numprocesses 4 --dist worksteal -m gpu tests/test_gpu*.py

drawing: $(INSTALLED) ## Draw docs/architecture.svg from the imports of the code
	$(BIN)/python docs/drawing.py

lint: $(INSTALLED) ## Check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Fix lint and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(INSTALLED) ## Run the benchmarks: ours, the alternatives and the ratios
	for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean: ## Remove .venv, runs and the toy world
	rm -rf .venv runs toy
