"""Checks for the exercises of chapter 01."""

import math
from dataclasses import replace

from gptoss_lib.checks import check, expect, unless
from gptoss_lib.config import GPTOSSConfig, count_parameters, kv_cache_bytes, parameter_shapes, weight_bytes

__all__ = ["count_file", "explain_size", "longest_text", "small_model"]


@check("Right: it fits, one token more would not, and no text outgrows the model.")
def longest_text(answer) -> None:
    """Check the longest texts that fit beside the weights."""
    # Small weights and a far limit, so that every known mistake gives a number of its own.
    config = replace(GPTOSSConfig.preset("s"), max_position_embeddings=100_000)
    weights = weight_bytes(config, "mxfp4")
    room = kv_cache_bytes(config, 1_000, batch_size=3)
    got = answer(config, weights + room, batch_size=3)
    expect(isinstance(got, int), f"A number of tokens is a whole number, but the answer is {got!r}.")
    unless(
        got == _search(config, weights + room, 3),
        "This gives the KV cache all of the memory; the weights need their share first.",
    )
    unless(got == _search(config, room, 1), "This is right for one text; each of batch_size needs a cache.")
    unless(
        got == _search(config, room, 3, sliding=False),
        "This keeps every token in every layer; a sliding layer keeps its window only, so more fits.",
    )
    unless(
        got == _search(replace(config, layer_types=("sliding_attention",) * 4), room, 3),
        "This takes the window in every layer; full layers have none and keep every token.",
    )
    unless(got == 999, "One token more still fits: a cache that fills the room exactly is allowed.")
    expect(got == 1_000, f"Three texts of 1,000 tokens fill the memory exactly, but the answer is {got:,}.")

    expect(
        answer(config, weights + 1000 * room) == config.max_position_embeddings,
        "With plenty of memory the limit is the model's longest context, max_position_embeddings.",
    )
    expect(answer(config, weights - 1) == 0, "Where the weights do not fit, the answer is 0 tokens.")
    expect(answer(config, weights) == 0, "Where there is no room beside the weights, the answer is 0 tokens.")

    small = GPTOSSConfig.preset("compact")
    for precision in ("bf16", "int8"):
        memory = weight_bytes(small, precision) + kv_cache_bytes(small, 777)
        expect(
            answer(small, memory, precision) == 777,
            f"This is not right in {precision}; the precision says how many bytes the weights take.",
        )


def _search(config: GPTOSSConfig, room: int, batch_size: int, sliding: bool = True) -> int:
    """Return the longest context whose cache fits into ``room`` bytes."""
    fits, too_long = 0, config.max_position_embeddings + 1
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        if kv_cache_bytes(config, length, batch_size, sliding=sliding) <= room:
            fits = length
        else:
            too_long = length
    return fits


@check("Right: both counts agree with the config's, tied or not, with biases and without.")
def count_file(answer) -> None:
    """Check total and active parameters that were counted from names and shapes."""
    for name in ("nano", "compact", "mini", "m"):
        # Two experts at work, so that a mistake with the number of experts shows.
        config = replace(GPTOSSConfig.preset(name), num_experts_per_tok=2)
        shapes = parameter_shapes(config)
        count = count_parameters(config)
        got = answer(dict(shapes), 2)
        expect(
            isinstance(got, (tuple, list)) and len(got) == 2,
            f"Return two numbers, (total, active); the answer is {got!r}.",
        )
        total, active = got
        unless(total == count.active, "The order is (total, active); yours is the other way round.")
        expect(
            total == count.total,
            f"The total of {name!r} is {count.total:,}, every tensor once; yours is {total:,}.",
        )
        embedding = config.vocab_size * config.hidden_size
        unless(active == total, "This counts everything as active; a token meets only some of the experts.")
        unless(
            not config.tie_word_embeddings and active == count.active + embedding,
            "This counts the input embedding as active; a token only looks up its row there.",
        )
        unless(
            config.tie_word_embeddings and active == count.active - embedding,
            "Without an lm_head.weight the model is tied: the embedding is the head too, so it is active.",
        )
        unless(
            active == count.active - count.router + count.router // config.num_local_experts * 2,
            "This takes a share of the router too; it scores every expert for every token.",
        )
        if config.embedding_norm:
            unless(
                active == count.active - 2 * config.hidden_size,
                "The LayerNorm after the embedding is missing; 'embed' is in its name, yet it works.",
            )
        if config.expert_bias:
            biases = sum(math.prod(shape) for name, shape in shapes.items() if "proj_bias" in name)
            used = biases // config.num_local_experts * 2
            unless(
                active == count.active - used,
                "The experts' biases are missing; they are active with their expert.",
            )
            unless(
                active == count.active - used + biases,
                "This counts the biases of every expert as active; only those of the experts at work are.",
            )
        unless(
            active == count.active - count.active_experts + count.active_experts // 2,
            "This counts one expert a layer; experts_per_token experts work on a token.",
        )
        expect(
            active == count.active, f"{name!r} has {count.active:,} active parameters; yours is {active:,}."
        )


