"""Samplers against their definitions, the loop, and the stream of text."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptoss_lib.generation import (
    TextStream,
    apply_temperature,
    draw,
    generate,
    generate_text,
    generate_tokens,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    sample,
    stream_text,
    warp,
)
from gptoss_lib.gpt2 import GPT2, GPT2Config
from tests.growing_cache import GrowingCache

INF = math.inf


# ── the definitions, by loops over Python floats ──────────────────────────────────────────────────


def softmax(row):
    top = max(row)
    weights = [math.exp(z - top) for z in row]
    return [w / sum(weights) for w in weights]


def slow_top_k(row, k):
    border = sorted(row, reverse=True)[min(k, len(row)) - 1]
    return [z if z >= border else -INF for z in row]


def slow_top_p(row, p):
    probabilities = softmax(row)
    mass = 0.0
    for border in sorted(probabilities, reverse=True):
        mass += border
        if mass >= p:
            break
    return [z if q >= border else -INF for z, q in zip(row, probabilities, strict=True)]


def slow_min_p(row, p):
    probabilities = softmax(row)
    return [z if q >= p * max(probabilities) else -INF for z, q in zip(row, probabilities, strict=True)]


def slow_penalty(row, previous, penalty):
    return [(z * penalty if z < 0 else z / penalty) if i in previous else z for i, z in enumerate(row)]


def slow_warp(row, previous, temperature=1.0, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0):
    row = [z / temperature for z in slow_penalty(row, previous, repetition_penalty)]
    row = slow_top_k(row, top_k) if top_k else row
    row = slow_top_p(row, top_p) if top_p else row
    return slow_min_p(row, min_p) if min_p else row


def rows(count, size, seed=0, scale=3.0):
    return scale * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 2, 7, 30, 31, 1000])
def test_top_k_is_its_definition(k):
    logits = rows(13, 31)
    wanted = torch.tensor([slow_top_k(row, k) for row in logits.tolist()])
    assert torch.equal(keep_top_k(logits, k), wanted)
    assert (torch.isfinite(wanted).sum(-1) == min(k, 31)).all()


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_top_p_is_its_definition(p, scale):
    logits = rows(40, 31, seed=1, scale=scale)
    kept = keep_top_p(logits, p)
    wanted = torch.tensor([slow_top_p(row, p) if p < 1 else row for row in logits.tolist()])
    assert torch.equal(kept, wanted)
    probabilities, stays = logits.double().softmax(-1), torch.isfinite(kept)
    mass = (probabilities * stays).sum(-1)
    least = probabilities.masked_fill(~stays, INF).amin(-1)
    assert (mass >= p - 1e-6).all(), "what stays reaches p"
    assert (mass - least < p + 1e-6).all(), "without its smallest member it does not"


@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 0.7, 1.0])
def test_min_p_is_its_definition(p):
    logits = rows(40, 31, seed=2)
    assert torch.equal(keep_min_p(logits, p), torch.tensor([slow_min_p(row, p) for row in logits.tolist()]))


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 4.0])
def test_penalty_is_its_definition(penalty):
    logits = rows(6, 31, seed=3)
    previous = torch.randint(31, (6, 9), generator=torch.Generator().manual_seed(3))
    wanted = [
        slow_penalty(row, seen, penalty) for row, seen in zip(logits.tolist(), previous.tolist(), strict=True)
    ]
    torch.testing.assert_close(penalize_repetition(logits, previous, penalty), torch.tensor(wanted))


def test_a_sharp_border_keeps_the_token_that_reaches_p():
    logits = torch.tensor([[0.0625, 0.5, 0.125, 0.25, 0.0625]]).log()
    for p, kept in ((0.4, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.9, 5)):
        assert int(torch.isfinite(keep_top_p(logits, p)).sum()) == kept, p


def test_ties_share_one_fate():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    everything_tied = torch.zeros(1, 5)
    for keep in (lambda z: keep_top_k(z, 1), lambda z: keep_top_k(z, 2), lambda z: keep_top_p(z, 0.01)):
        assert torch.isfinite(keep(logits))[0].tolist() == [False, True, True, True, False]
        assert torch.isfinite(keep(everything_tied)).all()
    assert torch.isfinite(keep_min_p(logits, 1.0))[0].tolist() == [False, True, True, True, False]


def test_filters_respect_what_is_already_cut():
    logits = rows(7, 31, seed=4)
    logits[:, ::2] = -INF
    for change in (
        {"top_k": 20},
        {"top_p": 0.999},
        {"min_p": 1e-6},
        {"temperature": 2.0},
        {"temperature": 0},
    ):
        assert torch.isinf(warp(logits, **change)[:, ::2]).all(), change


def test_only_the_penalty_depends_on_a_shift():
    logits = rows(7, 31, seed=5)
    previous = torch.randint(31, (7, 4), generator=torch.Generator().manual_seed(5))
    for change in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}):
        left, right = (warp(z, **change).softmax(-1) for z in (logits, logits - 8))
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    left, right = (warp(z, previous, repetition_penalty=1.5).softmax(-1) for z in (logits, logits - 8))
    assert (left - right).abs().max() > 0.01


CHAIN = {"temperature": 1.7, "top_k": 12, "top_p": 0.85, "min_p": 0.12, "repetition_penalty": 1.4}


@pytest.mark.parametrize("names", [c for n in range(1, 6) for c in itertools.combinations(CHAIN, n)], ids=str)
def test_warp_chains_the_definitions_in_order(names):
    chosen = {name: CHAIN[name] for name in names}
    logits = rows(9, 31, seed=6)
    previous = torch.randint(31, (9, 5), generator=torch.Generator().manual_seed(6))
    before = logits.clone()
    wanted = [
        slow_warp(row, seen, **chosen) for row, seen in zip(logits.tolist(), previous.tolist(), strict=True)
    ]
    torch.testing.assert_close(warp(logits, previous, **chosen), torch.tensor(wanted))
    assert torch.equal(logits, before), "the logits given are left alone"


def test_warp_computes_in_float32():
    logits = rows(2, 31, seed=7).bfloat16()
    out = warp(logits, temperature=0.7, top_p=0.9)
    assert out.dtype == torch.float32
    assert torch.equal(out, warp(logits.float(), temperature=0.7, top_p=0.9))


def test_temperature_zero_is_greedy_and_takes_the_first_of_ties():
    logits = torch.tensor([[1.0, 5.0, 5.0], [2.0, -1.0, 0.0]])
    assert sample(logits, temperature=0).tolist() == [1, 0]
    assert torch.isfinite(warp(logits, temperature=0, top_k=2, top_p=0.1)).sum(-1).tolist() == [1, 1]
    assert (
        sample(-rows(50, 31).abs() - 5, temperature=0).tolist() == (-rows(50, 31).abs()).argmax(-1).tolist()
    )
    penalized = sample(torch.tensor([[3.0, 2.9]]), torch.tensor([[0]]), temperature=0, repetition_penalty=1.2)
    assert penalized.tolist() == [1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 2}, "min_p is 2"),
        ({"repetition_penalty": 1.2}, "previous"),
        (
            {"repetition_penalty": 0.0, "previous": torch.zeros(2, 1, dtype=torch.long)},
            "repetition_penalty is 0.0",
        ),
    ],
    ids=str,
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        warp(torch.zeros(2, 5), **change)
    with pytest.raises(ValueError, match="temperature is 0"):
        apply_temperature(torch.zeros(1, 5), 0)


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────


def chi_square(tokens, probabilities):
    """The statistic and its degrees of freedom; infinite if an impossible token was drawn."""
    counts = tokens.bincount(minlength=len(probabilities)).double()
    possible = probabilities > 0
    if counts[~possible].any():
        return INF, 1
    expected = len(tokens) * probabilities[possible].double()
    return ((counts[possible] - expected) ** 2 / expected).sum().item(), int(possible.sum()) - 1


def limit(freedom):
    """A fair sampler stays below this but for one time in ten thousand or so."""
    return freedom + 4 * math.sqrt(2 * freedom) + 10


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 2.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.15},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_frequencies_are_the_defined_distribution(change):
    row = rows(1, 17, seed=8, scale=1.2)
    seen = [3, 5, 5, 16]
    exact = torch.tensor(softmax(slow_warp(row[0].tolist(), seen, **change)), dtype=torch.float64)
    tokens = sample(
        row.expand(40_000, -1),
        torch.tensor([seen]).expand(40_000, -1),
        generator=torch.Generator().manual_seed(9),
        **change,
    )
    statistic, freedom = chi_square(tokens, exact)
    assert statistic < limit(freedom)
    # The test has teeth: it tells apart a distribution in which one token is 30% too likely.
    off = exact.clone()
    off[exact.argmax()] *= 1.3
    assert chi_square(tokens, off / off.sum())[0] > limit(freedom)


def test_draw_at_the_borders():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    last = 1 - 2**-53
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, last], dtype=torch.float64)
    assert draw(probabilities.expand(6, -1), uniforms).tolist() == [1, 1, 3, 3, 4, 4]


def test_draw_never_picks_an_impossible_token():
    probabilities = rows(1, 500, seed=10, scale=8).softmax(-1)
    probabilities[:, 400:] = 0.0  # the rest adds up to less than 1
    uniforms = torch.linspace(0, 1, 4_000, dtype=torch.float64).clamp_max(1 - 2**-53)
    picked = draw(probabilities.expand(4_000, -1), uniforms)
    assert (probabilities[0, picked] > 0).all()


def test_draw_reaches_rare_tokens_at_their_place():
    """In float32 the running sum ends before them: 1 - 1e-9 is 1."""
    probabilities = torch.tensor([[0.5, 0.5, 1e-9, 2e-9]])
    total = 1 + 3e-9
    uniforms = torch.tensor([1.0, 1 + 0.5e-9, 1 + 2e-9], dtype=torch.float64) / total
    assert draw(probabilities.expand(3, -1), uniforms).tolist() == [2, 2, 3]


def test_draw_over_a_large_vocabulary():
    probabilities = torch.full((1, 200_001), 1 / 200_001)
    for token in (0, 77_777, 199_999, 200_000):
        assert draw(probabilities, torch.tensor([(token + 0.5) / 200_001])).item() == token


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.nan, 1.0], [INF, 1.0]])
def test_draw_refuses_what_is_no_distribution(row):
    with pytest.raises(ValueError, match="NaN"):
        draw(torch.tensor([[0.5, 0.5], row]), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_nan_logits_are_reported(bad):
    logits = torch.zeros(3, 5)
    logits[1, 2] = bad
    with pytest.raises(ValueError, match="NaN"):
        sample(logits)
    with pytest.raises(ValueError, match="NaN"):
        sample(torch.full((1, 4), -INF))


def test_a_rows_sample_depends_on_its_own_generator_only():
    logits = rows(5, 31, seed=11)

    def generators(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = sample(logits, generator=generators(range(5)))
    for row in range(5):
        assert sample(logits[row : row + 1], generator=generators([row])).item() == together[row]
    for temperature in (1, 0):
        with pytest.raises(ValueError, match="4 generators for 5 rows"):
            sample(logits, generator=generators(range(4)), temperature=temperature)


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────


class Script(nn.Module):
    """Row b says script[b][t] after t + 1 tokens, whatever they were."""

    def __init__(self, script, vocab_size):
        super().__init__()
        self.script, self.vocab_size = script, vocab_size

    def forward(self, input_ids, cache=None):
        logits = torch.full((*input_ids.shape, self.vocab_size), -30.0)
        for row, position in itertools.product(*map(range, input_ids.shape)):
            line = self.script[row % len(self.script)]
            logits[row, position, line[min(position, len(line) - 1)]] = 30.0
        return logits


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    model = GPT2(
        GPT2Config(vocab_size=37, n_positions=24, n_embd=30, n_layer=2, n_head=3, initializer_range=0.3)
    )
    model.lengths = []
    model.register_forward_pre_hook(lambda module, inputs: module.lengths.append(inputs[0].shape[1]))
    return model


@pytest.fixture
def prompt():
    return torch.randint(37, (4, 5), generator=torch.Generator().manual_seed(12))


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_is_the_argmax_loop(gpt2, prompt, penalty):
    ids = prompt
    for _ in range(19):
        logits = penalize_repetition(gpt2(ids)[:, -1], ids, penalty)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(gpt2, prompt, 19, temperature=0, repetition_penalty=penalty), ids)
    assert ids.shape == (4, 24)


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"temperature": 1.5, "top_p": 0.9, "repetition_penalty": 1.2}]
)
def test_a_cache_changes_the_work_and_not_the_text(gpt2, prompt, how):
    gpt2.lengths.clear()
    plain = generate(gpt2, prompt, 15, seed=3, **how)
    assert gpt2.lengths == list(range(5, 20))
    gpt2.lengths.clear()
    cache = GrowingCache()
    assert torch.equal(generate(gpt2, prompt, 15, seed=3, cache=cache, **how), plain)
    assert gpt2.lengths == [5] + [1] * 14
    # The last token was chosen, not read; a continuation reads it and goes on.
    assert cache.length == 19
    longer = generate(gpt2, prompt, 18, seed=3, temperature=0)
    cache = GrowingCache()
    first = generate(gpt2, prompt, 8, temperature=0, cache=cache)
    assert torch.equal(generate(gpt2, first, 10, temperature=0, cache=cache), longer)


def test_same_seed_same_text_and_another_seed_another(gpt2, prompt):
    assert torch.equal(generate(gpt2, prompt, 12, seed=5), generate(gpt2, prompt, 12, seed=5))
    assert not torch.equal(generate(gpt2, prompt, 12, seed=5), generate(gpt2, prompt, 12, seed=50))
    torch.manual_seed(1)
    first, second = generate(gpt2, prompt, 12), generate(gpt2, prompt, 12)
    torch.manual_seed(1)
    assert torch.equal(generate(gpt2, prompt, 12), first)
    assert not torch.equal(first, second)


def test_a_row_does_not_depend_on_its_neighbours(gpt2, prompt):
    together = generate(gpt2, prompt, 15, seed=20)
    for row in range(4):
        assert torch.equal(generate(gpt2, prompt[row : row + 1], 15, seed=20 + row)[0], together[row])
    order = [2, 0, 3, 1]
    shuffled = generate(gpt2, prompt[order], 15, seed=[20 + row for row in order])
    assert torch.equal(shuffled, together[order])
    same = prompt[:1].expand(4, -1)
    assert len({tuple(row) for row in generate(gpt2, same, 15, seed=0).tolist()}) == 4


def test_neighbours_that_end_early_do_not_matter(gpt2, prompt):
    free = generate(gpt2, prompt, 18, seed=2)
    end = int(free[0, 7])
    ended = generate(gpt2, prompt, 18, seed=2, eos_id=end)
    for row in range(4):
        fresh = free[row, 5:].tolist()
        stop = fresh.index(end) + 1 if end in fresh else len(fresh)
        width = ended.shape[1] - 5
        assert ended[row, 5:].tolist() == (fresh[:stop] + [end] * width)[:width]


def test_rows_end_separately_and_repeat_their_end():
    model = Script([[0, 5, 9, 6, 6], [0, 5, 5, 5, 8], [0, 5, 5, 9, 3]], vocab_size=11)
    prompt = torch.ones(3, 2, dtype=torch.long)
    out = generate(model, prompt, 10, temperature=0, eos_id=[9, 8])
    assert out.tolist() == [[1, 1, 5, 9, 9, 9], [1, 1, 5, 5, 5, 8], [1, 1, 5, 5, 9, 9]]
    assert generate(model, prompt, 10, temperature=0).shape == (3, 12)
    assert [t.tolist() for t in generate_tokens(model, prompt, 2, eos_id=9, temperature=0)] == [
        [5, 5, 5],
        [9, 5, 5],
    ]


def test_an_end_in_the_prompt_does_not_end_the_row():
    model = Script([[4, 4, 4, 9]], vocab_size=11)
    assert generate(model, torch.tensor([[9, 9]]), 5, temperature=0, eos_id=9).tolist() == [[9, 9, 4, 4, 9]]


def test_a_text_outgrows_the_model_loudly_or_through_a_window(gpt2, prompt):
    with pytest.raises(ValueError, match="n_positions=24"):
        generate(gpt2, prompt, 21, temperature=0)
    ids = prompt
    for _ in range(30):
        ids = torch.cat([ids, gpt2(ids[:, -11:])[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(gpt2, prompt, 30, temperature=0, window=11), ids)


def test_arguments_that_do_not_fit_fail_before_the_first_step(gpt2, prompt):
    used = GrowingCache()
    generate(gpt2, prompt, 3, cache=used)
    for change, message in (
        ({"input_ids": prompt[0]}, r"shape \[5\]"),
        ({"input_ids": prompt[:, :0]}, "at least one token"),
        ({"window": 0}, "window=0"),
        ({"window": 4, "cache": GrowingCache()}, "no cache"),
        ({"cache": used}, "holds 7 tokens"),
        ({"seed": [1, 2]}, "2 seeds for 4 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_tokens(**{"model": gpt2, "input_ids": prompt, "max_new_tokens": 3} | change)
    with pytest.raises(TypeError, match="temprature"):
        generate(gpt2, prompt, 3, temprature=0)


def test_nothing_to_add_and_no_gradients(gpt2, prompt):
    assert torch.equal(generate(gpt2, prompt, 0), prompt)
    modes = []
    hook = gpt2.register_forward_hook(lambda module, inputs, logits: modes.append(logits.requires_grad))
    out = generate(gpt2, prompt, 2)
    hook.remove()
    assert modes == [False, False]
    assert not out.is_inference(), "tokens can be used in training"
    assert torch.is_grad_enabled()
    steps = generate_tokens(gpt2, prompt, 2)
    next(steps)
    assert torch.is_grad_enabled(), "a paused generator leaves the caller's gradients on"


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


class Bytes:
    """A tokenizer whose tokens are the given byte strings."""

    def __init__(self, tokens, eot_id=0):
        self.tokens, self.eot_id = list(tokens), eot_id

    def encode(self, text):
        return [self.tokens.index(byte.encode("latin-1")) for byte in text]

    def decode_bytes(self, ids):
        return b"".join(self.tokens[i] for i in ids)


def pieces_of(data, cuts):
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


ALPHABET = st.text(alphabet="ab\n é😀👩‍👩‍👧", max_size=24)


@settings(max_examples=400, deadline=None)
@given(
    text=ALPHABET,
    cuts=st.lists(st.integers(0, 200), max_size=30),
    stops=st.lists(st.text(alphabet="ab\n😀", min_size=1, max_size=4), max_size=3),
    ended=st.booleans(),
)
def test_stream_shows_what_is_safe_as_soon_as_it_is(text, cuts, stops, ended):
    # Of several stop strings the one that is complete first counts, and of those the longest.
    found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    wanted = text[: min(found)[1]] if found else text
    tokens = pieces_of(text.encode(), cuts)
    tokenizer = Bytes([b"", *tokens])
    stream = TextStream(tokenizer, stops, eos_id=0)
    shown, read = "", b""
    for number, token in enumerate(tokens, start=1):
        shown += stream.push(number)
        read += token
        assert wanted.startswith(shown), "what was shown is never taken back"
        held = read.decode("utf-8", errors="ignore")[len(shown) :]
        if not stream.stopped:
            assert not held or any(stop.startswith(held) for stop in stops), (
                "nothing is held without a reason"
            )
    shown += stream.push(0) if ended else stream.finish()
    assert shown == wanted
    assert stream.stopped
    assert stream.push(1) == stream.finish() == ""


def test_half_a_character_at_the_end_and_broken_bytes():
    frog = "🐸".encode()
    tokenizer = Bytes([frog[:1], frog[1:3], frog[3:], b"x", b"\xff"])
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in (0, 1, 2, 3)] == ["", "", "🐸", "x"]
    assert [stream.push(i) for i in (0, 1)] == ["", ""]
    assert stream.finish() == "\ufffd"
    stream = TextStream(tokenizer)
    assert stream.push(0) + stream.push(3) == "\ufffdx"
    assert TextStream(tokenizer).push(4) == "\ufffd"


def test_stop_settings():
    tokenizer = Bytes([b"ab", b"c"])
    stream = TextStream(tokenizer, stop="bc")
    assert [stream.push(0), stream.push(1), stream.push(0)] == ["a", "", ""]
    assert stream.stopped
    with pytest.raises(ValueError, match="empty"):
        TextStream(tokenizer, stop=["a", ""])


LETTERS = Bytes([b"<eot>", b"a", b"b", b"c", b"\xf0\x9f", b"\x90\xb8", b"."])


def test_stream_text_feeds_the_prompt_and_ends_by_itself():
    # After <eot> a b the model says: frog (two tokens), c, <eot>.
    model = Script([[9, 9, 4, 5, 3, 0]], vocab_size=10)
    assert list(stream_text(model, LETTERS, "ab", 20, temperature=0)) == ["🐸", "c"]
    assert list(stream_text(model, LETTERS, "ab", 1, temperature=0)) == ["\ufffd"]
    assert list(stream_text(model, LETTERS, "ab", 20, temperature=0, stop="c")) == ["🐸"]
    assert list(stream_text(model, LETTERS, "ab", 20, temperature=0, eos_id=5)) == ["\ufffd"]


def test_stop_strings_end_the_work():
    steps = []
    model = Script([[9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]], vocab_size=10)
    model.register_forward_pre_hook(lambda module, inputs: steps.append(1))
    assert generate_text(model, LETTERS, ["c"], 12, temperature=0, stop="bc") == ["a"]
    assert len(steps) == 3
    assert "".join(stream_text(model, LETTERS, "c", 12, temperature=0, stop=["x", "bc"])) == "a"
    assert len(steps) == 6


def test_prompts_of_different_length_are_grouped_and_returned_in_order(gpt2):
    tokenizer = Bytes(
        [b"<eot>", *(bytes([97 + i]) for i in range(26)), *(bytes([48 + i]) for i in range(10))]
    )
    prompts = ["abc", "x", "hello", "abc", "y", ""]
    gpt2.lengths.clear()
    texts = generate_text(gpt2, tokenizer, prompts, 10, seed=40)
    assert sorted(set(gpt2.lengths)) == list(range(1, 16))
    assert len(gpt2.lengths) <= 4 * 10
    assert texts[0] != texts[3], "equal prompts have different seeds"
    for number, prompt in enumerate(prompts):
        assert generate_text(gpt2, tokenizer, [prompt], 10, seed=40 + number) == [texts[number]]
        assert "".join(stream_text(gpt2, tokenizer, prompt, 10, seed=40 + number)) == texts[number]
    gpt2.lengths.clear()
    sizes = []
    cached = {"new_cache": lambda rows: sizes.append(rows) or GrowingCache()}
    assert generate_text(gpt2, tokenizer, prompts, 10, seed=40, **cached) == texts
    assert sorted(sizes) == [1, 1, 2, 2], "a cache is made for the rows that run together"
    assert sorted(length for length in gpt2.lengths if length > 1) == [2, 4, 6], (
        "one prompt, then single tokens"
    )
    assert generate_text(gpt2, tokenizer, [], 10) == []


def test_texts_of_a_batch_stop_separately():
    model = Script([[9, 1, 2, 3, 1, 2, 3], [9, 1, 1, 1, 1, 1, 1]], vocab_size=10)
    assert generate_text(model, LETTERS, ["a", "b"], 6, temperature=0, stop="c") == ["ab", "aaaaaa"]
    # What is still held when the steps are used up was text after all.
    assert generate_text(model, LETTERS, ["a"], 6, temperature=0, stop="cc") == ["abcabc"]
    assert "".join(stream_text(model, LETTERS, "a", 6, temperature=0, stop="cc")) == "abcabc"
