"""The pocket backbones' shapes, tokenizer and beginnings: random, or a gpt-oss that starts as an exact copy of a
trained Llama.
"""

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HEAD = 32  # numbers a head
# gpt-oss gates by g * sigmoid(1.702 g) and multiplies by (up + 1), Llama by g * sigmoid(g) and up
GPT_OSS_GATE = 1.702
CONSTANT = 3.0  # of the one embedding dimension that every word shares, in standard deviations
# standard deviation; words stand out against what the first layers add to them, and AdamW does not soon write them over
EMBEDDING = 0.3
BEFORE = 6.0  # of looking at the token before
ASIDE = 2.5  # of looking away from where it stands
SHARPNESS = 1.4  # of looking for the same word: the larger the surer it is found, and the harder to unlearn
NO_SINK = -30.0  # a sink this low takes no attention


def model_config(family: str, hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """A card's ``random`` keys: two heads share a key, narrow MLPs (these skills are attention's), tied embeddings
    where the family has them.
    """
    heads = max(hidden // HEAD, 2)
    common = {
        "model_type": family,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else 1,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": family == "llama",
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }
    if family == "llama":
        return {**common, "intermediate_size": 2 * hidden}
    return {
        **common,
        "intermediate_size": 2 * hidden,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
    }


def train_tokenizer(texts: Iterable[str], folder: Path) -> Path:
    """A sentencepiece model with byte fallback that gives any text back unchanged; each word of ``texts`` is one piece,
    the rest letters and bytes.

    A line's first word must be the same piece as elsewhere, or copying a word has to be learnt for every word anew. So
    the model's own rules put a space after each line end, and take it away again when pieces become text.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    words: set[str] = set()
    for text in texts:
        words.update(f"\u2581{word}" for word in text.split())
    letters = sorted(set().union(*words))
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as rules:
        for name, rule in (
            ("normalization", "A\tA 20\n"),
            ("denormalization", "A 20\tA\n"),
        ):  # code points: line end, space
            Path(rules, name).write_text(rule)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(letters * 2),
            model_writer=model,  # a file prefix would be stored in the model
            vocab_size=3 + 256 + len(words) + len(letters),
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_tsv=str(Path(rules, "normalization")),
            denormalization_rule_tsv=str(Path(rules, "denormalization")),
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            hard_vocab_limit=False,
            user_defined_symbols=sorted(words),
            bos_id=1,
            eos_id=2,
            unk_id=0,
            num_threads=1,
            minloglevel=2,
        )
    content = protobuf.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]
    for spec in (content.normalizer_spec, content.denormalizer_spec):
        spec.ClearField("normalization_rule_tsv")  # the compiled rules stay; the path of a temporary file need not
    (folder / "tokenizer.model").write_bytes(content.SerializeToString(deterministic=True))
    return folder / "tokenizer.model"


def build(family: str, hidden: int, layers: int, vocabulary: int) -> nn.Module:
    """A causal language model in fp32 with transformers' own random start."""
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = model_config(family, hidden, layers, vocabulary)
    config = AutoConfig.for_model(keys.pop("model_type"), **keys)
    options = {"experts_implementation": "grouped_mm"} if family == "gpt_oss" else {}
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)


@torch.no_grad()
def look_back(llama: nn.Module, seed: int = 0) -> None:
    """Start some attention heads where training would bring them late: reading the token before, and finding the same
    word elsewhere.

    From a random start such heads form only after millions of tokens, and questions cannot be answered without them
    (mimetic initialisation, Trockman and Kolter 2023, arXiv 2305.09828; the heads are those of Olsson et al. 2022).
    Nothing is fixed: all of it trains.

    Layer 0, first key group: a query that is the same everywhere and a key turned by one position, so that RoPE makes
        it look one token
    back; what stands there is copied into other dimensions. Later layers: keys that equal the queries (the same word
    elsewhere), and keys that read the copied dimensions (what followed the same word elsewhere), by turns over the
    groups after the first.
    """
    generator = torch.Generator().manual_seed(seed)
    base: Any = llama.get_submodule("model")
    embedding = base.embed_tokens.weight
    width, scale = embedding.shape[1], EMBEDDING
    embedding.normal_(std=scale, generator=generator)
    base.norm.weight.fill_(
        base.config.initializer_range / scale
    )  # the head is the embedding: logits start as small as ever
    half = HEAD // 2
    turns = base.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)  # radians a token
    fast = torch.arange(3)  # these tell one position from the next
    slow = torch.cat([torch.arange(4, half), torch.arange(4, half) + half])  # these match words at any distance
    embedding[:, 0] = CONSTANT * scale

    def basis(rows: int, columns: int) -> Tensor:
        return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T

    # what a word is, and what stood before it, in dimensions apart; the constant is in neither
    read, written = torch.zeros(2, HEAD, width)
    count = min(HEAD, (width - 1) // 2)
    read[:count, 1:], written[:count, 1:] = basis(2 * count, width - 1).split(count)
    first, *later = (layer.self_attn for layer in base.layers)
    groups = first.k_proj.out_features // HEAD
    shared = first.q_proj.out_features // first.k_proj.out_features  # queries a key

    def start(attention: Any, group: int, query: Tensor, key: Tensor) -> None:
        attention.k_proj.weight[group * HEAD : (group + 1) * HEAD] = key
        attention.q_proj.weight[group * shared * HEAD : (group + 1) * shared * HEAD] = query.repeat(shared, 1)

    query, key = torch.zeros(2, HEAD, width)
    query[fast, 0] = BEFORE / CONSTANT
    key[fast, 0], key[fast + half, 0] = BEFORE / CONSTANT * turns[fast].cos(), BEFORE / CONSTANT * turns[fast].sin()
    start(first, 0, query, key)
    first.v_proj.weight[:HEAD] = read
    first.o_proj.weight[:, :HEAD] = 0.5 * scale * (width / HEAD) ** 0.5 * written.T
    for attention in later:
        for group in range(1, groups) if groups > 1 else [0]:
            query, key = torch.zeros(2, HEAD, width)
            sharp = SHARPNESS * basis(len(slow), HEAD)
            query[slow], key[slow] = sharp @ read, sharp @ (read if group % 2 else written)
            query[fast, 0], key[fast, 0] = ASIDE / CONSTANT, -ASIDE / CONSTANT  # a word is not its own other occurrence
            start(attention, group, query, key)


@torch.no_grad()
def upcycle(llama: nn.Module, gpt_oss: nn.Module, sink: float = NO_SINK) -> None:
    """Make the mixture compute what the dense model computes: each expert a copy of its MLP, no sink, biases that undo
    the gate's differences.

    ``sink`` is every sink's logit: so low it takes no attention and no gradient; to be trained it starts higher, and
    the copy is not exact. The routers keep their random start, so that the experts, equal at first, part during
    training (Komatsuzaki et al. 2022, sparse upcycling).
    """
    dense, target = llama.state_dict(), gpt_oss.state_dict()
    for name, value in target.items():
        layer = name.split(".mlp.")[0]
        mlp = {}
        if ".mlp." in name:
            mlp = {part: dense[f"{layer}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")}
        if name.endswith("experts.gate_up_proj"):  # (E, d, 2f), gate and up in turn
            value[..., ::2], value[..., 1::2] = mlp["gate"].T / GPT_OSS_GATE, mlp["up"].T
        elif name.endswith("experts.gate_up_proj_bias"):
            value[..., ::2], value[..., 1::2] = 0.0, -1.0
        elif name.endswith("experts.down_proj"):  # (E, f, d)
            value.copy_((GPT_OSS_GATE * mlp["down"].T).expand_as(value))
        elif name.endswith("sinks"):
            value.fill_(sink)
        elif name.endswith("bias"):
            value.zero_()
        elif "router" not in name:
            value.copy_(dense[name])
