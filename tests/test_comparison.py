"""Arms differ in what they claim and match in size; runs are recorded once; measures measure."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gptoss_lib import comparison
from gptoss_lib.comparison import (
    ARMS,
    CONTROLS,
    FEATURES,
    LADDER,
    LEAVE_ONE_OUT,
    PROMPT_TOKENS,
    TIERS,
    Arm,
    GELUExperts,
    append_row,
    arm_config,
    arm_loss,
    best_rate,
    body_parameters,
    bootstrap_interval,
    build_arm,
    character_names,
    cross_perplexity,
    distinct_n,
    empty_cache,
    entity_consistency,
    generation_quality,
    gpt2_loss,
    main,
    matched_width,
    missing_runs,
    next_runs,
    paired_differences,
    read_rows,
    read_share,
    record_run,
    run_key,
    solve_width,
    story_texts,
    student_interval,
    table,
    training_flops,
)
from gptoss_lib.config import GPTOSSConfig, count_parameters, flops_per_token, gpt2_parameters
from gptoss_lib.data import Batches
from gptoss_lib.gpt2 import GPT2Config
from gptoss_lib.norm import RMSNorm
from gptoss_lib.stories import StoryGrammar
from gptoss_lib.training import next_token_loss

XS = GPTOSSConfig.preset("xs")
TINY = dataclasses.replace(
    XS,
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=2,
    layer_types=None,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    sliding_window=5,
    max_position_embeddings=40,
    intermediate_size=20,
)


def meta(arm: str, base=XS):
    with torch.device("meta"):
        return build_arm(ARMS[arm], base, solve_width(ARMS[arm], base))


def tiny(arm: str, seed: int = 0):
    return build_arm(ARMS[arm], TINY, 20, seed)


# Sizes


@pytest.mark.parametrize(
    ("preset", "active", "total", "body"),
    [
        ("xs", 256, 1_136, (650_608, 202_096)),
        ("s", 416, 1_872, (2_183_856, 698_544)),
        ("m", 1_632, 7_696, (71_473_792, 21_839_488)),
    ],
)
def test_widths_of_gpt2_are_those_worked_out_by_hand(preset, active, total, body):
    base = GPTOSSConfig.preset(preset)
    assert solve_width(ARMS["gpt2-active"], base) == active
    assert solve_width(ARMS["gpt2-total"], base) == total
    assert solve_width(ARMS["gpt-oss"], base) == base.intermediate_size
    assert body_parameters(meta("gpt-oss", base)) == body


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_matches_what_it_claims_to_match(arm):
    model, match = meta(arm), ARMS[arm].match
    total, active = body_parameters(model)
    if match == "active":
        assert active == pytest.approx(202_096, rel=0.03)
    elif match == "total":
        assert total == pytest.approx(650_608, rel=0.01)
    else:
        ours, theirs = training_flops(model, 128), training_flops(meta("gpt-oss"), 128)
        assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if arm.match == "active"])
def test_no_other_width_on_the_grid_is_nearer(arm):
    width, step = solve_width(ARMS[arm], XS), 16 // (getattr(meta(arm).config, "num_experts_per_tok", 1))
    off = {}
    for candidate in (width - step, width, width + step):
        with torch.device("meta"):
            off[candidate] = abs(body_parameters(build_arm(ARMS[arm], XS, candidate))[1] - 202_096)
    assert min(off, key=off.get) == width


def test_counts_agree_with_chapter_01():
    count, model = count_parameters(TINY), tiny("gpt-oss")
    assert body_parameters(model) == (count.body, count.active_body)
    assert training_flops(model, 17) == pytest.approx(flops_per_token(TINY, 17, mean=True).training)
    gpt2 = tiny("gpt2-active")
    assert body_parameters(gpt2) == (gpt2_parameters(61, 40, 24, 2, 20) - 101 * 24,) * 2
    # 4 D² of attention and 2 D F of MLP in each layer, the head, and the mean of 1 … 17 tokens seen
    by_hand = 3 * (2 * 2 * (4 * 24 * 24 + 2 * 24 * 20) + 2 * 24 * 61 + 4 * 24 * 2 * 9)
    assert training_flops(gpt2, 17) == by_hand


@pytest.mark.parametrize("target", [120, 127, 128, 135.9, 1_000])
@pytest.mark.parametrize("multiple", [1, 3, 16])
def test_matched_width_is_the_nearest_multiple(target, multiple):
    def cost(width):
        return 7 * width + 100

    candidates = range(multiple, 400, multiple)
    best = min(abs(cost(width) - target) for width in candidates)
    if target + 3.5 * multiple < cost(multiple):
        with pytest.raises(ValueError, match="Even a width"):
            matched_width(cost, target, multiple)
    else:
        width = matched_width(cost, target, multiple)
        assert width % multiple == 0
        assert abs(cost(width) - target) == pytest.approx(best)


def test_matched_width_refuses_what_it_cannot_solve():
    with pytest.raises(ValueError, match="Even a width of 8"):
        matched_width(lambda width: 1_000 + width, 10, 8)
    with pytest.raises(ValueError, match="evenly"):
        matched_width(lambda width: width**2, 100)
    with pytest.raises(ValueError, match="evenly"):
        matched_width(lambda width: -width, 100)


# Arms


def test_neighbours_on_the_ladder_differ_in_one_part():
    for (below, above), part in zip(itertools.pairwise(LADDER), FEATURES, strict=True):
        one, two = ARMS[below], ARMS[above]
        assert set(two.features) - set(one.features) == {part}
        assert dataclasses.replace(one, features=()) == dataclasses.replace(two, features=())
    for arm in LEAVE_ONE_OUT:
        assert len(set(FEATURES) - set(ARMS[arm].features)) == 1
    for arm in CONTROLS:
        changed = [
            f.name
            for f in dataclasses.fields(Arm)
            if getattr(ARMS[arm], f.name) != getattr(ARMS["gpt-oss"], f.name)
        ]
        assert len(changed) == 1


FIELDS = {  # what each part may change in the architecture, besides the width
    "SwiGLU": set(),
    "grouped heads": {"num_key_value_heads"},
    "sinks": {"attention_sinks"},
    "window": {"layer_types"},
    "experts": {"num_local_experts", "num_experts_per_tok"},
}


@pytest.mark.parametrize(("below", "above"), list(itertools.pairwise(LADDER))[2:])
def test_a_rung_changes_only_its_own_fields(below, above):
    one, two = (dataclasses.asdict(arm_config(ARMS[arm], XS, 32)) for arm in (below, above))
    (part,) = set(ARMS[above].features) - set(ARMS[below].features)
    assert {name for name in one if one[name] != two[name]} == FIELDS[part]


def test_the_top_of_the_ladder_is_the_preset():
    assert arm_config(ARMS["gpt-oss"], XS, XS.intermediate_size) == XS


def test_rmsnorm_replaces_every_norm_and_nothing_else():
    old, new = tiny("gpt2-active"), tiny("rmsnorm")
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in new.modules())
    assert sum(isinstance(m, RMSNorm) for m in new.modules()) == 5
    ours = dict(new.named_parameters())
    for name, weight in old.named_parameters():
        if not (name.endswith("bias") and "ln_" in name):
            assert torch.equal(weight, ours[name]), name
    without = tiny("no-rmsnorm")
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in without.modules()) == 5
    assert not any(isinstance(m, RMSNorm) for m in without.modules())


def test_rope_changes_nothing_but_how_positions_enter():
    old, new = tiny("rmsnorm", seed=3), tiny("rope", seed=4)
    with torch.no_grad():
        for name, weight in new.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.4)
        old.wpe.weight.zero_()
        old.wte.weight.copy_(new.model.embed_tokens.weight)
        for ours, theirs in zip(old.h, new.model.layers, strict=True):
            attention, experts = theirs.self_attn, theirs.mlp.experts
            parts = [attention.q_proj, attention.k_proj, attention.v_proj]
            ours.attn.c_attn.weight.copy_(torch.cat([part.weight for part in parts]))
            ours.attn.c_attn.bias.copy_(torch.cat([part.bias for part in parts]))
            ours.attn.c_proj.weight.copy_(attention.o_proj.weight)
            ours.attn.c_proj.bias.copy_(attention.o_proj.bias)
            ours.mlp.c_fc.weight.copy_(experts.up_proj[0].T)
            ours.mlp.c_fc.bias.copy_(experts.up_proj_bias[0])
            ours.mlp.c_proj.weight.copy_(experts.down_proj[0].T)
            ours.mlp.c_proj.bias.copy_(experts.down_proj_bias[0])
    ids = torch.randint(61, (2, 31))
    turned = new(ids)
    assert not torch.allclose(old(ids), turned, atol=1e-3)
    new.model.rotary_emb.cos.fill_(1)
    new.model.rotary_emb.sin.zero_()
    torch.testing.assert_close(old(ids), new(ids), rtol=1e-3, atol=1e-4)


def test_gelu_experts_equal_a_loop_over_tokens():
    experts = GELUExperts(TINY)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    x, scores = torch.randn(9, 24), torch.rand(9, 2)
    indices = torch.rand(9, 8).topk(2).indices
    expected = torch.zeros(9, 24)
    for token in range(9):
        for expert, score in zip(indices[token], scores[token], strict=True):
            hidden = x[token] @ experts.up_proj[expert] + experts.up_proj_bias[expert]
            hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
            expected[token] += score * (hidden @ experts.down_proj[expert] + experts.down_proj_bias[expert])
    torch.testing.assert_close(experts(x, indices, scores), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_from_the_same_tokens_and_gets_its_gradients(arm):
    model = tiny(arm)
    batches = Batches(np.arange(3_000, dtype=np.uint16) % 61, 2, 33, seed=5)
    ids, labels = next(batches)
    torch.manual_seed(0)
    build_arm(ARMS["gpt2-active"], TINY, 20)  # takes numbers, but not from the batches
    again, _ = next(Batches(np.arange(3_000, dtype=np.uint16) % 61, 2, 33, seed=5))
    assert torch.equal(ids, again)
    loss, metrics = arm_loss(ARMS[arm])(model.train(), ids, labels)
    loss.backward()
    nats = next_token_loss(model, ids, labels)[0]
    assert metrics.get("nats", loss).item() == pytest.approx(nats.item(), rel=1e-5)
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    dense = ARMS[arm].features and "experts" not in ARMS[arm].features
    frozen = ARMS[arm].frozen_router or dense
    # A key's bias shifts all scores of a query alike; a router without a choice has nothing to learn.
    unmoved = {n for n in silent if not (n.endswith("k_proj.bias") or (frozen and ".router." in n))}
    assert unmoved == set()
    if ARMS[arm].frozen_router:
        assert all(not p.requires_grad for n, p in model.named_parameters() if ".router." in n)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_numbers_alone():
    torch.manual_seed(7)
    before = torch.rand(1)
    torch.manual_seed(7)
    one, two, other = tiny("gpt-oss", 1), tiny("gpt-oss", 1), tiny("gpt-oss", 2)
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(
    "arm", ["gpt2-active", "rmsnorm", "rope", "no-rmsnorm", "no-swiglu", "gpt-oss", "k1"]
)
def test_both_models_start_with_the_same_spread(arm):
    base = dataclasses.replace(TIERS["xs"].base, vocab_size=512)
    weights = dict(build_arm(ARMS[arm], base, 96).named_parameters())
    small = 0.06 / math.sqrt(8)
    for name, weight in weights.items():
        if weight.ndim >= 2 and not name.endswith("bias") and weight.numel() > 4_000:
            out = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj"))
            expected = 0.006 if "wpe" in name else small if out else 0.06
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.08), name


def test_gpt2_gets_the_same_loss_and_gradients_as_from_plain_cross_entropy():
    one, two = tiny("gpt2-active"), tiny("gpt2-active")
    ids, labels = torch.randint(61, (3, 19)), torch.randint(61, (3, 19))
    labels[0, :5] = -100
    losses = [gpt2_loss(one, ids, labels)[0], next_token_loss(two, ids, labels)[0]]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_arms_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="choose features from"):
        Arm(("rmsnorm",))
    with pytest.raises(ValueError, match="match from"):
        Arm((), match="width")
    with pytest.raises(ValueError, match="lacks RoPE"):
        Arm(("SwiGLU",))
    with pytest.raises(ValueError, match="no arm 'gpt3'"):
        comparison.run_arm("gpt3")


# Measures


def test_the_parser_reads_real_stories_to_the_end_and_others_to_their_slip():
    grammar = StoryGrammar()
    for story in grammar.stories(seed=4, count=12):
        assert read_share(grammar, story.text) == 1
        cut = story.text[:333]
        assert read_share(grammar, cut) == 1
        assert read_share(grammar, cut, 50) == 1
        broken = cut[:200] + " zebra xylophone " + cut[200:]
        assert 0 < read_share(grammar, broken) < 0.75
        assert read_share(grammar, broken, 100) < read_share(grammar, broken)
    assert read_share(grammar, "Colorless green ideas sleep furiously tonight.") == 0
    assert read_share(grammar, cut[:40] + " qqq www", start=60) == 0


def test_entity_consistency_counts_names_that_were_met_before():
    names = {"Zoe", "Max", "Lily"}
    assert entity_consistency('Zoe ran. "Zoe!" cried Zoe\'s mother. Zoe, go.', names) == 1
    assert entity_consistency("Zoe saw Max. Lily laughed.", names) == 0
    assert entity_consistency("Zoe saw Max. Zoe laughed at Max, and Zoe slept.", names) == 0.75
    assert entity_consistency("Zoe slept.", names) is None
    assert entity_consistency("Nobody at all.", names) is None


def test_distinct_n_counts_runs_within_texts():
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a b", "a b"], 2) == 0.5
    assert distinct_n(["a b", "c d"], 2) == 1  # no run from one text into the next
    with pytest.raises(ValueError, match="No text has 3 words"):
        distinct_n(["a b"], 3)


def test_generation_quality_of_real_stories_is_high():
    texts = [story.text for story in StoryGrammar().stories(seed=9, count=8)]
    quality = generation_quality(texts, [30] * 8)
    assert quality["valid"] == quality["read"] == 1
    assert 0.6 < quality["consistency"] < 1 and quality["distinct"] > 0.6
    assert {"Zoe", "Pip"} <= character_names(StoryGrammar())
    worse = generation_quality([*texts[:4], *(text[:100] + " oops " + text for text in texts[4:])], [30] * 8)
    assert worse["valid"] == 0.5 and worse["read"] < 0.7


def test_texts_end_at_their_end_of_text():
    tokenizer = SimpleNamespace(eot_id=9, decode=lambda ids: "".join(map(str, ids)))
    prompt = [1] * PROMPT_TOKENS
    texts, starts = story_texts(torch.tensor([[*prompt, 2, 9, 9], [*prompt, 3, 4, 5]]), tokenizer)
    assert texts == ["1" * PROMPT_TOKENS + "2", "1" * PROMPT_TOKENS + "345"]
    assert starts == [PROMPT_TOKENS] * 2


@pytest.mark.parametrize("arm", ["gpt2-active", "rmsnorm", "rope", "gpt-oss"])
def test_a_cache_changes_no_arm(arm):
    model, ids = tiny(arm).eval(), torch.randint(61, (2, 23))
    cache = empty_cache(model, 2, 40)
    with torch.no_grad():
        steps = [model(piece, cache=cache) for piece in ids.split([16, *[1] * 7], dim=1)]
        torch.testing.assert_close(torch.cat(steps, dim=1), model(ids), rtol=1e-4, atol=1e-5)


def test_cross_perplexity_counts_the_continuation_up_to_its_end():
    model, end = tiny("gpt2-active"), 60
    ids = torch.randint(60, (2, PROMPT_TOKENS + 5))
    ids[0, PROMPT_TOKENS + 2 :] = end
    with torch.no_grad():
        log_p = model(ids).log_softmax(-1)
    counted = [(0, t) for t in range(PROMPT_TOKENS, PROMPT_TOKENS + 3)]
    counted += [(1, t) for t in range(PROMPT_TOKENS, PROMPT_TOKENS + 5)]
    nats = [-log_p[row, t - 1, ids[row, t]].item() for row, t in counted]
    assert cross_perplexity(model, ids, end) == pytest.approx(math.exp(sum(nats) / 8), rel=1e-4)


# Statistics


def test_bootstrap_is_near_all_samples_there_are():
    differences = [-0.02, 0.01, 0.05, 0.03]
    means = sorted(sum(sample) / 4 for sample in itertools.product(differences, repeat=4))
    expected = np.quantile(means, [0.05, 0.95])
    np.testing.assert_allclose(bootstrap_interval(differences, level=0.9), expected, atol=2e-3)
    assert bootstrap_interval(differences) == bootstrap_interval(differences)


def test_three_seeds_bootstrap_to_their_range():
    assert bootstrap_interval([0.3, -0.1, 0.2]) == pytest.approx((-0.1, 0.3))


def test_student_interval_by_hand_and_by_coverage():
    low, high = student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    generator = np.random.default_rng(0)
    for n in (2, 3, 6, 10):
        inside = [low <= 5 <= high for low, high in map(student_interval, generator.normal(5, 2, (3_000, n)))]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
def test_one_number_has_no_interval(interval):
    with pytest.raises(ValueError, match="at least 2 numbers"):
        interval([0.1])
    with pytest.raises(ValueError, match="table's 10"):
        student_interval([0.0] * 11)


# The record


def fake(arm, seed, rate, bits, tier="xs", steps=None):
    steps = steps or TIERS[tier].training.steps
    return {
        **{
            "arm": arm,
            "seed": seed,
            "learning_rate": rate,
            "bits_per_byte": bits,
            "tier": tier,
            "steps": steps,
        },
        "key": run_key(tier, arm, seed, rate, steps),
    }


def test_the_sweep_goes_on_until_the_best_rate_is_inside():
    rows = [fake("gpt-oss", 0, 0.004, 1.0), fake("gpt-oss", 0, 0.008, 0.9)]
    assert next_runs([], "gpt-oss") == [("gpt-oss", 0, rate) for rate in (0.004, 0.008, 0.016)]
    assert next_runs(rows, "gpt-oss") == [("gpt-oss", 0, 0.016)]
    inside = [*rows, fake("gpt-oss", 0, 0.016, 0.95)]
    assert next_runs(inside, "gpt-oss") == [("gpt-oss", 1, 0.008), ("gpt-oss", 2, 0.008)]
    edge = [*rows, fake("gpt-oss", 0, 0.016, 0.85)]
    assert next_runs(edge, "gpt-oss") == [("gpt-oss", 0, 0.032)]
    beyond = [*edge, fake("gpt-oss", 0, 0.032, 0.8)]
    assert next_runs(beyond, "gpt-oss") == [("gpt-oss", 1, 0.032), ("gpt-oss", 2, 0.032)]
    done = [*inside, fake("gpt-oss", 1, 0.008, 1), fake("gpt-oss", 2, 0.008, 1)]
    assert next_runs(done, "gpt-oss") == []
    assert best_rate(done, "gpt-oss") == 0.008
    # Runs of another length, tier or arm do not count.
    others = [fake("gpt-oss", 0, 0.008, 0.1, steps=20), fake("window", 0, 0.008, 0.1)]
    assert next_runs(others, "gpt-oss") == next_runs([], "gpt-oss")


def test_all_arms_are_planned_and_the_headline_comes_first():
    rows = []
    while todo := missing_runs(rows):
        arm, seed, rate = todo[0]
        rows.append(fake(arm, seed, rate, abs(rate - 0.008)))
    first = list(dict.fromkeys(row["arm"] for row in rows))
    assert first[:3] == ["gpt2-active", "gpt-oss", "gpt2-total"] and set(first) == set(ARMS)
    assert [row["seed"] for row in rows[-4:]] == [3, 4, 3, 4]
    assert len(rows) == 5 * len(ARMS) + 4


def test_differences_pair_by_seed_at_each_ones_best_rate():
    rows = [fake("gpt-oss", seed, 0.008, 0.9 - seed / 10) for seed in (2, 0, 1)]
    rows += [fake("gpt-oss", 0, 0.004, 5.0), fake("gpt2-active", 0, 0.016, 4.0)]
    rows += [fake("gpt2-active", seed, 0.004, 1 + seed) for seed in (0, 1, 5)]
    assert paired_differences(rows, "gpt-oss", "gpt2-active") == pytest.approx([-0.1, -1.2])
    assert paired_differences(rows, "gpt-oss", "window") == []


def test_the_table_says_what_is_still_to_be_run():
    rows = []
    for arm, bits in (("gpt2-active", 1.0), ("gpt-oss", 0.75)):
        rows += [fake(arm, 0, rate, bits + abs(rate - 0.008)) for rate in (0.004, 0.008, 0.016)]
        rows += [fake(arm, seed, 0.008, bits + seed / 100) for seed in (1, 2)]
    lines = {line.split()[0]: line for line in table(rows).splitlines()}
    assert "-0.2500" in lines["gpt-oss"] and "1.0100" in lines["gpt2-active"]
    assert "still to be run" in lines["window"]
    assert set(ARMS) <= set(lines)


def test_a_record_is_complete_or_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "runs" / "record.jsonl"
    assert read_rows(path) == []
    append_row(path, {"a": 1 / 3, "b": [0.1, {"c": 2}]})
    append_row(path, {"a": 2})
    assert read_rows(path) == [{"a": 0.3333333, "b": [0.1, {"c": 2}]}, {"a": 2}]
    before = path.read_bytes()

    def power_cut(*_):
        raise OSError("power cut")

    monkeypatch.setattr(comparison.os, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        append_row(path, {"a": 3})
    assert path.read_bytes() == before


def test_a_run_in_the_record_is_not_made_again(tmp_path, monkeypatch):
    made = []

    def run_arm(arm, tier, seed, rate, steps):
        made.append((arm, seed, rate))
        return fake(arm, seed, rate, 1.0, steps=steps), None, None

    monkeypatch.setattr(comparison, "run_arm", run_arm)
    path = tmp_path / "record.jsonl"
    assert record_run(path, "window", "xs", 0, 0.008)
    assert not record_run(path, "window", "xs", 0, 0.008)
    assert record_run(path, "window", "xs", 1, 0.008)
    assert record_run(path, "window", "xs", 0, 0.008, steps=30)
    assert made == [("window", 0, 0.008), ("window", 1, 0.008), ("window", 0, 0.008)]
    assert len(read_rows(path)) == 3


def test_keys_tell_runs_apart():
    keys = {run_key("xs", arm, 0, 0.008, 500) for arm in ARMS}
    assert len(keys) == len(ARMS)
    other = [
        ("xs", "gpt-oss", 1, 0.008, 500),
        ("xs", "gpt-oss", 0, 0.004, 500),
        ("s", "gpt-oss", 0, 0.008, 500),
    ]
    assert len(keys | {run_key(*each) for each in other}) == len(ARMS) + 3
    assert run_key("xs", "gpt-oss", 0, 0.008, 500) == run_key("xs", "gpt-oss", 0, 0.008, 500)


def test_a_real_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    base = dataclasses.replace(TIERS["xs"].base, num_hidden_layers=2, layer_types=None, vocab_size=400)
    training = dataclasses.replace(TIERS["xs"].training, steps=4, batch_size=2, warmup_steps=1, eval_every=0)
    tier = dataclasses.replace(
        TIERS["xs"], base=base, training=training, data={"stories": 60, "vocab_size": 400}
    )
    monkeypatch.setitem(TIERS, "xs", tier)
    path = tmp_path / "record.jsonl"
    for arm in ("gpt2-active", "gpt-oss"):
        for _ in range(2):  # the second time it is there already
            main(["run", "--arm", arm, "--lr", "0.01", "--out", str(path)])
    rows = read_rows(path)
    assert [row["arm"] for row in rows] == ["gpt2-active", "gpt-oss"]
    assert capsys.readouterr().out.count("already in") == 2
    for row in rows:
        assert row["tokens"] == 4 * 2 * 128 and row["curve"][-1][0] == 4
        assert row["nats"] == pytest.approx(row["curve"][-1][2])
        assert 4 * row["parameters"] < row["disk_bytes"] < 4 * row["parameters"] + 10_000
        assert set(row["quality"]) == {"valid", "read", "consistency", "distinct"}
        assert row["versions"]["torch"] == torch.__version__ and row["machine"]["threads"] >= 1
        json.dumps(row)
    main(["judge", "--out", str(path)])
    judged = read_rows(tmp_path / "record_judge.jsonl")
    assert [row["writer"] for row in judged] == ["gpt2-active", "gpt-oss"]
    assert all(1 < value < 1_000 for row in judged for value in row["perplexity"].values())
    main(["table", "--out", str(path)])
    main(["missing", "--out", str(path)])
    assert "--arm gpt2-active --seed 0 --lr 0.004" in capsys.readouterr().out


def test_published_sizes_are_matched_too():
    for name, tier in TIERS.items():
        width = solve_width(ARMS["gpt2-active"], tier.base)
        assert isinstance(arm_config(ARMS["gpt2-active"], tier.base, width), GPT2Config), name
