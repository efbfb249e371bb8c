"""The whole model: wiring, fresh weights, the loss, texts of all kinds, caches, refusals, compilers."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_lib.cache import KVCache
from gptoss_lib.config import PRESETS, GPTOSSConfig, RopeScaling, count_parameters, parameter_shapes
from gptoss_lib.generation import generate
from gptoss_lib.masks import padded_positions
from gptoss_lib.model import GPTOSS, GPTOSSModel, TransformerBlock, linear_cross_entropy
from gptoss_lib.moe import moe_reference
from gptoss_lib.rope import RotaryEmbedding
from tests.growing_cache import GrowingCache

B, T, V = 3, 23, 61
CONFIG = GPTOSSConfig(
    vocab_size=V,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=7,
    num_experts_per_tok=3,
    sliding_window=5,
    rope_theta=1000.0,
    rope_scaling=None,
    max_position_embeddings=96,
)


def large_weights(model, seed=0):
    """Give a model weights that keep the stream at a natural size and reach the clamp."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith(("bias", "sinks")):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_((3 if "gate_up" in name else 1) * noise * parameter.shape[1] ** -0.5)
    return model


def made(seed=0, **changes):
    return large_weights(GPTOSS(replace(CONFIG, **changes), allow_frozen_router=True), seed).eval()


def token_ids(batch=B, length=T, seed=1):
    return torch.randint(V, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- wiring ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding_norm": "layernorm"},
        {"attention_sinks": False, "expert_bias": False, "router_bias": False},
        {"attention_bias": False, "attention_out_bias": False, "tie_word_embeddings": True},
        {"layer_types": ("full_attention",) * 3 + ("sliding_attention",)},
    ],
    ids=["gpt-oss", "embedding norm", "no sinks, few biases", "tied, no biases", "other layer types"],
)
def test_the_model_is_its_parts_wired_by_hand(changes):
    model = made(**changes)
    ids = token_ids()
    inner = model.model
    angles = RotaryEmbedding(CONFIG.head_dim, CONFIG.rope_theta)(torch.arange(T))
    with torch.no_grad():
        x = inner.embed_tokens.weight[ids]
        if "embedding_norm" in changes:
            x = F.layer_norm(x, (40,), inner.embed_norm.weight, inner.embed_norm.bias)
        for layer in inner.layers:
            normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * layer.input_layernorm.weight
            x = x + layer.self_attn(normed, angles)
            scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
            x = x + moe_reference(layer.mlp, x * scale * layer.post_attention_layernorm.weight)[0]
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * inner.norm.weight
        expected = x @ model.lm_head.weight.T
        logits = model(ids)
    assert logits.shape == (B, T, V)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_block_only_adds():
    block = TransformerBlock(CONFIG, 0).eval()
    with torch.no_grad():
        for writer in (block.self_attn.o_proj.weight, block.mlp.experts.down_proj):
            writer.zero_()
    x = torch.randn(2, T, 40)
    out, router_logits = block(x, RotaryEmbedding(8, 1000.0)(torch.arange(T)))
    assert torch.equal(out, x) and router_logits.shape == (2 * T, 7)


def test_windows_are_where_the_config_says():
    kinds = ("full_attention", "sliding_attention", "sliding_attention", "full_attention")
    model = GPTOSS(replace(CONFIG, layer_types=kinds))
    assert [layer.self_attn.window for layer in model.model.layers] == [None, 5, 5, None]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


def test_nobody_looks_ahead():
    model, ids = made(), token_ids()
    other = ids.clone()
    other[:, 11:] = (other[:, 11:] + 1) % V
    with torch.no_grad():
        a, b = model(ids), model(other)
    assert torch.allclose(a[:, :11], b[:, :11], atol=1e-5) and not torch.allclose(
        a[:, 11], b[:, 11], atol=1e-2
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_windows_reach_as_far_as_the_formula(layers):
    model = made(num_hidden_layers=layers, layer_types=("sliding_attention",) * layers)
    embedded = []
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, out: embedded.append(out))
    logits = model(token_ids())
    (gradient,) = torch.autograd.grad(logits[:, -1].square().sum(), embedded)
    seen = (gradient != 0).any(-1).sum(-1)
    assert seen.tolist() == [layers * (5 - 1) + 1] * B


