"""Operations of training through a frozen backbone, and the part of a machine's peak that they are (MFU)."""

from backbones.tracing import ModelFootprint

# a multiply and an add a number forward, as many backward to activations; no gradient of weights, so 4 N and not 6 N
PASSES = 4


def model_operations(sizes: ModelFootprint, real_tokens: float) -> float:
    """4 N a token. N: numbers of the decoder layers that a token is multiplied with, of the experts those chosen; the
    head, which sees answer tokens alone, attention's scores, prompts, padding, recomputation and the teacher's pass do
    not count.
    """
    return PASSES * sizes.active * real_tokens


def utilisation(sizes: ModelFootprint, real_tokens_per_s: float, peak: float | None, ranks: int) -> float | None:
    """Of the peak of all ranks; None where that is not known."""
    if not peak:
        return None
    return model_operations(sizes, real_tokens_per_s) / (peak * ranks)
