"""The checks to chapter 15 accept the solutions and name the mistakes in wrong answers."""

import torch

from gptoss_lib.checks import model as checks
from tests.checks.catalogue import Catalogue

WIRE = Catalogue("model", "wire")


def stack(parts, ids, block, positions=None, embed_norm=True, norm=True):
    """Run the parts with ``block(layer, x, angles)`` as the wiring of one layer."""
    angles = parts.rotary_emb(torch.arange(ids.shape[1]) if positions is None else positions)
    x = parts.embed_tokens(ids)
    if embed_norm and parts.embed_norm is not None:
        x = parts.embed_norm(x)
    for layer in parts.layers:
        x = block(layer, x, angles)
    return parts.lm_head(parts.norm(x) if norm else x)


def right_block(layer, x, angles):
    x = x + layer.self_attn(layer.input_layernorm(x), angles)
    return x + layer.mlp(layer.post_attention_layernorm(x))[0]


@WIRE.wrong("last norm")
def without_last_norm(parts, ids):
    return stack(parts, ids, right_block, norm=False)


@WIRE.wrong("after the embedding")
def without_embedding_norm(parts, ids):
    return stack(parts, ids, right_block, embed_norm=False)


@WIRE.wrong("position 0")
def without_positions(parts, ids):
    return stack(parts, ids, right_block, positions=torch.zeros(ids.shape[1], dtype=torch.long))


@WIRE.wrong("last to first")
def from_the_top(parts, ids):
    parts.layers.reverse()
    result = stack(parts, ids, right_block)
    parts.layers.reverse()
    return result


@WIRE.wrong("swapped")
def other_norms(parts, ids):
    def block(layer, x, angles):
        x = x + layer.self_attn(layer.post_attention_layernorm(x), angles)
        return x + layer.mlp(layer.input_layernorm(x))[0]

    return stack(parts, ids, block)


@WIRE.wrong("as the first transformers did")
def post_norm(parts, ids):
    def block(layer, x, angles):
        x = layer.input_layernorm(x + layer.self_attn(x, angles))
        return layer.post_attention_layernorm(x + layer.mlp(x)[0])

    return stack(parts, ids, block)


@WIRE.wrong("from before the attention")
def side_by_side(parts, ids):
    def block(layer, x, angles):
        update = layer.mlp(layer.post_attention_layernorm(x))[0]
        return x + layer.self_attn(layer.input_layernorm(x), angles) + update

    return stack(parts, ids, block)


@WIRE.wrong("replaces the stream")
def no_additions(parts, ids):
    def block(layer, x, angles):
        x = layer.self_attn(layer.input_layernorm(x), angles)
        return layer.mlp(layer.post_attention_layernorm(x))[0]

    return stack(parts, ids, block)


@WIRE.wrong("experts replace")
def one_addition(parts, ids):
    def block(layer, x, angles):
        x = x + layer.self_attn(layer.input_layernorm(x), angles)
        return layer.mlp(layer.post_attention_layernorm(x))[0]

    return stack(parts, ids, block)


@WIRE.wrong("normalized copy")
def adds_to_the_copy(parts, ids):
    def block(layer, x, angles):
        x = layer.input_layernorm(x)
        x = x + layer.self_attn(x, angles)
        x = layer.post_attention_layernorm(x)
        return x + layer.mlp(x)[0]

    return stack(parts, ids, block)


@WIRE.wrong("raw stream")
def no_norms(parts, ids):
    def block(layer, x, angles):
        x = x + layer.self_attn(x, angles)
        return x + layer.mlp(x)[0]

    return stack(parts, ids, block)


@WIRE.wrong("embed_norm is None")
def always_an_embedding_norm(parts, ids):
    if parts.embed_norm is None:
        return torch.zeros(2, 40, 61)
    return stack(parts, ids, right_block)


@WIRE.wrong("TypeError")
def forgets_the_pair(parts, ids):
    def block(layer, x, angles):
        x = x + layer.self_attn(layer.input_layernorm(x), angles)
        return x + layer.mlp(layer.post_attention_layernorm(x))

    return stack(parts, ids, block)


BUG = Catalogue("model", "find_bug")


