"""The mixture of experts: equal to its loop forward and backward, edge cases, losses, refusals."""

import dataclasses
import gc
import math

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib.config import GPTOSSConfig, count_parameters, parameter_shapes
from gptoss_lib.moe import (
    _GRADIENT_MEMORY,
    Experts,
    MoE,
    Router,
    _count_holders,
    _grouped_experts,
    _run_experts,
    _sorted_experts,
    expert_load,
    importance_loss,
    load_balancing_loss,
    moe_reference,
    router_z_loss,
    sort_by_expert,
)

B, T, D, WIDTH, E, K = 2, 11, 12, 20, 7, 3
CONFIG = GPTOSSConfig(
    vocab_size=50,
    hidden_size=D,
    intermediate_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    num_local_experts=E,
    num_experts_per_tok=K,
)


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed=1, dtype=torch.float64, **changes):
    """A layer with random weights and biases, large enough to go beyond the clamp."""
    moe = MoE(dataclasses.replace(CONFIG, **changes), allow_frozen_router=True).to(dtype)
    for index, parameter in enumerate(moe.parameters()):
        parameter.data = numbers(*parameter.shape, seed=100 * seed + index).to(dtype)
    return moe


def run(moe, function, x, upstream):
    """Return output, logits and all gradients, by name."""
    moe.zero_grad()
    x = x.clone().requires_grad_()
    output, logits = function(x)
    ((output * upstream).sum() + (logits * 0.1).square().sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in moe.named_parameters()}
    return {"output": output.detach(), "logits": logits.detach(), "x": x.grad} | gradients


def compare(moe, x, seed=5, **tolerance):
    upstream = numbers(*x.shape, seed=seed).to(x.dtype)
    expected = run(moe, lambda y: moe_reference(moe, y), x, upstream)
    result = run(moe, moe, x, upstream)
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_experts_per_tok": 1},
        {"num_experts_per_tok": E},
        {"num_local_experts": 1, "num_experts_per_tok": 1},
        {"router_bias": False, "expert_bias": False},
        {"swiglu_alpha": 1.0, "swiglu_limit": 2.0},
    ],
    ids=["plain", "K = 1", "K = E", "one expert", "no biases", "other SwiGLU"],
)
def test_equals_the_loop(changes):
    x = numbers(B, T, D)
    moe = made(**changes)
    inner = torch.einsum("btd,edf->btef", x, moe.experts.gate_up_proj)
    assert (inner.abs() > 7).double().mean() > 0.01, "the test goes beyond the clamp"
    compare(moe, x, rtol=1e-9, atol=1e-9)


def test_by_hand():
    """Two experts at work of three, written out with numbers."""
    moe = made(num_local_experts=3, num_experts_per_tok=2)
    token = numbers(D, seed=3)
    scores = (moe.router.weight @ token + moe.router.bias).tolist()
    best, second, _ = sorted(range(3), key=lambda e: -scores[e])
    share = 1 / (1 + math.exp(scores[second] - scores[best]))
    expected = torch.zeros(D, dtype=torch.float64)
    for expert, weight in ((best, share), (second, 1 - share)):
        inner = token @ moe.experts.gate_up_proj[expert] + moe.experts.gate_up_proj_bias[expert]
        gate, up = inner[0::2].clamp(max=7.0), inner[1::2].clamp(-7.0, 7.0)
        hidden = gate / (1 + torch.exp(-1.702 * gate)) * (1 + up)
        expected += weight * (hidden @ moe.experts.down_proj[expert] + moe.experts.down_proj_bias[expert])
    output, logits = moe(token.view(1, 1, D))
    torch.testing.assert_close(output[0, 0], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits[0].tolist(), scores, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1, D), (1, 2, D), (3, 1, D)])
def test_few_tokens_and_empty_experts(shape):
    x = numbers(*shape, seed=8)
    compare(made(), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize("experts_a_token", [1, K, E])
@pytest.mark.parametrize("biases", [True, False])
def test_writing_one_token(biases, experts_a_token, dtype, tolerance):
    changes = {"num_experts_per_tok": experts_a_token, "router_bias": biases, "expert_bias": biases}
    moe, x = made(**changes), numbers(1, 1, D, seed=8)
    if dtype == torch.bfloat16:  # the same numbers in both precisions, so that the same experts are chosen
        for tensor in (*moe.parameters(), x):
            tensor.data = tensor.data.to(dtype).double()
    expected = moe_reference(moe, x)[0]
    with torch.no_grad():
        output = moe.to(dtype)(x.to(dtype))[0]
    assert output.dtype == dtype
    scale = expected.abs().max().item()
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance * scale)


