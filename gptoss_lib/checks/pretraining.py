"""Checks for the exercises to chapter 16, pretraining."""

import math

import torch

from gptoss_lib.checks import check, expect, unless
from gptoss_lib.config import GPTOSSConfig, count_parameters, flops_per_token
from gptoss_lib.moe import load_balancing_loss, router_z_loss

__all__ = ["finish", "mix", "plan", "utilization"]


def _close(value: float, other: float) -> bool:
    return math.isclose(float(value), float(other), rel_tol=1e-4)


@check("The text's loss plus two small terms, each the mean over the layers.")
def mix(answer) -> None:
    """Check the mix of losses: layer by layer, averaged, with the right coefficients and a gradient."""
    tokens, top_k, balance_coef, z_coef = 12, 2, 0.3, 0.07
    generator = torch.Generator().manual_seed(16)
    layers = [torch.randn(tokens, 5, generator=generator) for _ in range(3)]
    for layer, favorite in zip(layers, (0, 3, 4), strict=True):
        layer[:, favorite] += 4  # each layer has its own favorite
        layer.requires_grad_()
    nats = torch.tensor(2.5, requires_grad=True)
    loss = answer(nats, layers, top_k, balance_coef, z_coef)
    expect(isinstance(loss, torch.Tensor) and loss.numel() == 1, "Return a tensor with one number.")
    with torch.no_grad():
        balances = [load_balancing_loss(layer, top_k) for layer in layers]
        together = load_balancing_loss(torch.cat(layers), top_k)
        balance, z = sum(balances) / 3, sum(router_z_loss(layer) for layer in layers) / 3
        right = nats + balance_coef * balance + z_coef * z
        unless(
            _close(loss, nats + balance_coef * together + z_coef * z),
            "The logits of all layers are put together; that hides that each layer has its own favorite. "
            "Compute the balancing loss layer by layer.",
        )
        unless(
            _close(loss, nats + 3 * (balance_coef * balance + z_coef * z)),
            "The layers are summed; average them, so that a deeper model is not pushed harder.",
        )
        unless(
            _close(loss, nats + z_coef * balance + balance_coef * z),
            "The coefficients are exchanged: balance_coef weighs the balancing loss.",
        )
        unless(_close(loss, nats + balance_coef * balance), "The z-loss is missing.")
        unless(_close(loss, nats + z_coef * z), "The balancing loss is missing.")
        unless(
            _close(loss, nats - balance_coef * balance - z_coef * z),
            "The sign is wrong: both terms are losses, which are added.",
        )
        unless(
            _close(loss, nats + balance_coef * balances[-1] + z_coef * router_z_loss(layers[-1])),
            "Only the last layer counts; every layer has a router.",
        )
        expect(_close(loss, right), f"The loss should be {right:.4f}, but it is {float(loss):.4f}.")
    expect(loss.requires_grad, "There is no gradient at all; do not detach what you return.")
    grads = torch.autograd.grad(loss, [nats, *layers], allow_unused=True)
    expect(grads[0] is not None, "The text's loss gets no gradient.")
    unless(any(grad is None for grad in grads[1:]), "The router logits get no gradient; do not detach them.")


@check("Tokens a second times FLOPs a token, over what the machine can do.")
def utilization(answer) -> None:
    """Check model-FLOPs utilization: active experts, mean attention, forward and backward."""
    config = GPTOSSConfig(
        vocab_size=331,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        num_local_experts=7,
        num_experts_per_tok=2,
        sliding_window=9,
        rope_scaling=None,
    )
    length, speed, machine = 96, 5_000.0, 4e10
    share = speed / machine
    value = float(answer(config, length, speed, machine))
    mean, newest = (flops_per_token(config, length, mean=each) for each in (True, False))
    count = count_parameters(config)
    right = share * mean.training
    unless(
        _close(value, share * mean.forward), "This is the forward pass alone; training also goes backward."
    )
    unless(
        _close(value, share * newest.training),
        "This charges every token as much attention as the last one; in training take the mean=True.",
    )
    unless(
        _close(value, share * 6 * count.total),
        "All stored parameters are counted; a token is multiplied by the active ones only.",
    )
    unless(
        _close(value, share * 6 * count.active),
        "6 FLOPs for each active parameter leave out attention; flops_per_token counts it.",
    )
    unless(_close(value, 100 * right), "This is in percent; return a share between 0 and 1.")
    unless(_close(value, 1 / right), "This is upside down: the machine's FLOPs a second go below.")
    unless(
        _close(value, right * length),
        "The speed is in tokens a second already; do not multiply by the length.",
    )
    expect(_close(value, right), f"The utilization should be {right:.5f}, but it is {value:.5f}.")


