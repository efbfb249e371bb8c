"""A mixture of experts: many MLPs, of which a router sends each token to a few.

GPT-2 multiplies every token by every weight of its MLP. Here a layer holds E experts with a SwiGLU
inside; a linear router scores them, the K best work on the token, and the softmax of their K scores
weighs their answers. Tokens are sorted by expert, so that each expert makes one matrix product.

Built in chapter 14: edit ``notebooks/14_mixture_of_experts.py``, not this file.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.products import ONEDNN_IS_FASTER, linear, product
from gptoss_lib.swiglu import join_gate_up, swiglu, swiglu_backward, swiglu_parts

__all__ = [
    "Dispatch",
    "Experts",
    "MoE",
    "Router",
    "expert_load",
    "importance_loss",
    "load_balancing_loss",
    "moe_reference",
    "router_z_loss",
    "sort_by_expert",
]


class Router(nn.Module):
    """Score the experts, choose K of them for each token, and weigh those with a softmax.

    As ``MLPBlock.gate`` in OpenAI's ``gpt_oss/torch/model.py`` and ``GptOssTopKRouter`` in transformers.

    Args:
        config: the sizes, and whether the router has a bias.
        jitter: during training, inputs are multiplied by random numbers in [1 − jitter, 1 + jitter]
            (Switch Transformer, section 2.4); gpt-oss has none.

    Raises:
        ValueError: if ``jitter`` is not in [0, 1).
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0) -> None:
        super().__init__()
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter is {jitter}; it must be at least 0 and below 1, for example 0.01.")
        self.top_k = config.num_experts_per_tok
        self.jitter = jitter
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.num_local_experts)) if config.router_bias else None
        nn.init.normal_(self.weight, std=config.initializer_range)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route x [N, D].

        Returns:
            The logits of all experts [N, E], the weights of the chosen [N, K], which sum to one, and
            their numbers [N, K], best first.
        """
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        router_logits = linear(x, self.weight, self.bias)  # [N, E]
        chosen, indices = router_logits.topk(self.top_k, dim=-1)  # [N, K]
        return router_logits, chosen.softmax(dim=-1), indices


def moe_reference(moe: "MoE", x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a :class:`MoE` token by token and expert by expert: the slow, obvious version.

    Args:
        moe: the layer whose weights are used (without jitter).
        x: [B, T, D].

    Returns:
        The output [B, T, D] and the router logits [B·T, E].
    """
    experts, router = moe.experts, moe.router
    outputs, all_logits = [], []
    for token in x.flatten(0, 1):  # [D]
        logits = router.weight @ token
        if router.bias is not None:
            logits = logits + router.bias
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[: router.top_k]
        shares = torch.softmax(logits[chosen], dim=0)
        output = torch.zeros_like(token)
        for share, expert in zip(shares, chosen, strict=True):
            hidden = token @ experts.gate_up_proj[expert]  # [2F]
            if experts.gate_up_proj_bias is not None:
                hidden = hidden + experts.gate_up_proj_bias[expert]
            answer = swiglu(hidden, experts.alpha, experts.limit) @ experts.down_proj[expert]  # [D]
            if experts.down_proj_bias is not None:
                answer = answer + experts.down_proj_bias[expert]
            output = output + share * answer
        outputs.append(output)
        all_logits.append(logits)
    return torch.stack(outputs).view_as(x), torch.stack(all_logits)


class Dispatch(NamedTuple):
    """Where each choice of each token stands once they are sorted by expert."""

    token: Tensor  # [R], the token of every row; 0 in rows that only pad
    row: Tensor  # [N, K], the row of every choice
    segments: list[tuple[int, int]]  # for each expert its first row, and the row after its last


