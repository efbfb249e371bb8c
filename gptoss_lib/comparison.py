"""The fair fight: arms that differ in one thing, sizes that match, and a record of every run.

GPT-2 and GPT-OSS are the two ends of a ladder whose rungs are built from the parts of earlier chapters.
Every arm gets the same tokens in the same order, the same number of active parameters, its own best
learning rate and several seeds; what comes out is a line of JSON that one command repeats.

Built in chapter 17: edit ``notebooks/17_fair_fight.py``, not this file.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import save
from torch import Tensor, nn

from gptoss_lib.cache import KVCache
from gptoss_lib.config import GPTOSSConfig, flops_per_token
from gptoss_lib.data import TokenData, story_data
from gptoss_lib.generation import generate
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.model import GPTOSS, linear_cross_entropy
from gptoss_lib.norm import RMSNorm
from gptoss_lib.pretraining import gptoss_loss, peak_memory, processor_name
from gptoss_lib.settings import home
from gptoss_lib.stories import StoryError, StoryGrammar
from gptoss_lib.training import Trainer, TrainingConfig, load_weights, save_checkpoint

__all__ = [
    "ARMS",
    "CONTROLS",
    "FEATURES",
    "HEADLINE",
    "LADDER",
    "LEAVE_ONE_OUT",
    "PROMPT_TOKENS",
    "TIERS",
    "Arm",
    "GELUExperts",
    "Tier",
    "append_row",
    "arm_config",
    "arm_loss",
    "best_rate",
    "body_parameters",
    "bootstrap_interval",
    "build_arm",
    "character_names",
    "cross_perplexity",
    "distinct_n",
    "empty_cache",
    "entity_consistency",
    "generation_quality",
    "gpt2_loss",
    "judge_runs",
    "main",
    "matched_width",
    "missing_runs",
    "next_runs",
    "of_arm",
    "paired_differences",
    "prompt_ids",
    "read_rows",
    "read_share",
    "record_file",
    "record_run",
    "run_arm",
    "run_key",
    "solve_width",
    "story_texts",
    "student_interval",
    "table",
    "tell",
    "training_flops",
]


FEATURES = ("RMSNorm", "RoPE", "SwiGLU", "grouped heads", "sinks", "window", "experts")


@dataclass(frozen=True)
class Arm:
    """One contestant: which of the seven parts it has, and what its size is matched by.

    Raises:
        ValueError: if the parts do not go together.
    """

    features: tuple[str, ...]  # some of FEATURES
    match: str = "active"  # "active" body parameters, "total" body parameters, or training "flops"
    top_k: int | None = None  # experts at work; None for the tier's own number
    frozen_router: bool = False  # the routers keep the weights that they were born with
    balance_coef: float = 0.01  # weight of the balancing loss

    def __post_init__(self) -> None:
        unknown = set(self.features) - set(FEATURES)
        if unknown or self.match not in ("active", "total", "flops"):
            raise ValueError(
                f"features={self.features}, match={self.match!r}: choose features from "
                f"{', '.join(FEATURES)}, and match from active, total, flops."
            )
        if "RoPE" not in self.features and not set(self.features) <= {"RMSNorm"}:
            raise ValueError(f"{self.features} lacks RoPE; only GPT-2 and its RMSNorm version do without.")


def _without(feature: str) -> tuple[str, ...]:
    return tuple(name for name in FEATURES if name != feature)


ARMS = {
    "gpt2-active": Arm(()),
    "gpt2-total": Arm((), match="total"),
    "gpt2-flops": Arm((), match="flops"),
    # The ladder: each rung has one part more than the one before it; the first is gpt2-active.
    "rmsnorm": Arm(FEATURES[:1]),
    "rope": Arm(FEATURES[:2]),
    "swiglu": Arm(FEATURES[:3]),
    "grouped": Arm(FEATURES[:4]),
    "sinks": Arm(FEATURES[:5]),
    "window": Arm(FEATURES[:6]),
    "gpt-oss": Arm(FEATURES),
    # Leave one out; without experts it is the rung "window".
    "no-rmsnorm": Arm(_without("RMSNorm")),
    "no-swiglu": Arm(_without("SwiGLU")),
    "no-grouped": Arm(_without("grouped heads")),
    "no-sinks": Arm(_without("sinks")),
    "no-window": Arm(_without("window")),
    # Controls.
    "k1": Arm(FEATURES, top_k=1),
    "frozen-router": Arm(FEATURES, frozen_router=True),
    "no-balance": Arm(FEATURES, balance_coef=0.0),
}

LADDER = ("gpt2-active", "rmsnorm", "rope", "swiglu", "grouped", "sinks", "window", "gpt-oss")

LEAVE_ONE_OUT = ("no-rmsnorm", "no-swiglu", "no-grouped", "no-sinks", "no-window", "window")

CONTROLS = ("k1", "frozen-router", "no-balance")


class GELUExperts(nn.Module):
    """E MLPs as GPT-2 has them, in the place of :class:`gptoss_lib.moe.Experts`.

    Args:
        config: the sizes.
    """

    def __init__(self, config: GPTOSSConfig) -> None:
        super().__init__()
        E, D, width = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.up_proj = nn.Parameter(torch.empty(E, D, width))
        self.up_proj_bias = nn.Parameter(torch.zeros(E, width))
        self.down_proj = nn.Parameter(torch.empty(E, width, D))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D))

    def forward(self, x: Tensor, indices: Tensor, scores: Tensor) -> Tensor:
        """Send each token of x [N, D] to its experts, ``indices`` and ``scores`` [N, K]; return [N, D]."""
        output = torch.zeros_like(x)
        for expert in range(len(self.up_proj)):
            token, choice = (indices == expert).nonzero(as_tuple=True)  # [n] each
            hidden = torch.addmm(self.up_proj_bias[expert], x[token], self.up_proj[expert])
            hidden = F.gelu(hidden, approximate="tanh")  # [n, F]
            answer = torch.addmm(self.down_proj_bias[expert], hidden, self.down_proj[expert])
            output = output.index_add(0, token, answer * scores[token, choice].unsqueeze(-1))
        return output


def _replace_norms(model: nn.Module, make: Callable[[], nn.Module]) -> None:
    """Put a new norm in the place of every norm of the model."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (nn.LayerNorm, RMSNorm)):
                setattr(parent, name, make())


