"""Keys and values that have another name now. An old one is refused with the new one; nothing reads it."""

RENAMED_KEYS = {
    "token_budget": "max_tokens_per_micro_batch",
    "recompute": "activation_checkpointing",
    "placement": "sharding",
    "formulation": "batching",
    "max_skipped": "max_nonfinite_steps",
    "fresh": "overwrite",
    "data.keep_unseen": "data.decontaminate_against",
    "data.exclude_overlap": "data.drop_contaminated",
    "prompt.length": "prompt.num_virtual_tokens",
    "teach.examples": "teach.batch_size",
    "teach.clip": "teach.max_grad_norm",
    "teach.eval_every": "teach.eval_interval",
    "distill.batch": "distill.batch_size",
    "distill.clip": "distill.max_grad_norm",
    "adapt.examples": "adapt.batch_size",
    "adapt.clip": "adapt.max_grad_norm",
    "adapt.eval_every": "adapt.eval_interval",
    "evaluate.batch": "evaluate.batch_size",
    "log.every": "log.interval",
    "checkpoint.every": "checkpoint.interval",
    "tune": "lr_sweep",
}
RENAMED_FLAGS = {"placements": "shardings"}  # of `benchmark`, beside the keys
RENAMED_VALUES = {
    "sharding": {
        "resident": "replicated",
        "sharded": "zero3",
        "sharded_hpz": "zero3_hpz",
        "offload": "zero3_offload",
    },
    "batching": {"plain": "padded"},
}


def new_key(key: str) -> str | None:
    """The present name of a dotted key that was renamed, by itself or with its section; None for any other."""
    section, dot, leaf = key.partition(".")
    if key in RENAMED_KEYS or key in RENAMED_FLAGS:
        return RENAMED_KEYS.get(key) or RENAMED_FLAGS[key]
    if dot and section in RENAMED_KEYS:
        return f"{RENAMED_KEYS[section]}.{leaf}"
    return None


def new_value(value: object, choices: tuple[object, ...]) -> str | None:
    """The present name of a renamed value, if it is one of ``choices``; None for any other."""
    for names in RENAMED_VALUES.values():
        new = names.get(str(value))
        if new in choices:
            return new
    return None
