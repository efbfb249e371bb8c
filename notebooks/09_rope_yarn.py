# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # RoPE and YaRN
#
# Attention compares tokens, but it does not know where they stand. GPT-2 adds a learned vector for every position. GPT-OSS adds nothing and learns nothing: it *turns* queries and keys, and the angle between them tells how far apart two tokens are. Then it slows some of the turning down, and a model that grew up on 4,096 tokens reads 131,072.
#
# **You will**
#
# - see what breaks when positions are a table, on a model of your own;
# - build rotary position embedding (RoPE) and prove that only distance counts;
# - learn which numbers turn together, and why the wrong pairs fail in silence;
# - build YaRN: which frequencies it slows, which it leaves alone, and what its concentration is for;
# - make it safe: positions that start anywhere, tables that grow, angles that stay in 32 bits.
#
# **Time:** 60 minutes. **Hardware:** any CPU; the chapter runs in a few seconds.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# In [GPT-2](05_gpt2.ipynb) position $m$ is row $m$ of a table, `wpe`, that is added to the token's embedding. That has two costs. The first one is plain: where the table ends, the model ends.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from gptoss_lib.figures import COLORS, arrow, box, inline_svg, new_figure, show
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.widgets import explore

gpt2 = GPT2(GPT2Config(vocab_size=60, n_positions=32, n_embd=24, n_layer=1, n_head=2))
try:
    gpt2(torch.zeros(1, 33, dtype=torch.int64))
except ValueError as error:
    print(error)

# %% [markdown]
# The second cost is harder to see. Every row is learned on its own. "Five tokens back" is one idea, but with a table it has to be learned once for position 20, once for position 21, and so on. Nothing ties them together.
#
# Here is a task that needs nothing but that idea: in a stream of random tokens, name the one that stood five places earlier. One attention head can do it. We give it a table of 128 rows, and train it on texts of 32 tokens.

# %%
LAG, TOKENS, WIDTH = 5, 12, 48


class OneHead(nn.Module):
    """One attention head. It knows positions from a table, or, with ``inv_freq``, from ``turn`` (built below)."""

    def __init__(self, inv_freq=None):
        super().__init__()
        self.inv_freq = inv_freq
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.table = nn.Embedding(128, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, TOKENS)

    def forward(self, ids, start=0):
        positions = torch.arange(start, start + ids.shape[1])
        x = self.embed(ids)  # [B, T, WIDTH]
        if self.inv_freq is None:
            x = x + self.table(positions)
        query, key, value = self.qkv(x).split(WIDTH, dim=-1)
        if self.inv_freq is not None:
            query, key = (turn(part, positions, self.inv_freq) for part in (query, key))
        return self.out(F.scaled_dot_product_attention(query, key, value, is_causal=True))


# %%
def random_texts(count, length, generator):
    ids = torch.randint(TOKENS, (count, length), generator=generator)
    return ids, ids.roll(LAG, dims=1)  # the answer is the token LAG places earlier


def train_head(inv_freq=None, steps=300):
    torch.manual_seed(0)
    head, generator = OneHead(inv_freq), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3, weight_decay=0)
    for _ in range(steps):
        ids, answers = random_texts(32, 32, generator)
        logits = head(ids)[:, LAG:]  # the first five tokens have nothing to name
        loss = F.cross_entropy(logits.flatten(0, 1), answers[:, LAG:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


@torch.no_grad()
def accuracy(head, start=0, length=32):
    ids, answers = random_texts(64, length, torch.Generator().manual_seed(2))
    return (head(ids, start).argmax(-1) == answers)[:, LAG:].float().mean().item()


# %% [markdown]
# Now the same texts, moved along the table: the first token stands at position 0, 4, 8, … Nothing else changes.

# %% tags=["nbval-ignore-output"]
starts = (0, 4, 8, 16, 32, 64, 96)
table_head = train_head()
table_scores = [accuracy(table_head, start) for start in starts]
for start, score in zip(starts, table_scores, strict=True):
    print(f"first token at position {start:2d}: {score:4.0%} right")

# %%
assert table_scores[0] > 0.99, "the head solves the task where it was trained"
assert table_scores[4] < 0.4, "and not where its table was never used"

# %% [markdown]
# Perfect where it was trained; worse with every step to the right; near guessing (one in twelve) where the rows were never trained. The head did not learn "five back". It learned a separate fact for every position.
#
# What we want is a way to mark positions so that the comparison of two tokens depends on **how far apart they are, and on nothing else**. Then one idea is learned once and holds everywhere.

# %% [markdown]
# ## Turn, don't add
#
# Take two numbers of a query as an arrow in the plane. Turn the arrow by an angle that grows with the position: $m f$ at position $m$, where the frequency $f$ says how fast. Do the same to the key.
#
# The dot product of two arrows depends on their lengths and on the angle *between* them. If both tokens move 10 places to the right, both arrows turn by the same extra $10 f$, and the angle between them stays what it was. So does the dot product. That is the whole proof; in symbols, with $R_\alpha$ for "turn by $\alpha$",
#
# $$ (R_{mf}\,q)^\top (R_{nf}\,k) = q^\top R_{-mf} R_{nf}\, k = q^\top R_{(n-m)f}\, k . $$
#
# In words: turning the query by $mf$ and the key by $nf$ is the same as turning only the key by the difference. Positions go in, the distance comes out. This is **rotary position embedding**, RoPE ([Su et al., 2021](https://arxiv.org/abs/2104.09864)).

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.7, ncols=3)
for ax, (m, n) in zip(axes, ((0, 0), (4, 2), (9, 7)), strict=True):
    for angle, label, color in ((1.2 + 0.45 * m, "q", "green"), (0.3 + 0.45 * n, "k", "violet")):
        tip = torch.tensor([torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))])
        arrow(ax, (0, 0), tuple(tip.tolist()), color, linewidth=2.2, mutation_scale=15)
        ax.text(*(1.17 * tip).tolist(), label, ha="center", va="center", weight="bold")
    ring = torch.linspace(0, 6.2832, 90)
    ax.plot(ring.cos(), ring.sin(), color=COLORS["grey"], linewidth=0.8)
    ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title("not turned" if m == 0 else f"query at {m}, key at {n}")
