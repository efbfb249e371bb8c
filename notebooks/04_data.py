# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data
#
# A language model does not read stories. It reads rectangles of integers, and it learns whatever those
# rectangles contain, mistakes included. In this chapter you build the path from a folder of text to those
# rectangles, and you build it so that every step can be checked: no document leaks from training into
# validation, no token is skipped or counted twice, a killed process leaves nothing half done. You end with
# a unit for the loss that does not change when the tokenizer does, and with the lowest loss that any model
# can reach on this data.
#
# **You will**
#
# - read stories from a grammar, from TinyStories or from your own files through one interface;
# - turn documents into one stream of tokens, with an end-of-text token after each of them;
# - split documents into training and validation so that copies of a document stay together;
# - write token files that are memory-mapped, checked, and either complete or absent;
# - cut the stream into blocks, shift the labels by one, and shuffle, seed and resume the batches;
# - convert a loss into **bits per byte**, and compare two models with different tokenizers.
#
# **Time:** 60 minutes. **Hardware:** any two CPU cores; no network.

# %% tags=["setup"]
# The tool fills the install snippet in.

# %% [markdown]
# ## Why
#
# [Tokens](02_tokens.ipynb) gave you a tokenizer, and [A small world](03_small_world.ipynb) an endless supply
# of stories. The model of the next chapter wants something else: `input_ids` of shape `[B, T]`, that is
# *B* rows of exactly *T* token ids, and `labels` of the same shape that say what should come next at every
# position. Documents are not *T* tokens long. They are as long as they are.
#
# GPT-2 solved this the way everyone still does: put all documents into one long stream, mark where each one
# ends, and cut the stream into equal blocks. That takes twenty lines of code, and those twenty lines are
# where many training runs go wrong, because nothing crashes when they are wrong. A label that is off by one
# still trains. A validation set that contains training documents still gives a number, and a better one.
# So you build each step together with a test that would notice.

# %% tags=["hide-input"]
from itertools import pairwise

from gptoss_lib.figures import COLORS, CYCLE, arrow, box, new_figure, show

fig, ax = new_figure(8.2, 3.5)
ax.set(xlim=(0, 16.4), ylim=(0, 7))
ax.axis("off")
names = ["blue", "orange", "green"]
for row, (name, width) in enumerate(zip(names, (2.3, 1.4, 2.9), strict=True)):
    box(ax, 0.1, 5.2 - 1.2 * row, width, 0.8, f"story {row + 1}", name, fontsize=9)
ax.text(1.6, 6.6, "documents", ha="center", weight="bold")
arrow(ax, (3.3, 4.4), (4.2, 4.4))
ax.text(3.75, 4.7, "encode", ha="center", fontsize=8)
ax.text(8.3, 6.6, "one stream, an end-of-text token after each document", ha="center", weight="bold")
stream = [("blue", 4), ("orange", 2), ("green", 5)]
x, cells = 4.5, []
for name, length in stream:
    cells += [name] * length + ["grey"]
for index, name in enumerate(cells):
    box(ax, x + 0.56 * index, 5.0, 0.5, 0.8, "eot" if name == "grey" else "", name, fontsize=7)
arrow(ax, (8.3, 4.8), (8.3, 4.1))
ax.text(8.5, 4.4, "cut into blocks of T + 1 = 5; neighbours share one token", fontsize=8, va="center")
for block in range(3):
    for index in range(5):
        name = cells[4 * block + index]
        left = 4.5 + 3.2 * block + 0.56 * index
        box(ax, left, 3.1, 0.5, 0.8, "eot" if name == "grey" else "", name, fontsize=7)
        if index < 4:
            box(ax, left, 1.5, 0.5, 0.7, "eot" if name == "grey" else "", name, fontsize=7)
        if index > 0:
            box(ax, left - 0.56, 0.4, 0.5, 0.7, "eot" if name == "grey" else "", name, fontsize=7)
    arrow(ax, (4.5 + 3.2 * block + 1.1, 3.0), (4.5 + 3.2 * block + 1.1, 2.3))
ax.text(14.3, 3.5, "blocks", va="center", weight="bold")
ax.text(14.3, 1.85, "input_ids [B, T]", va="center", weight="bold")
ax.text(14.3, 0.75, "labels [B, T]", va="center", weight="bold")
ax.text(0.1, 1.3, "labels = the same\ntokens, one later", va="center", fontsize=9)
show(
    fig,
    alt="From documents to batches: three stories are encoded and joined into one stream with an end-of-text "
    "token after each; the stream is cut into blocks of five tokens that overlap by one; the first four tokens "
    "of a block are its inputs, the last four its labels.",
)

# %% [markdown]
# Read the picture from the upper left to the lower right: that is the chapter. A block that begins in the
# middle of a story, or holds the end of one and the start of the next, is normal. What it costs is measured
# [below](#What-a-cut-costs).

# %%
#| export
"""Documents in, batches out: sources, token files, packing, shuffled batches and bits per byte.

GPT-2's recipe, made checkable: documents are joined into one stream with an end-of-text token after
each, whole documents are split into training and validation by their content, the stream lies in
memory-mapped files that are either complete or absent, and batches are a pure function of a seed and
a step. Losses are compared in bits per byte, which do not depend on the tokenizer.
"""

import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from gptoss_lib import settings
from gptoss_lib.stories import StoryGrammar
from gptoss_lib.tokenizer import BPETokenizer

END_OF_TEXT = "<|endoftext|>"

# %% [markdown]
# ## Where documents come from
#
# A **source** is anything that you can loop over and that gives documents, one string each. A list of strings
# is a source. This is all the interface there is, and it is worth keeping that small: everything after this
# section works for any text you ever want to train on.
#
# Three sources come with the library. The first one asks the grammar. It knows something that no other source
# knows, the exact probability of each of its documents, so it has a second method that gives both. Each of our sources also
# has a `fingerprint()`: what its documents depend on, so that [later](#Complete-or-absent) nothing is tokenised twice.


# %%
#| export
class GrammarSource:
    """Stories drawn from a grammar: the one source that knows the probability of its documents."""

    def __init__(self, grammar: StoryGrammar, seed: int = 0, count: int = 1_000):
        """Draw ``count`` stories from ``grammar``; the same seed gives the same stories."""
        self.grammar, self.seed, self.count = grammar, seed, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return (document for document, _ in self.scored())

    def scored(self) -> Iterator[tuple[str, float]]:
        """Yield each document with its log-probability in nats."""
        for story in self.grammar.stories(seed=self.seed, count=self.count):
            yield story.text, story.log_prob

    def fingerprint(self) -> dict:
        """Say in JSON what makes this source's documents what they are."""
        grammar = [self.grammar.entropy(), *sorted(self.grammar.vocabulary()), *islice(self, 4)]
        digest = hashlib.sha256(json.dumps(grammar).encode()).hexdigest()
        return {"source": "stories", "grammar": digest, "seed": self.seed, "count": self.count}


# %%
source = GrammarSource(StoryGrammar(), seed=0, count=3)
for document, log_prob in source.scored():
    print(f"{log_prob:7.1f} nats  {len(document):5,} characters  {document[:60]!r}…")

# %% [markdown]
# The second source is [TinyStories](https://arxiv.org/abs/2305.07759), two million short stories that large
# models wrote in the words of a small child. It is what the course trains on when you set
# `GPTOSS_PROFILE=full`. It comes through the `datasets` library, which downloads about 1 GB once and keeps it;
# with `streaming=True` it downloads only what you read. Both give the same documents in the same order. If you have
# a copy on disk, give its folder as `path` and no network is needed.


# %%
#| export
class TinyStoriesSource:
    """TinyStories (Eldan & Li, 2023) through the ``datasets`` library, or a copy of it on disk."""

    name = "roneneldan/TinyStories"

    def __init__(self, split: str = "train", streaming: bool = False, path: str | Path | None = None):
        """Choose what to read; nothing is loaded before the first document is asked for.

        Args:
            split: ``"train"`` or ``"validation"``.
            streaming: read as you go, without downloading everything first.
            path: a folder that ``save_to_disk`` wrote or that holds the Parquet files.
        """
        self.split, self.streaming = split, streaming
        self.path = None if path is None else Path(path)

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self._load()):
            document = _document(row, "text", f"{self.path or self.name}, row {number}")
            if document.strip():
                yield document

    def _load(self) -> Iterable[Mapping]:
        import datasets  # takes a second to import

        if self.path is None:
            try:
                return datasets.load_dataset(self.name, split=self.split, streaming=self.streaming)
            except (ConnectionError, FileNotFoundError) as error:
                raise ConnectionError(
                    "TinyStories is neither in the cache of the datasets library nor reachable: download "
                    f"TinyStories-train.txt from https://huggingface.co/datasets/{self.name} by hand "
                    "and point GPTOSS_DATA at the file."
                ) from error
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"TinyStories should be in the folder {str(self.path)!r}, which does not exist."
            )
        if not is_saved_dataset(self.path):
            return datasets.load_dataset(str(self.path), split=self.split, streaming=self.streaming)
        saved = datasets.load_from_disk(str(self.path))
        if isinstance(saved, datasets.DatasetDict):
            if self.split not in saved:
                raise ValueError(f"{self.path} has the splits {sorted(saved)}, but not {self.split!r}.")
            saved = saved[self.split]
        return saved.to_iterable_dataset() if self.streaming else saved

    def fingerprint(self) -> dict:
        """Say in JSON what makes this source's documents what they are."""
        files = [] if self.path is None else _stamps(sorted(self.path.rglob("*")))
        return {"source": "tinystories", "split": self.split, "files": files}


