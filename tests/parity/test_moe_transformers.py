"""SwiGLU and the mixture of experts equal transformers' and OpenAI's, gradients included."""

import pytest
import torch

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.moe import MoE, Router, load_balancing_loss, moe_reference
from gptoss_lib.swiglu import join_gate_up, split_gate_up, swiglu, swiglu_backward, swiglu_parts

pytest.importorskip("transformers")
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import (
    GptOssExperts,
    GptOssMLP,
    GptOssTopKRouter,
    load_balancing_loss_func,
)

B, T, D, WIDTH, E, K = 2, 37, 24, 40, 7, 3


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(implementation="eager", top_k=K, num_experts=E):
    """Our layer and transformers', with the same random weights and biases."""
    ours = MoE(
        GPTOSSConfig(
            hidden_size=D, intermediate_size=WIDTH, num_local_experts=num_experts, num_experts_per_tok=top_k
        ),
        allow_frozen_router=True,
    )
    config = GptOssConfig(
        hidden_size=D, intermediate_size=WIDTH, num_local_experts=num_experts, num_experts_per_tok=top_k
    )
    config._experts_implementation = implementation
    theirs = GptOssMLP(config)
    for index, parameter in enumerate(ours.parameters()):
        parameter.data = numbers(*parameter.shape, seed=index + 1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def openai_swiglu(x, alpha=1.702, limit=7.0):
    """OpenAI's definition, in its order of operations (``swiglu`` in gpt_oss/torch/model.py)."""
    gate, linear = x[..., ::2], x[..., 1::2]
    gate, linear = gate.clamp(min=None, max=limit), linear.clamp(min=-limit, max=limit)
    return gate * torch.sigmoid(alpha * gate) * (linear + 1)


def test_published_settings(record_property):
    ours, theirs = GPTOSSConfig(), GptOssConfig()
    assert (ours.swiglu_alpha, ours.swiglu_limit) == (theirs.swiglu_alpha, theirs.swiglu_limit)
    record_property("component", "SwiGLU's settings")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0, 100.0])
def test_swiglu(scale, record_property):
    record_property("component", "SwiGLU")
    record_property("tolerance", 1e-6)
    experts = GptOssExperts(GptOssConfig(hidden_size=D, intermediate_size=WIDTH, num_local_experts=E))
    x, upstream = numbers(B, T, 2 * WIDTH, scale=scale), numbers(B, T, WIDTH, seed=1)
    expected = {}
    for name, function in (("transformers", experts._apply_gate), ("OpenAI", openai_swiglu)):
        leaf = x.clone().requires_grad_()
        output = function(leaf)
        output.backward(upstream)
        expected[name] = (output.detach(), leaf.grad)
    leaf = x.clone().requires_grad_()
    output = swiglu(leaf)
    output.backward(upstream)
    gate, up = split_gate_up(x)
    by_hand = join_gate_up(*swiglu_backward(upstream, gate, up))
    record_property("largest difference", (output - expected["transformers"][0]).abs().max().item())
    for reference, gradient in expected.values():
        torch.testing.assert_close(output, reference, rtol=1e-6, atol=0)
        torch.testing.assert_close(swiglu_parts(gate, up), reference, rtol=1e-5, atol=1e-10)
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-5, atol=1e-10)
        torch.testing.assert_close(by_hand, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_swiglu_in_16_bits_bit_for_bit(dtype, record_property):
    experts = GptOssExperts(GptOssConfig(hidden_size=D, intermediate_size=WIDTH, num_local_experts=E))
    x = numbers(B, T, 2 * WIDTH, scale=8).to(dtype)
    assert torch.equal(swiglu(x), experts._apply_gate(x))
    record_property("component", "SwiGLU, 16 bits")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("top_k", [1, K, E])
def test_router(top_k, record_property):
    record_property("component", "router")
    record_property("tolerance", 1e-6)
    ours = Router(GPTOSSConfig(hidden_size=D, num_local_experts=E, num_experts_per_tok=top_k))
    theirs = GptOssTopKRouter(GptOssConfig(hidden_size=D, num_local_experts=E, num_experts_per_tok=top_k))
    for index, parameter in enumerate(ours.parameters()):
        parameter.data = numbers(*parameter.shape, seed=index + 1)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, upstream = numbers(B * T, D), numbers(B * T, top_k, seed=9)
    (logits, scores, indices), expected = ours(x), theirs(x)
    record_property("largest difference", (scores - expected[1]).abs().max().item())
    torch.testing.assert_close(logits, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores, expected[1], rtol=1e-6, atol=1e-6)
    assert torch.equal(indices, expected[2])
    scores.backward(upstream)
    expected[1].backward(upstream)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("top_k, num_experts", [(K, E), (1, E), (E, E), (2, 32)])
def test_layer(implementation, top_k, num_experts, record_property):
    record_property("component", "experts, output and gradients")
    ours, theirs = pair(implementation, top_k, num_experts)
    x, upstream = numbers(B, T, D), numbers(B, T, D, seed=20)
    inner = torch.einsum("btd,edf->btef", x, ours.experts.gate_up_proj)
    assert (inner[..., ::2] > 7).any() and (inner[..., ::2] < -7).any() and (inner[..., 1::2].abs() > 7).any()
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        output = layer(leaf)[0]
        output.backward(upstream)
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        results.append({"output": output.detach(), "x": leaf.grad} | gradients)
    result, expected = results
    assert result.keys() == expected.keys()
    differences = {
        name: ((result[name] - value).abs().max() / value.abs().max().clamp(min=1)).item()
        for name, value in expected.items()
    }
    record_property("largest difference", max(differences.values()))
    for name, difference in differences.items():
        assert difference < 1e-5, f"{name} differs by {difference:.1e} of its largest value"


def test_the_loop_too(record_property):
    ours, theirs = pair()
    x = numbers(1, 9, D)
    with torch.no_grad():
        expected = theirs(x)[0]
        result, size = moe_reference(ours, x)[0], expected.abs().max().item()
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * size)
    record_property("component", "experts, the obvious loop")
    record_property("largest difference", (result - expected).abs().max().item() / size)


