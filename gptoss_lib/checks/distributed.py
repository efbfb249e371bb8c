"""Checks for the exercises to chapter 18, many devices."""

import torch
from torch import nn

from gptoss_lib.checks import check, expect, unless

__all__ = ["chunk_to_send", "run_checkpointed", "scaled_loss", "smallest_group"]


@check("With this weight, DDP's average is the mean over all tokens.")
def scaled_loss(answer) -> None:
    """Check the weight of a process's mean loss on unequal token counts."""
    losses = [[1.0, 2.0, 6.0], [4.0], [], [0.5, 3.5]]
    n, total = len(losses), sum(map(len, losses))
    means = [sum(part) / max(len(part), 1) for part in losses]
    right = sum(map(sum, losses)) / total
    scaled = [answer(mean, len(part), total, n) for mean, part in zip(means, losses, strict=True)]
    result = sum(float(value) for value in scaled) / n

    def near(value: float) -> bool:
        return abs(result - value) < 1e-6

    unless(
        near(sum(means) / n),
        "This is the mean of the means: a token on a process with few of them counts for more.",
    )
    unless(near(right / n), "DDP divides by the number of processes once more; multiply by world_size.")
    unless(near(right / n**2), "This divides by world_size, but DDP does that too; multiply instead.")
    unless(near(right * total / n), "This is the sum over the tokens; divide by total.")
    unless(near(right * total), "This is the sum over all tokens, not their mean; divide by total.")
    unless(
        near(sum(mean * total / max(len(p), 1) for mean, p in zip(means, losses, strict=True)) / n),
        "The share is upside down: count belongs above, total below.",
    )
    expect(near(right), f"The average should be {right:.4f} here, but it is {result:.4f}.")
    loss = torch.tensor(2.0, requires_grad=True)
    value = answer(loss, 3, 12, 2)
    expect(isinstance(value, torch.Tensor) and value.requires_grad, "The result has lost its gradient.")


def _reduce_scatter(answer, n: int) -> list[list[set[tuple[int, int]]]]:
    """Return whose contributions each process has in each chunk after n − 1 steps, as (process, times)."""
    held = [[[rank] for _ in range(n)] for rank in range(n)]
    for step in range(n - 1):
        chunks = [answer(rank, step, n) for rank in range(n)]
        for chunk in chunks:
            expect(
                isinstance(chunk, int) and 0 <= chunk < n,
                f"Chunk {chunk!r} does not exist; take the remainder modulo world_size.",
            )
        sent = [list(held[rank][chunk]) for rank, chunk in enumerate(chunks)]
        for rank, chunk in enumerate(chunks):
            held[(rank + 1) % n][chunk] = held[(rank + 1) % n][chunk] + sent[rank]
    return held


@check("After n − 1 steps every process holds its own chunk, finished.")
def chunk_to_send(answer) -> None:
    """Check the order of chunks in a reduce-scatter by carrying it out."""
    for n in (5, 3, 2):
        held = _reduce_scatter(answer, n)
        complete = [
            {chunk for chunk in range(n) if sorted(held[rank][chunk]) == list(range(n))} for rank in range(n)
        ]
        twice = any(len(cell) != len(set(cell)) for row in held for cell in row)
        if n > 2:
            unless(
                all((rank + 1) % n in complete[rank] for rank in range(n)),
                "This is the chapter's order: process r ends up with chunk r + 1, one too far.",
            )
            unless(
                all((rank - 1) % n in complete[rank] for rank in range(n)),
                "Process r ends up with chunk r − 1; shift the other way.",
            )
            unless(twice, "Some contribution is added twice: a process sends a chunk on that it sent before.")
            unless(
                not any(complete),
                "No chunk is finished: in each step a process has to pass on the chunk that it has just "
                "received.",
            )
        expect(
            all(rank in complete[rank] for rank in range(n)),
            f"With {n} processes, not every process r holds the finished chunk r.",
        )


