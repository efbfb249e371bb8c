"""The cache: cached equals uncached around the window, rings, padding, memory, and clear errors."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gptoss_lib.attention import Attention
from gptoss_lib.cache import KVCache, LayerCache, ring_tokens
from gptoss_lib.config import PRESETS, GPTOSSConfig, kv_cache_bytes
from gptoss_lib.generation import generate
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.masks import padded_positions
from gptoss_lib.rope import RotaryEmbedding

B, H, KV, hd, D, W = 3, 6, 2, 8, 40, 5
CONFIG = GPTOSSConfig(
    vocab_size=50,
    hidden_size=D,
    intermediate_size=56,
    num_hidden_layers=4,
    num_attention_heads=H,
    num_key_value_heads=KV,
    head_dim=hd,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=W,
    rope_scaling=None,
    rope_theta=10_000.0,
    initializer_range=0.15,
)
AROUND = (1, 2, W - 1, W, W + 1, 2 * W - 1, 2 * W, 2 * W + 1, 3 * W, 6 * W + 2)


class Stack(nn.Module):
    """Alternating sliding and full attention layers, whose positions come from the cache."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Attention(config, i) for i in range(config.num_hidden_layers))
        self.rope = RotaryEmbedding(config.head_dim, config.rope_theta)

    def forward(self, x, cache=None, position_ids=None):
        if cache is not None:
            position_ids = cache.positions(x.shape[1])
        at = torch.arange(x.shape[1]) if position_ids is None else position_ids.clamp(min=0)
        for layer in self.layers:
            # Scaled down, so that an error of 1e-5 means the same in every layer.
            x = x + layer(x, self.rope(at), position_ids=position_ids, cache=cache) / 2
        return x


def build(**changes):
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)
    stack = Stack(config).eval().requires_grad_(False)
    for layer in stack.layers:
        if layer.sinks is not None:
            layer.sinks.normal_(std=1.5)
    return stack, config


def stream(length, rows=B):
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(length))


def in_pieces(stack, x, sizes, cache):
    return torch.cat([stack(piece, cache) for piece in x.split(sizes, dim=1)], dim=1)


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sinks", [True, False], ids=["sinks", "no sinks"])
@pytest.mark.parametrize("length", AROUND)
def test_a_cache_changes_nothing_for_any_length_and_chunk(length, sinks):
    stack, config = build(attention_sinks=sinks)
    x = stream(length)
    expected = stack(x)
    for chunk in range(1, min(length, 3 * W + 1) + 1):
        cache = KVCache.from_config(config, B, length)
        assert_close(in_pieces(stack, x, chunk, cache), expected)
        assert cache.length == length


@pytest.mark.parametrize("prompt", AROUND)
def test_prefill_then_one_by_one_over_several_windows(prompt):
    stack, config = build()
    length = prompt + 4 * W + 3
    x = stream(length)
    cache = KVCache.from_config(config, B, length + 7)  # room that is never used
    assert_close(in_pieces(stack, x, [prompt] + [1] * (length - prompt), cache), stack(x))


@pytest.mark.parametrize(
    "sizes", [(1, 3, 1, 9, 1, 1, 6, 2), (W, 1, W, 1, W), (17, 2, 1, 12), (4, 4, 1, 1, 20)]
)
@pytest.mark.parametrize("window", [1, 2, W, 50])
def test_mixed_chunks_for_every_window(sizes, window):
    stack, config = build(sliding_window=window)
    x = stream(sum(sizes))
    cache = KVCache.from_config(config, B, sum(sizes))
    assert_close(in_pieces(stack, x, list(sizes), cache), stack(x))


