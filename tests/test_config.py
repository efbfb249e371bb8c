"""The config: validation, files, presets, and every count against an independent calculation."""

import json
import math
import warnings
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from gptoss_lib.config import (
    PRESETS,
    GPTOSSConfig,
    RopeScaling,
    count_parameters,
    flops_per_token,
    gpt2_parameters,
    kv_cache_bytes,
    parameter_shapes,
    visible_tokens,
    weight_bytes,
)
from tests.odd_config import ODD

OLD_STYLE = {  # what gpt-oss-20b was published with
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}


def write(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return path


def changed(**changes):
    return {key: value for key, value in (OLD_STYLE | changes).items() if value != "absent"}


# Validation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"hidden_size": 2880.0}, "hidden_size is 2880.0"),
        ({"num_hidden_layers": "24"}, "num_hidden_layers is '24'"),
        ({"num_local_experts": True}, "num_local_experts is True"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1"),
        ({"num_key_value_heads": 7}, "64 query heads cannot share 7"),
        ({"head_dim": 45}, "head_dim is 45"),
        ({"num_experts_per_tok": 33}, "only 32 experts"),
        ({"layer_types": ("full_attention",)}, "names 1 layers, but num_hidden_layers is 24"),
        ({"num_hidden_layers": 1, "layer_types": ("full",)}, r"\['full'\]"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"rope_scaling": {"factor": 32.0}}, "pass a RopeScaling"),
        ({"max_position_embeddings": 2048}, "beyond max_position_embeddings 2048"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"),
        ({"swiglu_limit": -7.0}, "swiglu_limit is -7.0"),
        ({"router_aux_loss_coef": -0.1}, "router_aux_loss_coef is -0.1"),
        ({"attention_bias": 1}, "attention_bias is 1"),
        ({"embedding_norm": "rmsnorm"}, "'rmsnorm'"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTOSSConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 0.5}, "factor is 0.5"),
        ({"factor": "32"}, "factor is '32'"),
        ({"beta_fast": 1.0, "beta_slow": 2.0}, "beta_slow is 2.0"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings is 0"),
    ],
)
def test_rope_scaling_refuses_what_cannot_work(changes, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(**changes)


def test_layers_alternate_by_default_and_begin_with_a_sliding_one():
    config = GPTOSSConfig(num_hidden_layers=3)
    assert config.layer_types == ("sliding_attention", "full_attention", "sliding_attention")


def test_a_window_is_not_needed_where_no_layer_slides():
    config = replace(ODD, sliding_window=None, layer_types=("full_attention",) * 5)
    assert visible_tokens(config, 50) == [50] * 5


def test_configs_are_frozen_hashable_and_comparable():
    with pytest.raises(FrozenInstanceError):
        ODD.hidden_size = 41
    assert len({ODD, replace(ODD), replace(ODD, hidden_size=42)}) == 2


def test_a_list_of_layer_types_becomes_a_tuple():
    config = replace(ODD, layer_types=list(ODD.layer_types))
    assert isinstance(config.layer_types, tuple)
    assert config == ODD


def test_the_length_before_yarn():
    assert ODD.initial_context_length == 24
    assert replace(ODD, rope_scaling=None).initial_context_length == 96


# Files


def test_the_published_file_is_the_preset_and_says_nothing_unknown(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GPTOSSConfig.from_json(write(tmp_path, OLD_STYLE)) == GPTOSSConfig.preset("gpt-oss-20b")


def test_a_folder_stands_for_its_config_json(tmp_path):
    write(tmp_path, OLD_STYLE)
    assert GPTOSSConfig.from_json(tmp_path) == GPTOSSConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip(tmp_path, name):
    path = tmp_path / "config.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PRESETS[name].to_json(path)
        assert GPTOSSConfig.from_json(path) == PRESETS[name]


def test_every_field_survives_a_round_trip(tmp_path):
    config = replace(
        ODD,
        tie_word_embeddings=True,
        attention_bias=False,
        router_bias=False,
        expert_bias=False,
        attention_sinks=False,
        embedding_norm="layernorm",
    )
    different = [f.name for f in fields(config) if getattr(config, f.name) == getattr(GPTOSSConfig(), f.name)]
    assert different == ["attention_out_bias"], "this test must leave no other field at its default"
    for each in (config, replace(config, attention_out_bias=False)):
        each.to_json(tmp_path)
        assert GPTOSSConfig.from_json(tmp_path) == each


def test_new_style_keeps_theta_among_the_rope_parameters(tmp_path):
    rope = OLD_STYLE["rope_scaling"] | {"rope_theta": 4321.0, "factor": 16.0, "truncate": True}
    values = changed(rope_scaling="absent", rope_theta="absent", rope_parameters=rope)
    config = GPTOSSConfig.from_json(write(tmp_path, values))
    assert config.rope_theta == 4321.0
    assert config.rope_scaling == RopeScaling(factor=16.0, truncate=True)


def test_new_style_with_theta_at_the_top(tmp_path):
    values = changed(rope_scaling="absent", rope_theta=99.0, rope_parameters={"rope_type": "default"})
    config = GPTOSSConfig.from_json(write(tmp_path, values))
    assert (config.rope_theta, config.rope_scaling) == (99.0, None)


def test_the_oldest_spelling_of_the_rope_type_and_the_length_elsewhere(tmp_path):
    values = changed(rope_scaling={"type": "yarn", "factor": 8.0}, initial_context_length=1024)
    config = GPTOSSConfig.from_json(write(tmp_path, values))
    assert config.rope_scaling == RopeScaling(factor=8.0, original_max_position_embeddings=1024)


def test_a_file_without_rope_has_gpt_oss_s(tmp_path):
    config = GPTOSSConfig.from_json(write(tmp_path, changed(rope_scaling="absent", rope_theta="absent")))
    assert config == GPTOSSConfig()


def test_the_bias_of_o_proj_follows_attention_bias_where_nothing_else_is_said(tmp_path):
    config = GPTOSSConfig.from_json(write(tmp_path, changed(attention_bias=False)))
    assert not config.attention_bias
    assert not config.attention_out_bias
    assert config.is_standard


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": None}, "rope_scaling is None"),
        ({"rope_parameters": None}, "rope_parameters is None"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "150000, but 5.0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "with a factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mscale": 2.0}}, "mscale"),
        ({"rope_scaling": {"rope_type": "default", "factor": 8.0}}, "'default'"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"head_dim": "absent"}, "lacks head_dim"),
        ({"vocab_size": "absent", "num_local_experts": "absent"}, "lacks vocab_size, num_local_experts"),
        ({"rope_theta": None}, "rope_theta is None"),
    ],
)
def test_files_of_other_architectures_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        GPTOSSConfig.from_json(write(tmp_path, changed(**changes)))