class _Counting(nn.Module):
    """A block that writes down when it runs."""

    def __init__(self, number: int, calls: list[int]) -> None:
        super().__init__()
        self.number, self.calls = number, calls
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.number)
        return x + self.linear(x).tanh()


@check("Every block is recomputed as itself, and only when its turn comes.")
def run_checkpointed(answer) -> None:
    """Check outputs, gradients by block, and the order in which blocks are recomputed."""
    calls: list[int] = []
    with torch.random.fork_rng():
        torch.manual_seed(18)
        blocks = [_Counting(number, calls) for number in range(4)]
        x = torch.randn(5, 6)

    def gradients(run) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        for block in blocks:
            block.zero_grad()
        inputs = x.clone().requires_grad_()
        output = run(inputs)
        expect(
            isinstance(output, torch.Tensor) and output.shape == x.shape, "Return the last block's output."
        )
        expect(output.requires_grad, "The output has no gradient: nothing can be learned through it.")
        output.square().sum().backward()
        return output, [inputs.grad, *(block.linear.weight.grad for block in blocks)]

    def plain(inputs: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            inputs = block(inputs)
        return inputs

    expected, right = gradients(plain)
    calls.clear()
    output, ours = gradients(lambda inputs: answer(blocks, inputs))
    expect(torch.allclose(output, expected, atol=1e-6), "The output differs from that of the plain loop.")
    forward, again = calls[:4], calls[4:]
    unless(not again, "No block runs a second time, so nothing was saved; use checkpoint.")
    unless(
        again == [3, 3, 3, 3] or (len(set(again)) == 1 and len(again) > 1),
        "Every block is recomputed as the last one: the name is looked up after the loop is over. Bind it.",
    )
    unless(
        any(grad is None for grad in ours),
        "Some block gets no gradient at all; the chain is cut between the blocks.",
    )
    unless(
        again == forward, "One checkpoint around all blocks keeps all activations at once when it recomputes."
    )
    unless(
        len(again) > 4, "Blocks run more than twice; each is recomputed once. Do not nest the checkpoints."
    )
    expect(again == [3, 2, 1, 0], f"Blocks are recomputed in the order {again}; expected [3, 2, 1, 0].")
    expect(
        all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, right, strict=True)),
        "The gradients differ from those of the plain loop.",
    )


@check("The plan fits, and no smaller one does.")
def smallest_group(answer) -> None:
    """Check the number of devices for every ZeRO stage, also where none is enough."""
    psi = 1_000_000
    unless(
        answer(psi, 3, 3 * psi) == 2,
        "Count 16 bytes a parameter: weights 2, gradients 2, masters 4, moments 8.",
    )
    unless(
        answer(psi, 1, 3 * psi) is not None,
        "At stage 1 every device keeps 4 bytes a parameter however many there are; then the answer is None.",
    )
    unless(
        answer(psi, 0, 5 * psi) is not None,
        "At stage 0 nothing is sharded, so more devices do not help; the answer is None.",
    )
    cases = {
        (psi, 0, 16 * psi): 1,
        (psi, 1, 7 * psi): 4,
        (psi, 2, 7 * psi): 4,
        (psi, 2, 3 * psi): 16,
        (psi, 3, 3 * psi): 8,
        (psi, 3, 16 * psi): 1,
        (psi, 3, psi // 1000): 16_384,
    }
    for (parameters, stage, size), right in cases.items():
        got = answer(parameters, stage, size)
        unless(
            isinstance(got, int) and got & (got - 1), f"{got} is not a power of two; take the next one above."
        )
        unless(
            got == 2 * right and right > 0,
            "This is twice as many as needed: exactly full is still enough, and 1 is a power of two.",
        )
        expect(
            got == right,
            f"{parameters:,} parameters at stage {stage} need {right} devices of {size:,} bytes, not {got}.",
        )
