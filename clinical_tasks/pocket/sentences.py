"""Surface templates of every kind of sentence. A kind is a fact: its slots are mentions, the kind says how they are
related.
"""

from __future__ import annotations

# Words are separated by single spaces, punctuation too: the text is its own tokenisation, as in the 2010 i2b2 release.
KINDS: dict[str, tuple[str, ...]] = {
    "patient": (
        "{age} year old {sex} with {problem} .",
        "{age} year old {sex} seen for {problem} .",
        "this {age} yo {sex} has {problem} .",
    ),
    "has": (
        "the patient has {problem} .",
        "reports {problem} .",
        "positive for {problem} .",
        "complains of {problem} .",
    ),
    "denies": ("the patient denies {problem} .", "no {problem} .", "negative for {problem} .", "without {problem} ."),
    "possible": ("possible {problem} .", "there may be {problem} .", "cannot rule out {problem} ."),
    "family": ("the {relative} had {problem} .", "{problem} in the {relative} .", "{relative} with {problem} ."),
    "allergy": ("allergic to {drug} with {reaction} .", "{drug} allergy with {reaction} ."),
    "adverse": (
        "{drug} caused {ade} .",
        "developed {ade} from {drug} .",
        "{ade} was seen after {drug} .",
        "{drug} stopped due to {ade} .",
    ),
    # Every order has the same four facts, which questions ask for.
    "order": (
        "takes {drug} {strength} {frequency} for {reason} .",
        "given {drug} {strength} {frequency} for {reason} .",
        "for {reason} takes {drug} {strength} {frequency} .",
        "{reason} is treated with {drug} {strength} {frequency} .",
    ),
    "medication": (
        "takes {drug} {strength} {route} {frequency} .",
        "started {drug} {strength} {route} for {duration} .",
        "{drug} {strength} {frequency} for {reason} .",
        "continue {drug} {route} {frequency} for {duration} .",
        "given {drug} {strength} {route} for {reason} .",
    ),
    "dispensed": (
        "{drug} {strength} {form} {frequency} .",
        "takes {drug} {form} {route} for {reason} .",
        "{drug} {form} {dosage} {frequency} .",
        "given {drug} {strength} {form} for {duration} .",
    ),
    "reveals": ("{test} showed {problem} .", "{problem} was seen on {test} .", "{test} revealed {problem} ."),
    "procedure": (
        "{procedure} was done for {problem} .",
        "{problem} was treated with {procedure} .",
        "needs {procedure} for {problem} .",
    ),
    "harms": ("{problem} after {procedure} .", "{procedure} caused {problem} ."),
    "move": ("{occurrence} to the {department} {date} .", "{date} the patient was {occurrence} to the {department} ."),
    "dated_test": ("{test} was done {date} .", "{date} had {test} ."),
    "lasting": ("{problem} for {duration} .", "has had {problem} for {duration} ."),
    "subtype": ("{problem} is a {class} .", "{problem} belongs to {class} ."),
    "class_only": ("no sign of {class} .", "the {relative} had {class} .", "known {class} ."),
    "topic": (
        "a study of {drug} and {problem} .",
        "{problem} and {drug} in adults .",
        "notes on {drug} in {problem} .",
    ),
    "treats": ("{drug} is used for {problem} .", "{drug} treats {problem} .", "{problem} responds to {drug} ."),
    "harmless": ("{drug} did not cause {problem} .", "no {problem} was seen with {drug} ."),
    "activates": ("{drug} activates {gene} .", "{drug} increases {gene} .", "{gene} is increased by {drug} ."),
    "inhibits": ("{drug} inhibits {gene} .", "{drug} decreases {gene} .", "{gene} is blocked by {drug} ."),
    "agonist": ("{drug} is an agonist of {gene} .", "{drug} binds {gene} as agonist ."),
    "antagonist": ("{drug} is an antagonist of {gene} .", "{drug} binds {gene} as antagonist ."),
    "substrate": ("{drug} is a substrate of {gene} .", "{gene} breaks down {drug} ."),
    "unrelated": ("{drug} does not affect {gene} .", "{gene} was measured without {drug} ."),
    "mechanism": ("{drug} raises the level of {other_drug} .", "{drug} slows the clearance of {other_drug} ."),
    "joint_effect": ("{drug} with {other_drug} causes harm .", "{drug} adds to the effect of {other_drug} ."),
    "advice": ("do not take {drug} with {other_drug} .", "avoid {drug} during {other_drug} use ."),
    "interaction": ("{drug} interacts with {other_drug} .", "{drug} and {other_drug} may interact ."),
    "compatible": ("{drug} and {other_drug} are safe .", "{drug} can be taken with {other_drug} ."),
    "study_yes": ("{drug} reduced {problem} .", "{problem} was less with {drug} ."),
    "study_no": ("{drug} did not reduce {problem} .", "{problem} was unchanged with {drug} ."),
    "study_maybe": ("{drug} may reduce {problem} .", "it is unclear whether {drug} reduced {problem} ."),
    "lab_high": ("{lab} is {value} , high .", "high {lab} of {value} ."),
    "lab_low": ("{lab} is {value} , low .", "low {lab} of {value} ."),
    "lab_normal": ("{lab} is {value} , normal .", "normal {lab} of {value} ."),
    "raises": ("{drug} raises {lab} .", "{lab} goes up with {drug} ."),
    "lowers": ("{drug} lowers {lab} .", "{lab} goes down with {drug} ."),
    "finding": (
        "there is a {size} {side} {finding} .",
        "a {size} {side} {finding} is seen .",
        "{size} {side} {finding} .",
    ),
    "no_finding": ("no {side} {finding} .", "there is no {side} {finding} .", "{side} {finding} is absent ."),
    "tobacco": ("{status} {tobacco} , {pack} .", "{status} {tobacco} ."),
    "alcohol": ("{status} {alcohol} , {drink} .", "{status} {alcohol} ."),
    "illicit": ("{status} {illicit} .", "patient is {status} {illicit} ."),
    "employment": ("{employment} as a {job} .", "patient {employment} as {job} ."),
    "living": ("{living} {residence} .", "patient {living} {residence} ."),
    "opioid_use": ("{use} {opioid} .", "the patient {use} {opioid} .", "now {use} {opioid} daily ."),
    "opioid_harm": ("{harm} from {opioid} .", "{harm} was seen after {opioid} ."),
    "opioid_rescue": ("{rescue} given for {harm} .", "{harm} was treated with {rescue} ."),
    "opioid_taken": ("{opioid} was given for pain .", "takes {opioid} as prescribed ."),
}

# The section a kind belongs to, for notes written in sections; the others carry no header.
HEADERS: dict[str, str] = {
    **dict.fromkeys(("has", "denies", "possible", "lasting"), "history"),
    **dict.fromkeys(("order", "medication", "dispensed"), "medications"),
    **dict.fromkeys(("allergy",), "allergies"),
    **dict.fromkeys(("family",), "family"),
    **dict.fromkeys(("lab_high", "lab_low", "lab_normal"), "labs"),
    **dict.fromkeys(("reveals", "dated_test"), "tests"),
    **dict.fromkeys(("procedure", "move"), "course"),
    **dict.fromkeys(("tobacco", "alcohol", "illicit", "employment", "living"), "social"),
}
