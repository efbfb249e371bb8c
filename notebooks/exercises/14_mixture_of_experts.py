# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Mixture of experts
#
# Four exercises to the chapter [Mixture of experts](../14_mixture_of_experts.ipynb). You build the router and the loss that keeps it honest, repair the router that picks a single expert, and write the sorted dispatch: the piece that makes a mixture fast.

# %% tags=["setup"]

# %%
import torch
import torch.nn.functional as F

from gptoss_lib.checks import moe as check

# %% [markdown]
# ## 1. The router
#
# For tokens x `[N, D]`, a weight `[E, D]` and a bias `[E]`: choose the `top_k` experts with the largest scores, best first, and weigh them with the softmax over *their* scores.


# %% nbgrader={"grade": false, "grade_id": "route", "locked": false, "schema_version": 3, "solution": true, "task": false}
def route(x, weight, bias, top_k):
    """Return (weights [N, K], expert numbers [N, K])."""
    ### BEGIN SOLUTION
    logits = x @ weight.T + bias
    chosen, indices = logits.topk(top_k, dim=-1)
    return chosen.softmax(dim=-1), indices
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "route-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.route(route)
### BEGIN HIDDEN TESTS
scores, indices = route(torch.eye(3), torch.eye(3), torch.tensor([0.0, 0.0, 5.0]), 2)
assert indices.tolist() == [[2, 0], [2, 1], [2, 0]] or indices[:2].tolist() == [[2, 0], [2, 1]]
assert torch.allclose(scores.sum(-1), torch.ones(3))
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The balancing loss
#
# For the router logits `[N, E]` of one layer, return $E \sum_e f_e P_e$: the load $f_e$ is the share of tokens that choose expert $e$ among their `top_k`, and $P_e$ is its mean probability in the softmax over all experts. The loss must have a gradient, and that gradient must make busy experts less probable.


# %% nbgrader={"grade": false, "grade_id": "balance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def balance(router_logits, top_k):
    """Return the balancing loss, a tensor with one number."""
    ### BEGIN SOLUTION
    num_tokens, num_experts = router_logits.shape
    indices = router_logits.topk(top_k, dim=-1).indices
    load = F.one_hot(indices, num_experts).sum(dim=(0, 1)) / num_tokens
    probability = router_logits.softmax(dim=-1).mean(dim=0)
    return num_experts * (load * probability).sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "balance-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.balance(balance)
### BEGIN HIDDEN TESTS
assert abs(float(balance(torch.eye(4), 1)) - 1) < 1e-5
assert abs(float(balance(torch.eye(4), 4)) - 4) < 1e-5
### END HIDDEN TESTS

# %% [markdown]
# ## 3. A router that learns with one expert
#
# With one expert a token, the softmax over the chosen score is always 1 and the router learns nothing. Repair it as the Switch Transformer does: choose the best expert as before, but weigh its answer with its probability in the softmax over *all* experts. Do not renormalize. The check trains nothing; it looks whether a gradient arrives at every logit.


# %% nbgrader={"grade": false, "grade_id": "switch-route", "locked": false, "schema_version": 3, "solution": true, "task": false}
def switch_route(router_logits):
    """For router logits [N, E] return (weights [N, 1], expert numbers [N, 1])."""
    ### BEGIN SOLUTION
    probabilities = router_logits.softmax(dim=-1)
    return probabilities.max(dim=-1, keepdim=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "switch-route-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.switch_route(switch_route)
### BEGIN HIDDEN TESTS
weights, chosen = switch_route(torch.tensor([[0.0, 0.0, 0.0, 9.0], [9.0, 0.0, 0.0, 0.0]]))
assert chosen.tolist() == [[3], [0]] and weights.shape == (2, 1)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Dispatch
#
# `experts[e]` is a function that maps rows `[n, D]` to answers `[n, D]`. Calling it is expensive, so call each expert **at most once**, with all rows that it has to answer and no others, and not at all where it has none. Return for every token the weighted sum of its experts' answers. Autograd does the backward pass this time, so build the result with operations that it can follow.


# %% nbgrader={"grade": false, "grade_id": "dispatch", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dispatch(x, weights, indices, experts):
    """x [N, D], weights [N, K], indices [N, K], a list of E functions → [N, D]."""
    ### BEGIN SOLUTION
    top_k = indices.shape[1]
    order = indices.flatten().argsort(stable=True)  # choices, sorted by expert
    counts = torch.bincount(indices.flatten(), minlength=len(experts)).tolist()
    segments = x[order // top_k].split(counts)
    answers = torch.cat([expert(rows) for expert, rows in zip(experts, segments, strict=True) if len(rows)])
    answers = answers * weights.flatten()[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add(0, order // top_k, answers)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "dispatch-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.dispatch(dispatch)
### BEGIN HIDDEN TESTS
double, negate = (lambda rows: 2 * rows), (lambda rows: -rows)
result = dispatch(
    torch.ones(2, 3),
    torch.tensor([[0.25, 0.75], [1.0, 0.0]]),
    torch.tensor([[0, 1], [1, 0]]),
    [double, negate],
)
assert torch.allclose(result[:, 0], torch.tensor([-0.25, -1.0]))
### END HIDDEN TESTS
