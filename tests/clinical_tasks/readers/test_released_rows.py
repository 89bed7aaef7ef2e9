"""The embedded cards of the row corpora, each on a few invented records in the very layout of its release."""

from __future__ import annotations

import csv
import io
import json

import pytest

from clinical_tasks import check_tasks, load_cards, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.pocket.sheets import workbook
from clinical_tasks.schema.documents import reader_notes

CARDS = load_cards()
NAMES = [
    "medqa",
    "medmcqa",
    "pubmedqa",
    "emrqa",
    "mednli",
    "bionli",
    "scitail",
    "mimic_cxr_impressions",
    "meqsum",
    "mts_dialog",
    "medbullets",
    "headqa",
    "scinli",
    "radnli",
    "aci_bench",
    "probsum",
]


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def table(*rows, end="\r\n"):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def put(root, card, split, content):
    """A split's file under its released name; `content` is text or bytes."""
    path = root / card.folder / card.splits[card.splits[split].hold_out_from or split].files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(name, root, split="test"):
    return [(e.input_text, e.answer_text) for e in read_split(CARDS[name], root, split)]


def everything(name, root):
    """All pairs of a corpus that is held out of one file, whichever split they fall into."""
    return sorted(pair for split in CARDS[name].splits for pair in read(name, root, split))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_card_says_what_a_user_needs(name):
    card = CARDS[name]
    assert (
        card.url.startswith("https://")
        and card.citation
        and card.protocol
        and card.instruction
        and card.licence
        and card.access
    )
    assert set(card.splits) == {"train", "validation", "test"}
    assert not any(label in card.instruction for label in ("{", "}"))


def test_medqa(tmp_path):
    options = {"A": "rest", "B": "fluids", "C": "surgery", "D": "aspirin"}
    put(
        tmp_path,
        CARDS["medqa"],
        "test",
        lines(
            {
                "question": "A boy falls. What next?",
                "answer": "fluids",
                "options": options,
                "meta_info": "step1",
                "answer_idx": "B",
                "metamap_phrases": ["boy"],
            },
            {
                "question": "And then?",
                "answer": "aspirin",
                "options": {**options, "E": "wait"},
                "meta_info": "step2&3",
                "answer_idx": "d",
            },
        ),
    )
    assert read("medqa", tmp_path) == [
        ("A boy falls. What next?\nA. rest\nB. fluids\nC. surgery\nD. aspirin\nAnswer:", "B"),
        ("And then?\nA. rest\nB. fluids\nC. surgery\nD. aspirin\nE. wait\nAnswer:", "D"),
    ]


@pytest.mark.parametrize(("base", "cops"), [(1, [4, 1, 2]), (0, [3, 0, 1])])
def test_medmcqa_counts_from_one_or_from_zero(tmp_path, base, cops):
    records = [
        {
            "question": f"Q{n}?",
            "exp": None,
            "cop": cop,
            "opa": "w",
            "opb": "x",
            "opc": "y",
            "opd": "z",
            "subject_name": "Anatomy",
            "topic_name": None,
            "id": f"id-{n}",
            "choice_type": "single",
        }
        for n, cop in enumerate(cops)
    ]
    put(tmp_path, CARDS["medmcqa"], "test", lines(*records))
    assert [answer for _, answer in read("medmcqa", tmp_path)] == ["D", "A", "B"]
    decided = {0: 1, 1: 1}[base]
    assert reader_notes(read_documents(CARDS["medmcqa"], tmp_path, "test")) == [
        f"dev.json: answers count from {base}, as {decided} of 3 rows show (options.gold: index)"
    ]