@torch.no_grad()
def outputs(model, ids):
    """What every half of every block gives, in order."""
    kept = []
    hooks = [
        part.register_forward_hook(
            lambda module, inputs, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.model.layers
        for part in (layer.self_attn, layer.mlp)
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return kept


def sizes(right, wrong, ids):
    pairs = zip(outputs(right, ids), outputs(wrong, ids), strict=True)
    return [float((a - b).norm() / a.norm()) for a, b in pairs]


def name(index):
    return index // 2, ("attention", "experts")[index % 2]


def first_above(differences, threshold):
    return next((name(index) for index, size in enumerate(differences) if size > threshold), None)


def test_a_solution_with_hooks_is_right_too():
    checks.find_bug(lambda right, wrong, ids: first_above(sizes(right, wrong, ids), 1e-4))


@BUG.wrong("rounding only")
def any_difference_at_all(right, wrong, ids):
    return first_above(sizes(right, wrong, ids), 0.0)


@BUG.wrong("small fault")
def too_coarse(right, wrong, ids):
    return first_above(sizes(right, wrong, ids), 2e-2)


@BUG.wrong("same weights")
def compares_weights(right, wrong, ids):
    for index, (good, bad) in enumerate(zip(right.model.layers, wrong.model.layers, strict=True)):
        theirs = dict(bad.named_parameters())
        for key, value in good.named_parameters():
            if key in theirs and not torch.equal(value, theirs[key]):
                return index, "attention" if key.startswith(("self_attn", "input")) else "experts"
    return None


@BUG.wrong("longer than the window")
def short_text(right, wrong, ids):
    return first_above(sizes(right, wrong, ids[:, :8]), 1e-4)


@BUG.wrong("count from 0")
def counts_from_one(right, wrong, ids):
    found = first_above(sizes(right, wrong, ids), 1e-4)
    return found and (found[0] + 1, found[1])


@BUG.wrong("wrong way round")
def halves_swapped(right, wrong, ids):
    found = first_above(sizes(right, wrong, ids), 1e-4)
    return found and (found[0], "experts" if found[1] == "attention" else "attention")


@BUG.wrong("always the same")
def block_only(right, wrong, ids):
    found = first_above(sizes(right, wrong, ids), 1e-4)
    return found and (found[0], "attention")


@BUG.wrong("name the first")
def last_difference(right, wrong, ids):
    found = [index for index, size in enumerate(sizes(right, wrong, ids)) if size > 1e-4]
    return name(found[-1]) if found else None


@BUG.wrong("finds nothing")
def optimist(right, wrong, ids):
    return None


@BUG.wrong("Return a tuple")
def number_only(right, wrong, ids):
    return 3


LOSS = Catalogue("model", "chunked_loss")


def in_chunks(
    hidden, weight, labels, chunk, count=None, starts=None, keep=True, one_hot=True, add=True, by=None
):
    """The solution, with a switch for every mistake."""
    kept = labels != -100
    count = kept.sum() if count is None else count
    loss, grad_hidden, grad_weight = 0.0, torch.zeros_like(hidden), torch.zeros_like(weight)
    for start in starts or range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        mask = kept[part].unsqueeze(-1) if keep else torch.ones(len(labels[part]), 1)
        target = labels[part].unsqueeze(-1).clamp(min=0)
        log_p = (hidden[part] @ weight.T).log_softmax(-1)
        loss = loss - (log_p.gather(-1, target) * mask).sum() / count
        grad = log_p.exp()
        if one_hot:
            grad = grad.scatter_add_(-1, target, torch.full(target.shape, -1.0))
        grad = grad * mask / (count if by is None else by)
        grad_hidden[part] = grad @ weight
        grad_weight = grad.T @ hidden[part] + (grad_weight if add else 0)
    return loss, grad_hidden, grad_weight


@LOSS.wrong("numbers was made")
def all_at_once(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, len(hidden))


@LOSS.wrong("sum of the losses")
def the_sum(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, count=1)


@LOSS.wrong("divided by all")
def by_all_tokens(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, count=len(labels))


@LOSS.wrong("mean of the chunks' means")
def mean_of_means(hidden, weight, labels, chunk):
    pieces = [
        in_chunks(h, weight, y, chunk) for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)
    ]
    losses, hiddens, weights = zip(*pieces, strict=True)
    return sum(losses) / len(losses), torch.cat(hiddens) / len(losses), sum(weights) / len(losses)


@LOSS.wrong("taken for a token")
def nothing_is_ignored(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, count=len(labels), keep=False)


@LOSS.wrong("the rest is lost")
def whole_chunks_only(hidden, weight, labels, chunk):
    starts = range(0, len(hidden) - chunk + 1, chunk)
    return in_chunks(hidden, weight, labels, chunk, starts=starts)


@LOSS.wrong("that of the sum")
def gradient_of_the_sum(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, by=1)


@LOSS.wrong("wrong sign")
def one_hot_minus_softmax(hidden, weight, labels, chunk):
    loss, grad_hidden, grad_weight = in_chunks(hidden, weight, labels, chunk)
    return loss, -grad_hidden, -grad_weight


@LOSS.wrong("without the one-hot")
def softmax_only(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, one_hot=False)


@LOSS.wrong("without a label have a gradient")
def ignored_tokens_learn(hidden, weight, labels, chunk):
    loss, grad_hidden, grad_weight = in_chunks(hidden, weight, labels, chunk)
    return loss, torch.where((labels == -100)[:, None], 0.1, grad_hidden), grad_weight


@LOSS.wrong("last chunk's")
def overwrites_the_weight(hidden, weight, labels, chunk):
    return in_chunks(hidden, weight, labels, chunk, add=False)


@LOSS.wrong("overflow")
def plain_exponentials(hidden, weight, labels, chunk):
    _, grad_hidden, grad_weight = in_chunks(hidden, weight, labels, chunk)
    loss = 0.0
    for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        p = (h @ weight.T).exp()
        p = p / p.sum(-1, keepdim=True)
        loss = loss - (p.gather(-1, y.clamp(min=0)[:, None]).log()[:, 0] * (y != -100)).sum()
    return loss / (labels != -100).sum(), grad_hidden, grad_weight


test_wire = WIRE.test
test_find_bug = BUG.test
test_chunked_loss = LOSS.test


def test_mysteries_show_on_their_text():
    for number in range(12):
        right, wrong, ids = checks.mystery(number)
        assert first_above(sizes(right, wrong, ids), 1e-4) is not None, number
