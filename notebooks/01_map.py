# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The map
#
# A language model reads some text and says what may come next. That is all it does, and this course builds
# one that does it the way a modern open model does, gpt-oss, down to the last bias. Before you build anything,
# this chapter gives you the map: what goes in, what comes out, which parts lie between, and what they cost.
#
# **You will**
#
# - see what a decoder-only language model computes: tokens in, a distribution over the next token out;
# - see GPT-2 and GPT-OSS side by side, block by block, and why each block was replaced;
# - write `GPTOSSConfig`, which describes any model of the family and reads a published `config.json`;
# - count parameters, operations and bytes exactly, down to the 13,761,264,768 bytes of gpt-oss-20b's weights.
#
# **Time:** 60 minutes. **Hardware:** any computer; nothing is trained or downloaded in this chapter.

# %% tags=["setup"]
# (this cell is filled in by the course's tools)

# %% [markdown]
# ## Why
#
# In 2019 OpenAI published the weights of GPT-2
# ([Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)).
# In 2025 it published weights again: gpt-oss-20b and gpt-oss-120b
# ([OpenAI, 2025](https://arxiv.org/abs/2508.10925)). The skeleton of the two is the same. Almost every part that
# hangs on it has been replaced.
#
# Each replacement answers a pain. GPT-2 has room for 1,024 tokens and not one more. Its memory for the text that
# it has read grows with every layer, every head and every token. And every token pays for every weight, so a model
# that knows more is slower by as much. GPT-OSS reads 131,072 tokens, with a sixteenth of the memory that heads and layers
# of GPT-2's kind would need for them, and uses only a part of its weights for each token.
#
# If you know which pain a part relieves, you can rebuild the part. So the course goes from GPT-2 to GPT-OSS one
# replacement at a time. This chapter shows the whole way from above.

# %% [markdown]
# ## What a language model does
#
# Text is cut into **tokens**: words, pieces of words, punctuation. Each token has a number, its id. The set of
# all tokens is the **vocabulary**. (How to cut is the subject of [Tokens](02_tokens.ipynb); here we cut at spaces.)
#
# A **language model** takes the tokens so far and returns one probability for every token of the vocabulary:
# how likely it is to come next. Here is the poorest language model there is. It looks at one token only, and its
# probabilities are counts.

# %%
from collections import Counter
from itertools import pairwise

corpus = """
    the cat sat on the mat . the dog sat on the rug . the cat saw the dog .
    the dog ran to the cat . the cat ran to the mat . then the cat sat on the dog .
"""
story = corpus.split()

followers = {token: Counter() for token in story}
for token, following in pairwise(story):
    followers[token][following] += 1


def next_token_distribution(token):
    """Return the probability of every token that may follow this one."""
    counts = followers[token]
    return {word: count / counts.total() for word, count in counts.most_common()}


print(len(story), "tokens,", len(set(story)), "of them different")
for word, probability in next_token_distribution("the").items():
    print(f"p({word:>3} | the) = {probability:.3f}")

# %% [markdown]
# To write text, you draw one token from that distribution, append it, and ask again. The loop is the same for every
# model in this course, and it is how a chatbot writes: one token at a time, each drawn given all before it.

# %%
import random

dice = random.Random(4)
text = ["the"]
while len(text) < 24:
    distribution = next_token_distribution(text[-1])
    text += dice.choices(list(distribution), weights=distribution.values())
print(" ".join(text))

# %% [markdown]
# Every pair of neighbours is one that the story has. The whole is nonsense, because a model that sees one token
# cannot know who sat where. A good model has to use **all** the tokens so far. A table of counts cannot: with
# ten tokens of context there are more possible contexts than books to count them in. So the table is replaced by
# a function with adjustable numbers, **parameters**, that are tuned on text until its distribution fits. The function
# below is the one that everybody uses.

# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, ax = new_figure(8.2, 3.5)
ax.set(xlim=(0, 16.6), ylim=(-0.9, 6.3))
ax.set_axis_off()
vectors = ["[0.2, −1.1, …]", "[0.7, 0.3, …]", "[−0.4, 0.9, …]"]
distributions = [(0.25, 0.9, 0.2), (0.5, 0.2, 0.75), (0.95, 0.35, 0.15)]
box(ax, 5.5, 0.75, 3.7, 4.95, "", "blue")
ax.text(7.35, 5.25, "layers", ha="center", weight="bold")
for row, (word, vector, heights) in enumerate(
    zip(["Once", "upon", "a"], vectors, distributions, strict=True)
):
    y = 4.0 - 1.5 * row
    middle = y + 0.45
    box(ax, 0.1, y, 1.5, 0.9, word, "grey")
    box(ax, 2.4, y, 2.4, 0.9, vector, "green", fontsize=8.5)
    box(ax, 10.0, y, 1.4, 0.9, "head", "green", fontsize=9)
    ax.plot([5.5, 9.2], [middle, middle], color=COLORS["blue"], linewidth=2.2)
    for start, end in [(1.65, 2.35), (4.85, 5.45), (9.25, 9.95), (11.45, 12.1)]:
        arrow(ax, (start, middle), (end, middle))
    for bar, height in enumerate(heights):
        ax.add_patch(Rectangle((12.3 + 0.4 * bar, y), 0.28, height, color=COLORS["blue"]))
    ax.text(
        13.75,
        middle,
        ["p(next | Once)", "p(next | Once upon)", "p(next | Once upon a)"][row],
        va="center",
        fontsize=8.5,
    )
for x in (6.3, 7.3, 8.3):  # attention only looks back: from an earlier row to a later one
    arrow(ax, (x, 4.45), (x + 0.3, 2.98), "violet")
    arrow(ax, (x + 0.3, 2.95), (x + 0.6, 1.48), "violet")
labels = [
    "tokens",
    "embedding:\none vector each",
    "the residual stream;\nattention moves notes down",
    "back to V\nnumbers",
]
for x, label in zip([0.85, 3.6, 7.35, 10.7], labels, strict=True):
    ax.text(x, 0.3, label, ha="center", va="top", fontsize=9)
ax.text(13.9, 0.3, "a distribution\nafter every token", ha="center", va="top", fontsize=9)
show(
    fig,
    alt="Three tokens enter on the left, one row each. Every token becomes a vector, runs through the layers along its own line, and leaves through the head as a distribution over the next token. Arrows between the rows point from earlier tokens to later ones only: attention.",
)

# %% [markdown]
# Read the figure from left to right. You need ten words for it, and for the rest of the course:
#
# | word | what it means |
# |---|---|
# | **embedding** | A table with one row of numbers, a vector, for every token of the vocabulary. A token enters the model as its row. |
# | **residual stream** | The vector of one token on its way through the model. Every layer reads it and adds something to it; no layer replaces it. |
# | **layer** (or block) | One round of work: first attention, then a feed-forward part. A model is a stack of them. |
# | **attention** | The only step in which tokens exchange information. Each token asks a question (a *query*), each earlier token offers a label (a *key*) and a content (a *value*); a token receives a weighted mean of the contents, with more weight where key and query match. |
# | **head** of attention | One of several such exchanges that run side by side, each with its own queries, keys and values. |
# | **feed-forward part** (MLP) | A small network that works on each token alone: it widens the vector, bends it with a non-linear function, and narrows it again. |
# | **expert** | One of many feed-forward parts in the same layer. A **router** sends each token to a few of them. |
# | **norm** | A step that brings a vector to a standard size before it is used, so that training stays stable. |
# | **head** of the model, **logits** | A last matrix that turns the vector into one number for every token of the vocabulary, its logit. Softmax (exponentials, divided by their sum) turns the logits into probabilities. |
# | **KV cache** | While writing, the keys and values of earlier tokens do not change, so they are kept instead of computed again. |
#
# "Decoder-only" means that attention looks back and never ahead. That is why one pass over a text gives a prediction
# after **every** token: no position has seen its own answer.
#
# The outermost two parts, embedding and head, are enough to run. Follow the shapes. The letters stay the same in the
# whole course: B texts at once, T tokens in each, D numbers a vector, V tokens in the vocabulary.

# %%
import torch

torch.manual_seed(0)
B, T, D, V = 2, 5, 8, 11
embedding = torch.nn.Embedding(V, D)
head = torch.nn.Linear(D, V, bias=False)

input_ids = torch.randint(V, (B, T))  # [B, T]
stream = embedding(input_ids)  # [B, T, D]: the residual stream enters the layers here
logits = head(stream)  # [B, T, V]
probabilities = logits.softmax(dim=-1)

for name, value in {"input_ids": input_ids, "stream": stream, "logits": logits}.items():
    print(f"{name:>9}: {list(value.shape)}")
print("every distribution sums to 1:", torch.allclose(probabilities.sum(-1), torch.ones(B, T)))

# %% [markdown]
# Without layers, this is the model of counts again: the prediction depends on one token. Everything that makes a
# language model good happens between those two lines. So let us look there.