# %%
#| export
def is_saved_dataset(path: str | Path) -> bool:
    """Say whether ``path`` is a folder that ``datasets``' ``save_to_disk`` wrote."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


# %%
#| export
def _document(record: object, field: str, where: str) -> str:
    """Return ``record[field]``, or say what is there instead of a string."""
    if isinstance(record, Mapping) and isinstance(record.get(field), str):
        return record[field]
    found = (
        f"the fields {sorted(record)}"
        if isinstance(record, Mapping) and field not in record
        else repr(record)[:80]
    )
    raise ValueError(f"{where} should hold a string in the field {field!r}, but has {found}.")


# %%
#| export
def _stamps(paths: Iterable[Path]) -> list:
    """Return what tells one version of the files from another without reading them."""
    return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths if p.is_file()]


# %% [markdown]
# The third source reads files: plain text, JSON Lines or Parquet. A text file may hold many documents, separated by
# `<|endoftext|>`, which is how TinyStories itself is published. Each reader is a generator, so a file of
# 100 GB needs no more memory than its longest document.
#
# Files from the real world are cut off, empty, or not what their name says. Each of these gets one sentence that names
# the file, the line and what to do.


# %%
#| export
def _read_text(path: Path, field: str) -> Iterator[str]:
    """Yield what stands between the end-of-text marks of a UTF-8 file, one document in memory at a time."""
    pieces: list[str] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise ValueError(
                    f"{path}, line {number} holds a zero byte: save the file as UTF-8 text, or leave it out."
                )
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number} is not UTF-8 at byte {error.start} ({error.reason}): "
                    "convert the file to UTF-8, or fetch it again if it was cut off."
                ) from error
            for position, piece in enumerate(line.split(END_OF_TEXT)):
                if position > 0:
                    yield "".join(pieces).strip()
                    pieces.clear()
                pieces.append(piece)
    yield "".join(pieces).strip()


# %%
#| export
def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    """Yield one field of each line, which is a JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is not JSON ({error}): correct the line, or fetch the file again "
                    "if it was cut off."
                ) from error
            yield _document(record, field, f"{path}, line {number}")


# %%
#| export
def _read_parquet(path: Path, field: str) -> Iterator[str]:
    """Yield one column, a thousand rows in memory at a time."""
    import pyarrow  # comes with datasets; slow to import
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise ValueError(
                    f"{path} has no column {field!r}, only {file.schema_arrow.names}: name one of them."
                )
            for batch in file.iter_batches(batch_size=1_000, columns=[field]):
                for record in batch.to_pylist():
                    yield _document(record, field, f"{path}, row {row}")
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet ({error}): fetch it again if it was cut off."
        ) from error


# %%
#| export
_READERS = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


# %%
#| export
class FileSource:
    """Documents from text, JSON Lines and Parquet files, in the order of the files' names.

    Text is UTF-8 and split at ``<|endoftext|>``; in the other two, a document is the string in
    ``field``. Documents that are empty or white space are left out.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], field: str = "text"):
        """Find the files.

        Args:
            paths: a file, a folder (searched to its bottom), a glob pattern, or a list of these.
            field: the JSON field or Parquet column that holds the text.

        Raises:
            FileNotFoundError: if there is no file to read.
            ValueError: if a file is empty or of an unknown kind.
        """
        self.field = field
        self.paths = [file for path in _as_list(paths) for file in _find_files(path)]
        for path in self.paths:
            if path.suffix not in _READERS:
                raise ValueError(f"{path} is of an unknown kind; expected {', '.join(_READERS)}.")
            if path.stat().st_size == 0:
                raise ValueError(f"{path} is empty: leave it out, or fetch it again.")

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            for document in _READERS[path.suffix](path, self.field):
                if document.strip():
                    yield document

    def fingerprint(self) -> dict:
        """Say in JSON what makes this source's documents what they are."""
        return {"source": "files", "field": self.field, "files": _stamps(self.paths)}


# %%
#| export
def _as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else paths


# %%
#| export
def _find_files(path: str | Path) -> list[Path]:
    """Return the files that a path, a folder or a glob pattern means, sorted."""
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        files = [file for file in Path(path).rglob("*") if file.suffix in _READERS and file.is_file()]
    else:
        files = [Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file()]
    if not files:
        raise FileNotFoundError(
            f"{str(path)!r} names no file; expected a file, or a folder or pattern with "
            f"{', '.join(_READERS)} files."
        )
    return sorted(files)


# %% [markdown]
# Write the same three stories in the three formats, and read them back. All three must give what the grammar gave.

# %%
import tempfile

scratch = Path(tempfile.mkdtemp())
stories = list(source)
(scratch / "a.txt").write_text(f"\n{END_OF_TEXT}\n".join(stories), encoding="utf-8")
(scratch / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))

import pyarrow
import pyarrow.parquet

pyarrow.parquet.write_table(pyarrow.table({"text": stories}), scratch / "c.parquet")
for name in ("a.txt", "b.jsonl", "c.parquet", "*"):
    documents = list(FileSource(scratch / name))
    print(
        f"{name:10} {len(documents)} documents, equal to the grammar's: {documents == stories * (len(documents) // 3)}"
    )

# %% [markdown]
# Now damage the files the way the world does.


# %%
def complaint(name: str, content: bytes) -> str:
    """Return what FileSource says about a file with this content."""
    (scratch / name).write_bytes(content)
    try:
        list(FileSource(scratch / name))
    except ValueError as error:
        return str(error).replace(f"{scratch}{os.sep}", "")
    return "no complaint"


print(complaint("empty.txt", b""))
print(complaint("photo.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"))
print(complaint("cut.txt", "once upon a time in a caf\u00e9".encode()[:-1]))
print(complaint("cut.jsonl", b'{"text": "a whole story"}\n{"text": "a story that ends in the mid'))
print(complaint("fields.jsonl", b'{"story": "under another name"}\n'))

# %% [markdown]
# ## One stream, with an end-of-text token
#
# Encode each document, put the end-of-text token (**eot**) after it, and join them all. Here are two tiny documents and
# a tokenizer that is trained on them, so that you can see every token.

# %%
tiny = ["the cat sat.", "the dog ran home."]
tiny_tokenizer = BPETokenizer.train(tiny * 10, 270, special_tokens=(END_OF_TEXT,))
tiny_stream = [token for text in tiny for token in [*tiny_tokenizer.encode(text), tiny_tokenizer.eot_id]]
print(tiny_stream)
print([tiny_tokenizer.decode([token]) for token in tiny_stream])

# %% [markdown]
# Why the eot token? Think about what the model is asked at the end of the first document. Without the mark, the correct
# answer after `sat.` would be `the`: the model would learn that cats are followed by dogs, which is an accident of
# the order of your files. With the mark it learns two useful things:
#
# - **when to stop.** After a complete story, predict eot. This is what ends a generated story in
#   [Generation](07_generation.ipynb); a model that never saw the token never stops.
# - **when to forget.** After eot, whatever came before says nothing about what comes next. Attention learns to ignore
#   it. A prompt of a single eot token then means “begin a new document”.
#
# The tokenizer writes the mark; the text cannot. A document that contains the characters `<|endoftext|>` is encoded as
# ordinary characters, because our `encode` allows no special tokens unless asked. Otherwise any web page about
# tokenizers could cut itself, or your corpus, in two.

# %%
sneaky = tiny_tokenizer.encode("a page about <|endoftext|> and friends")
print("eot among the tokens of a text that spells it:", tiny_tokenizer.eot_id in sneaky)
print("and it still decodes to the same text:", tiny_tokenizer.decode(sneaky))

# %% [markdown]
# ## Packing, not padding
#
# Why one stream at all? The other way is one document a row, filled up with a padding token to the length of the longest.
# The padding is computed like everything else and then thrown away. Here are eight stories both ways.

# %% tags=["hide-input"]
lengths = [len(story.text.split()) for story in StoryGrammar().stories(seed=3, count=8)]
longest = max(lengths)
fig, axes = new_figure(8.2, 2.9, ncols=2, sharey=True)
for row, length in enumerate(lengths):
    axes[0].barh(row, length, color=CYCLE[row % 6])
    axes[0].barh(row, longest - length, left=length, color=COLORS["grey"], alpha=0.25, hatch="///")
position = 0
for index, length in enumerate(lengths):
    remaining = length
    while remaining:
        row, column = divmod(position, longest)
        piece = min(remaining, longest - column)
        axes[1].barh(row, piece, left=column, color=CYCLE[index % 6])
        position, remaining = position + piece, remaining - piece
axes[0].invert_yaxis()
axes[0].set(title="padded: one story a row", xlabel="words", ylabel="row", yticks=range(8))
axes[1].set(title="packed: the same stories", xlabel="words")
for ax in axes:
    ax.grid(False)
