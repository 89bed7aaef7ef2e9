"""Rows of jsonl, json, csv and tsv: layouts, ugly fields, options, and errors that never quote a cell."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import ReadError, read_split

OPTIONS = {"columns": "options", "gold": "letter"}
MC = {"type": "qa", "labels": None, "input": "{question}\n{options}\nAnswer:"}


def rows(card, root):
    return [(e.example_id, e.input_text, e.answer_text) for e in read_split(card, root, "test")]


def test_jsonl_skips_blank_lines_and_reads_dotted_paths_and_lists(card, folder, tmp_path):
    (folder / "test.jsonl").write_text(
        '\ufeff{"p": {"id": 7, "q": "A?"}, "ctx": [{"t": "one"}, {"t": "two\u2028x"}], "a": "y"}\r\n\n'
        '{"p": {"id": 8.0, "q": "B {text}?"}, "ctx": [], "a": "n"}',
        encoding="utf-8",
    )
    mine = card("qa", columns={"id": "p.id", "question": ["p.q", "ctx.t"], "answer": "a"})
    assert rows(mine, tmp_path) == [("7", "A?\none\ntwo\u2028x\nAnswer:", "yes"), ("8", "B {text}?\nAnswer:", "no")]


def test_json_by_id_as_list_in_columns_and_nested(card, folder, tmp_path):
    def one(content, **options):
        (folder / "test.json").write_text(json.dumps(content))
        return rows(
            card(
                "qa",
                reader="json",
                splits={"test": "test.json"},
                reader_options=options,
                columns={"id": "$key", "question": "q", "answer": "a"},
            ),
            tmp_path,
        )

    expected = [("0", "A?\nAnswer:", "yes"), ("1", "B?\nAnswer:", "no")]
    records = [{"q": "A?", "a": "y"}, {"q": "B?", "a": "n"}]
    assert one(records) == expected
    assert one({"0": records[0], "1": records[1]}) == expected
    assert one({"q": {"0": "A?", "1": "B?"}, "a": {"0": "y", "1": "n"}}, orient="columns") == expected
    assert one({"q": ["A?", "B?"], "a": ["y", "n"]}, orient="columns") == expected
    assert (
        one({"v": 1, "exams": {"x": {"data": [records[0]]}, "y": {"data": []}}}, records="exams.*.data") == expected[:1]
    )


def test_csv_with_crlf_inside_fields_bom_and_a_huge_field(card, folder, tmp_path):
    huge = "w " * 200_000
    (folder / "test.csv").write_bytes(
        b"\xef\xbb\xbfnote,summary\r\n" + f'"Hi, ""Jo""\r\nbye",ok\r\n\r\n"{huge}",fine\r\n'.encode()
    )
    first, second = read_split(card("summarization"), tmp_path, "test")
    assert first.input_text == 'Hi, "Jo"\nbye\nSummary:' and first.example_id == "test:1"
    assert len(second.input_text) > 390_000 and second.answer_text == "fine"


def test_tsv_without_header_takes_quotes_as_they_are(card, folder, tmp_path):
    (folder / "test.tsv").write_text('5" cut\ty\n"odd\tn\n')
    mine = card("qa", reader="tsv", splits={"test": "test.tsv"}, reader_options={"header": ["q", "a"]})
    assert [text for _, text, _ in rows(mine, tmp_path)] == ['5" cut\nAnswer:', '"odd\nAnswer:']


SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def test_only_a_line_feed_ends_a_line(card, folder, tmp_path):
    odd = f"a{SEPARATORS}b"
    (folder / "test.csv").write_bytes(f'note,summary\r\n{odd},"{odd}"\r\nx,y'.encode())
    (folder / "test.tsv").write_bytes(f"note\tsummary\n{odd}\rc\t{odd}\r\nx\ty\n".encode())
    (folder / "test.jsonl").write_bytes(
        (json.dumps({"note": odd, "summary": odd}, ensure_ascii=False) + '\r\n\n{"note": "x", "summary": "y"}').encode()
    )
    for reader, first in (("csv", odd), ("tsv", f"{odd}\nc"), ("jsonl", odd)):
        mine = card("summarization", reader=reader, splits={"test": f"test.{reader}"})
        assert [(text, answer) for _, text, answer in rows(mine, tmp_path)] == [
            (f"{first}\nSummary:", odd),
            ("x\nSummary:", "y"),
        ], reader


def test_null_cells_numbers_and_rows_with_nothing_in_them(card, folder, tmp_path):
    (folder / "test.jsonl").write_text(
        '{"note": null, "summary": 7.0}\n{"note": NaN, "summary": true}\n  \n{"note": ["a", null, " b "], '
        '"summary": "x"}\n'
    )
    mine = card("summarization", reader="jsonl", splits={"test": "test.jsonl"})
    assert [(text.removesuffix("\nSummary:"), answer) for _, text, answer in rows(mine, tmp_path)] == [
        ("", "7"),
        ("", "true"),
        ("a\nb", "x"),
    ]
    (folder / "test.csv").write_text("note,summary\n,\n \n\n,x\n")
    assert [(text, answer) for _, text, answer in rows(card("summarization"), tmp_path)] == [("\nSummary:", "x")]


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        ("note,summary,note\nZebulon,x,y\n", ":1", "columns 1 and 3 have the same name"),
        ("note,summary\nx,y\nZebulon\r,y\n", ":3", "a carriage return outside quotes"),
        ('note,summary\n"a\nb",x\n"Zebulon\n', ":4", "a quoted field is malformed or never ends"),
        ('note,summary\n"a\nb",x\nZebulon\n', ":4", "1 field where the header has 2"),
        ("note,summary\nx,y\nZebulon,\n", ":3", "the answer is empty"),
        ('note,summary\nx,y\n"a\nb\nZebulon",\n', ":3", "the answer is empty"),
        ("notes,summary\nZebulon,x\n", ":2", "no column 'note' (did you mean 'notes'?)"),
    ],
)
def test_csv_errors_name_the_line_where_the_row_begins(card, folder, tmp_path, content, where, reason):
    path = folder / "test.csv"
    path.write_text(content)
    with pytest.raises(ReadError) as caught:
        read_split(card("summarization"), tmp_path, "test")
    assert str(caught.value).startswith(f"{path}{where}: {reason}. Fix: ")
    assert "Zebulon" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        ('{"q": "A", "a": "y"}\n\n{"q": "Zebulon", "a": \n', ":3", "not JSON at column"),
        ('{"q": "A", "a": "y"}\n["Zebulon"]\n', ":2", "not a JSON object"),
        ('{"q": "A", "a": "Zebulon"}\n', ":1", "the answer must be one of the card's labels"),
        ('{"que": "Zebulon", "a": "y"}\n', ":1", "no column 'q'"),
        ('{"q": "Zebulon", "q": "Z", "a": "y"}\n', ":1", "duplicate key in an object"),
        (
            '{"q": {"Zebulon": 1}, "a": "y"}\n',
            ":1",
            "'q' is an object, not a text. Fix: let columns.question name a field inside it: q.FIELD",
        ),
        ('{"q": "Zebulon \\ud83d", "a": "y"}\n', ":1", "an escape \\uD800 to \\uDFFF is half a character"),
        ('{"q": "Zebulon", "a": ' + "9" * 5000 + "}\n", ":1", "a number is too long"),
        ('{"q": "Zebulon", "a": ' + "[" * 100_000 + "\n", ":1", "lists or objects are nested too deeply"),
    ],
)
def test_jsonl_errors_name_the_line(card, folder, tmp_path, content, where, reason):
    path = folder / "test.jsonl"
    path.write_text(content)
    with pytest.raises(ReadError) as caught:
        read_split(card("qa"), tmp_path, "test")
    assert str(caught.value).startswith(f"{path}{where}: {reason}")
    assert "Zebulon" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ('{"Zebulon": \n', {}, ":2: not JSON at column 1"),
        ('"Zebulon"', {}, ": neither a list nor a mapping of records"),
        ('["Zebulon"]', {}, ": record 1: not an object"),
        (
            '{"data": ["Zebulon"]}',
            {"records": "dat"},
            ": no key 'dat' in the path of records 'dat' (did you mean 'data'?)",
        ),
        ('{"q": "Zebulon"}', {"orient": "columns"}, ": not a mapping of columns"),
        ('{"q": ["Zebulon", "B"], "a": ["y"]}', {"orient": "columns"}, ": columns 1 and 2 do not have the same rows"),
        (
            '{"q": {"0": "Zebulon"}, "a": {"1": "y"}}',
            {"orient": "columns"},
            ": columns 1 and 2 do not have the same rows",
        ),
        ('{"1": {"q": "Zebulon"}, "1": {"q": "B"}}', {"orient": "by_id"}, ": duplicate key in an object"),
        ('[{"q": "Zebulon"}]', {"orient": "by_id"}, ": not a mapping of records"),
        (
            '{"data": "Zebulon"}',
            {"records": "data.*"},
            ": '*' of records 'data.*' must stand for a list or a mapping",
        ),
    ],
)
def test_json_errors_name_line_or_record(card, folder, tmp_path, content, options, reason):
    path = folder / "test.json"
    path.write_text(content)
    with pytest.raises(ReadError) as caught:
        read_split(card("qa", reader="json", splits={"test": "test.json"}, reader_options=options), tmp_path, "test")
    assert str(caught.value).startswith(f"{path}{reason}. Fix: ")
    assert "Zebulon" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "options", "letter"),
    [
        ({"o": {"A": "x", "B": "y"}, "a": "B"}, {"columns": "o", "gold": "letter"}, "B"),
        ({"o": {"B": "x", "A": "y"}, "a": "B"}, {"columns": "o", "gold": "letter"}, "A"),
        ({"o": ["x", "y"], "a": "b"}, {"columns": "o", "gold": "letter"}, "B"),
        ({"o": ["x", "y"], "a": "x"}, {"columns": "o", "gold": "text"}, "A"),
        ({"o": ["x", "y"], "a": 1}, {"columns": "o", "gold": "index0"}, "B"),
        ({"o": ["x", "y"], "a": 1}, {"columns": "o", "gold": "index1"}, "A"),
        (
            {"o": [{"aid": "4", "t": "x"}, {"aid": "9", "t": "y"}], "a": 9},
            {"columns": "o", "text": "t", "key": "aid", "gold": "key"},
            "B",
        ),
        ({"opa": "x", "opb": "y", "ope": None, "a": "A"}, {"columns": ["opa", "opb", "ope"], "gold": "letter"}, "A"),
        # An option that is empty in between keeps its place: the answer's letter or number counts it.
        ({"opa": "x", "opb": "", "opc": "y", "a": "C"}, {"columns": ["opa", "opb", "opc"], "gold": "letter"}, "B"),
        ({"opa": "x", "opb": " ", "opc": "y", "a": "3"}, {"columns": ["opa", "opb", "opc"], "gold": "index1"}, "B"),
        ({"o": ["x", None, "y"], "a": "2.0"}, {"columns": "o", "gold": "index0"}, "B"),
        ({"o": ["x", "y"], "a": 2}, {"columns": "o", "gold": "index"}, "B"),
        ({"o": ["x", "y"], "a": "0"}, {"columns": "o", "gold": "index"}, "A"),
        ({"o": {"a": "x", "b": "y"}, "a": "B"}, {"columns": "o", "gold": "letter"}, "B"),
    ],
)
def test_options_as_corpora_release_them(card, folder, tmp_path, row, options, letter):
    (folder / "test.jsonl").write_text(json.dumps({"q": "Which?", **row}))
    (example,) = read_split(
        card("qa", options=options, **{k: v for k, v in MC.items() if k != "type"}), tmp_path, "test"
    )
    assert example.input_text == "Which?\nA. x\nB. y\nAnswer:"
    assert (example.answer_text, example.options) == (letter, ("A", "B"))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (0, "index1"),
        (2, "index0"),
        ("two", "index0"),
        (-1, "index0"),
        ("\u00b2", "index1"),
        ("C", "letter"),
        ("Zebulon", "text"),
        ("", "letter"),
    ],
)
def test_an_answer_outside_the_options_is_an_error(card, folder, tmp_path, answer, gold):
    (folder / "test.jsonl").write_text(json.dumps({"q": "Zebulon", "o": ["Zebulon x", "y"], "a": answer}))
    mine = card("qa", options={"columns": "o", "gold": gold}, labels=None, input=MC["input"])
    with pytest.raises(
        ReadError, match=r"test\.jsonl:1: the answer must name exactly one of the 2 options, given as"
    ) as caught:
        read_split(mine, tmp_path, "test")
    assert "Zebulon" not in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([1, 2, "3", 1], "ABCA"),
        ([0, 2, 1, 1], "ACBB"),
        (["0", "-", 1, 2], "ABC"),
        (
            [1, 2, 1, 2],
            "no row shows whether answers count from 0 or from 1. Fix: state options.gold: index0 or index1",
        ),
        ([0, 3, 3, 1], "answers count from 0 in 1 row (first {path}:1) and from 1 in 2 (first {path}:2)"),
        ([1, 4, 2, 2], ":2: the answer is not the number of an option, counted from 0 or from 1"),
        ([1, "B", 3, 2], ":2: the answer is not the number of an option, counted from 0 or from 1"),
    ],
)
def test_whether_answers_count_from_0_or_1_is_found_out_over_the_file(card, folder, tmp_path, answers, found):
    path = folder / "test.jsonl"
    path.write_text(
        "".join(json.dumps({"q": "Zebulon", "o": ["x", "y", "Zebulon"], "a": answer}) + "\n" for answer in answers)
    )
    mine = card("qa", options={"columns": "o", "gold": "index"}, labels=None, input=MC["input"], ignore_labels=["-"])
    if len(found) < 5:
        assert "".join(answer for _, _, answer in rows(mine, tmp_path)) == found
        return
    with pytest.raises(ReadError) as caught:
        read_split(mine, tmp_path, "test")
    assert found.format(path=path) in str(caught.value) and "Zebulon" not in str(caught.value)


def test_several_labels_may_be_one_word(card, folder, tmp_path):
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"q": "Q", "a": label}) + "\n" for label in ("y", "no", "never", "maybe"))
    )
    mine = card("qa", labels={"y": "yes", "no": "no", "never": "no", "maybe": "maybe"})
    examples = read_split(mine, tmp_path, "test")
    assert [e.answer_text for e in examples] == ["yes", "no", "no", "maybe"] and {e.options for e in examples} == {
        ("yes", "no", "maybe")
    }


@pytest.mark.parametrize("nothing", ['""', "null", "NaN", "[]", '[""]', '"  "'])
def test_rows_without_an_answer_are_left_out_on_request_only(card, folder, tmp_path, nothing):
    (folder / "test.jsonl").write_text('{"q": "A", "a": "x"}\n{"q": "B", "a": ' + nothing + "}\n")
    free = {"labels": None, "metric": "exact_match"}
    assert [answer for _, _, answer in rows(card("qa", **free, ignore_labels=[""]), tmp_path)] == ["x"]
    with pytest.raises(ReadError, match=r"test\.jsonl:2: the answer is empty"):
        read_split(card("qa", **free), tmp_path, "test")


def test_rows_without_a_consensus_label_are_left_out_on_request(card, folder, tmp_path):
    lines = [{"sentence1": "p", "sentence2": "h", "gold_label": label} for label in ("entailment", "-", "neutral")]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [answer for _, _, answer in rows(card("nli", ignore_labels=["-"]), tmp_path)] == ["yes", "maybe"]
    with pytest.raises(ReadError, match=r"test\.jsonl:2: the answer must be one of the card's labels"):
        read_split(card("nli"), tmp_path, "test")
