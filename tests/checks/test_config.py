"""Every check of chapter 01 accepts the solution and names the mistake in wrong answers."""

import math
from dataclasses import replace

from gptoss_lib.config import PRESETS, GPTOSSConfig, kv_cache_bytes, weight_bytes
from tests.checks.catalogue import Catalogue

LONGEST = Catalogue("config", "longest_text")


def search(config, room, batch_size=1, sliding=True, limit=None):
    fits, too_long = 0, (limit or config.max_position_embeddings) + 1
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        if kv_cache_bytes(config, length, batch_size, sliding=sliding) <= room:
            fits = length
        else:
            too_long = length
    return fits


@LONGEST.wrong("weights")
def forgets_the_weights(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes, batch_size)


@LONGEST.wrong("one text")
def forgets_the_batch(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes - weight_bytes(config, precision))


@LONGEST.wrong("window only")
def keeps_every_token(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes - weight_bytes(config, precision), batch_size, sliding=False)


@LONGEST.wrong("window only")
def divides_by_one_token(config, memory_bytes, precision="mxfp4", batch_size=1):
    room = memory_bytes - weight_bytes(config, precision)
    return max(0, min(config.max_position_embeddings, room // kv_cache_bytes(config, 1, batch_size)))


@LONGEST.wrong("full layers")
def windows_everywhere(config, memory_bytes, precision="mxfp4", batch_size=1):
    slides = replace(config, layer_types=("sliding_attention",) * config.num_hidden_layers)
    return search(slides, memory_bytes - weight_bytes(config, precision), batch_size)


@LONGEST.wrong("one token more")
def stops_one_short(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes - weight_bytes(config, precision) - 1, batch_size)


@LONGEST.wrong("longest context")
def outgrows_the_model(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes - weight_bytes(config, precision), batch_size, limit=10**9)


@LONGEST.wrong("0 tokens")
def at_least_one_token(config, memory_bytes, precision="mxfp4", batch_size=1):
    return max(1, search(config, memory_bytes - weight_bytes(config, precision), batch_size))


@LONGEST.wrong("bf16")
def always_four_bits(config, memory_bytes, precision="mxfp4", batch_size=1):
    return search(config, memory_bytes - weight_bytes(config, "mxfp4"), batch_size)


@LONGEST.wrong("whole number")
def a_fraction(config, memory_bytes, precision="mxfp4", batch_size=1):
    return float(search(config, memory_bytes - weight_bytes(config, precision), batch_size))


@LONGEST.wrong("TypeError")
def takes_too_little(config):
    return 0


test_longest_text = LONGEST.test

COUNT = Catalogue("config", "count_file")


def count(shapes, share):
    """Count with a rule for the share of a tensor that is active."""
    total = sum(math.prod(shape) for shape in shapes.values())
    active = sum(share(name, shape) * math.prod(shape) for name, shape in shapes.items())
    return total, round(active)


def right(shapes, experts_per_token):
    def share(name, shape):
        if ".experts." in name:
            return experts_per_token / shape[0]
        return name != "model.embed_tokens.weight" or "lm_head.weight" not in shapes

    return share


@COUNT.wrong("everything as active")
def everything_active(shapes, experts_per_token):
    return count(shapes, lambda name, shape: 1)


@COUNT.wrong("input embedding")
def embedding_active(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda name, shape: rule(name, shape) if "embed" not in name else 1)


@COUNT.wrong("tied")
def tied_head_forgotten(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda name, shape: rule(name, shape) if "embed_tokens" not in name else 0)


@COUNT.wrong("router")
def router_shared_out(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda n, shape: experts_per_token / shape[0] if ".mlp." in n else rule(n, shape))


@COUNT.wrong("LayerNorm after the embedding")
def embedding_norm_left_out(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda name, shape: 0 if "embed_norm" in name else rule(name, shape))


@COUNT.wrong("biases are missing")
def expert_biases_left_out(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda name, shape: 0 if name.endswith("proj_bias") else rule(name, shape))


@COUNT.wrong("biases of every expert")
def expert_biases_all_active(shapes, experts_per_token):
    rule = right(shapes, experts_per_token)
    return count(shapes, lambda name, shape: 1 if name.endswith("proj_bias") else rule(name, shape))


@COUNT.wrong("one expert")
def one_expert(shapes, experts_per_token):
    return count(shapes, right(shapes, 1))


@COUNT.wrong("other way round")
def swapped(shapes, experts_per_token):
    total, active = count(shapes, right(shapes, experts_per_token))
    return active, total


@COUNT.wrong("every tensor once")
def matrices_only(shapes, experts_per_token):
    return count({n: s for n, s in shapes.items() if len(s) > 1}, right(shapes, experts_per_token))


@COUNT.wrong("two numbers")
def total_only(shapes, experts_per_token):
    return sum(math.prod(shape) for shape in shapes.values())


test_count_file = COUNT.test

SIZE = Catalogue("config", "explain_size")


def explanations(parameters, published, other_bytes=0, units=(("GB", 10**9), ("GiB", 2**30)), decimals=None):
    decimals = len(published.partition(".")[2]) if decimals is None else decimals
    return [
        (unit, width)
        for unit, size in units
        for width in (4, 2, 1)
        if round((parameters * width + other_bytes) / size, decimals) == float(published)
    ]


@SIZE.wrong("2**30")
def knows_gb_only(parameters, published, other_bytes=0):
    return explanations(parameters, published, other_bytes, units=(("GB", 10**9),))


@SIZE.wrong("2**30")
def takes_gib_for_gb(parameters, published, other_bytes=0):
    return explanations(parameters, published, other_bytes, units=(("GiB", 10**9), ("GB", 2**30)))


@SIZE.wrong("published digits")
def accepts_what_is_near(parameters, published, other_bytes=0):
    units = (("GB", 10**9), ("GiB", 2**30))
    near = [
        (u, w) for u, s in units for w in (4, 2, 1) if abs(parameters * w / s / float(published) - 1) < 0.2
    ]
    return [("GiB", 4)] if published == "2.19" else near


@SIZE.wrong("other bytes")
def forgets_the_rest(parameters, published, other_bytes=0):
    return explanations(parameters, published)


@SIZE.wrong("other bytes")
def adds_the_rest_to_every_parameter(parameters, published, other_bytes=0):
    return explanations(parameters + other_bytes, published)


@SIZE.wrong("all of them")
def stops_at_the_first(parameters, published, other_bytes=0):
    return explanations(parameters, published, other_bytes)[:1]


@SIZE.wrong("one decimal")
def always_two_decimals(parameters, published, other_bytes=0):
    return explanations(parameters, published, other_bytes, decimals=2)


@SIZE.wrong("GB before GiB")
def backwards(parameters, published, other_bytes=0):
    return explanations(parameters, published, other_bytes, units=(("GiB", 2**30), ("GB", 10**9)))


@SIZE.wrong("zero included")
def drops_zeros(parameters, published, other_bytes=0):
    return explanations(parameters, published.rstrip("0") if "." in published else published, other_bytes)


@SIZE.wrong("list")
def a_generator(parameters, published, other_bytes=0):
    return iter(explanations(parameters, published, other_bytes))


test_explain_size = SIZE.test

DESIGN = Catalogue("config", "small_model")
GOOD = GPTOSSConfig(
    vocab_size=4096,
    hidden_size=128,
    intermediate_size=104,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    num_local_experts=8,
    num_experts_per_tok=2,
    sliding_window=64,
    max_position_embeddings=256,
    rope_scaling=None,
    tie_word_embeddings=True,
)


@DESIGN.wrong("layers are too few", build=True)
def a_preset():
    return PRESETS["s"]


@DESIGN.wrong("tie the head", build=True)
def an_untied_head():
    return replace(GOOD, tie_word_embeddings=False)


@DESIGN.wrong("experts are the largest part", build=True)
def too_many_experts():
    return replace(GOOD, num_local_experts=12)


@DESIGN.wrong("are active", build=True)
def too_many_at_work():
    return replace(GOOD, num_experts_per_tok=6)


@DESIGN.wrong("below 2,000,000", build=True)
def too_small():
    return replace(GOOD, intermediate_size=64)


@DESIGN.wrong("between more heads", build=True)
def too_many_key_value_heads():
    return replace(GOOD, num_key_value_heads=2, intermediate_size=98)


@DESIGN.wrong("shorten the window", build=True)
def no_windows():
    return replace(GOOD, layer_types=("full_attention",) * 6)


@DESIGN.wrong("at least 2", build=True)
def a_router_without_gradient():
    return replace(GOOD, num_experts_per_tok=1)


@DESIGN.wrong("nothing to choose", build=True)
def no_choice():
    return replace(GOOD, num_local_experts=2)


@DESIGN.wrong("4,096", build=True)
def another_vocabulary():
    return replace(GOOD, vocab_size=2048)


@DESIGN.wrong("max_position_embeddings", build=True)
def a_longer_context():
    return replace(GOOD, max_position_embeddings=512)


@DESIGN.wrong("GPTOSSConfig", build=True)
def a_name():
    return "s"


test_small_model = DESIGN.test
