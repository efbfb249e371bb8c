"""GPT-OSS, whole: blocks of attention and experts on one stream, from token ids to logits.

Where GPT-2 adds positions to the stream once, every attention here turns its own queries and keys; every
MLP is a mixture of experts; every second layer sees a window only. Names are Hugging Face's, so that
published weights load, and with the same weights the logits and all gradients are transformers'.

Built in chapter 15: edit ``notebooks/15_model.py``, not this file.
"""

import math

import torch
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

__all__ = ["GPTOSS", "CompiledDecoder", "GPTOSSModel", "TransformerBlock", "linear_cross_entropy"]


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
