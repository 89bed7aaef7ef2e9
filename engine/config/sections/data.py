"""What is read, and the shape of the prompts."""

from dataclasses import dataclass
from typing import Literal

from engine.config.keys import READERS, key


@dataclass
class DataConfig:
    """Corpora: where they are and how much of them is used."""

    root: str = key(
        "",
        "Folder that holds the corpora, one folder each, as released. $NAME is replaced by the environment variable.",
        modes=READERS,
        on_resume="free",
        in_step=False,
    )
    cards: list[str] = key(
        [],
        "Folders of further task cards. A card there replaces the embedded card of the same name.",
        modes=READERS,
        on_merge="union",
        in_step=False,
    )
    cache: str = key(
        ".cache/tokens",
        "Folder for the tokenised examples. They contain note text, so its files have mode 0600 and its folders 0700.",
        modes=READERS,
        on_resume="free",
        in_step=False,
    )
    max_length: int = key(
        1024,
        "Longest sample in tokens, without the prompt. Longer NER and RE documents are split; longer samples of other "
        "tasks are dropped, counted and reported.",
        above=0,
    )
    max_train: int = key(0, "Use at most this many training examples per task, chosen by hash; 0: all.", at_least=0)
    max_validation: int = key(100, "Use at most this many validation examples per task; 0: all.", at_least=0)
    max_test: int = key(0, "Use at most this many test examples per task; 0: all.", modes=READERS, at_least=0)
    decontaminate_against: list[str] = key(
        [],
        "Tasks that the metaprompt will be adapted to. The training documents of the sources are searched for their "
        "test documents (same id, same or nearly the same text). Overlaps are logged, and listed in the results and "
        "the report of the adaptations.",
        modes=("distill",),
        distinct=True,
    )
    drop_contaminated: bool = key(
        False,
        "Remove the overlaps that decontaminate_against finds from the training documents of the sources. Test "
        "documents are never removed.",
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
    """Soft prompts: their size and their initial values."""

    num_virtual_tokens: int = key(100, "Number of virtual tokens of a prompt (L).", above=0)
    rank: int = key(1, "Rank of a task's update of the metaprompt (R).", above=0)
    init: Literal["vocabulary", "text", "instruction"] = key(
        "vocabulary",
        "Initial values of soft prompts: the embeddings of sampled vocabulary entries, of init_text, or of the "
        "instruction in the task's card. With instruction, the metaprompt, which belongs to all tasks, starts from "
        "the vocabulary.",
    )
    init_text: str = key("", "Text whose embeddings are the initial values of prompts, with init: text.")

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
