# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices
#
# One device is too small for a large model and too slow for a small one. This chapter trains one GPT-OSS on many devices, and holds itself to a strict rule: the number of devices may change how long a run takes and how much memory it needs, and nothing else. Same data, same losses, same model.
#
# **You will**
#
# - write data parallelism by hand, and get the gradients of one process with the whole batch;
# - count what travels: bytes around a ring, and collectives under gradient accumulation;
# - shard weights, gradients and optimizer state with FSDP2, and compute the memory of every stage;
# - trade memory for time with activation checkpointing, and catch the bug that recomputes the wrong layer;
# - write checkpoints that load on another number of processes, and kill a process in mid-run;
# - work out on paper what it would cost to train gpt-oss-20b.
#
# **Time:** 2 hours. **Hardware:** any CPU with two cores; the chapter runs in about a minute. Two processes stand in for two GPUs. They talk through the same functions, but nothing in this chapter was run on a GPU: statements about GPUs are arithmetic or cited, and the code paths that need one are marked.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# Training keeps more than weights. With Adam in mixed precision every parameter costs 16 bytes before the first activation is stored: 2 for the weight, 2 for its gradient, 4 for an exact copy of the weight, 8 for two moments ([Rajbhandari et al., 2019](https://arxiv.org/abs/1910.02054), section 3.1). And every token costs about six operations for each parameter that works on it ([The map](01_map.ipynb)). Here is what that means for one GPU with 80 GB that sustains 400 teraFLOPs a second. We take an H100 for it: [NVIDIA's data sheet](https://www.nvidia.com/en-us/data-center/h100/) promises 1,979 for bf16 "with sparsity", so 989 for ordinary, dense matrices, and we assume 40 percent of that.

# %%
from gptoss_lib.config import GPTOSSConfig, count_parameters, flops_per_token

for name, tokens in (("compact", 4e9), ("gpt-oss-20b", 10e12), ("gpt-oss-120b", 10e12)):
    config = GPTOSSConfig.preset(name)
    parameters = count_parameters(config).total
    flops = flops_per_token(config, 4096, mean=True).training
    days = tokens * flops / 400e12 / 86_400
    print(
        f"{name:13s} {16 * parameters / 1e9:7,.1f} GB without activations; "
        f"{tokens / 1e9:6,.0f} billion tokens take {days:9,.1f} days"
    )

