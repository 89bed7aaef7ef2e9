"""CR LF and lone CR in every format with offsets: the right words, or a refusal that says what to do."""

from __future__ import annotations

import pickle
import shlex
import subprocess
from xml.etree import ElementTree

import pytest

from clinical_tasks import ReadError, check_tasks, read_pubtator
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.readers.line_ends import LineEndError
from clinical_tasks.readers.markup import elements

NOTE = "Seen today.\nTakes aspirin daily.\nAlso Zebulon and rest.\n"
WORDS = ("aspirin", "Zebulon", "rest")
AS_ONE = "offsets count a line end as one, and in a.txt it is CR LF, two characters"


def lines(text, words=WORDS):
    """T lines with the offsets that words have in this text."""
    return "".join(f"T{n}\tDrug {text.index(w)} {text.index(w) + len(w)}\t{w}\n" for n, w in enumerate(words, start=1))


def texts(document):
    return [document.text[m.start : m.end] for m in document.mentions]


def crlf(text):
    return text.replace("\n", "\r\n")


def lone(text):
    return text.replace("\n", "\r")


# ---- brat


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_offsets_into_the_note_as_it_is_are_right_with_any_line_end(card, brat, tmp_path, end):
    text = NOTE.replace("\n", end)
    brat("a", text, crlf(lines(text)))
    (document,) = read_documents(card("ner"), tmp_path, "test")
    assert texts(document) == list(WORDS) and document.mismatches == () and document.text == text


def test_lone_cr_is_one_character_in_every_count(card, brat, tmp_path):
    brat("a", lone(NOTE), lines(NOTE))
    (document,) = read_documents(card("ner"), tmp_path, "test")
    assert texts(document) == list(WORDS) and document.mismatches == ()


