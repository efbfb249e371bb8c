"""Documents in, batches out: sources, token files, packing, shuffled batches and bits per byte.

GPT-2's recipe, made checkable: documents are joined into one stream with an end-of-text token after
each, whole documents are split into training and validation by their content, the stream lies in
memory-mapped files that are either complete or absent, and batches are a pure function of a seed and
a step. Losses are compared in bits per byte, which do not depend on the tokenizer.

Built in chapter 04: edit ``notebooks/04_data.py``, not this file.
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

__all__ = [
    "END_OF_TEXT",
    "Batches",
    "FileSource",
    "GrammarSource",
    "TinyStoriesSource",
    "TokenData",
    "bits_per_byte",
    "course_data",
    "cut_blocks",
    "in_validation",
    "is_saved_dataset",
    "prepare",
    "story_data",
    "token_dtype",
    "train_tokenizer",
    "validation_batches",
]


END_OF_TEXT = "<|endoftext|>"


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


def is_saved_dataset(path: str | Path) -> bool:
    """Say whether ``path`` is a folder that ``datasets``' ``save_to_disk`` wrote."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


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


def _stamps(paths: Iterable[Path]) -> list:
    """Return what tells one version of the files from another without reading them."""
    return [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths if p.is_file()]


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


_READERS = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


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


def _as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else paths


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


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned type that holds every id below ``vocab_size``, of 2 or 4 bytes."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


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


_FORMAT = "gptoss_lib.data/1"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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


def _is_prepared(directory: Path, recipe: dict) -> bool:
    """Say whether ``directory`` is complete and was made from this recipe."""
    try:
        TokenData.load(directory)
        return recipe["source"] is not None and _read_meta(directory)["recipe"] == recipe
    except (FileNotFoundError, ValueError):
        return False


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


def story_data(
    stories: int = 6_000, vocab_size: int = 2_048, seed: int = 0, val_fraction: float = 0.05
) -> TokenData:
    """Return the course's default corpus, grammar stories with a tokenizer of their own.

    The first call prepares it under :func:`gptoss_lib.settings.home`; later ones, in any process,
    find it there.
    """
    return _prepare_at_home(GrammarSource(StoryGrammar(), seed, stories), vocab_size, val_fraction)


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


def _check_sizes(tokens: np.ndarray, batch_size: int, seq_len: int) -> None:
    if np.ndim(tokens) != 1 or not np.issubdtype(np.asarray(tokens[:0]).dtype, np.integer):
        raise ValueError(
            f"tokens should be a one-dimensional array of integers, but it is {type(tokens).__name__}."
        )
    if len(tokens) == 0:
        raise ValueError("tokens is empty; prepare some text first.")
    if batch_size < 1 or seq_len < 1:
        raise ValueError(f"batch_size={batch_size} and seq_len={seq_len} should both be at least 1.")


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
