# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The model
#
# You have built every part of GPT-OSS and tested each one alone. This chapter puts them together, and then keeps the promise of the whole course: give this model and Hugging Face's the same weights and the same tokens, and they give the same logits and the same gradients, down to the rounding of 32-bit numbers.
#
# **You will**
#
# - wire norm, attention, experts and stream into a block, and blocks into a model whose parameters have the published names;
# - see what each token can know of the others when windows and full layers take turns;
# - compute the loss of a 200,000-token vocabulary without ever storing all logits;
# - choose fresh weights that keep the stream in bounds at any depth, and teach the model a paragraph by heart in seconds;
# - turn the step that writes one token into a compiled program;
# - check the model against `transformers`, and find a planted bug by comparing streams, layer by layer.
#
# **Time:** 90 minutes. **Hardware:** any CPU; the chapter runs in about a minute, half of which is a compiler at work.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# Seven chapters, seven parts, each compared with its reference. Is a model made of right parts right? No. Parts can be wired wrongly, and the list of wires is longer than it looks: what reads the raw stream and what reads a normalized copy; which of two norms comes where; which layers have a window; who turns queries and keys, and by which positions; whether the head is the embedding again; what the cache believes about the text so far. Every shape fits in most of the wrong ways too.
#
# And a wrong model still talks. In August 2026 someone compared, layer by layer, what [TransformerLens](https://github.com/TransformerLensOrg/TransformerLens/issues/1618) computed for gpt-oss-20b with the very model that it wraps. It had loaded without a warning. The streams differed from the first layer on, and in the middle of the stack they pointed in unrelated directions.
#
# So this chapter has two halves: build the model, which is short, and prove it, which is the point.
#
# Here is what changes from [GPT-2](05_gpt2.ipynb), part by part:
#
# | | GPT-2 | GPT-OSS | chapter |
# |---|---|---|---|
# | norm | LayerNorm | RMSNorm | [RMSNorm](08_rmsnorm.ipynb) |
# | position | a learned vector, added once | queries and keys are turned, in every layer | [RoPE and YaRN](09_rope_yarn.ipynb) |
# | heads | each has its own keys and values | eight share one head of keys and values | [Heads and windows](10_heads_windows.ipynb) |
# | what a head sees | all of the past | in every second layer, the last 128 tokens only | [Heads and windows](10_heads_windows.ipynb) |
# | looking at nothing | impossible | its sink takes the probability | [Sinks](11_sinks.ipynb) |
# | memory while generating | keys and values of all tokens in all layers | rings in layers with a window | [KV cache](12_kv_cache.ipynb) |
# | activation | GELU | clamped SwiGLU | [SwiGLU](13_swiglu.ipynb) |
# | MLP | one | 32, of which 4 work on a token | [Mixture of experts](14_mixture_of_experts.ipynb) |
# | head | the embedding again | a matrix of its own | this one |
#
# What does *not* change: a stream of vectors, one a token, and blocks that read it and add to it.

# %% [markdown]
# ## The whole model in one picture

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, ax = new_figure(7.6, 5.2)
box(ax, 0.7, 0.7, 2.4, 0.7, "embed_tokens", "grey")
for row in range(4):
    kind, color = (("window", "blue"), ("full", "green"))[row % 2]
    box(ax, 0.7, 1.9 + 1.05 * row, 2.4, 0.75, f"layers.{row}: {kind}", color)
gaps = [(0.55, 0.7), (1.4, 1.9), *((2.65 + 1.05 * row, 2.95 + 1.05 * row) for row in range(3))]
gaps += [(5.8, 6.1), (6.6, 6.85), (7.6, 7.85), (8.45, 8.6)]
for bottom, top in gaps:
    ax.plot((1.9, 1.9), (bottom, top), color=COLORS["grey"], lw=1.3)
arrow(ax, (1.9, 9.2), (1.9, 9.6))
ax.text(1.9, 6.35, "…", ha="center", va="center", fontsize=14)
box(ax, 0.7, 6.85, 2.4, 0.75, "layers.23: full", "green")
box(ax, 0.7, 7.85, 2.4, 0.6, "norm", "grey")
box(ax, 0.7, 8.6, 2.4, 0.6, "lm_head", "grey")
ax.text(1.9, 0.35, "token ids  [B, T]", ha="center", va="center")
ax.text(1.9, 9.8, "logits  [B, T, V]", ha="center", va="center")

for y in (1.9, 2.65):  # the magnifying glass
    ax.plot((3.15, 4.0), (y, 0.85 if y == 1.9 else 9.0), color=COLORS["grey"], lw=0.8, ls=":")
arrow(ax, (4.5, 0.6), (4.5, 9.4), linewidth=2.2)
ax.text(4.5, 0.35, "the stream  [B, T, D]", ha="center", va="center")
halves = (
    (
        1.0,
        "input_layernorm",
        "self_attn",
        "q_proj  k_proj  v_proj\nrotation, window, sinks\no_proj",
        "blue",
    ),
    (
        5.2,
        "post_attention_layernorm",
        "mlp",
        "router\nexperts.gate_up_proj\nexperts.down_proj",
        "orange",
    ),
)
for y, norm, part, inside, color in halves:
    arrow(ax, (4.5, y + 0.4), (5.35, y + 0.4))
    box(ax, 5.35, y, 4.4, 0.8, norm, "grey")
    arrow(ax, (7.55, y + 0.8), (7.55, y + 1.2))
    box(ax, 5.35, y + 1.2, 4.4, 1.75, f"{part}\n{inside}", color, fontsize=9)
    ax.plot((7.55, 7.55), (y + 2.95, y + 3.35), color=COLORS["grey"], lw=1.3)
    arrow(ax, (7.55, y + 3.35), (4.68, y + 3.35))
    ax.text(4.5, y + 3.35, "+", ha="center", va="center", fontsize=13, fontweight="bold")
ax.set(xlim=(0.3, 10), ylim=(0, 10.1), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="Left: the whole model. A line, the stream, rises from token ids through "
    "embed_tokens, 24 layers that are in turn windowed and full, the last norm and "
    "lm_head to the logits. Right: one layer. The stream branches into input_layernorm "
    "and self_attn, whose result is added to the stream; then into "
    "post_attention_layernorm and mlp, a router and experts, whose result is added too.",
)

# %% [markdown]
# The names in the boxes are the names of the parameters. `model.layers.3.self_attn.sinks` is the sinks of the attention in the fourth block, here and in every file that Hugging Face serves. That is not pedantry: names are the contract by which weights find their place, and loading with `strict=True`, which refuses any other name, will be half of the proof below.

# %% [markdown]
# ## The block
#
# A block is two lines of arithmetic:
#
# $$ x \leftarrow x + \mathrm{Attention}(\mathrm{norm}_1(x)) \qquad x \leftarrow x + \mathrm{MoE}(\mathrm{norm}_2(x)) $$
#
# In words: attention reads a normalized copy of the stream and adds what it found; then the experts read a normalized copy of *that*, and add what they make of it. Note what is not there. Nothing normalizes the stream itself, so an addition made in the first block is still there, untouched, in the last one.
#
# The block returns the router's logits too. They are by-products that only a balancing loss wants, and handing them up is simpler than fishing for them later.

