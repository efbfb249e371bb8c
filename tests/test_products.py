"""Products through oneDNN and through PyTorch's default are equal, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib import products
from gptoss_lib.products import Linear, linear, product


@pytest.fixture(params=["default", "oneDNN"])
def library(request, monkeypatch):
    """Both libraries, whichever this processor prefers."""
    monkeypatch.setattr(products, "ONEDNN_IS_FASTER", request.param == "oneDNN")
    return request.param


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(a, b, bias=None):
    result = a.double() @ b.double()
    return (result if bias is None else result + bias.double()).float()


@pytest.mark.parametrize("rows", [0, 1, 2, 17, 130])
def test_product(library, rows):
    a, b, bias = numbers(rows, 23), numbers(23, 31, seed=1), numbers(31, seed=2)
    torch.testing.assert_close(product(a, b), exact(a, b), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(a, b, bias), exact(a, b, bias), rtol=1e-5, atol=1e-5)
    out = torch.full((2, rows, 31), 7.0)
    assert product(a, b, bias, out=out[1]) is not None
    torch.testing.assert_close(out[1], exact(a, b, bias), rtol=1e-5, atol=1e-5)
    assert (out[0] == 7).all()


def test_product_of_transposed_matrices(library):
    a, b = numbers(23, 17), numbers(31, 23, seed=1)
    torch.testing.assert_close(product(a.t(), b.t()), exact(a.t(), b.t()), rtol=1e-5, atol=1e-5)
    nothing = product(numbers(0, 5).t(), numbers(0, 7))
    assert nothing.shape == (5, 7) and (nothing == 0).all(), "a sum over nothing is zero"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_go_to_pytorch(library, dtype):
    a, b = numbers(5, 23).to(dtype), numbers(23, 9, seed=1).to(dtype)
    assert torch.equal(product(a, b), a @ b)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [64, 96, 97])
@pytest.mark.parametrize("shape", [(1, 1, 23), (1, 23), (23,)])
def test_a_single_row(library, shape, outputs, bias):
    x, weight = numbers(*shape), numbers(23, outputs, seed=1).t()
    b = numbers(outputs, seed=2) if bias else None
    with torch.no_grad():
        for laid_out in (weight, weight.contiguous()):
            torch.testing.assert_close(linear(x, laid_out, b), F.linear(x, weight, b), rtol=1e-5, atol=1e-5)
    assert linear(x, weight, b).shape == (*shape[:-1], outputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 23), (1, 1, 23), (0, 23), (23,)])
def test_linear(library, shape, bias):
    results = []
    for function in (linear, F.linear):
        x, weight = numbers(*shape).requires_grad_(), numbers(31, 23, seed=1).requires_grad_()
        b = numbers(31, seed=2).requires_grad_() if bias else None
        output = function(x, weight, b)
        output.backward(numbers(*output.shape, seed=3))
        results.append([output, x.grad, weight.grad, *([b.grad] if bias else [])])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient(library):
    layer = Linear(23, 31)
    layer.weight.requires_grad_(False)
    layer(numbers(4, 23).requires_grad_()).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None


def test_autocast_is_respected(library):
    layer = Linear(23, 31)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(numbers(4, 23)).dtype == torch.bfloat16


def test_the_same_under_a_compiler(library):
    layer, x = Linear(23, 31), numbers(1, 1, 23)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():  # one row: written as products and a sum
        torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    x = numbers(4, 5, 23)
    torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    compiled(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((31,), 20.0))


def test_the_state_dict_is_that_of_nn_linear():
    assert Linear(3, 5).state_dict().keys() == torch.nn.Linear(3, 5).state_dict().keys()
