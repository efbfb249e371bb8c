# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generation
#
# A trained model does not write. It reads a text and returns one score for every possible next token. Somebody has to
# pick one, append it, and ask again. This chapter builds that somebody: the samplers that choose, the loop that
# repeats, and the stream that turns tokens into text a reader can watch. At the end the GPT-2 that you trained in [the
# last chapter](06_training.ipynb) tells a story, and the grammar that knows every rule of its world marks it. The mark
# will be poor, and you will see exactly where and why.
#
# **You will**
#
# - draw a token from a distribution with one random number;
# - build temperature, top-k, top-p, min-p and a repetition penalty as small pure functions, and see what each does to the
#   same distribution;
# - write the generation loop: batches whose rows do not disturb each other, ends, seeds, a seam for a cache;
# - stream text without ever showing half a character or the beginning of a stop string;
# - judge a model by what it writes, and not only by its loss.
#
# **Time:** about 60 minutes. **Hardware:** any CPU. The last section trains chapter 06's model if you have not run that
# chapter, which adds about a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# The obvious way to pick is to take the best token every time. It is called **greedy** decoding, and it disappoints:
# models repeat themselves, and the more they have repeated themselves the more certain they become ([Holtzman et al.,
# 2020](https://arxiv.org/abs/1904.09751)). The other obvious way is to draw each token with the probability that the
# model gave it. This is honest, and it fails differently. A vocabulary has tens of thousands of tokens, nearly all of
# them wrong at any one place. Each has a tiny probability, but there are many of them. Suppose they share 3%, and
# count:

# %%
for tokens in (10, 50, 200):
    print(
        f"{tokens:>4} tokens, 3% of nonsense at each: the text is free of it with probability {0.97**tokens:.1%}"
    )

# %% [markdown]
# One wrong token and the model goes on from there, sincerely. So people cut the tail, sharpen the distribution, or
# punish repetition. Each of these is a few lines on the logits. Most also have a bug that well-known projects have
# shipped; you will find them under *Pitfalls*.

# %%
#| export
"""Generation: choose tokens from logits, repeat, and stream the text.

The samplers are pure functions on logits [B, V]; :func:`sample` composes them,
:func:`generate_tokens` is the loop, :class:`TextStream` turns tokens into text. Nothing here knows
GPT-2: any model that maps ids [B, T] to logits [B, T, V] will do.
"""

import codecs
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from inspect import signature

import torch
from torch import Tensor, nn

# %% tags=["hide-input"]
import itertools

from gptoss_lib.figures import COLORS, new_figure, show
from gptoss_lib.widgets import explore

# %% [markdown]
# Our guinea pig is a distribution over ten words, made up by hand, for the place after *Lily opened the box and saw a …*.
# The **logits** are the model's raw scores. The softmax turns them into probabilities.

# %%
words = ["dog", "cat", "ball", "hat", "frog", "cake", "stone", "king", "cloud", "of"]
logits = torch.tensor([[3.2, 2.6, 2.1, 1.6, 1.1, 0.6, 0.1, -0.6, -1.6, -3.0]])  # [B, V] = [1, 10]
probabilities = logits.softmax(-1)
for word, p in zip(words, probabilities[0].tolist(), strict=True):
    print(f"{word:>6} {p:6.3f}  {'█' * round(60 * p)}")

# %% [markdown]
# ## One number picks a token
#
# Put the probabilities end to end on a line from 0 to 1. Each word owns a piece as long as its probability. Now throw a
# dart: a random number $u$, uniform between 0 and 1. The word whose piece it hits is the sample. In symbols, with the
# running sum $C_i = p_0 + \dots + p_i$: take the first $i$ with $C_i > u$.

# %% tags=["hide-input"]
fig, ax = new_figure(7.5, 1.7)
left = 0.0
for index, (word, p) in enumerate(zip(words, probabilities[0].tolist(), strict=True)):
    name = ("blue", "orange", "green", "pink", "violet")[index % 5]
    ax.barh(0, p, left=left, height=0.6, color=COLORS[name] + "60", edgecolor=COLORS[name])
    if p > 0.04:
        ax.text(left + p / 2, 0, word, ha="center", va="center")
    left += p
ax.annotate(
    "u = 0.62",
    (0.62, 0.3),
    (0.62, 0.75),
    ha="center",
    arrowprops={"arrowstyle": "-|>", "color": COLORS["red"]},
)
ax.set_ylim(-0.5, 1)
ax.set_xlim(0, 1)
ax.set_yticks([])
ax.grid(False)
show(
    fig,
    alt="The ten words laid end to end on a line from 0 to 1, each as long as its probability. An arrow at u = 0.62 "
    "points into the piece of the second word, cat.",
)

# %% [markdown]
# Two details matter. The running sum is computed in double precision, because in single precision 200,000 small numbers
# do not add up to 1. And it is divided by its own last entry, so that it ends at exactly 1: then a $u$ below 1 can never
# land behind the last piece, nor on a word of probability 0. PyTorch's own `multinomial` has returned such words (see
# *Pitfalls*).