show(
    fig,
    alt="Three circles with a query and a key arrow each. Unturned they stand at some angle. With the query at 4 "
    "and the key at 2, and with the query at 9 and the key at 7, the pair as a whole has turned, but the angle "
    "between the two arrows is the same in both.",
)

# %% [markdown]
# The middle and the right picture have the same distance, two, and the same angle between the arrows. Check it with numbers, with any query, key and frequency:


# %%
def turned(pair, angle):
    x, y = pair
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    return torch.stack((x * c - y * s, x * s + y * c))


q, k, frequency = torch.tensor([1.0, 0.4]), torch.tensor([-0.3, 0.9]), 0.45
for m, n in ((4, 2), (9, 7), (1002, 1000), (9, 6)):
    score = turned(q, m * frequency) @ turned(k, n * frequency)
    print(f"query at {m:4d}, key at {n:4d}: {score:+.4f}")

# %% [markdown]
# Three equal scores at distance two, wherever the two tokens stand, and another one at distance three.

# %% [markdown]
# ## Many speeds
#
# One frequency is not enough. A fast arrow tells neighbours apart, but it has come full circle after a few tokens and cannot tell 3 from 3 + one turn. A slow arrow is unambiguous over a long text but hardly moves between neighbours. A clock solves this with several hands. RoPE takes a head of hd numbers as hd/2 pairs and turns pair $i$ with
#
# $$ f_i = \theta^{-2i/\mathrm{hd}}, \qquad i = 0, 1, \dots, \mathrm{hd}/2 - 1 . $$
#
# In words: the first pair turns by one radian a token, and each next pair is slower by the same factor, down to almost $1/\theta$. $\theta$ is called the *base*; gpt-oss has 150,000. The tokens that a pair needs for one full turn are its **wavelength**, $\lambda_i = 2\pi / f_i$.

# %%
#| export
"""Rotary position embedding (RoPE), stretched to longer contexts by YaRN.

GPT-2 adds a learned vector for every position and stops where its table ends. Here nothing is added
and nothing is learned: each attention layer turns its queries and keys by angles that grow with the
position, so that their dot product knows how far apart two tokens are. Values are not turned.
"""

import math

import torch
from torch import Tensor, nn

from gptoss_lib.config import RopeScaling


def _require_pairs(head_dim: int, theta: float) -> None:
    if head_dim < 2 or head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}, but RoPE turns pairs of numbers; use a positive even number."
        )
    if theta <= 1:
        raise ValueError(
            f"theta is {theta}, but later pairs must be slower than the first; make it more than 1."
        )


def _tokens_per_radian(head_dim: int, theta: float) -> Tensor:
    """Return how many tokens each pair takes to turn by one radian, [hd/2]."""
    _require_pairs(head_dim, theta)
    # Always on the CPU: powers differ in the last bit between devices, and positions multiply the difference.
    return theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)


def rope_inv_freq(head_dim: int, theta: float) -> Tensor:
    """Return the frequencies of plain RoPE, in radians a token, [hd/2].

    From "RoFormer" (Su et al., 2021), section 3.2.2.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base; the slowest pair takes almost 2π·theta tokens for a turn.

    Raises:
        ValueError: if ``head_dim`` is not a positive even number or ``theta`` is not above 1.
    """
    return 1.0 / _tokens_per_radian(head_dim, theta)


# %%
plain = rope_inv_freq(head_dim=64, theta=150_000)
for i in (0, 1, 8, 16, 24, 31):
    print(f"pair {i:2d}: {plain[i]:.7f} radians a token, one turn in {2 * math.pi / plain[i]:9,.0f} tokens")

# %% [markdown]
# From six tokens to more than six hundred thousand. Read the picture below like a row of clocks: each column is a pair, each row a position. Neighbouring positions differ in the fast hands, distant ones in the slow hands.


# %% tags=["hide-input"]
def dial(x, y, angle, radius=13):
    hand_x, hand_y = x + radius * math.cos(angle), y - radius * math.sin(angle)
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{COLORS["blue"]}" fill-opacity=".12" stroke="{COLORS["grey"]}"/>'
        f'<line x1="{x}" y1="{y}" x2="{hand_x:.1f}" y2="{hand_y:.1f}" stroke="{COLORS["blue"]}" stroke-width="2.4"/>'
    )


pairs, rows = (0, 4, 8, 12, 16, 24, 31), (0, 1, 2, 10, 100, 1_000, 10_000, 100_000)
parts = [f'<text x="{150 + 55 * j}" y="18" text-anchor="middle">pair {i}</text>' for j, i in enumerate(pairs)]
for r, position in enumerate(rows):
    y = 42 + 34 * r
    parts.append(f'<text x="100" y="{y + 4}" text-anchor="end">{position:,}</text>')
    parts += [
        dial(150 + 55 * j, y, (position * plain[i].item()) % (2 * math.pi)) for j, i in enumerate(pairs)
    ]
inline_svg(
    f'<svg viewBox="0 0 520 305" font-size="11" fill="currentColor" font-family="sans-serif">{"".join(parts)}</svg>',
    alt="A grid of clock dials: columns are pairs 0 to 31, rows are positions 0 to 100,000. In the first row all hands "
    "point right. Between positions 0, 1 and 2 only the left columns move; the right column has moved visibly only at "
    "position 100,000.",
)