@pytest.mark.parametrize("top_k", [1, K])
def test_balancing_loss(top_k, record_property):
    record_property("component", "balancing loss")
    record_property("tolerance", 1e-6)
    layers = [numbers(B * T, E, seed=seed, scale=2).requires_grad_() for seed in range(3)]
    expected = load_balancing_loss_func(tuple(layers), E, top_k)
    result = load_balancing_loss(torch.cat(layers), top_k)  # transformers puts the layers together
    record_property("largest difference", abs(result - expected).item())
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(result, layers), torch.autograd.grad(expected, layers)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    single = load_balancing_loss(layers[0], top_k)
    torch.testing.assert_close(single, load_balancing_loss_func((layers[0],), E, top_k), rtol=1e-6, atol=1e-6)


def test_balancing_loss_with_padding(record_property):
    logits = numbers(B * T, E, scale=2)
    mask = (torch.arange(T) < torch.tensor([[T], [T - 15]])).long()  # [B, T]
    expected = load_balancing_loss_func((logits,), E, K, mask)
    result = load_balancing_loss(logits, K, mask.flatten())
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    record_property("component", "balancing loss")
    record_property("tolerance", 1e-6)
    record_property("largest difference", abs(result - expected).item())


def test_bfloat16_is_as_close_to_the_truth(record_property):
    ours, theirs = pair("grouped_mm")
    x = numbers(4, 300, D)
    with torch.no_grad():
        for parameter in ours.experts.parameters():
            parameter.copy_((0.2 * parameter).bfloat16())
        x = x.bfloat16().float()
        theirs.load_state_dict(ours.state_dict())
        exact = ours(x)[0]
        _, scores, indices = ours.router(x.flatten(0, 1))
        results = []
        for layer in (ours, theirs):
            experts = layer.experts.bfloat16()
            arguments = (indices, scores.bfloat16())
            results.append(experts(x.flatten(0, 1).bfloat16(), *arguments).float().view_as(exact))
    errors = [((result - exact).norm() / exact.norm()).item() for result in results]
    assert errors[0] < 1.1 * errors[1], f"our error {errors[0]:.2%}, theirs {errors[1]:.2%}"
    record_property("largest difference", "no comparison")