# %%
#| export
def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Pick the token in whose share of the line from 0 to 1 a random number falls.

    Args:
        probabilities: [B, V]; the rows need not add up to 1.
        uniform: [B], each from 0 (included) to 1 (excluded).

    Returns:
        Token ids [B]. A token of probability 0 is never picked.

    Raises:
        ValueError: if a row holds NaN or infinity, or nothing but zeros.
    """
    # On the CPU and in double precision: the same choice on every device.
    cumulative = probabilities.detach().cpu().double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    if not (torch.isfinite(total) & (total > 0)).all():
        raise ValueError(
            "The probabilities of a row add up to nothing or to NaN; look for NaN in the model's logits."
        )
    picked = torch.searchsorted(cumulative / total, uniform.double()[:, None], right=True)
    return picked[:, 0].to(probabilities.device)


# %%
print("u = 0.62 →", words[draw(probabilities, torch.tensor([0.62]))])
generator = torch.Generator().manual_seed(0)
tokens = draw(probabilities.expand(50_000, -1), torch.rand(50_000, generator=generator, dtype=torch.float64))
counts = tokens.bincount(minlength=10)
expected = 50_000 * probabilities[0]
print(
    "chi-square:",
    round(((counts - expected) ** 2 / expected).sum().item(), 1),
    " (10 words leave 9 degrees of freedom; 95% of fair draws stay below 16.9)",
)

# %% [markdown]
# ## Temperature
#
# Divide the logits by $T$ before the softmax. Below 1 the differences grow and the distribution sharpens; above 1 it
# flattens; towards 0 only the best token is left, and towards infinity all tokens become equal:
#
# $$p_i \propto e^{z_i / T} = \left(e^{z_i}\right)^{1/T}.$$
#
# In words: temperature raises every probability to the power $1/T$ and renormalizes. The order of the tokens never
# changes. At $T = 1$ you get what the model was trained to give.


# %%
#| export
def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the distribution.

    Args:
        logits: [B, V].
        temperature: what the logits are divided by.

    Raises:
        ValueError: if ``temperature`` is not positive; :func:`warp` reads 0 as greedy.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but dividing by it needs a positive number.")
    return logits / temperature


# %%
def entropy(logits):
    p = logits.softmax(-1)
    return -(p * p.clamp_min(1e-30).log()).sum(-1)


print(f"temperature  best word  entropy in nats   (10 equal words: {math.log(10):.2f})")
for temperature in (0.25, 0.5, 1.0, 2.0, 10.0):
    warped = apply_temperature(logits, temperature)
    print(f"{temperature:>11}  {warped.softmax(-1).max():9.2f}  {entropy(warped).item():7.2f}")

# %% tags=["hide-input"]
temperatures = torch.linspace(0.05, 5, 100)
fig, axes = new_figure(7.5, 2.8, ncols=2)
axes[0].plot(temperatures, [entropy(logits / t).item() for t in temperatures], color=COLORS["violet"])
axes[0].axhline(math.log(10), color=COLORS["grey"], linestyle=":")
axes[0].set_xlabel("temperature")
axes[0].set_title("entropy in nats (dotted: ln 10)")
for t, color in ((0.5, "blue"), (1.0, "orange"), (2.0, "green")):
    axes[1].plot(words, (logits / t).softmax(-1)[0], marker="o", color=COLORS[color], label=f"T = {t}")
axes[1].tick_params(axis="x", rotation=60)
axes[1].legend()
axes[1].set_title("the same logits at three temperatures")
show(
    fig,
    alt="Left: entropy rises from 0 at low temperature towards ln 10, the entropy of ten equal words. Right: at "
    "temperature 0.5 most of the mass is on dog and cat, at 1 it falls off gently, at 2 it is flatter still.",
)

# %% [markdown]
# ## Cut the tail
#
# Temperature treats good and bad tokens alike. To get rid of the tail, set its logits to $-\infty$. The question is only
# where to cut, and there are three answers.
#
# **Top-k** ([Fan et al., 2018](https://arxiv.org/abs/1805.04833)) keeps the k best. Simple, and blind: after *Once upon
# a* there is one good word, after *saw a* there are hundreds, and k is the same for both.
#
# What if two tokens tie for the last place? A sort would keep one of them, and which one depends on the kernel. All our
# filters follow one principle instead: **a filter is a threshold, so equal logits share one fate.** Ties stay together,
# even if that makes k + 1.


# %%
#| export
def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits of each row, and all that equal the smallest of them.

    Args:
        logits: [B, V].
        k: how many; more than V keeps everything.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"top_k is {k}, but at least one token has to stay; pass None to switch it off.")
    threshold = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # [B, 1]
    return logits.masked_fill(logits < threshold, -math.inf)


# %% [markdown]
# **Top-p**, or nucleus sampling ([Holtzman et al., 2020](https://arxiv.org/abs/1904.09751)), keeps the smallest set of
# best tokens whose probabilities reach p together. Where the model is sure it keeps one token; where it is not, many.
#
# *Reach* is the word that everybody trips over. With probabilities 0.5, 0.4, 0.1 and p = 0.8, the best token alone has
# 0.5, which is not enough; the second brings it to 0.9. So the second, the one that **crosses** the line, stays. A token
# stays if the mass *before* it is still below p.


# %%
#| export
def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose probabilities reach p together.

    Tokens exactly as probable as the last one kept stay as well. From "The Curious Case of Neural
    Text Degeneration" (Holtzman et al., 2020).

    Args:
        logits: [B, V].
        p: above 0, at most 1; 1 keeps everything.

    Raises:
        ValueError: if p is outside that range.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}, but it is a share of the probability, above 0 and at most 1.")
    if p == 1:
        return logits  # by comparing sums, rounding would cut off a few rare tokens
    probabilities = logits.softmax(dim=-1)
    ordered = probabilities.sort(dim=-1, descending=True).values
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = (mass_before < p).sum(dim=-1, keepdim=True)  # [B, 1], at least 1
    threshold = ordered.gather(-1, kept - 1)
    return logits.masked_fill(probabilities < threshold, -math.inf)


# %% [markdown]
# **Min-p** ([Nguyen et al., 2024](https://arxiv.org/abs/2407.01082)) keeps what is at least p times as probable as the
# best token. It asks a different question. Not *how much mass do I need?* but *is this token in the same league as the
# best one?* Its authors recommend it for high temperatures, where the tail grows heavy. How deep it cuts there depends
# on the order of the steps, as you will see below.


# %%
#| export
def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens that are at least p times as probable as the most probable one.

    From "Turning Up the Heat: Min-p Sampling" (Nguyen et al., 2024).

    Args:
        logits: [B, V].
        p: from 0 (keep everything) to 1 (keep only the best).

    Raises:
        ValueError: if p is outside that range.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p is {p}, but it is a share of the best token's probability, from 0 to 1.")
    probabilities = logits.softmax(dim=-1)
    threshold = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, -math.inf)


# %% [markdown]
# The three side by side, at a place where the model is unsure (our ten words) and at one where it is sure (the same
# logits, four times as large):

# %%
places = {"unsure": logits, "sure": 4 * logits}
filters = {
    "top-k 4": lambda z: keep_top_k(z, 4),
    "top-p 0.9": lambda z: keep_top_p(z, 0.9),
    "min-p 0.1": lambda z: keep_min_p(z, 0.1),
}
for name, keep in filters.items():
    kept = [int(torch.isfinite(keep(z)).sum()) for z in places.values()]
    print(f"{name:>9}: {kept[0]} words stay where the model is unsure, {kept[1]} where it is sure")

# %% tags=["hide-input"]
fig, axes = new_figure(8, 2.6, ncols=5, sharey=True)
panels = {"the model": lambda z: z, "T = 0.5": lambda z: apply_temperature(z, 0.5)} | filters
for ax, (name, change) in zip(axes, panels.items(), strict=True):
    after = change(logits).softmax(-1)[0]
    ax.bar(range(10), probabilities[0], color=COLORS["grey"] + "40")
    ax.bar(range(10), after, color=COLORS["orange"] if name == "the model" else COLORS["blue"], width=0.5)
    ax.set_xticks(range(10), words, rotation=90, fontsize=8)
    ax.set_title(name)
axes[0].set_ylabel("probability")
show(
    fig,
    alt="The same ten words in five panels: unchanged, at temperature 0.5, with top-k 4, with top-p 0.9 and with min-p "
    "0.1. The filters remove the tail and share its probability among the words that stay; grey bars show the original.",
)

# %% [markdown]
# Try the two most used settings together. The temperature is applied first, as in most libraries, so a high temperature
# flattens the distribution and top-p then keeps *more* words.


# %% tags=["hide-input"]
def sampler_bars(temperature: float, p: float) -> str:
    """Bars of the distribution after temperature and top-p."""
    after = keep_top_p(apply_temperature(logits, temperature), p)
    lines = [
        f"<div>{int(torch.isfinite(after).sum())} of 10 words stay; entropy {entropy(after).item():.2f} nats</div>"
    ]
    for word, share in zip(words, after.softmax(-1)[0].tolist(), strict=True):
        text = f"{share:.1%}" if share else "cut"
        lines.append(
            f'<div style="display:flex;align-items:center;gap:8px;opacity:{1 if share else 0.45}">'
            f'<span style="width:3.5em;text-align:right">{word}</span>'
            f'<span style="height:0.85em;width:{300 * share:.0f}px;background:{COLORS["blue"]}"></span>'
            f"<span>{text}</span></div>"
        )
    return "".join(lines)


explore(
    sampler_bars,
    {"temperature": [0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0], "top-p": [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0]},
    start={"temperature": 1.0, "top-p": 0.9},
)

# %% [markdown]
# ## Do not say it again
#
# The **repetition penalty** of CTRL ([Keskar et al., 2019](https://arxiv.org/abs/1909.05858)) makes every token that the
# text already contains less likely: it divides its logit by a number such as 1.2. But dividing makes a *negative* logit
# larger (−3 / 1.2 = −2.5), which would reward repetition. So negative logits are multiplied.
#
# It is a blunt tool. It punishes *the* and the full stop as much as a loop, and it is the one sampler that is not
# invariant under adding a constant to all logits, which changes nothing about the distribution. Use it against loops,
# not by default.


# %%
#| export
def penalize_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Make every token that occurred before less likely (above 1) or more likely (below 1).

    Divides positive logits and multiplies negative ones, once for each token however often it
    occurred. From "CTRL" (Keskar et al., 2019), with the rule for negative logits that
    ``transformers`` added.

    Args:
        logits: [B, V].
        previous: the tokens of the text so far, [B, T].
        penalty: a positive number; 1 changes nothing.

    Raises:
        ValueError: if ``penalty`` is not positive.
    """
    if not penalty > 0:
        raise ValueError(f"repetition_penalty is {penalty}, but it has to be positive; 1 switches it off.")
    seen = logits.gather(-1, previous)
    return logits.scatter(-1, previous, torch.where(seen < 0, seen * penalty, seen / penalty))