# %%
#| export
"""GPT-OSS, whole: blocks of attention and experts on one stream, from token ids to logits.

Where GPT-2 adds positions to the stream once, every attention here turns its own queries and keys; every
MLP is a mixture of experts; every second layer sees a window only. Names are Hugging Face's, so that
published weights load, and with the same weights the logits and all gradients are transformers'.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptoss_lib.attention import Attention
from gptoss_lib.cache import KVCache
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.moe import Experts, MoE
from gptoss_lib.norm import RMSNorm
from gptoss_lib.products import Linear, product
from gptoss_lib.rope import RotaryEmbedding
from gptoss_lib.swiglu import split_gate_up, swiglu_parts


# %%
#| export
class TransformerBlock(nn.Module):
    """Attention, then the experts; each reads a normalized copy of the stream and adds to the stream.

    Args:
        config: the architecture.
        layer_idx: which layer this is, from 0.
        jitter: noise on the router's input during training, see :class:`gptoss_lib.moe.Router`.
        allow_frozen_router: train with one expert a token, see :class:`gptoss_lib.moe.MoE`.
    """

    def __init__(
        self, config: GPTOSSConfig, layer_idx: int, jitter: float = 0.0, allow_frozen_router: bool = False
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer_idx)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config, jitter, allow_frozen_router)

    def forward(
        self,
        x: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        cache=None,
    ) -> tuple[Tensor, Tensor]:
        """Map the stream x [B, T, D] to the stream after this block, and the router logits [B·T, E].

        The other arguments are those of :meth:`gptoss_lib.attention.Attention.forward`.
        """
        normalized = self.input_layernorm(x)
        x = x + self.self_attn(normalized, position_embeddings, position_ids, documents, cache)
        update, router_logits = self.mlp(self.post_attention_layernorm(x))
        return x + update, router_logits


# %% [markdown]
# Two experiments on one block. First: silence its writers, that is, the last matrix of each half, and it must hand on the stream exactly. Second: multiply the stream by ten. The block reads through norms, so what it *adds* should stay the same.

# %%
config = GPTOSSConfig.preset("xs")
torch.manual_seed(0)
block = TransformerBlock(config, layer_idx=0).eval()
x = torch.randn(2, 50, config.hidden_size)
angles = RotaryEmbedding(config.head_dim, config.rope_theta)(torch.arange(50))
with torch.no_grad():
    added, added_to_large = block(x, angles)[0] - x, block(10 * x, angles)[0] - 10 * x
    silent = TransformerBlock(config, layer_idx=0)
    for writer in (silent.self_attn.o_proj.weight, silent.mlp.experts.down_proj):
        writer.zero_()
    print("writers silent, stream unchanged:", torch.equal(silent(x, angles)[0], x))
change = (added - added_to_large).norm() / added.norm()
print(f"what a stream ten times as large gets added differs by {change:.0%}")

# %% [markdown]
# The second number is not zero, and the reason is the wiring. The attention adds the same vector to a stream that is ten times as large, so the experts see relatively less of it. A block reads the *direction* of the stream. The larger the stream has grown, the less a new word in it turns that direction: late layers must speak louder to be heard. Keep this in mind for the section on fresh weights.

# %% [markdown]
# ## The stack
#
# Around the blocks there are a few wires more.
#
# - **The embedding**, and in one of the presets a LayerNorm right after it.
# - **Cosines and sines are looked up once.** Every attention turns its own queries and keys, but by the same angles, so the model looks them up and passes them down.
# - **The last norm.** No block has normalized the stream, so its size is an accident of depth. The head should not see that.
# - **Positions.** Without a cache, tokens stand at 0, 1, 2, …; with one, the cache knows where the text has got to. Padding stands at negative positions, where nobody looks. (The `length` that goes to `rotary_emb` says how far its table has to reach. Without it, the largest position would have to be looked up in the tensor.)


# %%
#| export
class GPTOSSModel(nn.Module):
    """Everything but the head: ids in, the normalized stream out, as ``GptOssModel`` in transformers.

    Args:
        config: the architecture.
        jitter: see :class:`TransformerBlock`.
        allow_frozen_router: see :class:`TransformerBlock`.
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0, allow_frozen_router: bool = False) -> None:
        super().__init__()
        self.max_position_embeddings = config.max_position_embeddings
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_norm = nn.LayerNorm(config.hidden_size) if config.embedding_norm else None
        self.layers = nn.ModuleList(
            TransformerBlock(config, layer_idx, jitter, allow_frozen_router)
            for layer_idx in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config.head_dim, config.rope_theta, config.rope_scaling)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        cache=None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks.

        Args:
            input_ids: [B, T], int64.
            position_ids: [T] or [B, T], where the tokens stand; negative for padding. None for tokens
                in a row, which is faster; with a cache, the cache knows.
            documents: [B, T], which document each token belongs to, in packed texts.
            cache: keys and values of earlier tokens, a :class:`gptoss_lib.cache.KVCache`.

        Returns:
            The stream after the last norm, [B, T, D], and every layer's router logits, [B·T, E] each.

        Raises:
            ValueError: if the text is longer than ``max_position_embeddings``, or there are both
                ``position_ids`` and a cache.
        """
        T = input_ids.shape[1]
        end = T if cache is None else cache.length + T
        self.check_length(end)
        if cache is not None:
            if position_ids is not None:
                raise ValueError("A cache knows where its tokens stand; do not pass position_ids with it.")
            position_ids = cache.positions(T)
        length = end if position_ids is None or cache is not None else None
        places = (
            torch.arange(T, device=input_ids.device) if position_ids is None else position_ids.clamp(min=0)
        )
        position_embeddings = self.rotary_emb(places, length)
        x, router_logits = self.embed(input_ids), []
        for layer in self.layers:
            x, logits = layer(x, position_embeddings, position_ids, documents, cache)
            router_logits.append(logits)
        return self.norm(x), router_logits

    def check_length(self, length: int) -> None:
        """Raise a ValueError if a text of ``length`` tokens is longer than ``max_position_embeddings``."""
        if length > self.max_position_embeddings:
            raise ValueError(
                f"The text has {length} tokens, but this model has "
                f"max_position_embeddings={self.max_position_embeddings}; shorten the text."
            )

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look up the tokens [B, T] and return the beginning of the stream, [B, T, D]."""
        x = self.embed_tokens(input_ids)
        return x if self.embed_norm is None else self.embed_norm(x)


# %% [markdown]
# GPT-2 adds a position to each token's vector before the first block. Here the same token has the same vector wherever it stands, and only the turning of queries and keys tells places apart. Look at the stream after the embedding and after each block, for a text that is one token, eight times:

# %%
import dataclasses

config = dataclasses.replace(GPTOSSConfig.preset("xs"), initializer_range=0.2)
torch.manual_seed(0)
stack = GPTOSSModel(config).eval()
ids = torch.full((1, 8), 42)
with torch.no_grad():
    x = stack.embed_tokens(ids)
    angles = stack.rotary_emb(torch.arange(8))
    print("embedding: all eight vectors alike:", bool((x == x[:, :1]).all()))
    for index, layer in enumerate(stack.layers):
        x, _ = layer(x, angles)
        spread = (x - x.mean(1, keepdim=True)).norm() / x.norm()
        kind = config.layer_types[index]
        print(f"after layer {index} ({kind}): the vectors differ by {spread:.1%}")

# %% [markdown]
# They come to differ. But how, if all values are alike, and a mean of equal values is the same value? Because of the sinks: the more tokens a head sees, the less its sink gets, and the *size* of what the head says tells how many it sees. Take the sinks away and a text of equal tokens stays a text of equal vectors, rotation or not:

# %%
with torch.no_grad():
    for layer in stack.layers:
        layer.self_attn.sinks = None
    x, _ = stack(ids)
