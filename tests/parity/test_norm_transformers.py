"""RMSNorm equals transformers' GptOssRMSNorm: in bf16 bit for bit, in fp32 forward and backward."""

import pytest
import torch

from gptoss_lib.norm import RMSNorm, rms_norm_reference

pytest.importorskip("transformers")
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

T, D = 33, 2880


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(eps=1e-5, dtype=torch.float32):
    ours, theirs = RMSNorm(D, eps=eps, dtype=dtype), GptOssRMSNorm(D, eps=eps).to(dtype)
    ours.weight.data = (1 + 0.3 * numbers(D, seed=1)).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_same_epsilon_as_the_published_model(record_property):
    assert RMSNorm(D).eps == GptOssConfig().rms_norm_eps
    record_property("component", "RMSNorm's epsilon")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("scale", [1e-3, 0.02, 1.0, 1e3])
def test_fp32(scale, record_property):
    record_property("component", "RMSNorm, fp32")
    record_property("tolerance", 1e-6)
    ours, theirs = pair()
    x, upstream = scale * numbers(2, T, D), numbers(2, T, D, seed=2)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [norm(y) for norm, y in zip((ours, theirs), inputs, strict=True)]
    for output in outputs:
        output.backward(upstream)
    record_property("largest difference", (outputs[0] - outputs[1]).abs().max().item())
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6 / scale)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16 weight", "fp32 weight"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bfloat16_bit_for_bit(dtype, scale, record_property):
    ours, theirs = pair(dtype=dtype)
    x = (scale * numbers(4, T, D)).bfloat16()
    expected = theirs(x)
    assert ours(x).dtype == expected.dtype == torch.bfloat16
    assert torch.equal(ours(x), expected)
    assert torch.equal(rms_norm_reference(x, ours.weight), expected)
    record_property("component", "RMSNorm, bf16")
    record_property("largest difference", "equal")


def test_casting_before_scaling_would_be_seen(record_property):
    ours, _ = pair(dtype=torch.bfloat16)
    llama = LlamaRMSNorm(D, eps=1e-5).bfloat16()
    llama.load_state_dict(ours.state_dict())
    x = numbers(4, T, D).bfloat16()
    assert (ours(x) != llama(x)).float().mean() > 0.1
    record_property("largest difference", "no comparison")
