"""RoPE and YaRN against an independent computation with complex numbers in 64 bits."""

import copy
import math

import pytest
import torch

from gptoss_lib.config import RopeScaling
from gptoss_lib.rope import (
    RotaryEmbedding,
    apply_rotary,
    rope_inv_freq,
    yarn_concentration,
    yarn_inv_freq,
    yarn_ramp,
)

THETA = 150_000.0
# B, H, T, hd, all different.
B, H, T, HD = 2, 3, 7, 10
SMALL = RopeScaling(factor=6.0, original_max_position_embeddings=300)


def complex_frequencies(head_dim, theta, scaling):
    """The definition of YaRN by turns, pair by pair, in Python's 64-bit floats."""
    frequencies = []
    for i in range(head_dim // 2):
        f = theta ** (-2 * i / head_dim)
        if scaling is not None:
            low, high = (
                math.log(scaling.original_max_position_embeddings / (2 * math.pi * turns))
                / math.log(theta)
                * head_dim
                / 2
                for turns in (scaling.beta_fast, scaling.beta_slow)
            )
            slow = min(max((i - low) / (high - low), 0.0), 1.0)
            f = f * (1 - slow) + f / scaling.factor * slow
        frequencies.append(f)
    return torch.tensor(frequencies, dtype=torch.float64)


def complex_rotation(x, positions, theta, scaling):
    """Turn x [B, H, T, hd] at positions [B, T] as complex numbers."""
    x = x.double()
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None].double() * complex_frequencies(x.shape[-1], theta, scaling)
    length = 1.0 if scaling is None else 0.1 * math.log(scaling.factor) + 1.0
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.full_like(angles, length), angles)
    return torch.cat((z.real, z.imag), dim=-1)


def some_heads(seed=0, **options):
    return torch.randn(B, H, T, HD, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize(
    "scaling", [None, SMALL, RopeScaling(factor=1.0, original_max_position_embeddings=300)]
)
def test_equals_complex_rotation(scaling):
    rope = RotaryEmbedding(HD, THETA, scaling)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [293, 294, 295, 500, 501, 40, 1]])
    x = some_heads()
    turned = apply_rotary(x, *rope(positions))
    torch.testing.assert_close(
        turned.double(), complex_rotation(x, positions, THETA, scaling), atol=1e-4, rtol=0
    )


def test_first_positions_by_hand():
    rope = RotaryEmbedding(4, 100.0)  # frequencies 1 and 1/10
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 3, 4)
    turned = apply_rotary(x, *rope(torch.arange(3)))[0, 0]
    torch.testing.assert_close(turned[0], x[0, 0, 0])  # position 0 does not turn
    for m in (1, 2):
        c, s, c_slow, s_slow = math.cos(m), math.sin(m), math.cos(m / 10), math.sin(m / 10)
        # 1 turns with 3 and 2 with 4: halves, not neighbours.
        by_hand = [c - 3 * s, 2 * c_slow - 4 * s_slow, 3 * c + s, 4 * c_slow + 2 * s_slow]
        torch.testing.assert_close(turned[m], torch.tensor(by_hand))


def test_scores_depend_on_the_distance_alone():
    rope = RotaryEmbedding(64, THETA, RopeScaling())
    query, key = torch.randn(2, 1, 1, 1, 64, generator=torch.Generator().manual_seed(1))

    def score(m, n):
        turned_query, turned_key = (
            apply_rotary(x, *rope(torch.tensor([p]))) for x, p in ((query, m), (key, n))
        )
        return (turned_query * turned_key).sum().item()

    for distance in (0, 1, 100):
        expected = score(distance, 0)
        for shift in (1, 17, 4_095, 4_096, 20_000):
            assert score(distance + shift, shift) == pytest.approx(expected, abs=2e-2)
    assert abs(score(1, 0) - score(0, 0)) > 0.1
    assert abs(score(1, 0) - score(0, 1)) > 0.1, "before and behind are not the same"


@pytest.mark.parametrize("scaling, length", [(None, 1.0), (RopeScaling(), 0.1 * math.log(32) + 1)])
def test_lengths_are_kept_up_to_the_concentration(scaling, length):
    rope = RotaryEmbedding(64, THETA, scaling)
    x = torch.randn(1, 2, 3, 64, generator=torch.Generator().manual_seed(2))
    turned = apply_rotary(x, *rope(torch.tensor([3, 4_097, 131_071])))
    torch.testing.assert_close(turned.norm(dim=-1), length * x.norm(dim=-1), rtol=1e-5, atol=0)
    cos, sin = rope(torch.tensor([131_071]))
    torch.testing.assert_close(cos**2 + sin**2, torch.full_like(cos, length**2), rtol=1e-5, atol=0)


