"""Byte-level byte-pair encoding: train it, encode and decode with it, save it, load the real ones.

GPT-2 and gpt-oss share the method and differ in three choices: the number of merges (50,000 and
199,742), the expression that cuts the text beforehand, and the special tokens (one, and a whole
chat format). Training is plain Python; encoding runs in tiktoken, on ranks learned here.

Built in chapter 02: edit ``notebooks/02_tokens.py``, not this file.
"""

import hashlib
import heapq
import json
import math
import os
import re
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import regex
import tiktoken

__all__ = [
    "PATTERN",
    "BPETokenizer",
    "count_pairs",
    "count_words",
    "encode_word",
    "get_tokenizer",
    "learn_merges",
    "learn_merges_slowly",
    "merge_pair",
    "token_bytes",
    "train_encoding",
]


def count_pairs(words: Mapping[tuple[int, ...], int]) -> Counter[tuple[int, int]]:
    """Count how often each pair of neighbouring symbols occurs.

    Args:
        words: each word as its symbols, and how often the word occurs.

    Returns:
        The count of every pair. Overlapping pairs count each: ``(a, a)`` occurs twice in ``a a a``.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge_pair(word: Sequence[int], pair: tuple[int, int], new_id: int) -> tuple[int, ...]:
    """Replace each ``pair`` in ``word`` by ``new_id``, from left to right and without overlap."""
    merged: list[int] = []
    index = 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            merged.append(new_id)
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def learn_merges_slowly(words: Mapping[bytes, int], count: int) -> list[tuple[int, int]]:
    """Learn merges in the obvious way: count everything again for each one.

    The reference that :func:`learn_merges` is tested against. Arguments and result are the same.
    """
    symbols = {tuple(word): n for word, n in words.items()}
    merges: list[tuple[int, int]] = []
    while len(merges) < count and (pairs := count_pairs(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new_id = 256 + len(merges)
        symbols = {merge_pair(word, best, new_id): n for word, n in symbols.items()}
        merges.append(best)
    return merges


def token_bytes(merges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes that each id stands for: the 256 bytes themselves, then one token a merge."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


# How o200k and gpt-oss cut text; alternatives are tried in this order.
PATTERN = "|".join(
    [
        # A word that ends in small letters, with the space or sign before it and an English contraction
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        # A word in capitals, likewise
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",  # at most three digits
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",  # punctuation, with a space before it and line ends after it
        r"\s*[\r\n]+",  # line ends, with the spaces before them
        r"\s+(?!\S)",  # spaces, but not the last one before a word, which belongs to the word
        r"\s+",
    ]
)


def count_words(
    texts: Iterable[str], pattern: str = PATTERN, special_tokens: Collection[str] = ()
) -> Counter[bytes]:
    """Cut texts into pre-tokens and count them, as UTF-8 bytes.

    Args:
        texts: documents; special tokens in them separate text and are not counted.
        pattern: the regular expression whose matches are the pre-tokens.
        special_tokens: strings that are not text.

    Raises:
        ValueError: if ``pattern`` leaves out part of a text, or a text has no UTF-8 bytes.
    """
    cut = regex.compile(pattern)
    boundary = re.compile("|".join(map(re.escape, special_tokens)) or "(?!)")
    counts: Counter[str] = Counter()
    for text in texts:
        for part in boundary.split(text):
            pieces = cut.findall(part)
            if sum(map(len, pieces)) != len(part):
                raise ValueError(
                    f"The pattern leaves out part of {part[:40]!r}; each character must be in a match."
                )
            counts.update(pieces)
    return Counter({_utf8(piece): count for piece, count in counts.items()})


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds {text[error.start]!r} at position {error.start}, half of a surrogate pair, "
            "which has no UTF-8 bytes; read the text with errors='replace', or encode_bytes the original."
        ) from None


def learn_merges(words: Mapping[bytes, int], count: int) -> list[tuple[int, int]]:
    """Learn up to ``count`` merges, most frequent pair first.

    Among pairs that occur equally often, the one with the smaller ids is merged, so that the result
    depends on the counts alone and not on the order of the words. The method is Sennrich et al.'s
    (2016), https://arxiv.org/abs/1508.07909, with counts kept up to date instead of recounted.

    Args:
        words: pre-tokens as bytes, and how often each occurs.
        count: how many merges to learn.

    Returns:
        The merged pairs; merge ``i`` makes id ``256 + i``. Fewer than ``count`` if every word has
        become a single token before.
    """
    symbols = [tuple(word) for word in words]
    frequencies = list(words.values())
    counts = count_pairs(dict(zip(symbols, frequencies, strict=True)))
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, word in enumerate(symbols):
        for pair in pairwise(word):
            where[pair].add(index)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)

    merges: list[tuple[int, int]] = []
    while heap and len(merges) < count:
        negative, best = heapq.heappop(heap)
        if counts[best] != -negative:
            continue  # the count has changed since; a newer entry holds it
        changes: Counter[tuple[int, int]] = Counter()
        for index in where.pop(best):
            before = symbols[index]
            after = symbols[index] = merge_pair(before, best, 256 + len(merges))
            for pair in pairwise(before):
                changes[pair] -= frequencies[index]
            for pair in pairwise(after):
                changes[pair] += frequencies[index]
                where[pair].add(index)
        merges.append(best)
        for pair, change in changes.items():
            counts[pair] += change
            if change and counts[pair]:
                heapq.heappush(heap, (-counts[pair], pair))
    return merges


def encode_word(word: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Encode one pre-token in the obvious way: again and again, join the pair with the lowest rank.

    The reference that tiktoken's encoder is tested against.

    Args:
        word: the pre-token's bytes.
        ranks: the id of each token, by its bytes; all 256 single bytes are among them.
    """
    parts = [word[index : index + 1] for index in range(len(word))]
    while len(parts) > 1:
        candidates = [ranks.get(left + right, math.inf) for left, right in pairwise(parts)]
        lowest = min(candidates)
        if lowest == math.inf:
            break
        index = candidates.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return [ranks[part] for part in parts]