def arm_config(arm: Arm, base: GPTOSSConfig, width: int) -> GPT2Config | GPTOSSConfig:
    """Return an arm's architecture with an MLP, or experts, of this width.

    Args:
        arm: the contestant.
        base: the tier's GPT-OSS; everything that the arm does not change is taken from it.
        width: F of the MLP or of one expert.
    """
    if "RoPE" not in arm.features:
        return GPT2Config(
            vocab_size=base.vocab_size,
            n_positions=base.max_position_embeddings,
            n_embd=base.hidden_size,
            n_layer=base.num_hidden_layers,
            n_head=base.num_attention_heads,
            n_inner=width,
            initializer_range=base.initializer_range,
        )
    heads, kv_heads = base.num_attention_heads, base.num_key_value_heads
    experts, at_work = base.num_local_experts, base.num_experts_per_tok
    if arm.top_k is not None:  # fewer and wider experts: the same parameters, stored and at work
        experts, at_work = experts * arm.top_k // at_work, arm.top_k
    if "experts" not in arm.features:
        experts, at_work = 1, 1
    full = ("full_attention",) * base.num_hidden_layers
    return dataclasses.replace(
        base,
        intermediate_size=width,
        num_key_value_heads=kv_heads if "grouped heads" in arm.features else heads,
        attention_sinks="sinks" in arm.features,
        layer_types=base.layer_types if "window" in arm.features else full,
        num_local_experts=experts,
        num_experts_per_tok=at_work,
    )


def build_arm(arm: Arm, base: GPTOSSConfig, width: int, seed: int = 0) -> GPT2 | GPTOSS:
    """Build a contestant with fresh weights.

    Args:
        arm: the contestant.
        base: the tier's GPT-OSS.
        width: F of the MLP or of one expert, see :func:`solve_width`.
        seed: decides the weights.
    """
    config = arm_config(arm, base, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, GPT2Config):
            model = GPT2(config)
            if "RMSNorm" in arm.features:
                _replace_norms(model, lambda: RMSNorm(config.n_embd, base.rms_norm_eps))
        else:
            model = GPTOSS(config, allow_frozen_router=True)
            if "RMSNorm" not in arm.features:
                _replace_norms(model, lambda: nn.LayerNorm(config.hidden_size, base.rms_norm_eps))
            if "SwiGLU" not in arm.features:
                for layer in model.model.layers:
                    layer.mlp.experts = GELUExperts(config)
            for layer in model.model.layers:
                layer.mlp.router.requires_grad_(not arm.frozen_router)
        model.reset_parameters()
    if isinstance(model, GPT2):
        with torch.no_grad():
            model.wpe.weight.mul_(0.1)  # what helped GPT-2 most in chapter 06
    return model


