"""One compiled step a token: equal to the model, token by token, and left alone where it cannot help."""

import shutil

import pytest
import torch

from gptoss_lib.cache import KVCache
from gptoss_lib.config import GPTOSSConfig, RopeScaling
from gptoss_lib.generation import generate
from gptoss_lib.model import GPTOSS, CompiledDecoder

CONFIG = GPTOSSConfig(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=6,
    max_position_embeddings=300,
    rope_theta=1000.0,
    rope_scaling=None,
)
VARIANTS = {
    "gpt-oss": {},
    "no biases, no sinks, embedding norm, tied": {
        "attention_bias": False,
        "attention_out_bias": False,
        "router_bias": False,
        "expert_bias": False,
        "attention_sinks": False,
        "embedding_norm": "layernorm",
        "tie_word_embeddings": True,
    },
    "YaRN": {"head_dim": 64, "rope_theta": 150_000.0, "rope_scaling": RopeScaling(4.0, 8.0, 1.0, False, 60)},
}


def made(**changes):
    """A model with large random weights, so that the clamp and every part matter."""
    import dataclasses

    model = GPTOSS(dataclasses.replace(CONFIG, **changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def steps(model, ids, cache):
    """Logits of one token after the other, [T, V]."""
    with torch.no_grad():
        return torch.cat([model(ids[:, t : t + 1], cache=cache)[0] for t in range(ids.shape[1])])


def uncompiled(model):
    decoder = CompiledDecoder(model)
    decoder._compiled = decoder._step
    return decoder


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_beyond_the_window(variant):
    model = made(**VARIANTS[variant])
    ids = torch.randint(97, (1, 29), generator=torch.Generator().manual_seed(1))
    caches = [KVCache.from_config(model.config, 1, 31) for _ in range(2)]
    expected = steps(model, ids, caches[0])
    torch.testing.assert_close(steps(uncompiled(model), ids, caches[1]), expected, rtol=1e-5, atol=1e-5)
    assert caches[1].length == 29
    for mine, theirs in zip(caches[1].layers, caches[0].layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))), reason="no C++ compiler")
def test_compiled_once_for_all_steps(record_property):
    model = made()
    decoder = CompiledDecoder(model)
    prompt = torch.randint(97, (1, 4), generator=torch.Generator().manual_seed(2))
    torch._dynamo.reset()
    caches = [KVCache.from_config(CONFIG, 1, 40) for _ in range(3)]
    expected = generate(model, prompt, 36, temperature=0.0, cache=caches[0])
    for cache in caches[1:]:
        with torch._dynamo.config.patch(error_on_recompile=cache is caches[2]):
            assert torch.equal(generate(decoder, prompt, 36, temperature=0.0, cache=cache), expected)
    ids = expected[:, :-1]
    logits = [steps(each, ids, KVCache.from_config(CONFIG, 1, 40)) for each in (model, decoder)]
    record_property("largest difference", (logits[0] - logits[1]).abs().max().item())
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)


def test_what_is_not_one_token_of_one_text_is_left_to_the_model():
    model = made()
    decoder = CompiledDecoder(model)
    decoder._compiled = None  # would fail if it were called
    ids = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(3))
    padding = torch.tensor([0, 3])
    for texts, cache in (
        (ids, None),
        (ids[:1], KVCache.from_config(CONFIG, 1, 12)),
        (ids[:, :1], KVCache.from_config(CONFIG, 2, 12)),
        (ids, KVCache.from_config(CONFIG, 2, 12, padding=padding)),
    ):
        with torch.no_grad():
            output = decoder(texts, cache=cache, logits_to_keep=2)
        assert output.shape == (len(texts), min(2, texts.shape[1]), 97)


def test_a_full_context_is_refused_and_nothing_is_stored():
    decoder = uncompiled(made())
    cache = KVCache.from_config(CONFIG, 1, 5)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(5):
        decoder(ids, cache=cache)
    with pytest.raises(ValueError, match="holds 5 tokens and 1 more do not fit into max_length=5"):
        decoder(ids, cache=cache)
    assert cache.length == 5


def test_a_text_beyond_the_models_context_is_refused():
    model = made(max_position_embeddings=8)
    cache, ids = KVCache.from_config(model.config, 1, 16), torch.zeros(1, 8, dtype=torch.long)
    decoder = uncompiled(model)
    decoder(ids, cache=cache)
    with pytest.raises(ValueError, match="has 9 tokens, but this model has max_position_embeddings=8"):
        decoder(ids[:, :1], cache=cache)
    assert cache.length == 8


def test_no_gradients_and_no_more_parameters():
    model = made()
    decoder = uncompiled(model)
    cache = KVCache.from_config(CONFIG, 1, 5)
    logits = [decoder(torch.zeros(1, 1, dtype=torch.long), cache=cache) for _ in range(2)]
    assert not any(each.requires_grad for each in logits)
    assert sum(p.numel() for p in decoder.parameters()) == sum(p.numel() for p in model.parameters())