# %% [markdown]
# ## GPT-2 beside GPT-OSS
#
# Here are the two models, top to bottom, as a token travels. Orange parts are GPT-2's; blue parts took their place;
# grey parts are the same in both. The green line is the residual stream: parts read it through a norm and add (⊕)
# their result to it. In attention, light squares are queries and full ones are keys and values; below, full squares
# are the experts at work.

# %% tags=["hide-input"]
from matplotlib.patches import FancyBboxPatch


def squares(ax, x, y, count, color, size=0.17, gap=0.04, filled=()):
    """Draw a row of small squares and return the middle of each."""
    for index in range(count):
        face = COLORS[color] if index in filled else COLORS[color] + "40"
        ax.add_patch(
            Rectangle(
                (x + index * (size + gap), y),
                size,
                size,
                facecolor=face,
                edgecolor=COLORS[color],
                linewidth=0.8,
            )
        )
    return [x + index * (size + gap) + size / 2 for index in range(count)]


def model(ax, x, color, name, layers, labels, positions):
    """Draw one model from the token ids to the next token, beside its residual stream."""
    heights = {
        "ids": (16.9, 0.8),
        "embed": (15.7, 0.8),
        "norm1": (12.75, 0.7),
        "norm2": (8.05, 0.7),
        "norm3": (3.05, 0.7),
    }
    heights |= {"attention": (9.3, 3.1), "mlp": (4.75, 2.95), "head": (1.9, 0.8), "softmax": (0.7, 0.8)}
    ax.text(x + 3.4, 18.15, name, ha="center", fontsize=13, weight="bold", color=COLORS[color])
    frame = FancyBboxPatch(
        (x - 0.2, 4.3), 7.1, 9.75, boxstyle="round,pad=0,rounding_size=0.15", facecolor="none"
    )
    frame.set(edgecolor=COLORS["grey"], linewidth=1.2, linestyle=(0, (4, 3)))
    ax.add_patch(frame)
    ax.text(x + 6.65, 13.9, layers, ha="right", va="top", fontsize=9.5, weight="bold")
    ax.plot([x + 0.45, x + 0.45], [16.1, 3.4], color=COLORS["green"], linewidth=3.2, solid_capstyle="round")
    for part, (y, height) in heights.items():
        kind = "grey" if part in ("embed", "softmax") else color
        box(ax, x + 1.1, y, 5.55, height, "", kind)
        tall = part in ("attention", "mlp")
        where = {"y": y + height - 0.2, "va": "top"} if tall else {"y": y + height / 2, "va": "center"}
        ax.text(x + 3.87, s=labels[part], ha="center", fontsize=8.7, linespacing=1.4, **where)
    if positions:
        box(ax, x + 1.1, 14.5, 5.55, 0.8, positions, color, fontsize=8.7)
    adds = [9.75, 5.2] + ([14.9] if positions else [])
    for y in adds:  # results return to the stream
        arrow(ax, (x + 1.1, y), (x + 0.66, y))
        ax.text(x + 0.45, y, "⊕", ha="center", va="center", fontsize=14)
    for y in (13.1, 8.4, 3.4):  # norms read the stream
        arrow(ax, (x + 0.5, y), (x + 1.1, y))
    arrow(ax, (x + 1.1, 16.1), (x + 0.55, 16.1))
    for high, low in [(16.9, 16.5), (12.75, 12.4), (8.05, 7.7), (3.05, 2.7), (1.9, 1.5)]:
        arrow(ax, (x + 3.87, high), (x + 3.87, low))


same = {"embed": "token embedding", "softmax": "softmax → the next token"}
fig, ax = new_figure(8.6, 9.6)
ax.set(xlim=(-0.4, 17.2), ylim=(0.4, 18.8))
ax.set_axis_off()
norms = {f"norm{i}": "LayerNorm" for i in (1, 2, 3)}
model(
    ax,
    0.0,
    "orange",
    "GPT-2 (2019)",
    "layer, × 12",
    same
    | norms
    | {
        "ids": "token ids, 50,257 different ones",
        "attention": "attention\nin every layer: look at all earlier tokens\nevery head has its own key and value",
        "mlp": "feed-forward part\nwiden 4 ×, GELU, narrow\none for all tokens",
        "head": "head: the embedding again",
    },
    "+ position embedding, 1,024 rows",
)
model(
    ax,
    9.9,
    "blue",
    "gpt-oss-20b (2025)",
    "layer, × 24",
    same
    | {key: "RMSNorm" for key in norms}
    | {
        "ids": "token ids, 201,088 different ones",
        "attention": "attention with sinks, positions as angles\nin every other layer: only 128 tokens\n8 query heads share one key and value",
        "mlp": "router → 4 of 32 experts\neach: widen, clamped SwiGLU, narrow\ndifferent ones for every token",
        "head": "head: a matrix of its own",
    },
    None,
)
ax.text(13.77, 14.9, "(positions enter in attention)", ha="center", va="center", fontsize=8.7, style="italic")
for x, queries, group, color in [(1.98, 12, 1, "orange"), (11.27, 24, 8, "blue")]:
    size = 0.24 if group == 1 else 0.17
    centres = squares(ax, x, 10.35, queries, color, size, 0.085 if group == 1 else 0.04)
    for start in range(0, queries, group):
        middle = sum(centres[start : start + group]) / group
        squares(ax, middle - 0.14, 9.5, 1, color, 0.28, filled=(0,))
        for centre in centres[start : start + group]:
            ax.plot([centre, middle], [10.35, 9.78], color=COLORS[color], linewidth=0.8)
ax.text(16.1, 9.62, "…", va="center", fontsize=12)
squares(ax, 1.75, 5.05, 1, "orange", 0.75, filled=(0,))
ax.patches[-1].set_width(4.25)
for row, chosen in enumerate([(3, 12), (6, 9)]):
    squares(ax, 11.77, 5.5 - 0.4 * row, 16, "blue", 0.2, 0.06, chosen)
for y, chapter in [
    (17.3, "02"),
    (14.9, "09"),
    (13.1, "08"),
    (10.85, "09–12"),
    (8.4, "08"),
    (6.2, "13, 14"),
    (3.4, "08"),
    (2.3, "15"),
]:
    arrow(ax, (7.05, y), (9.55, y), "violet")
    ax.text(8.27, y + 0.1, f"ch. {chapter}", ha="center", va="bottom", fontsize=9)
show(
    fig,
    alt="GPT-2 and gpt-oss-20b side by side. The same in both: token embedding, the residual stream with two additions a layer, softmax at the end. Replaced: position embedding by rotary positions inside attention, LayerNorm by RMSNorm, twelve full heads by 64 query heads that share 8 keys and values with sinks and windows, the feed-forward part by a router and experts, the tied head by a matrix of its own. The chapters that build each replacement stand between the two.",
)

# %% [markdown]
# The skeleton is the same: embed, add attention, add a feed-forward part, repeat, predict. These are the replacements
# and their reasons. Each gets a chapter, where you first see the pain and then build the cure.
#
# | GPT-2 | GPT-OSS | why | chapter |
# |---|---|---|---|
# | 50,257 tokens | 201,088 tokens | A larger vocabulary cuts the same text into fewer tokens, so everything after it runs fewer times. | [02](02_tokens.ipynb) |
# | LayerNorm | RMSNorm ([Zhang & Sennrich, 2019](https://arxiv.org/abs/1910.07467)) | Subtracting the mean and adding a bias turned out not to be needed. | [08](08_rmsnorm.ipynb) |
# | a learned vector for each of 1,024 positions | rotary positions, RoPE ([Su et al., 2021](https://arxiv.org/abs/2104.09864)), stretched by YaRN ([Peng et al., 2023](https://arxiv.org/abs/2309.00071)) | A table ends where it ends. Turning queries and keys by an angle makes attention depend on the **distance** between tokens, and angles can be stretched to longer texts. | [09](09_rope_yarn.ipynb) |
# | every head has its own keys and values | 8 query heads share one key and value ([Ainslie et al., 2023](https://arxiv.org/abs/2305.13245)) | The KV cache shrinks by that factor, and quality hardly does. | [10](10_heads_windows.ipynb) |
# | every layer sees every token | every other layer sees 128 tokens ([Beltagy et al., 2020](https://arxiv.org/abs/2004.05150)) | Most of what a token needs is close by. The full layers carry the rest. | [10](10_heads_windows.ipynb) |
# | attention weights sum to 1 | a learned **sink** a head takes a share ([Xiao et al., 2023](https://arxiv.org/abs/2309.17453)) | A head that has nothing to say must put its weight somewhere. A sink lets it look at nothing. | [11](11_sinks.ipynb) |
# | GELU | clamped SwiGLU ([Shazeer, 2020](https://arxiv.org/abs/2002.05202)) | One half of the widened vector gates the other half, which gives a better model for the same work. | [13](13_swiglu.ipynb) |
# | one feed-forward part for all tokens | a router and 32 experts, 4 at work ([Shazeer et al., 2017](https://arxiv.org/abs/1701.06538)) | A model can know more without computing more: parameters grow, work a token does not. | [14](14_mixture_of_experts.ipynb) |
# | the head is the embedding again | a head of its own | Sharing saves one matrix. In a model of this size the matrix is a small part. | [15](15_model.ipynb) |
# | 32 bits a weight | about 4 bits for experts, MXFP4 ([Rouhani et al., 2023](https://arxiv.org/abs/2310.10537)) | Most of the file is experts. At 4 bits the model fits a laptop. | 19 |