def test_gpt_oss_ramp_and_concentration():
    low, high = yarn_ramp(64, THETA, RopeScaling())
    assert (low, high) == pytest.approx((8.092779115512402, 17.39802450158856), rel=1e-12)
    assert yarn_ramp(64, THETA, RopeScaling(truncate=True)) == (8, 18)
    assert yarn_concentration(32.0) == pytest.approx(1.3465735902799727, rel=1e-12)
    assert RotaryEmbedding(64, THETA, RopeScaling()).attention_scaling == yarn_concentration(32.0)
    assert RotaryEmbedding(64, THETA).attention_scaling == 1.0
    assert yarn_concentration(1.0) == 1.0


def test_gpt_oss_frequencies():
    plain, stretched = rope_inv_freq(64, THETA), yarn_inv_freq(64, THETA, RopeScaling())
    torch.testing.assert_close(
        stretched.double(), complex_frequencies(64, THETA, RopeScaling()), rtol=1e-6, atol=0
    )
    assert torch.equal(stretched[:9], plain[:9]), "pairs 0 to 8 keep their frequency"
    assert torch.equal(stretched[18:], plain[18:] / 32), "pairs 18 to 31 are slowed down in full"
    slowed = plain / stretched
    assert ((slowed[9:18] > 1) & (slowed[9:18] < 32)).all() and (slowed.diff() >= 0).all()
    truncated = yarn_inv_freq(64, THETA, RopeScaling(truncate=True))
    assert not torch.allclose(truncated, stretched, rtol=1e-3, atol=0)
    assert torch.allclose(truncated, stretched, rtol=0, atol=1e-2), "why a loose tolerance proves nothing"


@pytest.mark.parametrize(
    "head_dim, theta, context",
    [(64, 150_000.0, 128), (64, 150_000.0, 201), (8, 150_000.0, 1_000_000), (16, 50.0, 4_096)],
)
def test_undefined_ramp_is_refused(head_dim, theta, context):
    with pytest.raises(ValueError, match=f"original_max_position_embeddings={context} does not fit") as error:
        RotaryEmbedding(head_dim, theta, RopeScaling(original_max_position_embeddings=context))
    assert "\n" not in str(error.value) and "202 tokens" in str(error.value)
    with pytest.raises(ValueError):
        yarn_ramp(head_dim, theta, RopeScaling(original_max_position_embeddings=context, truncate=True))


