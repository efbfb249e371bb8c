"""The checks to chapter 14 accept the solutions and name the mistakes in wrong answers."""

import torch
import torch.nn.functional as F

from tests.checks.catalogue import Catalogue

ROUTE = Catalogue("moe", "route")


@ROUTE.wrong("over all experts")
def softmax_first(x, weight, bias, top_k):
    return (x @ weight.T + bias).softmax(-1).topk(top_k)


@ROUTE.wrong("bias is forgotten")
def without_bias(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T).topk(top_k)
    return chosen.softmax(-1), indices


@ROUTE.wrong("softmax is missing")
def raw_scores(x, weight, bias, top_k):
    return (x @ weight.T + bias).topk(top_k)


@ROUTE.wrong("no softmax")
def divided_by_sum(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T + bias).topk(top_k)
    return chosen / chosen.sum(-1, keepdim=True), indices


@ROUTE.wrong("over the tokens")
def wrong_dimension(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T + bias).topk(top_k)
    return chosen.softmax(0), indices


@ROUTE.wrong("twice")
def softmax_twice(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T + bias).softmax(-1).topk(top_k)
    return chosen.softmax(-1), indices


@ROUTE.wrong("other way round")
def indices_first(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T + bias).topk(top_k)
    return indices, chosen.softmax(-1)


@ROUTE.wrong("best first")
def by_number(x, weight, bias, top_k):
    chosen, indices = (x @ weight.T + bias).topk(top_k)
    order = indices.argsort(-1)
    return chosen.softmax(-1).gather(1, order), indices.gather(1, order)


@ROUTE.wrong("alike")
def even(x, weight, bias, top_k):
    indices = (x @ weight.T + bias).topk(top_k).indices
    return torch.full(indices.shape, 1 / top_k), indices


BALANCE = Catalogue("moe", "balance")


def load_of(logits, top_k):
    return F.one_hot(logits.topk(top_k).indices, logits.shape[1]).sum((0, 1)) / len(logits)


@BALANCE.wrong("factor E")
def without_factor(logits, top_k):
    return (load_of(logits, top_k) * logits.softmax(-1).mean(0)).sum()


@BALANCE.wrong("divided by K")
def load_sums_to_one(logits, top_k):
    return logits.shape[1] * (load_of(logits, top_k) / top_k * logits.softmax(-1).mean(0)).sum()


@BALANCE.wrong("count has no gradient")
def load_squared(logits, top_k):
    return logits.shape[1] * load_of(logits, top_k).square().sum()


@BALANCE.wrong("probabilities only")
def probabilities_squared(logits, top_k):
    return logits.shape[1] * logits.softmax(-1).mean(0).square().sum()


@BALANCE.wrong("chosen only")
def chosen_only(logits, top_k):
    chosen, indices = logits.topk(top_k)
    table = torch.zeros_like(logits).scatter(1, indices, chosen.softmax(-1))
    return logits.shape[1] * (load_of(logits, top_k) * table.mean(0)).sum()


@BALANCE.wrong("softmax of a softmax")
def double_softmax(logits, top_k):
    probabilities = logits.softmax(-1)
    return logits.shape[1] * (load_of(logits, top_k) * probabilities.softmax(-1).mean(0)).sum()


@BALANCE.wrong("best expert only")
def first_choice(logits, top_k):
    return logits.shape[1] * (load_of(logits, 1) * logits.softmax(-1).mean(0)).sum()


@BALANCE.wrong("no gradient")
def detached(logits, top_k):
    return logits.shape[1] * (load_of(logits, top_k) * logits.detach().softmax(-1).mean(0)).sum()


SWITCH = Catalogue("moe", "switch_route")


@SWITCH.wrong("learns nothing")
def softmax_of_one(logits):
    chosen, indices = logits.topk(1)
    return chosen.softmax(-1), indices


@SWITCH.wrong("learns nothing")
def renormalized(logits):
    chosen, indices = logits.softmax(-1).topk(1)
    return chosen / chosen.sum(-1, keepdim=True), indices


