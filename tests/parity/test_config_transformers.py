"""Names, shapes, counts, files and FLOPs against transformers' GptOss and GPT-2, on the meta device."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptoss_lib.config import (
    PRESETS,
    GPTOSSConfig,
    count_parameters,
    flops_per_token,
    gpt2_parameters,
    parameter_shapes,
)
from tests.odd_config import ODD

transformers = pytest.importorskip("transformers")

STANDARD = {
    **{name: config for name, config in PRESETS.items() if config.is_standard},
    "odd": ODD,
    "odd, tied, no attention biases": replace(
        ODD, tie_word_embeddings=True, attention_bias=False, attention_out_bias=False, rope_scaling=None
    ),
}
SAME_NAME = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
    head_dim num_local_experts num_experts_per_tok sliding_window max_position_embeddings
    initial_context_length
    rms_norm_eps swiglu_alpha swiglu_limit initializer_range router_aux_loss_coef tie_word_embeddings
    attention_bias
"""


def theirs(config, tmp_path, **changes):
    """Return transformers' config of the file that ours writes."""
    config.to_json(tmp_path)
    return transformers.GptOssConfig.from_pretrained(tmp_path, **changes)


def on_meta(their_config):
    with torch.device("meta"):
        return transformers.GptOssForCausalLM(their_config)


@pytest.mark.parametrize("name", STANDARD)
def test_transformers_reads_our_files(name, tmp_path, record_property):
    config = STANDARD[name]
    other = theirs(config, tmp_path)
    for field in SAME_NAME.split():
        assert getattr(other, field) == getattr(config, field), field
    assert tuple(other.layer_types) == config.layer_types
    assert other.rope_parameters["rope_theta"] == config.rope_theta
    if config.rope_scaling is None:
        assert other.rope_parameters["rope_type"] == "default"
    else:
        assert other.rope_parameters["rope_type"] == "yarn"
        for key, value in vars(config.rope_scaling).items():
            assert other.rope_parameters[key] == value, key
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path), transformers.GptOssConfig)
    record_property("component", "configuration files")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("name", STANDARD)
def test_we_read_transformers_files(name, tmp_path, record_property):
    config = STANDARD[name]
    folder = tmp_path / "theirs"
    theirs(config, tmp_path).save_pretrained(folder)
    assert "rope_parameters" in json.loads((folder / "config.json").read_text())
    assert GPTOSSConfig.from_json(folder) == config
    record_property("component", "configuration files")
    record_property("largest difference", "equal")


def test_we_read_what_transformers_writes_by_default(tmp_path, record_property):
    transformers.GptOssConfig().save_pretrained(tmp_path)
    ours = GPTOSSConfig.from_json(tmp_path)
    assert ours == replace(GPTOSSConfig.preset("gpt-oss-120b"), router_aux_loss_coef=0.001)
    record_property("component", "configuration files")
    record_property("largest difference", "equal")


def test_transformers_refuses_our_variants(tmp_path, record_property):
    PRESETS["mini"].to_json(tmp_path)
    with pytest.raises(ValueError, match="gpt_oss_variant"):
        transformers.AutoConfig.from_pretrained(tmp_path)
    record_property("largest difference", "no comparison")


def test_transformers_reads_null_as_yarn(record_property):
    # The reason why from_json refuses to guess.
    other = transformers.GptOssConfig(rope_scaling=None, rope_theta=77.0)
    assert other.rope_parameters["rope_type"] == "yarn"
    record_property("largest difference", "no comparison")


@pytest.mark.parametrize("name", STANDARD)
def test_names_and_shapes(name, tmp_path, record_property):
    model = on_meta(theirs(STANDARD[name], tmp_path))
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    assert parameter_shapes(STANDARD[name]) == shapes
    record_property("component", "parameter names and shapes")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b", "odd"])
def test_the_breakdown_by_module(name, tmp_path, record_property):
    config = STANDARD[name]
    model = on_meta(theirs(config, tmp_path))
    parts = Counter()
    owners = {
        "GptOssAttention": "attention",
        "GptOssTopKRouter": "router",
        "GptOssExperts": "experts",
        "GptOssRMSNorm": "norms",
        "Embedding": "embedding",
    }
    for module in model.modules():
        part = owners.get(type(module).__name__)
        if part:
            parts[part] += sum(value.numel() for value in module.parameters())
    parts["head"] = model.lm_head.weight.numel()
    count = count_parameters(config)
    assert {part: getattr(count, part) for part in parts} == parts
    assert count.total == model.num_parameters() == sum(parts.values())
    record_property("component", "parameter counts")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("length", [1, 9, 23])
def test_flops_against_a_counter(length, tmp_path, record_property):
    # Eager attention multiplies every query with every key and masks later: all tokens see `length`.
    config = replace(ODD, layer_types=("full_attention",) * 5)
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(
        theirs(config, tmp_path, attn_implementation="eager", experts_implementation="eager")
    )
    input_ids = torch.randint(config.vocab_size, (1, length))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(input_ids=input_ids)
    found = Counter()
    for name, flops in counter.get_flop_counts().items():
        kind = next(
            (k for k in ("self_attn", "mlp.router", "mlp.experts", "lm_head") if name.endswith(k)), None
        )
        if kind:
            found[kind] += sum(flops.values())
    cost = flops_per_token(config, length)
    assert found["self_attn"] == length * (cost.projections + cost.attention)
    assert found["mlp.router"] == length * cost.router
    assert found["mlp.experts"] == length * cost.experts
    assert found["lm_head"] == length * cost.head
    record_property("component", "FLOPs of one forward pass")
    record_property("largest difference", "equal")


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"n_embd": 1600, "n_layer": 48, "n_head": 25},
        {"vocab_size": 331, "n_positions": 50, "n_embd": 24, "n_layer": 3, "n_head": 2, "n_inner": 55},
    ],
)
def test_gpt2_counts(sizes, record_property):
    with torch.device("meta"):
        tied = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        untied = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, tie_word_embeddings=False))
    ours = {key: value for key, value in sizes.items() if key != "n_head"}
    assert gpt2_parameters(**ours) == tied.num_parameters()
    assert gpt2_parameters(**ours, tie_word_embeddings=False) == untied.num_parameters()
    biases = 3 * tied.config.n_embd * tied.config.n_layer
    assert gpt2_parameters(**ours, qkv_bias=False) == tied.num_parameters() - biases
    record_property("component", "GPT-2's parameter counts")
    record_property("largest difference", "equal")