def test_every_parameter_gets_a_gradient():
    model = made()
    loss, router_logits = model(token_ids(8, 60), labels=token_ids(8, 60, seed=2))
    loss.backward()
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not idle
    assert len(router_logits) == 4 and all(logits.shape == (480, 7) for logits in router_logits)
    assert all(logits.requires_grad for logits in router_logits), "a balancing loss needs a way back"


# --- names, shapes, counts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_of_every_preset(name):
    config = GPTOSSConfig.preset(name)
    with torch.device("meta"):
        model = GPTOSS(config)
    assert {key: tuple(value.shape) for key, value in model.named_parameters()} == parameter_shapes(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(config).total
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    assert set(model.state_dict()) == set(parameter_shapes(config)) | tied, "no buffer is saved"


def test_a_model_from_the_meta_device_equals_an_ordinary_one():
    with torch.device("meta"):
        empty = GPTOSS(CONFIG)
    filled = empty.to_empty(device="cpu").eval()
    sound = made()
    filled.load_state_dict(sound.state_dict(), strict=True)
    assert torch.equal(filled(token_ids()), sound(token_ids())), "the tables of angles are filled too"


def test_a_tied_head_is_the_embedding():
    model = GPTOSS(replace(CONFIG, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    loss, _ = model(token_ids(), labels=token_ids(seed=2))
    loss.backward()
    unseen = [token for token in range(V) if token not in token_ids()]
    grad = model.model.embed_tokens.weight.grad
    assert unseen and (grad[unseen].abs().sum(-1) > 0).all(), "tokens that were not read learn as outputs"
    moved = copy.deepcopy(model).to(torch.float64)
    assert moved.lm_head.weight is moved.model.embed_tokens.weight
    untied = GPTOSS(CONFIG)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load(tmp_path, tied):
    from safetensors.torch import load_model, save_model

    model = made(tie_word_embeddings=tied)
    save_model(model, tmp_path / "model.safetensors")
    fresh = GPTOSS(model.config).eval()
    assert not torch.equal(fresh(token_ids()), model(token_ids()))
    load_model(fresh, tmp_path / "model.safetensors", strict=True)
    assert torch.equal(fresh(token_ids()), model(token_ids()))
    assert (fresh.lm_head.weight is fresh.model.embed_tokens.weight) == tied


# --- fresh weights --------------------------------------------------------------------------------------


def test_sizes_of_fresh_weights():
    config = replace(
        CONFIG, hidden_size=120, num_hidden_layers=8, layer_types=None, initializer_range=0.05, vocab_size=999
    )
    torch.manual_seed(0)
    model = GPTOSS(replace(config, embedding_norm="layernorm"))
    checked = set()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            writer = name.endswith(("o_proj.weight", "down_proj"))
            expected = 0.05 / math.sqrt(2 * 8) if writer else 0.05
            few = 6 * expected / math.sqrt(2 * parameter.numel())  # six standard errors
            assert abs(parameter.std().item() - expected) < few, name
            assert abs(parameter.mean().item()) < 6 * expected / math.sqrt(parameter.numel()), name
            checked.add(writer)
    assert checked == {True, False}


def test_the_stream_stays_in_bounds_at_any_depth():
    sizes = {}
    for layers in (4, 24):
        torch.manual_seed(0)
        config = replace(CONFIG, num_hidden_layers=layers, layer_types=None, initializer_range=0.1)
        model, kept = GPTOSS(config).eval(), []
        model.model.norm.register_forward_pre_hook(
            lambda module, inputs, kept=kept: kept.append(inputs[0].square().mean().sqrt().item())
        )
        model(token_ids())
        sizes[layers] = kept[0]
    assert sizes[24] < 1.5 * sizes[4]


def test_a_fresh_model_knows_nothing():
    torch.manual_seed(0)
    loss, _ = GPTOSS(CONFIG)(token_ids(8, 60), labels=token_ids(8, 60, seed=2))
    assert abs(loss.item() - math.log(V)) < 0.05


def test_the_same_seed_gives_the_same_weights():
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(GPTOSS(CONFIG).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["lm_head.weight"], models[2]["lm_head.weight"])


# --- the loss -------------------------------------------------------------------------------------------


def loss_case(ignored=0.3, n=45, d=12, v=70, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(n, d, generator=generator), torch.randn(v, d, generator=generator)
    labels = torch.randint(v, (n,), generator=generator)
    return hidden, weight, labels.masked_fill(torch.rand(n, generator=generator) < ignored, -100)


def with_gradients(function, hidden, weight, upstream=1.0):
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = function(h, w)
    (upstream * loss).backward()
    return loss.detach(), h.grad, w.grad


@pytest.mark.parametrize("chunk_size", [1, 7, 45, 44, 46, 1024])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_loss_in_chunks(chunk_size, ignored):
    hidden, weight, labels = loss_case(ignored)
    mine = with_gradients(
        lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=chunk_size), hidden, weight, 2.5
    )
    expected = with_gradients(lambda h, w: F.cross_entropy(h @ w.T, labels), hidden, weight, 2.5)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_loss_without_gradients():
    hidden, weight, labels = loss_case()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, labels, chunk_size=8)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, labels))


