"""The checks to chapter 10 accept the solutions and name the mistakes in wrong answers."""

import torch

from tests.checks.catalogue import Catalogue

SLIDING = Catalogue("masks", "sliding_mask")


def _parts(queries, keys):
    return queries[:, None] - keys[None], keys >= 0


@SLIDING.wrong("its own key counts too")
def one_too_many(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance >= 0) & (distance <= window) & there


@SLIDING.wrong("counts, once")
def one_too_few(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance >= 0) & (distance < window - 1) & there


@SLIDING.wrong("own key")
def blind_to_itself(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance > 0) & (distance <= window) & there


@SLIDING.wrong("future")
def both_sides(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance.abs() < window) & there


@SLIDING.wrong("future")
def not_causal(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance < window) & there


@SLIDING.wrong("no window")
def causal_only(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance >= 0) & there


@SLIDING.wrong("empty slots")
def empty_slots_visible(queries, keys, window):
    distance, _ = _parts(queries, keys)
    return (distance >= 0) & (distance < window)


@SLIDING.wrong("upside down")
def hidden(queries, keys, window):
    distance, there = _parts(queries, keys)
    return ~((distance >= 0) & (distance < window) & there)


@SLIDING.wrong("indices")
def by_index(queries, keys, window):
    return one_right(torch.arange(len(queries)), torch.arange(len(keys)), window)


def one_right(queries, keys, window):
    distance, there = _parts(queries, keys)
    return (distance >= 0) & (distance < window) & there


@SLIDING.wrong("booleans")
def numbers(queries, keys, window):
    return one_right(queries, keys, window).float()


test_sliding_mask = SLIDING.test

SCORES = Catalogue("masks", "grouped_scores")


@SCORES.wrong("copies the keys")
def repeated(query, key):
    groups = query.shape[1] // key.shape[1]
    return query @ key.repeat_interleave(groups, 1).mT / query.shape[-1] ** 0.5


@SCORES.wrong("copies the keys")
def broadcast(query, key):
    B, H, T, hd = query.shape
    grouped = query.view(B, key.shape[1], -1, T, hd)
    return (grouped @ key[:, :, None].mT).view(B, H, T, -1) / hd**0.5


@SCORES.wrong("neighbours should")
def tiled(query, key):
    groups = query.shape[1] // key.shape[1]
    return query @ key.repeat(1, groups, 1, 1).mT / query.shape[-1] ** 0.5


def _stacked(query, key):
    B, H, T, hd = query.shape
    return (query.reshape(B, key.shape[1], -1, hd) @ key.mT).view(B, H, T, -1)


@SCORES.wrong("not scaled")
def unscaled(query, key):
    return _stacked(query, key)


@SCORES.wrong("square root")
def divided_by_hd(query, key):
    return _stacked(query, key) / query.shape[-1]


@SCORES.wrong("not those of each query head")
def mixed_up_rows(query, key):
    B, H, T, hd = query.shape
    grouped = query.transpose(1, 2).reshape(B, key.shape[1], -1, hd)
    return (grouped @ key.mT).view(B, H, T, -1) / hd**0.5


@SCORES.wrong("shape")
def still_grouped(query, key):
    return (query.reshape(query.shape[0], key.shape[1], -1, query.shape[-1]) @ key.mT) / query.shape[
        -1
    ] ** 0.5


test_grouped_scores = SCORES.test

FIELD = Catalogue("masks", "receptive_field")


def _only(kinds, length, otherwise):
    return length if "full_attention" in kinds else min(length, otherwise)


@FIELD.wrong("adds window - 1")
def layers_times_window(kinds, window, length):
    return _only(kinds, length, len(kinds) * window)


@FIELD.wrong("add one")
def without_itself(kinds, window, length):
    return _only(kinds, length, len(kinds) * (window - 1))


@FIELD.wrong("does not multiply")
def power(kinds, window, length):
    return _only(kinds, length, window ** len(kinds))


@FIELD.wrong("reach of one layer")
def one_layer(kinds, window, length):
    return _only(kinds, length, window)


@FIELD.wrong("full layer")
def ignores_full(kinds, window, length):
    return min(length, len(kinds) * (window - 1) + 1)


@FIELD.wrong("full layer")
def last_layer_only(kinds, window, length):
    return length if kinds[-1] == "full_attention" else min(length, len(kinds) * (window - 1) + 1)


@FIELD.wrong("only 40 tokens")
def beyond_the_text(kinds, window, length):
    return length if "full_attention" in kinds else len(kinds) * (window - 1) + 1


test_receptive_field = FIELD.test