# %%
previous = torch.tensor([[words.index("dog"), words.index("dog"), words.index("cloud")]])
for word in ("dog", "cat", "cloud"):
    before, after = (
        z[0, words.index(word)].item() for z in (logits, penalize_repetition(logits, previous, 1.5))
    )
    print(f"{word:>6}: {before:5.2f} → {after:5.2f}")

# %% [markdown]
# ## In which order?
#
# Order matters. Temperature first means that top-p and min-p measure the *tempered* distribution; temperature last means
# that they measure what the model said, and the temperature only reshapes what is left.

# %%
hot_first = keep_min_p(apply_temperature(logits, 3.0), 0.1)
hot_last = apply_temperature(keep_min_p(logits, 0.1), 3.0)
print("temperature 3, then min-p 0.1:", int(torch.isfinite(hot_first).sum()), "words stay")
print("min-p 0.1, then temperature 3:", int(torch.isfinite(hot_last).sum()), "words stay")

# %% [markdown]
# `transformers` and OpenAI's own samplers temper first; llama.cpp tempers last. The same settings therefore mean
# different things in different programs. We follow `transformers`: penalty, temperature, top-k, top-p, min-p.
#
# All filters compute in single precision, whatever the model used: in bfloat16 probabilities have two to three digits,
# and logits tie all the time. Temperature 0 is read as greedy: everything but the best token is cut (the first one, if
# several are equally good), so the rest of the code needs no special case.


# %%
#| export
def warp(
    logits: Tensor,
    previous: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """Apply the samplers in ``transformers``' order: penalty, temperature, top-k, top-p, min-p.

    Args:
        logits: [B, V], of any floating type.
        previous: the tokens so far, [B, T]; only the repetition penalty needs them.
        temperature: 0 is greedy, 1 is the model's own distribution.
        top_k: keep this many tokens.
        top_p: keep the smallest set with this share of the probability.
        min_p: keep tokens with at least this share of the best one's probability.
        repetition_penalty: what the logits of tokens that occurred are divided by.

    Returns:
        Logits [B, V] in float32, −inf where a token was cut.

    Raises:
        ValueError: if a setting is out of range, or the penalty lacks ``previous``.
    """
    logits = logits.float()
    if repetition_penalty != 1:
        if previous is None:
            raise ValueError("repetition_penalty needs the tokens so far; pass them as previous=[B, T].")
        logits = penalize_repetition(logits, previous, repetition_penalty)
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -math.inf).scatter(-1, best, 0.0)
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits


# %% [markdown]
# Sampling is then two lines: warp, draw. One choice deserves a word. With a single random generator for a batch, row 3
# gets the third number, so its text depends on how many rows stand before it. Give each row a generator of its own and
# every row writes the same text alone as in company.


