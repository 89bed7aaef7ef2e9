"""The method's maths: the prompt bank, its start, its optimizer and the distillation losses.

torch only: flat arguments, no config, no files, no DeepSpeed. Tensor names carry their shape:

    K rows of the bank (one per task, or per task x seed x shots)     L prompt length in virtual tokens
    R rank of a task's update      D hidden size of the backbone      N answer positions      V vocabulary
    B samples of a micro-batch     S 1 (one shared metaprompt) or K (one per row)
"""

from prompt_modules import tied_head
from prompt_modules.averaging import average_factors
from prompt_modules.bank import DecomposedBank, JoinedBank, LinearUpdate, NoPrompts, PromptBank, SoftPromptBank
from prompt_modules.initialisation import (
    embeddings_from_instruction,
    embeddings_from_text,
    embeddings_from_vocabulary,
    identity_factors,
)
from prompt_modules.lora import LoraBank, layer_name, lora_start
from prompt_modules.losses import cross_entropy, distillation_terms
from prompt_modules.optimizer import RowGroup, RowwiseAdamW, StepReport
from prompt_modules.projection import available, packed_row, packed_row_reference
from prompt_modules.tied_head import CHUNK_BYTES, HeadLoss, TeacherStates, teacher_states, tied_head_loss

__all__ = [
    "CHUNK_BYTES",
    "DecomposedBank",
    "HeadLoss",
    "JoinedBank",
    "LinearUpdate",
    "LoraBank",
    "NoPrompts",
    "PromptBank",
    "RowGroup",
    "RowwiseAdamW",
    "SoftPromptBank",
    "StepReport",
    "TeacherStates",
    "available",
    "average_factors",
    "cross_entropy",
    "distillation_terms",
    "embeddings_from_instruction",
    "embeddings_from_text",
    "embeddings_from_vocabulary",
    "identity_factors",
    "layer_name",
    "lora_start",
    "packed_row",
    "packed_row_reference",
    "teacher_states",
    "tied_head",
    "tied_head_loss",
]
