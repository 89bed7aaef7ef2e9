"""Entity and relation tasks: which sentences a note of theirs has, which slots are mentions, which pairs are
related.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clinical_tasks.pocket.lexicon import POOLS
from clinical_tasks.pocket.notes import Draft, Note
from clinical_tasks.schema import Document, Mention, Relation, mention_order

# (kind of sentence, relation type, head slot, tail slot)
Link = tuple[str, str, str, str]

# Invented concept identifiers; the surface forms of one thing share theirs.
_CONCEPTS: dict[str, str] = {}
for _pool, _letter, _first in (("drug", "C", 1), ("problem", "D", 1), ("class", "D", 1001)):
    for _number, _entry in enumerate(POOLS[_pool], start=_first):
        _CONCEPTS |= dict.fromkeys(_entry.split("/"), f"{_letter}{_number:06d}")


@dataclass(frozen=True)
class Corpus:
    """Notes with annotations, over which one or two tasks are defined.

    `labels` maps slots to mention types. `concepts` gives mentions identifiers and relates those instead of mentions.
    `events` are mention types that trigger brat events, `roles` the names of their arguments where these are not the
    relations' types; `attributes` maps mention types to the attribute that repeats their words.
    """

    folder: str
    format: str
    compose: Callable[[Draft], None]
    labels: dict[str, str]
    links: tuple[Link, ...] = ()
    concepts: bool = False
    events: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()


def annotate(corpus: Corpus, note: Note, key: str) -> Document:
    """The note as an annotated document, in the corpus's own labels."""
    mentions: list[Mention] = []
    keys: dict[tuple[int, str], str] = {}
    for number, fact in enumerate(note.facts):
        for slot, (start, end) in fact.spans.items():
            if slot in corpus.labels:
                ids = (_CONCEPTS[fact.words[slot]],) if corpus.concepts else ()
                keys[number, slot] = f"T{len(mentions) + 1}"
                mentions.append(Mention(keys[number, slot], corpus.labels[slot], start, end, ids=ids))
    # What a relation calls a mention: its concept where it has one.
    named = {mention.key: (*mention.ids, mention.key)[0] for mention in mentions}
    relations = []
    for number, fact in enumerate(note.facts):
        for sentence, kind, head, tail in corpus.links:
            if fact.kind == sentence and head in fact.spans and tail in fact.spans:
                relations.append(Relation(kind, named[keys[number, head]], named[keys[number, tail]]))
    # An abstract has a title and one paragraph; a space for a line break moves no offset.
    text = note.text
    if corpus.format == "pubtator":
        title, line_end, abstract = text.partition("\n")
        text = title + line_end + abstract.replace("\n", " ")
    return Document(key, text, tuple(sorted(mentions, key=mention_order)), tuple(dict.fromkeys(relations)))


def _medications(draft: Draft) -> None:
    draft.add("patient")
    for _ in range(draft.rng.randint(1, 2)):
        draft.add("medication")
    draft.add(draft.choose(("denies", "family", "lab_high", "lab_low")))
    draft.scatter(1)