show(
    fig,
    alt=f"Eight stories as eight padded rows, of which {1 - sum(lengths) / (8 * longest):.0%} is padding, and the same "
    f"stories packed end to end into {math.ceil(sum(lengths) / longest)} full rows.",
)

# %%
lengths = np.array([len(story.text.split()) for story in StoryGrammar().stories(seed=3, count=3_200)])
batches = lengths.reshape(100, 32)
padded = 32 * batches.max(axis=1).sum()
print(
    f"padding each batch of 32 to its longest story wastes {1 - lengths.sum() / padded:.0%} of the computation"
)

# %% [markdown]
# Our stories are all of similar length, so this is a mild case; the more lengths differ, the more is wasted. Packing wastes nothing. Its price is that stories are cut at block borders and that a row may hold
# several stories. GPT-3 was trained this way, without any special mask between the documents of a row
# ([Brown et al., 2020](https://arxiv.org/abs/2005.14165), appendix B): the end-of-text token is enough to tell that what stands
# before it is unrelated.
#
# ## Inputs and labels, shifted by one
#
# The model is trained to predict the next token **at every position at once**. At position *i* it sees the inputs up to and
# including position *i*, and the label says which token came next. So the labels are the same tokens, one place
# later:
#
# $$\text{input\_ids} = (t_0, t_1, \dots, t_{T-1}), \qquad \text{labels} = (t_1, t_2, \dots, t_T).$$
#
# In words: take *T + 1* tokens; the first *T* are the inputs, the last *T* the labels. One row of *T* tokens is *T*
# exercises: guess the second token from the first, the third from the first two, and so on.

# %% tags=["hide-input"]
pieces = [
    tiny_tokenizer.decode([token]).replace(" ", "␣").replace(END_OF_TEXT, "eot") for token in tiny_stream
][:8]
fig, ax = new_figure(8.2, 2.3)
ax.set(xlim=(-2.2, 2 * len(pieces) - 1.6), ylim=(0, 4.4))
ax.axis("off")
for index, (seen, wanted) in enumerate(pairwise(pieces)):
    box(ax, 2 * index, 0.3, 1.7, 1.0, seen, "grey" if seen == "eot" else "blue")
    box(ax, 2 * index, 3.0, 1.7, 1.0, wanted, "grey" if wanted == "eot" else "green")
    arrow(ax, (2 * index + 0.85, 1.35), (2 * index + 0.85, 2.95))
    if index + 1 < len(pieces) - 1:
        ax.plot(
            [2 * index + 1.7, 2 * index + 2], [3.5, 0.8], color=COLORS["grey"], linestyle=":", linewidth=1
        )
ax.text(-0.3, 0.8, "input_ids", ha="right", va="center", weight="bold")
ax.text(-0.3, 3.5, "labels", ha="right", va="center", weight="bold")
ax.text(-0.3, 2.15, "predict", ha="right", va="center")
show(
    fig,
    alt="The first tokens of the tiny stream as a row of inputs and, above it, the same row one token later as labels. "
    "A dotted line joins each label to the input at the next position: they are the same token.",
)

# %% [markdown]
# The function that cuts blocks takes the positions where they start, so that training and validation can share it.
# Positions wrap around at the end of the stream, as if its two ends were joined. That is harmless, because the stream ends
# with an eot: what follows it, the first document, is simply the next document. And it saves the special cases at both ends,
# which is where off-by-one errors live.


# %%
#| export
def cut_blocks(tokens: np.ndarray, starts: np.ndarray, seq_len: int) -> tuple[Tensor, Tensor]:
    """Cut blocks out of a stream whose end is joined to its beginning.

    Args:
        tokens: the stream, one-dimensional integers.
        starts: [B], the position of each block's first input; may be negative.
        seq_len: T, the length of a block.

    Returns:
        ``input_ids`` and ``labels``, both [B, T], int64; ``labels[b, t]`` follows ``input_ids[b, t]``
        in the stream.
    """
    positions = np.asarray(starts)[:, None] + np.arange(seq_len + 1)  # [B, T + 1]
    window = torch.from_numpy(tokens[positions % len(tokens)].astype(np.int64))
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()  # [B, T] each


# %%
example = np.array(tiny_stream)
input_ids, labels = cut_blocks(example, starts=np.array([0, len(example) - 3]), seq_len=4)
for row in range(2):
    shown = [[tiny_tokenizer.decode([token]) for token in ids[row].tolist()] for ids in (input_ids, labels)]
    print("inputs", shown[0])
    print("labels", shown[1], "\n")

# %% [markdown]
# The second row starts three tokens before the end of the stream and continues with its first document.
#
# ## Split documents, not tokens
#
# To know whether the model learned the language or learned your files by heart, you hold some text back. It sounds like one
# line, `tokens[: int(0.9 * n)]`, and that line has two leaks. It cuts a document in two, so that the start of a
# validation document was trained on. And corpora contain copies: [Lee et al. (2021)](https://arxiv.org/abs/2107.06499)
# found that over 4% of the validation examples of standard datasets had a near copy in the training set. A copy on
# the other side of the border turns validation into a memory test.
#
# The remedy is to let a document's *content* decide. Compute a hash of it, a number that looks random but depends on the text
# alone, and put the document into validation if the number is small. Copies have equal hashes, so they fall on the
# same side, wherever they stand and in whatever order files are read. White space is normalised first, so that an extra blank
# line does not make a new document. (Python's own `hash()` will not do: for strings it changes
# [with every process](https://docs.python.org/3/reference/datamodel.html#object.__hash__).)


# %%
#| export
def in_validation(document: str, fraction: float) -> bool:
    """Say whether a document belongs to the validation set, by its content alone.

    Copies of a document, also with other white space, are always on the same side, in any order, process
    and machine.

    Args:
        document: the text.
        fraction: the share of documents that should be in the validation set, between 0 and 1.
    """
    # surrogatepass: text that is not Unicode gets its clear error from the tokenizer, not here.
    digest = hashlib.sha256(" ".join(document.split()).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


# %% [markdown]
# Try it on a corpus with copies: 4,000 stories, of which every tenth was copied to a random place, as a web crawl does.

# %%
import random

rng = random.Random(4)
corpus = [story.text for story in StoryGrammar().stories(seed=4, count=4_000)]
for text in rng.sample(corpus, 400):
    corpus.insert(rng.randrange(len(corpus)), text)

by_index = [rng.random() < 0.1 for _ in corpus]
tail = int(0.9 * len(corpus))
sides = {
    "last tenth of the stream": [index >= tail for index in range(len(corpus))],
    "random documents": by_index,
    "by content": [in_validation(text, 0.1) for text in corpus],
}
leaks = {}
for name, in_val in sides.items():
    train = {text for text, held_out in zip(corpus, in_val, strict=True) if not held_out}
    val = [text for text, held_out in zip(corpus, in_val, strict=True) if held_out]
    leaks[name] = sum(text in train for text in val) / len(val)
    print(
        f"{name:25} {len(val) / len(corpus):5.1%} held out, of which {leaks[name]:5.1%} also stand in training"
    )

# %% tags=["hide-input"]
fig, ax = new_figure(7.0, 1.9)
ax.barh(
    list(leaks),
    [100 * share for share in leaks.values()],
    color=[COLORS["red"], COLORS["red"], COLORS["green"]],
)
ax.invert_yaxis()
ax.set(xlabel="% of the validation documents that were also trained on")
ax.grid(axis="y", visible=False)
show(
    fig,
    alt="Share of validation documents that also stand in the training set: more than a tenth if the end of the "
    "stream or random documents are held out, none if the content decides.",
)

# %% [markdown]
# The content split gives *about* the fraction that you ask for, not exactly. That is the price of each document deciding on its
# own, and it buys something else: add documents later, and none that you have already trained on moves into validation.
#
# What it does not catch are near copies, the same story with one word changed. Finding those is a field of its own; the paper
# above is a good start.
#
# ## Token files
#
# Tokenising two million stories takes minutes, and training reads them many times. So you tokenise once and keep the result in
# a file: one integer after another and nothing else. How many bytes for an integer? Two bytes count to 65,535. That is enough
# for GPT-2's vocabulary of 50,257 and for ours, but not for the 201,088 of gpt-oss. This choice belongs in one function, because
# getting it wrong is silent:

# %%
print("token 70,000 stored in two bytes becomes token", np.array([70_000]).astype(np.uint16)[0])


# %%
#| export
def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned type that holds every id below ``vocab_size``, of 2 or 4 bytes."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


# %%
for name, vocab_size in [("this chapter", 2_048), ("GPT-2", 50_257), ("gpt-oss", 201_088)]:
    print(f"{name:13} {vocab_size:8,} tokens  {token_dtype(vocab_size)}")

# %% [markdown]
# The files are **memory-mapped**: `np.memmap` tells the operating system that an array *is* a file, and the system fetches a
# page of it when you touch one. Opening a file of 1 TB takes no time and no memory, several processes share the same
# pages, and the array indexes like any other.
#
# A file of bare integers has a weakness. If a copy stops halfway, the half is a perfectly good file of integers. So a `meta.json`
# beside it says how many tokens there must be, of which type, from which tokenizer, with which SHA-256; loading compares.


# %%
#| export
@dataclass(frozen=True, eq=False)
class TokenData:
    """A prepared corpus: two memory-mapped streams of token ids, and what is known about them.

    Every document is followed by one end-of-text token, so both streams end with one.
    """

    train: np.memmap  # token ids, one-dimensional
    val: np.memmap  # token ids, one-dimensional
    tokenizer: BPETokenizer
    train_documents: int
    val_documents: int
    train_bytes: int  # UTF-8 bytes of the training documents, end-of-text tokens not counted
    val_bytes: int  # the same of the validation documents
    val_floor_nats: float | None  # −log p of the validation documents; None where p is not known
    directory: Path

    @classmethod
    def load(cls, directory: str | Path, verify: bool = False) -> "TokenData":
        """Map the files that :func:`prepare` wrote.

        Args:
            directory: where they are.
            verify: also read everything and compare its SHA-256, not only the sizes.

        Raises:
            FileNotFoundError: if ``directory`` holds no prepared data.
            ValueError: if a file is cut off or was changed.
        """
        directory = Path(directory)
        meta = _read_meta(directory)
        tokenizer_file = directory / "tokenizer.json"
        if _sha256(tokenizer_file) != meta["recipe"]["tokenizer"]:
            raise ValueError(
                f"{tokenizer_file} is not the tokenizer that the data was made with: prepare it again."
            )
        streams = {}
        for split in ("train", "val"):
            path = directory / f"{split}.bin"
            dtype, tokens = np.dtype(meta["dtype"]), meta[split]["tokens"]
            size = path.stat().st_size if path.exists() else 0
            if size != tokens * dtype.itemsize:
                raise ValueError(
                    f"{path} has {size:,} bytes, but {tokens:,} tokens of {dtype} take "
                    f"{tokens * dtype.itemsize:,}: the file was cut off or changed; prepare the data again."
                )
            if verify and _sha256(path) != meta[split]["sha256"]:
                raise ValueError(f"{path} does not have the SHA-256 in meta.json: prepare the data again.")
            streams[split] = np.memmap(path, dtype=dtype, mode="r", shape=(tokens,))
        return cls(
            **streams,
            tokenizer=BPETokenizer.load(tokenizer_file),
            train_documents=meta["train"]["documents"],
            val_documents=meta["val"]["documents"],
            train_bytes=meta["train"]["bytes"],
            val_bytes=meta["val"]["bytes"],
            val_floor_nats=meta["val_floor_nats"],
            directory=directory,
        )


# %%
#| export
def _read_meta(directory: Path) -> dict:
    path = directory / "meta.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no prepared data (no meta.json); call prepare() first.")
    try:
        meta = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete the folder and prepare it again.") from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise ValueError(f"{path} is not what prepare() writes (format {_FORMAT!r}); name another folder.")
    return meta


