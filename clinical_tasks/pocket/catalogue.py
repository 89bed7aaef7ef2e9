"""The 31 task cards, as Python: what `cards/*.yaml` hold. `python -m clinical_tasks.pocket --output DIR` writes
them to DIR/cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from clinical_tasks.pocket.annotated import CORPORA

Content = dict[str, Any]

_NEAREST = "The official release is {}; these files are in {}, the nearest format that is read here."
_OPTIONS = {"layout": "{letter} {text}"}
_ASKED = "{note}\nquestion : {question}\n"
_EXAM = "{question}\n{options}\nanswer :"
_PAIR = "{note}\nhypothesis : {hypothesis}\nanswer :"


def _annotated(
    folder: str, kind: str, instruction: str, labels: Mapping[str, str], metric: str, reader: str = "", **more: Any
) -> Content:
    reader = reader or CORPORA[folder].format
    names = {
        "brat": {split: [f"{split}/*.txt", f"{split}/*.ann"] for split in ("train", "validation", "test")},
        "pubtator": {split: [f"{split}.PubTator.txt"] for split in ("train", "validation", "test")},
        "i2b2": {
            split: [f"{split}/txt/*.txt", f"{split}/concept/*.con", f"{split}/rel/*.rel"]
            for split in ("train", "validation", "test")
        },
        "i2b2_2009": {
            split: [f"{split}/notes/*", f"{split}/entries/*.entries"] for split in ("train", "validation", "test")
        },
        "i2b2_2012": {split: [f"{split}/*.xml"] for split in ("train", "validation", "test")},
        "bioc": {split: [f"{split}.BioC.xml"] for split in ("train", "validation", "test")},
        "chemprot": {split: [f"{split}/chemprot_*.tsv"] for split in ("train", "validation", "test")},
        "ddi": {split: [f"{split}/*.xml"] for split in ("train", "validation", "test")},
    }[reader]
    extra = (
        ["span_f1_lenient", "span_f1_strict", "text_set_f1"]
        if kind == "ner"
        else ["relation_precision", "relation_recall"]
    )
    return {
        "type": kind,
        "reader": reader,
        "folder": folder,
        "splits": {split: {"files": files} for split, files in names.items()},
        "labels": dict(labels),
        "instruction": instruction,
        "input": "{text}\nanswer :",
        "metric": metric,
        "extra_metrics": [name for name in extra if name != metric],
        **more,
    }


def _rows(
    kind: str,
    reader: str,
    files: tuple[str, ...],
    columns: Content,
    instruction: str,
    template: str,
    metric: str,
    **more: Any,
) -> Content:
    splits: Content = {
        split: {"files": [name]} for split, name in zip(("train", "validation", "test"), files, strict=True)
    }
    return {
        "type": kind,
        "reader": reader,
        "splits": splits,
        "columns": columns,
        "instruction": instruction,
        "input": template,
        "metric": metric,
        **more,
    }


def _rouge() -> Content:
    return {"extra_metrics": ["rouge1", "rouge2", "rougeLsum", "exact_match"], "rouge_stemmer": True}


_DRUG_WORDS = {
    f"{kind}-Drug": kind.lower() for kind in ("Strength", "Form", "Dosage", "Route", "Frequency", "Duration", "Reason")
}
_GIVEN = " The gold mentions are used when an answer is read back, and not shown."

SOURCE_CARDS: dict[str, Content] = {
    "pocket_i2b2_2009_medications": _annotated(
        "pocket_i2b2_2009",
        "ner",
        "list medications with dose , route , frequency , duration and reason",
        {"m": "medication", "do": "dose", "mo": "route", "f": "frequency", "du": "duration", "r": "reason"},
        "span_f1_strict",
        protocol="Official format (entries of m=, do=, mo=, f=, du=, r= fields); each field is a mention.",
    ),
    "pocket_i2b2_2010_concepts": _annotated(
        "pocket_i2b2_2010",
        "ner",
        "list every problem , test and treatment",
        {"problem": "problem", "test": "test", "treatment": "treatment"},
        "span_f1_strict",
        protocol="Official format.",
    ),
    "pocket_i2b2_2012_events": _annotated(
        "pocket_i2b2_2012",
        "ner",
        "list every occurrence , department , test , date and duration",
        {
            "OCCURRENCE": "occurrence",
            "CLINICAL_DEPT": "department",
            "TEST": "test",
            "DATE": "date",
            "DURATION": "duration",
        },
        "span_f1_strict",
        protocol="Official format (XML), five of its types.",
    ),
    "pocket_n2c2_2018_entities": _annotated(
        "pocket_n2c2_2018",
        "ner",
        "list drugs with strength , form , dosage , route , frequency , duration , reason , effect",
        {"Drug": "drug", **{kind.removesuffix("-Drug"): word for kind, word in _DRUG_WORDS.items()}, "ADE": "effect"},
        "span_f1_lenient",
        duplicates="discard",
        protocol="Official format. A further prediction over a matched mention is dropped, as the n2c2-2018 script does.",
    ),
    "pocket_bc5cdr_entities": _annotated(
        "pocket_bc5cdr",
        "ner",
        "list every chemical and every disease",
        {"Chemical": "chemical", "Disease": "disease"},
        "span_f1_strict",
        protocol="Official format (the PubTator edition).",
    ),
    "pocket_ncbi_disease": _annotated(
        "pocket_ncbi_disease",
        "ner",
        "list every specific disease and every disease class",
        {"SpecificDisease": "specific", "DiseaseClass": "class"},
        "span_f1_strict",
        protocol="Official format, two of its four types.",
    ),
    "pocket_i2b2_2010_relations": _annotated(
        "pocket_i2b2_2010",
        "re",
        "relate treatments and tests to problems they treat , cause or reveal",
        {"TrAP": "treats", "TeRP": "reveals", "TrCP": "causes"},
        "relation_f1",
        relations={"level": "mention", "head": ["test", "treatment"], "tail": ["problem"]},
        protocol="Official format, three of its eight types." + _GIVEN,
    ),
    "pocket_n2c2_2018_relations": _annotated(
        "pocket_n2c2_2018",
        "re",
        "relate each strength , form , route , frequency and reason to its drug",
        {**_DRUG_WORDS, "ADE-Drug": "effect"},
        "relation_f1",
        relations={
            "level": "mention",
            "head": [*(kind.removesuffix("-Drug") for kind in _DRUG_WORDS), "ADE"],
            "tail": ["Drug"],
        },
        protocol="Official format." + _GIVEN,
    ),
    "pocket_bc5cdr_cid": _annotated(
        "pocket_bc5cdr",
        "re",
        "which chemical induces which disease",
        {"CID": "induces"},
        "relation_f1",
        relations={"level": "entity", "head": ["Chemical"], "tail": ["Disease"]},
        reader="bioc",
        protocol="Official format (the BioC edition). Compares pairs of concept identifiers of a document; an answer is read back through its gold mentions.",
    ),
    "pocket_chemprot": _annotated(
        "pocket_chemprot",
        "re",
        "relate each chemical to the gene it acts on",
        {"CPR:3": "activates", "CPR:4": "inhibits", "CPR:5": "agonist", "CPR:6": "antagonist", "CPR:9": "substrate"},
        "relation_f1",
        relations={"level": "mention", "head": ["CHEMICAL"], "tail": ["GENE-Y"]},
        reader_options={"sentence_lines": True},
        protocol="Official format (three tables); a sentence of the abstract begins a line." + _GIVEN,
    ),
    "pocket_ddi_2013": _annotated(
        "pocket_ddi_2013",
        "re",
        "relate interacting drugs by mechanism , effect , advice or interaction",
        {"mechanism": "mechanism", "effect": "effect", "advise": "advice", "int": "interaction"},
        "relation_f1",
        relations={"level": "mention", "head": ["drug"], "tail": ["drug"]},
        protocol="Official format (XML), one of its four types of drugs." + _GIVEN,
    ),
    "pocket_medqa": _rows(
        "qa",
        "jsonl",
        tuple(
            f"data_clean/questions/US/4_options/phrases_no_exclude_{part}.jsonl" for part in ("train", "dev", "test")
        ),
        {"question": "question", "answer": "answer_idx"},
        "choose the drug that treats the problem",
        _EXAM,
        "accuracy",
        options={"columns": ["options"], "gold": "key", **_OPTIONS},
        extra_metrics=["macro_f1"],
        protocol="Official format (US, four options).",
    ),
    "pocket_medmcqa": _rows(
        "qa",
        "jsonl",
        ("train.json", "", "dev.json"),
        {"id": "id", "question": "question", "answer": "cop"},
        "choose the dose or frequency of the drug",
        _EXAM,
        "accuracy",
        options={"columns": ["opa", "opb", "opc", "opd"], "gold": "index1", **_OPTIONS},
        extra_metrics=["macro_f1"],
        protocol="Official format (json lines, cop counts from 1). As with the corpus, whose test answers are not "
        "public, the test set is dev.json and the validation split is held out of train.json.",
    ),
    "pocket_pubmedqa": _rows(
        "qa",
        "json",
        ("ori_pqal.json", "", "ori_pqal.json"),
        {"id": "$key", "note": "CONTEXTS", "question": "QUESTION", "answer": "final_decision"},
        "answer the research question with yes , no or maybe",
        _ASKED + "answer :",
        "accuracy",
        labels={"yes": "yes", "no": "no", "maybe": "maybe"},
        extra_metrics=["macro_f1"],
        protocol="Official format: one file, the test set by the ids of the ground truth; the validation split is held out of the rest.",
    ),
    "pocket_emrqa": _rows(
        "qa",
        "squad",
        ("data.json", "", ""),
        {
            "id": "id",
            "document": "$parent.note_id",
            "note": "context",
            "question": "question",
            "answer": "answers.text",
        },
        "answer the question in the words of the note",
        _ASKED + "answer :",
        "exact_match",
        reader_options={"titles": ["medication"], "paraphrases": "first"},
        extra_metrics=["token_f1"],
        protocol="Official format (parts, paragraphs, questions with paraphrases, in one file), one question a note; the validation and test "
        "splits are held out by note.",
    ),
    "pocket_mednli": _rows(
        "nli",
        "jsonl",
        ("mli_train_v1.jsonl", "mli_dev_v1.jsonl", "mli_test_v1.jsonl"),
        {"id": "pairID", "note": "sentence1", "hypothesis": "sentence2", "answer": "gold_label"},
        "does the note mean entailment , neutral or contradiction",
        _PAIR,
        "accuracy",
        labels={"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
        extra_metrics=["macro_f1"],
        protocol="Official format.",
    ),
    "pocket_bionli": _rows(
        "nli",
        "csv",
        ("train_balanced.csv", "dev_balanced.csv", "test.csv"),
        {"id": "index", "document": "pmid", "note": "supp_set", "hypothesis": "conclusion", "answer": "label_cat"},
        "is the conclusion about the gene true or false",
        _PAIR,
        "macro_f1",
        labels={"pos": "true", **dict.fromkeys(("SRE", "negToPos", "posToNeg", "LPR"), "false")},
        extra_metrics=["accuracy"],
        protocol="Official format, four of its ways to make a conclusion false.",
    ),
    "pocket_scitail": _rows(
        "nli",
        "tsv",
        tuple(f"SciTailV1.1/tsv_format/scitail_1.0_{part}.tsv" for part in ("train", "dev", "test")),
        {"note": "premise", "hypothesis": "hypothesis", "answer": "label"},
        "say entails or neutral for the use of the drug",
        _PAIR,
        "accuracy",
        reader_options={"header": ["premise", "hypothesis", "label"]},
        labels={"entails": "entails", "neutral": "neutral"},
        extra_metrics=["macro_f1"],
        protocol="Official format (no header line).",
    ),
    "pocket_mimic_cxr_impressions": _rows(
        "summarization",
        "json",
        ("train.json", "", "dev.json"),
        {"id": "study_id", "background": "background", "note": "findings", "answer": "impression"},
        "write the impression of the findings",
        "{background}\nfindings :\n{note}\nanswer :",
        "rougeL",
        **_rouge(),
        protocol="Official format. As the official test reports are from other hospitals, the test set is dev.json and the validation split is "
        "held out of train.json.",
    ),
    "pocket_meqsum": _rows(
        "summarization",
        "xlsx",
        ("MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx", "", ""),
        {"id": "File", "note": "CHQ", "answer": "Summary"},
        "summarize the message as one short question",
        "{note}\nanswer :",
        "rougeL",
        **_rouge(),
        protocol="Official format: one sheet; the validation and test splits are held out of it.",
    ),
    "pocket_mts_dialog": _rows(
        "summarization",
        "csv",
        ("MTS-Dialog-TrainingSet.csv", "MTS-Dialog-ValidationSet.csv", "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv"),
        {"id": "ID", "section": "section_header", "note": "dialogue", "answer": "section_text"},
        "write the named section of the conversation",
        "{note}\nsection : {section}\nanswer :",
        "rougeL",
        **_rouge(),
        protocol="Official format; the section header is given.",
    ),
}

TARGET_CARDS: dict[str, Content] = {
    "pocket_n2c2_2022_sdoh_entities": _annotated(
        "pocket_n2c2_2022_sdoh",
        "ner",
        "list tobacco , alcohol , illicit , employment and living with status",
        {
            "Tobacco": "tobacco",
            "Alcohol": "alcohol",
            "Drug": "illicit",
            "Employment": "employment",
            "LivingStatus": "living",
            "StatusTime": "status",
            "Amount": "amount",
            "Type": "job",
            "TypeLiving": "residence",
        },
        "span_f1_lenient",
        duplicates="penalise",
        protocol="Official format (brat events); triggers and arguments alike are mentions.",
    ),
    "pocket_n2c2_2022_sdoh_relations": _annotated(
        "pocket_n2c2_2022_sdoh",
        "re",
        "relate each social habit to its status , amount or kind",
        {"StatusTime": "status", "Amount": "amount", "Type": "job", "TypeLiving": "residence"},
        "relation_f1",
        reader_options={"events": "argument_types"},
        relations={
            "level": "mention",
            "head": ["Tobacco", "Alcohol", "Drug", "Employment", "LivingStatus"],
            "tail": ["StatusTime", "Amount", "Type", "TypeLiving"],
        },
        protocol="Official format (brat events), each read as relations of a trigger to its arguments, by their types."
        + _GIVEN,
    ),
    "pocket_uf_opioid_entities": _annotated(
        "pocket_uf_opioid",
        "ner",
        "list opioids , their use , harm and rescue",
        {"Opioid": "opioid", "Use": "use", "Harm": "harm", "Rescue": "rescue"},
        "span_f1_strict",
        protocol="The corpus is private; brat, with types of ours.",
    ),
    "pocket_uf_opioid_relations": _annotated(
        "pocket_uf_opioid",
        "re",
        "relate opioid use , harm and rescue",
        {"Use-Opioid": "use", "Harm-Opioid": "harm", "Rescue-Harm": "reverses"},
        "relation_f1",
        relations={"level": "mention", "head": ["Use", "Harm", "Rescue"], "tail": ["Opioid", "Harm"]},
        protocol="The corpus is private; brat, with types of ours." + _GIVEN,
    ),
    "pocket_medbullets": _rows(
        "qa",
        "json",
        ("", "", "medbullets/medbullets_op5.json"),
        {"id": "link", "question": "question", "answer": "answer_idx"},
        "choose the problem that runs in the family",
        _EXAM,
        "accuracy",
        reader_options={"orient": "columns"},
        options={"columns": ["opa", "opb", "opc", "opd", "ope"], "gold": "letter", **_OPTIONS},
        extra_metrics=["macro_f1"],
        protocol="Official format, five options; the explanation is not used. The corpus is one test file: a model adapts on a share of it "
        "and is tested on the rest.",
    ),
    "pocket_headqa": _rows(
        "qa",
        "json",
        tuple(f"HEAD_EN/{part}_HEAD_EN.json" for part in ("train", "dev", "test")),
        {"id": ["$parent.$key", "qid"], "question": "qtext", "answer": "ra"},
        "choose the test with the asked result",
        _EXAM,
        "accuracy",
        reader_options={"records": "exams.*.data"},
        options={"columns": ["answers"], "gold": "key", "text": "atext", "key": "aid", **_OPTIONS},
        extra_metrics=["macro_f1"],
        protocol="Official format (exams, then questions).",
    ),
    "pocket_scinli": _rows(
        "nli",
        "jsonl",
        ("train.jsonl", "dev.jsonl", "test.jsonl"),
        {"id": "id", "note": "sentence1", "hypothesis": "sentence2", "answer": "label"},
        "is the sentence entailment , contrasting , reasoning or neutral",
        _PAIR,
        "macro_f1",
        labels={
            "entailment": "entailment",
            "contrasting": "contrasting",
            "reasoning": "reasoning",
            "neutral": "neutral",
        },
        extra_metrics=["accuracy"],
        protocol="Official format.",
    ),
    "pocket_radnli": _rows(
        "nli",
        "jsonl",
        ("radnli_dev_v1.jsonl", "", "radnli_test_v1.jsonl"),
        {"id": "pair_id", "note": "sentence1", "hypothesis": "sentence2", "answer": "gold_label"},
        "is the finding supported , unclear or refuted",
        _PAIR,
        "macro_f1",
        labels={"entailment": "supported", "neutral": "unclear", "contradiction": "refuted"},
        extra_metrics=["accuracy"],
        protocol="Official format. There is no train split: a model adapts on the dev file, of which a share is held out for validation.",
    ),
    "pocket_aci_bench": _rows(
        "summarization",
        "csv",
        tuple(f"challenge_data/{part}.csv" for part in ("train", "valid", "clinicalnlp_taskB_test1")),
        {"id": "encounter_id", "note": "dialogue", "answer": "note"},
        "write the whole note of the conversation",
        "{note}\nanswer :",
        "rougeL",
        **_rouge(),
        protocol="Official format.",
    ),
    "pocket_probsum": _rows(
        "summarization",
        "csv",
        ("BioNLP2023-1A-Train.csv", "", "BioNLP2023-1A-Test.csv"),
        {"id": "File ID", "note": ["Assessment", "Subjective Sections"], "answer": "Summary"},
        "list the active problems of the patient",
        "{note}\nanswer :",
        "rougeL",
        **_rouge(),
        protocol="Official format; the objective sections are empty. The validation split is held out of the training file.",
    ),
}

# Where the corpus is released in fewer files than splits.
for _content, _splits in (
    (SOURCE_CARDS["pocket_pubmedqa"], {"validation": ("train", 0.09)}),
    (SOURCE_CARDS["pocket_medmcqa"], {"validation": ("train", 0.09)}),
    (SOURCE_CARDS["pocket_emrqa"], {"validation": ("train", 0.08), "test": ("train", 0.12)}),
    (SOURCE_CARDS["pocket_mimic_cxr_impressions"], {"validation": ("train", 0.09)}),
    (SOURCE_CARDS["pocket_meqsum"], {"validation": ("train", 0.08), "test": ("train", 0.12)}),
    (TARGET_CARDS["pocket_medbullets"], {"train": ("test", 0.8), "validation": ("test", 0.08)}),
    (TARGET_CARDS["pocket_radnli"], {"validation": ("train", 0.09)}),
    (TARGET_CARDS["pocket_probsum"], {"validation": ("train", 0.09)}),
):
    for _split, (_parent, _share) in _splits.items():
        _content["splits"][_split] = {"hold_out": {"from": _parent, "fraction": _share}}
for _split, _key in (("train", "ids_not_in"), ("test", "ids_from")):
    SOURCE_CARDS["pocket_pubmedqa"]["splits"][_split][_key] = "test_ground_truth.json"


def card_text(name: str, sizes: Mapping[str, int]) -> str:
    """The YAML of a card whose corpus has these many documents in each split."""
    content = SOURCE_CARDS.get(name) or TARGET_CARDS[name]
    role = "source" if name in SOURCE_CARDS else "target"
    # What is released of a split includes what others hold out of it.
    parents = {
        split: spec["hold_out"]["from"] if "hold_out" in spec else split for split, spec in content["splits"].items()
    }
    counts = {
        parent: sum(size for split, size in sizes.items() if parents[split] == parent)
        for parent in dict.fromkeys(parents.values())
    }
    whole = {
        "name": name,
        "title": f"Pocket corpus, {role} task, in the manner of {name.removeprefix('pocket_')}",
        **{key: content[key] for key in ("type", "reader")},
        "folder": content.get("folder", name),
        **{key: value for key, value in content.items() if key not in ("type", "reader", "folder", "protocol")},
        "protocol": f"{role.capitalize()} task. All notes are invented. {content['protocol']}",
        "published": {split: {"documents": count} for split, count in counts.items()},
        "licence": "that of this repository",
        "access": "public",
        "citation": "none, invented",
    }
    head = "# Invented notes: python -m clinical_tasks.pocket --output DIR writes them, and this card.\n"
    return head + yaml.dump(whole, Dumper=_CardDumper, sort_keys=False, width=140, default_flow_style=None)


class _CardDumper(yaml.SafeDumper):
    """Templates as blocks; nothing is an alias, since a card is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_CardDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
