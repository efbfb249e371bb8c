"""Checks for the exercises to chapter 11, Sinks."""

import torch

from gptoss_lib.checks import check, expect, unless

__all__ = ["add_sink", "sink_gradient", "sink_weights", "with_plus_one"]

_H, _T, _S = 3, 4, 5


def _scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return 2 * torch.randn(_H, _T, _S, generator=generator), torch.tensor([1.5, -0.7, 3.0])


def _weights(scores: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    column = sinks[:, None, None].expand(-1, scores.shape[1], 1)
    return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]


def _tensor(result, shape: tuple[int, ...], name: str = "The result") -> None:
    """Fail unless the result is a tensor of this shape."""
    expect(
        isinstance(result, torch.Tensor), f"{name} should be a tensor, but it is a {type(result).__name__}."
    )
    expect(
        tuple(result.shape) == shape,
        f"{name} should have the shape {list(shape)}, but it has {list(result.shape)}.",
    )


def _like(result: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(result, other, atol=1e-5, rtol=1e-4)


@check("The sink takes its share and gives nothing.")
def sink_weights(answer) -> None:
    """Check attention weights with a sink."""
    scores, sinks = _scores()
    result = answer(scores.clone(), sinks.clone())
    unless(
        isinstance(result, torch.Tensor) and result.shape == (_H, _T, _S + 1),
        "The sink's column is still there: it has no value to be multiplied by, so drop it.",
    )
    _tensor(result, (_H, _T, _S))
    right = _weights(scores, sinks)
    unless(
        _like(result, scores.softmax(-1)),
        "The weights add up to one: the sink takes nothing, or they were normalised after it was dropped.",
    )
    unless(
        _like(result, scores.exp() / (sinks[:, None, None] + scores.exp().sum(-1, keepdim=True))),
        "The sink is a score: it stands in the denominator as its exponential.",
    )
    unless(
        _like(result, _weights(scores, torch.zeros(_H))),
        "This is softmax plus one: every sink counts as zero here.",
    )
    unless(
        _like(result, _weights(scores, -sinks)), "The sinks have the wrong sign: a larger sink takes more."
    )
    unless(
        _like(result, _weights(scores, sinks.mean().expand(_H))),
        "All heads share one sink here; each has its own.",
    )
    expect(_like(result, right), "The weights are not e^score / (e^sink + the sum of e^score).")
    large, far = answer(scores + 1000, sinks + 1000), answer(scores - 1000, sinks)
    unless(
        not (large.isfinite().all() and far.isfinite().all()),
        "Large scores overflow: exp(1000) is infinite. Subtract the maximum first, or let softmax do it.",
    )
    expect(
        torch.allclose(large, right, atol=1e-3),
        "With 1,000 added to all scores and sinks the weights change, and they should not.",
    )
    expect(far.abs().max() < 1e-6, "With scores far below the sink, all weights should be zero.")


@check("The gradient of a sink, from what a kernel saves.")
def sink_gradient(answer) -> None:
    """Check the gradient of the sinks against autograd."""
    B, H, T, S, hd = 2, 3, 4, 5, 6
    generator = torch.Generator().manual_seed(12)
    scores, value, grad_out = (
        torch.randn(shape, generator=generator) for shape in ((B, H, T, S), (B, H, S, hd), (B, H, T, hd))
    )
    sinks = torch.tensor([1.0, -0.5, 2.0], requires_grad=True)
    column = sinks[:, None, None].expand(B, -1, T, 1)
    weights = torch.cat((scores, column), -1).softmax(-1)[..., :-1]
    out = weights @ value
    (out * grad_out).sum().backward()
    right, out = sinks.grad, out.detach()
    with torch.no_grad():
        log_sum = torch.logaddexp(scores.logsumexp(-1), sinks[:, None])
        dots, spent = (out * grad_out).sum(-1), 1 - weights.sum(-1)
        result = answer(out.clone(), grad_out.clone(), log_sum.clone(), sinks.detach().clone())
        expect(isinstance(result, torch.Tensor), "Return a tensor, one gradient a head.")
        unless(result.shape == (B, H), "One gradient a head: sum over the texts too.")
        unless(result.shape == (B, H, T), "One gradient a head: sum over texts and queries.")
        _tensor(result, (H,))
        unless(_like(result, -right), "The sign is wrong: raising the sink makes the output shorter.")
        unless(
            _like(result, -(spent * dots).mean((0, 2))),
            "This is the mean over texts and queries; take the sum.",
        )
        unless(
            _like(result, -dots.sum((0, 2))),
            "The sink's share is missing: a query that does not use the sink teaches it nothing.",
        )
        unless(
            _like(result, -((1 - spent) * dots).sum((0, 2))),
            "This uses the share of the keys; the gradient has the share of the sink.",
        )
        unless(
            _like(result, -(spent * (1 - spent) * dots).sum((0, 2))),
            "The output is shortened twice: out is the output with the sink already.",
        )
        expect(_like(result, right), f"The gradient should be {right.tolist()}, but it is {result.tolist()}.")


def _plus_one(scores: torch.Tensor) -> torch.Tensor:
    return _weights(scores, scores.new_zeros(len(scores)))


@check("A sink is a shift of the scores.")
def with_plus_one(answer) -> None:
    """Check that weights with any sinks come out of softmax plus one."""
    scores, sinks = _scores()
    calls = []

    def counted(given: torch.Tensor) -> torch.Tensor:
        calls.append(given)
        return _plus_one(given)

    result = answer(scores.clone(), sinks.clone(), counted)
    _tensor(result, (_H, _T, _S))
    unless(_like(result, _plus_one(scores)), "The sinks are ignored: each shifts the scores of its head.")
    unless(
        _like(result, _plus_one(scores + sinks[:, None, None])),
        "The shift has the wrong sign: a larger sink takes more.",
    )
    unless(
        _like(result, _plus_one(scores) / sinks.exp()[:, None, None]),
        "Dividing the result is not enough: the denominator changes too. Shift the scores.",
    )
    unless(
        _like(result, _plus_one(scores * sinks[:, None, None]))
        or _like(result, _plus_one(scores / sinks.exp()[:, None, None])),
        "Dividing e^score by e^sink subtracts in the exponent; it does not divide the score.",
    )
    expect(_like(result, _weights(scores, sinks)), "These are not the weights with sinks.")
    expect(len(calls) > 0, "The weights are right, but plus_one was never called; make it do the work.")


@check("Exact, and safe from overflow: this is how the library's fast version works.")
def add_sink(answer) -> None:
    """Check the correction of an output that was computed without sinks."""
    B, hd = 2, 6
    generator = torch.Generator().manual_seed(13)
    for offset in (0.0, 500.0):
        scores = torch.randn(B, _H, _T, _S, generator=generator) + offset
        value = torch.randn(B, _H, _S, hd, generator=generator)
        sinks = torch.tensor([1.5, -0.7, 3.0]) + offset
        plain, log_sum = scores.softmax(-1) @ value, scores.logsumexp(-1)
        total = torch.logaddexp(log_sum, sinks[:, None])
        keep = torch.exp(log_sum - total).unsqueeze(-1)
        result = answer(plain.clone(), log_sum.clone(), sinks.clone())
        expect(
            isinstance(result, tuple | list) and len(result) == 2,
            "Return two tensors, the output and the log-sum-exp, both with sinks.",
        )
        out, new = result
        _tensor(out, tuple(plain.shape), "The output")
        unless(
            isinstance(new, torch.Tensor) and new.shape == (*log_sum.shape, 1),
            "The log-sum-exp has one axis too many; only the factor needs it.",
        )
        _tensor(new, tuple(log_sum.shape), "The log-sum-exp")
        unless(
            not (out.isfinite().all() and new.isfinite().all()),
            "Large scores overflow: do not take exp of log_sum or a sink alone; torch.logaddexp is safe.",
        )
        unless(_like(out, plain), "The output is what it was; the sink has to shorten it.")
        unless(
            _like(out, plain * (1 - keep)),
            "This keeps the sink's share and throws the keys' away; it should be the other way round.",
        )
        unless(_like(out, plain / keep), "This makes the output longer: the factor is upside down.")
        unless(
            _like(new, log_sum),
            "The log-sum-exp is what it was, but the backward pass needs the one with the sink.",
        )
        unless(
            _like(new, log_sum + sinks[:, None]),
            "The denominators are added, not their logarithms.",
        )
        expect(_like(out, plain * keep), "The output is not out · exp(log_sum - new log_sum).")
        expect(_like(new, total), "The log-sum-exp is not the logarithm of e^log_sum + e^sink.")
