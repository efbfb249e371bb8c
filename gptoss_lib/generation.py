"""Generation: choose tokens from logits, repeat, and stream the text.

The samplers are pure functions on logits [B, V]; :func:`sample` composes them,
:func:`generate_tokens` is the loop, :class:`TextStream` turns tokens into text. Nothing here knows
GPT-2: any model that maps ids [B, T] to logits [B, T, V] will do.

Built in chapter 07: edit ``notebooks/07_generation.py``, not this file.
"""

import codecs
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from inspect import signature

import torch
from torch import Tensor, nn

__all__ = [
    "TextStream",
    "apply_temperature",
    "draw",
    "generate",
    "generate_text",
    "generate_tokens",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalize_repetition",
    "sample",
    "stream_text",
    "warp",
]


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Pick the token in whose share of the line from 0 to 1 a random number falls.

    Args:
        probabilities: [B, V]; the rows need not add up to 1.
        uniform: [B], each from 0 (included) to 1 (excluded).

    Returns:
        Token ids [B]. A token of probability 0 is never picked.

    Raises:
        ValueError: if a row holds NaN or infinity, or nothing but zeros.
    """
    # On the CPU and in double precision: the same choice on every device.
    cumulative = probabilities.detach().cpu().double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    if not (torch.isfinite(total) & (total > 0)).all():
        raise ValueError(
            "The probabilities of a row add up to nothing or to NaN; look for NaN in the model's logits."
        )
    picked = torch.searchsorted(cumulative / total, uniform.double()[:, None], right=True)
    return picked[:, 0].to(probabilities.device)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen (below 1) or flatten (above 1) the distribution.

    Args:
        logits: [B, V].
        temperature: what the logits are divided by.

    Raises:
        ValueError: if ``temperature`` is not positive; :func:`warp` reads 0 as greedy.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but dividing by it needs a positive number.")
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits of each row, and all that equal the smallest of them.

    Args:
        logits: [B, V].
        k: how many; more than V keeps everything.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"top_k is {k}, but at least one token has to stay; pass None to switch it off.")
    threshold = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # [B, 1]
    return logits.masked_fill(logits < threshold, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable tokens whose probabilities reach p together.

    Tokens exactly as probable as the last one kept stay as well. From "The Curious Case of Neural
    Text Degeneration" (Holtzman et al., 2020).

    Args:
        logits: [B, V].
        p: above 0, at most 1; 1 keeps everything.

    Raises:
        ValueError: if p is outside that range.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p is {p}, but it is a share of the probability, above 0 and at most 1.")
    if p == 1:
        return logits  # by comparing sums, rounding would cut off a few rare tokens
    probabilities = logits.softmax(dim=-1)
    ordered = probabilities.sort(dim=-1, descending=True).values
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = (mass_before < p).sum(dim=-1, keepdim=True)  # [B, 1], at least 1
    threshold = ordered.gather(-1, kept - 1)
    return logits.masked_fill(probabilities < threshold, -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens that are at least p times as probable as the most probable one.

    From "Turning Up the Heat: Min-p Sampling" (Nguyen et al., 2024).

    Args:
        logits: [B, V].
        p: from 0 (keep everything) to 1 (keep only the best).

    Raises:
        ValueError: if p is outside that range.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p is {p}, but it is a share of the best token's probability, from 0 to 1.")
    probabilities = logits.softmax(dim=-1)
    threshold = p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, -math.inf)


def penalize_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Make every token that occurred before less likely (above 1) or more likely (below 1).

    Divides positive logits and multiplies negative ones, once for each token however often it
    occurred. From "CTRL" (Keskar et al., 2019), with the rule for negative logits that
    ``transformers`` added.

    Args:
        logits: [B, V].
        previous: the tokens of the text so far, [B, T].
        penalty: a positive number; 1 changes nothing.

    Raises:
        ValueError: if ``penalty`` is not positive.
    """
    if not penalty > 0:
        raise ValueError(f"repetition_penalty is {penalty}, but it has to be positive; 1 switches it off.")
    seen = logits.gather(-1, previous)
    return logits.scatter(-1, previous, torch.where(seen < 0, seen * penalty, seen / penalty))