@pytest.mark.parametrize("heads", [(6, 6), (6, 1), (4, 2)], ids=str)
def test_other_groups_of_heads(heads):
    stack, config = build(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    x = stream(3 * W + 1)
    cache = KVCache.from_config(config, B, 3 * W + 1)
    assert_close(in_pieces(stack, x, [W + 2, 1, 1, 4, 3], cache), stack(x))


@pytest.mark.parametrize("sizes", [(11, *[1] * 20), (4, 7, *[1] * 20), (3,) * 10 + (1,), (31,)], ids=str)
@pytest.mark.parametrize("padding", [(0, 4, 9), (2, 0, 10), (3, 3, 3)], ids=str)
def test_unequal_prompts(padding, sizes):
    stack, config = build()
    x, rows = stream(31), torch.tensor(padding)
    cache = KVCache.from_config(config, B, 31, padding=rows)
    got = in_pieces(stack, x, list(sizes), cache)
    assert got.isfinite().all()
    for row, first in enumerate(padding):
        assert_close(got[row : row + 1, first:], stack(x[row : row + 1, first:]))


def test_padding_agrees_with_padded_positions():
    padding = torch.tensor([0, 4, 9])
    is_token = torch.arange(12) >= padding.unsqueeze(-1)
    cache = KVCache.from_config(CONFIG, B, 12, padding=padding)
    assert torch.equal(cache.positions(12).clamp(min=-1), padded_positions(is_token))


def test_positions_start_where_the_cache_ends():
    cache = KVCache.from_config(CONFIG, B, 20)
    assert cache.positions(3).tolist() == [0, 1, 2]
    stack, _ = build()
    stack(stream(7), cache)
    assert cache.positions(2).tolist() == [7, 8]
    cache.reset(torch.tensor([0, 1, 2]))
    assert cache.positions(2).tolist() == [[0, 1], [-1, 0], [-2, -1]]


@pytest.mark.parametrize("slots", [1, 2, W, 9])
def test_ring_tokens_equals_a_replay(slots):
    holds = [None] * slots
    for length in range(4 * slots + 2):
        got = ring_tokens(length, slots).tolist()
        assert [token if token >= 0 else None for token in got] == holds
        holds[length % slots] = length


@pytest.mark.parametrize("slots", [1, 2, W, 9, 40])
def test_a_layer_returns_exactly_what_its_queries_see(slots):
    """Nobody's window is cut, nothing is returned that no query sees, and ``tokens`` names the keys."""
    layer, start = LayerCache(B, slots, KV, hd), 0
    memory = layer.keys.data_ptr(), layer.values.data_ptr()
    for count in (3, 1, 1, 1, 7, 2, 1, 1, 12, 1, 9):
        new = torch.arange(start, start + count).float().view(1, 1, -1, 1).expand(B, KV, -1, hd)
        key, value = layer.update(new, -new)
        assert key.shape == value.shape == (B, KV, len(layer.tokens()), hd)
        assert torch.equal(key[1, 1, :, 3].long(), layer.tokens()) and torch.equal(key, -value)
        first = max(0, start - slots + 1)
        assert layer.tokens().sort().values.tolist() == list(range(first, start + count))
        if count > 1:
            assert layer.tokens().diff().eq(1).all(), "a chunk's keys stand in a row"
        start += count
        held = layer.keys[0, 0, :, 0].long()[: min(start, slots)]
        assert held.tolist() == ring_tokens(start, slots)[: min(start, slots)].tolist()
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) == memory, "preallocated, and never replaced"


def test_key_positions_are_none_without_padding():
    cache = KVCache.from_config(CONFIG, B, 20)
    stack, _ = build()
    for count in (8, 1):
        stack(stream(count), cache)
        assert all(cache.key_positions(i) is None for i in range(4))


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b", "compact", "nano"])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 4096])
def test_memory_is_that_of_the_formula(name, length):
    config = PRESETS[name]
    for dtype, size in ((torch.bfloat16, 2), (torch.float32, 4)):
        cache = KVCache.from_config(config, 3, length, device="meta", dtype=dtype)
        assert cache.nbytes == kv_cache_bytes(config, length, 3, size)


def test_memory_is_really_taken_and_does_not_grow():
    stack, config = build()
    cache = KVCache.from_config(config, B, 30)
    expected = kv_cache_bytes(config, 30, B, 4)
    storages = [t.untyped_storage().nbytes() for layer in cache.layers for t in (layer.keys, layer.values)]
    assert sum(storages) == cache.nbytes == expected
    in_pieces(stack, stream(30), [11, 1, 18], cache)
    assert cache.nbytes == expected
    assert [layer.slots for layer in cache.layers] == [W, 30, W, 30]


def test_a_full_context_is_an_error_that_changes_nothing():
    stack, config = build()
    x = stream(12)
    cache = KVCache.from_config(config, B, 12)
    first = in_pieces(stack, x[:, :11], [8, 3], cache)
    with pytest.raises(
        ValueError, match=r"holds 11 tokens and 2 more do not fit into max_length=12; shorten"
    ):
        stack(x[:, :2], cache)
    assert cache.length == 11
    assert_close(torch.cat((first, stack(x[:, 11:], cache)), 1), stack(x))
    with pytest.raises(ValueError, match="holds 12 tokens and 1 more"):
        stack(x[:, :1], cache)


def test_length_counts_a_token_when_all_layers_have_it():
    cache = KVCache(B, 20, 3, KV, hd, windows=[W, None, 2])
    key = torch.zeros(B, KV, 9, hd)
    for layer_idx, length in ((0, 0), (1, 0), (2, 9)):
        cache.update(layer_idx, key, key)
        assert cache.length == length


def test_a_step_that_stopped_half_way_is_noticed():
    stack, config = build()
    cache = KVCache.from_config(config, B, 20)
    key = torch.zeros(B, KV, 2, hd)
    cache.update(0, key, key)
    with pytest.raises(ValueError, match=r"Layer 0 holds 2 tokens, but another layer only 0.*reset"):
        stack(stream(4), cache)
    cache.reset()
    assert_close(stack(stream(4), cache), stack(stream(4)))