def test_keys_that_nobody_knows_are_named(tmp_path):
    with pytest.warns(UserWarning, match=r"ignored: atention_bias, unsloth_version\."):
        config = GPTOSSConfig.from_json(write(tmp_path, changed(unsloth_version="1", atention_bias=False)))
    assert config == GPTOSSConfig()


@pytest.mark.parametrize("text", ["", "{", "[1]", '"config"', "\x00\x01"])
def test_files_that_hold_no_config(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        GPTOSSConfig.from_json(path)


def test_binary_and_missing_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="not valid JSON"):
        GPTOSSConfig.from_json(path)
    with pytest.raises(FileNotFoundError):
        GPTOSSConfig.from_json(tmp_path / "other.json")


def test_a_variant_does_not_pass_for_gpt_oss(tmp_path):
    PRESETS["mini"].to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] != "gpt_oss"
    PRESETS["nano"].to_json(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "gpt_oss"
    assert "router_bias" not in values


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpt-oss-2b'.*gpt-oss-20b.*nano"):
        GPTOSSConfig.preset("gpt-oss-2b")


# Parameters


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("gpt-oss-20b", 20_914_757_184, 3_608_307_264),
        ("gpt-oss-120b", 116_829_156_672, 5_132_849_472),
        ("compact", 202_934_088, 75_393_864),
        ("mini", 73_369_088, 63_931_904),
        ("nano", 588_490_284, 270_907_164),
    ],
)
def test_published_counts(name, total, active):
    count = count_parameters(GPTOSSConfig.preset(name))
    assert (count.total, count.active) == (total, active)


@pytest.mark.parametrize(
    ("name", "body", "active_body"),
    [("xs", 650_608, 202_096), ("s", 2_183_856, 698_544), ("m", 71_473_792, 21_839_488)],
)
def test_the_course_s_own_sizes(name, body, active_body):
    count = count_parameters(GPTOSSConfig.preset(name))
    assert (count.body, count.active_body) == (body, active_body)


def by_formula(c):
    """Count a config's parameters by algebra, without names or shapes."""
    D, F, E, L = c.hidden_size, c.intermediate_size, c.num_local_experts, c.num_hidden_layers
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = D * (q + 2 * kv) + q * D
    attention += c.attention_bias * (q + 2 * kv) + c.attention_out_bias * D
    attention += c.attention_sinks * c.num_attention_heads
    expert = 3 * D * F + c.expert_bias * (2 * F + D)
    return {
        "embedding": c.vocab_size * D,
        "attention": L * attention,
        "router": L * (D + c.router_bias) * E,
        "experts": L * E * expert,
        "norms": L * 2 * D + D + (2 * D if c.embedding_norm else 0),
        "head": 0 if c.tie_word_embeddings else c.vocab_size * D,
        "active_experts": L * c.num_experts_per_tok * expert,
        "active_head": c.vocab_size * D,
    }