def _concepts(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(
        ("reveals", "procedure", "harms", "adverse", "denies", "treats", "possible", "family"), 3
    ):
        draft.add(kind)


def _events(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(("move", "dated_test", "lasting", "move"), draft.rng.randint(2, 3)):
        draft.add(kind)
    if draft.rng.random() < 0.5:
        draft.add(draft.choose(("denies", "lab_normal", "adverse")))


def _dispensed(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(("dispensed", "medication", "dispensed"), draft.rng.randint(1, 2)):
        draft.add(kind)
    draft.add(draft.choose(("adverse", "denies", "family", "adverse")))
    draft.scatter(1)


def _abstract(draft: Draft) -> None:
    """A title that names what the first finding is about, then findings on other pairs."""
    kind = draft.choose(("adverse", "adverse", "treats", "harmless"))
    drug, problem = draft.pick("drug"), draft.pick("problem")
    draft.add("topic", drug=drug, problem=problem)
    if kind == "adverse":
        draft.add(kind, drug=drug, ade=problem)
    else:
        draft.add(kind, drug=drug, problem=problem)
    for _ in range(draft.rng.randint(1, 2)):
        draft.add(draft.choose(("adverse", "treats", "harmless")))
    draft.scatter(1)


def _diseases(draft: Draft) -> None:
    draft.add("topic")
    for kind in draft.rng.sample(("subtype", "class_only", "reveals", "family", "harmless", "subtype"), 3):
        draft.add(kind)


def _chemicals(draft: Draft) -> None:
    draft.add("topic")
    kinds = ("activates", "inhibits", "agonist", "antagonist", "substrate", "unrelated")
    for kind in draft.rng.sample(kinds, draft.rng.randint(2, 3)):
        draft.add(kind)


def _interactions(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(
        ("mechanism", "joint_effect", "advice", "interaction", "compatible"), draft.rng.randint(2, 3)
    ):
        draft.add(kind)


def _social(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(("tobacco", "alcohol", "illicit", "employment", "living"), draft.rng.randint(2, 3)):
        draft.add(kind)
    if draft.rng.random() < 0.5:
        draft.add(draft.choose(("denies", "lab_normal", "family")))
    draft.scatter(1)


def _opioids(draft: Draft) -> None:
    draft.add("patient")
    for kind in draft.rng.sample(
        ("opioid_use", "opioid_harm", "opioid_rescue", "opioid_taken"), draft.rng.randint(2, 3)
    ):
        draft.add(kind)
    if draft.rng.random() < 0.5:
        draft.add(draft.choose(("treats", "denies", "lab_high")))
    draft.scatter(1)


_DRUG_SLOTS = ("Strength", "Form", "Dosage", "Route", "Frequency", "Duration", "Reason")
_DRUG_LINKS = (
    *(("medication", f"{kind}-Drug", kind.lower(), "drug") for kind in _DRUG_SLOTS),
    *(("dispensed", f"{kind}-Drug", kind.lower(), "drug") for kind in _DRUG_SLOTS),
)
_MEDICATION_FIELDS = (("do", "strength"), ("mo", "route"), ("f", "frequency"), ("du", "duration"), ("r", "reason"))
_SUBSTANCES = (("tobacco", "pack"), ("alcohol", "drink"), ("illicit", ""))

_EVERY = (
    Corpus(
        folder="pocket_i2b2_2009",
        format="i2b2_2009",
        compose=_medications,
        labels={"drug": "m", "strength": "do", "route": "mo", "frequency": "f", "duration": "du", "reason": "r"},
        links=tuple(("medication", kind, "drug", slot) for kind, slot in _MEDICATION_FIELDS),
    ),
    Corpus(
        folder="pocket_i2b2_2010",
        format="i2b2",
        compose=_concepts,
        labels={"problem": "problem", "ade": "problem", "test": "test", "procedure": "treatment", "drug": "treatment"},
        links=(
            ("reveals", "TeRP", "test", "problem"),
            ("procedure", "TrAP", "procedure", "problem"),
            ("treats", "TrAP", "drug", "problem"),
            ("harms", "TrCP", "procedure", "problem"),
            ("adverse", "TrCP", "drug", "ade"),
        ),
    ),
    Corpus(
        folder="pocket_i2b2_2012",
        format="i2b2_2012",
        compose=_events,
        labels={
            "occurrence": "OCCURRENCE",
            "department": "CLINICAL_DEPT",
            "test": "TEST",
            "date": "DATE",
            "duration": "DURATION",
        },
    ),
    Corpus(
        folder="pocket_n2c2_2018",
        format="brat",
        compose=_dispensed,
        labels={
            "drug": "Drug",
            "strength": "Strength",
            "form": "Form",
            "dosage": "Dosage",
            "route": "Route",
            "frequency": "Frequency",
            "duration": "Duration",
            "reason": "Reason",
            "ade": "ADE",
        },
        links=(*_DRUG_LINKS, ("adverse", "ADE-Drug", "ade", "drug")),
    ),
    Corpus(
        folder="pocket_bc5cdr",
        format="pubtator",
        compose=_abstract,
        labels={"drug": "Chemical", "problem": "Disease", "ade": "Disease"},
        links=(("adverse", "CID", "drug", "ade"),),
        concepts=True,
    ),
    Corpus(
        folder="pocket_ncbi_disease",
        format="pubtator",
        compose=_diseases,
        labels={"problem": "SpecificDisease", "class": "DiseaseClass"},
        concepts=True,
    ),
    Corpus(
        folder="pocket_chemprot",
        format="chemprot",
        compose=_chemicals,
        labels={"drug": "CHEMICAL", "gene": "GENE-Y"},
        links=(
            ("activates", "CPR:3", "drug", "gene"),
            ("inhibits", "CPR:4", "drug", "gene"),
            ("agonist", "CPR:5", "drug", "gene"),
            ("antagonist", "CPR:6", "drug", "gene"),
            ("substrate", "CPR:9", "drug", "gene"),
        ),
    ),
    Corpus(
        folder="pocket_ddi_2013",
        format="ddi",
        compose=_interactions,
        labels={"drug": "drug", "other_drug": "drug"},
        links=(
            ("mechanism", "mechanism", "drug", "other_drug"),
            ("joint_effect", "effect", "drug", "other_drug"),
            ("advice", "advise", "drug", "other_drug"),
            ("interaction", "int", "drug", "other_drug"),
        ),
    ),
    Corpus(
        folder="pocket_n2c2_2022_sdoh",
        format="brat",
        compose=_social,
        labels={
            "tobacco": "Tobacco",
            "alcohol": "Alcohol",
            "illicit": "Drug",
            "employment": "Employment",
            "living": "LivingStatus",
            "status": "StatusTime",
            "pack": "Amount",
            "drink": "Amount",
            "job": "Type",
            "residence": "TypeLiving",
        },
        links=(
            *((slot, "StatusTime", slot, "status") for slot, _ in _SUBSTANCES),
            *((slot, "Amount", slot, amount) for slot, amount in _SUBSTANCES if amount),
            ("employment", "Type", "employment", "job"),
            ("living", "TypeLiving", "living", "residence"),
        ),
        events=("Tobacco", "Alcohol", "Drug", "Employment", "LivingStatus"),
        roles=(("StatusTime", "Status"), ("TypeLiving", "Type")),
        attributes=(("StatusTime", "StatusTimeVal"),),
    ),
    Corpus(
        folder="pocket_uf_opioid",
        format="brat",
        compose=_opioids,
        labels={"opioid": "Opioid", "use": "Use", "harm": "Harm", "rescue": "Rescue"},
        links=(
            ("opioid_use", "Use-Opioid", "use", "opioid"),
            ("opioid_harm", "Harm-Opioid", "harm", "opioid"),
            ("opioid_rescue", "Rescue-Harm", "rescue", "harm"),
        ),
    ),
)

CORPORA: dict[str, Corpus] = {corpus.folder: corpus for corpus in _EVERY}