def test_loss_leaves_its_inputs_alone():
    hidden, weight, labels = loss_case()
    copies = [x.clone() for x in (hidden, weight, labels)]
    with_gradients(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=8), hidden, weight)
    assert all(torch.equal(a, b) for a, b in zip((hidden, weight, labels), copies, strict=True))


def test_a_chunk_in_which_nothing_counts():
    hidden, weight, labels = loss_case(0.0)
    labels[8:16] = -100
    mine = with_gradients(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=8), hidden, weight)
    expected = with_gradients(lambda h, w: F.cross_entropy(h @ w.T, labels), hidden, weight)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert (mine[1][8:16] == 0).all()


def test_nothing_to_predict_is_nan_as_in_pytorch():
    hidden, weight, labels = loss_case(1.1)
    assert (labels == -100).all()
    assert (
        linear_cross_entropy(hidden, weight, labels).isnan()
        and F.cross_entropy(hidden @ weight.T, labels).isnan()
    )


def test_nothing_to_predict_leaves_no_gradient_as_in_pytorch():
    hidden, weight, labels = loss_case(1.1)
    mine = with_gradients(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=8), hidden, weight)
    assert all((gradient == 0).all() for gradient in mine[1:])


@pytest.mark.parametrize("count, chunk_size", [(0, 8), (5, 0)])
def test_no_tokens_and_no_chunks_are_refused(count, chunk_size):
    hidden, weight, labels = loss_case()
    with pytest.raises(ValueError, match=f"{count} tokens and chunk_size is {chunk_size}"):
        linear_cross_entropy(hidden[:count], weight, labels[:count], chunk_size=chunk_size)


def test_another_label_to_ignore():
    hidden, weight, labels = loss_case()
    zero_means_none = labels.masked_fill(labels == -100, 0)
    loss = linear_cross_entropy(hidden, weight, zero_means_none, ignore_index=0)
    expected = F.cross_entropy(hidden @ weight.T, zero_means_none, ignore_index=0)
    torch.testing.assert_close(loss, expected)


def test_large_logits_do_not_overflow():
    hidden, weight, labels = loss_case()
    hidden = 100 * hidden
    assert (hidden @ weight.T).max() > 300, "exp(89) is too much for 32 bits"
    mine = with_gradients(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=8), hidden, weight)
    expected = with_gradients(lambda h, w: F.cross_entropy(h @ w.T, labels), hidden, weight)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())