# %% [markdown]
# ## Which two numbers make a pair?
#
# A head's numbers $x_0, \dots, x_{\mathrm{hd}-1}$ have to be paired. Two conventions are in use:
#
# - **halves** (gpt-oss, GPT-NeoX, everything in `transformers` that looks like Llama): $x_i$ with $x_{i + \mathrm{hd}/2}$;
# - **interleaved** (the paper, GPT-J, Meta's own Llama code): $x_{2i}$ with $x_{2i+1}$.
#
# Neither is better. A model trained from scratch learns with both. But weights that were trained with one are wrong with the other, and nothing crashes: the model only gets worse with distance. gpt-oss uses halves.

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.5, nrows=2)
for ax, name, partner in zip(
    axes, ("halves", "interleaved"), ([0, 1, 2, 3] * 2, [0, 0, 1, 1, 2, 2, 3, 3]), strict=True
):
    for slot, pair in enumerate(partner):
        color = ("blue", "orange", "green", "violet")[pair]
        box(ax, slot + 0.06, 0, 0.88, 0.8, f"x{slot}", color)
    for pair in range(4):
        left, right = (slot for slot in range(8) if partner[slot] == pair)
        height = 0.95 + 0.22 * (pair if name == "halves" else 0)
        line = ([left + 0.5] * 2 + [right + 0.5] * 2, [0.82, height, height, 0.82])
        ax.plot(*line, color=COLORS[("blue", "orange", "green", "violet")[pair]])
    ax.set(xlim=(-2.2, 8.1), ylim=(-0.1, 1.8), xticks=[], yticks=[])
    ax.text(-2.1, 0.4, name, va="center", weight="bold")
    ax.grid(False)
    ax.spines[:].set_visible(False)
show(
    fig,
    alt="Eight numbers of a head in two layouts. Halves: x0 turns with x4, x1 with x5, x2 with x6, x3 with x7. "
    "Interleaved: x0 with x1, x2 with x3, x4 with x5, x6 with x7.",
)

# %% [markdown]
# The slow version first, one pair at a time, so that there is something to compare with:


# %%
def rotate_slowly(x, position, inv_freq):
    """Turn one head x [hd] at one position, pair by pair."""
    turned_x, half = x.clone(), len(x) // 2
    for i in range(half):
        turned_x[i], turned_x[i + half] = turned(x[[i, i + half]], position * inv_freq[i].item())
    return turned_x


quarter_turn = torch.tensor([math.pi / 2, 0.0])
print(
    (
        rotate_slowly(torch.tensor([1.0, 5.0, 0.0, 6.0]), position=1, inv_freq=quarter_turn).round(decimals=4)
        + 0.0
    ).tolist()
)

# %% [markdown]
# Pair 0 is $(x_0, x_2) = (1, 0)$; a quarter turn makes it $(0, 1)$. Pair 1 is $(x_1, x_3) = (5, 6)$; its frequency is zero, so it stays. The version that we keep turns all heads and all tokens at once: two halves, four products.


# %%
#| export
def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys: number i of a head makes a pair with number i + hd/2.

    As ``_apply_rotary_emb`` in OpenAI's ``gpt_oss/torch/model.py``: the table is cast to the
    precision of x, and the products are taken there.

    Args:
        x: [B, H, T, hd]; queries and keys may have different H, so turn them one by one.
        cos: [T, hd/2], or [B, T, hd/2] where the texts of a batch stand at different positions.
        sin: like ``cos``; both come from :class:`RotaryEmbedding`.

    Returns:
        The turned x, in the shape and precision of x.

    Raises:
        ValueError: if the table was made for another head_dim.
    """
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(
            f"x has head_dim {x.shape[-1]}, but the table turns {cos.shape[-1]} pairs; make them fit."
        )
    cos, sin = cos.unsqueeze(-3).to(x.dtype), sin.unsqueeze(-3).to(x.dtype)  # one table for all heads
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


# %% [markdown]
# Both versions agree, and the scores depend on the distance alone. The table below turns one query and one key at every pair of positions and looks along the diagonals, where the distance is constant:


# %%
def turn(x, positions, inv_freq):
    angles = positions[:, None] * inv_freq  # [T, hd/2]
    return apply_rotary(x, angles.cos(), angles.sin()).view_as(x)  # x is [T, hd] or [B, T, hd] here


torch.manual_seed(3)
q, k = torch.randn(64), torch.randn(64)
slow = torch.stack([rotate_slowly(q, position, plain) for position in range(40)])
fast = turn(q.expand(40, 64), torch.arange(40), plain)
print("slow and fast agree:", torch.allclose(slow, fast, atol=1e-5))

scores = fast @ turn(k.expand(40, 64), torch.arange(40), plain).T  # [query position, key position]
for distance in (0, 1, 5, 20):
    along = scores.diagonal(-distance)
    print(f"distance {distance:2d}: {len(along)} scores from {along.min():.3f} to {along.max():.3f}")
print("lengths kept:", torch.allclose(fast.norm(dim=-1), q.norm().expand(40)))

# %% [markdown]
# Turning does not change lengths either: a token shouts no louder because it stands far back. And values are not turned at all. Position decides *whom* a head listens to, not *what* it hears.
#
# Now the test from the beginning, with turning in place of the table. The head, the data and the number of steps are the same.

# %% tags=["nbval-ignore-output"]
rope_head = train_head(rope_inv_freq(WIDTH, theta=1_000))
rope_scores = [accuracy(rope_head, start) for start in starts]
print(
    "first token at",
    ", ".join(f"{start}: {score:.0%}" for start, score in zip(starts, rope_scores, strict=True)),
)

# %% tags=["hide-input"]
fig, ax = new_figure(6.5, 2.8)
ax.plot(starts, table_scores, "o-", color=COLORS["orange"], label="table of positions (GPT-2)")
ax.plot(starts, rope_scores, "o-", color=COLORS["blue"], label="rotary (GPT-OSS)")
ax.axhline(1 / TOKENS, color=COLORS["grey"], linestyle=":", label="guessing")
ax.set(xlabel="position of the first token (trained at 0 only)", ylabel="accuracy", ylim=(0, 1.05))
ax.legend(loc="center right")
show(
    fig,
    alt="Accuracy at naming the token five places back against the position of the text's first token. The table "
    "starts at 100 percent and falls towards guessing once the text leaves the trained rows; rotary positions stay at "
    "100 percent everywhere.",
)

# %%
assert min(rope_scores) > 0.99, "learned once, right everywhere"

# %% [markdown]
# One idea, learned once, right everywhere. The head has never seen position 96; it does not have to.

# %% [markdown]
# ## Longer than it was trained
#
# RoPE has no table that ends. But there is still a limit, and the wavelengths show it. In a training text of 4,096 tokens a fast pair makes hundreds of turns: it has seen every angle many times over. A slow pair makes a fraction of one turn. Beyond 4,096 tokens it shows the model angles between query and key that never occurred in training, and a network owes you nothing on inputs it never saw.

# %%
CONTEXT = 4_096
turns = CONTEXT * plain / (2 * math.pi)
for i in (0, 8, 9, 17, 18, 31):
    print(f"pair {i:2d}: {turns[i]:9.3f} turns in {CONTEXT:,} tokens")
print(f"{(turns < 1).sum()} of {len(turns)} pairs never complete a turn")

# %% [markdown]
# A first remedy is **position interpolation** ([Chen et al., 2023](https://arxiv.org/abs/2306.15595)): to read `factor` times as many tokens, divide every frequency by `factor`. No angle is new any more. But look what happens to a head that had learned "five back":

# %%
distances = torch.arange(0, 31)


@torch.no_grad()
def attention_by_distance(head, inv_freq):
    """The head's mean score for a key that many tokens back, over all pairs of tokens."""
    query, key, _ = head.qkv(head.embed.weight).split(WIDTH, dim=-1)  # [TOKENS, WIDTH]
    at_zero = turn(query.mean(0).expand(1, WIDTH), torch.tensor([0]), inv_freq)
    return (at_zero @ turn(key.mean(0).expand(31, WIDTH), -distances, inv_freq).T)[0] / WIDTH**0.5