# %%
#| export
_FORMAT = "gptoss_lib.data/1"


# %%
#| export
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# %% [markdown]
# ### Complete or absent
#
# Preparing can take an hour, and in an hour a machine can be switched off. What must never happen is that the next run finds half
# a corpus and trains on it. Three rules make sure:
#
# 1. everything is written into a folder beside the destination, named `….partial`;
# 2. the last step renames that folder, which the file system does completely or not at all;
# 3. a lock lets one process prepare while others wait, and then find the work done.
#
# A process killed at any moment leaves at most a `.partial` folder, which the next one removes. And because `meta.json` keeps the
# *recipe* (the source's fingerprint, the tokenizer's hash, the fraction), a second call with the same recipe returns at
# once, and one with another recipe does not get yesterday's data.


# %%
#| export
class _TokenFile:
    """One split's token file while it is being written."""

    def __init__(self, path: Path, dtype: np.dtype, end: int):
        self.file, self.dtype, self.end = path.open("wb"), dtype, end
        self.tokens = self.documents = self.bytes = 0
        self.digest = hashlib.sha256()

    def add(self, document: str, ids: list[int]) -> None:
        data = np.array([*ids, self.end], dtype=self.dtype).tobytes()
        self.file.write(data)
        self.digest.update(data)
        self.tokens += len(ids) + 1
        self.documents += 1
        self.bytes += len(document.encode("utf-8"))

    def close(self) -> dict:
        self.file.close()
        counts = {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}
        return counts | {"sha256": self.digest.hexdigest()}


# %%
#| export
def _tokenise(source: Iterable[str], tokenizer: BPETokenizer, folder: Path, val_fraction: float) -> dict:
    """Write both token files into ``folder`` and return what ``meta.json`` says of them."""
    dtype = token_dtype(tokenizer.vocab_size)
    files = [_TokenFile(folder / f"{split}.bin", dtype, tokenizer.eot_id) for split in ("train", "val")]
    scored = source.scored() if hasattr(source, "scored") else ((document, None) for document in source)
    surprisals = []
    total = len(source) if hasattr(source, "__len__") else None
    # disable=None: no progress bar where nobody watches a terminal.
    with tqdm(desc="tokenising", unit=" documents", unit_scale=True, total=total, disable=None) as progress:
        while batch := list(islice(scored, 1_000)):
            encoded = tokenizer.encode_batch(document for document, _ in batch)
            for (document, log_prob), ids in zip(batch, encoded, strict=True):
                held_out = in_validation(document, val_fraction)
                files[held_out].add(document, ids)
                if held_out and log_prob is not None:
                    surprisals.append(-log_prob)
            progress.update(len(batch))
    train, val = (file.close() for file in files)
    if not (train["documents"] and val["documents"]):
        raise ValueError(
            f"Of {train['documents'] + val['documents']} documents, {val['documents']} fell into the "
            f"validation set at val_fraction={val_fraction}; both sides need at least one: give more "
            f"documents (in a text file, separate them with {END_OF_TEXT}) or change the fraction."
        )
    floor = math.fsum(surprisals) if surprisals else None
    return {"dtype": dtype.name, "train": train, "val": val, "val_floor_nats": floor}


# %%
#| export
def prepare(
    source: Iterable[str], tokenizer: BPETokenizer, directory: str | Path, val_fraction: float = 0.05
) -> TokenData:
    """Tokenise a source into memory-mapped files, once.

    A directory that the same recipe has filled before is returned as it is. The work is done in a
    folder beside it and renamed at the end, so that a killed process leaves nothing that looks
    complete; a lock makes other processes wait. A source without a ``fingerprint()`` is never reused.

    Args:
        source: documents; each goes to one side by :func:`in_validation`.
        tokenizer: what to encode them with.
        directory: where to write; what another call of ``prepare`` left there is replaced.
        val_fraction: about how much of the documents to hold out, between 0 and 1.

    Raises:
        ValueError: if the fraction is not between 0 and 1, a side would get no document, or
            ``directory`` holds something else.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it should be between 0 and 1, as 0.05.")
    directory = Path(directory)
    try:
        if directory.exists() and any(directory.iterdir()):
            _read_meta(directory)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{directory} holds something else than prepared data, which will not be replaced: "
            "delete it, or name a folder that does not exist yet."
        ) from error
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f"{directory.name}.partial")
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
        new = partial / "new"
        new.mkdir(parents=True)
        try:
            tokenizer.save(new / "tokenizer.json")
            recipe = {
                "source": source.fingerprint() if hasattr(source, "fingerprint") else None,
                "tokenizer": _sha256(new / "tokenizer.json"),
                "val_fraction": val_fraction,
            }
            if not _is_prepared(directory, recipe):
                meta = {"format": _FORMAT, "recipe": recipe} | _tokenise(source, tokenizer, new, val_fraction)
                (new / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
                if directory.exists():
                    os.replace(directory, partial / "old")
                os.replace(new, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return TokenData.load(directory)


# %%
#| export
def _is_prepared(directory: Path, recipe: dict) -> bool:
    """Say whether ``directory`` is complete and was made from this recipe."""
    try:
        TokenData.load(directory)
        return recipe["source"] is not None and _read_meta(directory)["recipe"] == recipe
    except (FileNotFoundError, ValueError):
        return False


# %% [markdown]
# Prepare the corpus with the copies, and look at what lies in the folder. Then cut the file short by one byte.

# %%
data = prepare(corpus, tiny_tokenizer, scratch / "tokens", val_fraction=0.1)
print(
    f"{type(data.train).__name__} of {len(data.train):,} {data.train.dtype} tokens, {data.val_documents} documents held out"
)
print(sorted(path.name for path in data.directory.iterdir()))

damaged = shutil.copytree(data.directory, scratch / "damaged")
os.truncate(damaged / "train.bin", data.train.nbytes - 1)
try:
    TokenData.load(damaged)
except ValueError as error:
    print(str(error).replace(f"{scratch}{os.sep}", ""))

# %% [markdown]
# Why one rename, and not `if the file exists, use it`? Play through what a process leaves that is killed at each moment:
#
# | killed while | written straight to its place | written beside it, then renamed |
# |---|---|---|
# | tokenising | `train.bin` exists and is short: **used** | `.partial` folder: removed, done again |
# | between the two files | `val.bin` of the last corpus: **used** | `.partial` folder: removed, done again |
# | writing `meta.json` | half a JSON file: error | `.partial` folder: removed, done again |
# | after the last step | complete | complete |
#
# The library's tests do this for real. They kill a preparing process at several moments, prepare again, and compare with an
# undisturbed preparation byte for byte.
#
# ## The course's corpus
#
# One thing is missing: a tokenizer for the stories. It is trained on stories too, and only on training stories. A tokenizer
# that has seen the validation text would spend its merges on that text's words, a small leak that is easy to avoid.


# %%
#| export
def train_tokenizer(
    source: Iterable[str],
    vocab_size: int,
    path: str | Path,
    val_fraction: float = 0.05,
    documents: int = 2_000,
) -> BPETokenizer:
    """Train a tokenizer on the first training documents of a source, or load it where ``path`` exists.

    Args:
        source: documents; those that :func:`in_validation` holds out are not looked at.
        vocab_size: how many tokens, end-of-text included.
        path: where to keep the tokenizer, a JSON file.
        val_fraction: the fraction that :func:`prepare` will hold out.
        documents: how many training documents to learn from.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        try:
            return BPETokenizer.load(path)
        except (FileNotFoundError, ValueError):  # not there yet, or damaged
            training = (document for document in source if not in_validation(document, val_fraction))
            tokenizer = BPETokenizer.train(islice(training, documents), vocab_size, (END_OF_TEXT,))
            tokenizer.save(path)
            return tokenizer