_TABLES = ("embed_tokens.", "lm_head.", "wte.", "wpe.")


def body_parameters(model: GPT2 | GPTOSS) -> tuple[int, int]:
    """Count the parameters between the embedding and the head: all, and those that work on one token.

    Word and position tables are not in the body; a token looks them up.
    """
    total, active = 0, 0.0
    for name, parameter in model.named_parameters():
        if not name.startswith(_TABLES) and not name.startswith("model.embed_tokens."):
            routed = ".experts." in name
            config = model.config
            share = config.num_experts_per_tok / config.num_local_experts if routed else 1
            total += parameter.numel()
            active += parameter.numel() * share
    return total, round(active)


def training_flops(model: GPT2 | GPTOSS, seq_len: int) -> float:
    """Count the FLOPs of training on one token, by the rules of :func:`gptoss_lib.config.flops_per_token`.

    Args:
        model: any arm; it may live on the meta device.
        seq_len: T, tokens in a training sequence.
    """
    c = model.config
    if isinstance(c, GPT2Config):
        seen = c.n_layer * (seq_len + 1) / 2  # the mean of 1, 2, … T in every layer
        attention, head = 4 * c.n_embd * seen, 2 * c.n_embd * c.vocab_size
    else:
        count = flops_per_token(c, seq_len, mean=True)
        attention, head = count.attention, count.head
    products = 0.0
    for name, weight in model.named_parameters():
        is_table = "embed_tokens" in name or name.startswith(_TABLES)
        if weight.ndim >= 2 and not name.endswith("bias") and not is_table:
            routed = ".experts." in name
            products += 2 * weight.numel() * (c.num_experts_per_tok / c.num_local_experts if routed else 1)
    return 3 * (products + attention + head)


def matched_width(cost: Callable[[int], float], target: float, multiple: int = 1) -> int:
    """Return the width, a multiple of ``multiple``, whose cost is nearest to ``target``.

    Args:
        cost: what a model of this width costs; it must grow by the same amount with every unit.
        target: what it should cost.
        multiple: matrix products like widths that are multiples of 8 or 16.

    Raises:
        ValueError: if no positive width comes near the target, or the cost does not grow evenly.
    """
    first, second, third = (cost(step * multiple) for step in (1, 2, 3))
    slope = second - first
    if slope <= 0 or not math.isclose(third - second, slope, rel_tol=1e-6):
        raise ValueError(f"cost grows by {slope} and then by {third - second}; it must grow evenly.")
    steps = 1 + (target - first) / slope
    if steps < 0.5:
        raise ValueError(
            f"Even a width of {multiple} costs {first:,.0f}, more than the target {target:,.0f}."
        )
    return multiple * max(1, math.floor(steps + 0.5))


