"""Splitting long notes and merging the pieces: borders, offsets, cut relations, few tokenisations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinical_tasks import load_cards, parse_answer, round_trip, score, split_long
from clinical_tasks.corpus.splits import read_split
from clinical_tasks.scoring.annotations import merge_relations


def limit(characters):
    return lambda input_text, answer_text: len(input_text) + len(answer_text) <= characters


def note(brat, sentences, relations=""):
    """A note of sentences in which `<word>` is a Drug and `[word]` a Problem."""
    text = ""
    lines: list[str] = []
    for sentence in sentences:
        for part in (
            sentence.replace("<", "\x00<").replace(">", "\x00").replace("[", "\x00[").replace("]", "\x00").split("\x00")
        ):
            if part[:1] in ("<", "["):
                kind = "Drug" if part[0] == "<" else "Problem"
                lines.append(f"T{len(lines) + 1}\t{kind} {len(text)} {len(text) + len(part) - 1}\t{part[1:]}")
                part = part[1:]
            text += part
    brat("a", text, "\n".join(lines) + "\n" + relations)
    return text


def test_pieces_fit_cover_the_text_and_score_as_the_whole(card, brat, tmp_path):
    text = note(brat, [f"HPI:\nDay {n} of <aspirin> for [chest pain] here.\n\n" for n in range(40)])
    mine = card("ner")
    (whole,) = read_split(mine, tmp_path, "test")
    pieces = split_long(whole, mine, limit(300))
    assert len(pieces) > 10 and all(limit(300)(piece.input_text, piece.answer_text) for piece in pieces)
    assert [piece.piece for piece in pieces] == list(range(len(pieces)))
    assert len({piece.example_id for piece in pieces}) == len(pieces) and {piece.document for piece in pieces} == {"a"}
    json.dumps(pieces[1].gold)
    for piece in pieces:
        begin, end = piece.gold["text_range"]
        assert text[piece.gold["offset"] :].startswith(piece.input_text[begin:end])
        # Section borders are there for the taking, so every piece begins at one.
        assert piece.input_text.startswith("HPI:")
    starts = [span["start"] for piece in pieces for span in parse_answer(mine, piece, piece.answer_text)["spans"]]
    assert starts == [span["start"] for span in whole.gold["spans"]]
    result = round_trip(mine, pieces)
    assert result["span_f1_strict"] == 1.0 and result["n_gold"] == 80
    # The answer of one piece misses: 2 to 4 of the 80 mentions, in document coordinates.
    assert score(mine, pieces, [""] + [piece.answer_text for piece in pieces[1:]])["n_predicted"] == 80 - len(
        pieces[0].gold["spans"]
    )


def test_what_fits_and_what_is_no_annotation_comes_back_itself(card, brat, folder, tmp_path):
    note(brat, ["One <aspirin>. "])
    (whole,) = read_split(card("ner"), tmp_path, "test")
    assert split_long(whole, card("ner"), limit(1000)) == [whole]
    (folder / "test.csv").write_text("note,summary\nA long one. And another. Third.,x\n")
    (row,) = read_split(card("summarization"), tmp_path, "test")
    assert split_long(row, card("summarization"), limit(5)) == [row]


def test_sentences_before_lines_and_no_mention_is_cut(card, brat, tmp_path):
    # The only sentence border in reach lies inside the mention "vitamin D. Extra", wrapped lines are next.
    note(
        brat,
        [
            (
                "We gave a lot of <vitamin D. Extra> to the\npatient and others who came by. Then we stopped all of "
                "it today."
            )
        ],
    )
    (whole,) = read_split(card("ner"), tmp_path, "test")
    assert [piece.input_text.split("\nMentions:")[0] for piece in split_long(whole, card("ner"), limit(110))] == [
        "We gave a lot of vitamin D. Extra to the\npatient and others who came by.",
        "Then we stopped all of it today.",
    ]
    assert [piece.input_text.split("\nMentions:")[0] for piece in split_long(whole, card("ner"), limit(80))][0] == (
        "We gave a lot of vitamin D. Extra to the"
    )


def test_an_early_section_border_does_not_make_a_small_piece(card, brat, tmp_path):
    note(brat, ["HPI\n\nOne sentence is here. Another sentence is here. A third sentence is here."])
    (whole,) = read_split(card("ner"), tmp_path, "test")
    pieces = split_long(whole, card("ner"), limit(75))
    assert [piece.input_text.split("\nMentions:")[0] for piece in pieces] == [
        "HPI\n\nOne sentence is here. Another sentence is here.",
        "A third sentence is here.",
    ]


def test_a_piece_without_a_border_is_returned_although_it_does_not_fit(card, brat, tmp_path):
    note(brat, ["Short one. ", "X" * 200 + " <aspirin>. ", "Short two."])
    (whole,) = read_split(card("ner"), tmp_path, "test")
    pieces = split_long(whole, card("ner"), limit(60))
    assert [limit(60)(piece.input_text, piece.answer_text) for piece in pieces] == [True, False, True]
    assert round_trip(card("ner"), pieces)["span_f1_strict"] == 1.0


def test_relations_cut_in_two_are_counted_and_scored_as_missed(card, brat, tmp_path):
    note(
        brat,
        ["We gave <aspirin> for [pain] today. ", "The next day there was a [rash] too."],
        "R1\tTreats Arg1:T1 Arg2:T2\nR2\tCauses Arg1:T1 Arg2:T3\n",
    )
    mine = card("re")
    (whole,) = read_split(mine, tmp_path, "test")
    pieces = split_long(whole, mine, limit(80))
    assert [piece.gold["cut_relations"] for piece in pieces] == [1, 0]
    assert [piece.answer_text for piece in pieces] == ["aspirin | treats | pain", "none"]
    result = round_trip(mine, pieces)
    assert (result["n_gold"], result["n_cut"], result["relation_precision"], result["relation_recall"]) == (
        2,
        1,
        1.0,
        0.5,
    )
    assert round_trip(mine, [whole])["n_cut"] == 0


def test_relations_of_pieces_are_compared_in_the_notes_coordinates(card, brat, tmp_path):
    note(
        brat,
        ["We gave <aspirin> for [pain] today. ", "The next day <iron> helped with [weakness]."],
        "R1\tTreats Arg1:T1 Arg2:T2\nR2\tTreats Arg1:T3 Arg2:T4\n",
    )
    mine = card("re")
    (whole,) = read_split(mine, tmp_path, "test")
    pieces = split_long(whole, mine, limit(80))
    assert len(pieces) == 2 and pieces[1].gold["offset"] > 0
    merged = []
    for examples in ([whole], pieces):
        predictions = [parse_answer(mine, example, example.answer_text) for example in examples]
        merged.append(merge_relations(mine, examples, predictions)["a"])
    assert merged[1].gold == merged[0].gold and merged[1].predicted == merged[0].predicted


def test_document_level_relations_are_cut_only_if_no_piece_holds_both(card, folder, tmp_path):
    text = "Cocaine led to seizures. " + "Nothing else. " * 5 + "Cocaine and seizures again. Then a rash."
    spans = [
        (text.index("Cocaine"), "Cocaine", "Chemical", "C1"),
        (text.index("seizures"), "seizures", "Disease", "D1"),
        (text.rindex("Cocaine"), "Cocaine", "Chemical", "C1"),
        (text.rindex("seizures"), "seizures", "Disease", "D1"),
        (text.index("rash"), "rash", "Disease", "D2"),
    ]
    lines = [f"7\t{start}\t{start + len(word)}\t{word}\t{kind}\t{concept}" for start, word, kind, concept in spans]
    (folder / "a.txt").write_text("\n".join([f"7|t|{text}", *lines, "7\tCID\tC1\tD1", "7\tCID\tC1\tD2"]))
    mine = card(
        "re",
        reader="pubtator",
        splits={"test": "a.txt"},
        labels={"CID": "induces"},
        relations={"level": "entity", "head": "Chemical", "tail": "Disease"},
    )
    (whole,) = read_split(mine, tmp_path, "test")
    pieces = split_long(whole, mine, limit(74))
    assert [piece.answer_text for piece in pieces][0] == "Cocaine | induces | seizures" == pieces[-2].answer_text
    assert sum(piece.gold["cut_relations"] for piece in pieces) == 1 == pieces[0].gold["cut_relations"]
    # One relation found in two pieces counts once.
    result = round_trip(mine, pieces)
    assert (result["n_gold"], result["n_predicted"], result["relation_recall"]) == (2, 1, 0.5)


@pytest.mark.parametrize("characters", [150, 1000, 5000])
def test_few_tokenisations(card, brat, tmp_path, characters):
    note(brat, [f"Day {n} of <aspirin> was good. " for n in range(1000)])
    (whole,) = read_split(card("ner"), tmp_path, "test")
    seen = []

    def fits(input_text, answer_text):
        seen.append(len(input_text) + len(answer_text))
        return seen[-1] <= characters

    pieces = split_long(whole, card("ner"), fits)
    assert len(seen) < 6 * len(pieces) + 20
    # A piece is at least half full, so there are not more of them than needed twice over.
    assert len(pieces) < 3 * seen[0] / characters


def test_a_note_of_twice_the_budget_is_first_tried_at_its_middle(card, brat, tmp_path):
    note(brat, [f"Day {n} of <aspirin> was good. " for n in range(1000)])
    (whole,) = read_split(card("ner"), tmp_path, "test")
    half = 0.51 * (len(whole.input_text) + len(whole.answer_text))
    seen = []

    def fits(input_text, answer_text):
        seen.append(len(input_text) + len(answer_text))
        return seen[-1] <= half

    assert len(split_long(whole, card("ner"), fits)) == 2
    assert len(seen) < 15  # from the note's end it would be 20


def test_a_note_that_fits_once_its_outer_white_space_is_gone_is_kept():
    root = Path(__file__).parents[3] / "configs" / "demo"
    card = load_cards([root / "cards"])["demo_entities"]
    whole = read_split(card, root / "data", "train")[0]
    limit = len(whole.input_text) - 1
    (piece,) = split_long(whole, card, lambda input_text, _: len(input_text) <= limit)
    assert len(piece.input_text) == limit and piece.example_id == whole.example_id
    assert score(card, [piece], [whole.answer_text])["span_f1_strict"] == 1.0