def train_encoding(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], pattern: str = PATTERN
) -> tiktoken.Encoding:
    """Learn a vocabulary and hand it to tiktoken; see :meth:`BPETokenizer.train`."""
    if isinstance(texts, str) or isinstance(special_tokens, str):
        raise ValueError(
            "train wants lists of strings, for texts and special_tokens; put a single one in a list."
        )
    if len(set(special_tokens)) != len(special_tokens) or "" in special_tokens:
        raise ValueError(
            f"special_tokens is {special_tokens!r}; give each token once, and none that is empty."
        )
    wanted = vocab_size - 256 - len(special_tokens)
    if wanted < 0:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the 256 bytes and {len(special_tokens)} special tokens "
            f"need at least {256 + len(special_tokens)}."
        )
    words = count_words(texts, pattern, special_tokens)
    if wanted and not words:
        raise ValueError("There is no text to learn from: texts is empty, or holds only empty strings.")
    merges = learn_merges(words, wanted)
    if len(merges) < wanted:
        warnings.warn(
            f"The text has only {len(merges)} pairs to merge, so the vocabulary has "
            f"{vocab_size - wanted + len(merges)} tokens, not {vocab_size}; train on more text.",
            stacklevel=3,
        )
    tokens = token_bytes(merges)
    return _encoding("trained", pattern, tokens, {t: len(tokens) + i for i, t in enumerate(special_tokens)})


def _encoding(
    name: str, pattern: str, tokens: Sequence[bytes], special_tokens: Mapping[str, int]
) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=dict(special_tokens)
    )


_FORMAT = "gptoss_lib.tokenizer/1"