# %%
#| export
def sample(
    logits: Tensor,
    previous: Tensor | None = None,
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    **settings,
) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [B, V].
        previous: the tokens so far, [B, T]; only the repetition penalty needs them.
        generator: a CPU generator for all rows or one for each; PyTorch's global one by default.
        settings: temperature, top_k, top_p, min_p, repetition_penalty, as in :func:`warp`.

    Returns:
        Token ids [B].

    Raises:
        ValueError: if a setting is out of range, the logits hold NaN, or there are more or fewer
            generators than rows.
    """
    rows, shared = len(logits), generator is None or isinstance(generator, torch.Generator)
    if not shared and len(generator) != rows:
        raise ValueError(f"There are {len(generator)} generators for {rows} rows; give one, or one a row.")
    warped = warp(logits, previous, **settings)
    if settings.get("temperature") == 0:
        return warped.argmax(dim=-1)
    if shared:
        uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    else:
        uniform = torch.cat([torch.rand(1, generator=each, dtype=torch.float64) for each in generator])
    return draw(warped.softmax(dim=-1), uniform)


# %%
settings = {
    "greedy": {"temperature": 0},
    "plain": {},
    "top-p 0.5": {"top_p": 0.5},
    "T = 3": {"temperature": 3.0},
}
for name, how in settings.items():
    picked = sample(logits.expand(8, -1), generator=torch.Generator().manual_seed(1), **how)
    print(f"{name:>9}:", " ".join(words[i] for i in picked))

# %% [markdown]
# ## The loop
#
# Read, choose, append, repeat. Four decisions make it usable:
#
# - **Ends.** A row is finished when it emits the end-of-text token. The others go on; the finished row repeats its end
#   until all are done.
# - **Seeds.** Row i gets a generator seeded with `seed + i`.
# - **Length.** GPT-2 has no position after the last one in its table. We do not drop the beginning of your text in
#   silence: the model raises. If you do want a sliding view, ask for it with `window`: the model then reads only the last
#   so many tokens, as if the text began there.
# - **The cache.** Without one, every step reads the whole text again. With one, `cache.length` says how many tokens are
#   stored, and only what is new is read. One rule covers both: *read from `cache.length` on*.


# %%
#| export
def generate_tokens(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    eos_id: int | Collection[int] | None = None,
    seed: int | Sequence[int] | None = None,
    window: int | None = None,
    cache=None,
    **settings,
) -> Iterator[Tensor]:
    """Continue every row of a batch, and yield the new tokens step by step.

    Args:
        model: maps ids [B, T] to logits [B, T, V] and takes ``cache=``.
        input_ids: the texts to continue, [B, T]. All rows are equally long: there is no padding,
            since learned positions cannot start in the middle (:func:`generate_text` groups texts).
        max_new_tokens: stop after this many steps.
        eos_id: the token, or tokens, that end a row; a finished row repeats its end.
        seed: row i draws from ``seed + i``, or from ``seed[i]``, so that a row's choices do not
            depend on its neighbours. None takes a new one from PyTorch's global generator.
        window: read only the last so many tokens; None reads all, and the model raises an error
            where the text outgrows it.
        cache: stores keys and values, so that each step reads only the new tokens.
        settings: temperature, top_k, top_p, min_p, repetition_penalty, as in :func:`warp`.

    Yields:
        Token ids [B], at most ``max_new_tokens`` times; fewer if every row ended.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids has the shape {list(input_ids.shape)}, expected [B, T] with at least one token "
            "a row; start an empty text with the end-of-text token."
        )
    if window is not None and (cache is not None or window < 1):
        raise ValueError(f"window={window} needs a positive number and no cache: a cache keeps every token.")
    if cache is not None and cache.length >= input_ids.shape[1]:
        raise ValueError(
            f"The cache holds {cache.length} tokens, but input_ids has only {input_ids.shape[1]}; "
            "pass the whole text, with what is new at its end."
        )
    rows = len(input_ids)
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    seeds = [seed + row for row in range(rows)] if isinstance(seed, int) else list(seed)
    if len(seeds) != rows:
        raise ValueError(f"There are {len(seeds)} seeds for {rows} rows; give one, or one a row.")
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    generators = [torch.Generator().manual_seed(each) for each in seeds]
    return _steps(model, input_ids, max_new_tokens, ends, generators, window, cache, settings)


@torch.no_grad()
def _steps(model, ids, max_new_tokens, ends, generators, window, cache, settings) -> Iterator[Tensor]:
    """Run the loop of :func:`generate_tokens`, whose arguments have been checked."""
    ends = torch.tensor(ends, dtype=torch.long, device=ids.device)
    # Of a long prompt only the last position's logits are needed; some models can leave the others out.
    can_skip = "logits_to_keep" in signature(getattr(model, "forward", model)).parameters
    last = {"logits_to_keep": 1} if can_skip else {}
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        start = cache.length if cache is not None else max(0, ids.shape[1] - (window or ids.shape[1]))
        logits = model(ids[:, start:], cache=cache, **last)[:, -1]  # [B, V]
        tokens = sample(logits, ids, generator=generators, **settings)
        tokens = torch.where(done, ids[:, -1], tokens)
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        done |= torch.isin(tokens, ends)
        yield tokens
        if done.all():
            return


# %%
#| export
def generate(model: nn.Module, input_ids: Tensor, max_new_tokens: int, **options) -> Tensor:
    """Continue every row of a batch and return prompt and continuation together.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        input_ids: the texts to continue, [B, T].
        max_new_tokens: how many tokens to add at most.
        options: everything that :func:`generate_tokens` takes.

    Returns:
        Ids [B, T + N], N ≤ ``max_new_tokens``. A row that ended early repeats its end token.
    """
    steps = [tokens[:, None] for tokens in generate_tokens(model, input_ids, max_new_tokens, **options)]
    return torch.cat([input_ids, *steps], dim=1)


# %% [markdown]
# ### A model for trying it
#
# The loop works with any model, so let us use the simplest one that can write at all: **bigrams**. Count in the course's
# stories how often each token follows each other one, and use the logarithm of the counts as logits. It looks at one
# token only.

# %%
from gptoss_lib.data import story_data

data = story_data()
train = torch.from_numpy(data.train.astype("int64"))
V = data.tokenizer.vocab_size