def warp(
    logits: Tensor,
    previous: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """Apply the samplers in ``transformers``' order: penalty, temperature, top-k, top-p, min-p.

    Args:
        logits: [B, V], of any floating type.
        previous: the tokens so far, [B, T]; only the repetition penalty needs them.
        temperature: 0 is greedy, 1 is the model's own distribution.
        top_k: keep this many tokens.
        top_p: keep the smallest set with this share of the probability.
        min_p: keep tokens with at least this share of the best one's probability.
        repetition_penalty: what the logits of tokens that occurred are divided by.

    Returns:
        Logits [B, V] in float32, −inf where a token was cut.

    Raises:
        ValueError: if a setting is out of range, or the penalty lacks ``previous``.
    """
    logits = logits.float()
    if repetition_penalty != 1:
        if previous is None:
            raise ValueError("repetition_penalty needs the tokens so far; pass them as previous=[B, T].")
        logits = penalize_repetition(logits, previous, repetition_penalty)
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -math.inf).scatter(-1, best, 0.0)
    logits = apply_temperature(logits, temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits


def sample(
    logits: Tensor,
    previous: Tensor | None = None,
    *,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    **settings,
) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [B, V].
        previous: the tokens so far, [B, T]; only the repetition penalty needs them.
        generator: a CPU generator for all rows or one for each; PyTorch's global one by default.
        settings: temperature, top_k, top_p, min_p, repetition_penalty, as in :func:`warp`.

    Returns:
        Token ids [B].

    Raises:
        ValueError: if a setting is out of range, the logits hold NaN, or there are more or fewer
            generators than rows.
    """
    rows, shared = len(logits), generator is None or isinstance(generator, torch.Generator)
    if not shared and len(generator) != rows:
        raise ValueError(f"There are {len(generator)} generators for {rows} rows; give one, or one a row.")
    warped = warp(logits, previous, **settings)
    if settings.get("temperature") == 0:
        return warped.argmax(dim=-1)
    if shared:
        uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    else:
        uniform = torch.cat([torch.rand(1, generator=each, dtype=torch.float64) for each in generator])
    return draw(warped.softmax(dim=-1), uniform)


def generate_tokens(
    model: nn.Module,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    eos_id: int | Collection[int] | None = None,
    seed: int | Sequence[int] | None = None,
    window: int | None = None,
    cache=None,
    **settings,
) -> Iterator[Tensor]:
    """Continue every row of a batch, and yield the new tokens step by step.

    Args:
        model: maps ids [B, T] to logits [B, T, V] and takes ``cache=``.
        input_ids: the texts to continue, [B, T]. All rows are equally long: there is no padding,
            since learned positions cannot start in the middle (:func:`generate_text` groups texts).
        max_new_tokens: stop after this many steps.
        eos_id: the token, or tokens, that end a row; a finished row repeats its end.
        seed: row i draws from ``seed + i``, or from ``seed[i]``, so that a row's choices do not
            depend on its neighbours. None takes a new one from PyTorch's global generator.
        window: read only the last so many tokens; None reads all, and the model raises an error
            where the text outgrows it.
        cache: stores keys and values, so that each step reads only the new tokens.
        settings: temperature, top_k, top_p, min_p, repetition_penalty, as in :func:`warp`.

    Yields:
        Token ids [B], at most ``max_new_tokens`` times; fewer if every row ended.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids has the shape {list(input_ids.shape)}, expected [B, T] with at least one token "
            "a row; start an empty text with the end-of-text token."
        )
    if window is not None and (cache is not None or window < 1):
        raise ValueError(f"window={window} needs a positive number and no cache: a cache keeps every token.")
    if cache is not None and cache.length >= input_ids.shape[1]:
        raise ValueError(
            f"The cache holds {cache.length} tokens, but input_ids has only {input_ids.shape[1]}; "
            "pass the whole text, with what is new at its end."
        )
    rows = len(input_ids)
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    seeds = [seed + row for row in range(rows)] if isinstance(seed, int) else list(seed)
    if len(seeds) != rows:
        raise ValueError(f"There are {len(seeds)} seeds for {rows} rows; give one, or one a row.")
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    generators = [torch.Generator().manual_seed(each) for each in seeds]
    return _steps(model, input_ids, max_new_tokens, ends, generators, window, cache, settings)


@torch.no_grad()
def _steps(model, ids, max_new_tokens, ends, generators, window, cache, settings) -> Iterator[Tensor]:
    """Run the loop of :func:`generate_tokens`, whose arguments have been checked."""
    ends = torch.tensor(ends, dtype=torch.long, device=ids.device)
    # Of a long prompt only the last position's logits are needed; some models can leave the others out.
    can_skip = "logits_to_keep" in signature(getattr(model, "forward", model)).parameters
    last = {"logits_to_keep": 1} if can_skip else {}
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        start = cache.length if cache is not None else max(0, ids.shape[1] - (window or ids.shape[1]))
        logits = model(ids[:, start:], cache=cache, **last)[:, -1]  # [B, V]
        tokens = sample(logits, ids, generator=generators, **settings)
        tokens = torch.where(done, ids[:, -1], tokens)
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        done |= torch.isin(tokens, ends)
        yield tokens
        if done.all():
            return


def generate(model: nn.Module, input_ids: Tensor, max_new_tokens: int, **options) -> Tensor:
    """Continue every row of a batch and return prompt and continuation together.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        input_ids: the texts to continue, [B, T].
        max_new_tokens: how many tokens to add at most.
        options: everything that :func:`generate_tokens` takes.

    Returns:
        Ids [B, T + N], N ≤ ``max_new_tokens``. A row that ended early repeats its end token.
    """
    steps = [tokens[:, None] for tokens in generate_tokens(model, input_ids, max_new_tokens, **options)]
    return torch.cat([input_ids, *steps], dim=1)


