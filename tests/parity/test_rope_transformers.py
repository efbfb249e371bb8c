"""RoPE and YaRN equal those of transformers' gpt-oss: full tensors, fp32 and bf16."""

import pytest
import torch

from gptoss_lib.config import RopeScaling
from gptoss_lib.rope import RotaryEmbedding, apply_rotary, rope_inv_freq, yarn_inv_freq

pytest.importorskip("transformers")
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding, apply_rotary_pos_emb

# B, H, KV, T and hd, all different; the sizes around them do not matter here.
B, H, KV, T = 3, 6, 2, 11

CASES = {
    "gpt-oss": (64, 150_000.0, RopeScaling()),
    "gpt-oss, no YaRN": (64, 150_000.0, None),
    "factor 3": (64, 150_000.0, RopeScaling(factor=3.0)),
    "truncated": (64, 150_000.0, RopeScaling(truncate=True)),
    "small": (10, 150_000.0, RopeScaling(factor=6.0, original_max_position_embeddings=300)),
    "small, other betas": (
        24,
        10_000.0,
        RopeScaling(factor=5.0, original_max_position_embeddings=97, beta_fast=8.0, beta_slow=2.0),
    ),
    "small, no YaRN": (10, 10_000.0, None),
}


def reference(head_dim, theta, scaling):
    parameters = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        parameters |= {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
        }
    return GptOssRotaryEmbedding(
        GptOssConfig(
            hidden_size=40,
            num_attention_heads=H,
            num_key_value_heads=KV,
            head_dim=head_dim,
            num_hidden_layers=1,
            rope_parameters=parameters,
            max_position_embeddings=131_072,
        )
    )


def close(ours, theirs, tolerance=1e-6):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def test_published_settings_are_the_defaults(record_property):
    parameters = GptOssConfig().rope_parameters
    settings = RopeScaling()
    for name in ("factor", "beta_fast", "beta_slow", "truncate", "original_max_position_embeddings"):
        assert parameters[name] == getattr(settings, name), name
    assert parameters["rope_theta"] == 150_000
    record_property("component", "YaRN's settings")
    record_property("largest difference", "equal")


def test_frequencies_and_concentration(case, record_property):
    head_dim, theta, scaling = case
    theirs = reference(*case)
    ours = RotaryEmbedding(*case)
    difference = (ours.inv_freq - theirs.inv_freq).abs().max().item()
    assert torch.equal(ours.inv_freq, theirs.inv_freq), difference
    made_alone = (
        rope_inv_freq(head_dim, theta) if scaling is None else yarn_inv_freq(head_dim, theta, scaling)
    )
    assert torch.equal(made_alone, theirs.inv_freq)
    assert ours.attention_scaling == pytest.approx(theirs.attention_scaling, rel=1e-12)
    record_property("component", "frequencies and concentration")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("first", [0, 4_090, 131_072 - T])
def test_cos_and_sin(case, first, record_property):
    # Every text starts elsewhere, on both sides of the original context.
    record_property("component", "cosines and sines")
    record_property("tolerance", 1e-6)
    positions = (first - torch.tensor([[0], [1], [5]])).clamp(min=0) + torch.arange(T)
    theirs = reference(*case)(torch.zeros(1), positions)
    ours = RotaryEmbedding(*case)(positions)
    record_property(
        "largest difference", max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == (B, T, case[0] // 2)
        close(a, b)


def test_a_whole_table(record_property):
    positions = torch.arange(0, 131_072, 7)
    theirs = reference(*CASES["gpt-oss"])(torch.zeros(1), positions[None])
    ours = RotaryEmbedding(*CASES["gpt-oss"])(positions)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b[0])
    record_property("component", "cosines and sines")
    record_property("tolerance", 1e-6)
    record_property(
        "largest difference", max((a - b[0]).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    )


@pytest.mark.parametrize("first", [0, 4_090, 131_072 - T])
def test_queries_and_keys(case, first, record_property):
    record_property("component", "turned queries and keys")
    record_property("tolerance", 2e-6)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(B, H, T, case[0], generator=generator)
    key = torch.randn(B, KV, T, case[0], generator=generator)
    positions = torch.arange(first, first + T).expand(B, T)
    theirs = apply_rotary_pos_emb(query, key, *reference(*case)(query, positions))
    cos, sin = RotaryEmbedding(*case)(positions[0])
    ours = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
    record_property(
        "largest difference", max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    )
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 2e-6)


def test_gradients(case, record_property):
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (
        torch.randn(B, H, T, case[0], generator=generator.manual_seed(1)).requires_grad_() for _ in range(2)
    )
    upstream = torch.randn(B, H, T, case[0], generator=generator)
    positions = torch.arange(4_090, 4_090 + T).expand(B, T)
    apply_rotary(ours, *RotaryEmbedding(*case)(positions)).backward(upstream)
    apply_rotary_pos_emb(theirs, theirs.detach(), *reference(*case)(theirs, positions))[0].backward(upstream)
    close(ours.grad, theirs.grad, 2e-6)
    record_property("component", "turned queries and keys, gradients")
    record_property("tolerance", 2e-6)
    record_property("largest difference", (ours.grad - theirs.grad).abs().max().item())


def test_bfloat16_bit_for_bit(record_property):
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(B, H, T, 64, generator=generator).bfloat16()
    positions = torch.arange(5_000, 5_000 + T).expand(B, T)
    theirs, _ = apply_rotary_pos_emb(query, query, *reference(*CASES["gpt-oss"])(query, positions))
    ours = apply_rotary(query, *RotaryEmbedding(*CASES["gpt-oss"])(positions))
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
    record_property("component", "turned queries and keys, bf16")
    record_property("largest difference", "equal")


def test_the_tolerance_catches_a_truncated_ramp(record_property):
    theirs = reference(64, 150_000.0, RopeScaling(truncate=True))
    ours = RotaryEmbedding(64, 150_000.0, RopeScaling())
    close(ours.inv_freq, theirs.inv_freq, 1e-2)  # a loose tolerance sees nothing
    assert (ours.inv_freq - theirs.inv_freq).abs().max() > 1e-4
    positions = torch.arange(4_000, 4_000 + T)[None]
    for a, b in zip(ours(positions), theirs(torch.zeros(1), positions), strict=True):
        assert (a - b).abs().max() > 0.1
    record_property("largest difference", "no comparison")
