"""Documents in the grammars of releases that are neither brat, PubTator nor i2b2 2010: file names below a split,
and what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from xml.sax.saxutils import escape, quoteattr

from clinical_tasks.schema import Document, Mention

# (file name, content)
File = tuple[str, str]

_MEDICATION_FIELDS = ("m", "do", "mo", "f", "du", "r")
_TIME_EXPRESSIONS = ("DATE", "TIME", "DURATION", "FREQUENCY")


def places(text: str, mention: Mention) -> str:
    """`LINE:TOKEN LINE:TOKEN`, lines from 1, tokens from 0, the last one included."""
    found = []
    for position in (mention.start, mention.end - 1):
        begin = text.rfind("\n", 0, position) + 1
        found.append(f"{text.count(chr(10), 0, position) + 1}:{text.count(' ', begin, position)}")
    return " ".join(found)


def i2b2_2009(documents: Sequence[Document]) -> Iterator[File]:
    """A note without suffix, and its entries: each medication with the fields that relate to it."""
    for number, document in enumerate(documents):
        mentions = {mention.key: mention for mention in document.mentions}
        entries = [[mention] for mention in document.mentions if mention.type == "m"]
        by_key = {entry[0].key: entry for entry in entries}
        for item in document.relations:
            by_key[item.head].append(mentions[item.tail])
        related: set[str] = set()
        for entry in entries:
            related.update(mention.key for mention in entry)
        entries += [[mention] for mention in document.mentions if mention.key not in related]
        lines = [_entry(document.text, entry) for entry in entries]
        yield f"notes/{number:05d}", document.text
        yield f"entries/{number:05d}.i2b2.entries", "".join(f"{line}\n" for line in lines)


def _entry(text: str, entry: list[Mention]) -> str:
    """Fields that the medication does not have are "nm", not mentioned."""
    fields = {name: f'{name}="nm"' for name in _MEDICATION_FIELDS}
    for mention in entry:
        fields[mention.type] = f'{mention.type}="{quoted(text, mention).lower()}" {places(text, mention)}'
    return "||".join([*fields.values(), 'ln="narrative"'])


def quoted(text: str, mention: Mention) -> str:
    """A mention's words on one line."""
    return text[mention.start : mention.end].replace("\n", " ")


def i2b2_2012(documents: Sequence[Document]) -> Iterator[File]:
    """An XML file a note; offsets count from 1, ends exclusive, in the note without the first line break of the
    CDATA section.
    """
    for number, document in enumerate(documents):
        tags = ""
        for order, mention in enumerate(document.mentions):
            tags += _tag(document.text, order, mention) + "\n"
        note = document.text.replace("]]>", "]]]]><![CDATA[>")
        yield (
            f"{number:05d}.xml",
            (
                '<?xml version="1.0" encoding="UTF-8" ?>\n<ClinicalNarrativeTemporalAnnotation>\n'
                f"<TEXT><![CDATA[\n{note}\n]]></TEXT>\n<TAGS>\n{tags}</TAGS>\n</ClinicalNarrativeTemporalAnnotation>\n"
            ),
        )


def _tag(text: str, order: int, mention: Mention) -> str:
    timed = mention.type in _TIME_EXPRESSIONS
    words = quoteattr(quoted(text, mention))
    place = f'start="{mention.start + 1}" end="{mention.end + 1}" text={words}'
    if timed:
        return f'<TIMEX3 id="T{order}" {place} type="{mention.type}" val="" mod="NA" />'
    return f'<EVENT id="E{order}" {place} modality="FACTUAL" polarity="POS" type="{mention.type}" />'