def test_one_token_under_autocast_is_computed_with_the_master_weights():
    moe, x = made(dtype=torch.float32), numbers(1, 1, D, seed=8).float()
    with torch.no_grad():
        expected = moe(x)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = moe(x)[0]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.03 * expected.abs().max().item())


def test_experts_without_tokens_get_a_zero_gradient():
    moe = made()
    moe.router.bias.data = torch.tensor([50.0, 50, 50, 0, 0, 0, 0], dtype=torch.float64)
    gradients = run(moe, moe, numbers(B, T, D), numbers(B, T, D, seed=2))
    for name, gradient in gradients.items():
        if name.startswith("experts."):
            assert (gradient[3:] == 0).all() and (gradient[:3] != 0).any(), name
    compare(moe, numbers(B, T, D), rtol=1e-9, atol=1e-9)


def test_no_tokens_at_all():
    moe = made()
    output, logits = moe(torch.zeros(1, 0, D, dtype=torch.float64))
    assert output.shape == (1, 0, D) and logits.shape == (0, E)


def test_gradcheck():
    moe = made(num_local_experts=4, num_experts_per_tok=2, hidden_size=5, intermediate_size=6)
    x = numbers(1, 4, 5, seed=9, scale=0.4).requires_grad_()
    weights = tuple(moe.experts.parameters())

    def function(x, *weights):
        names = [name for name, _ in moe.experts.named_parameters()]
        routed = moe.router(x[0])
        call = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(moe.experts, call, (x[0], routed[2], routed[1]))

    assert torch.autograd.gradcheck(function, (x, *weights), atol=1e-5)


def test_frozen_weights_get_no_gradient():
    moe = made()
    moe.experts.requires_grad_(False)
    x = numbers(B, T, D).requires_grad_()
    moe(x)[0].square().sum().backward()
    assert x.grad is not None and moe.router.weight.grad is not None
    assert all(parameter.grad is None for parameter in moe.experts.parameters())


