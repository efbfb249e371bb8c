"""GPT-2: attention, initialisation, counts, the cache's seam, and the published layout."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gptoss_lib.gpt2 import (
    GPT2,
    GPT2Attention,
    GPT2Block,
    GPT2Config,
    attention_reference,
    causal_attention,
    from_huggingface,
    to_huggingface,
)
from tests.growing_cache import GrowingCache

SIZES = {"vocab_size": 53, "n_positions": 19, "n_embd": 30, "n_layer": 3, "n_head": 5, "n_inner": 44}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(**SIZES, initializer_range=0.3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("T, S", [(7, 7), (3, 11), (1, 6), (1, 1)])
def test_fast_attention_equals_the_reference_and_its_gradients(T, S):
    generator = torch.Generator().manual_seed(T * 100 + S)
    inputs = [3 * torch.randn(2, 3, n, 5, generator=generator) for n in (T, S, S)]
    upstream = torch.randn(2, 3, T, 5, generator=generator)
    outputs, gradients = [], []
    for function in (attention_reference, causal_attention):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = function(*leaves)
        out.backward(upstream)
        outputs.append(out.detach())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)
    for fast, slow in zip(*gradients[::-1], strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_reference_equals_a_loop_over_queries():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 8, 8))
    for row in range(3):
        visible = 8 - 3 + row + 1
        exponentials = [math.exp(float(query[row] @ key[j]) / math.sqrt(6)) for j in range(visible)]
        wanted = sum(e * value[j] for j, e in enumerate(exponentials)) / sum(exponentials)
        got = attention_reference(query[None, None], key[None, None], value[None, None])[0, 0, row]
        torch.testing.assert_close(got, wanted)


def test_large_scores_do_not_overflow():
    query = key = 1e3 * torch.ones(1, 1, 4, 8)
    value = torch.arange(4.0).view(1, 1, 4, 1).expand(-1, -1, -1, 8)
    for function in (attention_reference, causal_attention):
        torch.testing.assert_close(
            function(query, key, value)[0, 0, :, 0], torch.tensor([0.0, 0.5, 1.0, 1.5])
        )


def test_nothing_sees_the_future(model):
    ids = torch.randint(53, (2, 19), generator=torch.Generator().manual_seed(2))
    for position in (1, 9, 18):
        other = ids.clone()
        other[:, position] = (other[:, position] + 1) % 53
        before, after = model(ids), model(other)
        torch.testing.assert_close(before[:, :position], after[:, :position])
        assert (before[:, position:] - after[:, position:]).abs().amax(dim=(0, 2)).min() > 1e-4


def test_rows_of_a_batch_are_independent(model):
    ids = torch.randint(53, (4, 13), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(ids)[2:3], model(ids[2:3]))


@pytest.mark.parametrize("pieces", [[19], [1] * 19, [7, 1, 1, 10], [3, 16]])
def test_cache_gives_the_same_logits(model, pieces):
    ids = torch.randint(53, (2, 19), generator=torch.Generator().manual_seed(4))
    cache, outputs = GrowingCache(), []
    for piece in ids.split(pieces, dim=1):
        outputs.append(model(piece, cache))
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(ids), atol=1e-4, rtol=1e-4)
    assert sorted(cache.layers) == [0, 1, 2]


def test_too_long_a_text_is_refused_also_through_the_cache(model):
    assert model(torch.zeros(1, 19, dtype=torch.long)).shape == (1, 19, 53)
    with pytest.raises(ValueError, match=r"20 tokens.*n_positions=19"):
        model(torch.zeros(1, 20, dtype=torch.long))
    cache = GrowingCache()
    model(torch.zeros(1, 18, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="n_positions"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)


def test_block_is_pre_norm():
    torch.manual_seed(5)
    block = GPT2Block(GPT2Config(**SIZES), layer_idx=0)
    x = torch.randn(2, 7, 30)
    with torch.no_grad():
        middle = x + block.attn(block.ln_1(x))
        torch.testing.assert_close(block(x), middle + block.mlp(block.ln_2(middle)))
        for parameter in (*block.attn.c_proj.parameters(), *block.mlp.c_proj.parameters()):
            parameter.zero_()
        assert torch.equal(block(x), x), "a block that writes nothing leaves the stream alone"


def test_heads_work_apart():
    """With c_proj the identity, a head's slice of the output depends only on its own queries and keys."""
    torch.manual_seed(6)
    layer = GPT2Attention(GPT2Config(**SIZES), layer_idx=0)
    x = torch.randn(1, 7, 30)
    with torch.no_grad():
        layer.c_proj.weight.copy_(torch.eye(30))
        before = layer(x)
        layer.c_attn.weight[6:12] += 1.0  # queries of head 1
        changed = (layer(x) - before).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(6, 12))