def _finish(checkpoint, steps, warmup, peak, gradient, rate_from=0, batch_from=0, keep=True):
    """Finish the toy run; the last three arguments put known mistakes in."""
    weight = checkpoint["weight"]
    momentum = checkpoint["momentum"] if keep else 0.0
    for step in range(checkpoint["step"], steps):
        momentum = 0.9 * momentum + gradient(weight, step - batch_from)
        weight -= peak * min(1.0, (step - rate_from + 1) / warmup) * momentum
    return weight


@check("The run goes on: same schedule, same batches, same momentum.")
def finish(answer) -> None:
    """Check the resumed run: schedule, place in the data, momentum, and how many updates are left."""
    targets = (3.0, -1.0, 2.0, 5.0, 0.5, -4.0, 1.5, 2.5, -0.5, 4.0, 1.0, -2.0)

    def gradient(weight, step):
        return weight - targets[step]

    steps, warmup, peak = 11, 3, 0.05
    checkpoint = {"step": 4, "weight": 1.25, "momentum": -0.75}
    given = (steps, warmup, peak, gradient)
    state = dict(checkpoint)
    weight = answer(state, *given)
    unless(state != checkpoint, "The checkpoint was changed; it belongs to whoever may need it again.")
    unless(weight is None, "Return the weight after the last update.")
    done = checkpoint["step"]
    unless(
        _close(weight, _finish(checkpoint, *given, rate_from=done)),
        "The rate warms up again: count the updates from the beginning of the run, not from the restart.",
    )
    unless(
        _close(weight, _finish(checkpoint, *given, batch_from=done)),
        "The run sees the same batches again: update number s takes batch s.",
    )
    unless(
        _close(weight, _finish(checkpoint, *given, rate_from=done, batch_from=done)),
        "The rate warms up again and the batches start again: count from checkpoint['step'].",
    )
    unless(
        _close(weight, _finish(checkpoint, *given, keep=False)),
        "The momentum is lost: it starts at 0 instead of what the checkpoint holds.",
    )
    unless(
        _close(weight, _finish({**checkpoint, "step": 0}, *given)),
        f"All {steps} updates are made once more; {done} of them were made before the checkpoint.",
    )
    unless(
        _close(weight, _finish(checkpoint, steps + 1, warmup, peak, gradient)),
        f"This is one update too many; there are {steps} in all, numbered from 0.",
    )
    unless(
        _close(weight, checkpoint["weight"]), "Nothing happened: there are updates left after the checkpoint."
    )
    right = _finish(checkpoint, *given)
    expect(_close(weight, right), f"The weight should end at {right:.5f}, but it is {float(weight):.5f}.")
    fresh = {"step": 0, "weight": 0.5, "momentum": 0.0}
    expect(
        _close(answer(dict(fresh), *given), _finish(fresh, *given)),
        "A run from the beginning ends elsewhere; a resumed run and a whole one should use the same loop.",
    )


@check("6 · N · D is the budget, and D is so many times N.")
def plan(answer) -> None:
    """Check the plan of a run: the budget is spent, and the ratio is right."""
    budget, ratio = 3e15, 40.0
    result = answer(budget, ratio)
    expect(
        isinstance(result, tuple | list) and len(result) == 2, "Return two numbers: parameters and tokens."
    )
    parameters, tokens = map(float, result)
    expect(parameters > 0 and tokens > 0, "Both numbers should be positive.")
    unless(
        _close(parameters, ratio * tokens),
        "The order is the other way round, or the ratio is: there are more tokens than parameters.",
    )
    unless(_close(parameters * tokens, budget), "Each parameter costs 6 FLOPs a token, not 1.")
    unless(
        _close(2 * parameters * tokens, budget),
        "2 FLOPs are the forward pass alone; the backward pass costs 4 more.",
    )
    unless(
        _close(tokens, 20 * parameters) and _close(6 * parameters * tokens, budget),
        "tokens_per_parameter is not used; it need not be 20.",
    )
    unless(
        _close(parameters, budget / (6 * ratio)),
        "The square root is missing: the budget grows with the square of the parameters.",
    )
    expect(
        _close(6 * parameters * tokens, budget),
        f"6 · N · D should be {budget:.3g}, but it is {6 * parameters * tokens:.3g}.",
    )
    expect(
        _close(tokens / parameters, ratio), f"D / N should be {ratio}, but it is {tokens / parameters:.3g}."
    )