# %% [markdown]
# ## The config
#
# What distinguishes gpt-oss-20b from gpt-oss-120b, or from the tiny model that you will train, is a list of numbers.
# Published models carry it in a file, `config.json`. You now write the class that holds it. It has three duties:
# name every number that the architecture depends on, refuse numbers that cannot work together, and read and write
# the published file.
#
# The module opens with its imports. (Cells that begin with `#| export` become the library that the later chapters
# import: this chapter becomes [`gptoss_lib.config`](../book/reference/config.md).)

# %%
#| export
"""The architecture of a GPT-OSS model as one validated object, and what that architecture costs.

Six numbers describe a GPT-2. A GPT-OSS config also says which layers look at a window only, how many of
the experts work on a token, and which biases, sinks and norms there are. The fields have Hugging Face's
names, so that a published ``config.json`` loads as it is.
"""

import json
import math
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

# %% [markdown]
# A few numbers belong together: they say how rotary positions are stretched to contexts longer than the first
# training's. [RoPE and YaRN](09_rope_yarn.ipynb) explains what they do. Here it is enough that they are either all
# there or not at all.


# %%
#| export
def _require_sizes(config, names: tuple[str, ...]) -> None:
    """Raise a ValueError unless every one of these fields is a whole number above zero."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number above zero.")


@dataclass(frozen=True)
class RopeScaling:
    """How YaRN stretches rotary positions beyond the length that a model was first trained on.

    The names are those of ``rope_scaling`` in a ``config.json``; the defaults are gpt-oss's.
    Source: https://arxiv.org/abs/2309.00071.

    Raises:
        ValueError: if a value is out of range.
    """

    factor: float = 32.0  # how many times longer the context becomes
    beta_fast: float = 32.0  # frequencies that turn more often than this are kept
    beta_slow: float = 1.0  # frequencies that turn less often than this are divided by the factor
    truncate: bool = False  # whether the ramp between the two is rounded to whole dimensions
    original_max_position_embeddings: int = 4096  # the length before stretching

    def __post_init__(self) -> None:
        _require_sizes(self, ("original_max_position_embeddings",))
        for name in ("factor", "beta_fast", "beta_slow"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)):
                raise ValueError(f"{name} is {value!r}; it must be a number.")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor!r}; YaRN lengthens a context, so make it at least 1.")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow is {self.beta_slow!r} and beta_fast is {self.beta_fast!r}; "
                "make both positive, and beta_slow the smaller one."
            )


# %% [markdown]
# Now the config itself. Two choices deserve a word. The object is frozen, so that nobody changes a model's shape
# after its layers were built. And `head_dim` is a field of its own: in gpt-oss, 64 heads of 64 numbers make 4,096,
# while a vector has 2,880. Never derive one from the other; the pitfalls below show who did.

# %%
#| export
LAYER_TYPES = ("sliding_attention", "full_attention")


@dataclass(frozen=True)
class GPTOSSConfig:
    """The architecture of one model; ``GPTOSSConfig()`` is gpt-oss-20b.

    Every field but the last five has its name from Hugging Face's ``GptOssConfig``. The last five describe
    relatives of gpt-oss that leave a part out or put one in.

    Raises:
        ValueError: if a value is out of range or two fields contradict each other.
    """

    vocab_size: int = 201_088  # V: tokens in the vocabulary
    hidden_size: int = 2880  # D: numbers that describe one token between the layers
    intermediate_size: int = 2880  # F: width inside an expert
    num_hidden_layers: int = 24
    num_attention_heads: int = 64  # H: query heads
    num_key_value_heads: int = 8  # KV: key/value heads, each shared by H / KV query heads
    head_dim: int = 64  # hd: never hidden_size / num_attention_heads
    num_local_experts: int = 32  # E: experts in a layer
    num_experts_per_tok: int = 4  # K: experts that work on one token
    sliding_window: int | None = 128  # tokens that a sliding layer sees, the newest included
    layer_types: tuple[str, ...] | None = None  # one of LAYER_TYPES a layer; None alternates, sliding first
    max_position_embeddings: int = 131_072  # longest context
    rope_theta: float = 150_000.0  # base of the rotary frequencies
    rope_scaling: RopeScaling | None = RopeScaling()  # None for plain rotary positions
    rms_norm_eps: float = 1e-5  # added under the root, so that a zero vector stays finite
    swiglu_alpha: float = 1.702  # steepness of the experts' gate
    swiglu_limit: float = 7.0  # where the experts' activations are clamped
    initializer_range: float = 0.02  # standard deviation of fresh weights
    router_aux_loss_coef: float = 0.9  # weight of the load-balancing loss
    tie_word_embeddings: bool = False  # whether the head is the embedding matrix again
    attention_bias: bool = True  # biases of q_proj, k_proj and v_proj
    attention_out_bias: bool = True  # bias of o_proj
    router_bias: bool = True  # bias of the router
    expert_bias: bool = True  # biases inside the experts
    attention_sinks: bool = True  # one learned sink a query head
    embedding_norm: str | None = None  # "layernorm": a LayerNorm right after the embedding

    def __post_init__(self) -> None:
        _require_sizes(self, tuple(f.name for f in fields(self) if f.type is int))
        kinds = self.layer_types
        if kinds is None:
            kinds = (LAYER_TYPES[index % 2] for index in range(self.num_hidden_layers))
        object.__setattr__(self, "layer_types", tuple(kinds))
        _validate(self)

    @property
    def initial_context_length(self) -> int:
        """The context length before YaRN stretched it."""
        scaling = self.rope_scaling
        return scaling.original_max_position_embeddings if scaling else self.max_position_embeddings

    @property
    def is_standard(self) -> bool:
        """Whether transformers' ``GptOssForCausalLM`` can build this architecture."""
        extras = (self.router_bias, self.expert_bias, self.attention_sinks, self.embedding_norm is None)
        return all(extras) and self.attention_out_bias == self.attention_bias

    @classmethod
    def preset(cls, name: str) -> "GPTOSSConfig":
        """Return one of :data:`PRESETS` by its name.

        Raises:
            ValueError: if there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        return PRESETS[name]

    @classmethod
    def from_json(cls, path: str | Path) -> "GPTOSSConfig":
        """Read a ``config.json``, or the one in the folder ``path``, from any version of transformers.

        Keys that say nothing about the architecture are skipped; unknown ones are named in a warning.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON, a size is missing, or it describes another architecture.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); download or copy it again.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}; a config.json holds one JSON object.")
        return cls(**_fields_from_json(values))

    def to_json(self, path: str | Path) -> None:
        """Write a ``config.json`` in the style of transformers 5, to a file or into an existing folder."""
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        path.write_text(json.dumps(_fields_to_json(self), indent=2) + "\n", encoding="utf-8")


# %% [markdown]
# Last, the refusals: the `_validate` that the config calls. A wrong config does not crash where it is wrong. It
# crashes three files later with a message about shapes, or it does not crash at all and trains a bad model. So each
# check says which value is wrong, what was expected and what to do. It is a list; skim it, and look at what it says.