class Bigram(nn.Module):
    """The logits of the next token are the log counts of what followed the last one."""

    def __init__(self, tokens, vocab_size):
        super().__init__()
        counts = torch.bincount(tokens[:-1] * vocab_size + tokens[1:], minlength=vocab_size**2)
        self.register_buffer("table", counts.view(vocab_size, vocab_size).float().log())  # log 0 = −inf

    def forward(self, input_ids, cache=None):
        return self.table[input_ids]  # [B, T, V]


bigram = Bigram(train, V)
print(f"{len(train):,} tokens of stories, a vocabulary of {V:,}")

# %%
start = torch.tensor([[data.tokenizer.eot_id]])
print("GREEDY ", data.tokenizer.decode(generate(bigram, start, 60, temperature=0)[0, 1:]))
print(
    "SAMPLED", data.tokenizer.decode(generate(bigram, start, 60, seed=4, eos_id=data.tokenizer.eot_id)[0, 1:])
)

# %% [markdown]
# The greedy text falls into a loop: the same token always has the same best successor, so once a token returns, so does
# everything after it. The sampled text does not loop, and makes no sense, since the model sees one token. Large models
# see more and loop more rarely, but under greedy decoding they loop too. The samplers let us see it as a number: the
# share of different token pairs in the text.


# %% tags=["hide-input"]
def variety(length=300, **how):
    """Share of different token pairs among all pairs of ten texts."""
    ids = generate(bigram, start.expand(10, 1), length, seed=0, **how)
    pairs = [set(itertools.pairwise(row)) for row in ids.tolist()]
    return sum(map(len, pairs)) / (10 * length)


marks = {
    "greedy": variety(temperature=0),
    "greedy + penalty 1.3": variety(temperature=0, repetition_penalty=1.3),
}
temps = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4]
curve = [variety(temperature=t) for t in temps]
fig, ax = new_figure(7, 2.8)
ax.plot(temps, curve, marker="o", color=COLORS["blue"], label="sampled")
for (name, value), color in zip(marks.items(), ("red", "orange"), strict=True):
    ax.axhline(value, color=COLORS[color], linestyle=":", label=name)
ax.set_xlabel("temperature")
ax.set_ylabel("different pairs, share")
ax.set_ylim(bottom=0)
ax.legend()
ax.set_title("how much of a bigram text is not repetition")
show(
    fig,
    alt="Share of different token pairs in texts of 300 tokens against temperature: greedy text has almost none, a "
    "repetition penalty lifts it, and sampling raises it steadily with temperature.",
)

# %% [markdown]
# ### Rows do not disturb each other
#
# The same prompt with the same seed writes the same text, alone or in a batch.

# %%
together = generate(bigram, start.expand(4, 1), 12, seed=7)
alone = generate(bigram, start, 12, seed=7 + 2)
print("row 2 of four:", data.tokenizer.decode(together[2, 1:]))
print("seed 9 alone: ", data.tokenizer.decode(alone[0, 1:]))
print("the same:", torch.equal(together[2], alone[0]))

# %% [markdown]
# ### What a cache saves
#
# Count how many tokens a GPT-2 reads to write 40 new ones. The cache here is the simplest that fits the seam: it glues
# new keys and values to the old ones. Chapter 12 builds a better one.

# %%
from gptoss_lib.gpt2 import GPT2, GPT2Config


class GrowingCache:
    """Keys and values of every layer, [B, H, S, hd] each, glued together as they come."""

    def __init__(self):
        self.layers = {}

    @property
    def length(self):
        return self.layers[0][0].shape[2] if self.layers else 0

    def update(self, layer_idx, key, value):
        if layer_idx in self.layers:
            pairs = zip(self.layers[layer_idx], (key, value), strict=True)
            key, value = (torch.cat(pair, dim=2) for pair in pairs)
        self.layers[layer_idx] = key, value
        return key, value


torch.manual_seed(0)
gpt2 = GPT2(GPT2Config(vocab_size=V, n_positions=64, n_embd=48, n_layer=2, n_head=3, initializer_range=0.2))
read = []
gpt2.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))
prompt = torch.randint(V, (2, 10))
texts = {}
for name, cache in (("without", None), ("with", GrowingCache())):
    read.clear()
    texts[name] = generate(gpt2, prompt, 40, seed=3, cache=cache)
    print(f"{name:>7} a cache: {sum(read):>5} tokens read a row")
print("the same text:", torch.equal(texts["without"], texts["with"]))

# %% [markdown]
# ## From tokens to text, one piece at a time
#
# A reader wants to see the text grow. Decoding each token by itself seems to do it, until a character needs several
# tokens: byte-level tokenizers cut between bytes, and half a character is not text.

# %%
tokenizer = data.tokenizer
ids = tokenizer.encode("A frog 🐸 sat.")
print("one by one: ", [tokenizer.decode([i]) for i in ids])

# %% [markdown]
# The cure is an **incremental** decoder. It takes bytes, gives out the characters that are complete, and keeps the rest
# until more bytes come. Python has one.
#
# Stop strings have the same problem one floor up. You want generation to stop at `"\nTom:"` and the reader not to see any
# of it. The string may be spread over three tokens, or sit in the middle of one. Looking at single tokens misses it;
# looking at the text so far finds it too late, when the reader has seen the beginning. So hold back the end of the text
# **as long as it could be the beginning of a stop string**, and no longer.