def solve_width(arm: Arm, base: GPTOSSConfig, seq_len: int | None = None) -> int:
    """Return the width at which an arm matches the tier's GPT-OSS.

    All widths at work on a token, K · F, are multiples of 16.

    Args:
        arm: says what is matched.
        base: the tier's GPT-OSS.
        seq_len: T, for matching by FLOPs; the longest context by default.
    """
    measure: dict[str, Callable[[nn.Module], float]] = {
        "active": lambda model: body_parameters(model)[1],
        "total": lambda model: body_parameters(model)[0],
        "flops": lambda model: training_flops(model, seq_len or base.max_position_embeddings),
    }

    def cost(arm: Arm, width: int) -> float:
        with torch.device("meta"):
            return measure[match](build_arm(arm, base, width))

    match = arm.match
    target = cost(ARMS["gpt-oss"], base.intermediate_size)
    at_work = getattr(arm_config(arm, base, 16), "num_experts_per_tok", 1)
    return matched_width(lambda width: cost(arm, width), target, max(1, 16 // at_work))


@dataclass(frozen=True)
class Tier:
    """One scale of the experiment: the GPT-OSS at its center, the data, and how every arm is trained."""

    base: GPTOSSConfig
    training: TrainingConfig  # its learning_rate and seed are replaced in every run
    data: dict  # arguments of gptoss_lib.data.story_data
    rates: tuple[float, ...]  # the learning rates that every arm tries
    seeds: int = 3  # runs at an arm's best rate


def _tier(base: GPTOSSConfig, stories: int, vocab: int, rates: tuple[float, ...], **training) -> Tier:
    schedule = {"min_lr_ratio": 0.02, "beta2": 0.99, "log_every": 10, "checkpoint_every": 0}
    config = TrainingConfig(seq_len=base.max_position_embeddings, **(schedule | training))
    return Tier(
        dataclasses.replace(base, vocab_size=vocab, initializer_range=0.06 if vocab == 2048 else 0.02),
        config,
        {"stories": stories, "vocab_size": vocab},
        rates,
    )


def _published(layers: int, hidden: int, heads: int) -> GPTOSSConfig:
    nano = GPTOSSConfig.preset("nano")
    return dataclasses.replace(
        nano,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        layer_types=None,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        num_experts_per_tok=2,
        sliding_window=128,
        max_position_embeddings=512,
        rope_scaling=None,
        tie_word_embeddings=True,
    )


_ON_GPU = {"device": "cuda", "precision": "bf16", "warmup_steps": 50, "beta2": 0.95}

_CPU_RATES, _GPU_RATES = (4e-3, 8e-3, 1.6e-2), (5e-4, 1e-3, 2e-3)

TIERS = {
    "xs": _tier(
        GPTOSSConfig.preset("xs"), 6_000, 2_048, _CPU_RATES,
        steps=500, batch_size=8, warmup_steps=20, eval_every=250,
    ),
    "s": _tier(
        GPTOSSConfig.preset("s"), 50_000, 4_096, (2e-3, 4e-3, 8e-3),
        **_ON_GPU, steps=2_000, batch_size=32, eval_every=500,
    ),
    "m": _tier(
        GPTOSSConfig.preset("m"), 200_000, 8_192, _GPU_RATES,
        **_ON_GPU, steps=2_000, batch_size=64, eval_every=500,
    ),
} | {
    f"{layers}x{hidden}h{heads}": _tier(
        _published(layers, hidden, heads), 200_000, 8_192, _GPU_RATES,
        **_ON_GPU, steps=1_000, batch_size=64, eval_every=250,
    )
    for layers, hidden, heads in ((12, 1020, 12), (12, 1020, 6), (12, 1024, 8), (8, 1024, 8))
}  # fmt: skip


def gpt2_loss(model: GPT2, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    """Return GPT-2's mean cross-entropy, computed by the same kernel as that of GPT-OSS.

    A baseline with a slower loss would lose the race by the clock for no reason of its own.
    """
    x = model.wte(input_ids) + model.wpe(torch.arange(input_ids.shape[1], device=input_ids.device))
    for block in model.h:
        x = block(x)
    hidden = model.ln_f(x).flatten(0, 1)  # [B·T, D]
    return linear_cross_entropy(hidden, model.wte.weight, labels.flatten()), {}


def arm_loss(arm: Arm) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict]]:
    """Return the ``loss_fn`` that an arm is trained with."""
    return gptoss_loss(arm.balance_coef) if "RoPE" in arm.features else gpt2_loss


PROMPT_TOKENS = 16

_PROMPTS = {"seed": 1_000_003, "count": 32}  # stories that no training set holds


def prompt_ids(tokenizer) -> Tensor:
    """Return the first 16 tokens of 32 stories that were not trained on, [32, 16]."""
    stories = StoryGrammar().stories(**_PROMPTS)
    return torch.tensor([tokenizer.encode(story.text)[:PROMPT_TOKENS] for story in stories])


def read_share(grammar: StoryGrammar, text: str, start: int = 0) -> float:
    """Return how much of ``text`` the grammar's parser reads before it gives up, from 0 to 1.

    The last word of an unfinished text may be cut off, so it is left out. A share of 1 means that the
    text is a story or the beginning of one.

    Args:
        grammar: decides.
        text: a story, or its beginning.
        start: how many characters were given, and do not count.
    """
    try:
        grammar.parse(text)
        return 1.0
    except StoryError as error:
        reached = error.position
    end = len(text.rstrip().rpartition(" ")[0])
    return min(1.0, max(0, reached - start) / max(1, end - start))


def entity_consistency(text: str, names: Collection[str]) -> float | None:
    """Return the share of names, after the first, that have been met before in the text.

    Args:
        text: a story.
        names: the words that count as names.

    Returns:
        From 0 (a new name every time) to 1 (only one name); None for fewer than two mentions.
    """
    words = [word.strip('.,!?";:').removesuffix("'s") for word in text.split()]
    met = [word for word in words if word in names]
    return (len(met) - len(set(met))) / (len(met) - 1) if len(met) > 1 else None


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Return the share of different ones among all runs of ``n`` words.

    Args:
        texts: runs do not cross from one to the next.
        n: 1 for words, 2 for pairs, …

    Raises:
        ValueError: if no text has ``n`` words.
    """
    runs = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    if not runs:
        raise ValueError(f"No text has {n} words; lower n or give longer texts.")
    return len(set(runs)) / len(runs)


def character_names(grammar: StoryGrammar) -> set[str]:
    """Return the first names that the grammar gives to children and animals."""
    return {entity["word"] for rule in ("child", "critter") for entity in grammar.rules[rule]}


def generation_quality(texts: Sequence[str], starts: Sequence[int]) -> dict[str, float]:
    """Score generated stories by measures that anybody can recompute.

    Args:
        texts: prompt and continuation together.
        starts: the length of each prompt in characters.

    Returns:
        ``valid``: share of texts that are a story or its beginning; ``read``: mean share that the
        parser reads; ``consistency``: mean of :func:`entity_consistency`; ``distinct``:
        :func:`distinct_n` of the continuations with n = 3.
    """
    grammar = StoryGrammar()
    names = character_names(grammar)
    shares = [read_share(grammar, text, start) for text, start in zip(texts, starts, strict=True)]
    known = [c for text in texts if (c := entity_consistency(text, names)) is not None]
    return {
        "valid": sum(share == 1 for share in shares) / len(shares),
        "read": sum(shares) / len(shares),
        "consistency": sum(known) / len(known) if known else 0.0,
        "distinct": distinct_n([text[start:] for text, start in zip(texts, starts, strict=True)], 3),
    }


def empty_cache(model: GPT2 | GPTOSS, batch_size: int, length: int) -> KVCache:
    """Return a cache of the right shape for any arm."""
    c, weight = model.config, next(model.parameters())
    if isinstance(c, GPTOSSConfig):
        return KVCache.from_config(c, batch_size, length, weight.device)
    return KVCache(batch_size, length, c.n_layer, c.n_head, c.head_dim, device=weight.device)


def tell(model: GPT2 | GPTOSS, data: TokenData, length: int = 128, seed: int = 0) -> tuple[Tensor, float]:
    """Continue the fixed prompts at temperature 0.7, up to ``length`` tokens with the prompt.

    Returns:
        Ids [32, ≤ length], and how many tokens were made in a second.
    """
    ids = prompt_ids(data.tokenizer).to(next(model.parameters()).device)
    started = time.perf_counter()
    told = generate(
        model.eval(),
        ids,
        length - PROMPT_TOKENS,
        temperature=0.7,
        seed=seed,
        eos_id=data.tokenizer.eot_id,
        cache=empty_cache(model, len(ids), length),
    )
    new = told.shape[1] - ids.shape[1]
    return told, new * len(ids) / (time.perf_counter() - started)


def story_texts(ids: Tensor, tokenizer) -> tuple[list[str], list[int]]:
    """Return the texts up to their end-of-text token, and the length of each prompt in characters."""
    texts, starts = [], []
    for row in ids.tolist():
        end = row.index(tokenizer.eot_id) if tokenizer.eot_id in row else len(row)
        texts.append(tokenizer.decode(row[:end]))
        starts.append(len(tokenizer.decode(row[:PROMPT_TOKENS])))
    return texts, starts


def run_key(tier: str, arm: str, seed: int, rate: float, steps: int) -> str:
    """Return a name for a run that changes with anything that decides how it goes."""
    t, a = TIERS[tier], ARMS[arm]
    training = dataclasses.replace(t.training, learning_rate=rate, seed=seed, steps=steps)
    recipe = [asdict(arm_config(a, t.base, solve_width(a, t.base))), asdict(a), asdict(training), t.data]
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _machine() -> dict:
    """Say what the run was made on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": processor_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "system": platform.system(),
    }


