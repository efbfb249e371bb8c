"""The checks to chapter 18 accept the solutions and name the mistakes in wrong answers."""

import functools
import math

import torch
from torch.utils.checkpoint import checkpoint

from tests.checks.catalogue import Catalogue

LOSS = Catalogue("distributed", "scaled_loss")


@LOSS.wrong("mean of the means")
def unweighted(mean_loss, count, total, world_size):
    return mean_loss


@LOSS.wrong("multiply by world_size")
def without_world_size(mean_loss, count, total, world_size):
    return mean_loss * count / total


@LOSS.wrong("multiply instead")
def divided_twice(mean_loss, count, total, world_size):
    return mean_loss * count / total / world_size


@LOSS.wrong("divide by total")
def local_sum(mean_loss, count, total, world_size):
    return mean_loss * count


@LOSS.wrong("not their mean")
def global_sum(mean_loss, count, total, world_size):
    return mean_loss * count * world_size


@LOSS.wrong("upside down")
def share_upside_down(mean_loss, count, total, world_size):
    return mean_loss * total / max(count, 1)


@LOSS.wrong("lost its gradient")
def a_number(mean_loss, count, total, world_size):
    return float(mean_loss) * count / total * world_size


test_scaled_loss = LOSS.test

CHUNK = Catalogue("distributed", "chunk_to_send")


@CHUNK.wrong("chapter's order")
def all_reduce_order(rank, step, world_size):
    return (rank - step) % world_size


@CHUNK.wrong("other way")
def shifted_too_far(rank, step, world_size):
    return (rank - step - 2) % world_size


@CHUNK.wrong("does not exist")
def without_remainder(rank, step, world_size):
    return rank - step - 1


@CHUNK.wrong("twice")
def always_the_same(rank, step, world_size):
    return 0


@CHUNK.wrong("no chunk is finished")
def own_chunk(rank, step, world_size):
    return (rank + step) % world_size


test_chunk_to_send = CHUNK.test

RUN = Catalogue("distributed", "run_checkpointed")


@RUN.wrong("looked up after the loop")
def late_binding(blocks, x):
    for block in blocks:
        x = checkpoint(lambda x: block(x), x, use_reentrant=False)  # noqa: B023
    return x


@RUN.wrong("use checkpoint")
def not_checkpointed(blocks, x):
    for block in blocks:
        x = block(x)
    return x


@RUN.wrong("around all blocks")
def one_checkpoint(blocks, x):
    return checkpoint(functools.partial(not_checkpointed, blocks), x, use_reentrant=False)


@RUN.wrong("cut between the blocks")
def detached(blocks, x):
    for block in blocks:
        x = checkpoint(block, x.detach(), use_reentrant=False)
    return x


@RUN.wrong("no gradient")
def without_gradient(blocks, x):
    with torch.no_grad():
        return not_checkpointed(blocks, x)


@RUN.wrong("plain loop")
def first_block_only(blocks, x):
    return checkpoint(blocks[0], x, use_reentrant=False)


test_run_checkpointed = RUN.test

GROUP = Catalogue("distributed", "smallest_group")


def _search(need, device_bytes):
    return next((2**power for power in range(17) if need(2**power) <= device_bytes), None)


@GROUP.wrong("16 bytes a parameter")
def weights_only(parameters, stage, device_bytes):
    return _search(lambda n: 4 * parameters / (n if stage == 3 else 1), device_bytes)


@GROUP.wrong("every device keeps 4 bytes")
def everything_sharded(parameters, stage, device_bytes):
    return _search(lambda n: 16 * parameters / (n if stage else 1), device_bytes)


@GROUP.wrong("nothing is sharded")
def stage_zero_sharded(parameters, stage, device_bytes):
    kept = {0: 0, 1: 4, 2: 2, 3: 0}[stage]
    return _search(lambda n: kept * parameters + (16 - kept) * parameters / n, device_bytes)


@GROUP.wrong("power of two")
def any_number(parameters, stage, device_bytes):
    kept = {0: 16, 1: 4, 2: 2, 3: 0}[stage] * parameters
    rest = 16 * parameters - kept
    if device_bytes < kept or (device_bytes == kept and rest):
        return None
    return max(1, math.ceil(rest / (device_bytes - kept))) if rest else 1


@GROUP.wrong("twice as many")
def strictly_less(parameters, stage, device_bytes):
    kept = {0: 16, 1: 4, 2: 2, 3: 0}[stage]
    powers = (2**power for power in range(17))
    return next(
        (n for n in powers if kept * parameters + (16 - kept) * parameters / n < device_bytes),
        2 if stage == 0 and device_bytes >= 16 * parameters else None,
    )


@GROUP.wrong("not ")
def gradients_sharded_at_stage_one(parameters, stage, device_bytes):
    kept = {0: 16, 1: 4, 2: 4, 3: 0}[stage]
    return _search(lambda n: kept * parameters + (16 - kept) * parameters / n, device_bytes)


test_smallest_group = GROUP.test
