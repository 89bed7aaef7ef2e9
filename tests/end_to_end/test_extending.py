"""docs/how_to/extending.md as it stands: its cards and configurations written where it says, its commands run, on an
invented brat corpus.
"""

from __future__ import annotations

import json
import re
import shlex

from commands_runner import ROOT, run

TRAIN = (
    "Avery",
    "Blake",
    "Casey",
    "Devon",
    "Emery",
    "Finley",
    "Gray",
    "Harper",
    "Indigo",
    "Jules",
    "Noor",
    "Oakley",
    "Parker",
    "Quinn",
    "Remy",
    "Sage",
)
NAMES = {"train": TRAIN, "test": ("Kai", "Logan", "Morgan")}


def write_notes(folder):
    """One drug and its dose a note, and a type that the card does not use."""
    for split, names in NAMES.items():
        (folder / split).mkdir(parents=True)
        for number, name in enumerate(names):
            text = f"{name} takes aspirin {40 + number} mg daily."
            dose = text.index("aspirin") + 8
            marks = [("Drug", dose - 8, dose - 1), ("Dose", dose, dose + 5), ("Frequency", dose + 6, dose + 11)]
            lines = [
                f"T{n}\t{kind} {start} {end}\t{text[start:end]}" for n, (kind, start, end) in enumerate(marks, start=1)
            ]
            (folder / split / f"note{number}.txt").write_text(text)
            (folder / split / f"note{number}.ann").write_text(
                "\n".join([*lines, "R1\tDose-Drug Arg1:T2 Arg2:T1"]) + "\n"
            )


def results_of(file):
    """results.json without what no two launches share: how long answers took."""
    results = json.loads(file.read_text())
    for task in results["tasks"].values():
        assert task.pop("answering")["answers"] > 0
    return results


def test_the_page_runs_as_it_stands(tmp_path):
    page = (ROOT / "docs" / "how_to" / "extending.md").read_text()
    mine = tmp_path / "my"
    write_notes(mine / "data" / "my_notes")

    def here(text):
        return re.sub(r"\bmy/", f"{mine}/", text)

    blocks = re.findall(r"`(my/[\w/]+\.yaml)`[^`]*(?:`[^`\n]*`[^`]*)*?```yaml\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my/cards/my_entities.yaml",
        "my/cards/my_relations.yaml",
        "my/brat_distill.yaml",
        "my/brat_adapt.yaml",
        "my/cards/my_doses.yaml",
    ]
    for name, content in blocks:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(here(content))
    commands = [
        line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.strip().split("\n")
    ]
    assert len(commands) == 9
    said = []
    for command in commands:
        python, script, *arguments = shlex.split(here(command))
        assert (python, script) == ("python", "train.py")
        said.append(run(*arguments, ranks=1, home=tmp_path))
    assert (
        re.search(r"my_entities +ner +ok +\d+ +\d+ +3 +0 +span_f1_strict +1\.0000", said[0])
        and "ignored: Frequency 19" in said[0]
    )
    results = results_of(mine / "runs" / "brat_adapt" / "results.json")
    assert set(results["tasks"]["my_relations"]["methods"]["metaprompt"]) == {"0", "4", "full"}
    assert "my_relations" in (mine / "runs" / "report.md").read_text()
    scored = results_of(mine / "runs" / "both" / "results.json")
    assert list(scored["tasks"]) == ["my_relations", "my_doses"] and set(scored["average"]["metaprompt"]) == {
        "0",
        "4",
        "full",
    }
    assert scored["tasks"]["my_relations"] == results["tasks"]["my_relations"]  # intervals, labels and all
    assert "12 rows in" in said[6] and "13 rows in" in said[8]
    run("evaluate", "--run", str(mine / "runs" / "doses"), ranks=1, home=tmp_path)
    assert scored["tasks"]["my_doses"] == results_of(mine / "runs" / "doses" / "results.json")["tasks"]["my_doses"]
    run("evaluate", "--run", str(mine / "runs" / "sums"), "--tasks", "my_doses", ranks=1, home=tmp_path)
    summed = results_of(mine / "runs" / "sums" / "results.json")
    assert list(summed["tasks"]["my_doses"]["methods"]["sum"]) == ["0"] and any(
        "nothing was trained for it" in line for line in summed["changes"]
    )
    # No word of a note outside the caches and predictions.
    assert not any(name in text for text in said for name in (*TRAIN, *NAMES["test"]))
