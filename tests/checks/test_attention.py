"""The checks to chapter 11 accept the solutions and name the mistakes in wrong answers."""

import torch

from tests.checks.catalogue import Catalogue

WEIGHTS = Catalogue("attention", "sink_weights")


def _with_column(scores, column):
    return torch.cat((scores, column[:, None, None].expand(-1, scores.shape[1], 1)), -1).softmax(-1)


@WEIGHTS.wrong("add up to one: the sink takes nothing")
def no_sink(scores, sinks):
    return scores.softmax(-1)


@WEIGHTS.wrong("drop it")
def column_kept(scores, sinks):
    return _with_column(scores, sinks)


@WEIGHTS.wrong("the sink takes nothing")
def normalised_again(scores, sinks):
    weights = _with_column(scores, sinks)[..., :-1]
    return weights / weights.sum(-1, keepdim=True)


@WEIGHTS.wrong("as its exponential")
def not_exponentiated(scores, sinks):
    return scores.exp() / (sinks[:, None, None] + scores.exp().sum(-1, keepdim=True))


@WEIGHTS.wrong("softmax plus one")
def plus_one(scores, sinks):
    return _with_column(scores, 0 * sinks)[..., :-1]


@WEIGHTS.wrong("wrong sign")
def negative(scores, sinks):
    return _with_column(scores, -sinks)[..., :-1]


@WEIGHTS.wrong("overflow")
def naive(scores, sinks):
    e = scores.exp()
    return e / (e.sum(-1, keepdim=True) + sinks.exp()[:, None, None])


@WEIGHTS.wrong("each has its own")
def shared(scores, sinks):
    return _with_column(scores, sinks.mean().expand(len(sinks)))[..., :-1]


@WEIGHTS.wrong("1,000 added")
def maximum_of_the_scores_only(scores, sinks):
    e = (scores - scores.amax()).exp()
    safe = e / (e.sum(-1, keepdim=True) + (sinks - scores.amax()).exp()[:, None, None])
    return safe if scores.amax() < 100 else e / (e.sum(-1, keepdim=True) + 1)


test_sink_weights = WEIGHTS.test

GRADIENT = Catalogue("attention", "sink_gradient")


def _share(log_sum, sinks):
    return torch.exp(sinks[:, None] - log_sum)


@GRADIENT.wrong("sign")
def positive(out, grad_out, log_sum, sinks):
    return (_share(log_sum, sinks) * (grad_out * out).sum(-1)).sum((0, 2))


@GRADIENT.wrong("mean")
def mean(out, grad_out, log_sum, sinks):
    return -(_share(log_sum, sinks) * (grad_out * out).sum(-1)).mean((0, 2))


@GRADIENT.wrong("share is missing")
def without_share(out, grad_out, log_sum, sinks):
    return -(grad_out * out).sum((0, 2, 3))


@GRADIENT.wrong("share of the keys")
def share_of_the_keys(out, grad_out, log_sum, sinks):
    return -((1 - _share(log_sum, sinks)) * (grad_out * out).sum(-1)).sum((0, 2))


@GRADIENT.wrong("shortened twice")
def twice(out, grad_out, log_sum, sinks):
    spent = _share(log_sum, sinks)
    return -(spent * (1 - spent) * (grad_out * out).sum(-1)).sum((0, 2))


@GRADIENT.wrong("sum over the texts")
def one_a_text(out, grad_out, log_sum, sinks):
    return -(_share(log_sum, sinks) * (grad_out * out).sum(-1)).sum(2)


@GRADIENT.wrong("texts and queries")
def one_a_query(out, grad_out, log_sum, sinks):
    return -_share(log_sum, sinks) * (grad_out * out).sum(-1)


test_sink_gradient = GRADIENT.test

PLUS_ONE = Catalogue("attention", "with_plus_one")


@PLUS_ONE.wrong("ignored")
def ignored(scores, sinks, plus_one):
    return plus_one(scores)


@PLUS_ONE.wrong("wrong sign")
def added(scores, sinks, plus_one):
    return plus_one(scores + sinks[:, None, None])


@PLUS_ONE.wrong("denominator changes")
def divided_after(scores, sinks, plus_one):
    return plus_one(scores) / sinks.exp()[:, None, None]


@PLUS_ONE.wrong("subtracts in the exponent")
def divided_before(scores, sinks, plus_one):
    return plus_one(scores / sinks.exp()[:, None, None])


@PLUS_ONE.wrong("never called")
def by_itself(scores, sinks, plus_one):
    return _with_column(scores, sinks)[..., :-1]


test_with_plus_one = PLUS_ONE.test

ADD = Catalogue("attention", "add_sink")


def _total(log_sum, sinks):
    return torch.logaddexp(log_sum, sinks[:, None])


@ADD.wrong("has to shorten")
def output_unchanged(out, log_sum, sinks):
    return out, _total(log_sum, sinks)


@ADD.wrong("backward pass needs")
def log_sum_unchanged(out, log_sum, sinks):
    return out * torch.exp(log_sum - _total(log_sum, sinks)).unsqueeze(-1), log_sum


@ADD.wrong("other way round")
def the_sinks_share(out, log_sum, sinks):
    total = _total(log_sum, sinks)
    return out * torch.exp(sinks[:, None] - total).unsqueeze(-1), total


@ADD.wrong("upside down")
def longer(out, log_sum, sinks):
    total = _total(log_sum, sinks)
    return out * torch.exp(total - log_sum).unsqueeze(-1), total


@ADD.wrong("overflow")
def naive_logarithm(out, log_sum, sinks):
    total = (log_sum.exp() + sinks.exp()[:, None]).log()
    return out * torch.exp(log_sum - total).unsqueeze(-1), total


@ADD.wrong("not their logarithms")
def logarithms_added(out, log_sum, sinks):
    return out * torch.exp(log_sum - _total(log_sum, sinks)).unsqueeze(-1), log_sum + sinks[:, None]


@ADD.wrong("two tensors")
def output_alone(out, log_sum, sinks):
    return out * torch.sigmoid(log_sum - sinks[:, None]).unsqueeze(-1)


@ADD.wrong("one axis too many")
def one_axis_too_many(out, log_sum, sinks):
    total = _total(log_sum, sinks)
    return out * torch.exp(log_sum - total).unsqueeze(-1), total.unsqueeze(-1)


test_add_sink = ADD.test
