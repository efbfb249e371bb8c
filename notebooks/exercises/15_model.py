# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: The model
#
# Three exercises to the chapter [The model](../15_model.ipynb). You wire a GPT-OSS from its parts; you write the tool that finds the wrong wire in somebody else's; and you compute the loss of a large vocabulary with little memory, gradients included.

# %% tags=["setup"]

# %%
import torch

from gptoss_lib.checks import model as check

# %% [markdown]
# ## 1. Wire it yourself
#
# You get the parts of a model and no wires: `parts.embed_tokens`, `parts.embed_norm` (or None), `parts.layers`, `parts.norm`, `parts.rotary_emb` and `parts.lm_head`. Each layer has `input_layernorm`, `self_attn`, `post_attention_layernorm` and `mlp`. `parts.rotary_emb(positions)` gives the angles, `layer.self_attn(x, angles)` the attention's answer, and `layer.mlp(x)` a pair: the experts' answer and the router's logits, which you do not need. Return the logits.


# %% nbgrader={"grade": false, "grade_id": "wire", "locked": false, "schema_version": 3, "solution": true, "task": false}
def wire(parts, ids):
    """Map token ids [B, T] to logits [B, T, V]."""
    ### BEGIN SOLUTION
    angles = parts.rotary_emb(torch.arange(ids.shape[1]))
    x = parts.embed_tokens(ids)
    if parts.embed_norm is not None:
        x = parts.embed_norm(x)
    for layer in parts.layers:
        x = x + layer.self_attn(layer.input_layernorm(x), angles)
        x = x + layer.mlp(layer.post_attention_layernorm(x))[0]
    return parts.lm_head(parts.norm(x))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "wire-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.wire(wire)
### BEGIN HIDDEN TESTS
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.model import GPTOSS

torch.manual_seed(0)
model = GPTOSS(GPTOSSConfig.preset("xs")).eval()
model.model.lm_head = model.lm_head
ids = torch.randint(2048, (2, 40))
with torch.no_grad():
    assert torch.allclose(wire(model.model, ids), model(ids), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Find the bug
#
# Two models, `right` and `wrong`, are instances of `GPTOSS` with the same architecture. Somewhere in `wrong` a fault is planted: a window of another length, a part left out, a weight changed, a router that takes its steps in another order. Write the function that finds it: return the number of the block, from 0, and `"attention"` or `"experts"`, the half in which it is (each half begins with its norm). If there are several faults, name the first. If the models differ by rounding only, return None.
#
# The text `ids` is long enough to show every fault. `check.mystery(0)`, `check.mystery(1)` and so on return `right, wrong, ids` to play with, every time with another fault; look at them before you write anything. Two hints from the chapter: give both models' parts the *right* input, and let "different" mean far more than rounding.


# %% nbgrader={"grade": false, "grade_id": "find-bug", "locked": false, "schema_version": 3, "solution": true, "task": false}
def find_bug(right, wrong, ids):
    """Return (block, "attention" or "experts"), or None where there is nothing but rounding."""
    ### BEGIN SOLUTION

    def far(a, b):
        return bool((a - b).norm() > 1e-4 * a.norm())

    with torch.no_grad():
        angles = right.model.rotary_emb(torch.arange(ids.shape[1]))
        x = right.model.embed_tokens(ids)
        if right.model.embed_norm is not None:
            x = right.model.embed_norm(x)
        pairs = zip(right.model.layers, wrong.model.layers, strict=True)
        for index, blocks in enumerate(pairs):
            good, bad = (block.self_attn(block.input_layernorm(x), angles) for block in blocks)
            if far(good, bad):
                return index, "attention"
            x = x + good
            good, bad = (block.mlp(block.post_attention_layernorm(x))[0] for block in blocks)
            if far(good, bad):
                return index, "experts"
            x = x + good
    return None
    ### END SOLUTION


# %%
for number in range(5):
    try:
        print(number, find_bug(*check.mystery(number)))
    except NotImplementedError:
        print(number, "not found yet")

# %% nbgrader={"grade": true, "grade_id": "find-bug-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.find_bug(find_bug)
### BEGIN HIDDEN TESTS
import copy

right, _, ids = check.mystery(7)
wrong = copy.deepcopy(right)
assert find_bug(right, wrong, ids) is None
wrong.model.layers[4].self_attn.window = None
assert tuple(find_bug(right, wrong, ids)) == (4, "attention")
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The loss in chunks
#
# Compute the mean cross-entropy of the logits `hidden @ weight.T`, and its gradients with respect to `hidden` and `weight`, *without autograd* and without making any tensor larger than a chunk of logits, `[chunk, V]` (the sizes of `hidden` and `weight` are fine too). The mean is over the tokens that have a label: −100 says that there is none. Logits may be in the thousands, where a plain `exp` overflows.


# %% nbgrader={"grade": false, "grade_id": "chunked-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def chunked_loss(hidden, weight, labels, chunk):
    """Return the loss and its gradients with respect to hidden and weight.

    hidden is [N, D], weight [V, D], labels [N]; the gradients are [N, D] and [V, D].
    """
    ### BEGIN SOLUTION
    count = (labels != -100).sum()
    loss, grad_hidden, grad_weight = 0.0, torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        kept = (labels[part] != -100).unsqueeze(-1)  # [n, 1]
        target = labels[part].unsqueeze(-1).clamp(min=0)
        log_p = (hidden[part] @ weight.T).log_softmax(-1)  # [n, V]
        loss = loss - (log_p.gather(-1, target) * kept).sum() / count
        grad = log_p.exp().scatter_add_(-1, target, torch.full(target.shape, -1.0))
        grad = grad * kept / count  # softmax − one-hot
        grad_hidden[part] = grad @ weight
        grad_weight += grad.T @ hidden[part]
    return loss, grad_hidden, grad_weight
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "chunked-loss-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.chunked_loss(chunked_loss)
### BEGIN HIDDEN TESTS
h, w, y = torch.zeros(3, 2), torch.ones(4, 2), torch.tensor([1, -100, 2])
loss, grad_h, grad_w = chunked_loss(h, w, y, 2)
assert abs(float(loss) - 1.3862943) < 1e-5 and grad_w.abs().max() == 0
assert grad_h.abs().max() < 1e-6
### END HIDDEN TESTS