def sort_by_expert(indices: Tensor, num_experts: int, multiple: int = 1) -> Dispatch:
    """Group the choices of N tokens by expert, in the order of the tokens.

    Args:
        indices: [N, K], the experts that each token goes to.
        num_experts: E; experts without tokens get an empty segment.
        multiple: pad every segment to a multiple of this many rows.
    """
    choices = indices.flatten()  # [N·K]
    order = choices.argsort(stable=True)
    counts = torch.bincount(choices, minlength=num_experts).tolist()
    segments, shifts, start, end = [], [], 0, 0
    for count in counts:
        shifts.append(end - start)  # how many rows of padding stand before this expert
        start += count
        segments.append((end, end + -(-count // multiple) * multiple))
        end = segments[-1][1]
    rows = torch.arange(len(order), device=indices.device)
    rows = rows + torch.tensor(shifts, device=indices.device)[choices[order]]
    row = torch.empty_like(rows)
    row[order] = rows
    token = rows.new_zeros(end)
    token[rows] = order // indices.shape[1]
    return Dispatch(token, row.view_as(indices), segments)


def _num_rows(indices: Tensor, num_experts: int, multiple: int) -> int:
    """Return how many rows padded segments can need at most, whatever the router chooses."""
    return indices.numel() + num_experts * (multiple - 1)


def _of_expert(
    x: Tensor, weight: Tensor, bias: Tensor | None, expert: int, out: Tensor | None = None
) -> Tensor:
    """Return x @ weight + bias of one expert, whose numbers are cast to the precision of x."""
    return product(x, weight[expert].to(x.dtype), None if bias is None else bias[expert].to(x.dtype), out)


@torch.library.custom_op("gptoss_lib::experts", mutates_args=())
def _run_experts(
    x: Tensor,
    scores: Tensor,
    indices: Tensor,
    alpha: float,
    limit: float,
    multiple: int,
    gate_up_proj: Tensor,
    gate_up_bias: Tensor | None,
    down_proj: Tensor,
    down_bias: Tensor | None,
) -> list[Tensor]:
    """Make one product an expert; return the answer [N, D] and what the way back needs."""
    num_experts = len(down_proj)
    token, row, segments = sort_by_expert(indices, num_experts, multiple)
    token = F.pad(token, (0, _num_rows(indices, num_experts, multiple) - len(token)))
    rows = x[token]  # [R, D]
    gate, up, hidden = (x.new_empty(len(token), down_proj.shape[1]) for _ in range(3))
    answers = torch.empty_like(rows)
    for expert, (start, end) in enumerate(segments):
        if start == end:
            continue
        inner = _of_expert(rows[start:end], gate_up_proj, gate_up_bias, expert)  # [n, 2F]
        g, u = inner.unflatten(-1, (-1, 2)).unbind(-1)
        g, u = gate[start:end].copy_(g), up[start:end].copy_(u)
        hidden[start:end] = swiglu_parts(g, u, alpha, limit)
        _of_expert(hidden[start:end], down_proj, down_bias, expert, out=answers[start:end])
    out = F.embedding_bag(row, answers, mode="sum", per_sample_weights=scores)  # [N, D]
    ends = torch.tensor([end for _, end in segments])
    return [out, rows, gate, up, hidden, token, row, ends]


_GRADIENT_MEMORY = WeakTensorKeyDictionary()  # of every weight, the memory in which its last gradient was
_count_holders = getattr(torch._C, "_storage_Use_Count", None)  # not in every build of older versions


def _empty_gradient(weight: Tensor) -> Tensor:
    """Return an empty tensor like ``weight``, in the memory of its last gradient if nobody holds that."""
    if _count_holders is None or not weight.is_cpu:
        return torch.empty_like(weight)
    memory = _GRADIENT_MEMORY.get(weight)
    if memory is None or _count_holders(memory._cdata) > 1:  # the dictionary is one of the holders
        memory = _GRADIENT_MEMORY[weight] = torch.empty_like(weight).untyped_storage()
    return weight.new_empty(0).set_(memory, 0, weight.shape)


@torch.library.custom_op("gptoss_lib::experts_backward", mutates_args=())
def _experts_backward(
    grad_out: Tensor,
    scores: Tensor,
    saved: list[Tensor],
    alpha: float,
    limit: float,
    weights: list[Tensor | None],
    needed: list[bool],
) -> list[Tensor]:
    """Return the gradients of x, the scores, and those weights and biases that are needed."""
    rows, gate, up, hidden, token, row, ends = saved
    gate_up_proj, _, down_proj, down_bias = weights
    grads = [
        _empty_gradient(weight) if wanted else None for weight, wanted in zip(weights, needed, strict=True)
    ]
    share = scores.new_zeros(len(token), 1)  # a row that only pads has no share in anything
    share[row] = scores.unsqueeze(-1)
    grad_share, grad_rows = torch.empty_like(share), torch.empty_like(rows)
    start = 0
    for expert, end in enumerate(ends.tolist()):
        grad = grad_out[token[start:end]]  # [n, D]
        grad_hidden = product(grad, down_proj[expert].to(grad.dtype).t())  # [n, F]
        grad_share[start:end] = (grad_hidden * hidden[start:end]).sum(-1, keepdim=True)
        if down_bias is not None:
            grad_share[start:end] += (grad @ down_bias[expert].to(grad.dtype)).unsqueeze(-1)
        _put_gradients(hidden[start:end], grad.mul_(share[start:end]), expert, *grads[2:])
        grad_hidden.mul_(share[start:end])
        parts = swiglu_backward(grad_hidden, gate[start:end], up[start:end], alpha, limit)
        grad_inner = join_gate_up(*parts)  # [n, 2F]
        _put_gradients(rows[start:end], grad_inner, expert, *grads[:2])
        product(grad_inner, gate_up_proj[expert].to(grad.dtype).t(), out=grad_rows[start:end])
        start = end
    of_weights = [grad for grad in grads if grad is not None]
    return [F.embedding_bag(row, grad_rows, mode="sum"), grad_share.squeeze(-1)[row], *of_weights]


def _put_gradients(x: Tensor, grad: Tensor, expert: int, weight: Tensor | None, bias: Tensor | None) -> None:
    """Write one expert's gradients into ``weight`` [E, in, out] and ``bias`` [E, out], where needed."""
    if weight is not None:
        product(x.t(), grad, out=weight[expert])
    if bias is not None:
        torch.sum(grad, 0, out=bias[expert])


@_run_experts.register_fake
def _(x, scores, indices, alpha, limit, multiple, gate_up_proj, gate_up_bias, down_proj, down_bias):
    E, width = down_proj.shape[:2]
    rows = _num_rows(indices, E, multiple)
    inner = [x.new_empty(rows, width) for _ in range(3)]
    places = [indices.new_empty(shape) for shape in (rows, indices.shape, E)]
    return [torch.empty_like(x), x.new_empty(rows, x.shape[1]), *inner, *places]


@_experts_backward.register_fake
def _(grad_out, scores, saved, alpha, limit, weights, needed):
    chosen = [weight for weight, wanted in zip(weights, needed, strict=True) if wanted]
    return [torch.empty_like(x) for x in (grad_out, scores, *chosen)]


def _keep_for_backward(ctx, inputs, output):
    _, scores, _, ctx.alpha, ctx.limit, _, *weights = inputs
    ctx.save_for_backward(scores, *weights, *output[1:])


def _call_backward(ctx, grads):
    scores, *kept = ctx.saved_tensors
    weights, saved, needed = kept[:4], kept[4:], list(ctx.needs_input_grad[6:])
    results = _experts_backward(grads[0], scores, saved, ctx.alpha, ctx.limit, weights, needed)
    given = iter(results[2:])
    of_weights = [next(given) if wanted else None for wanted in needed]
    return *results[:2], None, None, None, None, *of_weights


_run_experts.register_autograd(_call_backward, setup_context=_keep_for_backward)


def _grouped_experts(x, scores, indices, alpha, limit, *weights):
    """Run all experts in two grouped products, without waiting for the device."""
    gate_up_proj, gate_up_bias, down_proj, down_bias = (w if w is None else w.to(x.dtype) for w in weights)
    expert, order = indices.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(len(down_proj), device=x.device), right=True).int()
    inner = F.grouped_mm(x[order // indices.shape[1]], gate_up_proj, offs=ends)  # [N·K, 2F]
    if gate_up_bias is not None:
        inner = inner + gate_up_bias[expert]
    answers = F.grouped_mm(swiglu(inner, alpha, limit), down_proj, offs=ends)  # [N·K, D]
    if down_bias is not None:
        answers = answers + down_bias[expert]
    row = torch.empty_like(order)
    row[order] = torch.arange(len(order), device=x.device)
    return (answers[row].view(*indices.shape, -1) * scores.unsqueeze(-1)).sum(dim=1)  # [N, D]


def _can_group(x: Tensor, weight: Tensor) -> bool:
    # The kernel wants bfloat16 and rows of whole 16-byte pieces.
    aligned = weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0
    return x.is_cuda and x.dtype == torch.bfloat16 and aligned and hasattr(F, "grouped_mm")


def _sorted_experts(x, scores, indices, alpha, limit, *weights):
    num_experts = len(weights[-2])
    # On a CPU oneDNN prepares every new size of a product, which small segments are not worth.
    multiple = 32 if x.dtype != torch.float32 else 16 if ONEDNN_IS_FASTER else 1
    if x.device.type != "cpu" or indices.numel() < multiple * num_experts:
        multiple = 1
    return _run_experts(x, scores, indices, alpha, limit, multiple, *weights)[0]


def _chosen_products(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Multiply x [K, in] by the weights of K experts out of [E, in, out]: sums of their rows, [K, out]."""
    K, width = len(chosen), weight.shape[1]
    pieces = math.gcd(width, 8)  # of a sum, so that many cores can share the work
    rows = chosen.unsqueeze(-1) * width + torch.arange(width, device=x.device)  # [K, in]
    rows, shares = (each.reshape(K * pieces, -1) for each in (rows, x))
    sums = F.embedding_bag(rows, weight.flatten(0, 1), mode="sum", per_sample_weights=shares)
    return sums.view(K, pieces, -1).sum(1)


def _experts_of_one_token(x, scores, indices, alpha, limit, gate_up_proj, gate_up_bias, down_proj, down_bias):
    dtype, chosen = x.dtype, indices[0]  # [K]
    x, scores = x.to(down_proj.dtype), scores.to(down_proj.dtype)
    inner = _chosen_products(x.expand(len(chosen), -1), gate_up_proj, chosen)  # [K, 2F]
    if gate_up_bias is not None:
        inner = inner + gate_up_bias[chosen]
    answers = _chosen_products(swiglu(inner, alpha, limit), down_proj, chosen)  # [K, D]
    if down_bias is not None:
        answers = answers + down_bias[chosen]
    return (scores @ answers).to(dtype)


class Experts(nn.Module):
    """E MLPs with SwiGLU, each applied to the tokens that chose it.

    Parameters have Hugging Face's names and layout, inputs before outputs: ``gate_up_proj`` [E, D, 2F]
    with gates and ups interleaved, and ``down_proj`` [E, F, D]. On a CPU, the memory of their gradients
    stays with them, for the next ones.

    Args:
        config: the sizes, SwiGLU's alpha and limit, and whether there are biases.
    """

    def __init__(self, config: GPTOSSConfig) -> None:
        super().__init__()
        E, D, width = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit
        self.gate_up_proj = nn.Parameter(torch.empty(E, D, 2 * width))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(E, 2 * width)) if config.expert_bias else None
        self.down_proj = nn.Parameter(torch.empty(E, width, D))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D)) if config.expert_bias else None
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(self, x: Tensor, indices: Tensor, scores: Tensor) -> Tensor:
        """Send each token to its experts and add up their answers.

        Args:
            x: [N, D].
            indices: [N, K], the experts of each token, all different.
            scores: [N, K], the weights of their answers.

        Returns:
            [N, D].
        """
        weights = (self.gate_up_proj, self.gate_up_proj_bias, self.down_proj, self.down_proj_bias)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, scores = x.to(dtype), scores.to(dtype)
        if len(x) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
            run = _experts_of_one_token
        else:
            run = _grouped_experts if _can_group(x, self.gate_up_proj) else _sorted_experts
        with torch.autocast(kind, enabled=False):
            return run(x, scores, indices, self.alpha, self.limit, *weights)


class MoE(nn.Module):
    """A router and its experts, in the place of GPT-2's MLP.

    Args:
        config: the architecture.
        jitter: noise on the router's input during training, see :class:`Router`.
        allow_frozen_router: train although only one expert works on a token, which leaves the router
            without any gradient from the output.

    Raises:
        ValueError: if ``jitter`` is not in [0, 1).
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0, allow_frozen_router: bool = False) -> None:
        super().__init__()
        self.router = Router(config, jitter)
        self.experts = Experts(config)
        self.allow_frozen_router = allow_frozen_router

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map the normalized stream x [B, T, D] to an update [B, T, D] and the router logits [B·T, E].

        Raises:
            ValueError: if x has another width than the layer, or if the layer is trained with one
                expert a token without ``allow_frozen_router``.
        """
        num_experts, width = self.router.weight.shape
        if x.shape[-1] != width:
            raise ValueError(f"x has {x.shape[-1]} features, but this layer was made for {width}.")
        frozen = self.router.top_k == 1 < num_experts and not self.allow_frozen_router
        if frozen and self.training and torch.is_grad_enabled():
            raise ValueError(
                "num_experts_per_tok is 1: the softmax over one score is always 1, so the router gets no "
                "gradient from the output; use 2 or more, or pass allow_frozen_router=True."
            )
        tokens = x.flatten(0, -2)  # [B·T, D]
        router_logits, scores, indices = self.router(tokens)
        return self.experts(tokens, indices, scores).view_as(x), router_logits


def expert_load(router_logits: Tensor, num_experts_per_tok: int, mask: Tensor | None = None) -> Tensor:
    """Return the share of tokens that choose each expert, [E]; the shares sum to K.

    Args:
        router_logits: [N, E].
        num_experts_per_tok: K.
        mask: [N], zero where a token is padding and does not count.

    Raises:
        ValueError: if ``router_logits`` is not [N, E] with E of at least K.
    """
    if router_logits.dim() != 2 or not 1 <= num_experts_per_tok <= router_logits.shape[1]:
        raise ValueError(
            f"router_logits has shape {list(router_logits.shape)}, but {num_experts_per_tok} experts a token "
            "need [tokens, experts] with at least that many experts."
        )
    count = torch.ones_like(router_logits[:, 0], dtype=torch.float32) if mask is None else mask.float()
    indices = router_logits.detach().topk(num_experts_per_tok, dim=-1).indices  # [N, K]
    load = count.new_zeros(router_logits.shape[1])
    load.index_add_(0, indices.flatten(), count.repeat_interleave(num_experts_per_tok))
    return load / count.sum()


def load_balancing_loss(
    router_logits: Tensor, num_experts_per_tok: int, mask: Tensor | None = None
) -> Tensor:
    """Return E · Σ load · probability of one layer: K where the load is even, up to E where it is not.

    Switch Transformer, equations 4 to 6, for any K, as ``load_balancing_loss_func`` in transformers.
    Call it for every layer and average: logits of several layers put together hide that each of
    them has its own favourites. (transformers puts them together: concatenate them for its number.)

    Args:
        router_logits: [N, E]; the gradient flows through their softmax.
        num_experts_per_tok: K.
        mask: [N], zero where a token is padding and does not count.

    Raises:
        ValueError: where :func:`expert_load` does.
    """
    load = expert_load(router_logits, num_experts_per_tok, mask)
    probabilities = router_logits.float().softmax(dim=-1)  # [N, E]
    if mask is None:
        mean = probabilities.mean(dim=0)  # [E]
    else:
        mean = (probabilities * mask.unsqueeze(-1)).sum(dim=0) / mask.sum()
    return router_logits.shape[1] * (load * mean).sum()


def importance_loss(router_logits: Tensor, num_experts_per_tok: int) -> Tensor:
    """Return the squared coefficient of variation of what the experts weigh in a batch; 0 is balanced.

    From "Outrageously Large Neural Networks" (Shazeer et al., 2017), equations 6 and 7. With one
    expert a token all weights are 1, and there is no gradient.

    Args:
        router_logits: [N, E]; the gradient flows through the softmax of the chosen.
        num_experts_per_tok: K.
    """
    chosen, indices = router_logits.float().topk(num_experts_per_tok, dim=-1)  # [N, K]
    importance = chosen.new_zeros(router_logits.shape[1])
    importance = importance.index_add(0, indices.flatten(), chosen.softmax(dim=-1).flatten())  # [E]
    return importance.var(unbiased=False) / importance.mean().square()


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Return the mean squared logsumexp of router logits [N, E], which keeps them small.

    From "ST-MoE" (Zoph et al., 2022), equation 5.
    """
    return router_logits.float().logsumexp(dim=-1).square().mean()