# %%
#| export
class TextStream:
    """Turns the tokens of one text into pieces of text that are safe to show.

    A piece never holds half a character, and never any part of a stop string.

    Args:
        tokenizer: has ``decode_bytes(ids)``.
        stop: a string, or several, at which the text ends; it is not part of the text.
        eos_id: the token, or tokens, that end the text.

    Raises:
        ValueError: if a stop string is empty.
    """

    def __init__(
        self, tokenizer, stop: str | Sequence[str] = (), eos_id: int | Collection[int] | None = None
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = [stop] if isinstance(stop, str) else list(stop)
        if "" in self._stop:
            raise ValueError("A stop string is empty, which would stop every text at once; remove it.")
        self._ends = {eos_id} if isinstance(eos_id, int) else set(eos_id or ())
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may be the beginning of a stop string

    def push(self, token_id: int) -> str:
        """Take one token and return the text that is safe to show now (often nothing)."""
        if self.stopped:
            return ""
        if token_id in self._ends:
            return self.finish()
        return self._release(self._decoder.decode(self._tokenizer.decode_bytes([token_id])))

    def finish(self) -> str:
        """Return what was held back; half a character becomes U+FFFD. Nothing follows."""
        if self.stopped:
            return ""
        piece = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = ("", "") if self.stopped else (self._held, "")
        self.stopped = True
        return piece + rest

    def _release(self, text: str) -> str:
        """Add text to what is held, and let go of all that cannot belong to a stop string."""
        text = self._held + text
        # The stop string that is complete first counts, so that the text does not depend on its pieces.
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stop if stop in text]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        longest = max(map(len, self._stop), default=1) - 1
        keep = next((n for n in range(min(longest, len(text)), 0, -1) if self._begins_a_stop(text[-n:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)


# %%
stream = TextStream(tokenizer)
print("as a stream:  ", [stream.push(i) for i in ids] + [stream.finish()])

stream = TextStream(tokenizer, stop="the end")
ids = tokenizer.encode("then they went home. the end. And then")
print("tokens:       ", [tokenizer.decode([i]) for i in ids])
print("until a stop: ", [stream.push(i) for i in ids])

# %% [markdown]
# Look at the pieces. The first *t* could begin *the end*, so it waits, and comes out whole as *then* one token later.
# The last letter of *went* waits in the same way. The *the* after the full stop waits too, turns out to be the stop
# string, and is never shown.
#
# Two functions put everything together. `stream_text` continues one prompt and yields pieces. `generate_text` continues
# many prompts and returns texts. Prompts of different lengths cannot share a batch here: shorter rows would need padding
# on the left, and GPT-2 would take the padding for text, at the positions where the text should start. So prompts are
# grouped by length. Every prompt gets an end-of-text token in front, because in the training data that is what comes
# before a story.


# %%
#| export
def stream_text(
    model: nn.Module,
    tokenizer,
    prompt: str,
    max_new_tokens: int,
    *,
    stop: str | Sequence[str] = (),
    cache=None,
    **options,
) -> Iterator[str]:
    """Continue one prompt and yield the new text in pieces, as soon as they are safe to show.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        tokenizer: has ``encode``, ``decode_bytes`` and ``eot_id``.
        prompt: the beginning of the text; may be empty.
        max_new_tokens: how many tokens to add at most.
        stop: a string, or several, at which the text ends.
        cache: an empty cache, which makes every step cheaper.
        options: what else :func:`generate_tokens` takes; ``eos_id`` is end-of-text by default.

    Yields:
        Pieces that are not empty. They join to the text before the stop string or the end.
    """
    eos_id = options.pop("eos_id", tokenizer.eot_id)
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]], device=_device(model))
    text = TextStream(tokenizer, stop, eos_id)
    for tokens in generate_tokens(model, ids, max_new_tokens, eos_id=eos_id, cache=cache, **options):
        if piece := text.push(int(tokens)):
            yield piece
        if text.stopped:
            return
    if piece := text.finish():
        yield piece


def generate_text(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    new_cache: Callable[[int], object] | None = None,
    **options,
) -> list[str]:
    """Continue many prompts and return what was added to each.

    Prompts of equal length (in tokens) share a batch. Prompt i draws from ``seed + i``, whatever
    batch it is in.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        tokenizer: has ``encode``, ``decode_bytes`` and ``eot_id``.
        prompts: the beginnings of the texts; may be empty strings.
        max_new_tokens: how many tokens to add at most.
        stop: a string, or several, at which a text ends.
        seed: the first prompt's seed; None takes a new one from PyTorch's global generator.
        new_cache: called with B, the rows of a batch, once a batch; returns an empty cache for them.
        options: what else :func:`generate_tokens` takes; ``eos_id`` is end-of-text by default.

    Returns:
        The continuations, in the order of the prompts, without prompt, stop string and end.
    """
    eos_id = options.pop("eos_id", tokenizer.eot_id)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    rows = [[tokenizer.eot_id, *tokenizer.encode(prompt)] for prompt in prompts]
    batches = defaultdict(list)
    for number, row in enumerate(rows):
        batches[len(row)].append(number)

    pieces = [[] for _ in prompts]
    for members in batches.values():
        ids = torch.tensor([rows[number] for number in members], device=_device(model))
        texts = {number: TextStream(tokenizer, stop, eos_id) for number in members}
        steps = generate_tokens(
            model,
            ids,
            max_new_tokens,
            eos_id=eos_id,
            seed=[seed + number for number in members],
            cache=new_cache(len(members)) if new_cache else None,
            **options,
        )
        for tokens in steps:
            for number, token in zip(members, tokens.tolist(), strict=True):
                pieces[number].append(texts[number].push(token))
            if all(text.stopped for text in texts.values()):
                break
        for number in members:
            pieces[number].append(texts[number].finish())
    return ["".join(parts) for parts in pieces]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


# %%
print("pieces:", list(stream_text(bigram, tokenizer, "Once", 8, seed=1)))
for prompt, text in zip(
    ("Once", "One day, there"),
    generate_text(bigram, tokenizer, ["Once", "One day, there"], 10, seed=1),
    strict=True,
):
    print(repr(prompt), "→", repr(text))

# %% [markdown]
# ## A story by our own GPT-2
#
# Now the model that you trained in chapter 06. If you ran that chapter, it is on your disk and loads at once; if not, it
# is trained now.

# %% tags=["nbval-ignore-output"]
from gptoss_lib.data import bits_per_byte
from gptoss_lib.stories import StoryError, StoryGrammar
from gptoss_lib.training import evaluate, story_gpt2

model, data, history = story_gpt2()
tokenizer, longest = data.tokenizer, model.config.n_positions

# %% [markdown]
# Let it speak. A story may be longer than the model's table of positions, so we let it look through a window. (At a
# terminal you would print each piece as it comes, with `end=""` and `flush=True`, and watch the story grow.)

# %% tags=["nbval-ignore-output"]
story = ""
for piece in stream_text(model, tokenizer, "", 600, seed=1, temperature=0.7, window=longest):
    story += piece
print(story)

# %% [markdown]
# Phrases come out right, a story does not. After a minute of training the model changes names and plots in the middle
# of a sentence, and some of its words do not exist. How far away is it? Measure that in two ways.
#
# ### Its loss, beside the floor
#
# The stories come from a grammar whose entropy is known exactly ([chapter 03](03_small_world.ipynb)). So we know not only
# how well the model predicts the validation stories, but how well **anything** could.