def test_the_same_every_time():
    moe, x = made(dtype=torch.float32), numbers(B, T, D).float()
    first, second = (run(moe, moe, x, torch.ones_like(x)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# Sorting


def test_dispatch_by_hand():
    indices = torch.tensor([[1, 0], [0, 3], [1, 3], [3, 1]])
    token, row, segments = sort_by_expert(indices, 5)
    assert token.tolist() == [0, 1, 0, 2, 3, 1, 2, 3]
    assert row.tolist() == [[2, 0], [1, 5], [3, 6], [7, 4]]
    assert segments == [(0, 2), (2, 5), (5, 5), (5, 8), (8, 8)]


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_every_choice_stands_in_its_experts_segment(multiple):
    indices = numbers(29, E, seed=4).topk(K).indices
    token, row, segments = sort_by_expert(indices, E, multiple)
    assert len(row.unique()) == row.numel() and len(token) == segments[-1][1]
    assert all(start % multiple == 0 == end % multiple for start, end in segments)
    for n in range(29):
        for k in range(K):
            start, end = segments[indices[n, k]]
            assert start <= row[n, k] < end and token[row[n, k]] == n
    counts = torch.bincount(indices.flatten(), minlength=E).tolist()
    assert [end - start for start, end in segments] == [
        math.ceil(count / multiple) * multiple for count in counts
    ]


def test_padding_changes_nothing():
    moe, x = made(), numbers(B * T, D)
    _, scores, indices = moe.router(x)
    results = []
    for multiple in (1, 8):
        leaves = [
            tensor.detach().clone().requires_grad_() for tensor in (x, scores, *moe.experts.parameters())
        ]
        output = _run_experts(*leaves[:2], indices, 1.702, 7.0, multiple, *leaves[2:])[0]
        output.backward(numbers(B * T, D, seed=6))
        results.append([output, *(leaf.grad for leaf in leaves)])
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this PyTorch has no grouped_mm")
def test_the_grouped_version_is_equal():
    """The GPU's version, which PyTorch can run on a CPU too."""
    changes = {"hidden_size": 24, "intermediate_size": 40}
    moe = made(dtype=torch.float32, **changes)
    moe.router.bias.data[2] = -1e3  # an expert without tokens
    x = numbers(B * T, 24).float()
    _, scores, indices = moe.router(x)
    results = []
    for function in (_sorted_experts, _grouped_experts):
        leaves = [
            tensor.detach().clone().requires_grad_() for tensor in (x, scores, *moe.experts.parameters())
        ]
        output = function(leaves[0], leaves[1], indices, 1.702, 7.0, *leaves[2:])
        output.backward(numbers(B * T, 24, seed=6).float())
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for ours, grouped in zip(*results, strict=True):
        scale = ours.abs().max().item()
        torch.testing.assert_close(grouped, ours, rtol=1e-4, atol=1e-5 * scale)


def test_memory_of_the_sorted_version():
    """Nothing is kept with tokens × D × F entries, and no copy of the weights."""
    moe, x = made(hidden_size=40, intermediate_size=56, dtype=torch.float32), numbers(1, 128, 40).float()
    rows = 128 * K + 15 * E  # segments may be padded to multiples of 16
    own = {parameter.data_ptr() for parameter in moe.parameters()}
    saved = []

    def keep(tensor):
        if tensor.data_ptr() not in own:
            saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        moe(x.requires_grad_())
    assert max(saved) <= rows * 56
    assert sum(saved) <= rows * (40 + 3 * 56) + 128 * (40 + 4 * E + 4 * K)


# The memory of gradients


def backward(moe, seed):
    moe(numbers(B, T, D, seed=seed))[0].square().sum().backward()
    return moe.experts.gate_up_proj.grad


@pytest.mark.skipif(_count_holders is None, reason="this PyTorch cannot tell who holds a memory")
def test_gradients_take_the_memory_of_the_last_ones():
    moe = made()
    first = backward(moe, seed=1).data_ptr()
    moe.zero_grad()
    held = torch.empty(2 * moe.experts.gate_up_proj.numel(), dtype=torch.float64)  # may take what was let go
    assert backward(moe, seed=2).data_ptr() == first and held.numel() > 0


@pytest.mark.parametrize("hold", [lambda x: x, lambda x: x[3:, 1], lambda x: x.numpy()])
def test_a_gradient_that_somebody_holds_stays(hold):
    moe = made()
    backward(moe, seed=1)
    held = hold(moe.experts.gate_up_proj.grad)
    copied = torch.as_tensor(held).clone()
    for seed in (2, 3):
        moe.zero_grad()
        backward(moe, seed)
    assert torch.equal(torch.as_tensor(held), copied)


def test_gradients_of_many_texts_add_up():
    moe, parts = made(), []
    for seed in (1, 2, 3):
        moe.zero_grad()
        parts.append(backward(moe, seed).clone())
    moe.zero_grad()
    for seed in (1, 2, 3):
        total = backward(moe, seed)
    torch.testing.assert_close(total, sum(parts))
    moe.zero_grad()
    sum(moe(numbers(B, T, D, seed=seed))[0].square().sum() for seed in (1, 2, 3)).backward()  # one graph
    torch.testing.assert_close(moe.experts.gate_up_proj.grad, sum(parts))


def test_experts_without_tokens_get_a_zero_gradient_in_used_memory():
    moe = made()
    backward(moe, seed=1).fill_(torch.nan)
    moe.zero_grad()
    moe.router.bias.data = torch.tensor([50.0, 50, 50, 0, 0, 0, 0], dtype=torch.float64)
    assert (backward(moe, seed=2)[3:] == 0).all()


def test_the_memory_goes_with_its_weight():
    moe = made()
    backward(moe, seed=1)
    before = len(_GRADIENT_MEMORY)
    del moe
    gc.collect()
    assert len(_GRADIENT_MEMORY) <= before - 4 or _count_holders is None


# Precision


def test_autocast_keeps_master_weights():
    moe = made(dtype=torch.float32, expert_bias=True)
    for parameter in moe.experts.parameters():
        parameter.data *= 0.2
    x = numbers(4, 200, D).float()
    exact, _ = moe(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = moe(x)
        output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert all(p.grad.dtype == p.dtype == torch.float32 for p in moe.parameters())
    assert (output - exact).norm() / exact.norm() < 0.05


def test_bfloat16_weights():
    moe = made(dtype=torch.float32)
    for parameter in moe.experts.parameters():
        parameter.data *= 0.2
    half = made().to(torch.bfloat16)
    half.load_state_dict(moe.state_dict())
    x = numbers(400, D).bfloat16()
    _, scores, indices = half.router(x)
    output = half.experts(x, indices, scores)  # 1,200 rows: enough to be padded
    exact = moe.experts(x.float(), indices, scores.float())
    assert output.dtype == torch.bfloat16
    assert (output - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("expert_bias", [True, False])
def test_compiles_as_one_graph(expert_bias):
    moe, x = made(dtype=torch.float32, expert_bias=expert_bias), numbers(B, T, D).float()
    results = []
    for layer in (moe, torch.compile(moe, backend="aot_eager", fullgraph=True)):
        moe.zero_grad()
        leaf = x.clone().requires_grad_()
        output = layer(leaf)[0]
        output.backward(numbers(B, T, D, seed=6).float())
        results.append([output, leaf.grad, *(parameter.grad for parameter in moe.parameters())])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_operators_keep_their_promises():
    """Shapes without numbers, aliases, and gradients under a compiler, by PyTorch's own checks."""
    moe, x = made(dtype=torch.float32), numbers(B * T, D).float()
    _, scores, indices = moe.router(x)
    weights = [parameter.detach().requires_grad_() for parameter in moe.experts.parameters()]
    for multiple in (1, 8):
        arguments = (x, scores.detach(), indices, 1.702, 7.0, multiple, *weights)
        torch.library.opcheck(_run_experts, arguments, test_utils=("test_schema", "test_faketensor"))


def test_some_weights_frozen():
    moe, x = made(), numbers(B, T, D)
    moe.experts.gate_up_proj.requires_grad_(False)
    moe.experts.down_proj_bias.requires_grad_(False)
    moe(x)[0].backward(numbers(B, T, D, seed=6))
    given = {name for name, parameter in moe.experts.named_parameters() if parameter.grad is not None}
    assert given == {"gate_up_proj_bias", "down_proj"}


# The router


def test_router():
    router = made().router
    x = numbers(13, D, seed=3)
    logits, scores, indices = router(x)
    torch.testing.assert_close(logits, x @ router.weight.T + router.bias)
    assert indices.shape == scores.shape == (13, K)
    for token in range(13):
        best = sorted(range(E), key=lambda e: -logits[token, e].item())[:K]
        assert indices[token].tolist() == best
        exponentials = [math.exp(logits[token, e].item()) for e in best]
        expected = [value / sum(exponentials) for value in exponentials]
        assert scores[token].tolist() == pytest.approx(expected, rel=1e-12)


def test_jitter_only_in_training():
    x = numbers(500, D).float()
    router = Router(CONFIG, jitter=0.1)
    quiet = router.eval()(x)[0]
    torch.testing.assert_close(quiet, F.linear(x, router.weight, router.bias))
    torch.manual_seed(0)
    router.train()
    original = x.clone()
    identity = Router(dataclasses.replace(CONFIG, num_local_experts=D, router_bias=False), jitter=0.1)
    identity.weight.data = torch.eye(D)
    factors = identity(x)[0] / x
    assert torch.equal(x, original)
    assert 0.899 < factors.min() < 0.91 and 1.09 < factors.max() < 1.101
    assert not torch.equal(router(x)[0], quiet)


def test_one_expert_gives_the_router_no_gradient():
    moe, x = made(num_experts_per_tok=1), numbers(B, T, D)
    moe(x)[0].square().sum().backward()
    assert (moe.router.weight.grad == 0).all() and (moe.router.bias.grad == 0).all()
    assert (moe.experts.down_proj.grad != 0).any()
    load_balancing_loss(moe(x)[1], 1).backward()
    assert (moe.router.weight.grad != 0).any(), "the balancing loss has a gradient all the same"
    moe = made(num_experts_per_tok=2)
    moe(x)[0].square().sum().backward()
    assert (moe.router.weight.grad != 0).any()


def test_one_expert_is_refused_in_training_only():
    config = dataclasses.replace(CONFIG, num_experts_per_tok=1)
    moe, x = MoE(config), torch.ones(1, 2, D)
    with pytest.raises(ValueError, match="allow_frozen_router=True"):
        moe(x)
    with torch.no_grad():
        moe(x)
    moe.eval()(x)
    MoE(config, allow_frozen_router=True)(x)
    MoE(dataclasses.replace(config, num_local_experts=1))(x)  # nothing to choose


# Losses


def test_load_and_balance_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [3.0, 1.0, 0.0]])
    assert expert_load(logits, 1).tolist() == [0.75, 0.25, 0.0]
    assert expert_load(logits, 2).tolist() == [0.75, 0.75, 0.5]
    total = math.exp(3) + math.exp(1) + 1
    a, b, c = math.exp(3) / total, math.exp(1) / total, 1 / total
    means = [(3 * a + c) / 4, (a + 2 * b + c) / 4, (2 * b + 2 * c) / 4]
    expected = 3 * (0.75 * means[0] + 0.75 * means[1] + 0.5 * means[2])
    assert load_balancing_loss(logits, 2).item() == pytest.approx(expected, rel=1e-6)


def test_balance_at_its_ends():
    even = torch.eye(6).repeat(4, 1)
    assert load_balancing_loss(even, 1).item() == pytest.approx(1.0)
    assert importance_loss(even, 1).item() == pytest.approx(0.0, abs=1e-12)
    collapsed = torch.zeros(24, 6)
    collapsed[:, 2] = 100.0
    assert load_balancing_loss(collapsed, 1).item() == pytest.approx(6.0)
    assert importance_loss(collapsed, 1).item() == pytest.approx(5.0)  # (6 − 1): variance 5/36·24², mean 24/6


def test_the_balance_pushes_the_busy_down():
    logits = (0.3 * numbers(200, E) + torch.tensor([3.0] + [0.0] * (E - 1))).requires_grad_()
    for loss in (load_balancing_loss, importance_loss):
        (gradient,) = torch.autograd.grad(loss(logits, 2), logits)
        assert gradient[:, 0].sum() > 0 > gradient[:, 1:].sum()


def test_importance_sees_the_weights_of_the_chosen_only():
    logits = torch.tensor([[2.0, 0.0, -1.0], [1.0, 2.0, -5.0]])
    first, second = torch.tensor([2.0, 0.0]).softmax(0), torch.tensor([2.0, 1.0]).softmax(0)
    importance = torch.stack((first[0] + second[1], first[1] + second[0], torch.tensor(0.0)))
    expected = importance.var(unbiased=False) / importance.mean() ** 2
    assert importance_loss(logits, 2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_mask_leaves_padding_out():
    logits = numbers(20, E, seed=7)
    mask = torch.arange(20) < 13
    for function in (expert_load, load_balancing_loss):
        torch.testing.assert_close(function(logits, K, mask), function(logits[:13], K))
        assert not torch.allclose(function(logits, K), function(logits[:13], K))


def test_z_loss():
    logits = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    expected = (math.log(math.exp(1) + math.exp(2)) ** 2 + math.log(1 + math.exp(-3)) ** 2) / 2
    assert router_z_loss(logits).item() == pytest.approx(expected, rel=1e-6)
    assert router_z_loss(logits.bfloat16()).dtype == torch.float32


# Contracts


@pytest.mark.parametrize("name", ["gpt-oss-20b", "compact", "mini", "nano", "xs"])
def test_names_and_shapes_are_hugging_faces(name):
    config = GPTOSSConfig.preset(name)
    with torch.device("meta"):
        moe = MoE(config)
    prefix = "model.layers.0.mlp."
    expected = {
        key.removeprefix(prefix): shape for key, shape in parameter_shapes(config).items() if prefix in key
    }
    assert {key: tuple(value.shape) for key, value in moe.state_dict().items()} == expected
    count = count_parameters(config)
    assert sum(p.numel() for p in moe.parameters()) * config.num_hidden_layers == count.experts + count.router


def test_fresh_weights():
    torch.manual_seed(0)
    moe = MoE(dataclasses.replace(CONFIG, initializer_range=0.5, hidden_size=60, intermediate_size=80))
    for name, parameter in moe.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.5, rel=0.1), name


def test_experts_take_any_choice():
    """Indices and weights may come from elsewhere, as from another router."""
    moe, x = made(), numbers(5, D)
    indices = torch.tensor([[6, 0], [0, 6], [3, 2], [2, 3], [1, 5]])
    weights = numbers(5, 2, seed=2)
    output = moe.experts(x, indices, weights)
    swapped = moe.experts(x, indices.flip(1), weights.flip(1))
    torch.testing.assert_close(output, swapped)
    doubled = moe.experts(x, indices, 2 * weights)
    torch.testing.assert_close(doubled, 2 * output)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MoE(CONFIG)(torch.ones(1, 2, D + 1)), "13 features, but this layer was made for 12"),
        (lambda: Router(CONFIG, jitter=1.0), "jitter is 1.0"),
        (lambda: MoE(CONFIG, jitter=-0.1), "jitter is -0.1"),
        (lambda: load_balancing_loss(torch.ones(2, 3, E), K), r"shape \[2, 3, 7\]"),
        (lambda: expert_load(torch.ones(2, 3), 4), "4 experts a token"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_experts_is_a_module_of_its_own():
    experts = Experts(CONFIG)
    assert [name for name, _ in experts.named_parameters()] == [
        "gate_up_proj",
        "gate_up_proj_bias",
        "down_proj",
        "down_proj_bias",
    ]