print(f"without sinks, after all layers: {(x - x.mean(1, keepdim=True)).norm() / x.norm():.1%}")

# %% [markdown]
# The preset `mini` has no sinks, and it does not trust the size of the embedding's vectors: a LayerNorm comes right after them. What does that norm change? A fresh embedding is tiny, since it is drawn with a standard deviation of 0.02. The first block adds updates of its own size to it, and they can drown the token.

# %%
torch.manual_seed(0)
for norm in (None, "layernorm"):
    mini = GPTOSSConfig.preset("mini")
    mini = dataclasses.replace(mini, embedding_norm=norm, vocab_size=1000)
    stack = GPTOSSModel(mini).eval()
    nn.init.normal_(stack.embed_tokens.weight, std=mini.initializer_range)
    x = stack.embed_tokens(torch.arange(64)[None])
    x = x if stack.embed_norm is None else stack.embed_norm(x)
    update = stack.layers[0](x, stack.rotary_emb(torch.arange(64)))[0] - x
    token, added = (value.detach().square().mean().sqrt().item() for value in (x, update))
    print(f"embedding_norm={norm!s:10} stream {token:.2f}, the first block adds {added:.2f}")

# %% [markdown]
# Without the norm, the first block speaks several times louder than the token itself; with it, the token's own vector is by far the loudest voice. gpt-oss has no such norm; training has to find the size that the embedding needs.

# %% [markdown]
# ## Windows and depth together
#
# [Heads and windows](10_heads_windows.ipynb) computed from the masks how far a stack *can* see. Now there is a whole model, so ask it. Take what the head would read at the last token, mixed into one number by random weights, and the gradient of that number with respect to every token's embedding. A token that no chain of masks connects with the last one gets a gradient of exactly zero. Three stacks of six layers, with a window of 8 and a text of 64:


# %%
def influence(kinds, window=8, length=64):
    """How much the last output depends on each token's embedding, relative to the last one's."""
    config = dataclasses.replace(
        GPTOSSConfig.preset("xs"),
        num_hidden_layers=len(kinds),
        layer_types=tuple(f"{kind}_attention" for kind in kinds),
        sliding_window=window,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    stack, embedded = GPTOSSModel(config).eval(), []
    stack.embed_tokens.register_forward_hook(lambda module, ids, x: embedded.append(x))
    hidden, _ = stack(torch.randint(config.vocab_size, (16, length)))
    readout = torch.randn(16, config.hidden_size)
    (gradient,) = torch.autograd.grad((hidden[:, -1] * readout).sum(), embedded)
    sizes = gradient.norm(dim=-1).mean(0)  # [T]
    return sizes / sizes[-1]


seen = {
    "windows only": influence(["sliding"] * 6),
    "taking turns": influence(["sliding", "full"] * 3),
    "full only": influence(["full"] * 6),
}
for name, sizes in seen.items():
    share = sizes[:32].sum() / sizes[:-1].sum()
    print(f"{name}: {(sizes > 0).sum()} of 64 tokens matter; share of the far half {share:.1g}")
print("by the formula of chapter 10, windows only:", 6 * (8 - 1) + 1)

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.8)
for (name, sizes), color in zip(seen.items(), ("orange", "blue", "green"), strict=True):
    back = torch.arange(63, -1, -1)
    ax.semilogy(back[sizes > 0], sizes[sizes > 0], color=COLORS[color], label=name)
ax.axvline(6 * 7, color=COLORS["grey"], lw=1, ls="--")
ax.text(42.4, 1.5e-8, "end of the reach\nof six windows", fontsize=8, va="bottom")
ax.set(xlabel="tokens back", ylabel="influence", ylim=(1e-8, 2))
ax.legend(loc="lower left")
show(
    fig,
    alt="The influence of a token on the last output against its distance, on a logarithmic "
    "scale. With windows only it falls ever faster, over many powers of ten, and ends "
    "after 42 tokens. Taking turns, and full layers only: within the first windows it "
    "falls to a few hundredths, and stays level from there to the beginning of the text.",
)

# %% [markdown]
# Windows alone see exactly as far as the formula says, and the end of that reach hardly matters: many powers of ten below the neighbors. With full layers in turns, every token of the text counts, and the far half has a good share of the influence, though less than in the stack with full layers only. This is a fresh model, which knows nothing yet. But this is the gradient from which it would have to learn to look far back, and what is millions of times weaker than the neighbors' is drowned by them.

# %% [markdown]
# ## The loss, in chunks
#
# The head multiplies each token's vector with a matrix of V rows. V is 201,088. Nothing else in the model is so wide, so compare, for one text of 4,096 tokens in 32 bits, the largest tensors that training meets on its way:

# %%
config, tokens = GPTOSSConfig.preset("gpt-oss-20b"), 4096
widths = {
    "stream": config.hidden_size,
    "queries": config.num_attention_heads * config.head_dim,
    "gates and ups": config.num_experts_per_tok * 2 * config.intermediate_size,
    "logits": config.vocab_size,
}
for name, width in widths.items():
    print(f"{name:14} {width:8,} numbers a token, {4 * width * tokens / 1e9:5.2f} GB")

# %% [markdown]
# And cross-entropy does not stop at the logits: there are their softmax and their gradient, of the same size each. (One thing would be wider still in a full layer: the attention's scores, 64 heads times 4,096 keys for each token. The fused kernel of [Sinks](11_sinks.ipynb) never stores them.) The way out is simple once you see it. The loss is a sum over tokens. So take a chunk of tokens, compute their logits, their share of the loss *and its gradient at once*, and throw the logits away.
#
# The gradient of cross-entropy is known in closed form. For a token with the hidden vector $h$, logits $z = W h$ and label $y$:
#
# $$ \frac{\partial\,(-\log p_y)}{\partial z} = \mathrm{softmax}(z) - \mathrm{onehot}(y) $$
#
# In words: push every logit down in proportion to the probability it got, and the right one up by one. (The loss itself is $-\log p_y = \mathrm{logsumexp}(z) - z_y$.) From there, the gradient of $h$ is that times $W$, and the gradient of $W$ is its outer product with $h$, added up over tokens. Both are small enough to keep. Computing gradients on the way forward is unusual, and allowed here because the loss is the end of the model: whatever comes after it only multiplies it by a number. The idea is that of [Hsu et al., 2024](https://arxiv.org/abs/2410.10989); [Wijmans et al., 2024](https://arxiv.org/abs/2411.09009) go further and never write logits to memory at all.
#
# In the code, `product(a, b)` is `a @ b`, by whichever of PyTorch's two libraries is faster on your processor.