# %%
#| export
def _validate(config) -> None:
    """Raise a ValueError for the first thing in ``config`` that does not fit the rest."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(message)

    c = config
    require(
        c.num_attention_heads % c.num_key_value_heads == 0,
        f"{c.num_attention_heads} query heads cannot share {c.num_key_value_heads} key/value heads evenly; "
        "make num_attention_heads a multiple of num_key_value_heads.",
    )
    require(c.head_dim % 2 == 0, f"head_dim is {c.head_dim}; rotary positions turn pairs, so make it even.")
    require(
        c.num_experts_per_tok <= c.num_local_experts,
        f"num_experts_per_tok is {c.num_experts_per_tok}, but there are only {c.num_local_experts} experts; "
        "lower it or raise num_local_experts.",
    )
    require(
        len(c.layer_types) == c.num_hidden_layers,
        f"layer_types names {len(c.layer_types)} layers, but num_hidden_layers is {c.num_hidden_layers}; "
        "name every layer, or pass layer_types=None for the alternating pattern.",
    )
    unknown = sorted(set(map(str, c.layer_types)) - set(LAYER_TYPES))
    require(not unknown, f"layer_types has {unknown}; every entry must be one of {list(LAYER_TYPES)}.")
    if LAYER_TYPES[0] in c.layer_types:
        _require_sizes(c, ("sliding_window",))
    if c.rope_scaling is not None:
        require(
            isinstance(c.rope_scaling, RopeScaling),
            f"rope_scaling is {c.rope_scaling!r}; pass a RopeScaling, or None for plain rotary positions.",
        )
        original = c.rope_scaling.original_max_position_embeddings
        require(
            original <= c.max_position_embeddings,
            f"original_max_position_embeddings is {original}, beyond max_position_embeddings "
            f"{c.max_position_embeddings}; YaRN only lengthens a context.",
        )
    for name in ("rope_theta", "rms_norm_eps", "initializer_range", "swiglu_alpha", "swiglu_limit"):
        value = getattr(c, name)
        is_number = isinstance(value, (int, float))
        require(is_number and value > 0, f"{name} is {value!r}; it must be a number above zero.")
    weight = c.router_aux_loss_coef
    require(
        isinstance(weight, (int, float)) and weight >= 0,
        f"router_aux_loss_coef is {weight!r}; the weight of a loss must be a number, and not negative.",
    )
    for name in [field.name for field in fields(c) if field.type is bool]:
        value = getattr(c, name)
        require(isinstance(value, bool), f"{name} is {value!r}; choose True or False.")
    require(
        c.embedding_norm in (None, "layernorm"),
        f"embedding_norm is {c.embedding_norm!r}; choose None or 'layernorm'.",
    )


# %% [markdown]
# This is what it says to numbers that cannot work.

# %%
for wrong in [
    {"num_key_value_heads": 7},
    {"head_dim": 45},
    {"num_experts_per_tok": 33},
    {"num_hidden_layers": 3, "layer_types": ("full_attention", "sliding_attention")},
    {"vocab_size": 201_088.0},
    {"embedding_norm": "rmsnorm"},
]:
    try:
        GPTOSSConfig(**wrong)
    except ValueError as error:
        print("•", error)

# %% [markdown]
# Reading a `config.json` is where care pays. Version 5 of transformers moved `rope_theta` and `rope_scaling` into
# one entry, `rope_parameters`; published files have either style. Some keys say nothing about the shape of the model
# (who made the file, which precision it is stored in) and are skipped. A key that nobody knows is worth a warning:
# it may be a misspelling. A missing size is an error, because the default would silently be another model's.

# %%
#| export
# What a config.json may say besides the architecture.
_OTHER_KEYS = {
    *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "quantization_config"),
    *("use_cache", "output_router_logits", "pad_token_id", "bos_token_id", "eos_token_id", "_name_or_path"),
    *("experts_per_token", "initial_context_length", "hidden_act", "attention_dropout"),
}
# Where the course's model has no choice: a key, and the values of it that mean the same architecture.
_FIXED = {"model_type": ("gpt_oss", "gpt_oss_variant"), "hidden_act": ("silu",), "attention_dropout": (0,)}
_OWN_FIELDS = ("attention_out_bias", "router_bias", "expert_bias", "attention_sinks", "embedding_norm")
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok"),
)


def _fields_from_json(values: dict) -> dict:
    """Turn what a config.json holds into the fields of a GPTOSSConfig."""
    for key, allowed in _FIXED.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} is {values[key]!r}; a GPT-OSS model has {allowed[0]!r} there.")
    missing = [name for name in _SIZES if name not in values]
    if missing:
        raise ValueError(f"The config lacks {', '.join(missing)}; a model needs every one of its sizes.")
    names = {field.name for field in fields(GPTOSSConfig)}
    unknown = sorted(set(values) - names - _OTHER_KEYS - {"rope_parameters"})
    if unknown:
        message = f"The config has keys that are not GPT-OSS's and are ignored: {', '.join(unknown)}."
        warnings.warn(message, stacklevel=3)
    kept = {name: value for name, value in values.items() if name in names}
    kept.setdefault("attention_out_bias", kept.get("attention_bias", True))
    return kept | _read_rope(values)


def _read_rope(values: dict) -> dict:
    """Read rotary positions in the old style (``rope_scaling``) and in the new one (``rope_parameters``)."""
    style = "rope_parameters" if "rope_parameters" in values else "rope_scaling"
    defaults = {"rope_type": "yarn", **asdict(RopeScaling())}
    rope = values.get(style, defaults)
    if not isinstance(rope, dict):
        raise ValueError(
            f"{style} is {rope!r}, which versions of transformers read differently; "
            'write {"rope_type": "default"} for plain rotary positions, or all of YaRN\'s numbers.'
        )
    rope = {key: value for key, value in rope.items() if value is not None}
    theta = rope.pop("rope_theta", values.get("rope_theta", GPTOSSConfig.rope_theta))
    if values.get("rope_theta", theta) != theta:
        raise ValueError(
            f"rope_theta is {values['rope_theta']!r}, but {theta!r} in {style}; keep one of them."
        )
    kind = rope.pop("rope_type", rope.pop("type", None))
    if kind == "default" and not rope:
        return {"rope_theta": theta, "rope_scaling": None}
    known = {field.name for field in fields(RopeScaling)}
    if kind != "yarn" or not rope.keys() <= known or "factor" not in rope:
        raise ValueError(
            f"{style} is {values[style]!r}; GPT-OSS has rope_type 'default', or 'yarn' with a factor "
            f"and any of {', '.join(sorted(known))}."
        )
    length = values.get("initial_context_length", RopeScaling.original_max_position_embeddings)
    rope.setdefault("original_max_position_embeddings", length)
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**rope)}


def _fields_to_json(config: GPTOSSConfig) -> dict:
    """Return what transformers 5 writes for this architecture, and the course's own fields where needed."""
    values = asdict(config)
    scaling = values.pop("rope_scaling")
    values["rope_parameters"] = {
        "rope_type": "yarn" if scaling else "default",
        "rope_theta": values.pop("rope_theta"),
        **(scaling or {}),
    }
    if config.is_standard:
        for name in _OWN_FIELDS:
            del values[name]
    return {
        "architectures": ["GptOssForCausalLM" if config.is_standard else "GPTOSS"],
        # A name that transformers does not know keeps it from building a model that lacks a part.
        "model_type": "gpt_oss" if config.is_standard else "gpt_oss_variant",
        "hidden_act": "silu",
        "initial_context_length": config.initial_context_length,
        **values,
    }


# %% [markdown]
# The presets: two published giants, three small relatives that others have published, and three sizes for this
# course. The relatives leave parts out (biases, sinks) or put one in (a LayerNorm after the embedding), which is what
# the last five fields are for. Whether a layer slides does not change how many parameters it has, so all of
# them get gpt-oss's alternating pattern. *Nano* sends each token to a single expert, as its makers did; chapter 14
# shows what its router learns from that.


# %%
#| export
def _small(
    layers: int, hidden: int, inner: int, head_dim: int, heads: tuple[int, int], vocab: int, length: int
) -> GPTOSSConfig:
    """Return one of the course's own sizes: 8 experts, 2 at work, windows of a quarter of the context."""
    return GPTOSSConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=length // 4,
        max_position_embeddings=length,
        rope_theta=10_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
    )


PRESETS = {
    "gpt-oss-20b": GPTOSSConfig(),
    "gpt-oss-120b": GPTOSSConfig(num_hidden_layers=36, num_local_experts=128),
    # Three small relatives that others have published, part for part.
    "compact": GPTOSSConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
        attention_bias=False,
        attention_out_bias=False,
        router_bias=False,
    ),
    "mini": GPTOSSConfig(
        vocab_size=100_256,
        hidden_size=512,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        rope_theta=1_000_000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
        attention_out_bias=False,
        router_bias=False,
        expert_bias=False,
        attention_sinks=False,
        embedding_norm="layernorm",
    ),
    "nano": GPTOSSConfig(
        hidden_size=1020,
        intermediate_size=1020,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=6,
        num_local_experts=4,
        num_experts_per_tok=1,
    ),
    # What the course trains: on a CPU in minutes (xs, s), and on a GPU (m).
    "xs": _small(4, 64, 96, 16, (4, 2), 2048, 128),
    "s": _small(4, 128, 160, 32, (4, 2), 4096, 256),
    "m": _small(8, 512, 672, 64, (8, 2), 8192, 512),
}

# %% [markdown]
# Try it. Below is the `config.json` that gpt-oss-20b was published with, in the old style. Reading it gives the preset.

# %%
import tempfile

published = """{
  "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "transformers_version": "4.55.0.dev0",
  "attention_bias": true, "attention_dropout": 0.0, "eos_token_id": 200002, "pad_token_id": 199999,
  "experts_per_token": 4, "num_experts_per_tok": 4, "num_local_experts": 32, "head_dim": 64, "hidden_act": "silu",
  "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
  "num_key_value_heads": 8, "sliding_window": 128, "initial_context_length": 4096,
  "max_position_embeddings": 131072, "initializer_range": 0.02, "rms_norm_eps": 1e-05, "vocab_size": 201088,
  "rope_theta": 150000, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": false, "original_max_position_embeddings": 4096},
  "router_aux_loss_coef": 0.9, "output_router_logits": false, "swiglu_limit": 7.0, "tie_word_embeddings": false,
  "use_cache": true, "quantization_config": {"quant_method": "mxfp4"}
}"""
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "config.json"
    path.write_text(published)
    config = GPTOSSConfig.from_json(path)
    print("equals the preset:", config == GPTOSSConfig.preset("gpt-oss-20b"))
    config.to_json(path)
    print("unchanged by a round trip:", GPTOSSConfig.from_json(path) == config)
    print("new style:", json.loads(path.read_text())["rope_parameters"])

