"""The embedded cards of the row corpora, each on a few invented records in the very layout of its release."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import check_tasks, load_cards, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.pocket.sheets import workbook
from tests.clinical_tasks.released_rows import CARDS, everything, lines, put, read, table

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
