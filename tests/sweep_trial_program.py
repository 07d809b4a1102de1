"""Program of a sweep that trains nothing: it logs one step after the other, and resumes after
SIGTERM.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import wandb

NUM_STEPS = 8
STEP_S = 0.25

parameters = dict(argument.split("=", 1) for argument in sys.argv[1:])
signals: list[int] = []
signal.signal(signal.SIGTERM, lambda signum, frame: signals.append(signum))
run = wandb.init(id=parameters.get("id"), resume="allow", settings=wandb.Settings(silent=True))
checkpoint = Path(f"{run.id}.json")
new_checkpoint = checkpoint.with_suffix(".new")
first_step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
for step in range(first_step, NUM_STEPS):
    run.log({"update": step, "test/loss": float(parameters["x"]) + float(parameters["y"])})
    # At once, since the test reads it at any time.
    new_checkpoint.write_text(json.dumps({"step": step + 1, "pid": os.getpid()}))
    new_checkpoint.replace(checkpoint)
    time.sleep(STEP_S)
    if signals:
        run.mark_preempting()
        run.finish(exit_code=143)
        sys.exit(143)
if "id" in parameters:
    run.log_artifact(checkpoint, name="progress", type="model")
run.finish()