@SWITCH.wrong("logit itself")
def raw(logits):
    return logits.max(-1, keepdim=True)


@SWITCH.wrong("sigmoid")
def sigmoid(logits):
    chosen, indices = logits.topk(1)
    return chosen.sigmoid(), indices


@SWITCH.wrong("detached")
def without_gradient(logits):
    return logits.detach().softmax(-1).max(-1, keepdim=True)


@SWITCH.wrong("shape [9, 1]")
def flat(logits):
    return logits.softmax(-1).max(-1)


DISPATCH = Catalogue("moe", "dispatch")


def sort(x, indices, experts):
    order = indices.flatten().argsort(stable=True)
    counts = torch.bincount(indices.flatten(), minlength=len(experts)).tolist()
    segments = x[order // indices.shape[1]].split(counts)
    answers = torch.cat([expert(rows) for expert, rows in zip(experts, segments, strict=True) if len(rows)])
    return order, answers


@DISPATCH.wrong("weights are not used")
def unweighted(x, weights, indices, experts):
    order, answers = sort(x, indices, experts)
    return torch.zeros_like(x).index_add(0, order // indices.shape[1], answers)


@DISPATCH.wrong("averaged evenly")
def averaged(x, weights, indices, experts):
    return unweighted(x, weights, indices, experts) / indices.shape[1]


@DISPATCH.wrong("wrong expert")
def flipped_weights(x, weights, indices, experts):
    order, answers = sort(x, indices, experts)
    answers = answers * weights.flip(1).flatten()[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add(0, order // indices.shape[1], answers)


@DISPATCH.wrong("order of the experts")
def never_brought_back(x, weights, indices, experts):
    order, answers = sort(x, indices, experts)
    answers = answers * weights.flatten()[order].unsqueeze(-1)
    return answers.view(*indices.shape, -1).sum(1)


@DISPATCH.wrong("first choice")
def first_only(x, weights, indices, experts):
    order, answers = sort(x, indices[:, :1], experts)
    return torch.zeros_like(x).index_add(0, order, answers * weights[:, 0][order].unsqueeze(-1))


@DISPATCH.wrong("overwriting")
def overwrites(x, weights, indices, experts):
    result = torch.zeros_like(x)
    for k in range(indices.shape[1]):
        order, answers = sort(x, indices[:, k : k + 1], experts)
        result = result.index_copy(0, order, answers * weights[:, k][order].unsqueeze(-1))
    return result


@DISPATCH.wrong("sort first")
def token_by_token(x, weights, indices, experts):
    return torch.stack(
        [
            sum(
                weight * experts[e](x[n : n + 1])[0]
                for weight, e in zip(weights[n], indices[n].tolist(), strict=True)
            )
            for n in range(len(x))
        ]
    )


@DISPATCH.wrong("not theirs")
def everyone_answers_everything(x, weights, indices, experts):
    table = torch.zeros(len(x), len(experts)).scatter(1, indices, weights)
    busy = table.detach().sum(0) > 0
    return sum(table[:, e : e + 1] * expert(x) for e, expert in enumerate(experts) if busy[e])


@DISPATCH.wrong("without tokens")
def calls_everyone(x, weights, indices, experts):
    result = torch.zeros_like(x)
    for number, expert in enumerate(experts):
        token, slot = (indices == number).nonzero(as_tuple=True)
        result = result.index_add(0, token, expert(x[token]) * weights[token, slot].unsqueeze(-1))
    return result


@DISPATCH.wrong("gradient")
def without_gradient_of_weights(x, weights, indices, experts):
    order, answers = sort(x, indices, experts)
    answers = answers * weights.detach().flatten()[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add(0, order // indices.shape[1], answers)


test_route = ROUTE.test
test_balance = BALANCE.test
test_switch_route = SWITCH.test
test_dispatch = DISPATCH.test
