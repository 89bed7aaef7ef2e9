"""The cards of the annotated corpora, each on a miniature of its release: the folders and file names as released,
invented notes in them.
"""

from __future__ import annotations

import pytest

from clinical_tasks import load_cards, read_split, round_trip
from clinical_tasks.corpus.splits import read_documents, split_files

NOTE = "Aspirin 81 mg daily for pain .\n"
XML = (
    '<?xml version="1.0" encoding="UTF-8" ?>\n<ClinicalNarrativeTemporalAnnotation>\n<TEXT><![CDATA[\nPain on '
    "Monday .\n]]></TEXT>\n<TAGS>\n"
    '<EVENT id="E0" start="1" end="5" text="Pain" modality="FACTUAL" polarity="POS" type="PROBLEM" />\n'
    '<TIMEX3 id="T0" start="9" end="15" text="Monday" type="DATE" val="" mod="NA" '
    "/>\n</TAGS>\n</ClinicalNarrativeTemporalAnnotation>\n"
)
ENTRY = (
    'm="aspirin" 1:0 1:0||do="81 mg" 1:1 1:2||mo="nm"||f="daily" 1:3 1:3||du="nm"||r="pain" 1:5 1:5||ln="narrative"\n'
)
CONCEPTS = 'c="aspirin" 1:0 1:0||t="treatment"\nc="pain" 1:5 1:5||t="problem"\n'
RELATIONS = 'c="aspirin" 1:0 1:0||r="TrAP"||c="pain" 1:5 1:5\n'
DRUGS = (
    "T1\tDrug 0 7\tAspirin\nT2\tStrength 8 13\t81 mg\nT3\tFrequency 14 19\tdaily\nT4\tReason 24 "
    "28\tpain\nR1\tStrength-Drug Arg1:T2 Arg2:T1\n"
    "R2\tFrequency-Drug Arg1:T3 Arg2:T1\nR3\tReason-Drug Arg1:T4 Arg2:T1\n"
)
SOCIAL = (
    "T1\tTobacco 0 6\tsmoker\nT2\tStatusTime 0 6\tsmoker\nT3\tAmount 7 13\t1 pack\nT4\tLivingStatus 15 "
    "20\tlives\nT5\tTypeLiving 21 26\talone\n"
    "E1\tTobacco:T1 Status:T2 Amount:T3\nE2\tLivingStatus:T4 Type:T5\nA1\tStatusTimeVal T2 "
    "current\nA2\tTypeLivingVal T5 alone\n"
)
PUBTATOR = (
    "{}|t|Colorectal cancer\n{}|a|Cancers of the colon.\n"
    "{}\t0\t17\tColorectal cancer\tSpecificDisease\tD015179\n{}\t18\t25\tCancers\tDiseaseClass\tD009369\n\n"
)
DDI = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<document id="{}">\n<sentence id="s0" text="Aspirin raises warfarin.">\n'
    '<entity id="s0.e0" charOffset="0-6" type="brand" text="Aspirin"/>\n<entity id="s0.e1" charOffset="15-22" '
    'type="drug" text="warfarin"/>\n'
    '<pair id="s0.p0" e1="s0.e0" e2="s0.e1" ddi="true" type="mechanism"/>\n</sentence>\n</document>\n'
)
TRAINING, REFERENCE = "concept_assertion_relation_training_data", "reference_standard_for_test_data"


def chemprot(folder, part, suffix, key):
    names = {
        "abstracts": f"{key}\tX\tX blocks Y.\n",
        "entities": f"{key}\tT1\tCHEMICAL\t2\t3\tX\n{key}\tT2\tGENE-N\t11\t12\tY\n",
    }
    files = {f"chemprot_{folder}/chemprot_{part}_{name}{suffix}.tsv": content for name, content in names.items()}
    return files | {f"chemprot_{folder}/chemprot_{part}_gold_standard.tsv": f"{key}\tCPR:4\tArg1:T1\tArg2:T2\n"}


def brat(annotations, *names, text=NOTE):
    return {f"{name}.{suffix}": content for name in names for suffix, content in (("txt", text), ("ann", annotations))}