def test_the_shortest_context_that_the_error_names_works():
    low, _ = yarn_ramp(64, THETA, RopeScaling(original_max_position_embeddings=202))
    assert low > 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RotaryEmbedding(7, THETA), "head_dim is 7"),
        (lambda: RotaryEmbedding(0, THETA), "head_dim is 0"),
        (lambda: RotaryEmbedding(9, THETA, SMALL), "head_dim is 9"),
        (lambda: yarn_ramp(64, 1.0, RopeScaling()), "theta is 1.0"),
        (lambda: rope_inv_freq(8, 1.0), "theta is 1.0"),
        (lambda: RotaryEmbedding(HD, THETA)(torch.tensor([3, -1])), "holds -1"),
        (lambda: apply_rotary(some_heads(), *RotaryEmbedding(HD + 2, THETA)(torch.arange(T))), "head_dim 10"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_positions_per_text_equal_positions_alone():
    rope = RotaryEmbedding(HD, THETA, SMALL)
    x = some_heads()
    starts = torch.tensor([0, 411])
    together = apply_rotary(x, *rope(starts[:, None] + torch.arange(T)))
    for row, start in enumerate(starts.tolist()):
        alone = apply_rotary(x[row : row + 1], *rope(torch.arange(start, start + T)))
        assert torch.equal(together[row : row + 1], alone)


def test_token_by_token_equals_all_at_once():
    rope, one_by_one = (RotaryEmbedding(HD, THETA, SMALL) for _ in range(2))
    x = some_heads()
    whole = apply_rotary(x, *rope(torch.arange(T)))
    steps = [apply_rotary(x[:, :, t : t + 1], *one_by_one(torch.tensor([t]))) for t in range(T)]
    assert torch.equal(whole, torch.cat(steps, dim=2))


def test_table_grows_and_keeps_its_values():
    rope = RotaryEmbedding(HD, THETA, SMALL)
    assert len(rope.cos) == 0
    first = rope(torch.arange(5))
    assert len(rope.cos) == 8
    rope(torch.tensor([[4_095]]))
    assert len(rope.cos) == 4_096
    assert all(torch.equal(a, b) for a, b in zip(first, rope(torch.arange(5)), strict=True))
    table = rope.cos
    rope(torch.arange(100))
    assert rope.cos is table, "nothing is computed twice"


def test_length_spares_reading_the_positions():
    rope = RotaryEmbedding(HD, THETA)
    positions = torch.tensor([2, 9])
    expected = RotaryEmbedding(HD, THETA)(positions)
    assert all(torch.equal(a, b) for a, b in zip(rope(positions, length=10), expected, strict=True))
    with pytest.raises(IndexError):
        RotaryEmbedding(HD, THETA)(torch.tensor([40]), length=10)


@pytest.mark.parametrize("cast", [lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.to(torch.float64)])
def test_tables_stay_fp32(cast):
    rope = RotaryEmbedding(64, THETA, RopeScaling())
    rope.grow(5_000)
    kept = rope.inv_freq, rope.cos, rope.sin
    cast(torch.nn.Sequential(torch.nn.Linear(2, 3), rope))
    for before, after in zip(kept, (rope.inv_freq, rope.cos, rope.sin), strict=True):
        assert after.dtype == torch.float32 and torch.equal(before, after)


def test_meta_device_then_to_empty():
    with torch.device("meta"):
        rope = RotaryEmbedding(64, THETA, RopeScaling())
    assert rope.inv_freq.is_meta
    rope.grow(12)
    rope.to_empty(device="cpu")
    expected = RotaryEmbedding(64, THETA, RopeScaling())
    for a, b in zip(rope(torch.arange(12)), expected(torch.arange(12)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(rope.inv_freq, expected.inv_freq)


def test_nothing_is_stored_or_trained():
    rope = RotaryEmbedding(HD, THETA)
    rope.grow(9)
    assert not rope.state_dict() and not list(rope.parameters())
    assert {name for name, _ in rope.named_buffers()} == {"inv_freq", "cos", "sin"}
    clone = copy.deepcopy(rope)
    clone.grow(100)
    assert len(rope.cos) == 16


def test_precision_of_the_output_is_that_of_the_input():
    cos, sin = RotaryEmbedding(HD, THETA, SMALL)(torch.arange(T))
    assert cos.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        turned = apply_rotary(some_heads().to(dtype), cos, sin)
        assert turned.dtype == dtype
    exact = apply_rotary(some_heads().double(), cos, sin)
    rounded = apply_rotary(some_heads().bfloat16(), cos, sin)
    torch.testing.assert_close(rounded.double(), exact, rtol=3e-2, atol=3e-2)


def test_large_positions_are_precise():
    positions = torch.tensor([0, 1, 4_095, 4_096, 65_537, 131_071])
    cos, sin = RotaryEmbedding(64, THETA, RopeScaling())(positions)
    rope_freq = yarn_inv_freq(64, THETA, RopeScaling())
    angles = (positions[:, None].float() * rope_freq).double()  # the reference rounds here, and only here
    torch.testing.assert_close(cos.double(), angles.cos() * yarn_concentration(32.0), atol=3e-7, rtol=0)
    torch.testing.assert_close(sin.double(), angles.sin() * yarn_concentration(32.0), atol=3e-7, rtol=0)
    exact = positions[:, None].double() * complex_frequencies(64, THETA, RopeScaling())
    torch.testing.assert_close(cos.double(), exact.cos() * yarn_concentration(32.0), atol=1.2e-2, rtol=0)


def test_gradient_is_the_rotation_back():
    rope = RotaryEmbedding(HD, THETA, SMALL)
    cos, sin = rope(torch.arange(3, 3 + T))
    x, upstream = some_heads(1).requires_grad_(), some_heads(2)
    apply_rotary(x, cos, sin).backward(upstream)
    torch.testing.assert_close(x.grad, apply_rotary(upstream, cos, -sin))
    double = some_heads(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, cos, sin), double)


def test_grown_while_generating_then_trained():
    rope = RotaryEmbedding(HD, THETA)
    with torch.inference_mode():
        rope(torch.arange(T))
    x = some_heads().requires_grad_()
    apply_rotary(x, *rope(torch.arange(T))).sum().backward()
    assert x.grad.abs().sum() > 0


def test_heads_of_queries_and_keys_may_differ():
    cos, sin = RotaryEmbedding(HD, THETA)(torch.arange(T))
    query = some_heads()
    key = query[:, :1]
    assert torch.equal(apply_rotary(query, cos, sin)[:, :1], apply_rotary(key, cos, sin))


def test_printing_shows_the_settings():
    assert "head_dim=10, theta=150000" in repr(RotaryEmbedding(HD, THETA, SMALL))
