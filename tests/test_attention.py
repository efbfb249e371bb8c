"""Attention with sinks: fast equals slow, forward and backward, and the block in all its settings."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_lib import attention
from gptoss_lib.attention import Attention, sink_attention, sink_attention_reference
from gptoss_lib.config import PRESETS, GPTOSSConfig, parameter_shapes
from gptoss_lib.masks import attention_mask, padded_positions
from gptoss_lib.rope import RotaryEmbedding

B, H, KV, hd = 3, 6, 2, 8


def inputs(T, S=None, kv=KV, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, H, T, hd), (B, kv, S or T, hd), (B, kv, S or T, hd), (H,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def run(function, tensors, **options):
    """The output, and the gradients of everything that has one."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    out = function(*leaves, **options)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def assert_same(tensors, tolerance=1e-5, **options):
    fast = run(sink_attention, tensors, **options)
    slow = run(sink_attention_reference, tensors, **options)
    assert len(fast) == len(slow)
    for a, b in zip(fast, slow, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
    return fast


def by_loops(query, key, value, sinks, window):
    """The definition, a query at a time, in 64 bits."""
    query, key, value, sinks = (x.double() for x in (query, key, value, sinks))
    out, late = torch.zeros_like(query), key.shape[2] - query.shape[2]
    for b in range(query.shape[0]):
        for h in range(H):
            group = h // (H // key.shape[1])
            for t in range(query.shape[2]):
                first = 0 if window is None else max(0, late + t - window + 1)
                seen = slice(first, late + t + 1)
                scores = key[b, group, seen] @ query[b, h, t] / math.sqrt(hd)
                share = torch.cat((scores, sinks[h : h + 1])).softmax(0)[:-1]
                out[b, h, t] = share @ value[b, group, seen]
    return out


@pytest.mark.parametrize("window", [None, 1, 4, 30])
@pytest.mark.parametrize(("T", "S"), [(19, 19), (3, 19), (1, 19)])
def test_both_versions_follow_the_definition(T, S, window):
    tensors = inputs(T, S)
    expected = by_loops(*tensors, window).float()
    for function in (sink_attention_reference, sink_attention):
        torch.testing.assert_close(function(*tensors, window=window), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv", [1, 2, 6])
@pytest.mark.parametrize(
    ("T", "S", "window"),
    [
        (1, 1, None),
        (2, 2, 1),
        (37, 37, None),
        (37, 37, 40),
        (37, 37, 37),
        (37, 37, 36),
        (37, 37, 9),  # T ≥ 4W, and not a multiple of W: bands
        (36, 36, 9),
        (35, 35, 9),  # T < 4W: a mask
        (37, 37, 1),
        (5, 37, None),
        (5, 37, 3),
        (36, 37, 4),
        (1, 37, None),
        (1, 37, 6),
    ],
)
def test_fast_equals_slow(T, S, window, kv):
    assert_same(inputs(T, S, kv), window=window)


@pytest.mark.parametrize("window", [None, 7])
def test_without_a_sink(window):
    query, key, value, _ = inputs(31)
    fast = assert_same([query, key, value, None], window=window)
    line = torch.arange(31)
    theirs = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask(line, line, window), enable_gqa=True
    )
    torch.testing.assert_close(fast[0], theirs, atol=1e-5, rtol=1e-5)
    at_minus_infinity = assert_same([query, key, value, torch.full((H,), -math.inf)], window=window)
    for a, b in zip(fast, at_minus_infinity, strict=False):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    assert at_minus_infinity[-1].abs().max() == 0, "a sink that takes nothing learns nothing"


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("sink", [-30.0, 5.0, 30.0, 1e4])
def test_sinks_of_any_size(sink, window):
    query, key, value, _ = inputs(31)
    results = assert_same([query, key, value, torch.full((H,), sink)], window=window)
    assert all(x.isfinite().all() for x in results)
    if sink == 1e4:
        assert all(x.abs().max() == 0 for x in results), "all mass is gone, and so are all gradients"


def test_large_scores():
    query, key, value, sinks = inputs(33)
    for window in (None, 6):
        results = assert_same([40 * query, 5 * key, value, 20 * sinks], 1e-3, window=window)
        assert all(x.isfinite().all() for x in results)


@pytest.mark.parametrize("window", [None, 7])
def test_bfloat16(window):
    exact = run(sink_attention_reference, inputs(31), window=window)
    rounded = run(sink_attention, inputs(31, dtype=torch.bfloat16), window=window)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.bfloat16
        assert (a - b.float()).norm() < 2e-2 * a.norm()


def test_sinks_may_stay_fp32_beside_bfloat16():
    query, key, value, sinks = inputs(31)
    half = [query.bfloat16(), key.bfloat16(), value.bfloat16(), sinks]
    for function in (sink_attention, sink_attention_reference):
        out, *_, grad_sinks = run(function, half)
        assert out.dtype == torch.bfloat16 and grad_sinks.dtype == torch.float32


@pytest.mark.parametrize("window", [None, 2])
def test_gradients_by_finite_differences(window):
    leaves = [
        x[:1].requires_grad_() if x.dim() == 4 else x.requires_grad_() for x in inputs(9, dtype=torch.float64)
    ]
    assert torch.autograd.gradcheck(lambda *qkvs: sink_attention(*qkvs, window=window), leaves)


def test_the_gradient_of_a_sink():
    query, key, value, sinks = inputs(21)
    out, *_, grad_sinks = run(sink_attention, [query, key, value, sinks])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    spent = 1 - sink_attention_reference(query, key, torch.ones_like(value), sinks)[..., 0]
    expected = -(spent * (upstream * out).sum(-1)).sum((0, 2))
    torch.testing.assert_close(grad_sinks, expected, atol=1e-5, rtol=1e-5)


def test_any_mask():
    line = torch.arange(23)
    documents = torch.stack([line // 5, line // 23, line // 9])
    positions = padded_positions(torch.stack([line >= 4, line >= 0, line >= 11]))
    ring = (line + 7) % 23
    for mask in (
        attention_mask(line, line, None, documents, documents),
        attention_mask(line, line, 4, documents, documents),
        attention_mask(positions, positions, 6),
        attention_mask(line, ring, 6),
    ):
        results = assert_same(inputs(23), mask=mask)
        assert all(x.isfinite().all() for x in results)


def test_a_query_that_sees_nothing_spends_all_on_the_sink():
    mask = torch.ones(5, 5).tril().bool()
    mask[2] = False
    for function in (sink_attention, sink_attention_reference):
        out, *grads = run(function, inputs(5), mask=mask)
        assert out[:, :, 2].abs().max() == 0
        assert all(grad.isfinite().all() for grad in grads)
        without = run(function, [*inputs(5)[:3], None], mask=mask)
        assert all(x.isfinite().all() for x in without)


def test_layouts_of_memory():
    query, key, value, sinks = inputs(29)
    expected = sink_attention_reference(query, key, value, sinks, window=5)
    for change in (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # as it comes out of a linear layer
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack((x, x), dim=-1)[..., 0],
    ):
        changed = [change(x) for x in (query, key, value)]
        torch.testing.assert_close(sink_attention(*changed, sinks, window=5), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            sink_attention(*changed, sinks),
            sink_attention_reference(query, key, value, sinks),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize(("T", "window"), [(37, None), (37, 5), (20, 9)])
def test_a_kernel_that_cannot_share_keys(monkeypatch, T, window):
    monkeypatch.setattr(attention, "_KERNEL_SHARES_KEYS", False)
    assert_same(inputs(T), window=window)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("window", [None, 5, 40])
def test_a_single_query_under_the_compiler(window, sinks, masked):
    query, key, value, sink = inputs(1, 40, dtype=torch.float64)
    sink = sink if sinks else None
    options = {"window": window}
    if masked:
        options = {"mask": attention_mask(torch.tensor([17]), torch.arange(40).roll(3), window)}
    compiled = torch.compile(sink_attention, backend="eager", dynamic=False)
    expected = sink_attention_reference(query, key, value, sink, **options)
    torch.testing.assert_close(compiled(query, key, value, sink, **options), expected, atol=1e-12, rtol=1e-12)


def test_other_devices_take_the_reference():
    out = sink_attention(*(x.to("meta") for x in inputs(40)), window=5)
    assert out.shape == (B, H, 40, hd)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest piece of memory that any operation returned, in bytes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor):
                self.largest = max(self.largest, result.untyped_storage().nbytes())
        return results


@pytest.mark.parametrize("window", [None, 16])
def test_no_table_of_scores_is_ever_stored(window):
    tensors = inputs(512)
    with LargestTensor() as memory:
        run(sink_attention, tensors, window=window)
    # Bands hold each key twice; with 6 query heads on 2 key heads that is still less than the queries.
    assert memory.largest <= 1.1 * tensors[0].nbytes
    with LargestTensor() as memory:
        run(sink_attention_reference, tensors, window=window)
    assert memory.largest >= B * H * 512 * 512 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(1, 5, 4, hd)}, "5 query heads cannot share 2"),
        ({"sinks": torch.zeros(KV)}, "one for each of 6 query heads"),
        ({"window": 3, "mask": torch.ones(4, 4).bool()}, "a mask is given too"),
        ({"mask": torch.ones(4, 3).bool()}, r"mask is for \[4, 3\]"),
        ({"key": torch.zeros(1, KV, 3, hd), "value": torch.zeros(1, KV, 3, hd)}, "4 queries but only 3 keys"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_clear_errors(change, message):
    key = torch.zeros(1, KV, 4, hd)
    arguments = {
        "query": torch.zeros(1, H, 4, hd),
        "key": key,
        "value": key,
        "sinks": torch.zeros(H),
    } | change
    for function in (sink_attention, sink_attention_reference):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


# The block. D, F, H·hd, KV·hd and the vocabulary all differ.
CONFIG = GPTOSSConfig(
    vocab_size=61,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=H,
    num_key_value_heads=KV,
    head_dim=hd,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=5,
    rope_scaling=None,
    rope_theta=1_000.0,
)
BOTH_KINDS = pytest.mark.parametrize("layer_idx", [0, 1], ids=["sliding", "full"])


def build(layer_idx, config=CONFIG, seed=0):
    torch.manual_seed(seed)
    block = Attention(config, layer_idx)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return block, RotaryEmbedding(config.head_dim, config.rope_theta, config.rope_scaling)


def stream(T, batch=B, seed=5):
    return torch.randn(batch, T, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))


class ToyCache:
    """Keys and values in a row, or in any order that ``reorder`` gives, with empty slots."""

    def __init__(self, reorder=False):
        self.reorder, self.stored, self.order = reorder, {}, {}

    def update(self, layer_idx, key, value):
        if layer_idx in self.stored:
            key, value = (
                torch.cat(pair, 2) for pair in zip(self.stored[layer_idx], (key, value), strict=True)
            )
        self.stored[layer_idx] = key, value
        if not self.reorder:
            return key, value
        order = torch.randperm(key.shape[2] + 2, generator=torch.Generator().manual_seed(key.shape[2]))
        self.order[layer_idx] = torch.where(order < key.shape[2], order, -1)
        return tuple(F.pad(x, (0, 0, 0, 2), value=7.0)[:, :, order] for x in (key, value))

    def key_positions(self, layer_idx):
        return self.order.get(layer_idx)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_have_the_names_and_shapes_of_the_config(preset):
    config = PRESETS[preset]
    with torch.device("meta"):
        block = Attention(config, 0)
    prefix = "model.layers.0.self_attn."
    expected = {
        name.removeprefix(prefix): shape
        for name, shape in parameter_shapes(config).items()
        if name.startswith(prefix)
    }
    assert {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()} == expected


def test_the_window_follows_the_layer_type():
    assert [Attention(CONFIG, i).window for i in range(3)] == [5, None, 5]
    swapped = replace(CONFIG, layer_types=("full_attention", "sliding_attention", "full_attention"))
    assert [Attention(swapped, i).window for i in range(3)] == [None, 5, None]
    for layer_idx in (-1, 3):
        with pytest.raises(ValueError, match=f"layer_idx is {layer_idx}"):
            Attention(CONFIG, layer_idx)


def test_what_each_token_hears():
    for layer_idx, last in ((0, 14), (1, 22)):
        block, rope = build(layer_idx)
        x, angles = stream(23), rope(torch.arange(23))
        changed = x.clone()
        changed[:, 10] += 1
        heard = (block(x, angles) - block(changed, angles)).abs().amax((0, 2)) > 1e-6
        assert heard.nonzero().flatten().tolist() == list(range(10, last + 1))


def test_fresh_weights():
    config = replace(
        CONFIG, hidden_size=400, num_attention_heads=60, num_key_value_heads=20, initializer_range=0.05
    )
    torch.manual_seed(0)
    block = Attention(config, 0)
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        else:
            assert 0.035 < parameter.std() < 0.065, name
    with torch.device("meta"):
        empty = Attention(config, 0)
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(math.nan)
    torch.manual_seed(0)
    empty.reset_parameters()
    for mine, theirs in zip(empty.parameters(), block.parameters(), strict=True):
        assert mine.isfinite().all() and mine.shape == theirs.shape
    assert 0.035 < empty.sinks.std() < 0.065


@BOTH_KINDS
@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)], ids=str)
@pytest.mark.parametrize("sinks", [True, False])
def test_the_block_against_pytorch(layer_idx, biases, sinks):
    config = replace(CONFIG, attention_bias=biases[0], attention_out_bias=biases[1], attention_sinks=sinks)
    block, rope = build(layer_idx, config)
    T = 23
    x, (cos, sin) = stream(T), rope(torch.arange(T))
    weights = block.state_dict()

    def project(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def turned(x):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    query, key, value = (
        project(f"{name}_proj", x).view(B, T, -1, hd).transpose(1, 2) for name in ("q", "k", "v")
    )
    scores = turned(query) @ turned(key).repeat_interleave(H // KV, 1).mT / hd**0.5
    near = torch.ones(T, T).tril() - torch.ones(T, T).tril(-5 if layer_idx == 0 else -T)
    exps = scores.exp() * near
    total = exps.sum(-1, keepdim=True) + (weights["sinks"].exp().view(H, 1, 1) if sinks else 0)
    mixed = (exps / total) @ value.repeat_interleave(H // KV, 1)
    expected = project("o_proj", mixed.transpose(1, 2).reshape(B, T, H * hd))
    torch.testing.assert_close(block(x, (cos, sin)), expected, atol=1e-5, rtol=1e-5)


@BOTH_KINDS
@pytest.mark.parametrize("reorder", [False, True], ids=["in a row", "in any order"])
@pytest.mark.parametrize("pieces", [(1,) * 13, (4, 5, 1, 1, 2), (9, 14), (22, 1)], ids=str)
def test_a_cache_changes_nothing(layer_idx, reorder, pieces):
    block, rope = build(layer_idx)
    T = sum(pieces)
    x, positions = stream(T), torch.arange(T)
    expected = block(x, rope(positions))
    cache, start, got = ToyCache(reorder), 0, []
    for length in pieces:
        at = positions[start : start + length]
        got.append(block(x[:, at], rope(at), position_ids=at, cache=cache))
        start += length
    torch.testing.assert_close(torch.cat(got, 1), expected, atol=1e-5, rtol=1e-5)


@BOTH_KINDS
def test_padding_changes_nothing(layer_idx):
    block, rope = build(layer_idx)
    x = stream(14)
    real = torch.arange(14) >= torch.tensor([[0], [3], [9]])
    positions = padded_positions(real)
    together = block(x, rope(positions.clamp(min=0)), position_ids=positions)
    assert together.isfinite().all()
    for row, first in enumerate((0, 3, 9)):
        alone = block(x[row : row + 1, first:], rope(torch.arange(14 - first)))
        torch.testing.assert_close(together[row : row + 1, first:], alone, atol=1e-5, rtol=1e-5)


@BOTH_KINDS
def test_packed_documents_do_not_hear_each_other(layer_idx):
    block, rope = build(layer_idx)
    x, line = stream(25), torch.arange(25)
    ends = ((8, 10, 25), (25,), (1, 25))
    documents = torch.stack([sum((line >= end).long() for end in row) for row in ends])
    packed = block(x, rope(line), documents=documents)
    restarted = line - torch.stack(
        [torch.tensor([max((0, *(e for e in row if e <= i))) for i in range(25)]) for row in ends]
    )
    also = block(x, rope(restarted), position_ids=restarted, documents=documents)
    torch.testing.assert_close(packed, also, atol=1e-5, rtol=1e-5)
    for row, stops in enumerate(ends):
        for start, stop in zip((0, *stops), stops, strict=False):
            alone = block(x[row : row + 1, start:stop], rope(torch.arange(stop - start)))
            torch.testing.assert_close(packed[row : row + 1, start:stop], alone, atol=1e-5, rtol=1e-5)


def test_calls_that_make_no_sense():
    block, rope = build(0)
    x, angles = stream(4), rope(torch.arange(4))
    with pytest.raises(ValueError, match="do not go together"):
        block(x, angles, documents=torch.zeros(B, 4, dtype=torch.int64), cache=ToyCache())
    with pytest.raises(ValueError, match="pass position_ids"):
        block(x, angles, cache=ToyCache(reorder=True))


@BOTH_KINDS
def test_autocast(layer_idx):
    block, rope = build(layer_idx)
    x, angles = stream(23), rope(torch.arange(23))
    exact = block(x, angles)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = block(x, angles)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 3e-2 * exact.norm()
    rounded.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
