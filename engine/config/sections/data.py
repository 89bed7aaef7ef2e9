"""What is read, and the shape of the prompts."""

from dataclasses import dataclass
from typing import Literal

from engine.config.keys import READERS, key


@dataclass
class DataConfig:
    """Corpora: where they are and how much of them is used."""

    root: str = key(
        "",
        "Data root: one folder per corpus, as released. $NAME is taken from the environment.",
        modes=READERS,
        on_resume="free",
        in_step=False,
    )
    cards: list[str] = key(
        [],
        "Folders of further task cards; a card there replaces an embedded one of the same name.",
        modes=READERS,
        on_merge="union",
        in_step=False,
    )
    cache: str = key(
        ".cache/tokens",
        "Folder of the tokenised examples. They hold note text: files are 0600, folders 0700.",
        modes=READERS,
        on_resume="free",
        in_step=False,
    )
    max_length: int = key(
        1024,
        "Longest sample in tokens, prompt not counted. NER and RE documents are split to it; others are dropped, "
        "counted and reported.",
        above=0,
    )
    max_train: int = key(0, "Use at most this many training examples per task, chosen by hash; 0 is all.", at_least=0)
    max_validation: int = key(100, "Use at most this many validation examples per task; 0 is all.", at_least=0)
    max_test: int = key(0, "Use at most this many test examples per task; 0 is all.", modes=READERS, at_least=0)
    decontaminate_against: list[str] = key(
        [],
        "Tasks that the distillation will be adapted to. Their test documents are looked for in the sources' training "
        "documents (same id, same or nearly the same text). Overlaps are logged, and listed in results and report of "
        "the adaptations.",
        modes=("distill",),
        distinct=True,
    )
    drop_contaminated: bool = key(
        False,
        "Leave what decontaminate_against finds out of the sources' training documents. Test documents are never "
        "left out.",
        modes=("distill",),
    )

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        if self.drop_contaminated and not self.decontaminate_against:
            return [
                "data.drop_contaminated: needs data.decontaminate_against, the tasks whose test documents no source "
                "may train on"
            ]
        return []


@dataclass
class PromptConfig:
    """Soft prompts: their size and their start."""

    num_virtual_tokens: int = key(100, "L, the number of virtual tokens of a prompt.", above=0)
    rank: int = key(1, "R, the rank of a task's update of the metaprompt.", above=0)
    init: Literal["vocabulary", "text", "instruction"] = key(
        "vocabulary",
        "Start of soft prompts: embeddings of sampled vocabulary entries, of init_text, or of the task's written "
        "instruction (its card's). The metaprompt is all tasks': under instruction it starts from the vocabulary.",
    )
    init_text: str = key("", "The text whose embeddings prompts start from, under init: text.")

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        problems = []
        if self.rank > self.num_virtual_tokens:
            problems.append(
                f"prompt.rank: must be <= prompt.num_virtual_tokens ({self.num_virtual_tokens}); got {self.rank}"
            )
        if self.init == "text" and not self.init_text.strip():
            problems.append("prompt.init_text: missing; prompt.init is text")
        return problems
