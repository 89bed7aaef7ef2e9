"""Names of the formats of ``export``; no torch."""

FORMATS = ("peft", "peft_collapsed", "vllm")
