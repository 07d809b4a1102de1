"""What natural timing in training is worth: losses in natural and in composed test dialogues.

    python benchmarks/timing.py [--json FILE] [--updates 300] [--seeds 2]

Trains the language model of a preset from random weights on dialogues of words (as
`stage.texts_per_dialogue` does), once with `dialogue.timing=composed` and once with `natural`, and
scores both on the same test dialogues of both kinds. Without sound it takes minutes; `sweeps/timing.yaml`
compares whole trainings.
"""

import random

import torch
from measure import arguments, machine, save, show

from configs.loading import load_config
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.text_dialogues import open_text_dialogues
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.losses import token_loss
from duplexmamba.text.tokenizer import Tokenizer
from lightning_modules.branch_targets import BranchTargets
from lightning_modules.dialogue import DialogueStage
from lightning_modules.fork_schedule import flatten, share_prefixes
from lightning_modules.padding import pad_ids

TIMINGS = ("composed", "natural")
RECIPE = ["configs/preset/tiny.yaml", "configs/stage/streaming.yaml", "dialogue.events=[2,4]"]
BATCH_DIALOGUES = 4
LR = 2e-3
WARMUP_UPDATES = 30


def configured(timing: str, seed: int) -> Config:
    """The recipe with a timing."""
    return load_config([*RECIPE, f"dialogue.timing={timing}", f"seed={seed}"])


def train(config: Config, tokenizer: Tokenizer, num_updates: int) -> DialogueStage:
    """Train a language model on dialogues of words."""
    torch.manual_seed(config.seed)
    stage = DialogueStage(config, SpeechLM(config.model), tokenizer)
    stage.text_dialogues = open_text_dialogues(config)
    optimizer = torch.optim.AdamW(stage.model.lm.parameters(), lr=LR)
    for update in range(num_updates):
        # As in training: a linear warm-up, then down to zero.
        rest = 1 - update / num_updates
        for group in optimizer.param_groups:
            group["lr"] = LR * min((update + 1) / WARMUP_UPDATES, rest)
        loss = stage.text_dialogue_loss(BATCH_DIALOGUES)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.model.lm.parameters(), 1.0)
        optimizer.step()
    return stage.eval()


@torch.no_grad()
def turn_state_loss(stage: DialogueStage, dialogues: list[Dialogue]) -> float:
    """Mean cross entropy of the turn states in the branches of dialogues, in nats."""
    torch.manual_seed(0)
    targets = BranchTargets(stage.tokenizer, stage.config.duplex, stage.config.stage.probes)
    states = torch.tensor([*stage.tokenizer.turn_state_ids.values()])
    total = 0.0
    count = 0
    for index, dialogue in enumerate(dialogues):
        ids = pad_ids([stage.ids_in_time(dialogue)], stage.device)
        segments = targets.segments(dialogue, random.Random(index))
        speech = ids.with_values(stage.model.lm.embed(ids.values))
        hidden, labels = stage.run_segments(share_prefixes(flatten([segments])), speech)
        is_state = torch.isin(labels, states)
        logits = stage.model.lm.logits(hidden[is_state])
        num_states = int(is_state.sum())
        total += num_states * float(token_loss(logits, labels[is_state]))
        count += num_states
    return total / count


def main() -> None:
    """Run the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--updates", type=int, default=300, help="of each training")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each timing")
    parser.add_argument("--dialogues", type=int, default=60, help="that are scored, of each timing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = configured("composed", 1)
    tokenizer = Tokenizer.train(Corpora(config).training_texts())
    tests = {}
    for timing in TIMINGS:
        corpus = open_text_dialogues(configured(timing, 1), "test")
        tests[timing] = [corpus[index] for index in range(args.dialogues)]
    numbers: dict[str, float] = {}
    rows = []
    for seed in range(1, args.seeds + 1):
        for trained in TIMINGS:
            stage = train(configured(trained, seed), tokenizer, args.updates)
            losses = {tested: turn_state_loss(stage, tests[tested]) for tested in TIMINGS}
            for tested, loss in losses.items():
                numbers[f"timing/{trained}_on_{tested}_{seed}"] = loss
            rows.append([trained, str(seed), *[f"{losses[tested]:.3f}" for tested in TIMINGS]])
            save(numbers, args.json)
    print(machine())
    columns = ["trained on", "seed", *[f"loss on {tested}" for tested in TIMINGS]]
    show("turn states of test dialogues, nats", columns, rows)


if __name__ == "__main__":
    main()