def chemprot(documents: Sequence[Document]) -> Iterator[File]:
    """Three tables for all documents. An abstract is one line: each sentence after the title follows a space."""
    tables: dict[str, list[str]] = {"abstracts": [], "entities": [], "gold_standard": []}
    for document in documents:
        title, _, abstract = document.text.partition("\n")
        tables["abstracts"].append("\t".join((document.doc_id, title, abstract.replace("\n", " "))))
        for m in document.mentions:
            cells = (document.doc_id, m.key, m.type, str(m.start), str(m.end), quoted(document.text, m))
            tables["entities"].append("\t".join(cells))
        for item in document.relations:
            tables["gold_standard"].append(f"{document.doc_id}\t{item.type}\tArg1:{item.head}\tArg2:{item.tail}")
    for name, lines in tables.items():
        yield f"chemprot_{name}.tsv", "".join(f"{line}\n" for line in lines)


def ddi(documents: Sequence[Document]) -> Iterator[File]:
    """An XML file a document: its lines are the sentences, and every two drugs of a sentence are a pair."""
    for document in documents:
        body, base = "", 0
        for order, words in enumerate(document.text.split("\n")):
            body += _sentence(document, name=f"{document.doc_id}.s{order}", words=words, base=base)
            base += len(words) + 1
        yield (
            f"{document.doc_id}_ddi.xml",
            f'<?xml version="1.0" encoding="UTF-8"?>\n<document id={quoteattr(document.doc_id)}>\n{body}</document>\n',
        )


def _within(document: Document, base: int, words: str) -> list[Mention]:
    """The mentions that begin in a stretch of the text: these words, from `base` on."""
    end = base + len(words)
    return [mention for mention in document.mentions if base <= mention.start < end]


def _sentence(document: Document, name: str, words: str, base: int) -> str:
    inner = _within(document, base, words)
    names = {mention.key: f"{name}.e{order}" for order, mention in enumerate(inner)}
    kinds = {(item.head, item.tail): item.type for item in document.relations}
    lines = [f"    <sentence id={quoteattr(name)} text={quoteattr(words)}>"]
    for m in inner:
        lines.append(
            f'        <entity id="{names[m.key]}" charOffset="{m.start - base}-{m.end - base - 1}" '
            f'type="{m.type}" text={quoteattr(quoted(document.text, m))}/>'
        )
    for order, (one, other) in enumerate(combinations(names, 2)):
        head, tail = (other, one) if (other, one) in kinds else (one, other)
        kind = kinds.get((head, tail), "")
        judged = f'ddi="true" type="{kind}"' if kind else 'ddi="false"'
        lines.append(f'        <pair id="{name}.p{order}" e1="{names[head]}" e2="{names[tail]}" {judged}/>')
    return "\n".join([*lines, "    </sentence>\n"])


def bioc(documents: Sequence[Document]) -> str:
    """A collection: title and abstract as passages, concepts as MESH infons, relations between concepts."""
    body = "".join(_bioc_document(document) for document in documents)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE collection SYSTEM "BioC.dtd">\n'
        f"<collection><source>PubTator</source><date></date><key>BioC.key</key>\n{body}</collection>\n"
    )


def _bioc_document(document: Document) -> str:
    title, _, abstract = document.text.partition("\n")
    order = {mention.key: number for number, mention in enumerate(document.mentions)}
    passages = ""
    for kind, base, words in (("title", 0, title), ("abstract", len(title) + 1, abstract)):
        annotations = ""
        for m in _within(document, base, words):
            concepts, text = "|".join(m.ids) or "-1", escape(quoted(document.text, m))
            annotations += (
                f'<annotation id="{order[m.key]}"><infon key="type">{m.type}</infon>'
                f'<infon key="MESH">{concepts}</infon>'
                f'<location offset="{m.start}" length="{m.end - m.start}"/><text>{text}</text></annotation>\n'
            )
        passages += (
            f'<passage><infon key="type">{kind}</infon><offset>{base}</offset>'
            f"<text>{escape(words)}</text>\n{annotations}</passage>\n"
        )
    relations = ""
    for number, item in enumerate(document.relations):
        relations += (
            f'<relation id="R{number}"><infon key="relation">{item.type}</infon>'
            f'<infon key="Chemical">{item.head}</infon><infon key="Disease">{item.tail}</infon></relation>\n'
        )
    return f"<document><id>{escape(document.doc_id)}</id>\n{passages}{relations}</document>\n"
