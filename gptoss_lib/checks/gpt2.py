"""Checks for the exercises of chapter 05: attention weights, fresh weights, counting, three bugs."""

import itertools
import math

import torch
import torch.nn.functional as F

from gptoss_lib.checks import check, expect, unless
from gptoss_lib.gpt2 import GPT2, GPT2Config, causal_attention

__all__ = ["attention_weights", "fresh_weights", "number_of_parameters", "repaired_forward"]


def _close(left, right) -> bool:
    return left.shape == right.shape and torch.allclose(left.float(), right.float(), atol=1e-5)


@check("Every query sees its own past, softly, and nothing else.")
def attention_weights(answer) -> None:
    """Compare with the definition, after trying the usual ways to get it wrong."""
    generator = torch.Generator().manual_seed(0)
    for T, S in ((5, 5), (2, 5), (1, 4)):
        query = torch.randn(T, 7, generator=generator)
        key = torch.randn(S, 7, generator=generator)
        weights = answer(query.clone(), key.clone())
        expect(
            isinstance(weights, torch.Tensor),
            f"The answer should be a tensor, not a {type(weights).__name__}.",
        )
        expect(
            weights.shape == (T, S),
            f"With T={T} and S={S} the weights should be [{T}, {S}], not {list(weights.shape)}.",
        )
        raw = query @ key.T
        scores = raw / math.sqrt(7)
        future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
        hidden = scores.masked_fill(future, -math.inf)

        unless(
            torch.isnan(weights).any(),
            "Some weights are NaN: a row of which every key is masked has no softmax.",
        )
        unless(
            _close(weights, raw.masked_fill(future, -math.inf).softmax(-1)),
            "The scores are not scaled: divide q·k by √hd.",
        )
        unless(
            _close(weights, (raw / 7).masked_fill(future, -math.inf).softmax(-1)),
            "You divide by hd; the standard deviation of a dot product is √hd.",
        )
        unless(
            T > 1 and _close(weights, hidden.softmax(0).nan_to_num()),
            "This softmax runs over the queries (columns add up to 1); it must run over the keys, dim=-1.",
        )
        unless(
            _close(weights, scores.softmax(-1).masked_fill(future, 0.0)) and future.any(),
            "You mask after the softmax, so rows no longer add up to 1: mask the scores with −inf before it.",
        )
        unless(
            future.any() and _close(weights, scores.softmax(-1)), "There is no mask: queries see later keys."
        )
        if S > T:
            first = scores.masked_fill(torch.ones(T, S, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
            unless(
                _close(weights, first),
                "Your mask lines up the first query with the first key; the queries are the last T tokens.",
            )
        unless(
            T > 1 and float(weights.diagonal(S - T).abs().max()) == 0,
            "A token does not see itself: mask only the keys after it.",
        )
        expect(
            torch.allclose(weights.sum(-1), torch.ones(T), atol=1e-5),
            "Each row of weights should add up to 1.",
        )
        unless(
            future.any() and bool(weights[future].any()),
            "A key after the query's own token has a weight above 0.",
        )
        expect(
            _close(weights, hidden.softmax(-1)),
            "The weights are not softmax(q·kᵀ / √hd) over the visible keys.",
        )


@check("These are GPT-2's fresh weights, for any depth.")
def fresh_weights(answer) -> None:
    """Ask for every parameter of two models of different depth."""
    for layers, std in ((5, 0.02), (18, 0.03)):
        config = GPT2Config(
            vocab_size=31, n_positions=9, n_embd=12, n_layer=layers, n_head=3, initializer_range=std
        )
        with torch.device("meta"):
            names = [name for name, _ in GPT2(config).named_parameters()]
        for name in names:
            mean, spread = answer(name, config)
            if name.endswith("bias"):
                expect((mean, spread) == (0, 0), f"{name}: biases start at 0, without scatter.")
            elif "ln_" in name:
                unless(
                    (mean, spread) == (0, 0),
                    f"{name}: a LayerNorm weight of 0 silences the layer; start at 1.",
                )
                expect(
                    (mean, spread) == (1, 0),
                    f"{name}: LayerNorm starts as the identity, weight 1, no scatter.",
                )
            else:
                unless(spread == 1, f"{name}: that is PyTorch's default for embeddings; GPT-2 uses {std}.")
                expect(mean == 0, f"{name}: weights are drawn around 0, not around {mean}.")
                _expect_spread(name, spread, std, layers)


def _expect_spread(name: str, spread: float, std: float, layers: int) -> None:
    writes = name.endswith("c_proj.weight")
    wanted = std / math.sqrt(2 * layers) if writes else std
    if writes:
        unless(
            math.isclose(spread, std),
            f"{name} writes to the stream, so it starts smaller; does your rule match full names like this?",
        )
        unless(
            math.isclose(spread, std / math.sqrt(layers)),
            f"{name}: each layer writes twice (attention and MLP), so the factor is 1/√(2·n_layer).",
        )
        unless(
            math.isclose(spread, std / (2 * layers)),
            f"{name}: variances add up, not standard deviations; take the square root of 2·n_layer.",
        )
    else:
        unless(
            math.isclose(spread, std / math.sqrt(2 * layers)),
            f"{name} does not write to the stream; only c_proj.weight starts smaller.",
        )
        unless(
            math.isclose(spread, 0.02) and std != 0.02,
            f"{name}: take the standard deviation from config.initializer_range ({std} here).",
        )
    expect(
        math.isclose(spread, wanted), f"{name}: the standard deviation should be {wanted:.5f}, not {spread}."
    )


@check("Every parameter counted, once.")
def number_of_parameters(answer) -> None:
    """Compare with the model itself, for configs that tell the usual slips apart."""
    configs = [
        GPT2Config(vocab_size=101, n_positions=17, n_embd=24, n_layer=3, n_head=4),
        GPT2Config(vocab_size=101, n_positions=17, n_embd=24, n_layer=3, n_head=4, n_inner=50),
        GPT2Config(vocab_size=67, n_positions=11, n_embd=30, n_layer=2, n_head=5, tie_word_embeddings=False),
    ]
    for config in configs:
        with torch.device("meta"):
            model = GPT2(config)
        right = sum(parameter.numel() for parameter in model.parameters())
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        got = answer(config)
        head = config.vocab_size * config.n_embd
        slips = {
            "The output head is the embedding table here (tied): count it once.": head
            * config.tie_word_embeddings,
            "The output head is not tied in this config: it has a table of its own.": -head
            * (not config.tie_word_embeddings),
            "The position embeddings are missing.": -sizes["wpe.weight"],
            "The final LayerNorm, ln_f, is missing.": -2 * config.n_embd,
            "The biases of the linear layers are missing.": -_total(sizes, "bias", without="ln_"),
            "A LayerNorm has a weight and a bias; you counted one of them.": -_total(
                sizes, "bias", within="ln_"
            ),
            "The LayerNorms are missing.": -_total(sizes, "", within="ln_"),
            "Attention has a fourth matrix, c_proj.": -_total(sizes, "attn.c_proj.weight"),
            "The attention's c_proj is missing, weight and bias.": -_total(sizes, "", within="attn.c_proj"),
        }
        for message, slip in slips.items():
            unless(slip and got == right + slip, message)
        if config.n_inner:
            unless(
                got
                == right + config.n_layer * (4 * config.n_embd - config.n_inner) * (2 * config.n_embd + 1),
                f"This config has n_inner={config.n_inner}; the MLP is not always four times the width.",
            )
        expect(got == right, f"{config} has {right:,} parameters, but you counted {got:,}.")


def _total(sizes: dict[str, int], ending: str, within: str = "", without: str = "\0") -> int:
    return sum(
        n for name, n in sizes.items() if name.endswith(ending) and within in name and without not in name
    )


class _Cache:
    """The smallest cache: every layer's keys and values, concatenated."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple] = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[-2] if 0 in self.layers else 0

    def update(self, layer_idx, key, value):
        if layer_idx in self.layers:
            key, value = (
                torch.cat(pair, dim=-2) for pair in zip(self.layers[layer_idx], (key, value), strict=True)
            )
        self.layers[layer_idx] = key, value
        return key, value


_BUGS = {
    "positions": "positions start at 0 even when the cache already holds tokens",
    "split": "query, key and value are cut the wrong way: c_attn gives [query | key | value], each all heads",
    "norm": "the final LayerNorm, ln_f, is missing before the output head",
}


def _forward(model, input_ids, cache, bugs: frozenset):
    """GPT-2 with any of the three bugs."""
    B, T = input_ids.shape
    past = 0 if cache is None or "positions" in bugs else cache.length
    x = model.wte(input_ids) + model.wpe(torch.arange(past, past + T))
    for block in model.h:
        attn = block.attn
        fused = attn.c_attn(block.ln_1(x))
        if "split" in bugs:
            parts = fused.view(B, T, attn.n_head, -1).transpose(1, 2).split(attn.head_dim, dim=-1)
        else:
            parts = [
                part.view(B, T, attn.n_head, attn.head_dim).transpose(1, 2) for part in fused.chunk(3, dim=-1)
            ]
        query, key, value = parts
        if cache is not None:
            key, value = cache.update(attn.layer_idx, key, value)
        mixed = causal_attention(query, key, value)
        x = x + attn.c_proj(mixed.transpose(1, 2).reshape(B, T, -1))
        x = x + block.mlp(block.ln_2(x))
    return F.linear(x if "norm" in bugs else model.ln_f(x), model.wte.weight)


@check("All three bugs are gone.")
def repaired_forward(answer) -> None:
    """Compare, with and without a cache, with every combination of the three bugs."""
    torch.manual_seed(0)
    model = GPT2(
        GPT2Config(vocab_size=37, n_positions=11, n_embd=20, n_layer=2, n_head=4, initializer_range=0.3)
    )
    for name, parameter in model.named_parameters():
        if "ln_" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    ids = torch.randint(37, (3, 11))
    with torch.no_grad():
        got = answer(model, ids)
        expect(isinstance(got, torch.Tensor), "The answer should be a tensor of logits.")
        expect(got.shape == (3, 11, 37), f"The logits should be [3, 11, 37], not {list(got.shape)}.")
        cache = _Cache()
        answer(model, ids[:, :7], cache)
        expect(
            cache.length == 7,
            f"After 7 tokens the cache holds {cache.length}: pass keys and values to cache.update.",
        )
        cached = answer(model, ids[:, 7:], cache)
        for count in (1, 2, 3):
            for bugs in map(frozenset, itertools.combinations(_BUGS, count)):
                other = _Cache()
                _forward(model, ids[:, :7], other, bugs)
                same = _close(cached, _forward(model, ids[:, 7:], other, bugs))
                unless(
                    same and _close(got, _forward(model, ids, None, bugs)),
                    "Still wrong: " + "; ".join(_BUGS[name] for name in _BUGS if name in bugs) + ".",
                )
        expect(
            _close(got, model(ids)),
            "The logits differ from the model's own; go through the forward pass in order.",
        )
        expect(_close(cached, model(ids)[:, 7:]), "Right without a cache, but wrong with one.")