# %%
#| export
def _prepare_at_home(source, vocab_size: int, val_fraction: float) -> TokenData:
    """Prepare a source with a tokenizer of its own, in a folder that the recipe names."""
    fingerprint = source.fingerprint()
    recipe = json.dumps([_FORMAT, fingerprint, vocab_size, val_fraction])
    name = f"{fingerprint['source']}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    directory = settings.home() / "data" / name
    tokenizer = train_tokenizer(
        source, vocab_size, directory.with_name(f"{name}.tokenizer.json"), val_fraction
    )
    return prepare(source, tokenizer, directory, val_fraction)


# %%
#| export
def story_data(
    stories: int = 6_000, vocab_size: int = 2_048, seed: int = 0, val_fraction: float = 0.05
) -> TokenData:
    """Return the course's default corpus, grammar stories with a tokenizer of their own.

    The first call prepares it under :func:`gptoss_lib.settings.home`; later ones, in any process,
    find it there.
    """
    return _prepare_at_home(GrammarSource(StoryGrammar(), seed, stories), vocab_size, val_fraction)


# %%
#| export
def course_data(vocab_size: int = 4_096, val_fraction: float = 0.01) -> TokenData:
    """Return the corpus that the environment asks for, with a tokenizer of its own.

    What ``GPTOSS_DATA`` names, if it is set: a file, a folder of files, or a dataset that
    ``save_to_disk`` wrote. Otherwise TinyStories' training split in the full profile, and
    :func:`story_data` (which has its own vocabulary and fraction) in the quick one.
    """
    path = settings.data_path()
    if path is None and settings.profile() == "quick":
        return story_data()
    if path is None:
        source = TinyStoriesSource()
    else:
        source = TinyStoriesSource(path=path) if is_saved_dataset(path) else FileSource(path)
    return _prepare_at_home(source, vocab_size, val_fraction)


# %% [markdown]
# From here on, one call is enough. `story_data()` is what the next three chapters use. `course_data()` is for longer runs: it follows
# `GPTOSS_DATA` and `GPTOSS_PROFILE`. With TinyStories it holds out stories of the *training* split, and leaves the official
# validation split alone, so that you still have a test set that no decision of yours has touched.

# %%
data = story_data()
for split in ("train", "val"):
    tokens, size = getattr(data, split), getattr(data, f"{split}_bytes")
    documents = getattr(data, f"{split}_documents")
    print(f"{split:5} {documents:5,} stories  {len(tokens):9,} tokens  {size:9,} bytes")
    print(
        f"      {len(tokens) / documents:.1f} tokens a story, {size / (len(tokens) - documents):.2f} bytes a token"
    )
print()
print(data.tokenizer.decode(data.val[:60].tolist()), "…")

# %% [markdown]
# ## What a cut costs
#
# Blocks cut stories. A target in the middle of a block may depend on the first sentence of its story, and that sentence may lie in
# the block before, out of sight. Longer blocks cut less. Move the slider: each row is a block, each colour a
# story, and the thin line below a row marks the targets whose own story is in view from its first token.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore


def story_starts(tokens, eot):
    """Return, for each position, where its document begins."""
    begins = np.zeros(len(tokens), dtype=np.int64)
    ends = np.flatnonzero(tokens[:-1] == eot) + 1
    begins[ends] = ends
    return np.maximum.accumulate(begins)


ends = np.flatnonzero(data.train[:8_000] == data.tokenizer.eot_id) + 1
ring = data.train[: ends[ends <= 2_100][-1]]
ring_starts = story_starts(ring, data.tokenizer.eot_id)
story_numbers = np.cumsum(np.isin(np.arange(len(ring)), np.unique(ring_starts))) - 1


def draw_blocks(seq_len, epoch):
    """Draw every block of one epoch over the small ring of stories, as SVG."""
    offset = [0, 23, 71, 118][epoch]
    rows, scale = len(ring) // seq_len, 620 / seq_len
    height = min(22, 300 / rows)
    parts, whole = [], 0
    for row in range(rows):
        targets = (offset + row * seq_len + 1 + np.arange(seq_len)) % len(ring)
        numbers, y = story_numbers[targets], row * height
        edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
        visible = ring_starts[targets] >= targets - 1 - np.arange(seq_len)  # the block's first input
        whole += visible.sum()
        for left, right in pairwise(edges):
            colour = CYCLE[numbers[left] % 7]
            parts.append(
                f'<rect x="{left * scale:.1f}" y="{y:.1f}" width="{(right - left) * scale:.1f}" height="{height * 0.62:.1f}" '
                f'fill="{colour}" fill-opacity="0.55"/>'
            )
        edges = np.flatnonzero(np.diff(np.r_[0, visible, 0]))
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            parts.append(
                f'<rect x="{left * scale:.1f}" y="{y + height * 0.68:.1f}" width="{(right - left) * scale:.1f}" '
                f'height="{height * 0.16:.1f}" fill="currentColor"/>'
            )
    text = f"{rows} blocks of {seq_len} tokens; {whole / (rows * seq_len):.0%} of the targets see their story from its start"
    return (
        f'<div style="min-height:3em">{text}</div>'
        f'<svg role="img" aria-label="{text}" viewBox="0 0 620 310" style="width:620px;max-width:100%">{"".join(parts)}</svg>'
    )


explore(
    draw_blocks,
    {"block length T": [32, 64, 128, 256, 512, 1024], "epoch": [0, 1, 2, 3]},
    start={"block length T": 128},
)

# %% [markdown]
# The second slider moves all the cuts: in the next epoch the first block begins elsewhere. So the same token is
# sometimes early in a block, with little context, and sometimes late, with much. That is the reason for the random offset
# that you will see in `Batches` below.
#
# Over the whole validation set, the share is a short computation. A target whose story began *d* tokens earlier sees that
# beginning if at least *d* of its block's inputs stand before it. The first target of a block has one input before it, the
# last has *T*, and all places are equally likely. So for $1 \le d \le T$ it happens with probability $(T + 1 - d) / T$, and
# for $d > T$ never.


# %%
def whole_story_share(depth, seq_len, stride):
    """Return the share of targets that see their story's first token, if each row scores its last `stride` ones."""
    return np.clip((seq_len + 1 - depth) / stride, 0, 1).mean()