FACTOR = 4
trained = rope_head.inv_freq
for name, inv_freq in (("as trained", trained), (f"interpolated by {FACTOR}", trained / FACTOR)):
    print(f"{name:18s} looks {attention_by_distance(rope_head, inv_freq).argmax():2d} tokens back")

# %% [markdown]
# It looks four times too far back. Of course: distance *is* angle here, and all angles shrank. The fast pairs, which were in no danger, are what told neighbours apart, and interpolation blurs exactly those.
#
# So treat the pairs **by parts**. That is YaRN ([Peng et al., 2023](https://arxiv.org/abs/2309.00071)):
#
# - a pair that makes at least `beta_fast` = 32 turns within the original context keeps its frequency;
# - a pair that makes less than `beta_slow` = 1 turn is slowed down by `factor`, so that it never leaves the angles it knows;
# - in between, a straight ramp over the pair's index mixes the two.
#
# Where does the ramp start and end? Pair $i$ makes $n$ turns in $L$ tokens when $L f_i = 2 \pi n$. Put in $f_i = \theta^{-2i/\mathrm{hd}}$ and solve for $i$:
#
# $$ i(n) = \frac{\mathrm{hd}}{2} \cdot \frac{\ln \left( L / (2 \pi n) \right)}{\ln \theta}, \qquad \text{low} = i(\beta_\mathrm{fast}), \quad \text{high} = i(\beta_\mathrm{slow}) . $$
#
# In words: the index of the pair, as a fraction, that makes exactly $n$ turns. The result is rarely a whole number. Much code rounds it outwards to whole pairs; the published gpt-oss configuration says `"truncate": false`, and it does not. The settings come as the `RopeScaling` of [the map](01_map.ipynb), whose defaults are gpt-oss's.