# %% tags=["nbval-ignore-output"]
nats, tokens = evaluate(model, data.val, seq_len=longest)
floor = data.val_floor_nats
print(f"{'':20} {'nats a story':>12} {'bits a byte':>12}")
for name, total in (("this GPT-2", nats), ("the grammar itself", floor)):
    print(f"{name:20} {total / data.val_documents:12.1f} {bits_per_byte(total, data.val_bytes):12.3f}")
print(f"{nats / tokens:.3f} nats a token, of which {(nats - floor) / tokens:.3f} are above the floor")

# %%
uniform = tokens * math.log(tokenizer.vocab_size)
assert floor < nats < 0.35 * uniform, "the loss lies between the grammar's and a third of what guessing costs"
print("no model predicts better than the grammar, and this one has left guessing far behind")

# %% [markdown]
# Be clear about what this means. The floor is what remains when one knows every rule and remembers everything: most
# tokens are then certain, and only the real choices cost something. This model pays several times as much. Most of the
# distance is what it does not know: a minute of training on one core leaves a lot of that. The rest is what it cannot
# see, since the rows that it reads often begin in the middle of a story.
#
# ### Does it keep the rules?
#
# A loss averages over tokens. Whether a *story* is right is another question, and here it has an answer. The grammar can
# read a text, and where the last possible reading gives up, it says so. We let the model begin 16 stories with each of
# five samplers, as far as its positions reach (so that the cache can be used), and ask, from mild to strict:
#
# - how many of its words exist at all in this world;
# - how many words the grammar follows before the first mistake;
# - how many of the texts have no mistake;
# - and how many different texts there are, for a model that tells one story sixteen times is not a storyteller.

# %%
import re

grammar = StoryGrammar()
vocabulary = grammar.vocabulary()


def words_that_exist(text):
    """The share of words that the grammar knows; the last one may be cut off and is left out."""
    found = re.findall(r"[a-z]+(?:[-'][a-z]+)*", text.lower())[:-1]
    return sum(word.removesuffix("'s") in vocabulary for word in found) / max(len(found), 1)


def words_followed(text):
    """How many words the grammar reads before the first mistake, and whether there is none."""
    try:
        grammar.parse(text)
    except StoryError as error:
        rest = text[error.position :].split()
        return len(text[: error.position].split()), len(rest) <= 1  # what ends in the middle is no mistake
    return len(text.split()), True


samplers = {
    "greedy": {"temperature": 0},
    "T = 0.7": {"temperature": 0.7},
    "T = 1, min-p 0.1": {"min_p": 0.1},
    "T = 1, top-p 0.9": {"top_p": 0.9},
    "T = 1": {},
}
written = {
    name: generate_text(
        model, tokenizer, [""] * 16, longest - 1, seed=100, new_cache=lambda rows: GrowingCache(), **how
    )
    for name, how in samplers.items()
}

# %% tags=["nbval-ignore-output"]
print(f"{'':18} {'words exist':>11} {'followed':>9} {'no mistake':>11} {'different':>10}")
for name, texts in written.items():
    exist = sum(map(words_that_exist, texts)) / 16
    followed, faultless = zip(*map(words_followed, texts), strict=True)
    print(
        f"{name:18} {exist:>11.0%} {sum(followed) / 16:9.1f} {sum(faultless):>8}/16 {len(set(texts)):>7}/16"
    )

# %%
existing = {name: sum(map(words_that_exist, texts)) / 16 for name, texts in written.items()}
assert existing["T = 1"] > 0.7, "most words exist"
assert existing["T = 0.7"] > existing["T = 1"] - 0.01, "a sharper distribution spells no worse"
assert len(set(written["greedy"])) == 1 and len(set(written["T = 1"])) == 16
print("most words exist, a sharper sampler spells no worse; greedy tells one story, plain sampling sixteen")

# %% tags=["hide-input"]
fig, axes = new_figure(7.5, 2.8, ncols=2, sharey=True)
for row, texts in enumerate(written.values()):
    followed, _ = zip(*map(words_followed, texts), strict=True)
    axes[0].scatter(
        [words_that_exist(text) for text in texts], [row] * 16, s=26, alpha=0.45, color=COLORS["blue"]
    )
    axes[1].scatter(followed, [row] * 16, s=26, alpha=0.45, color=COLORS["green"])
axes[0].set_yticks(range(len(written)), written)
axes[0].invert_yaxis()
axes[0].set_title("share of words that exist")
axes[1].set_title("words before the first mistake")
axes[1].set_xlim(left=-1)
show(
    fig,
    alt="One dot a text for each of five samplers. Left: most words exist under every sampler; plain sampling scatters "
    "most towards words that do not. Right: the grammar follows most texts for only a handful of words or a dozen, with a "
    "wide scatter, and for the fewest on average under plain sampling.",
)

# %% [markdown]
# What does a mistake look like? Here is where the grammar gave up on some of the texts, and what it would have accepted.


# %% tags=["nbval-ignore-output"]
def explain(text):
    """Print the surroundings of the first mistake."""
    try:
        grammar.parse(text)
    except StoryError as error:
        before, after = text[max(0, error.position - 70) : error.position], text[error.position :][:25]
        print(f"… {before!r} ⟦{after!r}⟧   expected: {', '.join(error.expected[:5])}")


for text in written["T = 0.7"][:5]:
    explain(text)

# %% [markdown]
# Read the verdict as it stands. In the quick profile not one text is free of mistakes, whatever the sampler, and the
# grammar gives up in the first sentence or soon after. It is a strict judge: it also rejects good English that it would
# never write itself, such as an adjective in another place. But nearly all words exist, so the model has learned to
# spell and not to keep the rules. That is the order to expect: spelling depends on the last few tokens, *who gave what
# to whom* on something a hundred tokens back.
#
# The samplers differ less than one might hope. In this run, cutting the tail or sharpening spells a little better and
# goes a few words further than plain sampling. Greedy pays with all variety: it tells one story sixteen times, so its
# row counts a single text. Sixteen texts cannot rank the three in the middle. No setting adds knowledge; for that the
# model has to train longer, see more, or be larger.
#
# If you have a GPU, `GPTOSS_PROFILE=full` trains a larger model for longer, and the same cells judge it.