def test_emrqa(tmp_path):
    def answer(text, line):
        return {
            "text": text,
            "answer_start": [line, 2],
            "evidence": text,
            "evidence_start": line,
            "answer_entity_type": "single",
        }

    def paragraph(number, *qas):
        return {"note_id": number, "context": ["Admission Date:\n", "on  aspirin 81 mg\r\n"], "qas": [*qas]}

    first = {
        "id": ["u1", "t"],
        "question": ["What is the dose?", "How much?"],
        "answers": [answer("81 mg", 2), answer("81", 2)],
    }
    second = {"id": ["u2", "t"], "question": ["Why?"], "answers": []}
    put(
        tmp_path,
        CARDS["emrqa"],
        "train",
        json.dumps(
            {
                "data": [
                    {"title": "medication", "paragraphs": [paragraph("11", first, second), paragraph("12", first)]},
                    {"title": "relations", "paragraphs": [paragraph("record-3", first)]},
                    {"title": "smoking", "paragraphs": [paragraph("4", first), paragraph("5")]},
                ]
            }
        ),
    )
    pair = ("Admission Date:\non  aspirin 81 mg\nQuestion: What is the dose?\nAnswer:", "81 mg")
    assert everything("emrqa", tmp_path) == [pair] * 3
    documents = read_documents(CARDS["emrqa"], tmp_path, "train", as_released=True)
    assert len(documents) == 4 and {d.fields["document"] for d in documents} == {"11", "12", "record-3"}
    assert [d.left_out for d in documents if d.left_out] == [{"questions under titles that the card does not name": 1}]


@pytest.mark.parametrize(("name", "key"), [("mednli", "pairID"), ("radnli", "pair_id")])
def test_mednli_and_radnli(tmp_path, name, key):
    labels = ["entailment", "neutral", "contradiction"]
    put(
        tmp_path,
        CARDS[name],
        "test",
        "\ufeff"
        + lines(
            *(
                {
                    "sentence1": f"Ef\u00fcsion\u2028 {n}\x85. ",
                    key: f"p{n}",
                    "sentence1_parse": "(ROOT)",
                    "sentence2": "None.",
                    "gold_label": label,
                }
                for n, label in enumerate(labels)
            )
        ),
    )
    assert read(name, tmp_path) == [
        (f"Premise: Ef\u00fcsion\u2028 {n}\x85.\nHypothesis: None.\nAnswer:", label) for n, label in enumerate(labels)
    ]


def test_bionli(tmp_path):
    rows = [
        {
            "index": n,
            "pmid": 7,
            "supp_set": 'We saw that <re> A <er>, "B".',
            "conclusion": "A rises.",
            "label_cat": label,
        }
        for n, label in enumerate(["pos", "LPR", "generation_nd_SRE", "SET", "swap_number"])
    ]
    put(tmp_path, CARDS["bionli"], "test", table(*rows, end="\n"))
    found = read("bionli", tmp_path)
    assert [answer for _, answer in found] == ["consistent", "inconsistent", "inconsistent", "inconsistent"]
    assert found[0][0] == 'Abstract: We saw that <re> A <er>, "B".\nConclusion: A rises.\nAnswer:'
    (example, *_) = read_split(CARDS["bionli"], tmp_path, "test")
    assert example.options == ("consistent", "inconsistent")


def test_scitail_has_no_header_and_no_quoting(tmp_path):
    put(tmp_path, CARDS["scitail"], "test", '"Water boils.\tIt is hot.\tentails\nA 5" wave\tIt\'s "odd\tneutral\n')
    assert read("scitail", tmp_path) == [
        ('Premise: "Water boils.\nHypothesis: It is hot.\nAnswer:', "entails"),
        ('Premise: A 5" wave\nHypothesis: It\'s "odd\nAnswer:', "neutral"),
    ]


