"""Checks for the exercises to chapter 14, the mixture of experts."""

import torch
import torch.nn.functional as F

from gptoss_lib.checks import check, expect, unless

__all__ = ["balance", "dispatch", "route", "switch_route"]


def _random(*shape: int, seed: int = 14) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@check("Top-k, then softmax: weights that sum to one, best expert first.")
def route(answer) -> None:
    """Check gpt-oss's router: order of top-k and softmax, normalization, bias."""
    N, D, E, K = 11, 6, 7, 3
    x, weight, bias = _random(N, D), _random(E, D, seed=1), 2 * _random(E, seed=2)
    result = answer(x, weight, bias, K)
    expect(isinstance(result, tuple | list) and len(result) == 2, "Return two tensors: weights and experts.")
    scores, indices = result
    unless(
        scores.dtype == torch.int64 and indices.dtype != torch.int64,
        "The order is the other way round: weights first, then expert numbers.",
    )
    expect(
        scores.shape == (N, K) and indices.shape == (N, K),
        f"Both should have the shape {[N, K]}, but they have {list(scores.shape)} and {list(indices.shape)}.",
    )
    logits = x @ weight.T + bias
    chosen, right = logits.topk(K, dim=-1)
    unless(
        torch.equal(indices, (x @ weight.T).topk(K, dim=-1).indices),
        "The bias is forgotten; it is added before the choice.",
    )
    unless(
        torch.equal(indices, logits.topk(K, dim=-1, largest=False).indices), "These are the worst experts."
    )
    unless(
        torch.equal(indices.sort(-1).values, right.sort(-1).values) and not torch.equal(indices, right),
        "The right experts, but not best first.",
    )
    expect(torch.equal(indices, right), "The experts are not those with the largest scores.")

    def near(expected: torch.Tensor) -> bool:
        return torch.allclose(scores, expected, atol=1e-5)

    probabilities = logits.softmax(-1)
    unless(
        near(probabilities.gather(1, right)),
        "This takes the softmax over all experts, so the weights do not sum to one; choose first.",
    )
    unless(near(chosen), "These are the scores themselves; the softmax is missing.")
    unless(near(chosen / chosen.sum(-1, keepdim=True)), "Scores divided by their sum are no softmax.")
    unless(near(torch.full((N, K), 1 / K)), "All weights are alike; they have to follow the scores.")
    unless(
        near(chosen.softmax(0)), "The softmax runs over the tokens; it belongs over the K experts, dim -1."
    )
    unless(
        near(probabilities.gather(1, right).softmax(-1)),
        "This takes the softmax twice; once, of the chosen scores.",
    )
    expect(near(chosen.softmax(-1)), "The weights are not the softmax of the chosen scores.")


@check("The loss knows who is busy, and its gradient makes them less probable.")
def balance(answer) -> None:
    """Check the Switch-style balancing loss and its gradient."""
    N, E, K = 40, 5, 2
    logits = (_random(N, E) + torch.tensor([2.0, 0.5, 0, 0, -1])).requires_grad_()
    loss = answer(logits, K)
    expect(isinstance(loss, torch.Tensor) and loss.numel() == 1, "Return a tensor with one number, the loss.")
    indices = logits.topk(K, dim=-1).indices
    load = F.one_hot(indices, E).sum((0, 1)) / N
    probabilities = logits.softmax(-1)
    mean = probabilities.mean(0)
    top = logits.topk(1, dim=-1).indices
    chosen_only = torch.zeros_like(logits).scatter(1, indices, logits.gather(1, indices).softmax(-1))

    def near(expected: torch.Tensor) -> bool:
        return torch.allclose(loss, expected, rtol=1e-4)

    right = E * (load * mean).sum()
    unless(
        near(right / E), "The factor E is missing, so the value at balance depends on the number of experts."
    )
    unless(near(right / K), "The load is divided by K; here it is the share of tokens, and sums to K.")
    unless(
        near(E * (load * load).sum()), "This multiplies the load with itself, and a count has no gradient."
    )
    unless(near(E * (mean * mean).sum()), "This uses probabilities only; the load is a count of choices.")
    unless(
        near(E * (load * chosen_only.mean(0)).sum()),
        "The probabilities are those of the chosen only; take the softmax over all experts.",
    )
    unless(
        near(E * (load * probabilities.softmax(-1).mean(0)).sum()),
        "This is a softmax of a softmax; the logits get it once.",
    )
    unless(
        near(E * (F.one_hot(top, E).sum((0, 1)) / N * mean).sum()),
        "The load counts the best expert only; count all K choices.",
    )
    unless(near(E * N * (load * mean).sum()), "The sums over tokens have to be means.")
    expect(near(right), "The value differs from E · Σ load · mean probability.")
    expect(loss.requires_grad, "The loss has no gradient; keep the softmax's.")
    (gradient,) = torch.autograd.grad(loss, logits)
    expect(
        gradient[:, 0].sum() > 0 > gradient[:, 4].sum(),
        "The gradient should lower the busiest expert's logits.",
    )