def test_reset_forgets_everything_and_keeps_the_memory():
    stack, config = build()
    cache = KVCache.from_config(config, B, 20, padding=torch.tensor([1, 0, 3]))
    memory = cache.layers[0].keys.data_ptr()
    in_pieces(stack, stream(20), [9, 1, 1, 9], cache)
    cache.reset()
    assert cache.length == 0 and cache.layers[0].keys.data_ptr() == memory
    x = stream(13)
    assert_close(in_pieces(stack, x, [3, *[1] * 10], cache), stack(x))


def test_no_gradient_flows_through_a_cache():
    stack, config = build()
    cache = KVCache.from_config(config, B, 20)
    for count in (3, 1, 9, 1):
        stack(stream(count).requires_grad_(), cache)
    assert not any(layer.keys.requires_grad or layer.values.requires_grad for layer in cache.layers)


def test_dtype_and_device_are_arguments():
    cache = KVCache.from_config(CONFIG, B, 20, device="meta", dtype=torch.bfloat16)
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            assert tensor.dtype == torch.bfloat16 and tensor.device.type == "meta"
    stack, config = build()
    x = stream(14).bfloat16()
    stack.layers.bfloat16()
    cache = KVCache.from_config(config, B, 14, dtype=torch.bfloat16)
    got = torch.cat([stack(piece, cache) for piece in x.split([7, 1, 6], 1)], 1)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, stack(x), atol=5e-2, rtol=5e-2)


def gpt2():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=90, n_positions=60, n_embd=48, n_layer=3, n_head=6, initializer_range=0.25)
    return GPT2(config).eval().requires_grad_(False)


def gpt2_cache(model, rows):
    c = model.config
    return KVCache(rows, c.n_positions, c.n_layer, c.n_head, c.head_dim)


@pytest.mark.parametrize("sizes", [(41,), (17, 24), (1,) * 41, (9, 1, 1, 30)], ids=str)
def test_gpt2_with_a_cache_has_the_same_logits(sizes):
    model = gpt2()
    ids = torch.randint(90, (B, 41), generator=torch.Generator().manual_seed(2))
    cache = gpt2_cache(model, B)
    got = torch.cat([model(piece, cache) for piece in ids.split(list(sizes), 1)], 1)
    assert_close(got, model(ids))


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"seed": 3, "top_k": 20}], ids=["greedy", "sampled"]
)
def test_generate_with_a_cache_writes_the_same_and_reads_less(settings):
    model = gpt2()
    prompt = torch.randint(90, (2, 7), generator=torch.Generator().manual_seed(4))
    read = []
    model.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))
    without = generate(model, prompt, 50, **settings)
    assert sum(read) == 50 * 7 + 50 * 49 // 2
    read.clear()
    cached = generate(model, prompt, 50, cache=gpt2_cache(model, 2), **settings)
    assert torch.equal(cached, without) and len(set(cached[0].tolist())) > 5
    assert read == [7] + [1] * 49


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": -1}, "max_length is -1"),
        ({"head_dim": 2.5}, r"head_dim is 2\.5"),
        ({"num_layers": 0, "windows": None}, "num_layers is 0"),
        ({"windows": [W, None]}, "2 windows for 3 layers"),
        ({"windows": [W, 0, None]}, "window is 0"),
        ({"padding": torch.tensor([1, 2])}, r"padding is \[1, 2\].*each of 3 texts"),
        ({"padding": torch.tensor([1, -2, 0])}, "0 or more"),
        ({"padding": torch.tensor([1.0, 2.0, 0.0])}, "whole number"),
    ],
    ids=str,
)
def test_a_cache_that_cannot_be_built(changes, message):
    arguments = {
        "batch_size": B,
        "max_length": 20,
        "num_layers": 3,
        "num_key_value_heads": KV,
        "head_dim": hd,
        "windows": [W, None, W],
    }
    with pytest.raises(ValueError, match=message):
        KVCache(**arguments | changes)


def test_tensors_that_do_not_fit():
    cache = KVCache(B, 20, 3, KV, hd)
    good = torch.zeros(B, KV, 4, hd)
    for key, value in (
        (good[:2], good[:2]),
        (good[:, :1], good[:, :1]),
        (good, good[:, :, :3]),
        (good[..., :5],) * 2,
    ):
        with pytest.raises(ValueError, match="build it for this model and batch"):
            cache.update(0, key, value)
    with pytest.raises(ValueError, match=r"bfloat16.*holds torch\.float32"):
        cache.update(0, good.bfloat16(), good.bfloat16())
    for layer_idx in (-1, 3):
        with pytest.raises(ValueError, match=f"layer_idx is {layer_idx}, but this cache has 3 layers"):
            cache.update(layer_idx, good, good)
    assert cache.length == cache.layers[0].length == 0