def test_mimic_cxr_impressions_keep_a_patient_in_one_split(tmp_path):
    reports = [
        {
            "study_id": str(50_000_000 + n),
            "subject_id": str(10_000_000 + n // 4),
            "findings": "Clear lungs.",
            "impression": "Normal.",
            "background": "Cough.",
        }
        for n in range(800)
    ]
    put(tmp_path, CARDS["mimic_cxr_impressions"], "train", json.dumps(reports))
    put(tmp_path, CARDS["mimic_cxr_impressions"], "test", json.dumps(reports[:1]))
    assert read("mimic_cxr_impressions", tmp_path) == [
        ("Background: Cough.\nFindings: Clear lungs.\nImpression:", "Normal.")
    ]
    patients = [
        {d.fields["document"] for d in read_documents(CARDS["mimic_cxr_impressions"], tmp_path, split)}
        for split in ("train", "validation")
    ]
    assert patients[1] and not patients[0] & patients[1] and len(patients[0] | patients[1]) == 200


def test_meqsum(tmp_path):
    rows = [
        {
            "File": f"{n}.xml.txt",
            "CHQ": f"SUBJECT: caf\u00e9 {n}\r\nMESSAGE: hi & <b> _x0041_ \U0001f600\r\n",
            "Summary": "What now?",
        }
        for n in range(30)
    ]
    put(tmp_path, CARDS["meqsum"], "train", workbook(rows))
    assert everything("meqsum", tmp_path) == sorted(
        (f"SUBJECT: caf\u00e9 {n}\nMESSAGE: hi & <b> _x0041_ \U0001f600\nQuestion:", "What now?") for n in range(30)
    )
    assert all(read("meqsum", tmp_path, split) for split in ("train", "validation", "test"))


def test_medbullets_in_columns(tmp_path):
    size = range(40)
    columns = {
        "link": {str(n): f"https://t.example/{n}" for n in size},
        "question": {str(n): f"Q{n}?" for n in size},
        **{f"op{letter}": {str(n): f"{letter}{n}" for n in size} for letter in "abcde"},
        "answer_idx": {str(n): "E" for n in size},
        "answer": {str(n): f"e{n}" for n in size},
        "explanation": {str(n): None for n in size},
    }
    put(tmp_path, CARDS["medbullets"], "test", json.dumps(columns))
    assert everything("medbullets", tmp_path) == sorted(
        (f"Q{n}?\nA. a{n}\nB. b{n}\nC. c{n}\nD. d{n}\nE. e{n}\nAnswer:", "E") for n in size
    )
    sizes = [len(read("medbullets", tmp_path, split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 40 and min(sizes) > 0


def test_headqa_numbers_questions_within_exams(tmp_path):
    def question(number, right, *answers):
        return {
            "qid": number,
            "qtext": f"Q{number}?",
            "ra": right,
            "answers": [{"aid": aid, "atext": text} for aid, text in answers],
            "image": "",
        }

    put(
        tmp_path,
        CARDS["headqa"],
        "test",
        json.dumps(
            {
                "version": "1.0",
                "language": "en",
                "exams": {
                    "Cuaderno_2016_1_B": {
                        "name": "Cuaderno_2016_1_B",
                        "year": "2016",
                        "category": "biologia",
                        "data": [
                            question("1", "3", (1, "x"), (2, "y"), (3, "z")),
                            question("2", 1, ("1", "x"), ("2", "y")),
                        ],
                    },
                    "Cuaderno_2016_1_E": {
                        "name": "Cuaderno_2016_1_E",
                        "data": [question("1", "7", ("7", "x"), ("4", "y"))],
                    },
                },
            }
        ),
    )
    assert read("headqa", tmp_path) == [
        ("Q1?\nA. x\nB. y\nC. z\nAnswer:", "C"),
        ("Q2?\nA. x\nB. y\nAnswer:", "A"),
        ("Q1?\nA. x\nB. y\nAnswer:", "A"),
    ]
    assert [e.example_id for e in read_split(CARDS["headqa"], tmp_path, "test")] == [
        "Cuaderno_2016_1_B/1",
        "Cuaderno_2016_1_B/2",
        "Cuaderno_2016_1_E/1",
    ]


def test_scinli(tmp_path):
    put(
        tmp_path,
        CARDS["scinli"],
        "test",
        lines(
            *(
                {"id": "x", "sentence1": "A.", "sentence2": "B.", "label": label}
                for label in ("reasoning", "contrasting", "neutral", "entailment")
            )
        ),
    )
    assert [answer for _, answer in read("scinli", tmp_path)] == ["reasoning", "contrasting", "neutral", "entailment"]


def test_aci_bench_and_mts_dialog_have_line_ends_inside_fields(tmp_path):
    put(
        tmp_path,
        CARDS["aci_bench"],
        "test",
        table(
            {
                "dataset": "virtscribe",
                "encounter_id": "D2N088",
                "dialogue": '[doctor] hi\n[patient] "hello"',
                "note": "HPI\n\nWell, fine.",
            },
            end="\n",
        ),
    )
    assert read("aci_bench", tmp_path) == [('[doctor] hi\n[patient] "hello"\nNote:', "HPI\n\nWell, fine.")]
    row = {"ID": "0", "section_header": "GENHX", "section_text": "Pain.", "dialogue": "Doctor: Hi?\r\nPatient: Ow."}
    put(tmp_path, CARDS["mts_dialog"], "test", table(row))
    assert read("mts_dialog", tmp_path) == [
        ("Section: GENHX\nConversation:\nDoctor: Hi?\nPatient: Ow.\nNote:", "Pain.")
    ]


def test_probsum_leaves_out_rows_without_a_summary(tmp_path):
    row = {
        "File ID": "1.txt",
        "Assessment": "67M with sepsis",
        "Summary": "Sepsis; AKI",
        "Subjective Sections": "fever\nchills",
        "Objective Sections": "",
    }
    put(tmp_path, CARDS["probsum"], "test", table(row, {**row, "File ID": "2.txt", "Summary": ""}))
    assert read("probsum", tmp_path) == [
        ("Assessment: 67M with sepsis\nSubjective: fever\nchills\nObjective: \nProblems:", "Sepsis; AKI")
    ]
    assert len(read_documents(CARDS["probsum"], tmp_path, "test")) == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("pubmedqa", "mts_dialog")])
def test_the_pocket_corpus_has_the_layout_of_the_release(name, project):
    """Reader, file names, columns of answers and options: those of the embedded card, so that the demo goes the way
    of the real files.
    """
    card, pocket = CARDS[name], load_cards([project / "clinical_tasks/pocket/cards"])[f"pocket_{name}"]
    assert (pocket.reader, pocket.type, pocket.metric) == (card.reader, card.type, card.metric)
    assert pocket.splits.keys() == card.splits.keys()
    for split, spec in card.splits.items():
        assert (pocket.splits[split].files, pocket.splits[split].hold_out_from) == (spec.files, spec.hold_out_from)
    assert pocket.columns["answer"] == card.columns["answer"]
    assert set(pocket.labels) <= set(card.labels)
    assert pocket.options is None or (card.options and pocket.options.columns == card.options.columns)
    own = {source.split(".")[0] for sources in card.columns.values() for source in sources}
    assert own <= {source.split(".")[0] for sources in pocket.columns.values() for source in sources} | {
        "subject_id",
        "Objective Sections",
        "pmid",
    }


def test_missing_files_are_named_as_released(tmp_path):
    (check,) = check_tasks([CARDS["meqsum"]], tmp_path, required=["meqsum"])
    assert "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx" in check.problems[0]


def test_the_gold_answers_come_back(tmp_path):
    rows = [
        {"index": n, "pmid": n, "supp_set": "S.", "conclusion": "C.", "label_cat": label}
        for n, label in enumerate(["pos", "LPR", "SRE"])
    ]
    put(tmp_path, CARDS["bionli"], "test", table(*rows))
    scores = round_trip(CARDS["bionli"], read_split(CARDS["bionli"], tmp_path, "test"))
    assert scores["macro_f1"] == scores["accuracy"] == 1.0 and scores["n_unparsed"] == 0
