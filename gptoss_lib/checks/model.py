"""Checks for the exercises to chapter 15, the whole model."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_lib.attention import sink_attention_reference
from gptoss_lib.checks import check, expect, unless
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.model import GPTOSS
from gptoss_lib.rope import apply_rotary

__all__ = ["chunked_loss", "find_bug", "mystery", "wire"]

_CONFIG = GPTOSSConfig(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=8,
    rope_theta=1000.0,
    rope_scaling=None,
    max_position_embeddings=512,
    embedding_norm="layernorm",
)


def _model(seed: int) -> GPTOSS:
    """Return a model whose weights are large enough for every part to matter."""
    generator = torch.Generator().manual_seed(seed)
    model = GPTOSS(_CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.4 * noise)
            elif parameter.dim() == 1 or name.endswith("bias"):
                parameter.copy_(0.6 * noise)
            else:
                scale = 5 if name.endswith("gate_up_proj") else 2  # 5 reaches the clamp
                parameter.copy_(scale * noise / math.sqrt(parameter.shape[1]))
    return model


def _tokens(seed: int, length: int = 40) -> Tensor:
    return torch.randint(61, (2, length), generator=torch.Generator().manual_seed(seed))


def _parts(model: GPTOSS) -> SimpleNamespace:
    """Return the parts of a model without the wires between them."""
    names = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    layers = [
        SimpleNamespace(**{name: getattr(layer, name) for name in names}) for layer in model.model.layers
    ]
    whole = {
        name: getattr(model.model, name) for name in ("embed_tokens", "embed_norm", "norm", "rotary_emb")
    }
    return SimpleNamespace(**whole, layers=layers, lm_head=model.lm_head)


def _wired(parts: SimpleNamespace, ids: Tensor, mistake: str = "") -> Tensor:
    """Wire the parts rightly, or with one of the mistakes that the check knows."""

    def attend(layer, x):
        return layer.self_attn(x, angles)

    positions = torch.arange(ids.shape[1])
    angles = parts.rotary_emb(positions * 0 if mistake == "positions" else positions)
    x = parts.embed_tokens(ids)
    x = x if mistake == "embed_norm" else parts.embed_norm(x)
    for layer in reversed(parts.layers) if mistake == "reversed" else parts.layers:
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        if mistake == "swapped":
            first, second = second, first
        if mistake == "post-norm":
            x = first(x + attend(layer, x))
            x = second(x + layer.mlp(x)[0])
        elif mistake == "parallel":
            x = x + attend(layer, first(x)) + layer.mlp(second(x))[0]
        elif mistake == "no residual":
            x = attend(layer, first(x))
            x = layer.mlp(second(x))[0]
        elif mistake == "half residual":
            x = x + attend(layer, first(x))
            x = layer.mlp(second(x))[0]
        elif mistake == "normalized stream":
            x = first(x)
            x = x + attend(layer, x)
            x = second(x)
            x = x + layer.mlp(x)[0]
        elif mistake == "raw":
            x = x + attend(layer, x)
            x = x + layer.mlp(x)[0]
        else:
            x = x + attend(layer, first(x))
            x = x + layer.mlp(second(x))[0]
    return parts.lm_head(x if mistake == "norm" else parts.norm(x))


_WIRING = {
    "norm": "The last norm is missing: the head reads the stream through parts.norm.",
    "embed_norm": "This model has a norm right after the embedding (parts.embed_norm is not None); use it.",
    "swapped": "The two norms of a block are swapped: input_layernorm belongs to the attention.",
    "post-norm": "This normalizes the stream after each addition, as the first transformers did; "
    "here each half reads a normalized copy, and the stream itself stays as it is.",
    "parallel": "The experts read the stream from before the attention; they have to read what it added too.",
    "no residual": "Each half replaces the stream; it has to be added to it.",
    "half residual": "The experts replace the stream; their answer has to be added to it.",
    "normalized stream": "The additions go to the normalized copy; keep the stream itself and add to that.",
    "raw": "Attention and experts read the raw stream; each has a norm of its own in front.",
    "reversed": "The blocks run from last to first.",
    "positions": "All tokens stand at position 0, so nothing is turned; ask rotary_emb for 0, 1, 2, …",
}


@check("Right: the stream, two additions a block, one norm at the end. You have wired GPT-OSS.")
@torch.no_grad()
def wire(answer) -> None:
    """Check the wiring of a whole model from its parts: norms, additions, order, angles."""
    model, ids = _model(15), _tokens(15)
    parts = _parts(model)
    result = answer(parts, ids)
    expect(isinstance(result, Tensor), "Return one tensor, the logits.")
    expect(
        result.shape == (2, 40, 61),
        f"The logits should have the shape {[2, 40, 61]}, but yours have {list(result.shape)}.",
    )
    for mistake, message in _WIRING.items():
        unless(torch.allclose(result, _wired(parts, ids, mistake), atol=1e-3), message)
    expect(torch.allclose(result, _wired(parts, ids), atol=1e-3), "The logits are not those of the model.")
    without = _parts(model)
    without.embed_norm = None
    expected = _wired(without, ids, "embed_norm")
    expect(
        torch.allclose(answer(without, ids), expected, atol=1e-3),
        "Right with a norm after the embedding, but wrong for a model whose embed_norm is None.",
    )


# Faults that can be planted into one block: which half they are in, and how.
_Plant = Callable[[torch.nn.Module], None]


def _no_sinks(block) -> None:
    block.self_attn.sinks = None


def _longer_window(block) -> None:
    block.self_attn.window = 9


def _no_clamp(block) -> None:
    block.mlp.experts.limit = math.inf


def _softmax_first(block) -> None:
    router = block.mlp.router

    def route(x: Tensor):
        logits = F.linear(x, router.weight, router.bias)
        return logits, *logits.softmax(-1).topk(router.top_k)

    router.forward = route


@torch.no_grad()
def _forgotten_bias(block) -> None:
    block.self_attn.o_proj.bias.zero_()


@torch.no_grad()
def _old_norm(block) -> None:
    block.post_attention_layernorm.weight.fill_(1)


@torch.no_grad()
def _one_expert(block) -> None:
    block.mlp.experts.down_proj[3, :, 5] *= 1.01


def _slow_attention(block) -> None:
    """No fault: the same attention by its definition, which rounds differently."""
    attention = block.self_attn

    def forward(x, position_embeddings, position_ids=None, documents=None, cache=None):
        query, key, value = (
            projection(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        mixed = sink_attention_reference(query, key, value, attention.sinks, attention.window)
        return attention.o_proj(mixed.transpose(1, 2).flatten(2))

    attention.forward = forward


# The case, the faults by block, and what is to be found.
_CASES: tuple[tuple[str, dict[int, _Plant], tuple[int, str] | None], ...] = (
    ("a changed weight", {2: _old_norm}, (2, "experts")),
    ("a forgotten bias", {3: _forgotten_bias}, (3, "attention")),
    ("a missing part", {4: _no_sinks}, (4, "attention")),
    ("a window", {2: _longer_window}, (2, "attention")),
    ("a router", {0: _softmax_first}, (0, "experts")),
    ("the last block", {5: _no_clamp}, (5, "experts")),
    ("two faults", {1: _no_clamp, 4: _no_sinks}, (1, "experts")),
    ("a small fault", {3: _one_expert}, (3, "experts")),
    ("nothing but rounding", {block: _slow_attention for block in range(6)}, None),
)


def _pair(plants: dict[int, _Plant], seed: int) -> tuple[GPTOSS, GPTOSS]:
    """Return a model, and a copy with faults in it."""
    right = _model(seed)
    wrong = copy.deepcopy(right)
    for block, plant in plants.items():
        plant(wrong.model.layers[block])
    return right, wrong


def mystery(number: int = 0) -> tuple[GPTOSS, GPTOSS, Tensor]:
    """Return a sound model, one with a fault somewhere, and a text [B, T] that shows it.

    Args:
        number: which fault, from 0; every number has another one.
    """
    plants = (_longer_window, _softmax_first, _forgotten_bias, _one_expert, _no_sinks)
    seed = 100 + number
    block = int(torch.randint(6, (), generator=torch.Generator().manual_seed(seed)))
    if plants[number % 5] is _longer_window:
        block -= block % 2  # only these have a window
    return *_pair({block: plants[number % 5]}, seed), _tokens(seed)


@check("Every fault found, and none invented. This function has a future.")
def find_bug(answer) -> None:
    """Check a function that finds the block, and the half of it, in which two models begin to differ."""
    results = {}
    for seed, (name, plants, _) in enumerate(_CASES):
        results[name] = answer(*_pair(plants, seed), _tokens(seed))
    faults = {name: expected for name, _, expected in _CASES if expected}
    for result in results.values():
        fits = isinstance(result, tuple | list) and len(result) == 2 and result[1] in ("attention", "experts")
        expect(
            result is None or (fits and isinstance(result[0], int)),
            f'Return a tuple like (3, "experts"), with "attention" or "experts", or None; not {result!r}.',
        )
    missed = {name for name in faults if results[name] is None}
    unless(len(missed) == len(faults), "This finds nothing in models whose logits are plainly different.")
    unless(
        missed >= {"a window", "a router", "the last block"} and "a changed weight" not in missed,
        "This sees changed weights, but not a window or a router that works differently with the same "
        "weights; compare what the parts compute.",
    )
    unless(missed == {"a window"}, "The window is missed; it shows only on a text longer than the window.")
    unless(missed == {"a small fault"}, "A small fault is missed; it is still far above rounding.")
    found = {name: tuple(result) for name, result in results.items() if result is not None and name in faults}
    unless(
        all(block == faults[name][0] + 1 for name, (block, _) in found.items()),
        "All blocks are one too high: count from 0.",
    )
    unless(
        all(block == faults[name][0] for name, (block, _) in found.items())
        and all(half != faults[name][1] for name, (_, half) in found.items()),
        'The blocks are right, but "attention" and "experts" are the wrong way round.',
    )
    unless(
        all(block == faults[name][0] for name, (block, _) in found.items())
        and len({half for _, half in found.values()}) == 1,
        "The blocks are right, but the half is always the same; look between the two additions.",
    )
    unless(
        found.get("two faults", (0,))[0] in (4, 5),
        "With faults in two blocks, name the first: what comes after it gets wrong inputs.",
    )
    unless(
        all(block == 5 for block, _ in found.values()),
        "This always names the last block; all blocks after a fault differ, and the first one is to blame.",
    )
    for name, expected in faults.items():
        expect(
            results[name] is not None and tuple(results[name]) == expected,
            f"In the case of {name}, the fault is in {expected}, but your answer is {results[name]!r}.",
        )
    expect(
        results["nothing but rounding"] is None,
        "One pair of models differs by rounding only, and that is no bug; return None there.",
    )


class _LargestTensor(TorchDispatchMode):
    """Notes the largest tensor, in numbers, that comes out of any operation."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            self.numbers = max(self.numbers, value.numel() if isinstance(value, Tensor) else 0)
        return result


