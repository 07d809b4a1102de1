"""Names that earlier versions used: configuration keys and values that still load.

`modernise` turns a nested configuration, from a YAML file, the command line or a checkpoint, into
today's names; `to_earlier_names` is its inverse, with which runs of the first version are found
again (see `configs.fingerprint`). The file names of checkpoints are in
`lightning_modules.trainer.checkpoint`.
"""

import copy
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

RENAMED_KEYS = {
    "connector.merge_above": "connector.merge_threshold",
    "data.augment.room_path": "data.augment.rir_path",
    "data.augment.room_share": "data.augment.rir_share",
    "data.stuck_after_s": "data.worker_timeout_s",
    "data.synthetic_retold": "data.in_domain_text_share",
    "dialogue.background_db": "dialogue.background_speech_db",
    "dialogue.interrupted_s": "dialogue.min_interrupted_answer_s",
    "dialogue.over_answer_share": "dialogue.overlap_share",
    "dialogue.settle_ms": "dialogue.endpoint_silence_ms",
    "dialogue.shares.aside": "dialogue.shares.talking_to_other",
    "dialogue.shares.background": "dialogue.shares.background_speech",
    "dialogue.shares.cut_question": "dialogue.shares.paused_question",
    "duplex.response_above": "duplex.response_threshold",
    "lora.shared_learn": "lora.shared_trainable",
    "stage.utterances": "stage.utterances_per_dialogue",
    "trainer.gradient_checkpointing": "trainer.activation_checkpointing",
}
"""Earlier dotted key -> today's."""

RENAMED_VALUES = {
    "encoder.context": {"carried": "causal", "carried_lookback": "causal_lookahead"},
}
"""Today's dotted key -> earlier value -> today's."""

DATA_OF_STAGES = {
    "encoder": "speech",
    "lm": "text",
    "asr": "speech",
    "instruct": "speech",
    "state": "dialogues",
    "streaming": "dialogues",
}
"""Value of `stage.data`, which the checkpoints of the first version lack."""

NEW_KEYS = ("stage.data", "lora_drop.enabled")
"""Settings that the first version expressed otherwise: by the stage, and by the program."""

NO_EFFECTS = dict.fromkeys(
    (
        "vocal_tract",
        "room",
        "equaliser",
        "hum",
        "clipping",
        "band_limit",
        "codec",
        "level",
        "offset",
    ),
    0.0,
)

NEW_SETTINGS: dict[str, Any] = {
    "features.level": "none",
    "frontend.masked_share": 0.0,
    "frontend.noise_std": 0.0,
    "lm.pattern": "M-M*-M-",
    "lm.attention_window": None,
    "lm.hybrid_family": "granitemoehybrid",
    "encoder.kind": "conmamba",
    "encoder.pretrained": None,
    "encoder.trainable": False,
    "optim.encoder_lr": None,
    "encoder.lookahead_ms": 200.0,
    "data.augment.effects": NO_EFFECTS,
    "data.test_effects": NO_EFFECTS,
    "data.utterance_shares": dict.fromkeys(
        ("out_of_grammar", "small_talk", "corrections", "isolated_words"), 0.0
    ),
    "stage.texts_per_utterance": 0,
    "stage.texts_per_dialogue": 0,
    "data.test_unaddressed": None,
    "data.train_size": 0,
    "data.train_dialogues": 0,
    "data.voices": {"espeak": 1.0},
    "duplex.on_onset": "continue",
    "dialogue.echo_db": None,
    "dialogue.shares.out_of_grammar": 0.0,
    "dialogue.shares.small_talk": 0.0,
    "dialogue.shares.stop": 0.0,
    "dialogue.shares.correction": 0.0,
    "data.conversations": {},
    "data.composed_share": 0.0,
    "data.excerpt_s": 30.0,
    "dialogue.timing": "composed",
    "stage.response_weight": 1.0,
    "stage.teacher": None,
    "stage.distillation_weight": 1.0,
}
"""Settings that the first version did not have -> the value with which a run is like one of its."""

# Every stage loads the same files, so the same setting would be reported once per stage.
_printed: set[str] = set()


