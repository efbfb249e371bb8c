"""The checks of chapter 05 accept the solution and reject plausible mistakes, by name."""

import math

import torch
from torch import nn

from gptoss_lib.checks.gpt2 import _forward
from tests.checks.catalogue import Catalogue

WEIGHTS = Catalogue("gpt2", "attention_weights")


def _mask(T, S, diagonal=None):
    return torch.ones(T, S, dtype=torch.bool).triu(S - T + 1 if diagonal is None else diagonal)


@WEIGHTS.wrong("not scaled")
def no_scale(query, key):
    return (query @ key.T).masked_fill(_mask(len(query), len(key)), -math.inf).softmax(-1)


@WEIGHTS.wrong("√hd")
def divided_by_hd(query, key):
    return (query @ key.T / key.shape[1]).masked_fill(_mask(len(query), len(key)), -math.inf).softmax(-1)


@WEIGHTS.wrong("over the queries")
def wrong_axis(query, key):
    scores = query @ key.T / math.sqrt(key.shape[1])
    return scores.masked_fill(_mask(len(query), len(key)), -math.inf).softmax(0)


@WEIGHTS.wrong("after the softmax")
def masked_too_late(query, key):
    return (query @ key.T / math.sqrt(key.shape[1])).softmax(-1).masked_fill(_mask(len(query), len(key)), 0)


@WEIGHTS.wrong("no mask")
def no_mask(query, key):
    return (query @ key.T / math.sqrt(key.shape[1])).softmax(-1)


@WEIGHTS.wrong("first query with the first key")
def aligned_to_the_first_key(query, key):
    scores = query @ key.T / math.sqrt(key.shape[1])
    return scores.masked_fill(_mask(len(query), len(key), 1), -math.inf).softmax(-1)


@WEIGHTS.wrong("does not see itself")
def blind_to_itself(query, key):
    scores = query @ key.T / math.sqrt(key.shape[1])
    hidden = _mask(len(query), len(key), len(key) - len(query))
    return scores.masked_fill(hidden, -1e9).softmax(-1).masked_fill(hidden, 0)


@WEIGHTS.wrong("NaN")
def nan_rows(query, key):
    scores = query @ key.T / math.sqrt(key.shape[1])
    return scores.masked_fill(_mask(len(query), len(key), 0), -math.inf).softmax(-1)


@WEIGHTS.wrong("above 0")
def transposed(query, key):
    return no_mask(key, query)


test_attention_weights = WEIGHTS.test

FRESH = Catalogue("gpt2", "fresh_weights")


def _rule(name, config, written, other=None, bias=(0.0, 0.0), norm=(1.0, 0.0)):
    if name.endswith("bias"):
        return bias
    if "ln_" in name:
        return norm
    other = config.initializer_range if other is None else other
    return 0.0, written if name.endswith("c_proj.weight") else other


@FRESH.wrong("full names")
def never_matches(name, config):
    return _rule(name, config, config.initializer_range)


@FRESH.wrong("writes twice")
def counts_blocks(name, config):
    return _rule(name, config, config.initializer_range / math.sqrt(config.n_layer))


@FRESH.wrong("square root")
def no_root(name, config):
    return _rule(name, config, config.initializer_range / (2 * config.n_layer))


@FRESH.wrong("does not write")
def scales_everything(name, config):
    scaled = config.initializer_range / math.sqrt(2 * config.n_layer)
    return _rule(name, config, scaled, scaled)


@FRESH.wrong("silences")
def zero_norm(name, config):
    return _rule(name, config, config.initializer_range / math.sqrt(2 * config.n_layer), norm=(0.0, 0.0))


@FRESH.wrong("biases start at 0")
def random_bias(name, config):
    return _rule(name, config, config.initializer_range / math.sqrt(2 * config.n_layer), bias=(0.0, 0.02))


@FRESH.wrong("default")
def pytorch_embeddings(name, config):
    scaled = config.initializer_range / math.sqrt(2 * config.n_layer)
    return (0.0, 1.0) if name.startswith("w") else _rule(name, config, scaled)


@FRESH.wrong("initializer_range")
def constant(name, config):
    return _rule(name, config, 0.02 / math.sqrt(2 * config.n_layer), 0.02)


test_fresh_weights = FRESH.test

COUNT = Catalogue("gpt2", "number_of_parameters")


def _count(config, *, inner=None, head=None, positions=True, final=True, biases=1, norm=2, proj=1):
    D = config.n_embd
    inner = inner or config.n_inner or 4 * D
    attention = 3 * D * D + proj * D * D + biases * (3 + 1) * D
    mlp = 2 * D * inner + biases * (inner + D)
    total = config.vocab_size * D + config.n_layer * (attention + mlp + 2 * norm * D)
    total += config.n_positions * D if positions else 0
    total += norm * D if final else 0
    untied = not config.tie_word_embeddings if head is None else head
    return total + config.vocab_size * D if untied else total


@COUNT.wrong("count it once")
def head_twice(config):
    return _count(config, head=True)


@COUNT.wrong("not tied")
def always_tied(config):
    return _count(config, head=False)


@COUNT.wrong("position")
def no_positions(config):
    return _count(config, positions=False)


@COUNT.wrong("ln_f")
def no_final_norm(config):
    return _count(config, final=False)


@COUNT.wrong("biases of the linear")
def no_biases(config):
    return _count(config, biases=0)


@COUNT.wrong("one of them")
def half_norms(config):
    return _count(config, norm=1)


@COUNT.wrong("LayerNorms are missing")
def no_norms(config):
    return _count(config, norm=0)


@COUNT.wrong("c_proj")
def no_projection(config):
    return _count(config, proj=0)


@COUNT.wrong("n_inner")
def always_four_times(config):
    return _count(config, inner=4 * config.n_embd)


@COUNT.wrong("you counted")
def something_else(config):
    return _count(config) + 1


test_number_of_parameters = COUNT.test

REPAIRED = Catalogue("gpt2", "repaired_forward")


def _with(*bugs):
    return lambda model, input_ids, cache=None: _forward(model, input_ids, cache, frozenset(bugs))


@REPAIRED.wrong("positions start at 0", build=True)
def positions_left():
    return _with("positions")


@REPAIRED.wrong("cut the wrong way", build=True)
def split_left():
    return _with("split")


@REPAIRED.wrong("ln_f", build=True)
def norm_left():
    return _with("norm")


@REPAIRED.wrong("cut the wrong way", build=True)
def all_left():
    return _with("positions", "split", "norm")


@REPAIRED.wrong("the cache holds")
def ignores_the_cache(model, input_ids, cache=None):
    return _forward(model, input_ids, None, frozenset())


@REPAIRED.wrong("differ from the model")
def norm_twice(model, input_ids, cache=None):
    x = _forward(model, input_ids, cache, frozenset({"norm"}))
    return nn.functional.layer_norm(x, x.shape[-1:])


test_repaired_forward = REPAIRED.test