def _write_encoding(encoding: tiktoken.Encoding, path: Path) -> None:
    ranks = encoding._mergeable_ranks
    content = {
        "format": _FORMAT,
        "pattern": encoding._pat_str,
        "special_tokens": encoding._special_tokens,
        "tokens": [token.decode("latin-1") for token in sorted(ranks, key=ranks.__getitem__)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_atomically(path, json.dumps(content, indent=1).encode())


def _write_atomically(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _read_encoding(path: Path) -> tiktoken.Encoding:
    if not path.is_file():
        raise FileNotFoundError(f"There is no tokenizer file {str(path)!r}; save one there first.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is truncated or not JSON ({error}); save the tokenizer again."
        ) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"{str(path)!r} is not a file that BPETokenizer.save wrote; train a tokenizer and save it."
        )
    try:
        tokens = [token.encode("latin-1") for token in content["tokens"]]
        special_tokens = {name: int(number) for name, number in content["special_tokens"].items()}
        if len(set(tokens)) != len(tokens) or not {bytes([byte]) for byte in range(256)} <= set(tokens):
            raise ValueError("a token is there twice, or one of the 256 bytes is not")
        if any(number < len(tokens) for number in special_tokens.values()):
            raise ValueError("a special token has the id of an ordinary one")
        return _encoding(path.stem, content["pattern"], tokens, special_tokens)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error!r}); save the tokenizer again.") from None


@contextmanager
def _explain_endless_runs() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"tiktoken gives up on this text ({error}); it has a run of spaces, about a million, that is too "
            "long for the regular expression: split the text there."
        ) from None