def modernise(values: Mapping[str, Any], silent: bool = False) -> dict[str, Any]:
    """Return a nested configuration with today's names.

    Maps of differences (`stages: {asr: {...}}`, `kinds: {mamba2: {...}}`) are included.

    Args:
        values: plain nested dict.
        silent: do not print the one line for each renamed setting.
    """
    renamed = copy.deepcopy(dict(values))
    messages = _rename_in(renamed)
    for section in ("stages", "kinds"):
        # A YAML key without a value is None rather than an empty map.
        maps = renamed.get(section) or {}
        for differences in maps.values():
            if isinstance(differences, MutableMapping):
                messages += _rename_in(differences)
    if not silent:
        _print_once(messages)
    return renamed


def modern_override(override: str) -> str:
    """A `key=value` of the command line with today's names; `stages.<stage>.key=value` included."""
    key, separator, value = override.partition("=")
    # The names of settings begin after the section and the name of the stage or kind.
    prefix = ""
    parts = key.split(".")
    if parts[0] in ("stages", "kinds") and len(parts) > 2:
        prefix = f"{parts[0]}.{parts[1]}."
        key = ".".join(parts[2:])
    # The values of a renamed key are listed under its new name.
    new_key = RENAMED_KEYS.get(key, key)
    renamed_values = RENAMED_VALUES.get(new_key, {})
    new_value = renamed_values.get(value, value)
    if (new_key, new_value) == (key, value):
        return override
    _print_once([f"{prefix}{key}={value} is now {prefix}{new_key}={new_value}"])
    return f"{prefix}{new_key}{separator}{new_value}"


def to_earlier_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as the first version would have stored it.

    Args:
        values: nested values; sections and fields may be missing.
    """
    earlier = copy.deepcopy(dict(values))
    # Values first, while their keys still have the present names.
    for key, renamed_values in RENAMED_VALUES.items():
        section, name = _find(earlier, key)
        earlier_values = {new: old for old, new in renamed_values.items()}
        if section is not None and name in section:
            value = section[name]
            section[name] = earlier_values.get(value, value)
    for old, new in RENAMED_KEYS.items():
        section, name = _find(earlier, new)
        if section is not None and name in section:
            # The old name may belong to another section.
            target, old_name = _find(earlier, old)
            target[old_name] = section.pop(name)
    for key in NEW_KEYS:
        section, name = _find(earlier, key)
        if section is not None:
            section.pop(name, None)
    for key, without_effect in NEW_SETTINGS.items():
        section, name = _find(earlier, key)
        # with another value it is another experiment, which the first version cannot have run
        if section is not None and section.get(name) == without_effect:
            section.pop(name, None)
    return earlier


def _rename_in(values: MutableMapping[str, Any]) -> list[str]:
    """Rename keys and values in place.

    Returns:
        One sentence for each renamed setting.
    """
    messages = []
    for old, new in RENAMED_KEYS.items():
        section, name = _find(values, old)
        if section is not None and name in section:
            target, new_name = _find(values, new)
            target[new_name] = section.pop(name)
            messages.append(f"{old} is now {new}")
    # After the keys, since RENAMED_VALUES has their present names.
    for key, renamed in RENAMED_VALUES.items():
        section, name = _find(values, key)
        if section is not None and section.get(name) in renamed:
            old_value = section[name]
            new_value = renamed[old_value]
            section[name] = new_value
            messages.append(f"{key}={old_value} is now {key}={new_value}")
    # No message: nothing that the user has written is out of date.
    stage = values.get("stage")
    if isinstance(stage, MutableMapping) and stage.get("name") in DATA_OF_STAGES:
        data = DATA_OF_STAGES[stage["name"]]
        stage.setdefault("data", data)
    return messages


def _find(values: Any, key: str) -> tuple[Any, str]:
    """Find the section that holds a dotted key.

    Returns:
        The section, None if it does not exist or is not a map, and the last part of the key.
    """
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(values, Mapping):
            return None, name
        values = values.get(section)
    # A map that cannot be changed is no use to the callers, which rename in place.
    if not isinstance(values, MutableMapping):
        return None, name
    return values, name


def _print_once(messages: list[str]) -> None:
    """Print messages that have not been printed yet on stderr, away from the output of commands."""
    for message in messages:
        if message not in _printed:
            _printed.add(message)
            print(f"configuration: {message}", file=sys.stderr)