@check("Right: you find every explanation, and none where there is none.")
def explain_size(answer) -> None:
    """Check the explanations of published file sizes."""
    nano, partner = 588_490_284, 564_241_560
    got = answer(nano, "2.19")
    expect(isinstance(got, list), f"Return a list of (unit, bytes per parameter); the answer is {got!r}.")
    unless(not got, "There is an explanation of 2.19; have you tried GiB, which are 2**30 bytes?")
    unless(got == [("GB", 4)], "588,490,284 × 4 bytes are 2.35 GB but 2.19 GiB; a GiB has 2**30 bytes.")
    expect(got == [("GiB", 4)], f"2.19 means 4 bytes a parameter, in GiB; yours is {got!r}.")
    unless(
        bool(answer(partner, "2.46")),
        "No precision gives 2.46 for the GPT-2; accept only what rounds to the published digits.",
    )
    expect(
        answer(partner, "2.46", 384_000_000) == [("GiB", 4)],
        "With 384,000,000 other bytes the GPT-2's size is explained; add them once, not once a parameter.",
    )
    got = answer(202_934_088, "0.4")
    unless(
        isinstance(got, list) and len(got) == 1,
        "One decimal leaves two explanations for 0.4, in GB and in GiB; return all of them.",
    )
    unless(not got, "0.4 has one decimal; round to as many digits as were published.")
    unless(got == [("GiB", 2), ("GB", 2)], "The order is GB before GiB.")
    expect(got == [("GB", 2), ("GiB", 2)], f"0.4 means 2 bytes, in GB or in GiB; yours is {got!r}.")
    expect(answer(2_400_000_000, "10") == [("GB", 4)], "A size without decimals is a whole number.")
    expect(not answer(1_530_000_000, "1.50"), "1.50 has two decimals, the zero included: 1.53 is not 1.50.")


@check("Right: six layers or more, two million parameters of body, and every budget kept.")
def small_model(config) -> None:
    """Check a config that was designed for a budget."""
    expect(isinstance(config, GPTOSSConfig), f"small_model is {config!r}; it must be a GPTOSSConfig.")
    expect(config.vocab_size == 4096, f"The vocabulary has {config.vocab_size:,} tokens; make it 4,096.")
    expect(config.num_hidden_layers >= 6, f"{config.num_hidden_layers} layers are too few; have 6 at least.")
    expect(
        2 <= config.num_experts_per_tok < config.num_local_experts,
        f"{config.num_experts_per_tok} of {config.num_local_experts} experts work on a token; "
        "at least 2 must, and not all of them, or there is nothing to choose.",
    )
    expect(
        config.max_position_embeddings == 256,
        f"The longest context is {config.max_position_embeddings:,}; set max_position_embeddings to 256.",
    )
    count = count_parameters(config)
    if count.total > 3_000_000:
        tied = config.tie_word_embeddings
        hint = "the experts are the largest part" if tied else "tie the head to the embedding"
        expect(False, f"The total is {count.total:,}, above 3,000,000; {hint}.")
    expect(
        count.active <= 1_300_000,
        f"{count.active:,} parameters are active, above 1,300,000; "
        "make experts narrower and have more of them, or the vectors shorter.",
    )
    expect(
        count.body >= 2_000_000,
        f"The body has {count.body:,} parameters, below 2,000,000; idle experts cost no work.",
    )
    cache = kv_cache_bytes(config, 256)
    expect(
        cache <= 128 * 1024,
        f"The KV cache takes {cache:,} bytes at 256 tokens, above 131,072; "
        "share keys and values between more heads, or shorten the window.",
    )
