"""The checks to chapter 12 accept the solutions and name the mistakes in wrong answers."""

import torch

from gptoss_lib.config import kv_cache_bytes
from tests.checks.catalogue import Catalogue

RING = Catalogue("cache", "ring_contents")


def _slots(newest, slots):
    return [max(-1, newest - (newest - slot) % slots) for slot in range(slots)]


@RING.wrong("newest is length - 1")
def one_token_more(length, slots):
    return _slots(length, slots)


@RING.wrong("in other slots")
def in_the_order_of_time(length, slots):
    return [-1] * max(0, slots - length) + list(range(max(0, length - slots), length))


@RING.wrong("no slot holds its first token")
def never_wraps(length, slots):
    return [slot if slot < length else -1 for slot in range(slots)]


@RING.wrong("not another negative number")
def empty_slots_as_they_come(length, slots):
    return [length - 1 - (length - 1 - slot) % slots for slot in range(slots)]


@RING.wrong("one number a slot")
def only_the_full_ones(length, slots):
    return [token for token in _slots(length - 1, slots) if token >= 0]


@RING.wrong("")
def one_token_less(length, slots):
    return _slots(length - 2, slots)


@RING.wrong("one number a slot")
def nothing(length, slots):
    return None


test_ring_contents = RING.test

APPEND = Catalogue("cache", "append")


@APPEND.wrong("look first, cut afterwards")
def written_first(kept, new, window):
    everything = torch.cat((kept, new), 2)[:, :, -window:]
    return everything, everything


@APPEND.wrong("not seen at all")
def new_only(kept, new, window):
    return new, torch.cat((kept, new), 2)[:, :, -window:]


@APPEND.wrong("in no window")
def one_too_many(kept, new, window):
    everything = torch.cat((kept, new), 2)
    return everything, everything[:, :, -window:]


@APPEND.wrong("is missing")
def one_too_few(kept, new, window):
    everything = torch.cat((kept, new), 2)
    return everything[:, :, max(0, kept.shape[2] - (window - 2)) :], everything[:, :, -window:]


@APPEND.wrong("grows beyond the window")
def never_cut(kept, new, window):
    everything = torch.cat((kept, new), 2)
    return everything[:, :, max(0, kept.shape[2] - (window - 1)) :], everything


@APPEND.wrong("the buffer holds 6")
def keeps_one_too_few(kept, new, window):
    everything = torch.cat((kept, new), 2)
    return everything[:, :, max(0, kept.shape[2] - (window - 1)) :], everything[:, :, -(window - 1) :]


@APPEND.wrong("")
def newest_first(kept, new, window):
    everything = torch.cat((new, kept), 2)
    return everything[:, :, : new.shape[2] + window - 1], everything[:, :, :window]


@APPEND.wrong("mixed up")
def texts_exchanged(kept, new, window):
    everything = torch.cat((kept, new), 2)
    everything = torch.cat((everything[:1], everything[:1]))
    return everything[:, :, max(0, kept.shape[2] - (window - 1)) :], everything[:, :, -window:]


@APPEND.wrong("two tensors")
def seen_alone(kept, new, window):
    return torch.cat((kept, new), 2)


test_append = APPEND.test

LONGEST = Catalogue("cache", "longest_context")


def _search(config, fits):
    return max((n for n in range(1, config.max_position_embeddings + 1) if fits(n)), default=0)


@LONGEST.wrong("sliding layers stop growing")
def every_layer_full(config, budget, batch_size):
    return _search(config, lambda n: kv_cache_bytes(config, n, batch_size, sliding=False) <= budget)


@LONGEST.wrong("spent on one text")
def one_text(config, budget, batch_size):
    return _search(config, lambda n: kv_cache_bytes(config, n) <= budget)


@LONGEST.wrong("to the last byte")
def strictly_less(config, budget, batch_size):
    return _search(config, lambda n: kv_cache_bytes(config, n, batch_size) < budget)


@LONGEST.wrong("do not fit any more")
def the_first_that_does_not_fit(config, budget, batch_size):
    return 1 + _search(config, lambda n: kv_cache_bytes(config, n, batch_size) <= budget)


@LONGEST.wrong("max_position_embeddings")
def no_end(config, budget, batch_size):
    n = 0
    while n < 5000 and kv_cache_bytes(config, n + 1, batch_size) <= budget:
        n += 1
    return n


@LONGEST.wrong("the answer is 0")
def at_least_one(config, budget, batch_size):
    return max(1, _search(config, lambda n: kv_cache_bytes(config, n, batch_size) <= budget))


test_longest_context = LONGEST.test