def test_notes_counted_as_their_tool_showed_them_are_refused_together_and_the_fix_works(card, brat, folder, tmp_path):
    for name in "abcde":
        brat(name, crlf(NOTE), lines(NOTE))
    with pytest.raises(LineEndError) as caught:
        read_documents(card("ner"), tmp_path, "test")
    message = str(caught.value)
    told = "of 3 annotations after the first line end, 3 hold the words that they quote if it counts as one, 0 if"
    assert message.startswith(f"{folder}/a.ann:1: {AS_ONE}: {told}")
    assert f"; the line ends of 4 more files do not agree either ({folder}/b.ann:1, {folder}/c.ann:1, " in message
    assert "e.ann" not in message and message.count("\n") == 0 and not any(word in message for word in WORDS)
    assert [fault.annotations.name for fault in caught.value.faults] == [f"{name}.ann" for name in "abcde"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    command = message.partition("LF line ends: ")[2]
    assert command == f"sed -i 's/\\r$//' {folder}/*.txt"
    subprocess.run(command, shell=True, check=True)
    documents = read_documents(card("ner"), tmp_path, "test")
    assert all(texts(document) == list(WORDS) and document.mismatches == () for document in documents)


def test_a_check_of_the_task_reports_them(card, brat, tmp_path):
    brat("a", crlf(NOTE), lines(NOTE))
    (check,) = check_tasks([card("ner")], tmp_path)
    assert check.status == "problems" and AS_ONE in check.problems[0]


def test_notes_that_are_right_beside_them_are_not_converted(card, brat, folder, tmp_path):
    brat("a b", crlf(NOTE), lines(NOTE))
    brat("c", crlf(NOTE), lines(crlf(NOTE)))
    with pytest.raises(LineEndError) as caught:
        read_documents(card("ner"), tmp_path, "test")
    assert str(caught.value).endswith("sed -i 's/\\r$//' " + shlex.quote(f"{folder}/a b.txt"))


def test_a_note_that_lost_the_crs_that_its_offsets_count(card, brat, folder, tmp_path):
    brat("a", NOTE, lines(crlf(NOTE)))  # the last one lies beyond the note's end
    with pytest.raises(LineEndError, match="count a line end as two, and in a.txt it is LF, one character") as caught:
        read_documents(card("ner"), tmp_path, "test")
    command = str(caught.value).partition("CR LF line ends: ")[2]
    assert command == f"sed -i 's/$/\\r/' {folder}/a.txt"
    subprocess.run(command, shell=True, check=True)
    assert texts(read_documents(card("ner"), tmp_path, "test")[0]) == list(WORDS)


def test_neither_count_fits(card, brat, folder, tmp_path, canary):
    brat("a", crlf(canary + "\n" + NOTE), lines("é" + NOTE))
    brat("b", crlf(NOTE), lines(NOTE, ["aspirin"]) + lines(crlf(NOTE), ["rest"]).replace("T1", "T2"))
    with pytest.raises(LineEndError) as caught:
        read_documents(card("ner"), tmp_path, "test")
    message = str(caught.value)
    told = "0 hold the words that they quote if it counts as one, 0 if it counts as two characters"
    assert message.startswith(f"{folder}/a.ann:1: offsets do not agree with the CR LF line ends of a.txt: of 3")
    assert told in message and "Fix: correct the offsets" in message and "sed" not in message
    assert not any(word in message for word in (*WORDS, *canary.split()))
    mixed = caught.value.faults[1].reason
    assert "1 hold the words" in mixed and "1 if it counts as two" in mixed


@pytest.mark.parametrize(
    "annotations",
    [
        "T1\tDrug 0 4\tSeen\n",  # before the first line end
        "T1\tDrug 0 4\tsaw\n",
        "T1\tDrug 5 9\n",  # quotes nothing
        "",
    ],
)
def test_annotations_that_say_nothing_of_line_ends_are_read(card, brat, tmp_path, annotations):
    brat("a", crlf(NOTE), annotations)
    assert len(read_documents(card("ner"), tmp_path, "test")[0].mentions) == bool(annotations)


def test_a_slip_of_an_annotator_is_a_mismatch_as_before(card, brat, tmp_path):
    for text in (NOTE, crlf(NOTE)):
        path = brat("a", text, lines(text) + f"T4\tDrug {text.index('daily') - 1} {text.index('daily') + 4}\tdaily\n")
        assert read_documents(card("ner"), tmp_path, "test")[0].mismatches == (f"{path}:4",)


def test_after_a_refused_note_other_damage_is_told_next_time(card, brat, tmp_path):
    brat("a", crlf(NOTE), lines(NOTE))
    path = brat("b", NOTE, "T1\tDrug x y\tz\n")
    with pytest.raises(LineEndError):
        read_documents(card("ner"), tmp_path, "test")
    brat("a", NOTE, lines(NOTE))
    with pytest.raises(ReadError, match=f"{path}:1: offsets are not numbers"):
        read_documents(card("ner"), tmp_path, "test")


# ---- files of lines


def test_a_lone_cr_ends_a_line_of_an_i2b2_note_where_quoted_words_say_so(card, folder, tmp_path):
    for kind in ("txt", "con"):
        (folder / kind).mkdir()
    con = 'c="takes aspirin" 2:0 2:1||t="problem"\nc="rest" 3:3 3:3||t="test"\n'
    (folder / "con/a.con").write_bytes(con.encode())
    mine = card("ner", reader="i2b2", splits={"test": ["txt/*", "con/*"]}, labels=None)
    rest = "\nTakes aspirin daily .\nAlso Zebulon and rest ."
    for text in ("Seen today .\r" + rest[1:], "Seen\r." + rest):
        (folder / "txt/a.txt").write_bytes(text.encode())
        (document,) = read_documents(mine, tmp_path, "test")
        assert texts(document) == ["Takes aspirin", "rest"] and document.mismatches == () and document.text == text


def test_a_lone_cr_ends_a_line_of_a_medication_note_where_quoted_words_say_so(card, folder, tmp_path):
    (folder / "11").write_bytes(b"Seen today .\rTakes aspirin daily .\n")
    (folder / "11.i2b2.entries").write_text('m="aspirin" 2:1 2:1||do="nm"||ln="list"\n')
    (document,) = read_documents(card("ner", reader="i2b2_2009", splits={"test": "*"}, labels=None), tmp_path, "test")
    assert texts(document) == ["aspirin"] and document.mismatches == ()


@pytest.mark.parametrize("between", ["\r", "", " "])
def test_two_concepts_that_have_run_together_are_not_read_as_one(card, folder, tmp_path, between):
    (folder / "a.txt").write_text("no fever\n")
    one, other = 'c="no" 1:0 1:0||t="test"', 'c="fever" 1:1 1:1||t="problem"'
    (folder / "a.con").write_bytes(f"{one}{between}{other}\n{one}\n".encode())
    with pytest.raises(ReadError, match=r"a\.con:1: not a line of this format"):
        read_documents(card("ner", reader="i2b2", splits={"test": "*"}, labels=None), tmp_path, "test")


def test_files_of_annotations_that_end_lines_in_cr_alone(card, brat, folder, tmp_path):
    pubtator = folder / "x.pubtator"
    pubtator.write_bytes(lone("7|t|X here\n7|a|Y there\n7\t0\t1\tX\tDrug\tD1\n").encode())
    with pytest.raises(ReadError, match=r"x\.pubtator: lines end in a carriage return alone\. Fix: let lines end in"):
        read_pubtator(pubtator)
    brat("a", NOTE, lone(lines(NOTE)))
    with pytest.raises(ReadError, match=r"a\.ann: lines end in a carriage return alone"):
        read_documents(card("ner"), tmp_path, "test")


def test_pubtator_reads_the_same_from_both_editions(tmp_path):
    path = tmp_path / "x.pubtator"
    content = "7|t|X here\n7|a|Y there\n7\t0\t1\tX\tDrug\tD1\n7\t7\t8\tY\tDrug\tD2\n\n"
    found = []
    for text in (content, crlf(content)):
        path.write_bytes(text.encode())
        found += read_pubtator(path)
    assert found[0] == found[1] and texts(found[0]) == ["X", "Y"]


# ---- XML

BIOC = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection SYSTEM
  "BioC.dtd">
<!-- two
lines -->
<collection>
<source>s</source>
<document><id>1</id>
<passage>
<offset>100</offset>
<text>Seen today.
Takes aspirin
daily.</text>
<annotation
  id="1">
<infon key="type">Drug</infon>
<location offset="{}"
  length="{}"/><text>{}</text></annotation></passage></document>
</collection>
"""
DDI = """<?xml version="1.0"?>
<document id="d">
<sentence id="d.s0" text="Seen today.
Takes aspirin
daily.">
<entity id="d.s0.e0" charOffset="{}-{}" type="drug" text="{}"/>
</sentence>
</document>
"""
I2B2 = """<?xml version="1.0"?>
<Note>
<TEXT><![CDATA[
Seen today.
Takes aspirin
daily.
]]></TEXT>
<TAGS>
<EVENT id="E0" start="{}" end="{}" text="{}"
 type="PROBLEM" />
</TAGS>
</Note>
"""
# By reader: the file, and what to write of a mention with these offsets in "Seen today.\n..." and these words.
RELEASES = {
    "bioc": (BIOC, lambda start, end: (100 + start, end - start)),
    "ddi": (DDI, lambda start, end: (start, end - 1)),
    "i2b2_2012": (I2B2, lambda start, end: (start + 1, end + 1)),
}
BODY = "Seen today.\nTakes aspirin\ndaily."


@pytest.mark.parametrize("reader", RELEASES)
@pytest.mark.parametrize("words", ["today", "aspirin", "aspirin\ndaily"])
@pytest.mark.parametrize("edition", ["LF", "CR LF, counted as XML shows it", "CR LF, counted as in the file"])
def test_each_edition_of_an_xml_release_gives_the_annotated_words(card, folder, tmp_path, reader, words, edition):
    form, place = RELEASES[reader]
    counted = crlf(BODY) if edition.endswith("file") else BODY
    as_counted = crlf(words) if edition.endswith("file") else words
    start = counted.index(as_counted)
    content = form.format(*place(start, start + len(as_counted)), words)
    (folder / "a.xml").write_bytes((content if edition == "LF" else crlf(content)).encode())
    kind = {"reader": reader, "splits": {"test": "*.xml"}, "labels": None}
    (document,) = read_documents(card("re" if reader == "ddi" else "ner", **kind), tmp_path, "test")
    assert [text.split() for text in texts(document)] == [words.split()] and document.mismatches == ()


@pytest.mark.parametrize("reader", RELEASES)
def test_an_edition_with_crlf_is_read_as_the_one_with_lf(card, folder, tmp_path, reader):
    form, place = RELEASES[reader]
    content = form.format(*place(18, 25), "aspirin")
    mine = card("re" if reader == "ddi" else "ner", reader=reader, splits={"test": "*.xml"}, labels=None)
    found = []
    for text in (content, crlf(content)):
        (folder / "a.xml").write_bytes(text.encode())
        found += read_documents(mine, tmp_path, "test")
    assert found[0] == found[1] and "\r" not in found[0].text


def test_a_cr_that_xml_writes_as_a_reference_counts_in_both_editions(card, folder, tmp_path):
    form, place = RELEASES["ddi"]
    content = form.format(*place(19, 26), "aspirin").replace("today.", "today.&#13;")
    (folder / "a.xml").write_bytes(crlf(content).encode())
    (document,) = read_documents(card("re", reader="ddi", splits={"test": "*.xml"}, labels=None), tmp_path, "test")
    assert texts(document) == ["aspirin"] and "today.\r Takes" in document.text


def test_crs_of_text_and_values_stay_and_those_of_markup_are_line_ends(tmp_path):
    pieces = (
        "\r\n<?p \r\n?><!-- \r\n<a -->\r\n<!DOCTYPE a [\r\n<!ELEMENT a ANY>\r\n]>\r\n",
        "<a\r\nb='x>\r\ny'\r\nc=\"'\r\n'\"\r\n>",
        "one\r\ntwo\rthree &amp;\r\n",
        "<![CDATA[<b>\r\n<c x='\r\n]]>\r\n<d\r\n/>\r\n<e>\r\n</e>\r\n",
        "</a\r\n>\r\n<!-- end\r\n -->\r\n",
    )
    text = '<?xml version="1.0"?>' + "".join(pieces)
    (root,) = elements(tmp_path / "a.xml", text)
    assert root.text == "one\r\ntwo\rthree &\r\n<b>\r\n<c x='\r\n" + "\r\n" + "\n\n"
    assert root.attributes == {"b": "x>\r y", "c": "'\r '"} and [child.tag for child in root.children] == ["d", "e"]
    plain = ElementTree.fromstring(text)
    assert [root.line for root in elements(tmp_path / "a.xml", text)] == [8] and plain.tag == "a"


@pytest.mark.parametrize("start", ["<![CDATA[", "<!--", "<?p ", "<!DOCTYPE a [", '<a "', "<a '\"", "<a \"<a '\" '"])
def test_what_is_never_closed_is_refused(tmp_path, start):
    """A reader that looked for the end of each of them would need hours: pytest ends a test that hangs."""
    with pytest.raises(ReadError, match=r"a\.xml:\d+: "):
        list(elements(tmp_path / "a.xml", "<r>\r\n" + start * 300_000))
