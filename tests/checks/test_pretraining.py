"""The checks to chapter 16 accept the solutions and name the mistakes in wrong answers."""

import math

import torch

from gptoss_lib.config import count_parameters, flops_per_token
from gptoss_lib.moe import load_balancing_loss, router_z_loss
from tests.checks.catalogue import Catalogue

MIX = Catalogue("pretraining", "mix")


def terms(router_logits, top_k):
    balance = torch.stack([load_balancing_loss(logits, top_k) for logits in router_logits])
    return balance, torch.stack([router_z_loss(logits) for logits in router_logits])


@MIX.wrong("put together")
def concatenated(nats, router_logits, top_k, balance_coef, z_coef):
    together = torch.cat(router_logits)
    return nats + balance_coef * load_balancing_loss(together, top_k) + z_coef * router_z_loss(together)


@MIX.wrong("summed")
def summed(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms(router_logits, top_k)
    return nats + balance_coef * balance.sum() + z_coef * z.sum()


@MIX.wrong("exchanged")
def exchanged(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms(router_logits, top_k)
    return nats + z_coef * balance.mean() + balance_coef * z.mean()


@MIX.wrong("z-loss is missing")
def without_z(nats, router_logits, top_k, balance_coef, z_coef):
    return nats + balance_coef * terms(router_logits, top_k)[0].mean()


@MIX.wrong("balancing loss is missing")
def without_balance(nats, router_logits, top_k, balance_coef, z_coef):
    return nats + z_coef * terms(router_logits, top_k)[1].mean()


@MIX.wrong("sign")
def subtracted(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms(router_logits, top_k)
    return nats - balance_coef * balance.mean() - z_coef * z.mean()


@MIX.wrong("last layer")
def last_layer(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms(router_logits, top_k)
    return nats + balance_coef * balance[-1] + z_coef * z[-1]


@MIX.wrong("no gradient")
def detached(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms([logits.detach() for logits in router_logits], top_k)
    return nats + balance_coef * balance.mean() + z_coef * z.mean()


@MIX.wrong("one number")
def a_float(nats, router_logits, top_k, balance_coef, z_coef):
    balance, z = terms(router_logits, top_k)
    return (nats + balance_coef * balance.mean() + z_coef * z.mean()).item()


UTILIZATION = Catalogue("pretraining", "utilization")


@UTILIZATION.wrong("forward pass alone")
def forward_only(config, seq_len, tokens_per_second, machine_flops):
    return tokens_per_second * flops_per_token(config, seq_len, mean=True).forward / machine_flops


@UTILIZATION.wrong("mean=True")
def newest_token(config, seq_len, tokens_per_second, machine_flops):
    return tokens_per_second * flops_per_token(config, seq_len).training / machine_flops


@UTILIZATION.wrong("stored")
def stored_parameters(config, seq_len, tokens_per_second, machine_flops):
    return tokens_per_second * 6 * count_parameters(config).total / machine_flops


@UTILIZATION.wrong("leave out attention")
def active_parameters(config, seq_len, tokens_per_second, machine_flops):
    return tokens_per_second * 6 * count_parameters(config).active / machine_flops


def right_utilization(config, seq_len, tokens_per_second, machine_flops):
    return tokens_per_second * flops_per_token(config, seq_len, mean=True).training / machine_flops


@UTILIZATION.wrong("percent")
def percent(*arguments):
    return 100 * right_utilization(*arguments)


@UTILIZATION.wrong("upside down")
def inverted(*arguments):
    return 1 / right_utilization(*arguments)


@UTILIZATION.wrong("the length")
def times_length(config, seq_len, *rest):
    return seq_len * right_utilization(config, seq_len, *rest)


FINISH = Catalogue("pretraining", "finish")


def loop(weight, momentum, numbers, warmup, peak, gradient, rate_shift=0, batch_shift=0):
    for step in numbers:
        momentum = 0.9 * momentum + gradient(weight, step + batch_shift)
        weight = weight - peak * min(1.0, (step + rate_shift + 1) / warmup) * momentum
    return weight


@FINISH.wrong("warms up again")
def second_warmup(checkpoint, steps, *rest):
    done = checkpoint["step"]
    return loop(checkpoint["weight"], checkpoint["momentum"], range(done, steps), *rest, rate_shift=-done)


@FINISH.wrong("same batches")
def batches_again(checkpoint, steps, *rest):
    done = checkpoint["step"]
    return loop(checkpoint["weight"], checkpoint["momentum"], range(done, steps), *rest, batch_shift=-done)


@FINISH.wrong("start again")
def everything_from_zero(checkpoint, steps, *rest):
    return loop(checkpoint["weight"], checkpoint["momentum"], range(steps - checkpoint["step"]), *rest)


@FINISH.wrong("momentum")
def momentum_lost(checkpoint, steps, *rest):
    return loop(checkpoint["weight"], 0.0, range(checkpoint["step"], steps), *rest)


@FINISH.wrong("once more")
def all_again(checkpoint, steps, *rest):
    return loop(checkpoint["weight"], checkpoint["momentum"], range(steps), *rest)


@FINISH.wrong("too many")
def one_more(checkpoint, steps, *rest):
    return loop(checkpoint["weight"], checkpoint["momentum"], range(checkpoint["step"], steps + 1), *rest)


@FINISH.wrong("Nothing happened")
def nothing(checkpoint, steps, *rest):
    return checkpoint["weight"]


@FINISH.wrong("was changed")
def writes_into_the_checkpoint(checkpoint, steps, warmup, peak, gradient):
    while checkpoint["step"] < steps:
        step = checkpoint["step"]
        checkpoint["momentum"] = 0.9 * checkpoint["momentum"] + gradient(checkpoint["weight"], step)
        checkpoint["weight"] -= peak * min(1.0, (step + 1) / warmup) * checkpoint["momentum"]
        checkpoint["step"] += 1
    return checkpoint["weight"]


@FINISH.wrong("should end at")
def no_warmup(checkpoint, steps, warmup, peak, gradient):
    start = checkpoint["weight"], checkpoint["momentum"], range(checkpoint["step"] + 1, steps)
    return loop(*start, warmup, peak, gradient)


PLAN = Catalogue("pretraining", "plan")


@PLAN.wrong("other way round")
def swapped(flops, tokens_per_parameter=20):
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    return tokens_per_parameter * parameters, parameters


@PLAN.wrong("not 1")
def without_six(flops, tokens_per_parameter=20):
    parameters = math.sqrt(flops / tokens_per_parameter)
    return parameters, tokens_per_parameter * parameters


@PLAN.wrong("forward pass alone")
def forward_only_plan(flops, tokens_per_parameter=20):
    parameters = math.sqrt(flops / (2 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


@PLAN.wrong("is not used")
def always_twenty(flops, tokens_per_parameter=20):
    parameters = math.sqrt(flops / 120)
    return parameters, 20 * parameters


@PLAN.wrong("square root")
def without_root(flops, tokens_per_parameter=20):
    parameters = flops / (6 * tokens_per_parameter)
    return parameters, tokens_per_parameter * parameters


@PLAN.wrong("should be")
def half_the_budget(flops, tokens_per_parameter=20):
    parameters = math.sqrt(flops / (12 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


test_mix = MIX.test
test_utilization = UTILIZATION.test
test_finish = FINISH.test
test_plan = PLAN.test
