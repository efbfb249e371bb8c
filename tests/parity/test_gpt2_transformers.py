"""Logits and every gradient equal those of Hugging Face's GPT2LMHeadModel, in fp32."""

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib.gpt2 import GPT2, GPT2Config, from_huggingface, to_huggingface
from tests.growing_cache import GrowingCache

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 59, "n_positions": 23, "n_embd": 42, "n_layer": 3, "n_head": 7}


def pair(attention="eager", **changes):
    """A Hugging Face model with large weights and biases that are not zero, and ours with the same."""
    sizes = SIZES | changes
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **sizes,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation=attention,
        )
    )
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    config = GPT2Config(**sizes)
    ours = GPT2(config)
    ours.load_state_dict(from_huggingface(reference.state_dict(), config), strict=True)
    return ours, reference


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_inner": 50},
        {"tie_word_embeddings": False},
        {"layer_norm_epsilon": 0.01},
        {"n_embd": 45, "n_head": 5, "n_layer": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("T", [1, 2, 17, 23])
def test_logits_and_gradients(changes, attention, T, record_property):
    ours, reference = pair(attention, **changes)
    ids = torch.randint(59, (3, T + 1), generator=torch.Generator().manual_seed(T))
    mine, theirs = ours(ids[:, :T]), reference(ids[:, :T]).logits
    assert theirs.abs().max() > 2, "the test is only worth something if the logits are not small"
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)

    for logits in (mine, theirs):
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    if reference.config.tie_word_embeddings:
        gradients.pop("lm_head.weight", None)
    translated = from_huggingface(gradients, ours.config)
    assert translated.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, translated[name], atol=1e-5, rtol=1e-5, msg=name)
    record_property("component", "GPT-2, logits and gradients")
    gradients = [(parameter.grad, translated[name]) for name, parameter in ours.named_parameters()]
    record_property(
        "largest difference", max((a - b).abs().max().item() for a, b in [(mine, theirs), *gradients])
    )


@pytest.mark.parametrize("tied", [True, False])
def test_our_weights_load_into_theirs(tied, record_property):
    ours, reference = pair(tie_word_embeddings=tied)
    torch.manual_seed(1)
    ours.reset_parameters()
    reference.load_state_dict(to_huggingface(ours), strict=True)
    ids = torch.randint(59, (2, 23))
    torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-5, rtol=1e-5)
    record_property("component", "GPT-2, our weights in theirs")
    record_property("largest difference", (ours(ids) - reference(ids).logits).abs().max().item())


def test_saved_checkpoint_of_theirs_loads(tmp_path, record_property):
    """save_pretrained's own config.json and safetensors file, as a published checkpoint has them."""
    from safetensors.torch import load_file

    ours, reference = pair(n_inner=50)
    reference.save_pretrained(tmp_path)
    config = GPT2Config.from_json(tmp_path / "config.json")
    assert config == ours.config
    again = GPT2(config)
    again.load_state_dict(from_huggingface(load_file(tmp_path / "model.safetensors"), config), strict=True)
    ids = torch.randint(59, (1, 23))
    assert torch.equal(again(ids), ours(ids))
    record_property("component", "GPT-2's names, shapes and files")
    record_property("largest difference", "equal")


def test_config_of_ours_is_read_by_theirs(tmp_path, record_property):
    GPT2Config(**SIZES, n_inner=50, tie_word_embeddings=False).to_json(tmp_path / "config.json")
    theirs = transformers.GPT2Config.from_json_file(tmp_path / "config.json")
    for name, value in (SIZES | {"n_inner": 50, "tie_word_embeddings": False}).items():
        assert getattr(theirs, name) == value
    record_property("component", "GPT-2's names, shapes and files")
    record_property("largest difference", "equal")


def test_gpt2_small_has_their_names_and_shapes(record_property):
    with torch.device("meta"):
        reference = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        ours = GPT2(GPT2Config())
    theirs = {name: list(t.shape) for name, t in reference.state_dict().items()}
    assert {name: list(t.shape) for name, t in to_huggingface(ours).items()} == theirs
    assert (
        sum(p.numel() for p in reference.parameters())
        == sum(p.numel() for p in ours.parameters())
        == 124_439_808
    )
    record_property("component", "GPT-2's names, shapes and files")
    record_property("largest difference", "equal")


def test_cached_logits_equal_theirs(record_property):
    ours, reference = pair()
    ids = torch.randint(59, (2, 23), generator=torch.Generator().manual_seed(9))
    cache = GrowingCache()
    outputs = [ours(piece, cache) for piece in ids.split([11, 1, 1, 10], dim=1)]
    result, expected = torch.cat(outputs, dim=1), reference(ids).logits
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    record_property("component", "GPT-2, cached")
    record_property("largest difference", (result - expected).abs().max().item())