# %% [markdown]
# ## Where the parameters are
#
# A model is its parameters, and each of them belongs to a matrix or a vector with a name. So the exact way to count
# is to write down every name with its shape. The names are those of the published files, so the same table will
# later tell you whether a file fits a model.


# %%
#| export
def parameter_shapes(config: GPTOSSConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its name, as in transformers' state dict.

    Letters: V vocabulary, D hidden, H query heads, KV key/value heads, hd head_dim, E experts,
    F intermediate. A tied head is the embedding again and has no entry of its own.
    """
    c = config
    V, D = c.vocab_size, c.hidden_size
    shapes = {"model.embed_tokens.weight": (V, D)}
    if c.embedding_norm:
        shapes |= {"model.embed_norm.weight": (D,), "model.embed_norm.bias": (D,)}
    for index in range(c.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in _layer_shapes(c).items()}
    shapes["model.norm.weight"] = (D,)
    if not c.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def _layer_shapes(config: GPTOSSConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one layer's parameters."""
    c = config
    D, F, E = c.hidden_size, c.intermediate_size, c.num_local_experts
    q_width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    shapes = {
        "input_layernorm.weight": (D,),
        "self_attn.sinks": (c.num_attention_heads,) if c.attention_sinks else None,
        "post_attention_layernorm.weight": (D,),
        "mlp.router.weight": (E, D),
        "mlp.router.bias": (E,) if c.router_bias else None,
        "mlp.experts.gate_up_proj": (E, D, 2 * F),
        "mlp.experts.gate_up_proj_bias": (E, 2 * F) if c.expert_bias else None,
        "mlp.experts.down_proj": (E, F, D),
        "mlp.experts.down_proj_bias": (E, D) if c.expert_bias else None,
    }
    for name, (inputs, outputs), bias in (
        ("q_proj", (D, q_width), c.attention_bias),
        ("k_proj", (D, kv_width), c.attention_bias),
        ("v_proj", (D, kv_width), c.attention_bias),
        ("o_proj", (q_width, D), c.attention_out_bias),
    ):
        shapes[f"self_attn.{name}.weight"] = (outputs, inputs)
        shapes[f"self_attn.{name}.bias"] = (outputs,) if bias else None
    return {name: shape for name, shape in shapes.items() if shape is not None}


# %%
layer = {name: shape for name, shape in parameter_shapes(config).items() if ".layers.0." in name}
for name, shape in layer.items():
    print(
        f"{name.removeprefix('model.layers.0.'):<32}{'×'.join(map(str, shape)):>16} {math.prod(shape):>13,}"
    )

# %% [markdown]
# One line dwarfs the others. In formulas, with the letters of the [notation](../book/notation.md) page, the matrices
# of one layer hold
#
# $$\underbrace{2\,D\,(H + KV)\,hd}_{\text{attention}} \qquad \underbrace{E\,D}_{\text{router}} \qquad \underbrace{3\,E\,D\,F}_{\text{experts}}$$
#
# In words: attention has four matrices between the vector and its heads, the router has one row an expert, and
# every expert has three matrices between the vector and its inner width (two to widen, one to narrow). Only the experts
# are multiplied by E. But a token meets just K of them, so two counts matter: the **total**, which must fit in memory,
# and the **active** parameters, which a token is multiplied by, and which set the work.


# %%
#| export
@dataclass(frozen=True)
class ParameterCount:
    """How many parameters each part of a model has; ``active_*`` count what one token is multiplied by."""

    embedding: int
    attention: int
    router: int
    experts: int
    norms: int
    head: int  # 0 where the head is the embedding again
    active_experts: int
    active_head: int  # V × D, tied or not: the token is multiplied by it

    @property
    def total(self) -> int:
        """All parameters that the model stores."""
        return self.embedding + self.body + self.head

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied by: without the embedding, which is only looked up."""
        return self.active_body + self.active_head

    @property
    def body(self) -> int:
        """Everything but the embedding and the head."""
        return self.attention + self.router + self.experts + self.norms

    @property
    def active_body(self) -> int:
        """The part of the body that works on one token."""
        return self.body - self.experts + self.active_experts


_PARTS = {
    "embed_tokens": "embedding",
    ".self_attn.": "attention",
    ".router.": "router",
    ".experts.": "experts",
    "norm": "norms",
    "lm_head": "head",
}


def count_parameters(config: GPTOSSConfig) -> ParameterCount:
    """Count the parameters of every part, exactly.

    "Active" follows OpenAI's model card (https://arxiv.org/abs/2508.10925): the head counts, the input
    embedding does not, and of E experts those K that a token is sent to.
    """
    counts = dict.fromkeys(_PARTS.values(), 0)
    for name, shape in parameter_shapes(config).items():
        part = next(part for piece, part in _PARTS.items() if piece in name)
        counts[part] += math.prod(shape)
    return ParameterCount(
        **counts,
        active_experts=counts["experts"] // config.num_local_experts * config.num_experts_per_tok,
        active_head=config.vocab_size * config.hidden_size,
    )


# %%
count = count_parameters(config)
for part in ("embedding", "attention", "router", "experts", "norms", "head"):
    print(f"{part:>9} {getattr(count, part):>15,} {100 * getattr(count, part) / count.total:6.2f} %")
print(f"{'total':>9} {count.total:>15,}")
print(f"{'active':>9} {count.active:>15,} {100 * count.active / count.total:6.2f} %")

# %% [markdown]
# Nine tenths and more of the model are experts, and a token is multiplied by about a sixth of the model. The figure
# shows the same for four sizes. The smaller a model, the more of it is vocabulary, which is why the small ones
# tie the head to the embedding.

# %% tags=["hide-input"]
PART_COLORS = {"embedding": "grey", "attention": "violet", "experts": "blue", "head": "green"}


def active_parts(count):
    return {
        "embedding": 0,
        "attention": count.attention,
        "experts": count.active_experts,
        "head": count.active_head,
    }


fig, axes = new_figure(8.4, 4.2, nrows=4, sharex=True)
for ax, name in zip(axes, ["gpt-oss-120b", "gpt-oss-20b", "compact", "s"], strict=True):
    count = count_parameters(GPTOSSConfig.preset(name))
    bars = [{part: getattr(count, part) for part in PART_COLORS}, active_parts(count)]
    for row, parts in enumerate(bars):
        left = 0
        for part, color in PART_COLORS.items():
            width = 100 * parts[part] / count.total
            ax.barh(row, width, left=left, color=COLORS[color], height=0.72, label=part if row == 0 else None)
            left += width
        number = (count.total, count.active)[row]
        unit = f"{number / 1e9:.1f} B" if number > 1e9 else f"{number / 1e6:.1f} M"
        ax.text(left + 1, row, unit, va="center", fontsize=9)
    ax.set(yticks=[0, 1], yticklabels=["total", "active"], ylim=(1.6, -0.6), xlim=(0, 112))
    ax.set_title(name, loc="left", fontsize=10)
    ax.grid(axis="y", visible=False)
axes[-1].set_xlabel("percent of all parameters")
axes[0].legend(ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.02), fontsize=9)
show(
    fig,
    alt="Two bars a model, total and active parameters in percent of the total. In gpt-oss-120b and 20b nearly the whole total is experts, and the active bar is a small part of it. In compact and s, embedding and head are a larger share, and the active bar is a third to a half of the total.",
)

# %% [markdown]
# GPT-2 has no experts, so all of it works on every token. Its count is short enough for one function. The options
# are there because others have built GPT-2 with a separate head and without biases on queries, keys and values.


# %%
#| export
def gpt2_parameters(
    vocab_size: int = 50_257,
    n_positions: int = 1024,
    n_embd: int = 768,
    n_layer: int = 12,
    n_inner: int | None = None,
    tie_word_embeddings: bool = True,
    qkv_bias: bool = True,
) -> int:
    """Count the parameters of a GPT-2; the defaults are the smallest one that OpenAI published.

    Args:
        n_inner: width of the feed-forward part, ``4 * n_embd`` where None.
        tie_word_embeddings: whether the head is the embedding matrix again, as in OpenAI's models.
        qkv_bias: whether queries, keys and values have biases, as in OpenAI's models.
    """
    D, F = n_embd, n_inner or 4 * n_embd
    attention = 3 * D * D + D * D + (3 * D if qkv_bias else 0) + D
    feed_forward = D * F + F + F * D + D
    layer_norm = 2 * D  # a weight and a bias
    layer = attention + feed_forward + 2 * layer_norm
    embeddings = vocab_size * D * (1 if tie_word_embeddings else 2) + n_positions * D
    return embeddings + n_layer * layer + layer_norm


# %%
for name, size in {
    "GPT-2": {},
    "GPT-2 medium": {"n_embd": 1024, "n_layer": 24},
    "GPT-2 large": {"n_embd": 1280, "n_layer": 36},
    "GPT-2 XL": {"n_embd": 1600, "n_layer": 48},
}.items():
    print(f"{name:<13} {gpt2_parameters(**size):>13,}")

# %% [markdown]
# ## Where the work is
#
# Work is counted in **FLOPs**, floating-point operations: multiplications and additions of numbers. Multiplying a
# vector by a matrix takes one multiplication and one addition for each number in the matrix. So a token costs
#
# $$\text{forward} \approx 2\,N_\text{active} + 4\,H\,hd \sum_{\text{layers}} (\text{tokens seen})$$
#
# In words: two operations for every active weight, and on top of that, in every layer and head, a product of $hd$ numbers
# with each key it sees and another with each value. The first term does not depend on the context. The second grows with
# it, but in a sliding layer only until the window is full. Training costs three times as much: the backward
# pass needs two products for each product of the forward pass
# ([Kaplan et al., 2020](https://arxiv.org/abs/2001.08361)).


# %%
#| export
@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations that one token costs in each part's matrix products (forward pass)."""

    projections: int  # q_proj, k_proj, v_proj and o_proj
    attention: float  # scores, and the weighted sum of values
    router: int
    experts: int
    head: int

    @property
    def forward(self) -> float:
        """The whole forward pass."""
        return self.projections + self.attention + self.router + self.experts + self.head

    @property
    def training(self) -> float:
        """Forward and backward: the backward pass makes two products for each one of the forward pass."""
        return 3 * self.forward


def visible_tokens(config: GPTOSSConfig, context_length: int) -> list[int]:
    """Return for every layer how many tokens the newest of ``context_length`` sees, itself included.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    if not isinstance(context_length, int) or context_length < 1:
        raise ValueError(f"context_length is {context_length!r}; it must be a whole number above zero.")
    reach = {"full_attention": context_length, "sliding_attention": config.sliding_window or context_length}
    return [min(context_length, reach[kind]) for kind in config.layer_types]


def flops_per_token(config: GPTOSSConfig, context_length: int, mean: bool = False) -> FlopCount:
    """Count the FLOPs of one token: 2 for each weight that multiplies it, 4 × H × hd for each token it sees.

    Norms, activations, biases and softmax are left out, as is usual. Together they are far below one percent,
    but for softmax at long contexts: a few operations for each token seen, beside the 4 × hd counted here.

    Args:
        context_length: tokens in the context, the newest included.
        mean: False for the newest token, which is what generating it costs; True for the mean over all
            tokens of a sequence of that length, which is what training on it costs.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    c = config
    seen = visible_tokens(c, context_length)
    if mean:  # token t sees t tokens until its window w is full: w(w + 1) / 2 in all, then w each
        seen = [(w * (w + 1) / 2 + (context_length - w) * w) / context_length for w in seen]
    L, D, K = c.num_hidden_layers, c.hidden_size, c.num_experts_per_tok
    q_width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return FlopCount(
        projections=2 * L * (2 * D * q_width + 2 * D * kv_width),
        attention=4 * q_width * sum(seen),
        router=2 * L * D * c.num_local_experts,
        experts=2 * L * K * 3 * D * c.intermediate_size,
        head=2 * D * c.vocab_size,
    )


# %%
print(
    f"{'context':>9} {'projections':>12} {'attention':>10} {'experts':>8} {'head':>6} {'forward':>8}   GFLOPs a token"
)
for length in (1, 128, 4_096, 32_768, 131_072):
    cost = flops_per_token(config, length)
    parts = (cost.projections, cost.attention, cost.experts, cost.head, cost.forward)
    print(
        f"{length:>9,} {parts[0] / 1e9:>12.2f} {parts[1] / 1e9:>10.2f} {parts[2] / 1e9:>8.2f} {parts[3] / 1e9:>6.2f} {parts[4] / 1e9:>8.2f}"
    )

# %% tags=["hide-input"]
from dataclasses import replace

lengths = [2**power for power in range(7, 18)]
full = replace(config, layer_types=("full_attention",) * config.num_hidden_layers)
fig, ax = new_figure(7, 3.2)
weights = [flops_per_token(config, n).forward - flops_per_token(config, n).attention for n in lengths]
ax.fill_between(lengths, [w / 1e9 for w in weights], color=COLORS["blue"], alpha=0.25, linewidth=0)
for model, color, label in [
    (full, "orange", "every layer full"),
    (config, "blue", "every other layer sliding"),
]:
    ax.plot(
        lengths, [flops_per_token(model, n).forward / 1e9 for n in lengths], color=COLORS[color], label=label
    )
ax.text(150, 2.6, "the weights: the same at any context", fontsize=9)
ax.set(xscale="log", xlabel="tokens in the context", ylabel="GFLOPs for the next token", ylim=(0, None))
ax.set_xticks([128, 1024, 8192, 131_072], ["128", "1,024", "8,192", "131,072"])
ax.minorticks_off()
ax.legend(loc="upper left")
show(
    fig,
    alt="GFLOPs for the next token of gpt-oss-20b against context length on a log scale. Up to a few thousand tokens the weights are nearly everything. At 131,072 tokens attention is several times the weights, and half of that with sliding layers.",
)

# %% [markdown]
# For short texts the weights are the cost. For very long ones attention is, and sliding layers halve it.

# %% [markdown]
# ## Where the bytes are
#
# Two things must fit in memory: the weights, and the KV cache of the text that is being read and written.
#
# **Weights** take as many bytes as their precision says. gpt-oss is published in a mixture: the experts' matrices in
# MXFP4, all the rest in bf16 (two bytes). MXFP4 packs 32 numbers of four bits with one shared scale of eight bits: 17
# bytes for 32 numbers, or 4.25 bits each. Chapter 19 builds it.
#
# **The KV cache** keeps, for every token and every layer, one key and one value for each of the KV heads:
#
# $$\text{KV cache} = 2 \cdot KV \cdot hd \cdot \text{bytes} \cdot \sum_{\text{layers}} \text{tokens kept}$$
#
# In words: twice (key and value) the heads' numbers, for every token that a layer still needs. A sliding layer never
# looks back beyond its window, so the rest can be dropped.

# %%
#| export
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def weight_bytes(config: GPTOSSConfig, precision: str = "bf16") -> int:
    """Return how many bytes the weights take.

    ``fp32`` and ``bf16`` store every parameter in 4 or 2 bytes. ``int8`` stores matrices in one byte a
    number and vectors (biases, norms, sinks) in bf16; its scales, one a row at most, are left out.
    ``mxfp4`` is how gpt-oss is published: the experts' matrices in blocks of 32 four-bit numbers with one
    eight-bit scale (17 bytes a block, along the input), all the rest in bf16.

    Raises:
        ValueError: if ``precision`` is none of these.
    """
    if precision not in (*_BYTES, "mxfp4"):
        raise ValueError(f"precision is {precision!r}; choose fp32, bf16, int8 or mxfp4.")
    total = 0
    for name, shape in parameter_shapes(config).items():
        if precision == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = shape
            total += experts * outputs * math.ceil(inputs / 32) * 17
        elif precision == "mxfp4" or (precision == "int8" and (len(shape) == 1 or name.endswith("bias"))):
            total += math.prod(shape) * 2
        else:
            total += math.prod(shape) * _BYTES[precision]
    return total


def kv_cache_bytes(
    config: GPTOSSConfig,
    context_length: int,
    batch_size: int = 1,
    bytes_per_value: int = 2,
    sliding: bool = True,
) -> int:
    """Return how many bytes the keys and values of a context take.

    Args:
        context_length: tokens in the context.
        batch_size: how many contexts are kept at once.
        bytes_per_value: 2 for bf16, 4 for fp32.
        sliding: True where a sliding layer keeps its window only; False for a cache that keeps every token
            in every layer, as many programs do.

    Raises:
        ValueError: if ``context_length`` is not a whole number above zero.
    """
    kept = visible_tokens(config, context_length)
    if not sliding:
        kept = [context_length] * config.num_hidden_layers
    # One key and one value for every key/value head.
    per_token = 2 * config.num_key_value_heads * config.head_dim * bytes_per_value
    return batch_size * per_token * sum(kept)


# %%
for name in ("gpt-oss-20b", "gpt-oss-120b"):
    sizes = {p: weight_bytes(GPTOSSConfig.preset(name), p) for p in ("fp32", "bf16", "int8", "mxfp4")}
    print(f"{name:<13}", "  ".join(f"{p} {size / 1e9:6.1f} GB" for p, size in sizes.items()))
print(f"gpt-oss-20b as published: {weight_bytes(config, 'mxfp4'):,} bytes")

# %% tags=["hide-input"]
fig, axes = new_figure(8.2, 2.9, ncols=2)
for ax, name, device, room in zip(
    axes, ["gpt-oss-20b", "gpt-oss-120b"], ["a 16 GB laptop", "an 80 GB GPU"], [16, 80], strict=True
):
    model = GPTOSSConfig.preset(name)
    for row, precision in enumerate(["fp32", "bf16", "int8", "mxfp4"]):
        size = weight_bytes(model, precision) / 1e9
        ax.barh(row, size, color=COLORS["blue" if size <= room else "grey"], height=0.62)
        ax.text(max(size, room) + room * 0.08, row, f"{size:.1f}", va="center", fontsize=9)
    ax.axvline(room, color=COLORS["red"], linestyle="--", linewidth=1.4)
    ax.text(room * 1.1, 3.72, device, color=COLORS["red"], fontsize=9, va="center")
    ax.set(
        yticks=range(4),
        yticklabels=["fp32", "bf16", "int8", "MXFP4"],
        ylim=(4.05, -0.5),
        xlabel="GB of weights",
    )
    ax.set(title=name, xlim=(0, weight_bytes(model, "fp32") / 1e9 * 1.18))
    ax.grid(axis="y", visible=False)
show(
    fig,
    alt="GB of weights by precision. gpt-oss-20b fits into 16 GB and gpt-oss-120b into 80 GB in MXFP4 only; fp32, bf16 and int8 are beyond the dashed line in both panels.",
)

# %% [markdown]
# In four bits, and only there, the smaller model fits 16 GB and the larger one a single 80 GB GPU, which is what
# [its makers promise](https://github.com/openai/gpt-oss). Note that the file is not a quarter of the bf16 one, since
# embedding, attention and head keep their two bytes.
#
# Now the cache. A sliding layer and a full layer differ in what each token sees, and so in what must be kept:

# %% tags=["hide-input"]
fig, axes = new_figure(6.6, 3.0, ncols=2)
tokens, window = 11, 4
for ax, title, reach in zip(
    axes, ["full layer", f"sliding layer, window {window}"], [tokens, window], strict=True
):
    for query in range(tokens):
        for key in range(tokens):
            seen = 0 <= query - key < reach
            newest = query == tokens - 1 and seen
            ax.add_patch(
                Rectangle(
                    (key + 0.06, query + 0.06),
                    0.88,
                    0.88,
                    linewidth=0,
                    facecolor=COLORS["blue" if newest else "grey"],
                    alpha=1.0 if newest else 0.65 if seen else 0.12,
                )
            )
    ax.set(xlim=(0, tokens), ylim=(tokens, 0), aspect="equal", xticks=[], yticks=[], title=title)
    ax.set(xlabel="looks at token →", ylabel="token ↓")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
show(
    fig,
    alt="Two grids of who sees whom. In a full layer every token sees itself and all earlier ones, a triangle. In a sliding layer it sees itself and three earlier ones, a band. The newest token's row is blue: eleven cells in the full layer, four in the sliding one. Only those need to be in the cache.",
)

# %% [markdown]
# The blue cells are what the newest token looks at, and what the cache has to hold for it. Two ideas of GPT-OSS shrink
# the cache: keys and values that are shared between heads, and windows.

# %% tags=["hide-input"]
own_heads = replace(config, num_key_value_heads=config.num_attention_heads)
lines = [
    ("every head has its own keys and values", "orange", own_heads, False),
    ("8 query heads share one", "violet", config, False),
    ("… and every other layer keeps 128 tokens", "blue", config, True),
]
fig, ax = new_figure(7, 3.4)
for label, color, model, sliding in lines:
    size = [kv_cache_bytes(model, n, sliding=sliding) / 1e9 for n in lengths]
    ax.plot(lengths, size, color=COLORS[color], label=label, marker="o", markersize=3)
    ax.annotate(
        f"{size[-1]:.1f} GB", (lengths[-1], size[-1]), (6, -3), textcoords="offset points", fontsize=9
    )
ax.axhline(weight_bytes(config, "mxfp4") / 1e9, color=COLORS["grey"], linestyle="--", linewidth=1.3)
ax.text(140, weight_bytes(config, "mxfp4") / 1e9 * 1.12, "the weights, MXFP4", fontsize=9)
ax.set(
    xscale="log",
    yscale="log",
    xlabel="tokens in the context",
    ylabel="GB of KV cache (bf16)",
    xlim=(110, 330_000),
)
ax.set_xticks([128, 1024, 8192, 131_072], ["128", "1,024", "8,192", "131,072"])
ax.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
ax.minorticks_off()
ax.legend(loc="lower right", fontsize=9)
show(
    fig,
    alt="KV cache of gpt-oss-20b against context length, both on log scales. With own keys and values for every head it reaches 51.5 GB at 131,072 tokens, several times the weights. Sharing divides it by eight, and sliding layers halve it again.",
)

# %% [markdown]
# Sharing divides the cache by eight at any length. Windows halve it, once the text is much longer than the window.
# Together they bring the longest context from several times the weights to a quarter of them.

# %% [markdown]
# ## Try it
#
# Move the sliders. The first changes the model, the second the context. Watch which number moves with which slider:
# weights do not care about the context, and the cache does not care about the experts.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore


def in_units(value, unit, prefixes="TGMk"):
    for size, prefix in zip((1e12, 1e9, 1e6, 1e3), prefixes, strict=True):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def bar_row(label, parts, text):
    pieces = "".join(
        f'<span style="display:inline-block;height:0.9em;width:{max(share, 0.004) * 100:.1f}%;background:{COLORS[color]}"></span>'
        for color, share in parts
        if share > 0
    )
    return (
        f'<tr><td style="padding:2px 8px 2px 0;white-space:nowrap">{label}</td>'
        f'<td style="width:55%;white-space:nowrap;font-size:0.9em;line-height:1">{pieces}</td>'
        f'<td style="padding-left:8px;text-align:right;white-space:nowrap">{text}</td></tr>'
    )


def costs(name, length):
    length = int(length.replace(",", ""))
    model = GPTOSSConfig.preset(name)
    count, flops = count_parameters(model), flops_per_token(model, length)
    cache, kept_whole = kv_cache_bytes(model, length), kv_cache_bytes(model, length, sliding=False)
    sizes = {p: weight_bytes(model, p) for p in ("bf16", "int8", "mxfp4")}
    parts = {part: getattr(count, part) / count.total for part in PART_COLORS}
    active = {part: value / count.total for part, value in active_parts(count).items()}
    work = {"attention": flops.projections + flops.attention, "experts": flops.experts, "head": flops.head}
    rows = [
        bar_row(
            "parameters", [(PART_COLORS[p], v) for p, v in parts.items()], in_units(count.total, "", "TBMk")
        ),
        bar_row(
            "active", [(PART_COLORS[p], v) for p, v in active.items()], in_units(count.active, "", "TBMk")
        ),
        bar_row(
            "next token",
            [(PART_COLORS[p], v / flops.forward) for p, v in work.items()],
            in_units(flops.forward, "FLOPs"),
        ),
        *(
            bar_row(f"weights, {p}", [("blue", v / sizes["bf16"])], in_units(v, "B"))
            for p, v in sizes.items()
        ),
        bar_row("KV cache, windows", [("violet", cache / kept_whole)], in_units(cache, "B")),
        bar_row("KV cache, all kept", [("violet", 1)], in_units(kept_whole, "B")),
    ]
    legend = " ".join(f'<span style="color:{COLORS[c]}">■</span> {p}' for p, c in PART_COLORS.items())
    beyond = (
        f" · made for up to {model.max_position_embeddings:,} tokens"
        if length > model.max_position_embeddings
        else ""
    )
    return (
        f'<table style="width:100%;max-width:620px;border:0">{"".join(rows)}</table><p>{legend}{beyond}</p>'
    )


explore(
    costs,
    {"model": list(PRESETS), "context": ["128", "1,024", "4,096", "8,192", "32,768", "131,072"]},
    start={"model": "gpt-oss-20b", "context": "4,096"},
)

# %% [markdown]
# ## Reality check
#
# Exact claims want exact tests. First, the table in OpenAI's model card
# ([OpenAI, 2025](https://arxiv.org/abs/2508.10925), table 1), in billions and GiB ($2^{30}$ bytes). The row "MLP" is
# our router and experts. Each number of ours is rounded to the digits that the card prints.

# %%
card = {
    "gpt-oss-120b": {
        "MLP": "114.71",
        "attention": "0.96",
        "embed + unembed": "1.16",
        "active": "5.13",
        "total": "116.83",
        "GiB": "60.8",
    },
    "gpt-oss-20b": {
        "MLP": "19.12",
        "attention": "0.64",
        "embed + unembed": "1.16",
        "active": "3.61",
        "total": "20.91",
        "GiB": "12.8",
    },
}
for name, rows in card.items():
    model = GPTOSSConfig.preset(name)
    count = count_parameters(model)
    ours = {
        "MLP": (count.router + count.experts) / 1e9,
        "attention": count.attention / 1e9,
        "embed + unembed": (count.embedding + count.head) / 1e9,
        "active": count.active / 1e9,
        "total": count.total / 1e9,
        "GiB": weight_bytes(model, "mxfp4") / 2**30,
    }
    for row, printed in rows.items():
        decimals = len(printed.split(".")[1])
        print(
            f"{name:<13} {row:<16} card {printed:>7}   ours {ours[row]:>8.3f}   {f'{ours[row]:.{decimals}f}' == printed}"
        )

# %% [markdown]
# Second, the sizes that others have published for small relatives, to the last parameter. For such a number to come
# out, every bias and every sink must be counted right. *Nano* and its GPT-2 partner are from
# [nano-gpt-oss](https://github.com/VizuaraAI/nano-gpt-oss); the partner has 4,000 positions, a head of its own
# and no biases on queries, keys and values.

# %%
for name, published_count in {"compact": 202_934_088, "mini": 73_369_088, "nano": 588_490_284}.items():
    count = count_parameters(GPTOSSConfig.preset(name))
    print(
        f"{name:<8} {count.total:>12,}  as published: {count.total == published_count}   active {count.active:>12,}"
    )
partner = gpt2_parameters(201_088, 4_000, 1_020, 12, tie_word_embeddings=False, qkv_bias=False)
print(
    f"{'partner':<8} {partner:>12,}  as published: {partner == 564_241_560}   active {partner - (201_088 + 4_000) * 1_020:>12,}"
)

# %% [markdown]
# The last column is worth a look. "A GPT-OSS and a GPT-2 of the same size" says nothing until you say which size:
# with nearly the same total, one of the two multiplies each token by far fewer parameters. Chapter 17 makes the fair
# comparison, and matches both counts in turn.
#
# Third, the whole table of names and shapes. The course's tests build `transformers`' own model on PyTorch's meta device
# (shapes without memory) for gpt-oss-20b, gpt-oss-120b and an oddly shaped small one, and compare every name and
# every shape. They also run the small one under PyTorch's FLOP counter and compare the count part by part. If you have
# `transformers` installed, you can look for yourself.

# %% tags=["nbval-ignore-output"]
import importlib.util

theirs = None
if importlib.util.find_spec("transformers"):
    from transformers import GptOssConfig, GptOssForCausalLM

    with torch.device("meta"):
        reference = GptOssForCausalLM(GptOssConfig(num_hidden_layers=24, num_local_experts=32))
    theirs = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    print(len(theirs), "tensors, all names and shapes equal:", theirs == parameter_shapes(config))
else:
    print(
        "transformers is not installed here; tests/parity/test_config_transformers.py makes this comparison."
    )

# %%
assert theirs in (None, parameter_shapes(config))

# %% [markdown]
# ## What gpt-oss-20b uses
#
# The model in numbers, all of them from the functions of this chapter.

# %%
count, longest = count_parameters(config), config.max_position_embeddings
facts = {
    "vocabulary": f"{config.vocab_size:,} tokens",
    "residual stream": f"{config.hidden_size:,} numbers a token",
    "layers": f"{config.num_hidden_layers}, of which {config.layer_types.count('sliding_attention')} slide over {config.sliding_window} tokens",
    "attention": f"{config.num_attention_heads} query heads, {config.num_key_value_heads} key/value heads of {config.head_dim}",
    "experts": f"{config.num_local_experts} a layer, {config.num_experts_per_tok} at work, {config.intermediate_size:,} wide",
    "context": f"{longest:,} tokens, {config.rope_scaling.factor:.0f} × {config.initial_context_length:,}",
    "parameters": f"{count.total:,}, {count.active:,} active",
    "weights": f"{weight_bytes(config, 'mxfp4') / 1e9:.2f} GB as published, {weight_bytes(config) / 1e9:.2f} GB in bf16",
    "a token": f"{flops_per_token(config, 4096).forward / 1e9:.1f} GFLOPs at 4,096 tokens, {flops_per_token(config, longest).forward / 1e9:.1f} at the longest context",
    "KV cache": f"{kv_cache_bytes(config, longest) / 1e9:.2f} GB at the longest context, {kv_cache_bytes(config, longest, sliding=False) / 1e9:.2f} without windows",
}
for name, fact in facts.items():
    print(f"{name:>15}: {fact}")

# %% [markdown]
# ## Pitfalls
#
# Config and arithmetic look harmless. Each of these was a real bug in software that people rely on.
#
# **`head_dim` derived from `hidden_size`.** A training library computed gpt-oss's FLOPs with 2880 // 64 = 45 instead
# of 64 and understated them by 6.6 % ([NeMo Automodel #3091](https://github.com/NVIDIA-NeMo/Automodel/pull/3091)). Its
# report gives both numbers, for one sequence of 4,096 tokens. It leaves the router out; without ours, you get the
# same, to the last digit.

# %%
cost = flops_per_token(config, 4096, mean=True)
for head_dim in (64, 45):
    in_heads = (cost.projections + cost.attention) * head_dim / 64
    total = 3 * 4096 * (in_heads + cost.experts + cost.head)
    print(f"head_dim {head_dim}: {total / 1e12:.12f} TFLOPs")

# %% [markdown]
# **`rope_theta` read from where it used to be.** Since transformers 5 it lives in `rope_parameters`. Code that asks
# for it at the top level with a default gets the default, for every model, without an error
# ([DeepSpeed #8345](https://github.com/deepspeedai/DeepSpeed/pull/8345)). `from_json` reads both places and refuses
# a file in which they disagree.
#
# **`"rope_scaling": null`.** You would read it as "no scaling". transformers 5 fills in gpt-oss's YaRN numbers instead.
# So `from_json` asks you to say what you mean, and `to_json` always writes it out.
#
# **Packed weights counted as parameters.** In an MXFP4 file two weights share a byte and every block has a scale. A
# counter that adds up the tensors' elements takes scales for weights
# ([huggingface.js #2323](https://github.com/huggingface/huggingface.js/pull/2323)). Count from the config.
#
# **A cache that is smaller on paper.** `kv_cache_bytes` is what a sliding layer *needs*. Programs that give every
# layer the same room use what `sliding=False` says. An estimator had promised the smaller number to people whose
# program took the larger ([hf-mem #70](https://github.com/alvarobartt/hf-mem/pull/70)). These are its two numbers, for 32
# texts of 8,192 tokens:

# %%
for sliding in (True, False):
    size = kv_cache_bytes(config, 8192, batch_size=32, sliding=sliding)
    print(f"windows used: {sliding!s:<5}  {size / 2**30:5.2f} GiB")

# %% [markdown]
# **Sizes that are labelled wrongly.** GPT-2 was first announced with 117 million parameters; it has 124 million
# ([openai/gpt-2](https://github.com/openai/gpt-2) owns up to it). A GB is $10^9$ bytes and a GiB is $2^{30}$, seven percent
# more, and many tables print one and mean the other. The third exercise finds both a wrong unit and a wrong
# precision in a published table.

# %% [markdown]
# ## Exercises
#
# In [exercises/01_map.ipynb](exercises/01_map.ipynb):
#
# 1. **What fits.** Given a model, a precision and a machine's memory: how long a text can it hold?
# 2. **Count from a file.** Given only the names and shapes in a checkpoint, find total and active parameters.
# 3. **Audit a published table.** It says that a GPT-OSS takes less disk than a GPT-2 that has fewer parameters. Find out why.
# 4. **Design a model.** Spend a budget of parameters, work and memory on a config of your own.
#
# ## Summary
#
# - A decoder-only language model takes tokens and gives, after every token, a distribution over the next one. Text is
#   written by drawing from it again and again.
# - Embedding, layers of attention and feed-forward parts that add to a residual stream, head: GPT-2 and GPT-OSS share
#   that skeleton and little else.
# - Total parameters decide what fits; active parameters and the context decide the work; shared keys and windows
#   decide the cache; the precision of the experts decides the file.
# - `GPTOSSConfig` describes every model of the course, reads published files, and refuses what cannot work.
#   `count_parameters`, `flops_per_token`, `weight_bytes` and `kv_cache_bytes` say what it costs.
#
# Next: [Tokens](02_tokens.ipynb), where text becomes numbers.
#
# ## Further reading
#
# - [gpt-oss-120b & gpt-oss-20b Model Card](https://arxiv.org/abs/2508.10925) (OpenAI, 2025): the architecture in two pages.
# - [openai/gpt-oss](https://github.com/openai/gpt-oss): the reference implementation; its `gpt_oss/torch/model.py` is short and readable.
# - [Attention Is All You Need](https://arxiv.org/abs/1706.03762) (Vaswani et al., 2017): where the skeleton comes from.
# - [Scaling Laws for Neural Language Models](https://arxiv.org/abs/2001.08361) (Kaplan et al., 2020): the FLOPs formulas, section 2.1.