# %% [markdown]
# ## Reality check
#
# Every filter here has a definition that a slow loop can follow literally. Compare on random distributions, with loops
# over Python floats that share nothing with the code above:


# %%
def slow_top_p(row, p):
    order = sorted(range(len(row)), key=lambda i: -row[i])
    kept, mass = set(), 0.0
    for i in order:
        if mass >= p:
            break
        kept.add(i)
        mass += row[i]
    return kept


generator = torch.Generator().manual_seed(0)
agree = 0
for _ in range(300):
    z = 3 * torch.randn(1, 50, generator=generator)
    p = torch.rand((), generator=generator).item()
    row = z.softmax(-1)[0].tolist()
    agree += set(torch.isfinite(keep_top_p(z, p))[0].nonzero().flatten().tolist()) == slow_top_p(row, p)
    best = max(row)
    agree += set(torch.isfinite(keep_min_p(z, p))[0].nonzero().flatten().tolist()) == {
        i for i, q in enumerate(row) if q >= p * best
    }
print(agree, "of 600 filtered distributions agree with the slow loops")

# %% [markdown]
# The tests compare every sampler with `transformers`' own processors on full tensors, ties and edge cases included, and
# the frequencies of tens of thousands of draws with the exact distribution.

# %% [markdown]
# ## What gpt-oss-20b uses
#
# Nothing. OpenAI recommends temperature 1 and top-p 1, the model's own distribution
# ([gpt-oss](https://github.com/openai/gpt-oss)). A likely reason: truncation and low temperatures were invented for models
# that had only learned to imitate text. gpt-oss was trained further by reinforcement learning, which judges the model by
# its own samples. If those were drawn from the whole distribution, a sampler that changes it moves away from what was
# trained.
#
# | | GPT-2 (2019) | gpt-oss-20b (2025) |
# |---|---|---|
# | vocabulary to choose from | 50,257 | 201,088 |
# | usual settings | top-k 40 | temperature 1, top-p 1 |
# | ends of a text | 1 token, `<\|endoftext\|>` | 3 tokens: `<\|return\|>`, `<\|call\|>`, `<\|endoftext\|>` |
# | longest text | 1,024 | 131,072 |
#
# Several ends are why `eos_id` takes a collection. Chapter 21 uses them.

# %% [markdown]
# ## Pitfalls
#
# - **The nucleus without its last token.** `cumulative <= p` drops the token that crosses the line, so p = 0.9 samples
#   from less than 90%. It was in [reasoning-from-scratch #164](https://github.com/rasbt/reasoning-from-scratch/issues/164)
#   and in [esm #360](https://github.com/Biohub/esm/pull/360), and where the best token alone has more than p, the set is
#   empty.
# - **Temperature first or last.** llama.cpp applies it last
#   ([llama.cpp #4091](https://github.com/ggml-org/llama.cpp/issues/4091)), `transformers` first. Copying settings from
#   one to the other changes the text.
# - **A penalty that rewards.** Dividing a negative logit makes the token *more* likely. The first implementation in
#   `transformers` wrote "dog dog dog dog" ([transformers
#   #2302](https://github.com/huggingface/transformers/issues/2302)); others repeated it ([NeMo
#   #8194](https://github.com/NVIDIA-NeMo/Speech/issues/8194)).
# - **Tokens of probability zero.** PyTorch's `multinomial` returned some on GPUs
#   ([pytorch #4858](https://github.com/pytorch/pytorch/issues/4858)) and does so in float16 on the CPU
#   ([pytorch #192812](https://github.com/pytorch/pytorch/issues/192812)). Sample in single precision or better.
# - **Top-k 1 is not greedy** where logits tie, and in bfloat16 they do
#   ([axlearn #1022](https://github.com/apple/axlearn/pull/1022)):

# %%
generator = torch.Generator().manual_seed(0)
scores = 20 + 3 * torch.randn(1, 50_000, generator=generator)
for dtype in (torch.float32, torch.bfloat16):
    rounded = scores.to(dtype).float()
    print(
        f"{dtype!s:15} different logits: {len(rounded.unique()):>6,}   kept by top-k 40: {int(torch.isfinite(keep_top_k(rounded, 40)).sum())}"
    )

# %% [markdown]
# - **Half an emoji.** Decoding token by token turns one character into several replacement signs
#   ([exo #1691](https://github.com/exo-explore/exo/pull/1691)).
# - **A stop string that leaks.** Its beginning reached the client in vLLM
#   ([vllm #3574](https://github.com/vllm-project/vllm/issues/3574)); checked token by token it is not even found
#   ([mlx-knife #68](https://github.com/mzau/mlx-knife/issues/68)).
#
# ## Exercises
#
# In [exercises/07_generation.ipynb](exercises/07_generation.ipynb), each with a check that names the mistake it sees:
#
# 1. **The nucleus.** Write top-p from its definition, by probabilities, with the token that crosses the line.
# 2. **In the same league.** Min-p, on logits, without computing a softmax.
# 3. **No more dogs.** A penalty that lowers every token that occurred, whatever its sign, once.
# 4. **Stop.** Cut a stream of text pieces at a stop string that no piece contains.
#
# ## Summary
#
# - A model gives a distribution; a sampler chooses. One uniform number and a running sum are enough.
# - Temperature reshapes, top-k, top-p and min-p cut. Each cut is a threshold on the logits. Order matters.
# - The loop ends rows separately, seeds them separately, and reads only what the cache does not have.
# - Text is more than tokens: decode bytes incrementally, and hold back what may become a stop string.
# - A loss says how well a model predicts; only what it writes says whether it keeps the rules.
#
# This is the end of Part I. You have a world, a tokenizer, data, a model, a trainer and a voice. Part II takes the model
# apart again and rebuilds it as GPT-OSS, beginning with its norm in [RMSNorm](08_rmsnorm.ipynb).
#
# ## Further reading
#
# - [Holtzman et al., 2020](https://arxiv.org/abs/1904.09751), *The Curious Case of Neural Text Degeneration*: why greedy
#   and plain sampling both fail.
# - [Nguyen et al., 2024](https://arxiv.org/abs/2407.01082): min-p, compared with other samplers at high temperatures.
# - [Keskar et al., 2019](https://arxiv.org/abs/1909.05858), section 4.1: the repetition penalty.
# - [Fan et al., 2018](https://arxiv.org/abs/1805.04833): top-k, in a paper about writing stories.