@pytest.mark.parametrize("flag", [None, *(f.name for f in fields(GPTOSSConfig) if f.type is bool)])
def test_every_flag_moves_its_own_part_and_no_other(flag):
    config = ODD if flag is None else replace(ODD, **{flag: not getattr(ODD, flag)})
    assert vars(count_parameters(config)) == by_formula(config)


def test_the_embedding_norm_counts_as_a_norm():
    config = replace(ODD, embedding_norm="layernorm")
    assert vars(count_parameters(config)) == by_formula(config)


def test_totals_add_up():
    count = count_parameters(ODD)
    parts = by_formula(ODD)
    stored = ("embedding", "attention", "router", "experts", "norms", "head")
    assert count.total == sum(parts[name] for name in stored)
    working = ("attention", "router", "active_experts", "norms", "active_head")
    assert count.active == sum(parts[name] for name in working)
    assert count.total == sum(math.prod(shape) for shape in parameter_shapes(ODD).values())


def test_gpt2_sizes():
    assert gpt2_parameters() == 124_439_808
    assert gpt2_parameters(n_embd=1600, n_layer=48) == 1_557_611_200
    partner = gpt2_parameters(201_088, 4_000, 1_020, 12, tie_word_embeddings=False, qkv_bias=False)
    assert partner == 564_241_560
    # What a feed-forward part of another width adds: two matrices and one bias, in each layer.
    assert gpt2_parameters(n_inner=3072 + 5) - gpt2_parameters() == 12 * 5 * (2 * 768 + 1)


# Work


def brute_force_attention(config, length):
    """Add up, token by token and layer by layer, what attention costs a sequence."""
    width = config.num_attention_heads * config.head_dim
    seen = 0
    for kind in config.layer_types:
        for token in range(length):
            window = config.sliding_window if kind == "sliding_attention" else length
            seen += sum(1 for earlier in range(token + 1) if token - earlier < window)
    return 4 * width * seen


@pytest.mark.parametrize("length", [1, 8, 9, 10, 57])
def test_attention_work_with_windows(length):
    total = sum(flops_per_token(ODD, t).attention for t in range(1, length + 1))
    assert total == brute_force_attention(ODD, length)
    assert flops_per_token(ODD, length, mean=True).attention * length == pytest.approx(total, rel=1e-12)


def test_the_rest_of_the_work_is_two_for_each_active_weight():
    cost = flops_per_token(ODD, 33)
    plain = replace(ODD, attention_bias=False, attention_out_bias=False, router_bias=False, expert_bias=False)
    plain = replace(plain, attention_sinks=False)
    count = count_parameters(plain)
    assert cost.projections == 2 * count.attention
    assert cost.router == 2 * count.router
    assert cost.experts == 2 * count.active_experts
    assert cost.head == 2 * count.active_head
    parts = (cost.projections, cost.attention, cost.router, cost.experts, cost.head)
    assert cost.forward == sum(parts)
    assert cost.training == 3 * cost.forward


@pytest.mark.parametrize("length", [0, -3, 2.0, "8"])
def test_a_context_has_a_whole_number_of_tokens(length):
    for function in (visible_tokens, flops_per_token, kv_cache_bytes):
        with pytest.raises(ValueError, match="context_length is"):
            function(ODD, length)


# Bytes


def test_the_published_files():
    assert weight_bytes(GPTOSSConfig.preset("gpt-oss-20b"), "mxfp4") == 13_761_264_768
    assert round(weight_bytes(GPTOSSConfig.preset("gpt-oss-120b"), "mxfp4") / 2**30, 1) == 60.8


def test_bytes_by_precision():
    count = count_parameters(ODD)
    L, E, D, F = 5, 7, 40, 56
    assert weight_bytes(ODD, "fp32") == 4 * count.total
    assert weight_bytes(ODD, "bf16") == weight_bytes(ODD) == 2 * count.total
    expert_biases = L * E * (2 * F + D)
    vectors = expert_biases + L * ((6 + 2 * 2) * 10 + D + 6 + E) + count.norms
    assert weight_bytes(ODD, "int8") == (count.total - vectors) + 2 * vectors
    # Rows of 40 and of 56 numbers take two blocks of 32 each, of 17 bytes.
    packed = L * E * (2 * F * 2 * 17 + D * 2 * 17)
    rest = count.total - count.experts + expert_biases
    assert weight_bytes(ODD, "mxfp4") == packed + 2 * rest
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        weight_bytes(ODD, "fp8")


@pytest.mark.parametrize("length", [1, 9, 10, 96])
def test_cache_bytes(length):
    full, sliding = 3, 2
    a_token = 2 * 2 * 10  # key and value, 2 heads, 10 numbers each
    kept = full * length + sliding * min(length, 9)
    assert kv_cache_bytes(ODD, length) == kept * a_token * 2
    assert kv_cache_bytes(ODD, length, batch_size=3, bytes_per_value=4) == kept * a_token * 4 * 3
    assert kv_cache_bytes(ODD, length, sliding=False) == 5 * length * a_token * 2
