"""Masks and the attention block equal those of transformers: full tensors and every gradient, in fp32."""

import pytest
import torch

from gptoss_lib.attention import Attention
from gptoss_lib.config import GPTOSSConfig, RopeScaling
from gptoss_lib.masks import attention_mask, padded_positions
from gptoss_lib.rope import RotaryEmbedding
from tests.growing_cache import GrowingCache

pytest.importorskip("transformers")
from transformers import DynamicCache, GptOssConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding

B = 3
# hidden, heads, key/value heads, head_dim, window: all different, and a case with gpt-oss's head and window.
SIZES = {"small": (40, 6, 2, 8, 5), "gpt-oss heads": (72, 16, 2, 64, 128)}
YARN = RopeScaling(factor=4.0, original_max_position_embeddings=1024)


def pair(size="small", bias=True, yarn=False, layer_idx=0, seed=0):
    """Our layer and theirs with the same weights, no bias zero, and what both take their angles from."""
    hidden, heads, kv, head_dim, window = SIZES[size]
    ours_config = GPTOSSConfig(
        vocab_size=61,
        hidden_size=hidden,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        sliding_window=window,
        rope_theta=10_000.0,
        rope_scaling=YARN if yarn else None,
        max_position_embeddings=4096,
        attention_bias=bias,
        attention_out_bias=bias,
    )
    parameters = {"rope_type": "default", "rope_theta": 10_000.0}
    if yarn:
        parameters |= {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        }
        parameters |= {"original_max_position_embeddings": 1024}
    config = GptOssConfig(
        vocab_size=61,
        hidden_size=hidden,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        sliding_window=window,
        rope_parameters=parameters,
        max_position_embeddings=4096,
        attention_bias=bias,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    theirs = GptOssAttention(config, layer_idx)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (hidden**-0.5 if name.endswith("weight") else 0.7))
    ours = Attention(ours_config, layer_idx)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    rope = RotaryEmbedding(head_dim, 10_000.0, ours_config.rope_scaling)
    return ours, theirs, rope, GptOssRotaryEmbedding(config), config


def their_mask(config, layer_idx, x, attention_mask=None, cache=None, position_ids=None):
    make = create_causal_mask if layer_idx % 2 else create_sliding_window_causal_mask
    return make(
        config=config,
        inputs_embeds=x,
        attention_mask=attention_mask,
        past_key_values=cache,
        position_ids=position_ids,
    )


def stream(T, hidden, seed=1):
    return torch.randn(B, T, hidden, generator=torch.Generator().manual_seed(seed))


LAYERS = pytest.mark.parametrize("layer_idx", [0, 1], ids=["sliding", "full"])


@LAYERS
@pytest.mark.parametrize("T", [1, 4, 5, 6, 23])
def test_masks_of_whole_texts(layer_idx, T, record_property):
    *_, config = pair(layer_idx=layer_idx)
    theirs = their_mask(config, layer_idx, stream(T, 40))
    line = torch.arange(T)
    assert torch.equal(attention_mask(line, line, None if layer_idx else 5).expand(B, 1, T, T), theirs == 0)
    record_property("component", "masks")
    record_property("largest difference", "equal")


@LAYERS
def test_masks_with_padding(layer_idx, record_property):
    *_, config = pair(layer_idx=layer_idx)
    real = torch.arange(17) >= torch.tensor([[0], [4], [11]])
    theirs = their_mask(config, layer_idx, stream(17, 40), attention_mask=real.long())[:, 0] == 0
    positions = padded_positions(real)
    ours = attention_mask(positions, positions, None if layer_idx else 5)
    assert torch.equal(ours[real], theirs[real]), "rows of padding are nobody's business"
    record_property("component", "masks")
    record_property("largest difference", "equal")


@LAYERS
def test_masks_of_packed_documents(layer_idx, record_property):
    *_, config = pair(layer_idx=layer_idx)
    line = torch.arange(17)
    documents = torch.stack([(line >= 6).long() + (line >= 13), (line >= 1).long(), line * 0])
    restarted = line - torch.stack(
        [torch.where(d == 0, 0, torch.where(d == 1, int((d == 0).sum()), 13)) for d in documents]
    )
    theirs = their_mask(config, layer_idx, stream(17, 40), position_ids=restarted)[:, 0] == 0
    assert torch.equal(attention_mask(line, line, None if layer_idx else 5, documents, documents), theirs)
    record_property("component", "masks")
    record_property("largest difference", "equal")