class LargestTensor(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            self.numbers = max(self.numbers, value.numel() if isinstance(value, torch.Tensor) else 0)
        return result


def test_logits_never_exist_as_a_whole():
    hidden, weight, labels = loss_case(n=400, v=500)
    with LargestTensor() as largest:
        with_gradients(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=16), hidden, weight)
    assert largest.numbers <= max(16 * 500, weight.numel(), hidden.numel())


def test_loss_under_autocast():
    hidden, weight, labels = loss_case(n=200, d=32)
    hidden, weight = hidden.bfloat16().float(), weight.bfloat16().float()

    def in_16_bits(function):
        def run(h, w):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(h, w)

        return run

    exact = with_gradients(lambda h, w: F.cross_entropy(h @ w.T, labels), hidden, weight)
    mine = with_gradients(
        in_16_bits(lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=64)), hidden, weight
    )
    theirs = with_gradients(
        in_16_bits(lambda h, w: F.cross_entropy((h @ w.T).float(), labels)), hidden, weight
    )
    assert mine[0].dtype == torch.float32 and mine[1].dtype == mine[2].dtype == torch.float32
    for a, b, truth in zip(mine, theirs, exact, strict=True):
        ours, plain = ((x - truth).norm() / truth.norm() for x in (a, b))
        assert ours < 1.5 * plain + 1e-3, f"off by {ours:.2%}, the plain version by {plain:.2%}"


def test_the_models_loss_is_that_of_its_logits():
    model, ids, labels = made(), token_ids(), token_ids(seed=2)
    labels[0, 3:9] = -100
    loss, _ = model(ids, labels=labels)
    expected = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    slow = torch.autograd.grad(expected, list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), gradients, slow, strict=True):
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


# --- texts of all kinds ---------------------------------------------------------------------------------


def test_packed_documents_are_separate_texts():
    model, ids = made(), token_ids(1, T)
    lengths = (6, 1, 16)
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    with torch.no_grad():
        together = model(ids, documents=documents)
        alone = torch.cat([model(part) for part in ids.split(lengths, dim=1)], dim=1)
        mixed = model(ids)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mixed, alone, atol=1e-1)


@pytest.mark.parametrize("scaling", [None, RopeScaling(factor=4.0, original_max_position_embeddings=512)])
def test_only_distances_count(scaling):
    changes = {"max_position_embeddings": 2048, "rope_scaling": scaling}
    model = made(**changes, head_dim=32, rope_theta=10_000.0)
    with torch.no_grad():
        here = model(token_ids())
        there = model(token_ids(), position_ids=torch.arange(700, 700 + T))
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_padding_on_the_left_changes_nothing():
    model, ids = made(), token_ids()
    real = torch.arange(T) >= torch.tensor([[0], [4], [20]])
    with torch.no_grad():
        padded = model(ids, position_ids=padded_positions(real))
        for row, start in enumerate((0, 4, 20)):
            torch.testing.assert_close(
                padded[row, start:], model(ids[row : row + 1, start:])[0], rtol=1e-4, atol=1e-4
            )
    assert padded.isfinite().all()


@pytest.mark.parametrize("keep", [1, 2, T])
def test_only_the_last_logits(keep):
    model, ids = made(), token_ids()
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids, logits_to_keep=keep), model(ids)[:, -keep:], rtol=1e-5, atol=1e-5
        )


