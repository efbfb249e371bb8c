"""The mutants: one bug each, the kind that people write, and the tests that must notice it."""

from dataclasses import dataclass
from typing import NamedTuple


class Edit(NamedTuple):
    """Text of ``gptoss_lib/<module>.py`` that stands there exactly once, and what replaces it."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A wrong variant of the library.

    Args:
        name: unique, and part of a file name.
        wrong: what is wrong, in one sentence.
        edits: what makes it of the library.
        killers: tests under ``tests/`` that must all fail, quick ones.
    """

    name: str
    wrong: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]

    @property
    def modules(self) -> list[str]:
        """The modules that it changes, in the order of its edits."""
        return list(dict.fromkeys(edit.module for edit in self.edits))


# The test files that a mutant of a module is run against for the report: its own, and those of the parts
# in which its published counterpart is.
_EXPERTS = ("tests/test_moe.py", "tests/parity/test_moe_transformers.py")
_ATTENTION = ("tests/test_attention.py", "tests/parity/test_attention_transformers.py")
SUITES = {
    "norm": ("tests/test_norm.py", "tests/parity/test_norm_transformers.py"),
    "rope": ("tests/test_rope.py", "tests/parity/test_rope_transformers.py"),
    "masks": ("tests/test_masks.py", *_ATTENTION),
    "attention": _ATTENTION,
    "cache": ("tests/test_cache.py", "tests/parity/test_model_transformers.py"),
    "swiglu": ("tests/test_swiglu.py", *_EXPERTS),
    "moe": _EXPERTS,
    "model": ("tests/test_model.py", "tests/parity/test_model_transformers.py"),
}