class BPETokenizer:
    """A byte-level BPE tokenizer: text to token ids and back, without loss.

    Make one with :meth:`train`, :meth:`load` or :func:`get_tokenizer`.

    Args:
        encoding: the pattern, ranks and special tokens, as tiktoken holds them.
    """

    def __init__(self, encoding: tiktoken.Encoding):
        self._encoding = encoding

    def __repr__(self) -> str:
        return f"BPETokenizer({self._encoding.name!r}, vocab_size={self.vocab_size})"

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        pattern: str = PATTERN,
    ) -> "BPETokenizer":
        """Learn a vocabulary: 256 bytes, then merges, then special tokens, numbered in this order.

        Args:
            texts: documents to learn from; special tokens in them are not learned from.
            vocab_size: ids in total. If the text runs out of pairs, there are fewer, with a warning.
            special_tokens: strings that get an id of their own, at the end of the vocabulary.
            pattern: the regular expression that cuts the text beforehand.

        Raises:
            ValueError: if ``vocab_size`` has no room for the bytes and special tokens, there is no
                text, ``texts`` or ``special_tokens`` is a single string, or a special token repeats.
        """
        return cls(train_encoding(texts, vocab_size, special_tokens, pattern))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "BPETokenizer":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, damaged, or another program's.
        """
        return cls(_read_encoding(Path(path)))

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer to one JSON file, which appears complete or not at all."""
        _write_encoding(self._encoding, Path(path))

    @property
    def vocab_size(self) -> int:
        """The highest id plus one: how many rows an embedding needs."""
        return self._encoding.max_token_value + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token."""
        return dict(self._encoding._special_tokens)

    @property
    def eot_id(self) -> int:
        """The id of ``<|endoftext|>``, which ends a document.

        Raises:
            ValueError: if the tokenizer was trained without it.
        """
        if "<|endoftext|>" not in self._encoding._special_tokens:
            raise ValueError("This tokenizer has no <|endoftext|>; name it in special_tokens when you train.")
        return self._encoding._special_tokens["<|endoftext|>"]

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Encode text. Special tokens written in it are plain text, but for those allowed by name.

        Args:
            text: any text; :meth:`decode` gives it back unchanged.
            allowed_special: special tokens to recognise in ``text``. Never allow any in text that
                comes from somebody else.

        Raises:
            ValueError: if ``allowed_special`` names an unknown token, or ``text`` holds half of a
                surrogate pair or a run of about a million spaces.
        """
        allowed = {allowed_special} if isinstance(allowed_special, str) else set(allowed_special)
        if unknown := allowed - self._encoding._special_tokens.keys():
            raise ValueError(
                f"{min(unknown)!r} in allowed_special is not among the tokenizer's special tokens."
            )
        _utf8(text)  # tiktoken replaces what has no bytes and says nothing
        with _explain_endless_runs():
            return self._encoding.encode(text, allowed_special=allowed, disallowed_special=())

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Encode many texts at once, on all cores; special tokens in them are plain text."""
        texts = list(texts)
        for text in texts:
            _utf8(text)
        with _explain_endless_runs():
            return self._encoding.encode_batch(texts, num_threads=os.cpu_count() or 1, disallowed_special=())

    def encode_bytes(self, data: bytes) -> list[int]:
        """Encode any bytes: runs that are UTF-8 as text, every other byte by itself."""
        # surrogateescape turns a byte that is not UTF-8 into a lone surrogate, which no valid text contains.
        runs = re.split("([\udc80-\udcff]+)", data.decode("utf-8", errors="surrogateescape"))
        ids: list[int] = []
        for index, run in enumerate(runs):
            if index % 2 == 0:
                ids += self.encode(run)
            else:
                stray = run.encode("utf-8", errors="surrogateescape")
                ids += [self._encoding.encode_single_token(bytes([byte])) for byte in stray]
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the tokens, one after the other.

        Args:
            ids: token ids, as a list or a one-dimensional array or tensor.

        Raises:
            ValueError: if an id is not in the vocabulary.
        """
        try:
            return self._encoding.decode_bytes(list(ids))
        except (KeyError, OverflowError, TypeError) as error:
            raise ValueError(
                f"decode wants a row of token ids from 0 to {self.vocab_size - 1} ({error})."
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the tokens; bytes that are not UTF-8 become U+FFFD, the replacement sign."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


# Encoding in tiktoken, file, SHA-256. r50k_base is GPT-2's vocabulary in one file instead of two.
_VOCABULARIES = {
    "o200k_harmony": (
        "o200k_harmony",
        "o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "cl100k_base",
        "cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "gpt2": (
        "r50k_base",
        "r50k_base.tiktoken",
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    ),
}


def get_tokenizer(name_or_path: str | os.PathLike) -> BPETokenizer:
    """Return a published tokenizer by name, or one of yours by its file.

    Args:
        name_or_path: ``"o200k_harmony"`` (gpt-oss), ``"cl100k_base"`` (GPT-4), ``"gpt2"``, or the path
            of a file that :meth:`BPETokenizer.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file, or a published vocabulary is neither in
            tiktoken's cache nor can be downloaded.
        ValueError: if the file is damaged.
    """
    if name_or_path in _VOCABULARIES:
        encoding, file, sha256 = _VOCABULARIES[name_or_path]
        _provide(file, sha256)
        return BPETokenizer(tiktoken.get_encoding(encoding))
    if not Path(name_or_path).is_file():
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is neither a saved tokenizer nor one of {', '.join(_VOCABULARIES)}."
        )
    return BPETokenizer.load(name_or_path)


def _provide(file: str, sha256: str) -> None:
    """Put a vocabulary file where tiktoken looks for it.

    tiktoken could download it, but waits for ever on a network that swallows packets, and deletes
    a local copy that is damaged.
    """
    import requests  # slow to import, and needed once

    url = f"https://openaipublic.blob.core.windows.net/encodings/{file}"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    path = (
        Path(folder or Path(tempfile.gettempdir(), "data-gym-cache")) / hashlib.sha1(url.encode()).hexdigest()
    )
    if path.is_file():
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ValueError(
                f"{str(path)!r} is not {file} as published; delete it, or put a whole copy there."
            )
        return
    try:
        response = requests.get(url, timeout=(5, 30))
        response.raise_for_status()
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, response.content)
    except OSError as error:
        raise FileNotFoundError(
            f"{file} is not in tiktoken's cache and could not be downloaded: get it from {url}, save it "
            f"under the name {path.name} in a folder, and set TIKTOKEN_CACHE_DIR to that folder."
        ) from error
    if hashlib.sha256(response.content).hexdigest() != sha256:
        path.unlink()
        raise ValueError(f"What {url} sent is not {file} as published; something stands between you and it.")