def _training_speed(history: list[dict]) -> float:
    """Return the median tokens a second between two lines of the log without a validation between."""
    rates = [
        (b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"])
        for a, b in pairwise(history)
        if a["kind"] == b["kind"] == "train" and b["seconds"] > a["seconds"]
    ]
    return float(np.median(rates)) if rates else math.nan


def run_arm(
    arm: str, tier: str = "xs", seed: int = 0, learning_rate: float = 8e-3, steps: int | None = None
) -> tuple[dict, GPT2 | GPTOSS, TokenData]:
    """Train one arm, judge it, and return the row of the record, the model and the data.

    Args:
        arm: a name in :data:`ARMS`.
        tier: a name in :data:`TIERS`.
        seed: decides the weights and the order of the batches.
        learning_rate: at its peak.
        steps: updates; the tier's own number by default.

    Raises:
        ValueError: if there is no such arm or tier.
    """
    if arm not in ARMS or tier not in TIERS:
        raise ValueError(f"There is no arm {arm!r} or no tier {tier!r}; see ARMS and TIERS.")
    t = TIERS[tier]
    steps = steps or t.training.steps
    training = dataclasses.replace(t.training, learning_rate=learning_rate, seed=seed, steps=steps)
    data = story_data(**t.data)
    base = dataclasses.replace(t.base, vocab_size=data.tokenizer.vocab_size)
    before = peak_memory(training.device)
    width = solve_width(ARMS[arm], t.base)
    model = build_arm(ARMS[arm], base, width, seed)
    with tempfile.TemporaryDirectory() as folder:
        history = Trainer(model, data, training, folder, arm_loss(ARMS[arm])).train()
    after = peak_memory(training.device)
    told, speed = tell(model, data, min(128, base.max_position_embeddings))
    curve = [row for row in history if row["kind"] == "val"]
    last = [row for row in history if row["kind"] == "train"][-1]
    total, active = body_parameters(model)
    row = {
        "key": run_key(tier, arm, seed, learning_rate, steps),
        **{"tier": tier, "arm": arm, "seed": seed, "learning_rate": learning_rate, "steps": steps},
        "tokens": last["tokens"],
        "nats": curve[-1]["loss"],
        "bits_per_byte": curve[-1]["bits_per_byte"],
        "curve": [[row["step"], row["seconds"], row["loss"], row["bits_per_byte"]] for row in curve],
        "max_load": last.get("max_load"),
        **{"body": total, "body_active": active, "width": width},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_flops": training_flops(model, training.seq_len),
        "disk_bytes": len(save({name: p.detach().cpu() for name, p in model.named_parameters()})),
        "seconds": curve[-1]["seconds"],
        "tokens_per_second": _training_speed(history),
        "peak_bytes": after - before if after is not None and before is not None else None,
        "generated_per_second": speed,
        "quality": generation_quality(*story_texts(told, data.tokenizer)),
        "config": asdict(model.config),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "machine": _machine(),
    }
    return row, model, data


def record_file(tier: str = "xs") -> Path:
    """Return the file of logged runs that comes with the course."""
    return Path(str(files("gptoss_lib"))) / "runs" / f"17_{tier}.jsonl"


def read_rows(path: str | Path) -> list[dict]:
    """Return the rows of a record; none where there is no file yet."""
    path = Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def append_row(path: str | Path, row: dict) -> None:
    """Add a row to a record: afterwards the file holds all of it, or none of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        old = path.read_bytes() if path.exists() else b""
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(old + json.dumps(_rounded(row)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _rounded(value):
    """Cut floats to seven digits, which keeps the record small."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


HEADLINE = ("gpt2-active", "gpt-oss")

_ORDER = tuple(dict.fromkeys((*HEADLINE, "gpt2-total", *LADDER, *CONTROLS, *LEAVE_ONE_OUT, "gpt2-flops")))


def record_run(
    path: str | Path, arm: str, tier: str, seed: int, rate: float, steps: int | None = None
) -> bool:
    """Make a run and add it to a record, unless the record has it; return whether it was made."""
    steps = steps or TIERS[tier].training.steps
    key = run_key(tier, arm, seed, rate, steps)
    if any(row["key"] == key for row in read_rows(path)):
        return False
    row, model, _ = run_arm(arm, tier, seed, rate, steps)
    if arm in HEADLINE:  # kept for the judge
        weights = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        folder = home() / "comparison"
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / f"{key}.safetensors", weights, {"key": key})
    append_row(path, row)
    return True


