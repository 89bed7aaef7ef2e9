"""The closed vocabulary of the pocket corpus: pools that a note draws from without replacement.

`a/b` are two surface forms of one thing, the second an abbreviation; drawing either uses up both. No entry is a whole-word part of
another entry of a pool that a note may hold beside it, so that a mention's text says where it stands.
"""

from __future__ import annotations

POOLS: dict[str, tuple[str, ...]] = {
    "age": tuple(str(age) for age in range(22, 90, 4)),
    "sex": ("man/m", "woman/f"),
    "drug": ("aspirin", "metformin", "lisinopril", "atenolol", "warfarin", "insulin", "heparin", "digoxin", "furosemide", "prednisone",
             "albuterol", "amoxicillin", "penicillin", "ibuprofen", "omeprazole", "sertraline", "gabapentin", "simvastatin", "losartan",
             "cefazolin", "lorazepam", "naproxen", "vancomycin", "nifedipine"),
    "problem": ("asthma", "diabetes/dm", "hypertension/htn", "pneumonia/pna", "anemia", "gout", "sepsis", "stroke/cva", "migraine", "cough",
                "fever", "nausea", "rash", "dizziness", "headache", "chest pain", "shortness of breath/sob", "back pain", "vomiting",
                "fatigue", "depression", "anxiety", "insomnia", "obesity", "arthritis", "bleeding", "edema", "emphysema", "copd",
                "reflux/gerd", "constipation"),
    "class": ("heart disease", "lung disease", "kidney disease", "liver disease", "skin disease", "bone disease", "eye disease"),
    "test": ("ct scan", "chest x-ray/cxr", "mri", "ultrasound", "ecg", "biopsy", "blood culture", "urine culture", "echo", "colonoscopy"),
    "procedure": ("surgery", "dialysis", "oxygen", "physical therapy", "transfusion", "radiation", "stent", "bypass", "drainage"),
    "lab": ("sodium", "potassium", "glucose", "creatinine", "hemoglobin", "calcium", "platelets", "troponin", "lactate", "albumin"),
    "value": ("1.1", "2.4", "3.6", "4.2", "5.8", "7.9", "9.3", "12", "18", "31", "64", "120", "150", "310"),
    "strength": ("5 mg", "10 mg", "20 mg", "25 mg", "40 mg", "50 mg", "75 mg", "100 mg", "200 mg", "500 mg"),
    "dosage": ("one dose", "two doses", "half dose"),
    "form": ("tablet", "capsule", "patch", "solution", "cream", "spray"),
    "route": ("by mouth/po", "by vein/iv", "under the skin/sc", "inhaled", "topical"),
    "frequency": ("once daily/qd", "twice daily/bid", "three times daily/tid", "at bedtime/qhs", "every morning", "as needed/prn", "weekly"),
    "duration": ("3 days", "5 days", "7 days", "10 days", "two weeks", "one month", "six months"),
    "occurrence": ("admitted", "discharged", "transferred", "referred", "returned"),
    "department": ("intensive care unit/icu", "emergency room/er", "ward", "clinic", "operating room"),
    "date": ("today", "yesterday", "last week", "monday", "tuesday", "friday", "sunday"),
    "gene": ("egfr", "jak2", "cox2", "kit", "abl1", "tnf", "mtor", "cyp3a4", "braf", "src"),
    "relative": ("mother", "father", "sister", "brother", "aunt", "uncle"),
    "size": ("small", "large", "new", "stable", "dense"),
    "side": ("left", "right"),
    "finding": ("effusion", "nodule", "opacity", "fracture", "mass", "collapse", "pneumothorax/ptx", "scar"),
    "status": ("current", "former", "active", "prior", "occasional"),
    "tobacco": ("smoker", "tobacco user"),
    "alcohol": ("drinker", "alcohol user"),
    "illicit": ("cocaine user", "marijuana user", "heroin user"),
    "pack": ("1 pack", "2 packs", "6 cigarettes", "9 cigars"),
    "drink": ("2 beers", "3 drinks", "1 glass", "4 shots"),
    "employment": ("works", "worked", "employed"),
    "job": ("nurse", "teacher", "driver", "farmer", "cook", "clerk"),
    "living": ("lives", "resides", "stays"),
    "residence": ("alone", "with family", "with friends", "in a shelter", "at home"),
    "opioid": ("oxycodone", "morphine", "fentanyl", "heroin", "hydrocodone", "codeine", "tramadol"),
    "use": ("misuses", "injects", "snorts", "abuses", "tapers", "overuses"),
    "harm": ("withdrawal", "overdose", "craving", "sedation", "dependence"),
    "rescue": ("naloxone", "methadone", "buprenorphine", "clonidine"),
}

# Slots of a template that draw from a pool of another name.
SLOT_POOLS: dict[str, str] = {"other_drug": "drug", "reason": "problem", "ade": "problem", "reaction": "problem"}

# Words that only qualify a mention and may occur twice.
REPEATABLE = ("size", "side")