# %%
#| export
class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are computed on the way forward, so that one chunk of logits exists at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, ignore_index, chunk_size, with_gradients):
        count = (labels != ignore_index).sum()
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden, grad_weight = torch.empty_like(hidden), None
        for start in range(0, len(labels), chunk_size):
            x, target = hidden[start : start + chunk_size], labels[start : start + chunk_size]
            logits = product(x, weight.t()).float()  # [n, V]
            ignored = (target == ignore_index).unsqueeze(-1)
            target = target.unsqueeze(-1).masked_fill(ignored, 0)
            log_sum = logits.logsumexp(-1, keepdim=True)
            total += (log_sum - logits.gather(-1, target)).masked_fill(ignored, 0).sum()
            if not with_gradients:
                continue
            # softmax − one-hot, in the memory of the logits
            grad = logits.sub_(log_sum).exp_().scatter_add_(-1, target, -torch.ones_like(log_sum))
            grad = grad.mul_(~ignored / count.clamp(min=1)).to(x.dtype)
            grad_hidden[start : start + chunk_size] = product(grad, weight)
            of_chunk = product(grad.t(), x)
            grad_weight = of_chunk if grad_weight is None else grad_weight.add_(of_chunk)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_out, grad_weight * grad_out, None, None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100, chunk_size: int = 1024
) -> Tensor:
    """Return the mean cross-entropy of ``hidden @ weight.T`` without ever storing all logits.

    Args:
        hidden: [N, D].
        weight: [V, D], the head.
        labels: [N], the token that follows; ``ignore_index`` where there is none.
        ignore_index: the label of a position that is not predicted.
        chunk_size: how many tokens' logits exist at once.

    Raises:
        ValueError: if there are no tokens, or ``chunk_size`` is not positive.
    """
    if chunk_size < 1 or len(labels) == 0:
        raise ValueError(
            f"There are {len(labels)} tokens and chunk_size is {chunk_size}; both must be at least 1."
        )
    kind = hidden.device.type
    needed = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if torch.is_autocast_enabled(kind):
        hidden, weight = (x.to(torch.get_autocast_dtype(kind)) for x in (hidden, weight))
    with torch.autocast(kind, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, labels, ignore_index, chunk_size, needed)


# %% [markdown]
# The slow, obvious version is one line: `F.cross_entropy(hidden @ weight.T, labels)`. Compare loss and gradients, with a chunk size that does not divide the number of tokens, and with labels to ignore. A small watcher records the largest tensor that any operation makes, forward and backward:

