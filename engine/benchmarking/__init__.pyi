from .cases import read_request as read_request, request_of as request_of
from .peft_step import PeftTrainer as PeftTrainer, padded_ids as padded_ids
from .runner import run_benchmark as run_benchmark

__all__ = [
    "PeftTrainer",
    "padded_ids",
    "read_request",
    "request_of",
    "run_benchmark",
]