def of_arm(rows: Iterable[dict], arm: str, tier: str = "xs") -> list[dict]:
    """Return the finished runs of one arm at full length."""
    steps = TIERS[tier].training.steps
    return [row for row in rows if (row["arm"], row["tier"], row["steps"]) == (arm, tier, steps)]


def best_rate(rows: Iterable[dict], arm: str, tier: str = "xs") -> float | None:
    """Return the learning rate with the lowest loss at seed 0; None before the first run."""
    tried = [row for row in of_arm(rows, arm, tier) if row["seed"] == 0]
    return min(tried, key=lambda row: row["bits_per_byte"])["learning_rate"] if tried else None


def next_runs(rows: Sequence[dict], arm: str, tier: str = "xs", seeds: int | None = None) -> list[tuple]:
    """Return the runs (arm, seed, rate) that this arm still needs, as far as they are known by now.

    First every rate of the grid at seed 0; where the best one is at an end of the grid, one rate more
    beyond it; then the other seeds at the best rate.
    """
    t, done = TIERS[tier], {(row["seed"], row["learning_rate"]) for row in of_arm(rows, arm, tier)}
    sweep = [(arm, 0, rate) for rate in t.rates if (0, rate) not in done]
    if sweep:
        return sweep
    best = best_rate(rows, arm, tier)
    beyond = {t.rates[0]: t.rates[0] / 2, t.rates[-1]: t.rates[-1] * 2}
    if best in beyond and (0, beyond[best]) not in done:
        return [(arm, 0, beyond[best])]
    return [(arm, seed, best) for seed in range(1, seeds or t.seeds) if (seed, best) not in done]


