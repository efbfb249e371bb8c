"""GPT-2, the baseline: every later chapter replaces one part of it.

Learned positions, LayerNorm before each sub-layer, multi-head causal attention, a GELU MLP, and an
output head that shares the embedding's weights. Names are Hugging Face's, so published checkpoints
load. There is no dropout: GPT-OSS has none either, and the course compares the two.

Built in chapter 05: edit ``notebooks/05_gpt2.py``, not this file.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "GPT2",
    "GPT2MLP",
    "GPT2Attention",
    "GPT2Block",
    "GPT2Config",
    "attention_reference",
    "causal_attention",
    "from_huggingface",
    "to_huggingface",
]


def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention, one line a step: the slow, obvious version.

    The T queries belong to the last T of the S tokens, so S = T in training and S > T with a cache.

    Args:
        query: [B, H, T, hd].
        key: [B, H, S, hd].
        value: [B, H, S, hd].

    Returns:
        For each query the weighted mean of the values, [B, H, T, hd].
    """
    T, S, hd = query.shape[-2], key.shape[-2], query.shape[-1]
    scores = query @ key.transpose(-2, -1) / math.sqrt(hd)  # [B, H, T, S]
    future = torch.ones(T, S, dtype=torch.bool, device=query.device).triu(S - T + 1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ value  # [B, H, T, hd]


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute what :func:`attention_reference` does with PyTorch's fused kernel.

    Args:
        query: [B, H, T, hd].
        key: [B, H, S, hd], with S ≥ T.
        value: [B, H, S, hd].

    Returns:
        For each query the weighted mean of the values, [B, H, T, hd].
    """
    T, S = query.shape[-2], key.shape[-2]
    if T == S:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # is_causal would line up the first query with the first key; ours belong to the last keys.
    visible = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


_FIXED_SETTINGS = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class GPT2Config:
    """The sizes of a GPT-2, with Hugging Face's field names; the defaults are GPT-2 small.

    Raises:
        ValueError: if a size is not positive or the heads do not divide the hidden size.
    """

    vocab_size: int = 50257  # V, tokens in the vocabulary
    n_positions: int = 1024  # the longest text that the model can read, in tokens
    n_embd: int = 768  # D, width of the residual stream
    n_layer: int = 12  # blocks
    n_head: int = 12  # H, attention heads a block
    n_inner: int | None = None  # F, width of the MLP; None means 4·D
    layer_norm_epsilon: float = 1e-5  # keeps LayerNorm from dividing by zero
    initializer_range: float = 0.02  # standard deviation of fresh weights
    tie_word_embeddings: bool = True  # the output head is the embedding table
    qkv_bias: bool = True  # biases of query, key and value; every published GPT-2 has them

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}; choose sizes that divide."
            )

    @property
    def head_dim(self) -> int:
        """hd, the width of one head. GPT-2 leaves no choice here: hd = D / H."""
        return self.n_embd // self.n_head

    @classmethod
    def from_json(cls, path: str | Path) -> "GPT2Config":
        """Read a ``config.json`` in Hugging Face's format.

        Raises:
            ValueError: if the file asks for a variant that this model does not implement.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        for name, expected in _FIXED_SETTINGS.items():
            if values.get(name, expected) != expected:
                raise ValueError(
                    f"{path} has {name}={values[name]!r}, but this GPT-2 implements only {expected!r}."
                )
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def to_json(self, path: str | Path) -> None:
        """Write a ``config.json`` that :meth:`from_json` and ``transformers`` read."""
        text = json.dumps(_FIXED_SETTINGS | asdict(self), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")


class GPT2Attention(nn.Module):
    """Multi-head causal self-attention: H small attentions side by side, then one mixing layer."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.head_dim = config.head_dim
        self.layer_idx = layer_idx
        # Query, key and value in one product.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        """Map the normalized stream x [B, T, D] to an update of the same shape."""
        B, T, D = x.shape
        query, key, value = (
            part.view(B, T, self.n_head, self.head_dim).transpose(1, 2)  # [B, H, T, hd]
            for part in self.c_attn(x).split(D, dim=-1)
        )
        if cache is not None:
            key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, hd]
        mixed = causal_attention(query, key, value)  # [B, H, T, hd]
        return self.c_proj(mixed.transpose(1, 2).reshape(B, T, D))


class GPT2MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to every token alone."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(hidden_size, inner_size)
        self.c_proj = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map the normalized stream x [B, T, D] to an update of the same shape."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # [B, T, F] inside


class GPT2Block(nn.Module):
    """Attention, then the MLP; each reads a normalized copy of the stream and adds to the stream."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config.n_embd, config.n_inner or 4 * config.n_embd)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        """Map the stream x [B, T, D] to the stream after this block."""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """GPT-2: token ids in, a score for every possible next token out.

    From "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019).
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx) for layer_idx in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights; the layers that write to the stream start smaller by √(2·n_layer)."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            else:
                nn.init.normal_(parameter, std=std)

    def forward(self, input_ids: Tensor, cache=None) -> Tensor:
        """Score the next token after every prefix.

        Args:
            input_ids: [B, T], int64.
            cache: keys and values of earlier tokens (chapter 12): ``cache.length`` tokens are
                already stored, and ``cache.update(layer_idx, key, value)`` adds [B, H, T, hd] each
                and returns those of all tokens so far.

        Returns:
            Logits, [B, T, V].

        Raises:
            ValueError: if the text is longer than ``n_positions`` tokens.
        """
        past = 0 if cache is None else cache.length
        end = past + input_ids.shape[1]
        if end > self.config.n_positions:
            raise ValueError(
                f"The text has {end} tokens, but this model has n_positions={self.config.n_positions}; "
                "shorten the text."
            )
        positions = torch.arange(past, end, device=input_ids.device)  # [T]
        x = self.wte(input_ids) + self.wpe(positions)  # [B, T, D]
        for block in self.h:
            x = block(x, cache)
        head = self.wte if self.lm_head is None else self.lm_head
        return F.linear(self.ln_f(x), head.weight)  # [B, T, V]


_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_OLD_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def from_huggingface(state_dict: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Tensor]:
    """Translate Hugging Face's GPT-2 weights into the names and layout of :class:`GPT2`.

    Takes the state dict of ``GPT2LMHeadModel`` (names start with ``transformer.``) as well as the
    published ``gpt2`` files (names do not, and the causal mask is stored as ``attn.bias``).

    Args:
        state_dict: the weights as published; linear layers are stored as [in, out].
        config: the sizes of the model that the weights belong to.

    Returns:
        A state dict for ``GPT2(config).load_state_dict``; linear layers are [out, in].

    Raises:
        ValueError: if a name is missing or unknown, or a tensor has another shape.
    """
    weights = {}
    for name, tensor in state_dict.items():
        name = name.removeprefix("transformer.")
        if not _OLD_BUFFERS.fullmatch(name):
            weights[name] = tensor.t().contiguous() if name.endswith(_CONV1D) else tensor
    if config.tie_word_embeddings and "lm_head.weight" in weights:
        head = weights.pop("lm_head.weight")
        if not torch.equal(head, weights.get("wte.weight", head)):
            raise ValueError("lm_head.weight is not wte.weight; set tie_word_embeddings=False in the config.")

    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in GPT2(config).state_dict().items()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"Missing weights: {missing}; unknown: {unknown}. Check that the config fits them.")
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}; the config wants {list(expected[name])}."
            )
    return weights


def to_huggingface(model: GPT2) -> dict[str, Tensor]:
    """Return the model's weights as a state dict for Hugging Face's ``GPT2LMHeadModel``."""
    weights = {
        f"transformer.{name}": tensor.t().contiguous() if name.endswith(_CONV1D) else tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    head = model.wte if model.lm_head is None else model.lm_head
    return weights | {"lm_head.weight": head.weight.detach()}