depth = np.arange(len(data.val)) - story_starts(data.val, data.tokenizer.eot_id)
seq_lens = [32, 64, 128, 256, 512, 1024]
for seq_len in seq_lens:
    share, overlapping = (whole_story_share(depth, seq_len, stride) for stride in (seq_len, seq_len // 4))
    print(
        f"T = {seq_len:5}: {share:4.0%} of the targets have their whole story in view, {overlapping:4.0%} with stride T/4"
    )

# %% [markdown]
# A formula about places in blocks is where off-by-one errors live, so count as well: cut the stream in all *T* possible ways,
# and look where each target ends up.

# %%
places = [
    1 + (np.arange(len(depth)) - 1 - offset) % 128 for offset in range(128)
]  # inputs before each target
counted = np.mean([depth <= place for place in places])
print(f"T = 128: counted {counted:.6f}, by the formula {whole_story_share(depth, 128, 128):.6f}")

# %% tags=["hide-input"]
fig, ax = new_figure(7.0, 3.0)
for divisor, name, color in [(1, "blocks side by side", "blue"), (4, "overlapping, stride T/4", "green")]:
    shares = [100 * whole_story_share(depth, seq_len, seq_len // divisor) for seq_len in seq_lens]
    ax.plot(seq_lens, shares, marker="o", color=COLORS[color], label=name)
ax.set_xscale("log", base=2)
ax.set(
    xlabel="block length T, tokens",
    ylabel="% of targets",
    ylim=(0, 105),
    title="Targets with their whole story in view",
)
ax.set_xticks(seq_lens, [str(seq_len) for seq_len in seq_lens])
ax.legend(loc="lower right")
show(
    fig,
    alt="The share of targets that see their whole story grows with the block length; overlapping blocks reach "
    "the same share at about half the length.",
)

# %% [markdown]
# Blocks side by side are right for training, where every token should be used once an epoch. For a measurement you can let blocks
# overlap, and score only the end of each, where context is long. `validation_batches` below offers both.
#
# ## Batches: every block once, shuffled, resumable
#
# The shortest batch loader draws *B* random positions and cuts there. [nanoGPT](https://github.com/karpathy/nanoGPT) does that, and
# its author [says why, and that sampling without replacement would be better](https://github.com/karpathy/nanoGPT/issues/294).
# How much is lost? After drawing as many blocks as make one epoch, a given token was drawn as often as it rained on a given
# square: some twice, some three times, and a share of about $e^{-1}$, more than a third, never.

# %%
seq_len, count = 128, len(data.train) // 128
rng = np.random.default_rng(0)
offset = rng.integers(len(data.train))
visits = {}
for name, starts in {
    "random positions": rng.integers(0, len(data.train), size=count),
    "shuffled blocks": offset + seq_len * rng.permutation(count),
}.items():
    seen = np.zeros(len(data.train), dtype=np.int64)
    np.add.at(seen, (starts[:, None] + np.arange(seq_len)) % len(seen), 1)
    visits[name] = np.bincount(seen, minlength=6)[:6] / len(seen)
    print(f"{name:17} never seen: {visits[name][0]:6.2%}   seen once: {visits[name][1]:6.2%}")

# %% tags=["hide-input"]
fig, ax = new_figure(7.0, 2.6)
for shift, (name, color) in enumerate([("random positions", "red"), ("shuffled blocks", "green")]):
    ax.bar(np.arange(6) + 0.4 * shift - 0.2, 100 * visits[name], width=0.38, color=COLORS[color], label=name)
ax.set(xlabel="times that a token was a target in one epoch", ylabel="% of the tokens", xticks=range(6))
ax.grid(axis="x", visible=False)
ax.legend()
show(
    fig,
    alt="How often a token is seen in one epoch. Random positions: more than a third never, about a third once, the "
    "rest several times. Shuffled blocks: practically all exactly once.",
)

# %% [markdown]
# So shuffle blocks instead of drawing them. Then there is the question of resuming. A run that stops at step 5,000 must continue with
# the batch that would have been number 5,001. Saving the state of a random generator and the rest of a shuffled list works, and is
# easy to get wrong. There is a simpler way: make batch number *k* a pure function of the seed and *k*.
#
# - There are $n = \lfloor N / T \rfloor$ blocks an epoch. Row *j* of batch *k* is block number $kB + j$ since the beginning of time.
# - Divide that number by *n*: the quotient is the epoch, the remainder the place in the epoch's order.
# - The epoch's order and its offset come from a generator that is seeded with (seed, epoch).
#
# In words: count blocks from the beginning, and look the number up. The whole state of the loader is one integer. A batch that spans two
# epochs needs no special case, so no block is dropped at the end of an epoch, and none is repeated.


# %%
#| export
class Batches:
    """Endless shuffled batches of blocks, resumable at any step.

    Within an epoch no block is repeated or left out; each epoch cuts the stream at another offset, so
    that over many epochs each token is seen with short and with long context. A batch depends on the
    seed and the step alone.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, seq_len: int, seed: int = 0):
        """Start at step 0.

        Args:
            tokens: the stream, one-dimensional integers, as ``TokenData.train``.
            batch_size: B, rows in a batch.
            seq_len: T, tokens in a row.
            seed: chooses the order, not negative.

        Raises:
            ValueError: if a size or the seed makes no sense, or the stream is shorter than a block.
        """
        _check_sizes(tokens, batch_size, seq_len)
        if len(tokens) < seq_len:
            raise ValueError(
                f"{len(tokens)} tokens are less than one block of seq_len={seq_len}; "
                "shorten the block, or give more text."
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}; it should not be negative.")
        self.tokens, self.batch_size, self.seq_len, self.seed = tokens, batch_size, seq_len, seed
        self.blocks_per_epoch = len(tokens) // seq_len
        self.step = 0
        self._epoch = -1  # the epoch that the order below belongs to
        self._offset, self._order = 0, np.empty(0, dtype=np.int64)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Return the next ``(input_ids, labels)``, both [B, T], int64."""
        first = self.step * self.batch_size
        starts = np.array([self._start(first + row) for row in range(self.batch_size)])  # [B]
        self.step += 1
        return cut_blocks(self.tokens, starts, self.seq_len)

    def _start(self, block: int) -> int:
        """Return where a block begins in the stream, counting blocks through all epochs."""
        epoch, index = divmod(block, self.blocks_per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._offset = int(generator.integers(len(self.tokens)))
            self._order = generator.permutation(self.blocks_per_epoch)
            self._epoch = epoch
        return self._offset + int(self._order[index]) * self.seq_len

    @property
    def epoch(self) -> float:
        """How many times the stream has been gone through."""
        return self.step * self.batch_size / self.blocks_per_epoch

    def state_dict(self) -> dict[str, int]:
        """Return what :meth:`load_state_dict` needs to continue with the next batch."""
        return {"step": self.step} | self._identity()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ValueError: if it was taken with another stream length, batch size, seq_len or seed, whose
                batches these cannot continue.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise ValueError(
                    f"The saved batches have {name}={state[name]}, these have {value}; "
                    "make them equal to resume."
                )
        self.step = int(state["step"])

    def _identity(self) -> dict[str, int]:
        return {
            "tokens": len(self.tokens),
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
        }


# %%
#| export
def _check_sizes(tokens: np.ndarray, batch_size: int, seq_len: int) -> None:
    if np.ndim(tokens) != 1 or not np.issubdtype(np.asarray(tokens[:0]).dtype, np.integer):
        raise ValueError(
            f"tokens should be a one-dimensional array of integers, but it is {type(tokens).__name__}."
        )
    if len(tokens) == 0:
        raise ValueError("tokens is empty; prepare some text first.")
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"batch_size={batch_size} and seq_len={seq_len} should both be at least 1.")


# %%
batches = Batches(data.train, batch_size=8, seq_len=64, seed=0)
for _ in range(1_000):
    next(batches)
state = json.loads(json.dumps(batches.state_dict()))
expected = [next(batches) for _ in range(3)]

resumed = Batches(data.train, batch_size=8, seq_len=64, seed=0)
resumed.load_state_dict(state)
again = [next(resumed) for _ in range(3)]
print(state)
print(
    "the three batches after the interruption are equal:",
    all(a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in zip(expected, again, strict=True)),
)

# %% [markdown]
# The wrap-around makes one more thing simple. $N$ is rarely a multiple of $T$, so up to $T - 1$ tokens are left over in an epoch. Because the
# offset is random, it is a different handful each time, not always the end of the corpus.
#
# ## Validation: every token exactly once
#
# For a loss that you can compare, chance and shortcuts must go: **every token of the validation set is predicted exactly once**, the
# first and the last included. The first token has no predecessor, so it gets the end-of-text token that ends the stream: that is what
# stands before the first word of every other document. The last row is usually too short. It is filled up, and its surplus labels
# are −100, the value that PyTorch's `cross_entropy` ignores by default.
#
# With `stride`, rows overlap, and labels that an earlier row has already scored become −100 too. Each row then scores only its last
# `stride` tokens. It takes $T/\text{stride}$ times as long and gives every target at least $T - \text{stride}$ tokens of context.


# %%
#| export
def validation_batches(
    tokens: np.ndarray, batch_size: int, seq_len: int, stride: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches in which every token is a label exactly once.

    The first token is predicted from the last one, the end-of-text token that every stream from
    :func:`prepare` ends with. Labels that are not to be scored are −100.

    Args:
        tokens: the stream, one-dimensional integers, as ``TokenData.val``.
        batch_size: B, the most rows in a batch; the last batch may have fewer.
        seq_len: T, tokens in a row.
        stride: how far one row starts after the one before it; ``seq_len`` by default. A smaller one
            gives each label at least ``seq_len - stride`` tokens of context.

    Yields:
        ``(input_ids, labels)``, both [B, T], int64.

    Raises:
        ValueError: if a size makes no sense.
    """
    _check_sizes(tokens, batch_size, seq_len)
    stride = seq_len if stride is None else stride
    if not 1 <= stride <= seq_len:
        raise ValueError(f"stride is {stride}; it should be between 1 and seq_len={seq_len}.")
    rows = 1 + max(0, math.ceil((len(tokens) - seq_len) / stride))
    for first in range(0, rows, batch_size):
        starts = stride * np.arange(first, min(first + batch_size, rows))  # [B], position of each first label
        input_ids, labels = cut_blocks(tokens, starts - 1, seq_len)
        positions = torch.from_numpy(starts)[:, None] + torch.arange(seq_len)  # [B, T]
        first_new = np.where(starts == 0, 0, starts - stride + seq_len)  # [B], where the row before ended
        old = positions < torch.from_numpy(first_new)[:, None]
        yield input_ids, labels.masked_fill(old | (positions >= len(tokens)), -100)


# %%
for stride in (64, 16):
    counts = torch.zeros(data.tokenizer.vocab_size, dtype=torch.int64)
    scored = 0
    for _, labels in validation_batches(data.val, batch_size=32, seq_len=64, stride=stride):
        real = labels[labels != -100]
        counts += torch.bincount(real, minlength=len(counts))
        scored += len(real)
    same = np.array_equal(counts, np.bincount(data.val, minlength=len(counts)))
    print(
        f"stride {stride}: {scored:,} labels for {len(data.val):,} tokens, each token as often as in the stream: {same}"
    )

# %% [markdown]
# ## From nats to bits per byte
#
# You have batches; soon you will have a model, and it will have a loss. What does that number mean? In
# [A small world](03_small_world.ipynb) you compared models in bits per byte and took the unit as given. Here is why it is the
# right one.
#
# **Nats a token.** At each position the model gives a probability to every token. Its loss there is the surprise at the token that
# came, $-\ln p(t_i \mid t_{<i})$, measured in *nats* because the logarithm is natural. A model that gives the token probability 1 pays 0;
# one that spreads its bets over 100 equally likely tokens pays $\ln 100 \approx 4.6$. The usual loss is the mean over tokens.
#
# **The trouble with “a token”.** Split the same text into fewer, longer tokens and each one is harder to guess. The mean rises though
# nothing has become worse. Losses a token of models with different tokenizers cannot be compared, just as you cannot compare
# prices of apples by the bag when bags differ.
#
# **What does not change.** Add the surprises up instead of averaging. By the chain rule of probability,
#
# $$\sum_i -\ln p(t_i \mid t_{<i}) = -\ln \prod_i p(t_i \mid t_{<i}) = -\ln p(\text{text}).$$
#
# In words: the sum of the surprises of a text's tokens is the surprise of the text as a whole. The right-hand side no longer
# mentions tokens. Now divide by something that belongs to the text and not to the tokenizer, its length in bytes, and change from
# nats to bits ($1\ \text{bit} = \ln 2\ \text{nats}$):
#
# $$\text{bits per byte} = \frac{\text{total nats}}{\ln 2 \cdot \text{bytes}}
#   = \frac{\text{loss a token}}{\ln 2} \cdot \frac{\text{tokens}}{\text{bytes}}.$$
#
# In words: the bits needed to write down one byte of text, if you code it with this model. Uncompressed text has 8; a model that has
# learned something needs fewer. Published results often give it under the short name **bpb**, as
# [the Pile's](https://arxiv.org/abs/2101.00027) do.


# %%
#| export
def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Convert a summed loss into bits per byte, which does not depend on the tokenizer.

    Args:
        total_nats: the sum, not the mean, of −ln p over all tokens of a text.
        total_bytes: the UTF-8 length of that text.

    Raises:
        ValueError: if ``total_bytes`` is not positive.
    """
    if total_bytes <= 0:
        raise ValueError(
            f"total_bytes is {total_bytes}; it should be the UTF-8 length of the text, at least 1."
        )
    return total_nats / (math.log(2) * total_bytes)


# %% [markdown]
# ### A worked example
#
# Take one story and the model that knows the most about it, the grammar itself. It gives the story a probability that no tokenizer
# has any say in. Tokenise the story in two ways and compute both numbers.

# %%
text = data.tokenizer.decode(data.val[: int(np.argmax(data.val == data.tokenizer.eot_id))].tolist())
nats = -StoryGrammar().log_prob(text)
size = len(text.encode("utf-8"))
print(f"the story: {size} bytes, {nats:.1f} nats in total\n")
for name, tokenizer in [("bytes", tiny_tokenizer), ("our BPE", data.tokenizer)]:
    tokens = size if name == "bytes" else len(tokenizer.encode(text))
    print(
        f"{name:8} {tokens:5} tokens   {nats / tokens:.3f} nats a token   {bits_per_byte(nats, size):.3f} bits per byte"
    )

# %% [markdown]
# The same knowledge of the same text gives two losses a token that differ by the ratio of the token counts, and one number of bits per
# byte.
#
# With perfect knowledge that is true by definition. The unit earns its keep with models that do *not* know the same. Here are the two
# simplest: a **unigram** model knows how frequent each token is, a **bigram** model knows which token follows which. Both are made by
# counting, with four tokenizers. Which tokenizer makes the best model?


# %%
def unigram_nats(train, val, vocab_size):
    """Return the total surprise of `val` under the token frequencies of `train`, [V]-shaped counts plus one."""
    counts = np.bincount(train, minlength=vocab_size) + 1
    return -np.log(counts / counts.sum())[val].sum()


def bigram_nats(train, val, vocab_size):
    """The same for pairs; a pair's estimate leans on the unigram where it was rarely seen."""
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    before = np.bincount(train[:-1], minlength=vocab_size)
    wanted = np.r_[val[-1], val[:-1]] * vocab_size + val
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    seen = np.where(pairs[place] == wanted, counts[place], 0)
    return -np.log((seen + unigram[val]) / (before[wanted // vocab_size] + 1)).sum()


# %%
def documents_of(tokens, tokenizer):
    """Return the documents of a stream."""
    ends = np.flatnonzero(tokens == tokenizer.eot_id)
    return [tokenizer.decode(part[:-1].tolist()) for part in np.split(np.asarray(tokens), ends + 1)[:-1]]


train_texts = documents_of(data.train[:400_000], data.tokenizer)
val_texts = documents_of(data.val, data.tokenizer)
val_size = sum(len(text.encode("utf-8")) for text in val_texts)
results = {}
print("     V   tokens    unigram: nats a token, bpb    bigram: nats a token, bpb")
for vocab_size in (257, 512, 1_024, 2_048):
    tokenizer = (
        data.tokenizer
        if vocab_size == 2_048
        else BPETokenizer.train(train_texts[:400], vocab_size, special_tokens=(END_OF_TEXT,))
    )
    streams = []
    for texts in (train_texts, val_texts):
        ids = [token for encoded in tokenizer.encode_batch(texts) for token in [*encoded, tokenizer.eot_id]]
        streams.append(np.array(ids, dtype=np.int64))
    totals = [model(*streams, vocab_size) for model in (unigram_nats, bigram_nats)]
    results[vocab_size] = [(total / len(streams[1]), bits_per_byte(total, val_size)) for total in totals]
    (loss_1, bpb_1), (loss_2, bpb_2) = results[vocab_size]
    print(f"{vocab_size:6,}  {len(streams[1]):7,} {loss_1:21.2f} {bpb_1:8.2f} {loss_2:20.2f} {bpb_2:8.2f}")

# %% tags=["hide-input"]
fig, axes = new_figure(8.2, 2.9, ncols=2)
labels_x = [f"{size:,}" for size in results]
floor = bits_per_byte(data.val_floor_nats, data.val_bytes)
for index, (name, color) in enumerate([("unigram", "orange"), ("bigram", "blue")]):
    for ax, part in zip(axes, (0, 1), strict=True):
        values = [result[index][part] for result in results.values()]
        ax.plot(labels_x, values, marker="o", color=COLORS[color], label=name)
axes[1].axhline(floor, color=COLORS["green"], linestyle="--")
axes[1].text(0, floor + 0.08, "the grammar itself", color=COLORS["green"], fontsize=9)
axes[0].set(title="loss, nats a token", xlabel="vocabulary", ylim=(0, None))
axes[1].set(title="bits per byte", xlabel="vocabulary", ylim=(0, None))
axes[0].legend()
show(
    fig,
    alt="Two counting models with four vocabularies. The loss a token of the unigram model rises with the vocabulary, "
    "while its bits per byte fall: the two units rank the tokenizers in opposite order.",
)

# %% [markdown]
# Judged by the loss a token, the unigram model on single bytes is the best and larger vocabularies make it worse. Judged by bits per byte,
# the order is reversed, and that is the truth: a token of several letters carries what the letters would have had to be guessed
# from. Whenever you compare models of different tokenizers, yours or published ones, compare bits per byte.
#
# Two details that make the number honest. The *bytes* are those of the documents; the *nats* include what it costs to
# predict the eot tokens, because where a text ends is part of what must be known. And both are of the whole validation set, which
# is what `val_bytes` and `validation_batches` are for.
#
# ## The floor
#
# The grammar knows what no corpus from the web can tell you: how much of the surprise is unavoidable. While `prepare` ran, it
# added up $-\ln p$ of every validation story.

# %%
floor = bits_per_byte(data.val_floor_nats, data.val_bytes)
print(
    f"{data.val_floor_nats:,.0f} nats in {data.val_documents} stories: {data.val_floor_nats / data.val_documents:.1f} a story"
)
print(f"the grammar's entropy: {StoryGrammar().entropy():.1f} nats a story")
print(
    f"the floor of our validation set: {floor:.4f} bits per byte, {data.val_floor_nats / len(data.val):.4f} nats a token"
)

# %% [markdown]
# In what sense can no model beat this? Be careful, because three things seem to stand in the way.
#
# *The eot token.* The model also predicts the end of each story, the grammar's $p$ does not mention it. It costs nothing extra. Every story
# becomes one sequence of tokens that ends with eot, and different stories become different sequences. So a model's
# probabilities $q$ of those sequences add up to at most 1 over all stories, and for any such $q$ the expected surprise is at least the
# entropy (Gibbs' inequality):
#
# $$\mathbb{E}_{s \sim p}\,[-\ln q(s)] \;\ge\; \mathbb{E}_{s \sim p}\,[-\ln p(s)].$$
#
# In words: on average, nobody guesses better than the one who knows the rules. A model that knows the grammar reaches equality: what
# it pays for “this story goes on” is exactly what it does not pay for the words.
#
# *The cuts.* A block may show only the end of a story, and pieces of others. Missing context can only make guessing harder, and other
# stories are drawn independently, so they do not help. The floor stays a floor; with short blocks it is out of reach.
#
# *The sample.* The inequality holds on average, the validation set is one draw. Could a model be lucky? For any model that was fixed without
# looking at these stories, the chance that its total is more than $x$ nats below the floor is at most $e^{-x}$, because
# $\mathbb{E}_p[q/p] \le 1$ (that is Markov's inequality). Ten nats, out of the thousands above, are already a chance of less than
# 1 in 20,000.
#
# So read every later loss against this line: the difference is what the model has yet to learn. And a loss *below* the line is not a triumph,
# it is a bug; the label shift and the split are the first suspects.
#
# ## Reality check
#
# Four checks against things that we did not write.
#
# **The stream is what the tokenizer says, and nothing is lost.** Decode the validation stream, cut it at the eot tokens, and compare it with the
# grammar's stories, filtered by the split's rule.

# %%
held_out = [text for text in GrammarSource(StoryGrammar(), seed=0, count=6_000) if in_validation(text, 0.05)]
print(
    "documents in the stream equal the held-out stories:", documents_of(data.val, data.tokenizer) == held_out
)
print("their bytes:", sum(len(text.encode()) for text in held_out) == data.val_bytes)

# %% [markdown]
# **The `datasets` library reads the same documents.** It has its own Parquet and JSON readers.

# %%
import datasets

datasets.disable_progress_bars()
for name, kind in [("b.jsonl", "json"), ("c.parquet", "parquet")]:
    theirs = datasets.load_dataset(kind, data_files=str(scratch / name), split="train", streaming=True)
    print(f"{name:10} equal:", [row["text"] for row in theirs] == list(FileSource(scratch / name)))

# %% [markdown]
# **PyTorch's cross-entropy agrees with our counting.** Give `cross_entropy` the unigram model's log-probabilities as logits, sum over
# `validation_batches`, and compare with the total that was computed without blocks, labels or −100.

# %%
train, val = np.asarray(data.train).astype(np.int64), np.asarray(data.val).astype(np.int64)
counts = torch.from_numpy(np.bincount(train, minlength=data.tokenizer.vocab_size) + 1)
log_probs = (counts / counts.sum()).log()  # [V]
total = 0.0
for _, labels in validation_batches(data.val, batch_size=64, seq_len=100):
    logits = log_probs.expand(labels.numel(), -1)  # [B·T, V]
    total += torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum").item()
direct = unigram_nats(train, val, data.tokenizer.vocab_size)
print(f"relative difference below one in 100,000: {abs(total / direct - 1) < 1e-5}")

# %% [markdown]
# **Compressors measure the same thing.** A model with $b$ bits per byte can be turned into a compressor whose files have $b$ bits per byte
# ([Delétang et al., 2023](https://arxiv.org/abs/2309.10668)), and every compressor is a model. So `xz` and `bzip2` should
# land in the same range as our counting models, and nothing should come out below the floor.

# %%
import bz2
import lzma

val_text = "\0".join(val_texts).encode()
train_text = "\0".join(train_texts).encode()[:1_000_000]
sizes = {
    "bzip2, validation text alone": len(bz2.compress(val_text)),
    "xz, validation text alone": len(lzma.compress(val_text)),
    "xz, after 1 MB of training text": len(lzma.compress(train_text + val_text))
    - len(lzma.compress(train_text)),
}
for name, compressed in sizes.items():
    print(f"{name:34} {8 * compressed / len(val_text):.1f} bits per byte")
print(f"{'bigram, vocabulary 2,048':34} {results[2_048][1][1]:.1f} bits per byte")
print(f"{'the floor':34} {floor:.2f} bits per byte")

# %% [markdown]
# ## What gpt-oss-20b uses
#
# | | this course, quick profile | gpt-oss-20b |
# |---|---|---|
# | training text | grammar stories, [printed above](#The-course's-corpus) | text only, “trillions of tokens” |
# | vocabulary | 2,048 | 201,088 (`o200k_harmony`) |
# | bytes a stored token | 2 | 4 |
# | validation | 5% of documents, by content | not published |
# | eot between documents | yes | `<\|endoftext\|>` is in the vocabulary |
# | block length | a few hundred at most | 4,096 before the YaRN extension to 131,072 |
# | floor | known exactly | unknown |
#
# The numbers are from the [model card](https://arxiv.org/abs/2508.10925) and the published `config.json`
# (`initial_context_length`). OpenAI has not published how the documents were packed, so neither do we claim it. What the size alone tells you:
# at four bytes each, every trillion tokens is a file of 4 TB. Nobody loads that into memory; it is mapped or streamed, in
# shards, by exactly the means of this chapter.
#
# ## Pitfalls
#
# - **Labels shifted twice.** Hugging Face's models shift labels inside `forward`, so `labels=input_ids` is right there; with labels that are already
#   shifted the model learns to predict the token after the next, and trains happily. transformers itself
#   [shipped a model with the double shift](https://github.com/huggingface/transformers/pull/47395), and an open pull request
#   [clarifies the documentation](https://github.com/huggingface/transformers/pull/44642). Our models return logits and never see labels.
# - **No end-of-text token.** The `run_clm.py` example of transformers joins documents without one; it is
#   [up to you](https://github.com/huggingface/transformers/issues/23198) to add it. Stanford's Mistral project found
#   [the same gap](https://github.com/stanford-crfm/mistral/issues/91) in its own preparation.
# - **Two bytes are not enough.** A script of transformers stored multilingual BERT's ids, with a vocabulary of 119,547, as `uint16`:
#   [45% of the ids were wrong](https://github.com/huggingface/transformers/issues/2825), without an error. Today `np.array([70_000], dtype=np.uint16)`
#   raises; `.astype(np.uint16)` still does not.
# - **Sampling with replacement.** Random positions leave more than a third of the corpus unseen in the first epoch, as measured above.
# - **The dropped tail.** `group_texts` in [`run_clm.py`](https://github.com/huggingface/transformers/blob/main/examples/pytorch/language-modeling/run_clm.py)
#   drops the remainder, and not once: at the end of every group of 1,000 documents that `map` hands it. In training that is a rounding
#   error; for a validation loss it means that some tokens are never scored, and which ones depends on the block length.
# - **Test data in the training data.** GPT-3's authors looked for overlaps with their benchmarks, and
#   [a bug in the filter](https://arxiv.org/abs/2005.14165) (section 2.2) let some through; training again would have been too expensive.
#   Check the split before the run.
# - **Resuming with the wrong epoch's order.** Loaders that skip to the right batch of the *first* epoch's order repeat some data and never see
#   other: [transformers](https://github.com/huggingface/transformers/pull/8878),
#   [accelerate](https://github.com/huggingface/accelerate/issues/2016). A loader whose state is one integer has nothing to forget.
#
# ## Exercises
#
# In [exercises/04_data.ipynb](exercises/04_data.ipynb):
#
# 1. **Shift the labels.** Write the function that turns a stream into `input_ids` and `labels`, with the last label handled right.
# 2. **Find the leak.** Write a split that keeps copies together, and a detector that says how much of a validation set was trained on.
# 3. **Bits per byte.** Two published-looking results, two tokenizers: which model is better?
# 4. **The missing token.** A batcher loses one token in every block. Find it, and repair it.
#
# ## Summary
#
# - A source is anything that gives documents. The rest of the pipeline does not care where they come from.
# - An end-of-text token after each document teaches the model to stop and to forget.
# - Packing wastes no computation; its price is cut stories, which long blocks and a random offset make small.
# - Labels are the inputs, one token later: *T + 1* tokens make *T* predictions.
# - Whole documents are split, by a hash of their content; copies can then not stand on both sides.
# - Token files are mapped, typed by the vocabulary, checked on loading, and renamed into place when complete.
# - A batch is a function of a seed and a step. Nothing is repeated or left out within an epoch, and one integer resumes a run.
# - Bits per byte compare models across tokenizers; nats a token do not. The grammar's floor says how far is left to go.
#
# [GPT-2](05_gpt2.ipynb) is the model that these batches are for.
#
# ## Further reading
#
# - [Eldan & Li, 2023](https://arxiv.org/abs/2305.07759): TinyStories, and what small models learn from it.
# - [Lee et al., 2021](https://arxiv.org/abs/2107.06499): how much of a corpus is copies, and what removing them changes.
# - [Ding et al., 2024](https://arxiv.org/abs/2404.10830): packing that cuts fewer documents, and its effect.
# - [Grattafiori et al., 2024](https://arxiv.org/abs/2407.21783), section 3.2: Llama 3 masks attention between the documents of a block, and finds
#   that it matters for very long contexts and little otherwise.
# - [Gao et al., 2020](https://arxiv.org/abs/2101.00027): the Pile, with bits per byte as its unit.
# - [Perplexity of fixed-length models](https://huggingface.co/docs/transformers/perplexity): overlapping blocks, measured on GPT-2.

# %% tags=["hide-input"]
shutil.rmtree(scratch)