I2B2_2010 = {
    f"{TRAINING}/{site}/{kind}/{site}-1.{suffix}": content
    for site in ("beth", "partners")
    for kind, suffix, content in (
        ("txt", "txt", NOTE),
        ("concept", "con", CONCEPTS),
        ("rel", "rel", RELATIONS),
        ("ast", "ast", "damaged"),
    )
} | {"test_data/0001.txt": NOTE, f"{REFERENCE}/concepts/0001.con": CONCEPTS, f"{REFERENCE}/rel/0001.rel": RELATIONS}
NOTES = {
    "i2b2_2009": {
        **dict.fromkeys((f"train.test.released.8.17.09/{name}" for name in (11, 12, 13)), NOTE),
        "training.ground.truth/11_gold.entries": ENTRY,
        "annotations_ground_truth/converted.noduplicates.sorted/12.m": ENTRY,
    },
    "i2b2_2010": I2B2_2010,
    "i2b2_2012": {"2012-07-15.original-annotation.release/1.xml": XML, "ground_truth/merged_xml/2.xml": XML},
    "n2c2_2018": brat(DRUGS, "training_20180910/100035", "test/100036"),
    "ncbi_disease": {
        f"NCBI{name}set_corpus.txt": PUBTATOR.format(*[number] * 4)
        for number, name in enumerate(("train", "develop", "test"), start=1)
    },
    "chemprot": chemprot("training", "training", "", 1)
    | chemprot("development", "development", "", 2)
    | chemprot("test_gs", "test", "_gs", 3),
    "ddi_2013": {
        f"DDICorpus/{where}/{source}/{number}.xml": DDI.format(f"{source}.{number}")
        for source in ("DrugBank", "MedLine")
        for number, where in enumerate(("Train", "Test/Test for DDI Extraction task"))
    },
    "n2c2_2022_sdoh": brat(
        SOCIAL,
        *(f"Annotations/{part}/mimic/0001" for part in ("train", "dev", "test")),
        text="smoker 1 pack, lives alone\n",
    ),
    "uf_opioid": brat(DRUGS, "train/1", "test/2"),
}
# What the answer to the test document is, and how many documents each split has as released.
EXPECTED = {
    "i2b2_2009_medications": ("medication: Aspirin\ndosage: 81 mg\nfrequency: daily\nreason: pain", (1, 1)),
    "i2b2_2010_concepts": ("treatment: Aspirin\nproblem: pain", (2, 1)),
    "i2b2_2010_relations": ("Aspirin | is given for | pain", (2, 1)),
    "i2b2_2012_events": ("problem: Pain\ndate: Monday", (1, 1)),
    "n2c2_2018_entities": ("drug: Aspirin\nstrength: 81 mg\nfrequency: daily\nreason: pain", (1, 1)),
    "n2c2_2018_relations": (
        "81 mg | strength of | Aspirin\ndaily | frequency of | Aspirin\npain | reason for | Aspirin",
        (1, 1),
    ),
    "ncbi_disease": ("disease: Colorectal cancer\ndisease class: Cancers", (1, 1, 1)),
    "chemprot": ("X | inhibits | Y", (1, 1, 1)),
    "ddi_2013": ("Aspirin | mechanism | warfarin", (2, 2)),
    "n2c2_2022_sdoh_entities": (
        "status: smoker\ntobacco: smoker\namount: 1 pack\nliving situation: lives\nliving with: alone",
        (1, 1, 1),
    ),
    "n2c2_2022_sdoh_relations": (
        "smoker | status | smoker\nsmoker | amount | 1 pack\nlives | living with | alone",
        (1, 1, 1),
    ),
    "uf_opioid_entities": ("Drug: Aspirin\nStrength: 81 mg\nFrequency: daily\nReason: pain", (1, 1)),
    "uf_opioid_relations": (
        "81 mg | Strength-Drug | Aspirin\ndaily | Frequency-Drug | Aspirin\npain | Reason-Drug | Aspirin",
        (1, 1),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_release_is_read_where_it_lies(name, tmp_path):
    card = load_cards()[name]
    for path, content in NOTES[card.folder].items():
        (tmp_path / card.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / card.folder / path).write_text(content, encoding="utf-8")
    splits = [split for split, spec in card.splits.items() if spec.files]
    assert not any(split_files(card, tmp_path, split).missing for split in splits)
    documents = {split: read_documents(card, tmp_path, split, as_released=True) for split in splits}
    answer, counts = EXPECTED[name]
    assert tuple(map(len, documents.values())) == counts and not any(
        d.mismatches for found in documents.values() for d in found
    )
    examples = read_split(card, tmp_path, "test")
    assert examples[0].answer_text == answer and round_trip(card, examples)[card.metric] == 1.0
    assert ("{entities}" in card.input) == (card.type == "re")


def test_what_every_card_tells(tmp_path):
    cards = load_cards()
    for name in EXPECTED:
        card = cards[name]
        assert (
            card.licence
            and card.access
            and card.protocol
            and card.citation
            and card.instruction
            and (card.url or card.licence == "private")
        )
        assert all(word in card.instruction for word in card.labels.values()), name
        assert {"train", "validation", "test"} == card.splits.keys()
    assert {cards[f"n2c2_2018_{kind}"].duplicates for kind in ("entities", "relations")} == {"discard"}
    assert (
        cards["n2c2_2022_sdoh_entities"].metric == "span_f1_sdoh_2022"
        and len(cards["n2c2_2022_sdoh_entities"].triggers) == 5
    )
    assert cards["ddi_2013"].relations.symmetric and not cards["chemprot"].relations.symmetric