def missing_runs(rows: Sequence[dict], tier: str = "xs") -> list[tuple]:
    """Return what is known to be missing in a record, the most important first.

    The two headline arms get two seeds more at the very end.
    """
    runs = [run for arm in _ORDER for run in next_runs(rows, arm, tier)]
    extra = TIERS[tier].seeds + 2
    return runs or [run for arm in HEADLINE for run in next_runs(rows, arm, tier, extra)]


def paired_differences(rows: Sequence[dict], arm: str, reference: str, tier: str = "xs") -> list[float]:
    """Return arm − reference in bits per byte, one number a seed, each arm at its best rate."""
    found = []
    for name in (arm, reference):
        rate = best_rate(rows, name, tier)
        runs = [row for row in of_arm(rows, name, tier) if row["learning_rate"] == rate]
        found.append({row["seed"]: row["bits_per_byte"] for row in runs})
    ours, theirs = found
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def bootstrap_interval(
    differences: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return an interval for the mean, from the means of samples drawn with replacement.

    With n numbers it cannot reach beyond the smallest and the largest of them, and covers the truth
    too rarely where n is small; :func:`student_interval` allows for that.

    Raises:
        ValueError: if there are fewer than two numbers.
    """
    values = _at_least_two(differences)
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 %, for 1 to 9 degrees


def student_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval for the mean of two to ten numbers from a normal distribution.

    Raises:
        ValueError: if there are fewer than two or more than ten numbers.
    """
    values = _at_least_two(differences)
    if len(values) > len(_STUDENT) + 1:
        raise ValueError(f"{len(values)} numbers are more than the table's 10; use bootstrap_interval.")
    reach = _STUDENT[len(values) - 2] * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def _at_least_two(differences: Sequence[float]) -> np.ndarray:
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"An interval needs at least 2 numbers, but there are {values.size}; run more seeds."
        )
    return values


def table(rows: Sequence[dict], tier: str = "xs", reference: str = "gpt2-active") -> str:
    """Return the results as text: one line an arm, in the order of :data:`ARMS`."""
    lines = [f"{'arm':14s} {'rate':>7s} {'seeds':>5s} {'bits/byte':>10s}  {'minus ' + reference:>18s}  95 %"]
    for arm in ARMS:
        rate = best_rate(rows, arm, tier)
        runs = [row for row in of_arm(rows, arm, tier) if row["learning_rate"] == rate]
        if not runs or next_runs(rows, arm, tier):
            lines.append(f"{arm:14s} {'still to be run':>18s}")
            continue
        mean = np.mean([row["bits_per_byte"] for row in runs])
        line = f"{arm:14s} {rate:7.4f} {len(runs):5d} {mean:10.4f}"
        differences = [] if arm == reference else paired_differences(rows, arm, reference, tier)
        if len(differences) > 1:
            low, high = student_interval(differences)
            line += f"  {np.mean(differences):+18.4f}  {low:+.4f} to {high:+.4f}"
        lines.append(line)
    return "\n".join(lines)


