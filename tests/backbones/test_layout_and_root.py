"""Tokens in, states at answer positions out, against the model called naively on one sample at a time."""

import json
from contextlib import nullcontext

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from backbones import BackboneCard, BackboneError, Batch, FrozenRoot, Layout, build_backbone, load_tokenizer
from engine.data.packing import collate
from engine.data.sample import Sample
from engine.distributed.zero3 import ShardedBackbone

WORDS = [
    "<s>",
    "</s>",
    "<|start|>",
    "<|message|>",
    "<|end|>",
    "<|channel|>",
    "<|return|>",
    "user",
    "assistant",
    "final",
    "fever",
    "and",
    "rash",
    "yes",
    ".",
]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
FAMILIES = {
    "llama": {"model_type": "llama", **SIZES},
    "gpt_oss": {
        "model_type": "gpt_oss",
        **SIZES,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "max_position_embeddings": 131072,
    },
}


@pytest.fixture
def folder(tmp_path):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="."))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token=".", additional_special_tokens=WORDS[2:7]
    )
    fast.chat_template = (
        "{{ bos_token }} user {% for m in messages %}{{ m['content'] }}{% endfor %} <|end|>{% if "
        "add_generation_prompt %} assistant{% endif %}"
    )
    fast.save_pretrained(tmp_path)
    return tmp_path


def layout_of(folder, template, separator=" . "):
    card = BackboneCard(name="x", path=str(folder), tokenizer=str(folder), template=template, separator=separator)
    return Layout(card, load_tokenizer(folder))


def words(ids):
    return [WORDS[i] for i in ids]


def test_templates_lay_out_input_and_answer(folder):
    plain, chat, harmony = (layout_of(folder, t) for t in ("none", "chat", "harmony"))
    assert words(plain.context_ids("fever and rash")) == ["<s>", "fever", "and", "rash", "."]
    assert words(plain.answer_ids("yes")) == ["yes", "</s>"]
    assert words(chat.context_ids("fever")) == ["<s>", "user", "fever", "<|end|>", "assistant"]
    turns = [
        "<|start|>",
        "user",
        "<|message|>",
        "fever",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
    ]
    assert words(harmony.context_ids("fever")) == turns
    assert words(harmony.answer_ids("yes")) == ["yes", "<|return|>"]
    assert harmony.answer_text([13, 6, 10]) == "yes"
    assert (
        len(
            {
                plain.fingerprint(),
                chat.fingerprint(),
                harmony.fingerprint(),
                layout_of(folder, "none", " and ").fingerprint(),
            }
        )
        == 4
    )


def test_solved_examples_stand_between_instruction_and_input(folder):
    solved = [("fever", "yes"), ("rash", "final")]
    shown = ["fever", ".", "yes", "rash", ".", "final"]  # separator " . "
    plain, chat, harmony = (layout_of(folder, t) for t in ("none", "chat", "harmony"))
    assert plain.solved_text(solved[0]) == "fever . yes\n\n"
    assert words(plain.instructed_ids("and", "rash", solved)) == ["<s>", "and", ".", *shown, "rash", "."]
    assert words(chat.instructed_ids("and", "rash", solved)) == [
        "<s>",
        "user",
        "and",
        ".",
        *shown,
        "rash",
        "<|end|>",
        "assistant",
    ]
    assert words(harmony.instructed_ids("and", "rash", solved))[2:] == [
        "<|message|>",
        "and",
        ".",
        *shown,
        "rash",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
    ]
    plain.instruction_first = True
    assert words(plain.instructed_ids("and", "rash", solved)) == ["and", "<s>", *shown, "rash", "."]