# %% [markdown]
# The compact model fits, and is done within hours. The published ones do neither: the smaller one is four times too large for the device, and at ten trillion tokens (a number of our choice) both would take about two decades. The two problems need two different cures:
#
# - **Too slow:** give every device its own part of the batch. That is *data parallelism*.
# - **Too large:** give every device its own part of the model. We start with the gentlest form, in which each device still computes with the whole model, but borrows most of it: *sharded* data parallelism.

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, axes = new_figure(7.2, 2.7, ncols=2)
for ax, title in zip(axes, ("data parallel", "sharded data parallel"), strict=True):
    for rank in range(2):
        x = 2.6 * rank
        box(ax, x, 2.3, 2.2, 0.6, f"rows of process {rank}", "grey", fontsize=8)
        arrow(ax, (x + 1.1, 2.3), (x + 1.1, 1.95))
        if title == "data parallel":
            box(ax, x, 1.0, 2.2, 0.9, "whole model", "blue", fontsize=9)
        else:
            box(ax, x, 1.0, 1.1, 0.9, "half 0", "blue" if rank == 0 else "grey", fontsize=9)
            box(ax, x + 1.1, 1.0, 1.1, 0.9, "half 1", "grey" if rank == 0 else "blue", fontsize=9)
        arrow(ax, (x + 1.1, 1.0), (x + 1.1, 0.65))
    text = "all-reduce gradients" if title == "data parallel" else "gather weights, scatter gradients"
    box(ax, 0, 0.0, 4.8, 0.6, text, "orange", fontsize=9)
    ax.set(xlim=(-0.1, 4.9), ylim=(-0.1, 3.0), xticks=[], yticks=[], title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
show(
    fig,
    alt="Two diagrams with two processes each. Data parallel: each process has its own rows and the whole model, and "
    "gradients are all-reduced. Sharded: each process owns one half of the model and borrows the other half; weights "
    "are gathered and gradients scattered.",
)

# %% [markdown]
# ## Two processes
#
# Every device gets a process of its own. They all run the same program; what tells them apart is a number, the **rank**. The number of processes is the **world size**. They talk in **collectives**, calls that all of them make together. The most important one is the **all-reduce**: everybody brings a tensor, everybody gets the sum. If one process does not come, the others wait.
#
# A collective needs a way to send bytes: NCCL between GPUs, gloo between CPUs. And somebody has to start the processes and tell them their ranks: `torchrun` does, through environment variables.

# %%
#| export
"""Train one GPT-OSS on many devices, so that their number changes the time and the memory, and nothing else.

Every process reads its own rows of the same global batch, and gradients are means over all tokens of
all processes. DDP keeps a whole model on each device, FSDP2 a slice. Checkpoints are slices too, in
safetensors files that any other number of processes can read.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.data import Batches, TokenData, bits_per_byte, validation_batches
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import expert_load, router_z_loss
from gptoss_lib.pretraining import RunConfig, build_model, model_config, prepare_data
from gptoss_lib.settings import keep_memory
from gptoss_lib.training import (
    IGNORED,
    MAY_CHANGE,
    Logger,
    TrainingConfig,
    adamw,
    learning_rate_at,
    read_log,
    save_checkpoint,
)


class World(NamedTuple):
    """This process among all that train together."""

    rank: int  # its number, from 0
    size: int  # how many there are
    device: torch.device  # where its tensors live


_groups: list[dist.ProcessGroup] = []


@contextmanager
def process_group(device: str = "cpu", timeout: float = 600.0) -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, be a world of one.

    Args:
        device: "cpu" (processes talk through gloo) or "cuda" (through NCCL, one GPU a process).
        timeout: seconds after which waiting for the others becomes an error.
    """
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    options = {"backend": "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"}
    if "RANK" not in os.environ:
        options |= {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group(timeout=timedelta(seconds=timeout), **options)
    # A model that DDP wraps holds the group too. Were it the last to let go, it would wait for the group's
    # threads without giving up Python's lock, which those threads may need: neither could go on.
    _groups.append(dist.group.WORLD)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


# %% [markdown]
# A notebook is one process, and torchrun starts files. So here is a small helper: it writes a function that you see in a cell into a file of its own and starts that with two processes. `--standalone` makes torchrun find a free port.

# %%
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRATCH = Path(tempfile.mkdtemp())
HEADER = """\
import torch
import torch.distributed as dist
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.distributed import *
from gptoss_lib.model import GPTOSS
"""


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def launch(function, *arguments):
    script = SCRATCH / f"{function.__name__}.py"
    script.write_text(f"{HEADER}\n{inspect.getsource(function)}\n{function.__name__}()\n")
    return torchrun(script, *arguments)


# %% [markdown]
# Now data parallelism by hand. Two processes build the same model from the same seed. Each takes two of the four rows of a batch and computes gradients; then every gradient goes through an all-reduce and is divided by the number of processes. To check, process 0 also computes the gradient of all four rows alone.


# %%
def by_hand():
    with process_group() as world:
        config = GPTOSSConfig.preset("xs")
        torch.manual_seed(0)
        model, alone = GPTOSS(config), GPTOSS(config)
        alone.load_state_dict(model.state_dict())
        tokens = torch.randint(config.vocab_size, (4, 65))
        input_ids, labels = tokens[:, :-1], tokens[:, 1:]
        mine = slice(2 * world.rank, 2 * world.rank + 2)
        model(input_ids[mine], labels=labels[mine])[0].backward()
        alone(input_ids, labels=labels)[0].backward()
        pairs = list(zip(model.parameters(), alone.parameters(), strict=True))

        def difference():
            return max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs)

        before = difference()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size
        if world.rank == 0:
            print(f"before: somewhere more than half off: {before > 0.5}")
            print(f"after: everywhere within 1e-5: {difference() < 1e-5}")


print(launch(by_hand).stdout)

# %% [markdown]
# Half a batch has a clearly different gradient. The mean of both halves' gradients is the gradient of the whole, up to the order in which fp32 numbers are added. This is all that `DistributedDataParallel`, **DDP**, does; the rest of it is speed.
#
# Each process then makes the same optimizer step with the same gradient from the same weights, so the copies stay equal without ever being compared.

# %% [markdown]
# ## The data does not know
#
# "Each takes its rows" hides a decision. Popular samplers give process $r$ the examples $r, r + n, r + 2n, \dots$ of an order of its own, so the batches of a run depend on $n$, and two runs on different machines cannot be compared. We want the opposite: the config says what the global batch is, and the processes share it.
#
# The batches of [Data](04_data.ipynb) make this easy. They number all rows of a run in a row, and row $i$ depends on the seed and on $i$ alone. With $n$ processes, each reads batches of $B / n$ rows, and process $r$ takes number $r$ of every $n$. No row is read twice, and none in vain.


# %%
#| export
def rank_batches(batches: Batches, world: World, first: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's rows of ``count`` global micro-batches, the first one being number ``first``.

    Process r of n reads every n-th small batch, so n processes together read the rows that one process
    with batches n times as large would read.

    Args:
        batches: of B/n rows each.
        world: this process.
        first: how many global micro-batches the run has had.
        count: how many to read.
    """
    for number in range(first, first + count):
        batches.step = number * world.size + world.rank
        yield next(batches)


# %%
cpu = torch.device("cpu")
stream = np.arange(100)
whole = [ids[:, 0].tolist() for ids, _ in rank_batches(Batches(stream, 4, 5), World(0, 1, cpu), 0, 3)]
print("1 process:  ", whole)
for rank in range(2):
    part = rank_batches(Batches(stream, 2, 5), World(rank, 2, cpu), 0, 3)
    print(f"rank {rank} of 2:", [ids[:, 0].tolist() for ids, _ in part])

# %% [markdown]
# (Each number is the first token of a row.) The rows of both processes, put together, are the batch of the one.

# %% [markdown]
# ## The mean over all tokens
#
# DDP averages *gradients over processes*. The loss is a mean *over tokens*. The two agree only where every process predicts the same number of tokens. In pretraining on packed text they do. In fine-tuning, where prompts and padding have labels that are ignored, they do not, and a token on a process with few of them counts for more:

# %%
losses = [torch.tensor([2.0, 2.0, 2.0, 2.0]), torch.tensor([6.0])]  # of the tokens of two processes
of_means = torch.stack([part.mean() for part in losses]).mean()
print(f"mean of the means: {of_means:.1f}    mean over all tokens: {torch.cat(losses).mean():.1f}")

# %% [markdown]
# The remedy costs one tiny all-reduce. Let process $r$ have $c_r$ predicted tokens with the mean loss $\ell_r$, and all together $C = \sum_r c_r$. What we want is
#
# $$\frac{1}{C} \sum_r c_r \ell_r ,$$
#
# so process $r$ multiplies its mean by its share $c_r / C$. In words: weigh each mean by how many tokens stand behind it. DDP (and FSDP2) will divide the sum of gradients by $n$, so we multiply by $n$ first. Gradient accumulation is the same thing in time instead of space ([Training](06_training.ipynb)): the $C$ of an update counts the tokens of all its micro-batches on all processes.
#
# The router losses are means over *all* tokens, predicted or not. Their weight is the micro-batch's share, split evenly.


# %%
#| export
def global_shares(counts: Tensor, world: World) -> tuple[Tensor, Tensor, int]:
    """Return what a process's means weigh in the means over everything in an update.

    Args:
        counts: [A], the predicted tokens of this process's micro-batches.
        world: this process.

    Returns:
        For each micro-batch [A] the weight of this process's mean over predicted tokens, and that of its
        mean over all tokens (every process has as many); and the predicted tokens of the whole update.
    """
    totals = counts.double()
    dist.all_reduce(totals)
    tokens = totals.sum()
    return counts / tokens, totals / tokens / world.size, int(tokens)


# %%
with process_group() as world:
    shares, router_shares, tokens = global_shares(torch.tensor([30, 10]), world)
print("two micro-batches with 30 and 10 labels weigh", shares.tolist(), "of", tokens, "tokens")

# %% [markdown]
# ## Balance over all processes
#
# A mixture of experts adds a trap. The balancing loss of [Mixture of experts](14_mixture_of_experts.ipynb) is $E \sum_e f_e P_e$ with the load $f_e$ of a batch. Of *which* batch? If every process balances its own few rows, a text about cooking that lands on one device must spread over all experts there, although the whole batch was balanced. [Qiu et al., 2025](https://arxiv.org/abs/2501.11873) compared the two on mixtures of up to 42.8 billion parameters: with the load of the global batch, perplexity and downstream scores improved, and the experts specialized more by domain.
#
# Two processes, each with texts of one kind, and a router that has learned to tell them apart:

# %%
from gptoss_lib.moe import load_balancing_loss

cooking = torch.tensor([[2.0, 2.0, 0.0, 0.0]]).repeat(8, 1)
code = cooking.flip(1)
alone = torch.stack([load_balancing_loss(logits, 2) for logits in (cooking, code)]).mean()
together = load_balancing_loss(torch.cat([cooking, code]), 2)
print(f"mean of the processes' own losses {alone:.3f}; of the whole batch {together:.3f} (2 is balance)")

# %% [markdown]
# Alone, each process punishes its experts for doing their job. There is also our own rule: a loss that depends on the number of processes breaks it. So the load is summed over all processes. Only the load: it is a count without a gradient, and given $f$, the loss is linear in $P$, so the mean over processes of $E \sum f_e P_e^{(r)}$ is the loss of the whole batch. One all-reduce of a small $[L, E]$ table serves all layers.
#
# (Under gradient accumulation each micro-batch has its own load, here as in chapter 06's trainer. A larger micro-batch is a kinder judge.)


# %%
#| export
def global_balance_loss(router_logits: list[Tensor], num_experts_per_tok: int) -> Tensor:
    """Return the balancing loss, its mean over layers, with the load that all processes have together.

    :func:`gptoss_lib.moe.load_balancing_loss` of the whole batch is the mean of the results over processes,
    and so are its gradients, because the loss is linear in the probabilities.

    Args:
        router_logits: one [N, E] a layer, the same N on every process.
        num_experts_per_tok: K.
    """
    loads = torch.stack([expert_load(logits, num_experts_per_tok) for logits in router_logits])  # [L, E]
    dist.all_reduce(loads)
    loads /= dist.get_world_size()
    probabilities = torch.stack([logits.float().softmax(-1).mean(0) for logits in router_logits])  # [L, E]
    return loads.shape[1] * (loads * probabilities).sum(-1).mean()


# %%
with process_group():
    both = global_balance_loss([cooking, torch.cat([cooking, code])], 2)
print(f"a world of one, two layers: {both:.3f}, the mean of {alone:.3f} and {together:.3f}")

# %% [markdown]
# ## What it costs: bytes around a ring
#
# After every update each process needs the sum of $n$ gradients of $S$ bytes. Sending everything to one process and back is simple, and that process has $(n-1) S$ bytes coming in and as many going out, while the others' wires are idle.
#
# A **ring** uses all wires at once. Cut the gradient into $n$ chunks. In each step every process sends one chunk to its neighbor and receives one from the other side. In the first $n - 1$ steps it *adds* what it receives, and then every process holds one finished chunk. In the next $n - 1$ steps the finished chunks go around once more and are *copied*. The first half is called **reduce-scatter**, the second **all-gather**; we shall need them separately.


# %%
def ring_all_reduce(vectors):
    n, sent = len(vectors), 0
    chunks = [list(vector.clone().chunk(n)) for vector in vectors]  # [process][chunk]
    history = [[[{rank} for _ in range(n)] for rank in range(n)]]  # whose numbers are in it
    for step in range(2 * (n - 1)):
        who = [[set(cell) for cell in row] for row in history[-1]]
        messages = [(rank, (rank - step) % n) for rank in range(n)]
        values = [chunks[rank][chunk].clone() for rank, chunk in messages]
        for (rank, chunk), value in zip(messages, values, strict=True):
            neighbor = (rank + 1) % n
            adding = step < n - 1
            chunks[neighbor][chunk] = value + chunks[neighbor][chunk] if adding else value
            who[neighbor][chunk] |= history[-1][rank][chunk]
            sent += value.nbytes
        history.append(who)
    return [torch.cat(row) for row in chunks], sent / n, history


vectors = [torch.randn(1000) for _ in range(4)]
summed, sent, history = ring_all_reduce(vectors)
print("all have the sum:", all(torch.allclose(v, sum(vectors), atol=1e-5) for v in summed))
print(f"each sent {sent:,.0f} bytes; 2 (n - 1) / n · S = {2 * 3 / 4 * vectors[0].nbytes:,.0f}")

# %% [markdown]
# Each process sends
#
# $$\frac{2 (n - 1)}{n} S$$
#
# bytes, and receives as many. In words: the gradient twice, nearly, *however many processes there are*. That is why data parallelism scales at all. Step through it:

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore


def ring_svg(step):
    parts, n = [], 4
    for rank in range(n):
        parts.append(f'<text x="4" y="{50 + 42 * rank}">process {rank}</text>')
        for chunk in range(n):
            count = len(history[step][rank][chunk])
            x, y = 90 + 84 * chunk, 28 + 42 * rank
            color = COLORS["green"] if count == n else COLORS["blue"]
            parts.append(
                f'<rect x="{x}" y="{y}" width="76" height="34" rx="5" fill="{color}" '
                f'fill-opacity="{0.12 * count:.2f}" stroke="{color}"/>'
                f'<text x="{x + 38}" y="{y + 21}" text-anchor="middle">{count} of {n}</text>'
            )
            if step < 6 and chunk == (rank - step) % n:
                parts.append(
                    f'<text x="{x + 66}" y="{y + 30}" font-size="15" fill="{COLORS["orange"]}">↓</text>'
                )
    parts += [f'<text x="{128 + 84 * c}" y="18" text-anchor="middle">chunk {c}</text>' for c in range(4)]
    label = f"Ring all-reduce after step {step}: how many of four contributions each chunk holds"
    return (
        '<svg viewBox="0 0 430 200" width="430" font-size="12" fill="currentColor" '
        f'font-family="sans-serif" style="max-width:100%" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


explore(ring_svg, {"steps done": range(7)}, start={"steps done": 3})

# %% [markdown]
# A number says how many of the four contributions a chunk holds; an arrow marks the chunk that is sent next, to the process below (from the last one to the first). After three steps each process has one complete chunk, after six all four.

# %% tags=["hide-input"]
ns = np.arange(2, 65)
fig, ax = new_figure(6.5, 2.8)
ax.plot(ns, 2 * (ns - 1) / ns, color=COLORS["blue"], label="ring: every process")
ax.plot(ns[:15], ns[:15] - 1, color=COLORS["orange"], label="all to one and back: that one")
ax.set(xlabel="processes", ylabel="bytes sent / bytes of a gradient", ylim=(0, 16))
ax.legend()
show(
    fig,
    alt="Bytes that the busiest process sends, in units of the gradient's size, against the number of processes. The "
    "ring rises from 1 towards 2 and stays there; sending everything to one process and back grows without bound.",
)

# %%
for name, width in (("compact", 4), ("compact", 2), ("gpt-oss-20b", 2)):
    size = width * count_parameters(GPTOSSConfig.preset(name)).total
    sent = 2 * 7 / 8 * size
    print(
        f"{name:12s} {8 * width} bits, 8 processes: {sent / 1e9:6.2f} GB an update each; "
        f"at 450 GB/s {1e3 * sent / 450e9:6.1f} ms, at 3 GB/s {sent / 3e9:6.2f} s"
    )

# %% [markdown]
# 450 GB/s each way is half of the 900 GB/s, both ways together, in [NVIDIA's data sheet](https://www.nvidia.com/en-us/data-center/h100/) for the NVLink between H100s; 3 GB/s is a network of 25 gigabits a second. Real traffic is slower than both. Inside such a machine it is a small matter. Between ordinary machines an update of gpt-oss-20b would have to be worth half a minute of computing before a second machine pays.

# %% [markdown]
# ## Buckets, overlap, accumulation
#
# DDP does not wait for the backward pass to end. The last layer's gradients are ready first, and can travel while the layers below them still compute. Single tensors are too small to be worth a collective, so DDP collects them in **buckets** of 25 MB and sends a bucket when it is full ([Li et al., 2020](https://arxiv.org/abs/2006.15704)). On a GPU, with a fast connection, nearly all traffic hides behind the arithmetic.

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.2)
for i in range(4):
    box(ax, 1.5 * i, 1.1, 1.4, 0.6, f"backward {4 - i}", "blue", fontsize=8)
    box(ax, 1.5 * (i + 1), 0.3, 1.3, 0.6, f"bucket {4 - i}", "orange", fontsize=8)
    arrow(ax, (1.5 * i + 1.4, 1.1), (1.5 * i + 1.6, 0.9))
box(ax, 7.4, 1.1, 1.2, 0.6, "optimizer", "grey", fontsize=8)
ax.text(-0.1, 1.4, "compute", ha="right", va="center")
ax.text(-0.1, 0.6, "network", ha="right", va="center")
ax.set(xlim=(-1.3, 8.8), ylim=(0.1, 1.9), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="A time line. The backward passes of layers 4 to 1 follow one another; the bucket of each layer's gradients "
    "travels while the next layer computes, so only the last bucket delays the optimizer.",
)

# %% [markdown]
# Under gradient accumulation there is something better than hiding a collective: not making it. Only the sum over all micro-batches has to be shared, so gradients need to travel once an update, with the last micro-batch. Forgetting this costs no correctness at all, which is why many programs do it. DDP has `no_sync()`, FSDP2 a switch. One function for both:


# %%
#| export
def synchronized(model: nn.Module, last: bool) -> AbstractContextManager:
    """Return a context in which gradients travel between processes only if ``last``.

    The forward and the backward pass of a micro-batch both belong inside.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    return nullcontext() if last else model.no_sync()


# %% [markdown]
# It comes at a price under FSDP2, which we get to now: gradients that are not sent stay whole, on every device.
#
# ## Shards
#
# Look at what $n$ DDP processes store: the same weights $n$ times, the same gradients, the same moments. [Rajbhandari et al., 2019](https://arxiv.org/abs/1910.02054) call taking out this redundancy **ZeRO**, in stages. Stage 1: each process keeps the optimizer state of its $1/n$ of the parameters, and updates only those. Stage 2: it also keeps only their gradients; a reduce-scatter, half a ring, brings them to their owner. Stage 3: it keeps only its slice of the weights, too; an all-gather, the other half, brings a layer together just before it is needed, and it is thrown away right after.
#
# The formula is short:


# %%
#| export
class TrainingMemory(NamedTuple):
    """Bytes on each device for everything whose size does not depend on the batch."""

    weights: float  # bf16, 2 bytes a parameter
    gradients: float  # bf16, 2 bytes
    masters: float  # exact copies of the weights, fp32, 4 bytes
    moments: float  # Adam's two, fp32, 8 bytes


def training_memory(parameters: int, world_size: int = 1, stage: int = 0) -> TrainingMemory:
    """Return what mixed-precision Adam keeps on each device.

    From "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (Rajbhandari et al.,
    2019), section 3.1 and figure 1.

    Args:
        parameters: of the whole model.
        world_size: devices.
        stage: 0: every device has everything (DDP). 1: masters and moments are sharded. 2: gradients
            too. 3: weights too (FSDP).

    Raises:
        ValueError: if there is no such stage.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"stage is {stage!r}; ZeRO has the stages 0 to 3.")
    bytes_and_stage = ((2, 3), (2, 2), (4, 1), (8, 1))  # from which stage on a part is sharded
    sizes = [size * parameters / (world_size if stage >= first else 1) for size, first in bytes_and_stage]
    return TrainingMemory(*sizes)


# %% tags=["hide-input"]
fig, axes = new_figure(7.4, 3.0, ncols=2)
parts = ("weights", "gradients", "masters", "moments")
hues = ("blue", "orange", "green", "violet")
for ax, name in zip(axes, ("compact", "gpt-oss-20b"), strict=True):
    parameters = count_parameters(GPTOSSConfig.preset(name)).total
    for stage in range(4):
        left = 0.0
        memory = training_memory(parameters, 8, stage)
        for part, hue, size in zip(parts, hues, memory, strict=True):
            ax.barh(stage, size / 1e9, left=left, color=COLORS[hue], label=None if stage else part)
            left += size / 1e9
    ax.set(yticks=range(4), xlabel="GB on each of 8 devices", title=name)
    ax.set_yticklabels(["DDP", "ZeRO 1", "ZeRO 2", "FSDP"])
    ax.invert_yaxis()
axes[0].legend(fontsize=8, loc="lower right")
axes[1].axvline(80, color=COLORS["red"], linestyle="--")
axes[1].text(84, 3.35, "80 GB", fontsize=8)
show(
    fig,
    alt="Stacked bars of bytes on each of eight devices for the compact model and gpt-oss-20b under DDP, ZeRO 1, ZeRO 2 "
    "and FSDP. For gpt-oss-20b they are 335, 115, 78 and 42 GB; only the last leaves room below the 80 GB of one device.",
)

# %%
for name in ("compact", "gpt-oss-20b"):
    parameters = count_parameters(GPTOSSConfig.preset(name)).total
    for n in (8, 64):
        gigabytes = [sum(training_memory(parameters, n, stage)) / 1e9 for stage in range(4)]
        print(f"{name:12s} {n:2d} devices: " + "  ".join(f"{gb:7.2f}" for gb in gigabytes) + "  GB each")

# %% [markdown]
# The traffic of stages 1 and 2 is the ring's, cut in two. Stage 3 gathers the weights twice, for the forward and the backward pass, and scatters gradients once: three halves of a ring instead of two, so 1.5 times DDP's bytes.
#
# PyTorch's `fully_shard`, known as **FSDP2** (its predecessor is described in [Zhao et al., 2023](https://arxiv.org/abs/2304.11277)), is stage 3. You call it on every block, and then on the root. Each call makes a *group* whose weights are gathered together:

# %% tags=["hide-input"]
fig, ax = new_figure(7.2, 2.4)
for i in range(3):
    box(ax, 1.9 * i, 0.2, 1.0, 0.55, f"gather {i + 1}", "orange", fontsize=8)
    box(ax, 1.9 * i + 1.1, 1.0, 1.5, 0.55, f"block {i + 1}", "blue", fontsize=8)
    box(ax, 1.9 * i + 2.65, 0.2, 0.2, 0.55, "", "grey")
    arrow(ax, (1.9 * i + 1.0, 0.6), (1.9 * i + 1.15, 0.98))
    arrow(ax, (1.9 * i + 2.6, 1.0), (1.9 * i + 2.72, 0.78))
ax.text(-0.15, 1.27, "compute", ha="right", va="center")
ax.text(-0.15, 0.47, "network", ha="right", va="center")
ax.text(6.75, 0.47, "free", va="center", fontsize=8)
box(ax, 0, 1.8, 6.5, 0.45, "root: embedding, final norm and head stay gathered", "green", fontsize=8)
ax.set(xlim=(-1.3, 7.3), ylim=(0.1, 2.4), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="A time line of FSDP2's forward pass. While block 1 computes, the weights of block 2 are gathered; when a block "
    "is done its gathered weights are freed. The root's weights stay gathered throughout.",
)

# %% [markdown]
# Three details of our model decide how it is cut:
#
# - **Tied weights.** With `tie_word_embeddings` the embedding and the head are one parameter, and a parameter lives in one group. We leave both to the root. PyTorch 2.13 refuses to split them; earlier versions let it pass, with a bug that *Pitfalls* names.
# - **One loss inside.** The head's weight is used by the chunked cross-entropy without calling `lm_head`. Only a group's own forward pass triggers its gathering, so `lm_head` must belong to the root, whose forward pass is all around it.
# - **Mixed precision.** With bf16, FSDP2 keeps the slices and the optimizer state in fp32, gathers bf16 copies, and adds gradients in fp32. It would also cast the inputs of each block, and round the cosines and sines of RoPE. We tell it not to.


# %%
#| export
def parallelize(model: GPTOSS, world: World, strategy: str, precision: str = "fp32") -> nn.Module:
    """Spread a model over all processes and return the module to call.

    Args:
        model: the same weights on every process, fp32.
        world: this process.
        strategy: "ddp": a whole copy each, gradients are averaged. "fsdp": a slice each; a block's
            weights are gathered just before it runs and its gradients scattered right after.
        precision: with "bf16", FSDP2 gathers bf16 copies of its fp32 slices; DDP leaves it to autocast.

    Raises:
        ValueError: if there is no such strategy.
    """
    if strategy == "ddp":
        devices = [world.device] if world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)
    if strategy != "fsdp":
        raise ValueError(f"strategy is {strategy!r}; choose 'ddp' or 'fsdp'.")
    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root takes what is left: embedding, final norm and head, so that tied weights stay together.
    return fully_shard(model, mesh=mesh, mp_policy=policy)


# %% [markdown]
# Count for yourself: how many collectives carry gradients in one update of three micro-batches, and how many bytes of weights does a process hold? DDP lets us put a counting function in the place of its all-reduce; for FSDP2 we wrap the collectives that it calls.


# %%
def traffic():
    calls = {}

    def counted(kind, name):
        original = getattr(dist, name)

        def call(*arguments, **options):
            calls[kind] = calls.get(kind, 0) + 1
            return original(*arguments, **options)

        setattr(dist, name, call)

    def hook(group, bucket):  # what DDP calls for every full bucket
        work = dist.all_reduce(bucket.buffer() / 2, async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    new = hasattr(dist, "reduce_scatter_single")  # the names changed in PyTorch 2.13
    counted("gradients", "all_reduce")
    counted("gradients", "reduce_scatter_single" if new else "reduce_scatter_tensor")
    counted("weights", "all_gather_single" if new else "all_gather_into_tensor")
    config = GPTOSSConfig.preset("xs")
    tokens = torch.randint(config.vocab_size, (2, 32))
    with process_group() as world:
        for strategy in ("ddp", "fsdp"):
            model = GPTOSS(config)
            wrapped = parallelize(model, world, strategy)
            if strategy == "ddp":
                wrapped.register_comm_hook(None, hook)
            own = sum((p.to_local() if strategy == "fsdp" else p).nbytes for p in model.parameters())
            for sync in ("", "every micro-batch", "the last"):  # DDP's first round finds its buckets
                calls.clear()
                for index in range(3):
                    with synchronized(wrapped, index == 2 or sync != "the last"):
                        wrapped(tokens, labels=tokens)[0].backward()
                if world.rank == 0 and sync:
                    print(f"{strategy:4s} holds {own:,} bytes; synchronized with {sync}: {calls}")


print(launch(traffic).stdout)

# %% [markdown]
# The process of FSDP2 holds half the weights, and it moves weights in every micro-batch whatever we do; only the scattering of gradients can wait. The memory that the formula promises is there:

# %%
whole = 4 * count_parameters(GPTOSSConfig.preset("xs")).total
print(f"fp32 weights of the whole model: {whole:,} bytes; half of them: {whole // 2:,}")

# %% [markdown]
# ## Activation checkpointing
#
# Sharding does nothing about **activations**, what the forward pass leaves for the backward pass. They grow with the batch and the length of the text. The remedy is old and simple ([Chen et al., 2016](https://arxiv.org/abs/1604.06174)): keep only the *inputs* of each block, and run the block once more when its gradients are due. A third more arithmetic (forward, forward again, and a backward pass that costs two: four instead of three) for a fraction of the memory.
#
# PyTorch's `checkpoint(function, *inputs)` does it. Here is a loop that uses it. It looks right, it runs, and the loss is right to the last bit:


# %%
import dataclasses

import torch.nn.functional as F


def run_blocks(model, input_ids, labels):
    """The forward pass of the whole model with a loop over checkpointed blocks, as often written."""
    x = model.model.embed_tokens(input_ids)
    angles = model.model.rotary_emb(torch.arange(input_ids.shape[1]), input_ids.shape[1])
    for block in model.model.layers:
        x = checkpoint(lambda x: block(x, angles)[0], x, use_reentrant=False)  # noqa: B023
    logits = model.lm_head(model.model.norm(x))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


# %% [markdown]
# Compare its gradients with those of the plain model. (For the moment with four layers that are all alike, as GPT-2's are.)

# %%
alike = dataclasses.replace(GPTOSSConfig.preset("xs"), layer_types=("full_attention",) * 4)
config = GPTOSSConfig.preset("xs")
tokens = torch.randint(config.vocab_size, (4, 65), generator=torch.Generator().manual_seed(1))
input_ids, labels = tokens[:, :-1], tokens[:, 1:]


def seeded_model(config=config):
    torch.manual_seed(0)
    return GPTOSS(config)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def by_layer(model, ours, right):
    """The largest error of any gradient in each layer, relative to that gradient's largest number."""
    errors = []
    for layer in range(model.config.num_hidden_layers):
        names = [name for name in right if f".layers.{layer}." in name]
        off = [(ours[n] - right[n]).abs().max() / right[n].abs().max().clamp(min=1e-12) for n in names]
        errors.append(max(off).item())
    return errors


model = seeded_model(alike)
right_loss, wrong_loss = model(input_ids, labels=labels)[0], run_blocks(model, input_ids, labels)
print("losses equal:", torch.allclose(right_loss, wrong_loss, rtol=1e-6))
right, off = gradients(model, right_loss), gradients(model, wrong_loss)
for layer, error in enumerate(by_layer(model, off, right)):
    print(
        f"layer {layer}: gradients", "right" if error < 1e-3 else "wrong, by more than half" * (error > 0.5)
    )

# %% [markdown]
# In the forward pass the loop's variable `block` is the right one. In the backward pass, when `checkpoint` calls the little function again, the loop is long over and `block` is the last block. Every layer is recomputed with the *last* layer's weights. Shapes fit, nothing complains, and only the last layer's gradients are right.
#
# And with layers that alternate, as ours do?

# %%
model = seeded_model()
try:
    run_blocks(model, input_ids, labels).backward()
except torch.utils.checkpoint.CheckpointError as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# Luck: a layer with a window keeps another number of tensors than one without, and PyTorch counts. Do not rely on it.
#
# So: bind the block when the function is made. `functools.partial` does. And test the *gradients*, layer by layer; no other test sees this. Our version replaces each block's `forward`, so names in the state dict stay as they are, everything that a block returns comes through, router logits included, and compilation fits inside. `torch.compile` per block compiles one block's code and uses it for all of them.


# %%
#| export
def prepare_blocks(model: GPTOSS, checkpointing: bool = False, compile: bool = False) -> None:
    """Let every block recompute its activations in the backward pass, run compiled, or both.

    Args:
        model: changed in place; parameter names stay as they are.
        checkpointing: keep a block's inputs only, and run it once more when its gradients are due.
        compile: run each block through ``torch.compile``.
    """
    for block in model.model.layers:
        forward = torch.compile(block.forward) if compile else block.forward
        if checkpointing:
            # partial() takes hold of this block now; a lambda would look up the loop's last one later.
            forward = partial(checkpoint, forward, use_reentrant=False)
        block.forward = forward


# %%
from torch.autograd.graph import saved_tensors_hooks


def kept_bytes(model):
    """Run forward and backward; return the loss and the bytes that were kept in between."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, router_logits = model(input_ids, labels=labels)
        loss = loss + 0.01 * sum(load_balancing_loss(logits, 2) for logits in router_logits)
    return loss, sum(sizes.values())


checkpointed = seeded_model()
prepare_blocks(checkpointed, checkpointing=True)
(loss, full), (again, small) = kept_bytes(model), kept_bytes(checkpointed)
right, ours = gradients(model, loss), gradients(checkpointed, again)
print("losses equal:", torch.equal(loss, again))
print("all gradients equal, bit for bit:", all(torch.equal(ours[n], right[n]) for n in right))
print(f"kept between forward and backward: a {full / small:.0f}th")

# %% [markdown]
# The same bits, because it is the same arithmetic done twice. What it costs in time you can measure here, on whatever machine this runs:

# %% tags=["nbval-ignore-output"]
import time


def seconds(model, rounds=3):
    times = []
    for _ in range(rounds):
        start = time.process_time()  # other programs' time does not count
        model(input_ids, labels=labels)[0].backward()
        times.append(time.process_time() - start)
    return min(times)


ratio = seconds(checkpointed) / seconds(model)
print(f"{full / 1e6:.1f} MB against {small / 1e6:.1f} MB; time × {ratio:.2f}")

# %%
assert 0.9 < ratio < 3, "checkpointing costs about a third more time; small layers cost more than that"

# %% [markdown]
# ## Where the bits go
#
# Mixed precision has more places on many devices. Ours are these:
#
# | | fp32 run | bf16, DDP | bf16, FSDP2 |
# |---|---|---|---|
# | weights that are stored and updated | fp32 | fp32 | fp32, sliced |
# | weights in matrix products | fp32 | bf16, cast by autocast | bf16, gathered as bf16 |
# | the residual stream | fp32 | fp32 | bf16 |
# | gradients that travel | fp32 | fp32 | fp32 |
# | moments | fp32 | fp32 | fp32, sliced |
#
# The two bf16 columns are not the same arithmetic, so their losses differ a little more. Our rule, that strategies agree up to rounding, is a rule for fp32.
#
# Why let gradients travel in fp32, if bf16 would halve the bytes? A sum over many processes is where 16 bits hurt most: a bfloat16 number has 8 significant bits, and adding a small number to a large one loses the small one.

# %%
generator = torch.Generator().manual_seed(2)
gradient = torch.randn(10_000, generator=generator)
for n in (8, 64, 512):
    noisy = [gradient + torch.randn(10_000, generator=generator) for _ in range(n)]
    exact = torch.stack(noisy).double().sum(0)
    total = torch.zeros(10_000, dtype=torch.bfloat16)
    for part in noisy:
        total += part.bfloat16()
    error = (total.double() - exact).norm() / exact.norm()
    print(f"{n:4d} processes, summed one after the other in bf16: {error:.1%} error")

# %% [markdown]
# ## Checkpoints that fit any number of processes
#
# A run on 64 devices that can only be resumed on 64 devices is a hostage. PyTorch has a format for this, `torch.distributed.checkpoint`, and it is good; but its `.metadata` file is read [with a plain `pickle.load`](https://github.com/pytorch/pytorch/issues/189308), so loading a checkpoint runs whatever code its author put in. This course does not unpickle. What we need is small enough to write:
#
# - FSDP2 cuts every tensor by rows: $\lceil R / n \rceil$ rows for each process, less or nothing for the last.
# - Each process writes *its rows of every tensor* into a safetensors file of its own. A DDP process has all rows, and writes only its share.
# - Whoever loads knows from $n$ alone who wrote which rows, and reads the pieces that overlap with its own.

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.3)
for rank, hue in enumerate(("blue", "orange")):
    box(
        ax,
        4 * rank,
        1.3,
        4 - rank,
        0.6,
        f"shard {rank} of 2: rows {4 * rank} to {3 + 3 * rank}",
        hue,
        fontsize=9,
    )
spans = [(0, 3), (3, 6), (6, 7)]
for rank, (start, stop) in enumerate(spans):
    box(ax, start, 0.1, stop - start, 0.6, f"process {rank} of 3", "green", fontsize=9)
for x, target in ((1.5, 1.5), (3.5, 3.5), (5.0, 5.0), (6.5, 6.5)):
    arrow(ax, (x, 1.3), (target, 0.7))
ax.text(-0.15, 1.6, "files", ha="right", va="center")
ax.text(-0.15, 0.4, "loading", ha="right", va="center")
ax.set(xlim=(-1, 7.1), ylim=(0, 2.1), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="A tensor of seven rows was written by two processes, four rows and three. Three processes load it: the first "
    "takes rows 0 to 2 from the first file, the second row 3 from the first file and rows 4 and 5 from the second, the "
    "third row 6 from the second.",
)


# %%
#| export
def row_range(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first row of a process and the one after its last, cut as FSDP2 and ``torch.chunk`` do."""
    size = -(-rows // world_size)
    return min(rank * size, rows), min((rank + 1) * size, rows)


# %%
for n in (2, 3, 5):
    print(f"7 rows, {n} processes:", [row_range(7, rank, n) for rank in range(n)])

# %% [markdown]
# A checkpoint must be complete or not there, also with many writers. The recipe of [Training](06_training.ipynb) was: write under another name, then rename. Here the other name is a folder; a **barrier**, a collective that only waits, tells process 0 that all files are on the disk, and process 0 renames.


# %%
#| export
def _shard_name(rank: int, world_size: int) -> str:
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"


def save_sharded(path: str | Path, tensors: dict[str, Tensor], state: dict, world: World) -> None:
    """Write a checkpoint that is complete or not there, each process its own rows of every tensor.

    Call it on all processes. They write into a folder with another name; when all are done, process 0
    adds ``index.json`` and renames the folder.

    Args:
        path: the checkpoint's folder, which does not exist yet.
        tensors: the same names on every process; sliced by FSDP2 or whole, with at least one dimension.
        state: anything JSON can hold.
        world: this process.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    if world.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)  # what a process that died left behind
        temporary.mkdir(parents=True)
    dist.barrier()
    mine = {}
    for name, tensor in tensors.items():
        start, stop = row_range(len(tensor), world.rank, world.size)
        mine[name] = tensor.to_local() if isinstance(tensor, DTensor) else tensor[start:stop]
    save_checkpoint(temporary / _shard_name(world.rank, world.size), mine, {})
    dist.barrier()
    if world.rank == 0:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        index = {"world_size": world.size, "shapes": shapes, "state": state}
        with open(temporary / "index.json", "w", encoding="utf-8") as file:
            json.dump(index, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    dist.barrier()


def _open_shards(path: Path, world_size: int, stack: ExitStack) -> list:
    try:
        names = [path / _shard_name(rank, world_size) for rank in range(world_size)]
        return [stack.enter_context(safe_open(name, framework="pt")) for name in names]
    except SafetensorError as error:
        raise ValueError(f"A file in {path} is cut off ({error}); delete that folder to go on.") from error


@torch.no_grad()
def load_sharded(path: str | Path, tensors: dict[str, Tensor], world: World, prefix: str = "") -> dict:
    """Fill ``tensors`` from a checkpoint of any number of processes, and return its state.

    Each process reads the rows that it needs and no others.

    Args:
        path: the folder that :func:`save_sharded` wrote.
        tensors: what to fill; sliced by FSDP2 or whole.
        world: this process.
        prefix: leave alone what the checkpoint holds under names that begin otherwise.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it belongs to another model, or a file is cut off.
    """
    path = Path(path)
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    shapes = {name: shape for name, shape in index["shapes"].items() if name.startswith(prefix)}
    for name in sorted(shapes.keys() | tensors.keys()):
        theirs = shapes.get(name, "absent")
        ours = list(tensors[name].shape) if name in tensors else "absent"
        if theirs != ours:
            raise ValueError(
                f"{path} belongs to another model: {name} is {theirs} in the checkpoint and {ours} in "
                "this model; build the model from the checkpoint's own config."
            )
    with ExitStack() as stack:
        files = _open_shards(path, index["world_size"], stack)
        for name, tensor in tensors.items():
            sliced = isinstance(tensor, DTensor)
            start, stop = row_range(len(tensor), world.rank, world.size) if sliced else (0, len(tensor))
            target = tensor.to_local() if sliced else tensor
            for rank, file in enumerate(files):
                first, end = row_range(len(tensor), rank, len(files))
                low, high = max(first, start), min(end, stop)
                if low < high:
                    piece = file.get_slice(name)[low - first : high - first]
                    target[low - start : high - start] = piece.to(target.device)
    return index["state"]


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder, or None."""
    return max(Path(run_dir).glob("checkpoint-" + "[0-9]" * 8), default=None)


def consolidate(checkpoint_dir: str | Path, path: str | Path) -> None:
    """Write the weights of a sharded checkpoint to one file, which chapter 06's ``load_weights`` reads.

    Needs no other process, and memory for the weights alone.

    Args:
        checkpoint_dir: the folder that :func:`save_sharded` wrote.
        path: the file to write.
    """
    index = json.loads((Path(checkpoint_dir) / "index.json").read_text(encoding="utf-8"))
    tensors = {name: torch.empty(s) for name, s in index["shapes"].items() if name.startswith("model.")}
    state = load_sharded(checkpoint_dir, tensors, World(0, 1, torch.device("cpu")), prefix="model.")
    save_checkpoint(path, tensors, state)


# %%
tensor = torch.arange(14.0).view(7, 2)
with process_group() as world:
    save_sharded(SCRATCH / "demo", {"w": tensor}, {"step": 3}, world)
    copy = {"w": torch.zeros(7, 2)}
    print(load_sharded(SCRATCH / "demo", copy, world), "equal:", torch.equal(copy["w"], tensor))
print(sorted(path.name for path in (SCRATCH / "demo").iterdir()))

# %% [markdown]
# ## The trainer
#
# Everything is there. One update is chapter 06's, with the pieces of this chapter in their places:
#
# 1. read this process's micro-batches, count labels, and share the counts;
# 2. for each micro-batch: forward, the weighted loss, backward; gradients travel with the last one;
# 3. the norm of the whole gradient: with DDP everybody has it all; with FSDP2 each has the squares of its slices, and they are added up before anybody clips;
# 4. the optimizer's step, on what is stored here.
#
# A process whose rows have no label at all still has to take part in every collective. It predicts something, with weight zero.
#
# Random numbers (the jitter of routers) are seeded anew at every update from seed, step and rank, so there is no generator to save. The identity of a run, everything that decides its numbers, is stored in each checkpoint and compared, but for the number of processes and the strategy: those are free.


# %%
#| export
class DistributedTrainer:
    """Trains a GPT-OSS on all processes, and goes on from the last checkpoint in the run's folder.

    ``batch_size`` is that of all processes together, so the losses are those of one process, whatever
    the number of processes. The folder holds ``log.jsonl`` and one ``checkpoint-<step>`` folder.

    Args:
        model: fp32, and the same weights on every process.
        data: the tokens to train on and to validate on.
        config: how; its ``batch_size`` is divided among the processes.
        run_dir: the run's folder, one that all processes see.
        world: this process.
        strategy: "ddp" or "fsdp", see :func:`parallelize`.
        balance_coef: weight of the balancing loss.
        z_coef: weight of the routers' z-loss.
        checkpointing: recompute activations, see :func:`prepare_blocks`.
        loggers: see each record that process 0 logs.

    Raises:
        ValueError: if the batch cannot be divided, or there is no such strategy.
    """

    _counters = ("step", "tokens", "seconds", "log_bytes")

    def __init__(
        self,
        model: GPTOSS,
        data: TokenData,
        config: TrainingConfig,
        run_dir: str | Path,
        world: World,
        strategy: str = "fsdp",
        balance_coef: float = 0.01,
        z_coef: float = 0.0,
        checkpointing: bool = False,
        loggers: Iterable[Logger] = (),
    ) -> None:
        rows, rest = divmod(config.batch_size, world.size)
        if rest or not rows:
            raise ValueError(
                f"batch_size is {config.batch_size}, which {world.size} processes cannot share evenly; "
                f"choose a multiple of {world.size}."
            )
        self.data, self.config, self.world, self.loggers = data, config, world, list(loggers)
        self.balance_coef, self.z_coef = balance_coef, z_coef
        self.run_dir, self.log_path = Path(run_dir), Path(run_dir) / "log.jsonl"
        self.model = model.to(world.device)
        self.top_k = model.config.num_experts_per_tok
        prepare_blocks(model, checkpointing, config.compile)
        self.forward = parallelize(model, world, strategy, config.precision)
        half = config.precision == "bf16" and strategy == "ddp"
        self.autocast = partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half)
        self.optimizer = adamw(model, config)
        for p in model.parameters():  # as AdamW itself does at its first step; now a checkpoint can fill them
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros((), device=world.device)} | moments
        self.batches = Batches(data.train, rows, config.seq_len, config.seed)
        self.step = self.tokens = self.log_bytes = 0
        self.seconds = 0.0  # spent on updates and validation, as in chapter 06

    def train(self, until: int | None = None) -> list[dict]:
        """Run to the end, or to update ``until``, and return the records of the log.

        Raises:
            ValueError: if the run folder holds another run.
            FloatingPointError: if the loss or the gradient is not finite.
        """
        config, A = self.config, self.config.grad_accumulation_steps
        last = min(until or config.steps, config.steps)
        cuda = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # the caller's random numbers stay untouched
            self._begin()
            while self.step < last:
                started = time.perf_counter() - self.seconds
                record = self.update(list(rank_batches(self.batches, self.world, self.step * A, A)))
                self.seconds = time.perf_counter() - started
                if self._due(config.log_every) or self.step in (1, config.steps):
                    self._write(record)
                if self._due(config.eval_every) or self.step == config.steps:
                    record = self.validate()
                    self.seconds = time.perf_counter() - started
                    self._write(record)
                if self._due(config.checkpoint_every) or self.step == last:
                    self.save()
        return read_log(self.log_path)

    def update(self, micro_batches: list[tuple[Tensor, Tensor]]) -> dict:
        """Make one update and return its record.

        Args:
            micro_batches: (input_ids, labels) of this process; as many, and as large, on all of them.
                Their numbers of labels that are not ``IGNORED`` may differ.

        Raises:
            FloatingPointError: if the loss or the gradient is not finite.
        """
        config, world = self.config, self.world
        draw = np.random.default_rng([config.seed, self.step, world.rank])
        torch.manual_seed(int(draw.integers(2**63)))
        self.forward.train()
        self.optimizer.zero_grad()
        counts = torch.tensor([int((labels != IGNORED).sum()) for _, labels in micro_batches])
        shares, router_shares, tokens = global_shares(counts, world)
        sums = torch.zeros(3, device=world.device)
        for index, (batch, share, router_share) in enumerate(
            zip(micro_batches, shares.tolist(), router_shares.tolist(), strict=True)
        ):
            with synchronized(self.forward, last=index == len(micro_batches) - 1):
                sums += self._backward(*batch, share, router_share)
        dist.all_reduce(sums)
        loss, nats, balance = sums.tolist()
        norm = self._clip(loss)
        rate = learning_rate_at(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        numbers = {"loss": loss, "nats": nats, "balance": balance, "grad_norm": norm}
        return {"kind": "train", "step": self.step, "tokens": self.tokens, "learning_rate": rate, **numbers}

    def _backward(self, input_ids: Tensor, labels: Tensor, share: float, router_share: float) -> Tensor:
        """Add one micro-batch's gradients; return its part of the loss, of the nats and of the balance."""
        device = self.world.device
        if share == 0:  # there is nothing to predict, but the other processes wait for this one
            labels = torch.zeros_like(labels)
        with self.autocast():
            nats, router_logits = self.forward(input_ids.to(device), labels=labels.to(device))
            balance = global_balance_loss(router_logits, self.top_k)
            z = torch.stack([router_z_loss(logits) for logits in router_logits]).mean()
        nats, balance, z = share * nats, router_share * balance, router_share * z
        loss = nats + self.balance_coef * balance + self.z_coef * z
        # DDP and FSDP2 divide the sum over processes by their number; our shares have done that.
        (self.world.size * loss).backward()
        return torch.stack([loss, nats, balance]).detach()

    def _clip(self, loss: float) -> float:
        """Clip by the norm of the whole gradient, wherever its pieces are, and return that norm."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"Update {self.step + 1}: loss {loss}, gradient norm {float(norm)}; lower learning_rate."
            )
        nn.utils.clip_grads_with_norm_(parameters, self.config.grad_clip or math.inf, norm)
        return float(norm)

    @torch.no_grad()
    def validate(self) -> dict:
        """Score the validation set together and return the record."""
        config, world = self.config, self.world
        self.forward.eval()
        sums = torch.zeros(2, dtype=torch.float64)  # nats, tokens
        batches = validation_batches(self.data.val, config.batch_size // world.size, config.seq_len)
        while group := [batch for _, batch in zip(range(world.size), batches, strict=False)]:
            # FSDP2 gathers weights at every call, so all processes have to make equally many.
            input_ids, labels = group[min(world.rank, len(group) - 1)]
            with self.autocast():
                nats, _ = self.forward(input_ids.to(world.device), labels=labels.to(world.device))
            if world.rank < len(group):
                count = (labels != IGNORED).sum()
                sums += torch.stack([nats.double().cpu() * count, count])
        if isinstance(self.forward, FSDPModule):
            self.forward.reshard()  # its root stays gathered for a backward pass, and there is none
        dist.all_reduce(sums)
        nats, tokens = sums.tolist()
        bits = bits_per_byte(nats, self.data.val_bytes)
        return {"kind": "val", "step": self.step, "loss": nats / tokens, "bits_per_byte": bits, "nats": nats}

    def save(self) -> None:
        """Write ``checkpoint-<step>`` and delete the ones before it."""
        counters = {name: getattr(self, name) for name in self._counters}
        path = self.run_dir / f"checkpoint-{self.step:08d}"
        save_sharded(path, self._tensors(), counters | self._identity(), self.world)
        if self.world.rank == 0:
            for old in self.run_dir.glob("checkpoint-*"):
                if old != path:
                    shutil.rmtree(old)

    def _begin(self) -> None:
        """Go on from the newest checkpoint, or start a log."""
        found = latest_checkpoint(self.run_dir)
        if found is not None:
            state = load_sharded(found, self._tensors(), self.world)
            for name, ours in self._identity().items():
                if state[name] != ours:
                    raise ValueError(
                        f"{found} comes from a run with the {name} {state[name]}, but this one has {ours}; "
                        "use the same to go on, or another folder for a new run."
                    )
            for name in self._counters:
                setattr(self, name, state[name])
            for moments in self.optimizer.state.values():
                moments["step"].fill_(self.step)
        if self.world.rank == 0:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with open(self.log_path, "ab") as log:
                log.truncate(self.log_bytes)  # what came after the checkpoint is done again
        dist.barrier()

    def _tensors(self) -> dict[str, Tensor]:
        """Return weights and moments by name, sliced or whole as they are."""
        tensors = {}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p.detach()
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"optimizer.{name}.{key}"] = self.optimizer.state[p][key]
        return tensors

    def _identity(self) -> dict:
        """Return what a checkpoint and this run must agree on, as it looks after JSON."""
        config = {name: value for name, value in asdict(self.config).items() if name not in MAY_CHANGE}
        config |= {"balance_coef": self.balance_coef, "z_coef": self.z_coef}
        parts = {"config": config, "model": asdict(self.model.config), "tokens in": len(self.data.train)}
        return json.loads(json.dumps(parts))

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _write(self, record: dict) -> None:
        if self.world.rank > 0:
            return
        with open(self.log_path, "ab") as log:
            record = record | {"seconds": round(self.seconds, 3)}
            log.write((json.dumps(record) + "\n").encode())
            self.log_bytes = log.tell()
        for logger in self.loggers:
            logger(record)


# %% [markdown]
# And a command. Its file is that of [Pretraining](16_pretraining.ipynb); what is new stands on the command line, because it must not change the numbers.


# %%
#| export
def _lost_the_others(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m gptoss_lib.distributed",
        description="Train a GPT-OSS on N processes, or go on where the run's last checkpoint left it.",
    )
    parser.add_argument("config", help="the run's JSON file, as for python -m gptoss_lib train")
    parser.add_argument("--run-dir", required=True, help="the run's folder, one that all processes see")
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="fsdp", help="default: fsdp")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--until", type=int, help="stop after this update")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for another process")
    return parser.parse_args(arguments)


def _run(run: RunConfig, data: TokenData, options: argparse.Namespace, run_dir: Path) -> None:
    """Train; then process 0 leaves the folder as chapter 16's ``load_run`` wants it."""
    with process_group(run.training.device, options.timeout) as world:
        trainer = DistributedTrainer(
            build_model(run, data.tokenizer.vocab_size),
            data,
            run.training,
            run_dir,
            world,
            options.strategy,
            run.balance_coef,
            run.z_coef,
            options.checkpointing,
        )
        trainer.train(options.until)
        if world.rank == 0:
            run.to_json(run_dir / "run.json")
            trainer.model.config.to_json(run_dir / "config.json")
            data.tokenizer.save(run_dir / "tokenizer.json")
            consolidate(latest_checkpoint(run_dir), run_dir / "best.safetensors")


@record
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that torchrun starts; ``--help`` describes it."""
    options = _parse(arguments)
    rank, run_dir = os.environ.get("RANK", "0"), Path(options.run_dir)

    def leave(reason: str) -> None:
        found = latest_checkpoint(run_dir)
        where = found.name if found else "the beginning"
        sys.exit(f"Process {rank} stops: {reason}. The same command goes on from {where}.")

    signal.signal(signal.SIGTERM, lambda *_: leave("torchrun ends the run because another process ended"))
    try:
        run = RunConfig.from_json(options.config)
        if not isinstance(model_config(run), GPTOSSConfig):
            raise ValueError("This command trains GPT-OSS models; a GPT-2 trains with python -m gptoss_lib.")
        data = prepare_data(run.data)  # before the processes meet: it may take longer than the timeout
        _run(run, data, options, run_dir)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error) if rank == "0" else 1)
    except RuntimeError as error:
        if not _lost_the_others(error):
            raise
        late = "timed out" in str(error).lower()
        leave("it waited too long for another one" if late else "another one closed the connection")


if __name__ == "__main__" and __spec__ is not None:  # started with -m: a notebook is __main__ too
    keep_memory()
    main()

# %% [markdown]
# ## Reality check
#
# The claim is: whatever the number of processes and the strategy, the losses are those of one process. So train the smallest model four ways on the story grammar, eight rows an update in two micro-batches of four:
#
# - with chapter 06's `Trainer` and *Pretraining*'s loss, which know nothing of this chapter;
# - with DDP on two processes;
# - with FSDP2 on two processes and activation checkpointing, until process 1 is *killed* in update 8;
# - and the rest of that run by FSDP2 on *one* process, in this notebook.

# %%
import json

from gptoss_lib.pretraining import RunConfig, build_model, gptoss_loss, prepare_data
from gptoss_lib.training import Trainer

settings = {
    "model": "xs",
    "data": {"documents": 400, "vocab_size": 512},
    "training": {
        "steps": 12,
        "batch_size": 4,
        "grad_accumulation_steps": 2,
        "seq_len": 64,
        "learning_rate": 8e-3,
        "warmup_steps": 3,
        "log_every": 1,
        "checkpoint_every": 5,
    },
    "init_std": 0.06,
}
config_file = SCRATCH / "run-config.json"
config_file.write_text(json.dumps(settings))
run = RunConfig.from_json(config_file)
data = prepare_data(run.data)
model = build_model(run, data.tokenizer.vocab_size)
alone = Trainer(model, data, run.training, SCRATCH / "alone", gptoss_loss(run.balance_coef)).train()

command = ["-m", "gptoss_lib.distributed", config_file]
done = torchrun(*command, "--run-dir", SCRATCH / "ddp", "--strategy", "ddp")
assert done.returncode == 0, done.stderr
print(sorted(path.name for path in (SCRATCH / "ddp").iterdir()))


# %% [markdown]
# Now the accident. This program is the same command, but for process 1, which kills itself in the middle of update 8, as a machine that loses power does: no exception, no goodbye.


# %%
def dies():
    import os
    import signal

    import gptoss_lib.distributed as distributed

    update = distributed.DistributedTrainer.update

    def fragile(self, micro_batches):
        if self.step == 7 and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, micro_batches)

    distributed.DistributedTrainer.update = fragile
    distributed.main()


start = time.perf_counter()
broken = launch(dies, config_file, "--run-dir", SCRATCH / "fsdp", "--checkpointing")
waited = time.perf_counter() - start

# %% tags=["nbval-ignore-output"]
print("exit code", broken.returncode)
for line in broken.stderr.splitlines():
    if line.startswith("Process 0 stops") or (line.strip().startswith("exitcode") and "-9" in line):
        print(line.strip())

# %%
assert broken.returncode != 0 and "SIGKILL" in broken.stderr and waited < 120
print("stops with a sentence:", "The same command goes on from checkpoint-00000005" in broken.stderr)

# %% [markdown]
# Nobody hangs. Process 0 finds the connection closed, or is told by torchrun to end, and says where the run goes on; torchrun's own report names the process that died first. A process that does not die but *hangs* is caught by `--timeout`. (With `--max-restarts`, torchrun would start all processes again by itself, and they would find the checkpoint.)
#
# The checkpoint is from update 5. A single process takes it up:

# %%
with process_group() as world:
    model = build_model(run, data.tokenizer.vocab_size)
    trainer = DistributedTrainer(model, data, run.training, SCRATCH / "fsdp", world, "fsdp")
    resumed = trainer.train()


def curve(records):
    return np.array([record["loss"] for record in records])


curves = {
    "DDP, 2 processes": curve(read_log(SCRATCH / "ddp" / "log.jsonl")),
    "FSDP2, 2 processes, killed, then 1": curve(resumed),
}
reference = curve(alone)
for name, values in curves.items():
    print(f"{name:36s} within 1e-4 of one process: {bool(abs(values - reference).max() < 1e-4)}")

# %% tags=["hide-input"]
fig, axes = new_figure(7.2, 2.6, ncols=2)
axes[0].plot(range(1, 13), reference[:12], color=COLORS["grey"], linewidth=6, alpha=0.5, label="one process")
for (name, values), hue in zip(curves.items(), ("orange", "blue"), strict=True):
    axes[0].plot(range(1, 13), values[:12], "--", color=COLORS[hue], label=name.split(",")[0])
    difference = np.maximum(abs(values - reference)[:12], 1e-9)
    axes[1].semilogy(range(1, 13), difference, color=COLORS[hue], label=name.split(",")[0])
axes[0].set(xlabel="update", ylabel="loss, nats a token")
axes[0].legend(fontsize=8)
axes[1].set(xlabel="update", ylabel="difference from one process", ylim=(1e-9, 1e-3))
show(
    fig,
    alt="Left: the loss curves of one process, of DDP and of FSDP2 lie on one another. Right: their differences on a "
    "logarithmic axis, between a billionth and a hundred-thousandth of a nat, growing slowly with the updates.",
)

# %% [markdown]
# Why not bit for bit? The sum of two halves is not the sum of the whole in fp32, because rounding depends on the order: a relative error of $6 \cdot 10^{-8}$ an addition. Training then amplifies it, as it amplifies everything. The tolerance is $10^{-4}$ nats after 12 updates. A mistake in the mean, in the data or in the clipping is larger by orders of magnitude. What *is* bit for bit is a resumed run with the same number of processes.
#
# The folder is an ordinary one in the end: *Pretraining*'s `load_run` and `python -m gptoss_lib generate` read it.

# %%
from gptoss_lib.pretraining import load_run

trained, tokenizer, _ = load_run(SCRATCH / "ddp")
same = sum(p.numel() for p in trained.parameters()) == count_parameters(trained.config).total
print(type(trained).__name__, "with all its parameters:", same)

# %% [markdown]
# ## What gpt-oss-20b uses
#
# OpenAI has not published how its models were spread over GPUs. What would it take? First the memory. With FSDP2 a device needs its slices, whole copies of two blocks (one that computes, one that is being gathered) and of the root, and activations.

# %%
config = GPTOSSConfig.preset("gpt-oss-20b")
count = count_parameters(config)
block = count.body / config.num_hidden_layers
T, micro_batch = 4096, 4
inputs = config.num_hidden_layers * micro_batch * T * config.hidden_size * 2
for n in (4, 8, 16, 64):
    slices = sum(training_memory(count.total, n, stage=3))
    gathered = 2 * (2 * block + count.embedding + count.head)
    total = (slices + gathered + inputs) / 1e9
    print(
        f"{n:2d} GPUs: slices {slices / 1e9:5.1f} GB, gathered {gathered / 1e9:4.1f}, "
        f"inputs of blocks {inputs / 1e9:3.1f}: {total:5.1f} GB  {'fits' if total < 75 else 'too large'}"
    )

# %% [markdown]
# (Sequences of 4,096 tokens, four at a time, with activation checkpointing; 75 of 80 GB used. The block that is being recomputed needs a few more.) Eight H100 are enough to *hold* the training state. Now the time. The model card says that the training run of gpt-oss-120b took 2.1 million H100-hours and that of gpt-oss-20b almost ten times fewer ([OpenAI, 2025](https://arxiv.org/abs/2508.10925), on pretraining). How many tokens is that, if we assume 40 percent of the data sheet's 989 teraFLOPs a second again? Training in a lower precision than bf16, or a lower utilization, would change the answer in proportion.

# %%
sustained = 0.4 * 989e12
for name, hours in (("gpt-oss-20b", 0.21e6), ("gpt-oss-120b", 2.1e6)):
    flops = flops_per_token(GPTOSSConfig.preset(name), 4096, mean=True).training
    tokens = hours * 3600 * sustained / flops
    print(
        f"{name:12s} {flops / 1e9:5.1f} GFLOPs a token; {hours / 1e6:.2f} M hours pay for "
        f"{tokens / 1e12:5.1f} trillion tokens; on 1,024 GPUs {hours / 1024 / 24:5.1f} days"
    )

# %% [markdown]
# Read this with care. The card says "trillions of tokens" and no number, and nothing about the utilization. The two models' hours differ by ten and their FLOPs a token by much less, so at least one of the assumptions is not the same for both. What the arithmetic gives is what such a budget *could* pay for. The order of magnitude agrees with the card: trillions.
#
# And for you? At two dollars for an H100-hour (an assumption; prices move):

# %%
flops = flops_per_token(config, 4096, mean=True).training
for tokens in (20e9, 400e9, 10e12):
    hours = tokens * flops / sustained / 3600
    print(
        f"{tokens / 1e9:8,.0f} billion tokens: {hours:10,.0f} H100-hours, "
        f"{hours / 8 / 24:9,.1f} days on 8 of them, ${2 * hours:11,.0f}"
    )

# %% [markdown]
# ### Experts that stay at home
#
# FSDP2 gathers *all* experts of a layer on every device, although a token needs four of 32. The alternative is **expert parallelism** ([Lepikhin et al., 2020](https://arxiv.org/abs/2006.16668)): each device owns some experts, whole and for good, and the *tokens* travel. In one **all-to-all** every device sends each of its tokens' choices to the device of the expert, and in a second one the answers come back.

# %% tags=["hide-input"]
fig, ax = new_figure(7, 2.4)
for rank, hue in enumerate(("blue", "orange")):
    box(ax, 0, 1.3 - 1.2 * rank, 1.5, 0.8, f"tokens of\nprocess {rank}", hue, fontsize=8)
    box(ax, 3.2, 1.3 - 1.2 * rank, 1.7, 0.8, f"experts {16 * rank}–{15 + 16 * rank}", "green", fontsize=9)
    box(ax, 6.6, 1.3 - 1.2 * rank, 1.5, 0.8, f"answers for\nprocess {rank}", hue, fontsize=8)
    for other in range(2):
        arrow(ax, (1.5, 1.7 - 1.2 * rank), (3.2, 1.7 - 1.2 * other), hue)
        arrow(ax, (4.9, 1.7 - 1.2 * other), (6.6, 1.7 - 1.2 * rank), hue)
ax.text(2.35, 2.3, "all-to-all", ha="center", fontsize=9)
ax.text(5.75, 2.3, "all-to-all", ha="center", fontsize=9)
ax.set(xlim=(-0.1, 8.2), ylim=(0, 2.5), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="Two processes with tokens; an all-to-all sends each token to the process that owns its experts, 0 to 15 or 16 "
    "to 31, and a second all-to-all brings the answers back.",
)

# %%
experts = 2 * count.experts / config.num_hidden_layers
for tokens in (1024, 8192, 65_536):
    travel = 2 * tokens * config.num_experts_per_tok * config.hidden_size * 2
    print(
        f"{tokens:6,} tokens a device: gather all experts of a layer {experts / 1e9:.2f} GB, "
        f"send tokens there and back at most {travel / 1e9:.2f} GB"
    )

# %% [markdown]
# With few tokens a device, sending tokens is cheaper; with many, gathering weights is. Expert parallelism has a second price: the device with the favorite experts works while the others wait. That makes balance a matter of speed, not only of quality. We leave it at the idea; the library gathers.

# %% [markdown]
# ## Pitfalls
#
# - **The mean of means.** `transformers`' trainer averaged losses over devices without looking at [how many tokens each had](https://github.com/huggingface/transformers/issues/34242). Fine-tuning on eight GPUs was not fine-tuning on one.
# - **Tied weights in two groups.** Embedding and head in different FSDP2 groups: [an error since PyTorch 2.13](https://github.com/huggingface/accelerate/pull/4171). Before that it ran, and where the vocabulary did not divide evenly the last process's rows [were never updated](https://github.com/pytorch/pytorch/issues/176076).
# - **The last block, recomputed everywhere.** The bug of this chapter. Bind the block, and compare gradients by layer.
# - **`saved_tensors` read twice.** A hand-written `autograd.Function` may unpack `ctx.saved_tensors` only once under `checkpoint(use_reentrant=False)`: reading them is what recomputes. PyTorch stops with an error that does not name the function.
# - **Synchronizing every micro-batch.** Correct and slow. Count collectives.
# - **A conditional collective.** `if rank == 0: evaluate()` with FSDP2 inside waits forever: gathering weights takes everybody. The same goes for an exception on one process.
# - **Clipping slices.** Each process clips by the norm of its own slice, and the slices no longer fit together. The norm is global or it is wrong.
# - **Saving right after evaluating.** FSDP2's root keeps its weights gathered after a forward pass, for the backward pass. Without one, the model's parameters are not those that the optimizer knows. `reshard()` puts the slices back.
# - **The same noise everywhere.** Seed dropout and jitter with the rank, but the weights without it.
# - **Checkpoints that unpickle.** See above. Loading somebody's checkpoint must not run somebody's code.
# - **FSDP2 on CPUs with old versions.** PyTorch 2.6 has all the functions used here, but its FSDP2 asks for an averaging reduce-scatter, which gloo does not have. Between GPUs that is no problem; the CPU runs of this chapter were made with PyTorch 2.13.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/18_many_devices.ipynb):
#
# 1. **The mean over all tokens.** Scale a loss so that DDP's average comes out right.
# 2. **Half a ring.** Which chunk to send, so that process r ends up with chunk r.
# 3. **The wrong layer.** Write the loop over checkpointed blocks that recomputes the right ones.
# 4. **Will it fit?** The smallest number of devices for a sharding plan.

# %% [markdown]
# ## Summary
#
# - Data parallelism: equal weights, different rows, gradients averaged by an all-reduce. A ring makes it cost two gradients' worth of traffic, however many processes there are.
# - The mean runs over the tokens of all processes, and the experts' load too. Then the number of processes changes nothing.
# - Under accumulation, gradients travel once an update.
# - FSDP2 divides 16 bytes a parameter by the number of devices, for 1.5 times the traffic. Activation checkpointing divides activations, for a third more arithmetic.
# - A checkpoint of row slices loads on any number of processes, and a killed run goes on from it.
# - Eight H100 can hold the training of gpt-oss-20b. Finishing it, by the model card, takes about two hundred thousand hours of one.
#
# Next: the real weights, four bits at a time, in *MXFP4*.

# %% [markdown]
# ## Further reading
#
# - [Rajbhandari et al., 2019](https://arxiv.org/abs/1910.02054): ZeRO, sharding in stages.
# - [Li et al., 2020](https://arxiv.org/abs/2006.15704): how DDP's buckets overlap with the backward pass.
# - [Zhao et al., 2023](https://arxiv.org/abs/2304.11277): FSDP, and what it took to make it fast.
# - [Chen et al., 2016](https://arxiv.org/abs/1604.06174): activation checkpointing.
# - [Qiu et al., 2025](https://arxiv.org/abs/2501.11873): whose load should be balanced.
# - [Lepikhin et al., 2020](https://arxiv.org/abs/2006.16668): GShard, experts on many devices.