# %%
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that comes out of any operation."""

    nbytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            self.nbytes = max(self.nbytes, value.nbytes if isinstance(value, Tensor) else 0)
        return result


torch.manual_seed(0)
hidden, weight = torch.randn(3001, 48), torch.randn(5003, 48) / 7
labels = torch.randint(5003, (3001,)).masked_fill(torch.rand(3001) < 0.2, -100)
versions = {
    "all at once": lambda h, w: F.cross_entropy(h @ w.T, labels),
    "in chunks": lambda h, w: linear_cross_entropy(h, w, labels, chunk_size=256),
}
results = {}
for name, loss_of in versions.items():
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with LargestTensor() as largest:
        loss = loss_of(h, w)
        loss.backward()
    results[name] = (loss.detach(), h.grad, w.grad)
    print(f"{name:12} loss {loss:.4f}, largest tensor {largest.nbytes / 1e6:5.1f} MB")
pairs = zip(*results.values(), strict=True)
for name, (slow, fast) in zip(("loss", "hidden", "weight"), pairs, strict=True):
    print(f"{name:7} equal: {torch.allclose(slow, fast, rtol=1e-4, atol=1e-7)}")

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.6)
counts, V, D = torch.linspace(0, 32_768, 60), config.vocab_size, config.hidden_size
gradient = V * D * 4 / 1e9
at_once, chunked = 2 * 4 * counts * V / 1e9, 4 * counts.clamp(max=1024) * V / 1e9
ax.plot(counts, at_once + gradient, color=COLORS["orange"], label="logits and their gradient")
ax.plot(counts, chunked + gradient, color=COLORS["blue"], label="in chunks of 1,024")
ax.axhline(gradient, color=COLORS["grey"], lw=1, ls="--")
ax.text(32_000, gradient - 1, "of it the head's gradient", ha="right", va="top", fontsize=8)
ax.set(xlabel="tokens in a batch", ylabel="GB", ylim=(-3, 60))
ax.legend()
show(
    fig,
    alt="Memory of the loss of gpt-oss-20b against the tokens in a batch, in 32 bits. With "
    "all logits it grows in proportion, to 55 gigabytes at 32,768 tokens. In chunks it "
    "stays at about 3 gigabytes, most of it the gradient of the head, which both need.",
)

# %% [markdown]
# The figure is a formula, not a measurement: two tensors of N × V in one case, one of 1,024 × V in the other, and the gradient of the head in both. It counts the least that each way needs. Our code, for one, holds the head's gradient twice while it adds the share of a chunk.

# %% [markdown]
# ## The finished model
#
# What is left is the head, the weights to start from, and an interface. One method does both jobs: without labels it returns logits; with labels, the loss and the router logits. Labels are already shifted: `labels[b, t]` is the token that *follows* `input_ids[b, t]`, as [the data chapter](04_data.ipynb) delivers them. `transformers` shifts them itself. Mixing the two conventions trains a model to predict the token after next, and raises no error.


# %%
#| export
class GPTOSS(nn.Module):
    """GPT-OSS: token ids in, a score for every possible next token out.

    Parameters have the names of transformers' ``GptOssForCausalLM``. From "gpt-oss-120b & gpt-oss-20b
    Model Card" (OpenAI, 2025).

    Args:
        config: the architecture.
        jitter: noise on the routers' inputs during training; gpt-oss has none.
        allow_frozen_router: train although one expert works on a token, which leaves the routers
            without any gradient from the output.
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0, allow_frozen_router: bool = False) -> None:
        super().__init__()
        self.config = config
        self.model = GPTOSSModel(config, jitter, allow_frozen_router)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights; the layers that write to the stream start smaller by √(2·layers)."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            elif name.endswith(("o_proj.weight", "down_proj")):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.num_hidden_layers))
            else:
                nn.init.normal_(parameter, std=std)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        cache=None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Score the next token after every prefix, or return the loss where ``labels`` are given.

        Args:
            input_ids: [B, T], int64.
            position_ids: see :meth:`GPTOSSModel.forward`.
            documents: see :meth:`GPTOSSModel.forward`.
            cache: see :meth:`GPTOSSModel.forward`.
            labels: [B, T], the token that follows each position, −100 where there is none (they are
                already shifted, unlike those of transformers).
            logits_to_keep: score only the last so many positions; 0 for all.

        Returns:
            Logits [B, T, V]; with labels, the mean cross-entropy in nats a token and every layer's
            router logits, [B·T, E] each.

        Raises:
            ValueError: see :meth:`GPTOSSModel.forward`.
        """
        hidden, router_logits = self.model(input_ids, position_ids, documents, cache)
        if labels is not None:
            loss = linear_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, labels.flatten())
            return loss, router_logits
        return self.lm_head(hidden[:, -logits_to_keep:])


# %% [markdown]
# ### Does it have the right shape?
#
# [The map](01_map.ipynb) counted parameters from the config alone, long before there was a model. Now there is one. PyTorch's `meta` device builds modules without memory for their weights, so that even the 120b model can be built on a laptop. Names and shapes must agree for every preset:

# %%
from gptoss_lib.config import PRESETS, count_parameters, parameter_shapes

for name in PRESETS:
    config = GPTOSSConfig.preset(name)
    with torch.device("meta"):
        model = GPTOSS(config)
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    total = sum(parameter.numel() for parameter in model.parameters())
    agrees = shapes == parameter_shapes(config) and total == count_parameters(config).total
    print(f"{name:13} {len(shapes):3} tensors {total / 1e6:10,.1f} M", end="   ")
    print("names and shapes agree:", agrees)

# %% [markdown]
# Where the head is tied, `model.lm_head.weight` *is* the embedding: one tensor under two names. It gets both gradients, and counts once.

# %% [markdown]
# ### Fresh weights
#
# As in [GPT-2](05_gpt2.ipynb), weights are drawn from a normal distribution, and the two matrices of each block that write to the stream start smaller by $\sqrt{2L}$, L being the number of blocks. There are 2L writes, and they are nearly independent at the start, so their variances add up: without the factor the stream grows with the square root of the depth. Only the model knows L, so only the model can draw these; that is why `reset_parameters` draws once more what its parts have drawn already.
#
# Watch the stream in a stack of 24 blocks, with and without the factor:


# %%
def stream_sizes(model, ids):
    """The root mean square of the stream after the embedding and after every block."""
    kept = []

    def keep(module, inputs, out):
        kept.append(out if isinstance(out, Tensor) else out[0])

    for module in (model.model.embed_tokens, *model.model.layers):
        module.register_forward_hook(keep)
    with torch.no_grad():
        loss, _ = model(ids, labels=ids.roll(-1, dims=1))
    return [x.square().mean().sqrt().item() for x in kept], loss.item()


deep = dataclasses.replace(
    GPTOSSConfig.preset("xs"), num_hidden_layers=24, layer_types=None, initializer_range=0.06
)
growth = {}
for name, factor in (("writers smaller by √48", 1), ("all alike", math.sqrt(48))):
    torch.manual_seed(0)
    model = GPTOSS(deep)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("o_proj.weight", "down_proj")):
                parameter.mul_(factor)
    sizes, loss = stream_sizes(model, torch.randint(deep.vocab_size, (4, 128)))
    growth[name] = [size / sizes[0] for size in sizes]
    grown = growth[name][-1]
    print(f"{name:22} the stream grows {grown:4.1f} times; first loss {loss:.2f} nats")
print(f"{'':22} a model that knows nothing: log V = {math.log(deep.vocab_size):.2f} nats")

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.5)
for (name, sizes), color in zip(growth.items(), ("blue", "orange"), strict=True):
    ax.plot(range(25), sizes, "o-", ms=3, color=COLORS[color], label=name)
ax.set(xlabel="blocks so far", ylabel="size of the stream", ylim=(0, None))
ax.legend()
show(
    fig,
    alt="The size of the stream after each of 24 blocks, relative to the embedding. With "
    "smaller writers it rises gently to about twice the embedding; with all weights alike"
    " it rises to about eighteen times.",
)

# %% [markdown]
# Both start as they should, with a loss near log V. But without the factor, the token's own vector is a small part of the stream by the end, and each further block changes its direction less than the one before: the experiment with ten times the stream, come true. How OpenAI drew the first weights of gpt-oss is not published. `transformers` has no such factor (it draws all matrices with the same deviation, `initializer_range`), which matters to nobody who loads trained weights.

# %% [markdown]
# ### Does it learn?
#
# Before any long run, ask a new model for the smallest thing: to learn one text by heart. A model that cannot do that is broken, and you know it after seconds instead of hours. The text is the beginning of a story of [the small world](03_small_world.ipynb), its letters are the tokens.

# %%
from gptoss_lib.stories import StoryGrammar

story = next(StoryGrammar().stories(seed=3)).text.split("\n")[0]  # the first paragraph
letters = torch.tensor([list(story.encode())])  # [1, T], bytes
config = dataclasses.replace(
    GPTOSSConfig.preset("xs"),
    vocab_size=128,
    max_position_embeddings=letters.shape[1],
    initializer_range=0.1,
)
print(f"{letters.shape[1]} letters, a window of {config.sliding_window}")

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
model, steps, losses = GPTOSS(config), 120, []
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99), weight_decay=0.0)
for step in range(steps):
    for group in optimizer.param_groups:
        group["lr"] = 4e-3 * (1 - step / steps)
    loss, _ = model(letters[:, :-1], labels=letters[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print("nats a letter:")
for step in (0, 10, 20, 40, steps - 1):
    print(f"step {step}: {losses[step]:.3f}")

# %%
from gptoss_lib.generation import generate

assert abs(losses[0] - math.log(128)) < 0.7 and losses[-1] < 0.1
model.eval()
prompt, rest = letters[:, :12], letters.shape[1] - 12
cache = KVCache.from_config(config, batch_size=1, max_length=letters.shape[1])
told = generate(model, prompt, rest, temperature=0, cache=cache)
print(bytes(told[0].tolist()).decode())
print("by heart:", torch.equal(told, letters))

# %% [markdown]
# It goes on from the first twelve letters without a slip. On the way the rings of the windowed layers have gone round six times. Does the cache change anything? Run the whole text at once, and in pieces through the cache, and compare all logits; then look at what the cache holds.

# %%
from gptoss_lib.config import kv_cache_bytes

with torch.no_grad():
    at_once = model(letters)  # [1, T, V]
    for pieces in ([1] * 100, [31, 1, 32, 33, 3], [letters.shape[1]]):
        cache.reset()
        parts, start = [], 0
        for length in pieces:
            parts.append(model(letters[:, start : start + length], cache=cache))
            start += length
        difference = (torch.cat(parts, dim=1) - at_once[:, :start]).abs().max()
        equal = bool(difference < 1e-3)
        print(f"{start:3} letters in {len(pieces):3} pieces: equal to 1e-3: {equal}")
formula = kv_cache_bytes(config, letters.shape[1], bytes_per_value=4)
print(f"bytes of the cache: {cache.nbytes}, by the formula of chapter 01: {formula}")

# %% [markdown]
# ## One compiled step a token
#
# Text is written one token at a time, and for one token every weight at work is read from memory to be used once. So two things set the pace: how fast the memory delivers the weights, and how much time is lost between the operations. Python starts every one of them anew, at every token, and there are many small ones.
#
# `torch.compile` can turn the whole step into one program. It watches the step once, writes down the operations, and generates machine code in which neighbors are fused: what one operation makes, the next one uses, without a trip through memory. But the program fits only a step that looks the same: tensors of the same shapes, and the same Python numbers. Ours does not, with the cache as it is. The place in the text is a Python number that grows, and so does the number of keys that a query gets to see. So:
#
# - **The place is a tensor.** What stands in a tensor is data, and data may differ from call to call. `_StepCache` answers the calls that the attention makes to a `KVCache`, on the same memory, but knows the place as a tensor of one number.
# - **Every slot is read at every step**, so that shapes stay the same. The new key and value go to slot *place* mod *slots*, as in the ring of the [KV cache](12_kv_cache.ipynb); a full layer is a ring too, with a slot for every token that fits, so that it never wraps. `key_positions` is the formula of `ring_tokens`: from the place alone it follows which token each slot holds. Slots that are still empty come out negative, and the mask hides them. The price: a full layer reads its empty slots too, so make the cache no longer than you need.
# - **The experts' weights are copied, with inputs last.** In Hugging Face's layout, [inputs before outputs](14_mixture_of_experts.ipynb), the weights of one output lie far apart, one in each row. For a single token an output is the product of two vectors, and that is fastest if both lie in memory number after number. In the copy, each output has its weights in a row, and all gates stand before all ups, so that SwiGLU need not pick every second number.
#
# One line looks like a mistake: `gate_up[indices]`, the gather of weights that the chapter on experts warned of. In plain PyTorch it copies the chosen matrices. Compiled, choosing, multiplying and adding up are one loop, which reads the chosen weights once and stores nothing but the sums.


# %%
#| export
class _StepCache:
    """A :class:`gptoss_lib.cache.KVCache` as a compiled step sees it: the place is a tensor, [1]."""

    length = 0  # whether the text fits, the decoder has checked

    def __init__(self, cache: KVCache, place: Tensor) -> None:
        self.layers, self.place = cache.layers, place

    def positions(self, count: int) -> Tensor:
        return self.place

    def update(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layers[layer_idx]
        slot = self.place % layer.slots
        layer.keys.index_copy_(2, slot, key)
        layer.values.index_copy_(2, slot, value)
        return layer.keys, layer.values

    def key_positions(self, layer_idx: int) -> Tensor:
        slots = self.layers[layer_idx].slots
        back = (self.place - torch.arange(slots, device=self.place.device)) % slots
        return self.place - back  # negative where a slot is still empty


def _rows_of(experts: Experts) -> tuple[Tensor | None, ...]:
    """Copy all experts' weights, inputs last and gates before ups: [E, 2F, D], a bias [E, 2F], [E, D, F]."""

    def gates_first(x: Tensor) -> Tensor:
        return torch.cat(split_gate_up(x.detach()), dim=-1)

    bias = experts.gate_up_proj_bias
    return (
        gates_first(experts.gate_up_proj).mT.contiguous(),
        None if bias is None else gates_first(bias),
        experts.down_proj.detach().mT.contiguous(),
    )