def test_a_template_the_tokenizer_cannot_serve_is_refused(folder, project):
    sentencepiece = load_tokenizer(project / "configs" / "tiny" / "tokenizer.model")
    with pytest.raises(BackboneError, match="needs a transformers tokenizer folder"):
        Layout(BackboneCard(name="x", random={"model_type": "llama"}, tokenizer="t", template="chat"), sentencepiece)
    bare = load_tokenizer(folder)
    bare.inner.chat_template = None
    with pytest.raises(BackboneError, match="has no chat template"):
        Layout(BackboneCard(name="x", path=str(folder), tokenizer=str(folder), template="chat"), bare)
    with pytest.raises(BackboneError, match="not a sentencepiece model"):
        load_tokenizer(folder / "tokenizer.json")


def spelled(folder, merges):
    """The folder as a GPT-2 of old: a vocabulary and merges apart, no tokenizer.json."""
    vocabulary = {token: i for i, token in enumerate(["<e>", "a", "b", "c", "ab", "bc"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    keys = {"tokenizer_class": "GPT2Tokenizer", **{f"{name}_token": "<e>" for name in ("bos", "eos", "unk")}}
    (folder / "tokenizer_config.json").write_text(json.dumps(keys))


def test_merges_decide_ids_and_the_fingerprint(tmp_path):
    spelled(tmp_path, ["a b", "b c"])
    before = layout_of(tmp_path, "none")
    ids, fingerprint = before.tokenizer.encode("abc"), before.fingerprint()
    spelled(tmp_path, ["b c", "a b"])
    after = layout_of(tmp_path, "none")
    assert after.tokenizer.encode("abc") != ids and after.fingerprint() != fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "config.json",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "tokenizer.json",
        "tokenizer.4.0.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model.v3",
        "qwen.tiktoken",
        "tekken.json",
        "its own",
    ],
)
def test_every_file_that_a_tokenizer_may_read_is_in_its_fingerprint(folder, name):
    tokenizer = load_tokenizer(folder)
    tokenizer.inner.vocab_files_names = {"vocab_file": "its own"}
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    seen = {tokenizer.fingerprint()}
    for content in (b"", b"1", b"2"):
        file.write_bytes(content)
        seen.add(tokenizer.fingerprint())
    assert len(seen) == 4
    for other in ("README.md", "loss.jsonl", "model.safetensors", "tokenization_x.py"):
        (folder / other).touch()
    assert tokenizer.fingerprint() in seen


def test_code_that_a_tokenizer_runs_is_in_its_fingerprint(folder):
    tokenizer = load_tokenizer(folder, trust_remote_code=True)
    seen = {tokenizer.fingerprint()}
    for content in ("x = 1", "x = 2"):
        (folder / "tokenization_x.py").write_text(content)
        seen.add(tokenizer.fingerprint())
    assert len(seen) == 3


@pytest.mark.parametrize("text", ["Dose: 5 µg\n  twice — daily\t.", "naïve café ☕", "", "\n\n"])
def test_sentencepiece_gives_back_any_text(project, text):
    tokenizer = load_tokenizer(project / "configs" / "tiny" / "tokenizer.model")
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == text
    assert not set(ids) & tokenizer.special_ids()


def test_special_ids_of_a_folder_stand_for_no_text(folder):
    tokenizer = load_tokenizer(folder)
    special = tokenizer.special_ids()
    assert tokenizer.eos_id in special and tokenizer.decode(sorted(special)).strip() == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_states_and_gradients_equal_the_naive_call(family):
    """fp64, unequal lengths, one empty context: its first answer token is predicted by the last prompt position."""
    card = BackboneCard(name=family, random=dict(FAMILIES[family]), tokenizer="t", dtype="float32")
    model = build_backbone(card, None, torch.float64)
    samples = [
        Sample([3, 4, 5, 6, 7, 8], [9, 10, 1]),
        Sample([], [11, 12, 13, 1], row=1),
        Sample([20], [1], row=1),
    ]
    batch = collate(samples)
    prompts = torch.randn(3, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    states, none = FrozenRoot(model).forward_padded(batch, prompts)
    assert none is None
    weights = torch.randn(states.logits_NV.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (states.logits_NV * weights).sum().backward()
    found, prompts.grad = prompts.grad, None
    expected = []
    for k, sample in enumerate(samples):
        ids = torch.tensor([sample.context_ids + sample.answer_ids])
        logits = model(inputs_embeds=torch.cat([prompts[k : k + 1], model.get_input_embeddings()(ids)], 1)).logits[0]
        expected.append(logits[-len(sample.answer_ids) - 1 : -1])
    (torch.cat(expected) * weights).sum().backward()
    torch.testing.assert_close(states.logits_NV, torch.cat(expected), rtol=1e-12, atol=1e-12)
    assert (found - prompts.grad).norm() / prompts.grad.norm() <= 1e-12


def test_teacher_states_are_the_teachers_own_and_carry_no_gradient():
    card = BackboneCard(name="llama", random=dict(FAMILIES["llama"]), tokenizer="t", dtype="float32")
    root = FrozenRoot(build_backbone(card, None, torch.float64))
    batch = collate([Sample([3, 4], [5, 1]), Sample([6], [7, 1], row=1)])
    student, teacher = (torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    both, taught = root.forward_padded(batch, student, teacher)
    alone, _ = root.forward_padded(batch, teacher)
    torch.testing.assert_close(taught.hidden_ND, alone.hidden_ND, rtol=1e-12, atol=1e-12)
    assert not taught.logits_NV.requires_grad and both.logits_NV.requires_grad


def test_recomputing_changes_no_generated_token(tmp_path):
    """A recomputing model is in training mode, in which transformers drops the cache that generation reads."""
    card = BackboneCard(name="llama", random=dict(FAMILIES["llama"]), tokenizer="t", dtype="float32")
    contexts, prompts = [[3, 4, 5, 6], [7, 8]], torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(2))
    ids = [
        ShardedBackbone(card, deepspeed_file="", device=torch.device("cpu"), recompute=recompute)(
            "generate", contexts, prompts, 8, 1, 1, False
        )
        for recompute in (0, 2)
    ]
    assert ids[0].equal(ids[1]) and ids[0].shape[1] > 2


@pytest.mark.parametrize(
    "key, value", [("hidden_size", "sixteen"), ("hidden_size", 15), ("num_attention_heads", 0), ("model_type", "lama")]
)
def test_impossible_configurations_are_the_users_error(key, value):
    with pytest.raises(BackboneError, match="backbone x: random"):
        build_backbone(
            BackboneCard(name="x", random={**FAMILIES["llama"], key: value}, tokenizer="t", dtype="float32"), None
        )


def test_an_unknown_attention_is_refused_before_anything_is_built():
    card = BackboneCard(name="x", random=dict(FAMILIES["llama"]), tokenizer="t", dtype="float32", attention="foo")
    with pytest.raises(BackboneError, match="attention: transformers does not know 'foo'"):
        build_backbone(card, None)


def test_recomputed_layers_inputs_wait_where_they_are_told_to(monkeypatch):
    """With inputs offloaded, nothing of a layer's size stays beside the copies: the hooks see every layer's input."""
    card = BackboneCard(
        name="l",
        random={
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        tokenizer="unused",
        dtype="float32",
    )
    backbone = ShardedBackbone(card, deepspeed_file="", device=torch.device("cpu"), recompute=3, offload_inputs=True)
    assert (
        backbone.root._saving.func is torch.autograd.graph.save_on_cpu
        and FrozenRoot(backbone.model)._saving is nullcontext
    )
    seen = []
    monkeypatch.setattr(
        backbone.root,
        "_saving",
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t),
    )
    batch = Batch(
        torch.tensor([[5, 6, 7]]),
        torch.tensor([[False, False, True]]),
        torch.tensor([7]),
        torch.tensor([0]),
        torch.tensor([0]),
        torch.ones(1),
    )
    prompts = torch.randn(1, 4, 16, requires_grad=True)
    states, _ = backbone.forward_padded(batch, prompts)
    states.logits_NV.sum().backward()
    assert seen.count(torch.Size([1, 7, 16])) >= 3 and prompts.grad is not None