# --- caches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(1,) * T, (T,), (4, 1, 1, 17), (5, 6, 5, 7), (22, 1)])
def test_cached_equals_uncached(chunks):
    model, ids = made(), token_ids()
    cache, growing = KVCache.from_config(CONFIG, B, T), GrowingCache()
    with torch.no_grad():
        expected = model(ids)
        mine = torch.cat([model(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert cache.length == T and growing.length == 0


def test_cached_with_padding():
    model, ids = made(), token_ids()
    padding = torch.tensor([0, 4, 11])
    cache = KVCache.from_config(CONFIG, B, T, padding=padding)
    with torch.no_grad():
        mine = torch.cat([model(part, cache=cache) for part in ids.split((13, 1, 1, 8), dim=1)], dim=1)
        for row, start in enumerate(padding.tolist()):
            alone = model(ids[row : row + 1, start:])[0]
            torch.testing.assert_close(mine[row, start:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", [2, 5, 12])
def test_generation_with_and_without_a_cache(prompt):
    model, ids = made(), token_ids(length=prompt)
    cache = KVCache.from_config(CONFIG, B, prompt + 20)
    assert torch.equal(
        generate(model, ids, 20, temperature=0, cache=cache), generate(model, ids, 20, temperature=0)
    )


# --- training options -----------------------------------------------------------------------------------


def test_jitter_is_for_training_only():
    torch.manual_seed(0)
    model = large_weights(GPTOSS(CONFIG, jitter=0.3))
    ids = token_ids()
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids)) and torch.equal(model(ids), made()(ids))


def test_one_expert_a_token_is_refused_in_training():
    single = replace(CONFIG, num_experts_per_tok=1)
    with pytest.raises(ValueError, match="allow_frozen_router=True"):
        GPTOSS(single)(token_ids())
    assert GPTOSS(single).eval()(token_ids()).shape == (B, T, V)
    assert GPTOSS(single, allow_frozen_router=True)(token_ids()).shape == (B, T, V)


def test_bfloat16_under_autocast():
    model, ids, labels = made(), token_ids(4, 64), token_ids(4, 64, seed=2)
    exact, _ = model(ids, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model(ids, labels=labels)
    assert loss.dtype == torch.float32 and abs(loss - exact) < 0.1
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_a_step_lowers_the_loss():
    torch.manual_seed(0)
    model, ids = GPTOSS(replace(CONFIG, initializer_range=0.1)), token_ids()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss, _ = model(ids[:, :-1], labels=ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_compiled_equals_eager():
    """Traced by torch.compile as it would be for speed, but run without generating code."""
    model, ids, labels = (
        made(num_hidden_layers=2, layer_types=None),
        token_ids(2, 24),
        token_ids(2, 24, seed=2),
    )
    results = []
    for run in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        loss, _ = run(ids, labels=labels)
        loss.backward()
        results.append([loss.detach()] + [parameter.grad.clone() for parameter in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# --- refusals -------------------------------------------------------------------------------------------


def test_too_long_a_text():
    model = made()
    assert model(token_ids(1, 96)).shape == (1, 96, V)
    with pytest.raises(ValueError, match=r"97 tokens.*max_position_embeddings=96"):
        model(token_ids(1, 97))
    cache = KVCache.from_config(CONFIG, 1, 200)
    with torch.no_grad():
        model(token_ids(1, 90), cache=cache)
        with pytest.raises(ValueError, match="97 tokens"):
            model(token_ids(1, 7), cache=cache)
        assert cache.length == 90
        model(token_ids(1, 6), cache=cache)


def test_positions_and_a_cache():
    cache = KVCache.from_config(CONFIG, 1, 20)
    with pytest.raises(ValueError, match="cache knows"):
        made()(token_ids(1, 4), position_ids=torch.arange(4), cache=cache)


def test_missing_and_unknown_names_fail():
    state = made().state_dict()
    lacking = {name: value for name, value in state.items() if "layers.1.self_attn.sinks" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*sinks"):
        GPTOSS(CONFIG).load_state_dict(lacking)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        GPTOSS(CONFIG).load_state_dict(state | {"model.layers.0.mlp.gate": torch.zeros(1)})


def test_the_model_without_its_head():
    model = made()
    hidden, router_logits = model.model(token_ids())
    assert isinstance(model.model, GPTOSSModel) and hidden.shape == (B, T, 40) and len(router_logits) == 4
    assert torch.equal(model(token_ids()), F.linear(hidden, model.lm_head.weight))
    assert isinstance(model.lm_head, nn.Linear) and model.lm_head.bias is None