MUTANTS = (
    # --- norm ---
    Mutant(
        "norm-cast-before-scale",
        "The normalized vector is rounded to the model's precision, and scaled there, as Llama does it.",
        (
            Edit("norm", "self.weight.float(), self.eps)", "None, self.eps)"),
            Edit("norm", "return y.to(x.dtype)", "return y.to(x.dtype) * self.weight.to(x.dtype)"),
        ),
        ("test_norm.py::test_bfloat16_is_rounded_once",),
    ),
    Mutant(
        "norm-of-layernorm",
        "The mean is subtracted too, as in GPT-2.",
        (Edit("norm", "F.rms_norm(x.float(),", "F.rms_norm(x.float() - x.float().mean(-1, keepdim=True),"),),
        ("test_norm.py::test_by_hand", "test_norm.py::test_scale_does_not_matter_but_the_mean_does"),
    ),
    # --- rope ---
    Mutant(
        "yarn-truncated",
        "The ends of YaRN's ramp are rounded to whole pairs although `truncate` is false.",
        (Edit("rope", " if scaling.truncate else (low, high)", ""),),
        ("test_rope.py::test_gpt_oss_ramp_and_concentration", "test_rope.py::test_gpt_oss_frequencies"),
    ),
    Mutant(
        "concentration-left-out",
        "Cosines and sines are not multiplied by YaRN's concentration.",
        (Edit("rope", "1.0 if scaling is None else yarn_concentration(scaling.factor)", "1.0"),),
        ("test_rope.py::test_lengths_are_kept_up_to_the_concentration",),
    ),
    Mutant(
        "rope-interleaved",
        "Number 2i of a head turns with its neighbor 2i + 1 in place of the number half a head away.",
        (
            Edit("rope", "first, second = x.chunk(2, dim=-1)", "first, second = x[..., ::2], x[..., 1::2]"),
            Edit("rope", "return torch.cat((first * cos", "return torch.stack((first * cos"),
            Edit(
                "rope", "second * cos + first * sin), dim=-1)", "second * cos + first * sin), -1).flatten(-2)"
            ),
        ),
        ("test_rope.py::test_first_positions_by_hand", "test_rope.py::test_equals_complex_rotation"),
    ),
    Mutant(
        "rope-tables-rounded",
        "A model that is cast to 16 bits rounds its tables of cosines and sines with it.",
        (Edit("rope", "        self._build(len(self.cos), self.cos.device)\n", ""),),
        ("test_rope.py::test_tables_stay_fp32",),
    ),
    # --- masks ---
    Mutant(
        "window-plus-one",
        "A window of W shows W + 1 keys: the query's own and the W before it.",
        (Edit("masks", "unsqueeze(-2) < window", "unsqueeze(-2) <= window"),),
        (
            "test_masks.py::test_a_window_is_exactly_that_many_keys",
            "test_attention.py::test_what_each_token_hears",
        ),
    ),
    Mutant(
        "mask-sees-the-next-token",
        "A query may look at the token after it, the one that it should predict.",
        (Edit("masks", "key_positions <= query_positions)", "key_positions <= query_positions + 1)"),),
        ("test_masks.py::test_causal_mask_compares_positions",),
    ),
    Mutant(
        "heads-tiled",
        "Where key heads are copied, query head h reads key head h mod KV in place of h div G.",
        (Edit("masks", "x.repeat_interleave(groups, dim=1)", "x.repeat(1, groups, 1, 1)"),),
        (
            "test_masks.py::test_neighbours_share_a_key_head",
            "test_attention.py::test_a_kernel_that_cannot_share_keys",
        ),
    ),
    # --- attention ---
    Mutant(
        "layers-swapped",
        "The window is in the full layers, and the sliding ones see everything.",
        (Edit("attention", '== "sliding_attention" else None', '!= "sliding_attention" else None'),),
        ("test_attention.py::test_the_window_follows_the_layer_type",),
    ),
    Mutant(
        "no-sinks",
        "The block has sinks among its parameters and does not use them.",
        (Edit("attention", "value, self.sinks, window, mask)", "value, None, window, mask)"),),
        ("test_attention.py::test_the_block_against_pytorch",),
    ),
    Mutant(
        "sinks-uninitialized",
        "Fresh sinks are whatever was in the memory.",
        (
            Edit(
                "attention",
                "            else:\n                nn.init",
                '            elif name != "sinks":\n                nn.init',
            ),
        ),
        ("test_attention.py::test_fresh_weights",),
    ),
    Mutant(
        "sinks-not-in-the-backward-lse",
        "The kernel's backward pass gets the log-sum without the sink, so its probabilities are too large.",
        (
            Edit(
                "attention",
                "sinks, bias, out, log_sum)\n        ctx",
                "sinks, bias, out, log_sum if sinks is None else without)\n        ctx",
            ),
        ),
        ("test_attention.py::test_gradients_by_finite_differences",),
    ),
    Mutant(
        "sink-gradient-sign",
        "The gradient of a sink has the wrong sign.",
        (Edit("attention", "grad_sinks = -(spent", "grad_sinks = (spent"),),
        ("test_attention.py::test_the_gradient_of_a_sink",),
    ),
    Mutant(
        "band-mask-plus-one",
        "Only the banded version lets a query see one key too many.",
        (
            Edit(
                "attention",
                "sliding_mask(positions[W:], positions, W)",
                "sliding_mask(positions[W:], positions, W + 1)",
            ),
        ),
        ("test_attention.py::test_what_each_token_hears",),
    ),
    Mutant(
        "chunk-aligned-to-the-start",
        "With a cache, the queries of a chunk are taken for the first of the tokens, not for the last.",
        (Edit("attention", "sees_all and T in (1, S)", "sees_all"),),
        ("test_attention.py::test_a_cache_changes_nothing",),
    ),
    Mutant(
        "qkv-bias-forgotten",
        "Queries, keys and values are projected without their biases.",
        (Edit("attention", "proj(x).view(", "F.linear(x, proj.weight).view("),),
        ("test_attention.py::test_the_block_against_pytorch",),
    ),
    Mutant(
        "output-bias-forgotten",
        "The output projection of attention drops its bias.",
        (
            Edit(
                "attention",
                "self.o_proj(mixed.transpose(1, 2).flatten(2))",
                "F.linear(mixed.transpose(1, 2).flatten(2), self.o_proj.weight)",
            ),
        ),
        ("test_attention.py::test_the_block_against_pytorch",),
    ),
    Mutant(
        "documents-hear-each-other",
        "Packed documents are not kept apart.",
        (Edit("attention", "self.window, documents, documents)", "self.window)"),),
        ("test_attention.py::test_packed_documents_do_not_hear_each_other",),
    ),
    # --- cache ---
    Mutant(
        "cached-positions-off-by-one",
        "A token after a cached text stands at the position of the token before it.",
        (
            Edit(
                "cache",
                "torch.arange(self.length, self.length + count",
                "torch.arange(max(0, self.length - 1), max(0, self.length - 1) + count",
            ),
        ),
        ("test_cache.py::test_positions_start_where_the_cache_ends", "test_cache.py::test_unequal_prompts"),
    ),
    Mutant(
        "ring-one-slot-short",
        "A ring holds W − 1 tokens, so that a decoded token misses the oldest key of its window.",
        (
            Edit(
                "cache",
                "min(window or max_length, max_length)",
                "min(max(1, window - 1) if window else max_length, max_length)",
            ),
        ),
        ("test_cache.py::test_prefill_then_one_by_one_over_several_windows",),
    ),
    Mutant(
        "ring-forgets-one-before-a-chunk",
        "The first token of a chunk does not get the oldest key of its window.",
        (Edit("cache", "past - (self.slots - 1)", "past - (self.slots - 2)"),),
        ("test_cache.py::test_a_layer_returns_exactly_what_its_queries_see",),
    ),
    Mutant(
        "ring-positions-off-by-one",
        "The tokens in a ring are taken for their successors where masks are made from positions.",
        (Edit("cache", "newest = length - 1", "newest = length"),),
        ("test_cache.py::test_ring_tokens_equals_a_replay", "test_cache.py::test_unequal_prompts"),
    ),
    Mutant(
        "rings-in-full-layers",
        "The cache gives rings to the full layers, and the sliding ones keep everything.",
        (Edit("cache", 'if kind == "sliding_attention"', 'if kind != "sliding_attention"'),),
        ("test_cache.py::test_memory_is_really_taken_and_does_not_grow",),
    ),
    # --- swiglu ---
    Mutant(
        "swiglu-chunked",
        "The first half of the columns is taken for the gates and the second for the ups.",
        (
            Edit("swiglu", "gate = x[..., ::2]", "gate = x.chunk(2, -1)[0]"),
            Edit("swiglu", "up = x[..., 1::2]", "up = x.chunk(2, -1)[1]"),
            Edit("swiglu", "x.unflatten(-1, (-1, 2)).unbind(-1)", "x.chunk(2, -1)"),
            Edit("swiglu", "torch.stack((gate, up), dim=-1).flatten(-2)", "torch.cat((gate, up), dim=-1)"),
        ),
        ("test_swiglu.py::test_gates_stand_at_even_places",),
    ),
    Mutant(
        "clamp-removed",
        "Neither gates nor ups are clamped.",
        (
            Edit("swiglu", "x[..., ::2].clamp(max=limit)", "x[..., ::2]"),
            Edit("swiglu", "x[..., 1::2].clamp(-limit, limit)", "x[..., 1::2]"),
            Edit("swiglu", "    gate = gate.clamp(max=limit)\n", ""),
            Edit("swiglu", "glu, glu, up.clamp(-limit, limit))", "glu, glu, up)"),
        ),
        ("test_swiglu.py::test_every_combination_of_clamps", "test_moe.py::test_equals_the_loop"),
    ),
    Mutant(
        "clamp-on-the-wrong-side",
        "The gate is clamped from below only, where it should be from above only.",
        (
            Edit("swiglu", "x[..., ::2].clamp(max=limit)", "x[..., ::2].clamp(min=-limit)"),
            Edit("swiglu", "gate = gate.clamp(max=limit)", "gate = gate.clamp(min=-limit)"),
        ),
        ("test_swiglu.py::test_every_combination_of_clamps", "test_moe.py::test_equals_the_loop"),
    ),
    Mutant(
        "gate-clamped-on-both-sides",
        "The gate is clamped like the up, from below too.",
        (
            Edit("swiglu", "x[..., ::2].clamp(max=limit)", "x[..., ::2].clamp(-limit, limit)"),
            Edit("swiglu", "gate = gate.clamp(max=limit)", "gate = gate.clamp(-limit, limit)"),
        ),
        ("test_swiglu.py::test_every_combination_of_clamps",),
    ),
    Mutant(
        "plus-one-forgotten",
        "The gate scales `up` in place of `up + 1`.",
        (
            Edit("swiglu", "* (up + 1)", "* up"),
            Edit(
                "swiglu", "torch.addcmul(glu, glu, up.clamp(-limit, limit))", "glu * up.clamp(-limit, limit)"
            ),
        ),
        ("test_swiglu.py::test_every_combination_of_clamps", "test_moe.py::test_by_hand"),
    ),
    Mutant(
        "gradient-through-the-clamp",
        "The hand-written backward pass lets the gradient of a clamped gate through.",
        (Edit("swiglu", "gate, -torch.inf, beyond)", "gate, -torch.inf, torch.inf)"),),
        ("test_swiglu.py::test_the_gradient_by_hand_equals_autograd", "test_moe.py::test_equals_the_loop"),
    ),
    # --- moe ---
    Mutant(
        "softmax-before-top-k",
        "The softmax runs over all experts before the best are chosen, so the weights do not sum to one.",
        (
            Edit(
                "moe",
                "router_logits, chosen.softmax(dim=-1)",
                "router_logits, router_logits.softmax(dim=-1).gather(-1, indices)",
            ),
        ),
        ("test_moe.py::test_router",),
    ),
    Mutant(
        "router-weights-not-normalized",
        "The scores of the chosen experts weigh their answers as they are, without a softmax.",
        (Edit("moe", "router_logits, chosen.softmax(dim=-1)", "router_logits, chosen"),),
        ("test_moe.py::test_router",),
    ),
    Mutant(
        "router-bias-forgotten",
        "The router scores without its bias.",
        (Edit("moe", "linear(x, self.weight, self.bias)", "linear(x, self.weight)"),),
        ("test_moe.py::test_router",),
    ),
    Mutant(
        "expert-bias-forgotten",
        "Only the fast version drops the bias of `down_proj`.",
        (Edit("moe", "self.down_proj, self.down_proj_bias)", "self.down_proj, None)"),),
        ("test_moe.py::test_by_hand",),
    ),
    Mutant(
        "swiglu-chunked-in-the-experts",
        "Only the fast version of the experts takes halves for gates and ups.",
        (Edit("moe", "inner.unflatten(-1, (-1, 2)).unbind(-1)", "inner.chunk(2, dim=-1)"),),
        ("test_moe.py::test_by_hand",),
    ),
    Mutant(
        "gradient-memory-of-others",
        "A new gradient is written over the last one although somebody still holds that.",
        (Edit("moe", "_count_holders(memory._cdata) > 1", "_count_holders(memory._cdata) > 99"),),
        ("test_moe.py::test_gradients_of_many_texts_add_up",),
    ),
    Mutant(
        "router-gradient-without-bias",
        "The gradient of a choice's weight forgets what the bias of `down_proj` gave.",
        (
            Edit(
                "moe",
                "grad_share[start:end] += (grad @ down_bias[expert].to(grad.dtype)).unsqueeze(-1)",
                "pass",
            ),
        ),
        ("test_moe.py::test_equals_the_loop",),
    ),
    Mutant(
        "jitter-outside-training",
        "The router's noise stays on when the model is used.",
        (Edit("moe", "if self.training and self.jitter:", "if self.jitter:"),),
        ("test_moe.py::test_jitter_only_in_training",),
    ),
    Mutant(
        "balance-counts-the-best-only",
        "The balancing loss counts each token's first choice and forgets the others.",
        (
            Edit(
                "moe",
                "router_logits.detach().topk(num_experts_per_tok, dim=-1).indices",
                "router_logits.detach().topk(1, dim=-1).indices.expand(-1, num_experts_per_tok)",
            ),
        ),
        ("test_moe.py::test_load_and_balance_by_hand",),
    ),
    # --- model ---
    Mutant(
        "last-norm-forgotten",
        "The head reads the stream without the last norm.",
        (Edit("model", "return self.norm(x), router_logits", "return x, router_logits"),),
        ("test_model.py::test_the_model_is_its_parts_wired_by_hand",),
    ),
    Mutant(
        "one-norm-for-both",
        "The experts read the stream through the norm of the attention.",
        (Edit("model", "self.mlp(self.post_attention_layernorm(x))", "self.mlp(self.input_layernorm(x))"),),
        ("test_model.py::test_the_model_is_its_parts_wired_by_hand",),
    ),
    Mutant(
        "experts-read-the-old-stream",
        "Attention and experts run side by side: the experts do not see what attention added.",
        (
            Edit("model", "        x = x + self.self_attn(", "        before, x = x, x + self.self_attn("),
            Edit("model", "self.post_attention_layernorm(x)", "self.post_attention_layernorm(before)"),
        ),
        ("test_model.py::test_the_model_is_its_parts_wired_by_hand",),
    ),
    Mutant(
        "loss-counts-ignored-tokens",
        "The mean of the loss is taken over all positions, the ignored ones too.",
        (Edit("model", "count = (labels != ignore_index).sum()", "count = (labels == labels).sum()"),),
        ("test_model.py::test_loss_in_chunks",),
    ),
)