@check("Loss and both gradients, and never more than one chunk of logits.")
def chunked_loss(answer) -> None:
    """Check cross-entropy in chunks with gradients by hand: ignored labels, means, overflow, memory."""
    N, D, V, chunk = 45, 6, 70, 8
    generator = torch.Generator().manual_seed(15)
    hidden = torch.randn(N, D, generator=generator)
    weight = torch.randn(V, D, generator=generator)
    labels = torch.randint(V, (N,), generator=generator)
    labels[torch.rand(N, generator=generator) < 0.3] = -100
    kept = labels != -100
    count = int(kept.sum())
    with _LargestTensor() as largest:
        result = answer(hidden, weight, labels, chunk)
    expect(
        isinstance(result, tuple | list) and len(result) == 3,
        "Return three things: the loss, the gradient of hidden and the gradient of weight.",
    )
    loss, grad_hidden, grad_weight = (torch.as_tensor(value).detach() for value in result)
    expect(
        grad_hidden.shape == (N, D) and grad_weight.shape == (V, D),
        f"The gradients should have the shapes {[N, D]} and {[V, D]}, but they have "
        f"{list(grad_hidden.shape)} and {list(grad_weight.shape)}.",
    )

    def truth(hidden: Tensor, labels: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value = F.cross_entropy(h @ w.t(), labels, **options)
        return value.detach(), *torch.autograd.grad(value, (h, w))

    def near(got: Tensor, expected: Tensor) -> bool:
        return torch.allclose(got, expected, rtol=1e-4, atol=1e-5)

    right = truth(hidden, labels)
    means = torch.stack([truth(hidden[s : s + chunk], labels[s : s + chunk])[0] for s in range(0, N, chunk)])
    unless(near(loss, right[0] * count), "This is the sum of the losses; divide by the labels that count.")
    unless(
        near(loss, right[0] * count / N),
        f"The sum is divided by all {N} tokens; {count} of them have a label, and only those count.",
    )
    unless(
        near(loss, means.mean()) and not near(means.mean(), right[0]),
        "A mean of the chunks' means is not the mean: chunks have different numbers of labels.",
    )
    everyone = truth(hidden, labels.clamp(min=0))
    unless(near(loss, everyone[0]), "The label -100 is taken for a token; it says that there is none.")
    whole = N // chunk * chunk
    last = truth(hidden[:whole], labels[:whole], reduction="sum")
    unless(
        near(loss, last[0] / count), f"{N} tokens are not {N // chunk} chunks of {chunk}: the rest is lost."
    )
    expect(near(loss, right[0]), "The loss differs from F.cross_entropy's.")
    unless(
        near(grad_hidden, right[1] * count) or near(grad_weight, right[2] * count),
        "The loss is a mean, but a gradient is that of the sum; divide it too.",
    )
    unless(near(grad_hidden, -right[1]), "The gradient of hidden has the wrong sign: softmax minus one-hot.")
    unless(
        bool((grad_hidden[~kept].abs() > 1e-6).any()),
        "Tokens without a label have a gradient; theirs has to be zero.",
    )
    probabilities = (hidden @ weight.t()).softmax(-1).masked_fill(~kept[:, None], 0) / count
    unless(
        near(grad_hidden, probabilities @ weight),
        "This is the softmax without the one-hot: the right token has to be pushed up.",
    )
    expect(near(grad_hidden, right[1]), "The loss is right, but the gradient of hidden is not.")
    end = (N - 1) // chunk * chunk
    final = truth(hidden[end:], labels[end:], reduction="sum")[2] / count
    unless(near(grad_weight, final), "Only the last chunk's gradient of weight is left; add the chunks' up.")
    expect(near(grad_weight, right[2]), "The gradient of hidden is right, but that of weight is not.")
    unless(
        largest.numbers > max(chunk * V, V * D),
        f"All is right, but a tensor of {largest.numbers} numbers was made; a chunk has {chunk * V} logits.",
    )
    large = answer(100 * hidden, weight, labels, chunk)
    unless(
        not bool(torch.isfinite(torch.as_tensor(large[0]))),
        "Large logits overflow: exp(100) is too much for 32 bits; use logsumexp or log_softmax.",
    )
    expected = truth(100 * hidden, labels)
    expect(
        all(near(torch.as_tensor(got), value) for got, value in zip(large, expected, strict=True)),
        "Right for ordinary logits, but wrong for large ones.",
    )
