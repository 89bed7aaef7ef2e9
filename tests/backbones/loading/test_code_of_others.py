"""A folder may bring Python code along: it is not run, and a tokenizer's only where the card says so."""

import json
from pathlib import Path

import pytest

from backbones import BackboneCard, BackboneError, load_backbone_card, load_tokenizer
from backbones.loading.family_config import backbone_config

CODE = """
from pathlib import Path
from transformers import LlamaConfig, PreTrainedTokenizerFast
Path({canary!r}).touch()
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
class OwnConfig(LlamaConfig):
    model_type = "own"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer and a model whose classes are in a file beside them, which leaves a trace when it is run."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "own"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "fever": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    own = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "own_code.OwnTokenizer"]},
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own_code.OwnConfig"}})
    )
    (folder / "own_code.py").write_text(CODE.format(canary=str(tmp_path / "canary")))
    return folder


def test_code_beside_a_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match="needs Python code of its own, which is not run; .*trust_remote_code: true"
    ):
        load_tokenizer(folder)
    assert not (tmp_path / "canary").exists()


def test_it_is_run_where_the_card_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "card.yaml").write_text(
        "name: own\ntokenizer: own\ntrust_remote_code: true\nrandom: {model_type: llama}\n"
    )
    card = load_backbone_card(tmp_path / "card.yaml")
    tokenizer = load_tokenizer(card.tokenizer, card.trust_remote_code)
    assert tokenizer.encode("fever") == [2] and (tmp_path / "canary").exists()


def test_a_models_own_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    for trusted in (False, True):
        card = BackboneCard(name="own", path=str(folder), tokenizer=str(folder), trust_remote_code=trusted)
        with pytest.raises(BackboneError, match="needs Python code of its own, which is never run"):
            backbone_config(card)
    assert not (tmp_path / "canary").exists()