@pytest.mark.parametrize(
    "width, layers, heads, total",
    [
        (768, 12, 12, 124_439_808),
        (1024, 24, 16, 354_823_168),
        (1280, 36, 20, 774_030_080),
        (1600, 48, 25, 1_557_611_200),
    ],
)
def test_published_parameter_counts(width, layers, heads, total):
    with torch.device("meta"):
        model = GPT2(GPT2Config(n_embd=width, n_layer=layers, n_head=heads))
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_counts_equal_the_arithmetic_of_chapter_01():
    from gptoss_lib.config import gpt2_parameters

    nano = {"vocab_size": 201_088, "n_positions": 4000, "n_embd": 1020, "n_layer": 12}
    nano |= {"tie_word_embeddings": False, "qkv_bias": False}
    for sizes in ({}, {"n_inner": 50}, {"qkv_bias": False}, {"tie_word_embeddings": False}, nano):
        with torch.device("meta"):
            model = GPT2(GPT2Config(**sizes))
        assert sum(parameter.numel() for parameter in model.parameters()) == gpt2_parameters(**sizes)
    assert gpt2_parameters(**nano) == 564_241_560


def test_fresh_weights_follow_the_rule():
    torch.manual_seed(0)
    model = GPT2(
        GPT2Config(vocab_size=3000, n_positions=200, n_embd=120, n_layer=8, n_head=4, initializer_range=0.03)
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "ln_" in name:
            assert (parameter == 1).all(), name
        else:
            wanted = 0.03 / 4 if name.endswith("c_proj.weight") else 0.03
            assert parameter.std().item() == pytest.approx(wanted, rel=0.04), name
            assert abs(parameter.mean().item()) < 5 * wanted / math.sqrt(parameter.numel()), name


def test_same_seed_same_weights():
    def build():
        torch.manual_seed(11)
        return GPT2(GPT2Config(**SIZES)).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_first_loss_is_near_ln_v():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=2000, n_positions=64, n_embd=128, n_layer=4, n_head=4))
    ids = torch.randint(2000, (8, 65))
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert math.log(2000) - 0.05 < loss < math.log(2000) + 0.2


def test_learns_one_batch_by_heart():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=31, n_positions=12, n_embd=32, n_layer=2, n_head=4))
    ids = torch.randint(31, (3, 13))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_tied_head_is_stored_once_and_untied_head_is_its_own():
    tied, untied = GPT2(GPT2Config(**SIZES)), GPT2(GPT2Config(**SIZES, tie_word_embeddings=False))
    assert untied.state_dict().keys() - tied.state_dict().keys() == {"lm_head.weight"}
    ids = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        untied.lm_head.weight.zero_()
    assert not untied(ids).any()
    assert tied(ids).any()


def _old_file(model):
    """The layout of the published gpt2 files: no prefix, no head, masks as buffers."""
    weights = {name.removeprefix("transformer."): tensor for name, tensor in to_huggingface(model).items()}
    del weights["lm_head.weight"]
    for layer in range(model.config.n_layer):
        weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 19, 19).tril()
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights


@pytest.mark.parametrize("layout", [to_huggingface, _old_file])
def test_published_layouts_round_trip(model, layout):
    weights = layout(model)
    prefix = "transformer." if layout is to_huggingface else ""
    assert weights[f"{prefix}h.0.attn.c_attn.weight"].shape == (30, 90)
    assert weights[f"{prefix}h.0.mlp.c_fc.weight"].shape == (30, 44)
    again = GPT2(model.config)
    again.load_state_dict(from_huggingface(weights, model.config), strict=True)
    ids = torch.randint(53, (2, 19), generator=torch.Generator().manual_seed(7))
    assert torch.equal(again(ids), model(ids))


def test_square_matrices_are_transposed_too(model):
    published = to_huggingface(model)["transformer.h.1.attn.c_proj.weight"]
    assert torch.equal(published, model.h[1].attn.c_proj.weight.T)
    assert not torch.equal(published, model.h[1].attn.c_proj.weight)


def test_missing_unknown_and_misshapen_weights_fail(model):
    config = model.config
    weights = _old_file(model)
    with pytest.raises(ValueError, match=r"Missing weights: \['ln_f.bias'\]"):
        from_huggingface({name: t for name, t in weights.items() if name != "ln_f.bias"}, config)
    with pytest.raises(ValueError, match=r"unknown: \['h.0.attn.rotary'\]"):
        from_huggingface(weights | {"h.0.attn.rotary": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=r"h.0.attn.c_attn.bias has shape \[89\].*\[90\]"):
        from_huggingface(weights | {"h.0.attn.c_attn.bias": torch.zeros(89)}, config)
    with pytest.raises(ValueError, match="tie_word_embeddings=False"):
        from_huggingface(weights | {"lm_head.weight": torch.zeros(53, 30)}, config)
    with pytest.raises(ValueError, match="Missing weights"):
        from_huggingface({"lm_head.weight": torch.zeros(53, 30)}, config)


def test_config_reads_and_writes_json(tmp_path):
    config = GPT2Config(**SIZES, tie_word_embeddings=False)
    path = tmp_path / "config.json"
    config.to_json(path)
    assert GPT2Config.from_json(path) == config
    path.write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16, "n_ctx": 1024})
    )
    assert GPT2Config.from_json(path) == GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    path.write_text(json.dumps({"scale_attn_by_inverse_layer_idx": True}))
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True"):
        GPT2Config.from_json(path)


@pytest.mark.parametrize("field, value", [("n_head", 7), ("n_layer", 0), ("vocab_size", -1)])
def test_impossible_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}"):
        GPT2Config(**SIZES | {field: value})


def test_norm_epsilon_comes_from_the_config():
    model = GPT2(GPT2Config(**SIZES, layer_norm_epsilon=0.5))
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {0.5}