def _experts_by_rows(
    experts: Experts, rows: tuple[Tensor | None, ...], x: Tensor, scores: Tensor, indices: Tensor
):
    """Run one token's K experts on x [D], whose weights are laid out as in :func:`_rows_of`."""
    gate_up, bias, down = rows
    inner = (gate_up[indices] * x).sum(-1)  # [K, 2F]; the compiler reads only what is chosen
    if bias is not None:
        inner = inner + bias[indices]
    hidden = swiglu_parts(*inner.chunk(2, dim=-1), experts.alpha, experts.limit)  # [K, F]
    answers = (down[indices] * hidden.unsqueeze(1)).sum(-1)  # [K, D]
    if experts.down_proj_bias is not None:
        answers = answers + experts.down_proj_bias[indices]
    return (answers * scores.unsqueeze(-1)).sum(0)  # [D]


class CompiledDecoder(nn.Module):
    """A model whose single-token steps are one compiled program: give it to ``generate`` in its place.

    Everything but a single next token of a single text is left to the model. The experts' weights are
    copied into another layout, so they take twice their memory. The first step compiles (up to a
    minute), and so does the first step with a cache of another size.

    Args:
        model: the model; change its weights, and you need a new decoder.
    """

    def __init__(self, model: GPTOSS) -> None:
        super().__init__()
        self.model = model
        self._rows = [_rows_of(layer.mlp.experts) for layer in model.model.layers]
        # Looking at every weight before each step, whether it is still the same, would cost time.
        trust = getattr(torch.compiler, "skip_guard_on_all_nn_modules_unsafe", None)
        options = {"size_asserts": False} | ({"guard_filter_fn": trust} if trust else {})
        self._compiled = torch.compile(self._step, dynamic=False, options=options)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, cache: KVCache | None = None, logits_to_keep: int = 0) -> Tensor:
        """Score the next token, as :meth:`GPTOSS.forward` does.

        Args:
            input_ids: [B, T].
            cache: the keys and values of earlier tokens.
            logits_to_keep: as in :meth:`GPTOSS.forward`.

        Returns:
            Logits [B, T, V], without gradients.

        Raises:
            ValueError: where the model and the cache do.
        """
        if cache is None or cache.length == 0 or input_ids.numel() > 1 or cache.key_positions(0) is not None:
            return self.model(input_ids, cache=cache, logits_to_keep=logits_to_keep)
        cache.check_room(1)
        self.model.model.check_length(cache.length + 1)
        self.model.model.rotary_emb.grow(cache.max_length)
        place = torch.tensor([cache.length], device=input_ids.device)
        logits = self._compiled(input_ids.flatten(), _StepCache(cache, place))
        for layer in cache.layers:
            layer.length += 1
        return logits

    def _step(self, token: Tensor, cache: _StepCache) -> Tensor:
        """Run all layers on one token, [1]."""
        model = self.model.model
        position_embeddings = model.rotary_emb(cache.place, 1)
        x = model.embed(token.unsqueeze(0))  # [1, 1, D]
        for layer, rows in zip(model.layers, self._rows, strict=True):
            normalized = layer.input_layernorm(x)
            x = x + layer.self_attn(normalized, position_embeddings, cache.place, cache=cache)
            normalized = layer.post_attention_layernorm(x)[0]  # [1, D]
            _, scores, indices = layer.mlp.router(normalized)
            x = x + _experts_by_rows(layer.mlp.experts, rows, normalized[0], scores[0], indices[0])
        return self.model.lm_head(model.norm(x))


# %% [markdown]
# Norms, attention, router and head are the modules of the model itself. Only the experts have a second version, because of the layout. And only a single next token of a single text takes this way: prompts, batches and padded texts go to the model as before.
#
# Let the same model retell the beginning of its paragraph three times: as it is; through the decoder, which compiles at the first step; and through the decoder once more, with the program ready.

# %% tags=["nbval-ignore-output"]
import shutil
import time

writers = {"model": model}
if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):  # torch.compile needs one of them
    writers["compiling"] = writers["compiled"] = CompiledDecoder(model)
retold = {}
for name, writer in writers.items():
    begin = time.perf_counter()
    cache = KVCache.from_config(config, batch_size=1, max_length=letters.shape[1])
    retold[name] = generate(writer, letters[:, :5], 90, temperature=0.0, cache=cache)
    print(f"{name:9} {1000 * (time.perf_counter() - begin) / 90:7.2f} ms a token")

# %%
print("the same letters:", all(torch.equal(each, retold["model"]) for each in retold.values()))

# %% [markdown]
# On a model this small the time goes between the operations, and that is what compiling saves. It has its price: the second line holds the compiler's own work, and only a much longer text would earn that back. The larger the model, the more of the time is the memory's; [the benchmarks](../book/benchmarks.md) decode with a larger one, against `transformers`, and say what share of the memory's speed is reached.


# %% [markdown]
# ## Reality check
#
# Now the promise. The next cell makes a model with every ingredient: windows and full layers, sinks, grouped heads, biases, YaRN on a text longer than its original context, four layers of five experts. Its weights are random and *large*, on purpose. With the tiny weights of a fresh model nothing reaches the clamp and attention is nearly flat, so that some mistakes would stay invisible. The text is nine windows long, for the same reason.
#
# The numbers called `THEIRS` were computed by `GptOssForCausalLM` of `transformers` 5.20 with the same weights and the same text. They stand here so that you can run this cell without `transformers`; one of the project's tests (`tests/parity/test_model_transformers.py`) runs this very cell with `transformers` beside it and compares again.

# %%
# the same model, twice
from gptoss_lib.config import RopeScaling