# %%
#| export
def yarn_ramp(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """Return the pairs, as fractional indices, at which the slowing starts and is complete.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN.

    Raises:
        ValueError: if the ramp does not lie within the hd/2 pairs, as the reference demands, and where
            :func:`rope_inv_freq` does.
    """
    _require_pairs(head_dim, theta)
    context = scaling.original_max_position_embeddings

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(context / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    last = head_dim // 2 - 1
    if not 0 < low < high < last:
        shortest = math.floor(2 * math.pi * scaling.beta_fast) + 1
        raise ValueError(
            f"YaRN's ramp would run from pair {low:.2f} to {high:.2f}, but must lie between 0 and {last}: "
            f"original_max_position_embeddings={context} does not fit theta={theta:g}, head_dim={head_dim}; "
            f"use {shortest} tokens or more and a large enough theta, or no YaRN."
        )
    return (math.floor(low), math.ceil(high)) if scaling.truncate else (low, high)


# %%
low, high = yarn_ramp(64, 150_000, RopeScaling())
print(f"the ramp runs from {low:.2f} to {high:.2f}")
kept, slowed = math.ceil(low), 32 - math.ceil(high)
print(f"{kept} pairs keep their frequency, {slowed} are slowed down in full, {32 - kept - slowed} in between")

# %% [markdown]
# At gpt-oss's settings: from 8.09 to 17.40. Compare with the turns above: pair 8 makes a little more than 32 turns, pair 18 a little less than one.
#
# The original context must be long enough for the ramp to exist. The fastest pair makes one turn in $2\pi$ tokens, so it needs $32 \cdot 2 \pi \approx 201$ tokens to make 32 turns; below that, `low` is negative and there is nothing to start from. A small model with an original context of 128 runs into this, and should hear about it:

# %%
try:
    yarn_ramp(64, 150_000, RopeScaling(original_max_position_embeddings=128))
except ValueError as error:
    print(error)


# %%
#| export
def yarn_inv_freq(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Return the frequencies of RoPE with YaRN, in radians a token, [hd/2].

    Up to the start of the ramp they are those of :func:`rope_inv_freq`, from its end on they are
    ``scaling.factor`` times smaller.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN.

    Raises:
        ValueError: where :func:`yarn_ramp` does.
    """
    low, high = yarn_ramp(head_dim, theta, scaling)
    tokens = _tokens_per_radian(head_dim, theta)
    kept, slowed = 1.0 / tokens, 1.0 / (scaling.factor * tokens)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    keep = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    # In the references' order of operations, so that the frequencies are equal to the last bit.
    return slowed * (1 - keep) + kept * keep


# %%
stretched = yarn_inv_freq(64, 150_000, RopeScaling())
for i in (0, 8, 9, 13, 17, 18, 31):
    print(f"pair {i:2d}: slowed down {plain[i] / stretched[i]:6.3f} times")

# %% [markdown]
# Does it keep what interpolation lost? Our head was trained on 32 tokens, so its ramp needs other betas (32 turns do not fit into 32 tokens), but the idea is the same: stretch it to 128 tokens, without any further training.

# %% tags=["nbval-ignore-output"]
scaling = RopeScaling(factor=FACTOR, original_max_position_embeddings=32, beta_fast=4)
choices = {
    "plain RoPE": trained,
    "interpolated": trained / FACTOR,
    "YaRN": yarn_inv_freq(WIDTH, 1_000, scaling),
}
stretched_scores = {}
for name, inv_freq in choices.items():
    rope_head.inv_freq = inv_freq
    stretched_scores[name] = accuracy(rope_head, length=32 * FACTOR)
    print(f"{name:12s} on texts of {32 * FACTOR} tokens: {stretched_scores[name]:4.0%} right")
rope_head.inv_freq = trained

# %% tags=["hide-input"]
fig, ax = new_figure(6.5, 2.9)
for (name, inv_freq), color in zip(choices.items(), ("grey", "red", "blue"), strict=True):
    ax.plot(distances, attention_by_distance(rope_head, inv_freq), label=name, color=COLORS[color])
ax.axvline(LAG, color=COLORS["grey"], linestyle=":", linewidth=1)
ax.set(xlabel="tokens back", ylabel="score", ylim=(-12, 20))
ax.legend(loc="upper left", ncols=3)
show(
    fig,
    alt="The head's score against distance. Plain RoPE and YaRN both have their highest peak five tokens back; "
    "interpolated by four, the peak is broad and stands twenty tokens back.",
)

# %%
assert stretched_scores["interpolated"] < 0.3 < 0.7 < stretched_scores["YaRN"]
assert stretched_scores["plain RoPE"] > 0.9

# %% [markdown]
# Interpolation destroys the habit; YaRN keeps most of it. Note also what this small test does *not* show: plain RoPE does even better here, because "five back" lives in the fast pairs and never needs the slow ones. What YaRN buys is room for the slow pairs, and that pays where a model has learned to use them: the paper measures it on real models. In gpt-oss YaRN is no switch that long texts turn on: it is part of the model at every length, also for ten tokens.

# %% [markdown]
# The next figure shows what it does to the angles. Blue is the arc that a pair covers in 4,096 tokens, the arc it knows; red is where 131,072 tokens would take it.


# %% tags=["hide-input"]
def draw_arc(ax, x, y, end, radius, color, width):
    end = min(end, 2 * math.pi)
    angle = torch.linspace(0, end, 40)
    ax.plot(x + radius * angle.cos(), y + radius * angle.sin(), color=COLORS[color], linewidth=width)


fig, ax = new_figure(7, 2.4)
shown = (4, 12, 17, 20, 24, 31)
for row, (name, inv_freq) in enumerate((("plain RoPE", plain), ("YaRN", stretched))):
    y = 1.4 - 1.5 * row
    ax.text(-0.9, y, name, ha="right", va="center", weight="bold")
    for column, i in enumerate(shown):
        x = 1.35 * column
        draw_arc(ax, x, y, 2 * math.pi, 0.5, "grey", 0.7)
        draw_arc(ax, x, y, 32 * CONTEXT * inv_freq[i].item(), 0.5, "red", 2.4)
        draw_arc(ax, x, y, CONTEXT * plain[i].item(), 0.42, "blue", 5)
        if row == 0:
            ax.text(x, 2.15, f"pair {i}", ha="center")
ax.set(xlim=(-2.6, 7.4), ylim=(-0.75, 2.45), aspect="equal", xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="Circles for pairs 4, 12, 17, 20, 24 and 31. A thick blue arc marks the angles seen in 4,096 tokens, a red "
    "arc the angles used in 131,072. With plain RoPE the red arc of the slow pairs runs far beyond the blue one; with "
    "YaRN, red covers the same arc as blue from pair 20 on, and the fast pairs know the whole circle anyway.",
)

# %% [markdown]
# With plain RoPE, red runs past blue in the slow pairs: new angles. With YaRN it stays on blue.
#
# Move the two settings and watch the ramp. The upper curve is the wavelength with YaRN, the lower one without; the tinted band is the ramp. Where the band would leave the picture, the ramp is not defined.


# %% tags=["hide-input"]
def ramp_svg(factor, context):
    def x(pair):
        return 46 + 13.5 * pair

    def y(tokens):
        return 205 - 24 * math.log10(tokens)

    try:
        settings = RopeScaling(factor=factor, original_max_position_embeddings=context)
        begin, end = yarn_ramp(64, 150_000, settings)
    except ValueError:
        return "<p>The ramp is not defined: this original context is too short.</p>"
    curves = []
    for inv_freq, color in ((plain, "grey"), (yarn_inv_freq(64, 150_000, settings), "blue")):
        points = " ".join(f"{x(i):.0f},{y(2 * math.pi / f):.1f}" for i, f in enumerate(inv_freq.tolist()))
        curves.append(
            f'<polyline points="{points}" fill="none" stroke="{COLORS[color]}" stroke-width="2.2"/>'
        )
    lines = [
        f'<line x1="46" x2="465" y1="{y(tokens):.1f}" y2="{y(tokens):.1f}" stroke="{COLORS["orange"]}" stroke-dasharray="4 3"/>'
        f'<text x="50" y="{y(tokens) - 3:.1f}">{label} {tokens:,.0f} tokens</text>'
        for tokens, label in ((context, "original context"), (factor * context, "stretched to"))[
            : 1 + (factor > 1)
        ]
    ]
    return (
        '<svg viewBox="0 0 480 235" width="480" font-size="10" fill="currentColor" font-family="sans-serif" '
        'style="max-width:100%" role="img" aria-label="Wavelength of each pair with and without YaRN">'
        f'<rect x="{x(begin):.1f}" y="20" width="{x(end) - x(begin):.1f}" height="185" fill="{COLORS["green"]}" fill-opacity=".16"/>'
        f'{"".join(curves + lines)}<text x="46" y="12">ramp from pair {begin:.2f} to pair {end:.2f}</text>'
        + "".join(f'<text x="{x(i):.0f}" y="219" text-anchor="middle">{i}</text>' for i in range(0, 32, 5))
        + "".join(
            f'<text x="40" y="{y(10**p) + 3:.0f}" text-anchor="end">10{"⁰¹²³⁴⁵⁶⁷"[p]}</text>'
            for p in range(1, 8, 2)
        )
        + '<text x="255" y="232" text-anchor="middle">pair (vertical: tokens for one turn)</text></svg>'
    )


explore(
    ramp_svg,
    {"factor": (1, 2, 4, 8, 16, 32, 64), "original context": (128, 512, 1_024, 4_096, 16_384, 65_536)},
    start={"factor": 32, "original context": 4_096},
)

# %% [markdown]
# ## Concentration
#
# Longer texts have a second problem that has nothing to do with angles. A softmax over more keys spreads thinner: the few that matter compete with ever more that do not. YaRN answers with a constant. It multiplies cos and sin by
#
# $$ c = 0.1 \ln(\text{factor}) + 1 , $$
#
# so turned queries and turned keys are both $c$ times longer, and every score grows by $c^2$: a lower temperature. It costs nothing, because it is baked into the table. The formula is not derived; the authors fitted it to what worked best on Llama models. `transformers` calls $c$ the `attention_scaling`.


# %%
#| export
def yarn_concentration(factor: float) -> float:
    """Return what YaRN multiplies cos and sin by, so that scores grow by its square.

    Args:
        factor: how many times longer the context became, 1 or more.
    """
    return 0.1 * math.log(factor) + 1.0


# %%
c = yarn_concentration(RopeScaling().factor)
print(f"c = {c:.4f}, and scores grow by c² = {c * c:.4f}")

generator = torch.Generator().manual_seed(5)
kept_mass = {}
for keys in (512, 4_096, 131_072):
    background = torch.randn(keys, generator=generator)  # scores of keys that do not matter
    for factor in (1.0, c * c):
        scores = torch.cat((torch.tensor([8.0]), background)) * factor  # one key that does
        kept_mass[keys, factor] = scores.softmax(0)[0].item()
    print(
        f"{keys:7,} keys: the one that matters gets {kept_mass[keys, 1.0]:.1%}, with c² {kept_mass[keys, c * c]:.1%}"
    )

# %% tags=["hide-input"]
fig, ax = new_figure(6, 2.7)
for factor, name, color in ((1.0, "without concentration", "grey"), (c * c, "with concentration", "blue")):
    mass = [kept_mass[keys, factor] for keys in (512, 4_096, 131_072)]
    ax.plot((512, 4_096, 131_072), mass, "o-", color=COLORS[color], label=name)
ax.set(xscale="log", xlabel="keys", ylabel="share of the key that matters", ylim=(0, 1.05))
ax.legend(loc="lower left")
show(
    fig,
    alt="The share of attention that one clearly relevant key receives against the number of keys, from 512 to "
    "131,072. Without concentration it falls from three quarters to about one percent; with concentration it falls from nearly all to three quarters.",
)

# %% [markdown]
# The relevant key's share collapses at 131,072 keys without it. With it, the long text looks like a short one. Note that the factor applies to *every* text, short ones too, where the sharpening is not needed.

# %% [markdown]
# ## Positions that start anywhere
#
# A model needs cos and sin for the positions at hand. They never change, so we keep them in a table that grows when a text is longer than any before. Five decisions; behind most of them stands somebody's bug report (see the pitfalls):
#
# 1. **Positions are given**, as `[T]` or `[B, T]`, not counted from zero. With a cache (chapter 12) the next token stands at position 5,000 and is alone; in a batch of unequal prompts every row has its own positions.
# 2. **The table is computed in 32 bits and stays there**, also when someone calls `model.bfloat16()`. Casting happens after the cosine, in `apply_rotary`.
# 3. **The tables are buffers, but not part of the state dict**: they move with the model to a GPU, and checkpoints stay exchangeable with Hugging Face's.
# 4. **The table grows on demand** by doubling, and a caller who knows how long the text is says so, because reading it off a tensor makes a GPU wait.
# 5. **It takes values, not a configuration**: head_dim, theta and the settings of YaRN.


# %%
#| export
class RotaryEmbedding(nn.Module):
    """The cosines and sines of RoPE for any positions, in fp32, from tables that grow on demand.

    The tables are no parameters and not in the state dict. They stay fp32 whatever the model is cast
    to, and are computed anew where it is moved: rounded angles would be wrong at large positions.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN, or None for plain RoPE.
        device: where the tables live.

    Raises:
        ValueError: where :func:`yarn_ramp` does.
    """

    inv_freq: Tensor  # [hd/2], radians a token
    cos: Tensor  # [N, hd/2], the table of the first N positions
    sin: Tensor  # [N, hd/2]

    def __init__(
        self,
        head_dim: int,
        theta: float,
        scaling: RopeScaling | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta
        self.scaling = scaling
        self.attention_scaling = 1.0 if scaling is None else yarn_concentration(scaling.factor)
        self._build(0, torch.get_default_device() if device is None else device)

    def grow(self, length: int) -> None:
        """Make the tables reach ``length`` positions (as ``forward`` does by itself)."""
        if length > len(self.cos):
            self._build(1 << (length - 1).bit_length(), self.cos.device)

    def forward(self, position_ids: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Look up the angles of these positions.

        Args:
            position_ids: [T] or [B, T], int64, from 0.
            length: a number that all positions are below, if you know one: finding it in the tensor
                makes a GPU wait for its answer.

        Returns:
            cos and sin for :func:`apply_rotary`, [T, hd/2] or [B, T, hd/2], fp32, both times the
            concentration.

        Raises:
            ValueError: if a position is negative (looked for where ``length`` is not given).
        """
        if length is None:
            lowest, highest = (int(bound) for bound in position_ids.aminmax())
            if lowest < 0:
                raise ValueError(f"position_ids holds {lowest}, but positions start at 0.")
            length = highest + 1
        self.grow(length)
        return self.cos[position_ids], self.sin[position_ids]

    def extra_repr(self) -> str:
        """Show the settings when the module is printed."""
        return f"head_dim={self.head_dim}, theta={self.theta:g}, scaling={self.scaling}"

    def _build(self, length: int, device: torch.device | str) -> None:
        if self.scaling is None:
            inv_freq = rope_inv_freq(self.head_dim, self.theta)
        else:
            inv_freq = yarn_inv_freq(self.head_dim, self.theta, self.scaling)
        inv_freq = inv_freq.to(device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * inv_freq  # [N, hd/2]
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("cos", angles.cos() * self.attention_scaling, persistent=False)
        self.register_buffer("sin", angles.sin() * self.attention_scaling, persistent=False)

    def _apply(self, fn, recurse: bool = True):
        # Behind .to(), .bfloat16() and .to_empty(), which would move, round and not fill the tables.
        super()._apply(fn, recurse)
        self._build(len(self.cos), self.cos.device)
        return self


# %%
rope = RotaryEmbedding(head_dim=64, theta=150_000, scaling=RopeScaling())
print(rope)
cos, sin = rope(torch.arange(10))
print("ten tokens:", list(cos.shape), cos.dtype, "table:", len(rope.cos))
cos, _ = rope(torch.tensor([[5_000], [131_071]]))
print("one token in each of two texts:", list(cos.shape), "table:", len(rope.cos))
rope.bfloat16()
print("after .bfloat16():", rope.cos.dtype, "state dict:", dict(rope.state_dict()))

# %% [markdown]
# How much does point 2 matter? Take the exact angle in 64 bits and compare three ways of computing the cosine: everything in bfloat16; only the frequencies rounded to bfloat16 (what a cast of the model does); everything in fp32, our way.

# %%
positions = torch.unique(torch.logspace(0, math.log10(131_071), 60).long())
exact_freq = 150_000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
exact = (positions.double()[:, None] * exact_freq).cos()
errors = {}
for name, at, freq in (
    ("positions and frequencies in bfloat16", torch.bfloat16, torch.bfloat16),
    ("frequencies in bfloat16", torch.float32, torch.bfloat16),
    ("fp32", torch.float32, torch.float32),
):
    angles = (positions.to(at)[:, None] * plain.to(freq)).float()
    errors[name] = (angles.cos() - exact).abs().amax(-1)
    wrong = positions[errors[name] > 0.1].tolist()
    print(f"{name:38s} wrong by more than 0.1", f"from position {wrong[0]}" if wrong else "nowhere")
print("fp32 stays within 0.01 everywhere:", bool((errors["fp32"] < 0.01).all()))

# %% tags=["hide-input"]
fig, ax = new_figure(6.5, 3)
for (name, error), color in zip(errors.items(), ("red", "orange", "blue"), strict=True):
    ax.plot(positions, error.clamp(min=1e-9), label=name, color=COLORS[color])
ax.set(xscale="log", yscale="log", xlabel="position", ylabel="largest error of a cosine", ylim=(1e-8, 5))
ax.legend(loc="lower right")
show(
    fig,
    alt="Largest error of a cosine against the position, both logarithmic. With bfloat16 angles the error is 0.1 "
    "within a few dozen tokens and total beyond a few hundred. In fp32 it grows from 1e-7 to below 1e-2 at position "
    "131,071.",
)

# %% [markdown]
# In bfloat16 the model loses count within one paragraph. In fp32 the error stays below 0.01 even at the last position. It is not zero: near 131,072 an fp32 number is rounded by up to 0.004, so the product of position and frequency is wrong by as many radians, and the rounded frequency adds about as much. We could do better with 64-bit angles, but both references use fp32 products, and a copy that is more exact is a copy that differs. So we keep the reference's arithmetic, bit by bit.

# %% [markdown]
# ## Reality check
#
# First a number that somebody else printed. When vLLM fixed its YaRN for gpt-oss, [the pull request](https://github.com/vllm-project/vllm/pull/28244) gave the bounds that it should have:

# %%
published = (8.092779115512402, 17.39802450158856)
print(
    "the same bounds:",
    all(
        math.isclose(a, b, rel_tol=1e-12)
        for a, b in zip(yarn_ramp(64, 150_000, RopeScaling()), published, strict=True)
    ),
)

# %% [markdown]
# Then an independent computation. A pair is a complex number, and turning is multiplying by $e^{i m f}$. NumPy has both, in 64 bits, and the ramp is written here straight from the definition, by turns:

# %%
import numpy as np


def rotate_complex(x, positions):
    f = 150_000.0 ** (-np.arange(32) / 32)
    bound = [32 * np.log(4_096 / (2 * np.pi * n)) / np.log(150_000) for n in (32, 1)]
    slow = np.clip((np.arange(32) - bound[0]) / (bound[1] - bound[0]), 0, 1)
    f = f * (1 - slow) + f / 32 * slow
    z = x[..., :32] + 1j * x[..., 32:]
    z = z * (0.1 * np.log(32) + 1) * np.exp(1j * positions[:, None] * f)
    return np.concatenate((z.real, z.imag), axis=-1)


x = torch.randn(2, 3, 500, 64, generator=torch.Generator().manual_seed(7))
for first, tolerance in ((0, 2e-4), (7_500, 3e-3), (130_572, 5e-2)):
    positions = torch.arange(first, first + 500)
    ours = apply_rotary(x, *rope(positions)).numpy()
    theirs = rotate_complex(x.double().numpy(), positions.numpy())
    print(f"from position {first:7,}: within {tolerance}: {np.abs(ours - theirs).max() < tolerance}")

# %% [markdown]
# The tolerance widens with the position for the reason above: that is fp32 against 64 bits, not a difference in method. Against `transformers`, which rounds as we do, the project's tests (`tests/parity/test_rope_transformers.py`) compare full tensors, on both sides of the original context, with YaRN on and off: frequencies are equal to the last bit, cosines, sines and the concentration to 1e-6, rotated queries and keys to 2e-6.
#
# A warning about tolerances. Here is how far the frequencies of a *wrong* YaRN, rounded ramp, are from the right ones:

# %%
truncated = yarn_inv_freq(64, 150_000, RopeScaling(truncate=True))
print(f"largest difference of a frequency: {(truncated - stretched).abs().max():.1e}")
print("a test with tolerance 1e-2 notices:", not torch.allclose(truncated, stretched, atol=1e-2))
print("a test with tolerance 1e-6 notices:", not torch.allclose(truncated, stretched, atol=1e-6))
drift = (truncated - stretched).abs().max() * 4_096
print(f"after 4,096 tokens that pair is off by {drift:.1f} radians")

# %% [markdown]
# A comparison at 1e-2 calls it equal; at the end of the original context it points elsewhere.

# %% [markdown]
# ## What gpt-oss-20b uses
#
# From the published [configuration](https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json) and the [reference implementation](https://github.com/openai/gpt-oss):

# %%
settings = RopeScaling()
waves = 2 * math.pi / yarn_inv_freq(64, 150_000, settings)
print(f"theta {150_000:,}, head_dim 64: {len(waves)} pairs in each of 64 query and 8 key heads")
print(
    f"original context {settings.original_max_position_embeddings:,} × factor {settings.factor:.0f}"
    f" = {settings.original_max_position_embeddings * settings.factor:,.0f} tokens"
)
print(f"ramp {low:.2f} to {high:.2f}, not truncated; concentration {yarn_concentration(settings.factor):.4f}")
print(f"one turn takes from {waves[0]:.1f} to {waves[-1]:,.0f} tokens")
print(f"learned parameters: 0, against {131_072 * 2880:,} for a GPT-2 table of that length and width")

# %% [markdown]
# Every layer uses the same angles, also the sliding ones that never look further back than 128 tokens. (The [model card](https://arxiv.org/abs/2508.10925) says that YaRN extends the context of the dense layers, which are the only ones that need it; in the reference and in `transformers` one table serves all.) The 120b model has the same numbers.

# %% [markdown]
# ## Pitfalls
#
# - **The wrong pairs.** [TensorRT-LLM](https://github.com/NVIDIA/TensorRT-LLM/pull/16378) had gpt-oss marked as interleaved on one code path, and another bug that rotated twice: short answers looked fine, long ones fell to pieces. A question that keeps coming back is [Llama's](https://github.com/huggingface/transformers/issues/25199): Meta's code interleaves, `transformers` uses halves, and the converter permutes the weights in between. You will do that in the exercises.
# - **A truncated ramp.** [vLLM](https://github.com/vllm-project/vllm/issues/27722) rounded the bounds for gpt-oss until late 2025; the reporter noticed because log-probabilities did not match during reinforcement learning.
# - **A lost concentration.** A change in [llama.cpp](https://github.com/ggml-org/llama.cpp/pull/17945) that was meant for another model broke YaRN's factor for all models that do not set one explicitly, gpt-oss among them; it was [repaired](https://github.com/ggml-org/llama.cpp/pull/18006) soon after.
# - **Dividing positions instead of frequencies.** A [notebook on Olmo 3](https://github.com/rasbt/LLMs-from-scratch/pull/940) divided all positions by the factor and called it YaRN. That is interpolation, and the text turned to gibberish after a few sentences.
# - **Rounded angles.** `model.bfloat16()` casts buffers too: see [this issue](https://github.com/huggingface/transformers/issues/25681) and [this pull request](https://github.com/huggingface/transformers/pull/29285).
# - **Positions that ignore padding.** In a batch with left padding the first real token of a short prompt must be at position 0: [one report of many](https://github.com/unslothai/unsloth/issues/3699). With *all* positions of a text shifted by one, RoPE gives the same scores (you know why), so this shows only where a cache and a prompt disagree.
# - **A cache of tables with the wrong key.** [One library](https://github.com/lucidrains/rotary-embedding-torch/issues/11) stored the table by length and forgot the offset.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/09_rope_yarn.ipynb):
#
# 1. **Two layouts.** Permute the rows of a query or key projection so that interleaved weights work with our halves.
# 2. **Write the test.** Decide for any rotation that is handed to you whether it depends on distance alone. Some of them are broken in ways that a lazy test does not see.
# 3. **The ramp.** Compute its bounds from the definition.
# 4. **Spot the impostor.** Given 32 frequencies, say whether they are plain, interpolated, YaRN, or YaRN with a truncated ramp.

# %% [markdown]
# ## Summary
#
# - GPT-2's table of positions ends, and it learns each position on its own.
# - RoPE turns pairs of numbers in queries and keys by position × frequency. The score then depends on content and distance; values and lengths are untouched; there is nothing to learn.
# - Frequencies fall geometrically from 1 to almost 1/theta: fast pairs for neighbours, slow pairs for far away.
# - gpt-oss pairs number $i$ with number $i + \mathrm{hd}/2$.
# - YaRN keeps the pairs that turn often, slows those that never complete a turn, ramps in between (8.09 to 17.40, not rounded), and sharpens all scores by $(0.1 \ln 32 + 1)^2$.
# - Angles are fp32, positions are given, tables grow and are in no checkpoint.
#
# Next: [Heads and windows](10_heads_windows.ipynb): which tokens a head may look at, and how heads share keys.

# %% [markdown]
# ## Further reading
#
# - [Su et al., 2021](https://arxiv.org/abs/2104.09864): RoFormer, where the rotation comes from.
# - [Chen et al., 2023](https://arxiv.org/abs/2306.15595): position interpolation.
# - [Peng et al., 2023](https://arxiv.org/abs/2309.00071): YaRN, with the by-parts ramp and the fitted concentration.
# - [Press et al., 2021](https://arxiv.org/abs/2108.12409): ALiBi, the other well-known way to use distance, and why extrapolation is hard.