def cross_perplexity(judge: GPT2 | GPTOSS, ids: Tensor, end: int) -> float:
    """Return the perplexity of continuations under a model, prompts not counted.

    Args:
        judge: reads the texts.
        ids: [B, T], from :func:`tell`.
        end: the end-of-text token; what follows the first one is not counted.
    """
    labels = ids[:, 1:].clone()
    over = (labels == end).int().cumsum(dim=1) - (labels == end).int() > 0  # after the first end
    labels[over] = -100
    labels[:, : PROMPT_TOKENS - 1] = -100
    with torch.no_grad():
        logits = judge.eval()(ids[:, :-1]).float()
    return math.exp(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).item())


def _saved(row: dict) -> GPT2 | GPTOSS:
    """Load a run's weights, which :func:`record_run` keeps for the headline arms."""
    t = TIERS[row["tier"]]
    model = build_arm(ARMS[row["arm"]], t.base, row["width"], row["seed"])
    load_weights(model, home() / "comparison" / f"{row['key']}.safetensors")
    return model.eval()


def judge_runs(rows: Sequence[dict], tier: str = "xs") -> list[dict]:
    """Let the two headline arms of every seed read their own stories and each other's.

    Raises:
        FileNotFoundError: if the weights of a run are not on this machine.
    """
    data, judged = story_data(**TIERS[tier].data), []
    runs = {}
    for arm in HEADLINE:
        rate = best_rate(rows, arm, tier)
        runs |= {(arm, r["seed"]): r for r in of_arm(rows, arm, tier) if r["learning_rate"] == rate}
    for seed in sorted({seed for _, seed in runs}):
        pair = {arm: _saved(runs[arm, seed]) for arm in HEADLINE if (arm, seed) in runs}
        if len(pair) < len(HEADLINE):
            continue
        for writer, model in pair.items():
            told, _ = tell(model, data)
            under = {
                reader: cross_perplexity(other, told, data.tokenizer.eot_id) for reader, other in pair.items()
            }
            text = story_texts(told[:1], data.tokenizer)[0][0]
            judged.append({"tier": tier, "seed": seed, "writer": writer, "perplexity": under, "text": text})
    return judged


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, ``python -m gptoss_lib.comparison``."""
    parser = argparse.ArgumentParser(prog="python -m gptoss_lib.comparison", description="The fair fight.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "make one run and add it to a record, unless it is there"),
        ("sweep", "make all runs that a record lacks, each in a process of its own"),
        ("missing", "list the runs that a record is known to lack"),
        ("table", "print the results"),
        ("judge", "let the headline arms read each other's stories"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--tier", default="xs", choices=TIERS)
        command.add_argument("--out", help="the record, a JSONL file; by default the course's own")
        if name == "run":
            command.add_argument("--arm", required=True, choices=ARMS)
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--lr", type=float, default=8e-3)
            command.add_argument("--steps", type=int, help="updates; by default those of the tier")
    options = parser.parse_args(arguments)
    path = Path(options.out) if options.out else record_file(options.tier)
    if options.command == "run":
        made = record_run(path, options.arm, options.tier, options.seed, options.lr, options.steps)
        print(f"{'added to' if made else 'already in'} {path.name}: {options.arm}, seed {options.seed}")
    elif options.command == "sweep":
        return _sweep(path, options.tier)
    elif options.command == "missing":
        for arm, seed, rate in missing_runs(read_rows(path), options.tier):
            print(f"--tier {options.tier} --arm {arm} --seed {seed} --lr {rate:g}")
    elif options.command == "table":
        print(table(read_rows(path), options.tier))
    else:
        verdicts = judge_runs(read_rows(path), options.tier)
        target = path.with_name(f"{path.stem}_judge.jsonl")
        target.unlink(missing_ok=True)  # what is there was said of earlier runs
        for row in verdicts:
            append_row(target, row)
    return 0


def _sweep(path: Path, tier: str) -> int:
    """Make the missing runs one after the other, each in a fresh process, until none is missing."""
    while todo := missing_runs(read_rows(path), tier):
        arm, seed, rate = todo[0]
        command = [sys.executable, "-m", "gptoss_lib.comparison", "run", "--tier", tier, "--out", str(path)]
        command += ["--arm", arm, "--seed", str(seed), "--lr", repr(rate)]
        code = subprocess.run(command).returncode
        if code:
            return code
    return 0


if __name__ == "__main__" and __spec__ is not None:  # a notebook is __main__ too, but has no spec
    sys.exit(main())