@LAYERS
@pytest.mark.parametrize("new", [1, 3, 8])
def test_masks_with_a_cache(layer_idx, new, record_property):
    *_, config = pair(layer_idx=layer_idx)
    cache = DynamicCache(config=config)
    for index in range(2):
        cache.update(torch.zeros(B, 2, 9, 8), torch.zeros(B, 2, 9, 8), index)
    theirs = their_mask(config, layer_idx, stream(new, 40), cache=cache)[:, 0] == 0
    keys = torch.arange(9 + new)[-theirs.shape[-1] :]  # a sliding layer of theirs drops what is too old
    ours = attention_mask(torch.arange(9, 9 + new), keys, None if layer_idx else 5)
    assert torch.equal(ours.expand_as(theirs), theirs)
    record_property("component", "masks")
    record_property("largest difference", "equal")


@LAYERS
@pytest.mark.parametrize(
    ("size", "T", "bias", "yarn"),
    [
        ("small", 1, True, False),
        ("small", 5, True, False),
        ("small", 6, True, False),
        ("small", 12, True, False),
        ("small", 23, True, False),
        ("small", 20, False, False),
        ("gpt-oss heads", 300, True, True),
        ("gpt-oss heads", 530, True, True),
    ],
)
def test_outputs_and_gradients(layer_idx, size, T, bias, yarn, record_property):
    record_property("component", "attention, output and gradients")
    ours, theirs, rope, their_rope, config = pair(size, bias, yarn, layer_idx)
    x, positions = stream(T, SIZES[size][0]), torch.arange(T)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) / T**0.5
    results = []
    for block in (ours, theirs):
        leaf = x.clone().requires_grad_()
        if block is ours:
            out = block(leaf, rope(positions))
        else:
            out, _ = block(leaf, their_rope(x, positions[None]), their_mask(config, layer_idx, x))
        out.backward(upstream)
        gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
        results.append({"output": out.detach(), "x": leaf.grad} | gradients)
    mine, reference = results
    assert mine.keys() == reference.keys()
    differences = [
        (mine[name] - value).abs().max() / value.abs().max().clamp(min=1) for name, value in reference.items()
    ]
    record_property("largest difference", max(differences).item())
    assert reference["output"].abs().max() > 1, (
        "the test is only worth something if the outputs are not small"
    )
    for name in mine:
        torch.testing.assert_close(
            mine[name], reference[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@LAYERS
def test_padded_texts(layer_idx, record_property):
    ours, theirs, rope, their_rope, config = pair(layer_idx=layer_idx)
    x = stream(17, 40)
    real = torch.arange(17) >= torch.tensor([[0], [4], [11]])
    positions = padded_positions(real)
    mine = ours(x, rope(positions.clamp(min=0)), position_ids=positions)
    reference, _ = theirs(
        x, their_rope(x, positions.clamp(min=0)), their_mask(config, layer_idx, x, attention_mask=real.long())
    )
    torch.testing.assert_close(mine[real], reference[real], atol=1e-5, rtol=1e-5)
    record_property("component", "attention, padded texts")
    record_property("largest difference", (mine[real] - reference[real]).abs().max().item())


@LAYERS
def test_with_a_cache(layer_idx, record_property):
    ours, theirs, rope, their_rope, config = pair(layer_idx=layer_idx)
    x, mine, reference = stream(19, 40), GrowingCache(), DynamicCache(config=config)
    start, differences = 0, []
    with torch.no_grad():
        for length in (7, 1, 1, 6, 4):
            part, at = x[:, start : start + length], torch.arange(start, start + length)
            mask = their_mask(config, layer_idx, part, cache=reference)
            expected, _ = theirs(part, their_rope(part, at[None]), mask, past_key_values=reference)
            result = ours(part, rope(at), cache=mine)
            differences.append((result - expected).abs().max().item())
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
            start += length
    record_property("component", "attention, cached")
    record_property("largest difference", max(differences))