@check("With this weight the router learns although it picks a single expert.")
def switch_route(answer) -> None:
    """Check Switch routing: the chosen expert's probability among all, with a gradient."""
    N, E = 9, 6
    logits = _random(N, E).requires_grad_()
    result = answer(logits)
    expect(isinstance(result, tuple | list) and len(result) == 2, "Return two tensors: weights and experts.")
    weights, indices = result
    expect(
        weights.shape == (N, 1) and indices.shape == (N, 1),
        f"Both should have the shape {[N, 1]}, not {list(weights.shape)} and {list(indices.shape)}.",
    )
    expect(
        torch.equal(indices[:, 0], logits.argmax(-1)), "The expert should be the one with the largest logit."
    )
    best = logits.max(-1, keepdim=True).values
    unless(
        torch.allclose(weights, torch.ones(N, 1)),
        "All weights are 1, so the router still learns nothing; use the softmax over all experts.",
    )
    unless(torch.allclose(weights, best), "This is the logit itself; the weight should be a probability.")
    unless(
        torch.allclose(weights, best.sigmoid()),
        "A sigmoid has a gradient too, but it does not compare with the other experts; use the softmax.",
    )
    expect(
        torch.allclose(weights, logits.softmax(-1).max(-1, keepdim=True).values),
        "The weight is not the chosen expert's probability among all experts.",
    )
    expect(weights.requires_grad, "The weights are right, but they were detached; no gradient can flow.")
    (gradient,) = torch.autograd.grad(weights.sum(), logits)
    expect((gradient != 0).all(), "Some logits get no gradient; every expert is part of the softmax.")


@check("Every expert is called once, and every token gets its answers back.")
def dispatch(answer) -> None:
    """Check the dispatch of tokens to experts: calls, rows, weights, order, gradient."""
    N, D, E, K = 12, 4, 6, 2
    x, matrices = _random(N, D).requires_grad_(), _random(E, D, D, seed=3)
    indices = _random(N, E - 1, seed=4).topk(K).indices
    indices = torch.where(indices >= 2, indices + 1, indices)  # expert 2 has no tokens
    weights = _random(N, K, seed=5).softmax(-1).requires_grad_()
    seen: list[tuple[int, int]] = []

    def expert(number: int):
        def call(rows: torch.Tensor) -> torch.Tensor:
            expect(rows.dim() == 2 and rows.shape[1] == D, "An expert wants rows [n, D].")
            seen.append((number, len(rows)))
            return rows @ matrices[number] + number + 1

        return call

    result = answer(x, weights, indices, [expert(number) for number in range(E)])
    expect(
        isinstance(result, torch.Tensor) and result.shape == (N, D),
        f"The result should have the shape {[N, D]}.",
    )
    answers = torch.einsum("nd,edf->nef", x, matrices) + torch.arange(1, E + 1)[:, None]  # [N, E, D]
    chosen = answers.gather(1, indices.unsqueeze(-1).expand(-1, -1, D))
    right = (chosen * weights.unsqueeze(-1)).sum(1)

    def near(expected: torch.Tensor) -> bool:
        return torch.allclose(result, expected, atol=1e-4)

    unless(near(chosen.sum(1)), "The weights are not used.")
    unless(near(chosen.mean(1)), "The answers are averaged evenly; use the weights.")
    unless(
        near((chosen * weights.flip(1).unsqueeze(-1)).sum(1)), "Each token's weights go to the wrong expert."
    )
    unless(near(chosen[:, 0] * weights[:, :1]), "Only the first choice of each token comes back.")
    unless(
        near(chosen[:, -1] * weights[:, -1:]),
        "Only the last answer of each token is kept: add answers up instead of overwriting.",
    )
    by_expert = indices.flatten().argsort(stable=True)
    sorted_sum = (chosen * weights.unsqueeze(-1)).flatten(0, 1)[by_expert].view(N, K, D).sum(1)
    unless(
        near(sorted_sum),
        "The answers are still in the order of the experts; bring them back to their tokens.",
    )
    expect(near(right), "Some tokens get other answers than the weighted sum of their experts'.")
    calls = [number for number, _ in seen]
    unless(
        len(calls) > E,
        f"The result is right, but experts were called {len(calls)} times: sort first, once each.",
    )
    unless(len(calls) != len(set(calls)), "The result is right, but an expert was called more than once.")
    unless(2 in calls, "The result is right, but an expert without tokens was called.")
    counts = torch.bincount(indices.flatten(), minlength=E).tolist()
    unless(
        any(rows != counts[number] for number, rows in seen),
        "The result is right, but experts answer rows that are not theirs; a mixture should save that.",
    )
    expect(
        result.requires_grad, "No gradient comes back; build the result with operations autograd can follow."
    )
    got = torch.autograd.grad(result.square().sum(), (x, weights), allow_unused=True)
    expected = torch.autograd.grad(right.square().sum(), (x, weights))
    expect(
        all(g is not None and torch.allclose(g, e, atol=1e-3) for g, e in zip(got, expected, strict=True)),
        "The values are right, but the gradients of x or of the weights are not.",
    )