def draw_weights(model, seed):
    """Large random weights, drawn in the order of the parameters' names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith(("bias", "sinks")):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(2 * noise / math.sqrt(parameter.shape[1]))
    return model


def summary(model, logits):
    """A few numbers that depend on all weights and all tokens."""
    model.zero_grad()
    F.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    gradients = dict(model.named_parameters())
    numbers = {
        "last token, logit 0": logits[0, -1, 0],
        "last token, logit 96": logits[0, -1, 96],
        "mean size of all logits": logits.abs().mean(),
        "loss": F.cross_entropy(logits[0, :-1], ids[0, 1:]),
    }
    for name in (
        "embed_tokens.weight",
        "layers.0.self_attn.sinks",
        "layers.1.mlp.router.weight",
        "layers.2.mlp.experts.gate_up_proj",
        "layers.3.self_attn.k_proj.bias",
    ):
        numbers[f"d {name}"] = gradients[f"model.{name}"].grad.norm()
    return {name: value.item() for name, value in numbers.items()}


config = GPTOSSConfig(
    vocab_size=97,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=32,
    max_position_embeddings=8192,
    rope_scaling=RopeScaling(original_max_position_embeddings=256),
)
model = draw_weights(GPTOSS(config), seed=32)
ids = torch.randint(97, (1, 300), generator=torch.Generator().manual_seed(32))
THEIRS = {
    "last token, logit 0": -2.32783,
    "last token, logit 96": -2.64274,
    "mean size of all logits": 1.52672,
    "loss": 6.37328,
    "d embed_tokens.weight": 10.6073,
    "d layers.0.self_attn.sinks": 0.0190017,
    "d layers.1.mlp.router.weight": 0.483777,
    "d layers.2.mlp.experts.gate_up_proj": 0.455368,
    "d layers.3.self_attn.k_proj.bias": 0.0229872,
}

# %%
ours = summary(model, model(ids))
print(f"{'':38} {'ours':>9} {'theirs':>9}")
for name, value in THEIRS.items():
    print(f"{name:38} {ours[name]:9.4g} {value:9.4g}")
difference = max(abs(ours[name] / value - 1) for name, value in THEIRS.items())
print("largest relative difference below 1e-4:", difference < 1e-4)

# %% [markdown]
# A handful of numbers is a spot check. The test file does the rest, in full tensors: all logits and the gradient of *every* parameter, to $10^{-5}$ of the largest value in that tensor, for texts from one token to several windows; with YaRN and without; with padding, tied heads, no biases; against two of the ways in which `transformers` runs its experts, the plain one and its default; generation token by token; the keys and values in both caches; and the loss, with and without the balancing loss. It also loads our weights into their model, and theirs into ours, with `strict=True`, which fails if a single name is missing, unknown, or of another shape.
#
# Why not compare to the last bit? Because floating-point addition depends on the order, and two correct programs add in different orders. In 32 bits rounding errors start at $6 \cdot 10^{-8}$ and grow with depth; a figure below shows how. The test measures that too: our result in 32 bits is about as far from the result in 64 bits as theirs is.

# %% [markdown]
# ### When it is not equal
#
# It will not be equal the first time. Then you know that something, somewhere in dozens of layers, is wrong, and the logits do not tell you what. Staring at code is the slow way. The fast way: both models have a stream. Compare the streams after every block; **the first one that differs** is the block to look at. All blocks before it are cleared, and all blocks after it tell you nothing: they got wrong inputs.
#
# Let us plant a bug and find it. A deeper model, 12 blocks, large weights again; and somewhere a window that is one too long.


# %%
import copy


def streams(model, ids):
    """The stream after every block, [B, T, D] each."""
    kept = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, out: kept.append(out[0]))
        for block in model.model.layers
    ]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return kept


def differences(right, wrong, ids):
    """How much the streams differ after every block, relative to the size of the stream."""
    pairs = zip(streams(right, ids), streams(wrong, ids), strict=True)
    return [((a - b).norm() / a.norm()).item() for a, b in pairs]


twelve = dataclasses.replace(
    config, num_hidden_layers=12, layer_types=None, sliding_window=16, rope_scaling=None
)
right = draw_weights(GPTOSS(twelve), seed=1).eval()
wrong = copy.deepcopy(right)
wrong.model.layers[6].self_attn.window += 1

text = torch.randint(97, (1, 80), generator=torch.Generator().manual_seed(1))
changed = (right(text).argmax(-1) != wrong(text).argmax(-1)).sum()
print(f"positions where the first choice changed: {changed} of {text.shape[1]}")
found = differences(right, wrong, text)
first = next(index for index, size in enumerate(found) if size > 1e-4)
print("first block that differs:", first)

# %% [markdown]
# Two details make this work in earnest. First, a threshold. Two *correct* implementations differ by rounding, so "differs" means "far more than rounding". Below, the same model computed in 64 bits shows where that floor is. Second, the text must be long enough to show the bug at all.

# %% tags=["hide-input"]
double = copy.deepcopy(right).double()
floor = [
    ((a - b).norm() / a.norm()).item()
    for a, b in zip(streams(right, text), streams(double, text), strict=True)
]
fig, ax = new_figure(7, 2.9)
drawn = [max(size, 1e-9) for size in found]  # a logarithm has no place for zero
ax.semilogy(range(12), drawn, "o-", color=COLORS["red"], label="window of 17 in block 6")
ax.semilogy(range(12), floor, "o-", color=COLORS["grey"], label="no bug, 64 bits against 32")
ax.axhline(1e-4, color=COLORS["blue"], lw=1, ls="--")
ax.text(0, 1.4e-4, "what counts as different", fontsize=8)
ax.set(xlabel="after block", ylabel="relative difference", ylim=(3e-10, 10), xticks=range(12))
ax.legend(loc="upper left")
show(
    fig,
    alt="The relative difference of two streams after each of 12 blocks, on a logarithmic "
    "scale. With a bug in block 6 it is exactly zero (drawn at the bottom) up to block 5,"
    " jumps above the threshold of one ten-thousandth at block 6 and stays there. Without"
    " a bug, 64 bits against 32, it begins near one ten-millionth and grows slowly, far "
    "below the threshold.",
)

# %% [markdown]
# With all streams at hand, one look is enough. Often they are not at hand: the other side is an inference engine on a phone, and every stream must be dumped, copied and lined up by hand. Then **bisect**. Compare the stream in the middle. Equal? The bug is in a later block. Different? It is in an earlier one, or right there. Twelve blocks take four comparisons, and gpt-oss-120b's thirty-six take six.
#
# Inside the block, go on the same way, with one trick: give the part the *right* input. If you feed the faulty block the stream of the right model, then the attention's output tells about the attention alone; feed the right stream between the two halves to the experts, and their output tells about them alone. That is the second exercise.
#
# Which bugs does such a comparison see? Choose a bug, always planted in block 3 of 8, and what the models are fed: a text shorter than the window of 16 or longer, with the large weights or with those of a fresh model.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore

eight = dataclasses.replace(twelve, num_hidden_layers=8, layer_types=None)
sound = draw_weights(GPTOSS(eight), seed=2).eval()


def swap_layer_types(model):
    model.model.layers[3].self_attn.window = 16


def no_clamp(model):
    model.model.layers[3].mlp.experts.limit = float("inf")


def no_sinks(model):
    model.model.layers[3].self_attn.sinks = None


def softmax_first(model):
    router = model.model.layers[3].mlp.router

    def route(x):
        logits = F.linear(x, router.weight, router.bias)
        return logits, *logits.softmax(-1).topk(router.top_k)

    router.forward = route


def other_epsilon(model):
    model.model.layers[3].input_layernorm.eps = 1e-6


PLANTED = {
    "a window where none should be": swap_layer_types,
    "sinks left out": no_sinks,
    "clamp left out": no_clamp,
    "softmax before top-k": softmax_first,
    "epsilon 1e-6 in a norm": other_epsilon,
}
torch.manual_seed(0)
fresh = GPTOSS(eight).eval()
FED = {"12 tokens": (sound, 12), "80 tokens": (sound, 80), "80, fresh weights": (fresh, 80)}
outcome = {}
for name, plant in PLANTED.items():
    for fed, (healthy, length) in FED.items():
        faulty = copy.deepcopy(healthy)
        plant(faulty)
        outcome[name, fed] = differences(healthy, faulty, text[:, :length])


def bars(name, fed):
    rows = []
    for index, size in enumerate(outcome[name, fed]):
        height = 130 * min(1, max(0, (math.log10(max(size, 1e-12)) + 7) / 7))
        color = COLORS["red"] if size > 1e-4 else COLORS["grey"]
        x = 60 + 48 * index
        rows.append(
            f'<rect x="{x}" y="{150 - height:.0f}" width="30" height="{height + 1:.0f}" fill="{color}" '
            f'fill-opacity=".7"/><text x="{x + 15}" y="168" text-anchor="middle">{index}</text>'
        )
    for power in (-7, -4, -1):
        y = 150 - 130 * (power + 7) / 7
        rows.append(f'<text x="50" y="{y + 4:.0f}" text-anchor="end">1e{power}</text>')
        rows.append(
            f'<line x1="55" x2="450" y1="{y:.0f}" y2="{y:.0f}" stroke="currentColor" stroke-opacity=".25"/>'
        )
    seen = any(size > 1e-4 for size in outcome[name, fed])
    verdict = "found in block 3" if seen else "invisible"
    return (
        '<svg viewBox="0 0 470 190" width="470" font-size="11" fill="currentColor" font-family="sans-serif" '
        f'style="max-width:100%" role="img" aria-label="{name}, {fed}: {verdict}">'
        f'{"".join(rows)}<text x="250" y="186" text-anchor="middle">after block: {verdict}</text></svg>'
    )


explore(bars, {"bug": tuple(PLANTED), "fed with": tuple(FED)}, start={"fed with": "80 tokens"})

# %%
print(f"{'':30}", *(f"{fed:>18}" for fed in FED))
for name in PLANTED:
    seen = ["found" if max(outcome[name, fed]) > 1e-4 else "invisible" for fed in FED]
    print(f"{name:30}", *(f"{word:>18}" for word in seen))

# %% [markdown]
# A wrong window shows only on a text that is longer than the window, and it escapes in practice because the texts of quick tests are short. A missing clamp shows only where something is large enough to be clamped. A wrong epsilon is the opposite: it shows only where the stream is tiny, as it is with fresh weights. A comparison is as good as its inputs, so feed it more than one kind.

# %% [markdown]
# ## What gpt-oss-20b uses

# %%
from gptoss_lib.config import weight_bytes

config = GPTOSSConfig.preset("gpt-oss-20b")
count = count_parameters(config)
kinds = [kind.split("_")[0] for kind in config.layer_types]
print(
    f"{len(kinds)} blocks: {kinds.count('sliding')} with a window of {config.sliding_window}, "
    f"{kinds.count('full')} full; the first one is {kinds[0]}"
)
print(f"{count.total / 1e9:.2f} billion parameters in {len(parameter_shapes(config))} tensors")
billions, tied = count.embedding / 1e9, config.tie_word_embeddings
print(f"embedding and head: {billions:.2f} billion each, tied: {tied}")
print(
    f"every token is multiplied by {count.active / 1e9:.2f} billion of them, "
    f"{count.active_head / count.active:.0%} in the head"
)
print(
    f"weights: {weight_bytes(config, 'bf16') / 1e9:.1f} GB in 16 bits, "
    f"{weight_bytes(config, 'mxfp4') / 1e9:.1f} GB as published"
)
print(
    f"cache of a full context of {config.max_position_embeddings:,} tokens: "
    f"{kv_cache_bytes(config, config.max_position_embeddings) / 1e9:.2f} GB"
)

# %% [markdown]
# The head is a sixth of the work of a token: the price of a large vocabulary. In exchange the same text is fewer tokens. This chapter's code is that model, without a change; loading the published four-bit weights is a chapter of its own, later.

# %% [markdown]
# ## Pitfalls
#
# - **Short prompts prove nothing.** The MLX backend of [SGLang](https://github.com/sgl-project/sglang/pull/30050) ignored windows, which no prompt of up to 128 tokens can show; the same pull request mends sinks dropped in batched decoding, and a kernel that would have left YaRN out. OpenVINO's [conversion of gpt-oss](https://github.com/openvinotoolkit/openvino/pull/32911) used 0 for the window, and its test had been made from the wrong graph.
# - **Even layers slide.** True for gpt-oss, false for the next model. [vLLM](https://github.com/vllm-project/vllm/pull/33594) had the pattern in its code instead of reading `layer_types`.
# - **Labels shifted twice.** The model then learns the token after next; nothing raises an error. It happened in [one of the models of `transformers`](https://github.com/huggingface/transformers/pull/47395) itself.
# - **Tied in the config, not in memory.** Build on the meta device, fill in weights later, and two parameters that should be one can drift apart. [NVIDIA's AutoModel](https://github.com/NVIDIA-NeMo/Automodel/pull/2511) left the head out of such checkpoints, and resuming jumped.
# - **All logits, though nobody asked.** Projecting every position to 201,088 numbers [ran out of memory](https://github.com/NVIDIA-NeMo/Automodel/issues/3907) when training gpt-oss. For a loss, go in chunks; while generating, one position is enough: `logits_to_keep=1`.
# - **Tables that no checkpoint holds.** The angles of the rotation are not parameters. Materialize a model from the meta device and they hold whatever was in memory. Ours are computed anew whenever the model moves.
# - **Hidden states that are not the stream.** In `transformers`, the last entry of `hidden_states` comes after the final norm, so a comparison with the raw stream shows a bug in the last layer that is not there. Compare the same thing on both sides.
# - **Comparing in 16 bits.** A router that is nearly undecided takes another expert, and a whole token changes. Compare in fp32, then trust the cast.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/15_model.ipynb):
#
# 1. **Wire it yourself.** From ids to logits, with nothing but a model's parts; the check recognizes the usual wrong wirings and names them.
# 2. **Find the bug.** A model with one planted fault: which block, and which half of it? Your function has to find it wherever it is, and stay calm where there is only rounding.
# 3. **The loss in chunks.** Loss and gradients by hand, with no tensor larger than a chunk.

# %% [markdown]
# ## Summary
#
# - A block is two additions: attention, then experts, each of a normalized copy of the stream. The stream itself is normalized once, before the head.
# - Angles are looked up once; every attention turns its own queries and keys. The stream holds no position at first, and sinks alone already tell a token how many it sees.
# - Windows alone reach as far as the formula says, and their reach is thin at its end. With full layers in turns the beginning of the text keeps its influence.
# - Logits are the largest tensor of all. In chunks, with the gradient computed on the way forward, they never exist as a whole.
# - Matrices that write to the stream start smaller by $\sqrt{2L}$, so that depth does not drown the token.
# - A step whose shapes and Python numbers never change compiles into one program: the place becomes data, and empty slots are hidden instead of left out.
# - Same weights in, same logits and gradients out as `transformers`, up to rounding, for long texts and large activations. A test shows it for every parameter.
# - To find a difference, compare streams: the first block that differs has the bug. Then give its parts the right input.
#
# Next: [Pretraining](16_pretraining.ipynb), where this model gets something to say.

# %% [markdown]
# ## Further reading
#
# - [OpenAI, 2025](https://arxiv.org/abs/2508.10925): the model card; and [the reference code](https://github.com/openai/gpt-oss), whose PyTorch model is one readable file.
# - [Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf): section 2.3, where the smaller writers come from.
# - [Wijmans et al., 2024](https://arxiv.org/abs/2411.09009): how the loss of a large vocabulary can take almost no memory.
# - [Hsu et al., 2024](https://arxiv.org/abs/2410.10989): Liger, which computes gradients on the way forward, in fused kernels.
# - [Elhage et al., 2021](https://transformer-circuits.pub/2021/framework/index.html): the stream as the center of the model.