class TextStream:
    """Turns the tokens of one text into pieces of text that are safe to show.

    A piece never holds half a character, and never any part of a stop string.

    Args:
        tokenizer: has ``decode_bytes(ids)``.
        stop: a string, or several, at which the text ends; it is not part of the text.
        eos_id: the token, or tokens, that end the text.

    Raises:
        ValueError: if a stop string is empty.
    """

    def __init__(
        self, tokenizer, stop: str | Sequence[str] = (), eos_id: int | Collection[int] | None = None
    ) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = [stop] if isinstance(stop, str) else list(stop)
        if "" in self._stop:
            raise ValueError("A stop string is empty, which would stop every text at once; remove it.")
        self._ends = {eos_id} if isinstance(eos_id, int) else set(eos_id or ())
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may be the beginning of a stop string

    def push(self, token_id: int) -> str:
        """Take one token and return the text that is safe to show now (often nothing)."""
        if self.stopped:
            return ""
        if token_id in self._ends:
            return self.finish()
        return self._release(self._decoder.decode(self._tokenizer.decode_bytes([token_id])))

    def finish(self) -> str:
        """Return what was held back; half a character becomes U+FFFD. Nothing follows."""
        if self.stopped:
            return ""
        piece = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = ("", "") if self.stopped else (self._held, "")
        self.stopped = True
        return piece + rest

    def _release(self, text: str) -> str:
        """Add text to what is held, and let go of all that cannot belong to a stop string."""
        text = self._held + text
        # The stop string that is complete first counts, so that the text does not depend on its pieces.
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stop if stop in text]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        longest = max(map(len, self._stop), default=1) - 1
        keep = next((n for n in range(min(longest, len(text)), 0, -1) if self._begins_a_stop(text[-n:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)


def stream_text(
    model: nn.Module,
    tokenizer,
    prompt: str,
    max_new_tokens: int,
    *,
    stop: str | Sequence[str] = (),
    cache=None,
    **options,
) -> Iterator[str]:
    """Continue one prompt and yield the new text in pieces, as soon as they are safe to show.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        tokenizer: has ``encode``, ``decode_bytes`` and ``eot_id``.
        prompt: the beginning of the text; may be empty.
        max_new_tokens: how many tokens to add at most.
        stop: a string, or several, at which the text ends.
        cache: an empty cache, which makes every step cheaper.
        options: what else :func:`generate_tokens` takes; ``eos_id`` is end-of-text by default.

    Yields:
        Pieces that are not empty. They join to the text before the stop string or the end.
    """
    eos_id = options.pop("eos_id", tokenizer.eot_id)
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]], device=_device(model))
    text = TextStream(tokenizer, stop, eos_id)
    for tokens in generate_tokens(model, ids, max_new_tokens, eos_id=eos_id, cache=cache, **options):
        if piece := text.push(int(tokens)):
            yield piece
        if text.stopped:
            return
    if piece := text.finish():
        yield piece


def generate_text(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    new_cache: Callable[[int], object] | None = None,
    **options,
) -> list[str]:
    """Continue many prompts and return what was added to each.

    Prompts of equal length (in tokens) share a batch. Prompt i draws from ``seed + i``, whatever
    batch it is in.

    Args:
        model: maps ids [B, T] to logits [B, T, V].
        tokenizer: has ``encode``, ``decode_bytes`` and ``eot_id``.
        prompts: the beginnings of the texts; may be empty strings.
        max_new_tokens: how many tokens to add at most.
        stop: a string, or several, at which a text ends.
        seed: the first prompt's seed; None takes a new one from PyTorch's global generator.
        new_cache: called with B, the rows of a batch, once a batch; returns an empty cache for them.
        options: what else :func:`generate_tokens` takes; ``eos_id`` is end-of-text by default.

    Returns:
        The continuations, in the order of the prompts, without prompt, stop string and end.
    """
    eos_id = options.pop("eos_id", tokenizer.eot_id)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    rows = [[tokenizer.eot_id, *tokenizer.encode(prompt)] for prompt in prompts]
    batches = defaultdict(list)
    for number, row in enumerate(rows):
        batches[len(row)].append(number)

    pieces = [[] for _ in prompts]
    for members in batches.values():
        ids = torch.tensor([rows[number] for number in members], device=_device(model))
        texts = {number: TextStream(tokenizer, stop, eos_id) for number in members}
        steps = generate_tokens(
            model,
            ids,
            max_new_tokens,
            eos_id=eos_id,
            seed=[seed + number for number in members],
            cache=new_cache(len(members)) if new_cache else None,
            **options,
        )
        for tokens in steps:
            for number, token in zip(members, tokens.tolist(), strict=True):
                pieces[number].append(texts[number].push(token))
            if all(text.stopped for text in texts.values()):
                break
        for number in members:
            pieces[number].append(texts[number].finish())
    return ["".join(parts) for parts in pieces]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device
