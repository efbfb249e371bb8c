"""The data pipeline: sources, the split, token files, batches and the unit of the loss."""

import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from gptoss_lib import data as data_module
from gptoss_lib import settings
from gptoss_lib.data import (
    END_OF_TEXT,
    Batches,
    FileSource,
    GrammarSource,
    TinyStoriesSource,
    TokenData,
    bits_per_byte,
    course_data,
    cut_blocks,
    in_validation,
    prepare,
    story_data,
    token_dtype,
    train_tokenizer,
    validation_batches,
)
from gptoss_lib.stories import StoryGrammar
from gptoss_lib.tokenizer import BPETokenizer

_rng = random.Random(0)
_WORDS = ["cat", "dog", "naïve", "ran", "home", "the", "a", "sat", "日本", "blue"]
DOCUMENTS = [" ".join(_rng.choices(_WORDS, k=_rng.randint(3, 40))) + f" {number}." for number in range(240)]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(DOCUMENTS, 300)


class CountedSource:
    """Documents with a fingerprint, and a count of how often they were read."""

    def __init__(self, documents=DOCUMENTS, name="counted"):
        self.documents, self.name, self.reads = documents, name, 0

    def __iter__(self):
        self.reads += 1
        return iter(self.documents)

    def fingerprint(self):
        return {"source": self.name}


def by_hand(documents, tokenizer):
    return [token for text in documents for token in [*tokenizer.encode(text), tokenizer.eot_id]]


def tree(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# Sources


def write_all_kinds(folder: Path) -> list[Path]:
    import pyarrow
    import pyarrow.parquet

    (folder / "deep").mkdir()
    paths = [folder / "a.txt", folder / "b.jsonl", folder / "deep" / "c.parquet"]
    paths[0].write_text(f"\n{END_OF_TEXT}\n".join(DOCUMENTS[:50]), encoding="utf-8")
    paths[1].write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in DOCUMENTS[50:90]) + "\n\n")
    table = pyarrow.table({"n": list(range(150)), "text": DOCUMENTS[90:]})
    pyarrow.parquet.write_table(table, paths[2], row_group_size=37)
    (folder / "notes.md").write_text("not a corpus")
    return paths


def test_file_source_reads_every_kind_in_every_way(tmp_path):
    paths = write_all_kinds(tmp_path)
    assert list(FileSource(tmp_path)) == DOCUMENTS
    assert list(FileSource(str(tmp_path / "**" / "*.*[tl]"))) == DOCUMENTS
    assert list(FileSource(paths)) == DOCUMENTS
    assert list(FileSource([paths[1]])) == DOCUMENTS[50:90]
    assert list(FileSource(paths[2])) == DOCUMENTS[90:]


def test_text_is_split_at_end_of_text_only(tmp_path):
    path = tmp_path / "a.txt"
    text = "\ufefffirst\r\nline two\n\n##  \n #second#\nthird\u2028x\n"
    path.write_bytes(text.replace("#", END_OF_TEXT).encode())
    assert list(FileSource(path)) == ["first\r\nline two", "second", "third\u2028x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.txt", b"fine\n\x00\x01\x02", "line 2 holds a zero byte"),
        ("a.txt", "fine\n".encode("utf-16"), "a.txt, line 1"),
        ("a.txt", b"fine\nlatin caf\xe9 text", "line 2 is not UTF-8 at byte 9"),
        ("a.txt", "fine\ncaf\u00e9".encode()[:-1], r"unexpected end of data.*cut off"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "cut of', r"line 2 is not JSON .*cut off"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "line 1 is not JSON"),
        (
            "a.jsonl",
            b'{"story": "x", "id": 3}\n',
            r"line 1 should hold a string in the field 'text'.*\['id', 'story'\]",
        ),
        ("a.jsonl", b'{"text": null}\n', "line 1 should hold a string"),
        ("a.jsonl", b'["text"]\n', "line 1 should hold a string"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read as Parquet"),
        ("a.csv", b"text\nx", "unknown kind; expected .txt, .jsonl, .parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(FileSource(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_parquet_and_wrong_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = write_all_kinds(tmp_path)[2]
    with pytest.raises(ValueError, match=r"'story'.*\['n', 'text'\]"):
        list(FileSource(path, field="story"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["fine", None]}), path)
    with pytest.raises(ValueError, match="row 1 should hold a string"):
        list(FileSource(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cannot be read as Parquet.*cut off"):
        list(FileSource(path))


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.txt", "empty"])
def test_missing_files(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="names no file; expected"):
        FileSource(tmp_path / missing)


def test_grammar_source_is_the_grammar():
    grammar = StoryGrammar()
    source = GrammarSource(grammar, seed=5, count=7)
    stories = list(grammar.stories(seed=5, count=7))
    assert list(source) == list(source) == [story.text for story in stories] and len(source) == 7
    assert list(source.scored()) == [(story.text, story.log_prob) for story in stories]
    prints = [GrammarSource(grammar, *which).fingerprint() for which in [(5, 7), (6, 7), (5, 8), (5, 7)]]
    assert prints[0] == prints[3] and prints[0] != prints[1] and prints[0] != prints[2]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep what ``datasets`` caches in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


@pytest.mark.parametrize("streaming", [False, True])
def test_tinystories_from_disk(tmp_path, hub_cache, streaming):
    train = hub_cache.Dataset.from_dict({"text": [*DOCUMENTS, "", " \n"]})
    val = hub_cache.Dataset.from_dict({"text": ["held out"]})
    train.save_to_disk(tmp_path / "one")
    hub_cache.DatasetDict(train=train, validation=val).save_to_disk(tmp_path / "both")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    train.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    val.to_parquet(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet")
    for folder in ("one", "both", "hub"):
        assert list(TinyStoriesSource(path=tmp_path / folder, streaming=streaming)) == DOCUMENTS, folder
    for folder in ("both", "hub"):
        source = TinyStoriesSource("validation", streaming=streaming, path=tmp_path / folder)
        assert list(source) == ["held out"]
        with pytest.raises(ValueError, match="test"):
            list(TinyStoriesSource("test", streaming=streaming, path=tmp_path / folder))
    assert (
        TinyStoriesSource(path=tmp_path / "one").fingerprint()
        != TinyStoriesSource(path=tmp_path / "hub").fingerprint()
    )


def test_tinystories_from_a_wrong_folder(tmp_path, hub_cache):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(TinyStoriesSource(path=tmp_path / "nowhere"))
    hub_cache.Dataset.from_dict({"story": ["x"]}).save_to_disk(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"row 0 should hold a string in the field 'text', but has the fields \['story'\]"
    ):
        list(TinyStoriesSource(path=tmp_path / "other"))


@pytest.mark.parametrize("streaming", [False, True])
def test_tinystories_without_a_network_says_where_to_get_it(tmp_path, streaming):
    script = (
        f"from gptoss_lib.data import TinyStoriesSource; next(iter(TinyStoriesSource(streaming={streaming})))"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError: TinyStories is neither")
    assert "https://huggingface.co/datasets/roneneldan/TinyStories" in last and "GPTOSS_DATA" in last


def test_tinystories_sample(shared, tmp_path, tokenizer):
    path = shared / "data" / "tinystories_sample.txt"
    parts = [part.strip() for part in path.read_text(encoding="utf-8").split(END_OF_TEXT)]
    assert list(FileSource(path)) == parts and len(parts) == 2_317  # 2,316 stories and one that is cut off
    prepared = prepare(FileSource(path), tokenizer, tmp_path / "tokens", val_fraction=0.1)
    sides = [[text for text in parts if in_validation(text, 0.1) == held_out] for held_out in (False, True)]
    assert prepared.train.tolist() == by_hand(sides[0], tokenizer)
    assert prepared.val.tolist() == by_hand(sides[1], tokenizer)
    assert prepared.val_bytes == sum(len(text.encode()) for text in sides[1])
    assert prepared.val_floor_nats is None
    assert 0.08 < prepared.val_documents / len(parts) < 0.12


# The split


def test_the_split_depends_on_content_alone():
    # SHA-256 of "the cat sat." begins with these bytes on every machine.
    import hashlib

    threshold = int(hashlib.sha256(b"the cat sat.").hexdigest()[:16], 16) / 2**64
    for text in ("the cat sat.", " the  cat\nsat. ", "the cat sat.\r\n"):
        assert in_validation(text, threshold + 1e-9) and not in_validation(text, threshold - 1e-9)
    held_out = sum(in_validation(f"document {number}", 0.05) for number in range(20_000))
    assert abs(held_out / 20_000 - 0.05) < 5 * math.sqrt(0.05 * 0.95 / 20_000)


def test_copies_never_stand_on_both_sides(tmp_path, tokenizer):
    copies = [text.replace(" ", "  ", 2) + "\n" for text in DOCUMENTS[:80]]
    corpus = DOCUMENTS + DOCUMENTS[40:] + copies
    random.Random(3).shuffle(corpus)
    sides = []
    for number, documents in enumerate((corpus, corpus[::-1])):
        prepared = prepare(documents, tokenizer, tmp_path / str(number), val_fraction=0.3)
        texts = [tokenizer.decode(side).split(END_OF_TEXT)[:-1] for side in (prepared.train, prepared.val)]
        train, val = ({" ".join(text.split()) for text in side} for side in texts)
        assert train and val and not train & val
        assert sorted([*texts[0], *texts[1]]) == sorted(corpus)
        sides.append(val)
    assert sides[0] == sides[1]


# Token files


def test_the_streams_are_the_encoded_documents(tmp_path, tokenizer):
    prepared = prepare(CountedSource(), tokenizer, tmp_path / "tokens", val_fraction=0.2)
    sides = [
        [text for text in DOCUMENTS if in_validation(text, 0.2) == held_out] for held_out in (False, True)
    ]
    for side, split in zip(sides, ("train", "val"), strict=True):
        tokens = getattr(prepared, split)
        assert tokens.tolist() == by_hand(side, tokenizer)
        assert tokens[-1] == tokenizer.eot_id
        assert getattr(prepared, f"{split}_documents") == len(side) == (tokens == tokenizer.eot_id).sum()
        assert getattr(prepared, f"{split}_bytes") == sum(len(text.encode()) for text in side)
    assert prepared.tokenizer.encode(DOCUMENTS[0]) == tokenizer.encode(DOCUMENTS[0])
    assert TokenData.load(tmp_path / "tokens", verify=True).val.tolist() == prepared.val.tolist()


def test_text_cannot_write_an_end_of_text_token(tmp_path, tokenizer):
    corpus = [f"{text} {END_OF_TEXT} tail" for text in DOCUMENTS]
    prepared = prepare(corpus, tokenizer, tmp_path / "tokens", val_fraction=0.2)
    assert (prepared.train == tokenizer.eot_id).sum() == prepared.train_documents


class WideTokenizer:
    """As if the vocabulary were large: every id is raised by ``shift``."""

    def __init__(self, inner, shift):
        self.inner, self.shift = inner, shift
        self.vocab_size, self.eot_id, self.save = inner.vocab_size + shift, inner.eot_id + shift, inner.save

    def encode_batch(self, texts):
        return [[token + self.shift for token in ids] for ids in self.inner.encode_batch(texts)]


@pytest.mark.parametrize("vocab_size", [65_536, 65_537])
def test_two_bytes_up_to_65536_tokens_and_four_beyond(tmp_path, tokenizer, vocab_size):
    shift = vocab_size - tokenizer.vocab_size
    prepared = prepare(DOCUMENTS, WideTokenizer(tokenizer, shift), tmp_path / "tokens", val_fraction=0.2)
    assert prepared.val.dtype == token_dtype(vocab_size) == (np.uint16 if vocab_size == 65_536 else np.uint32)
    assert prepared.val.max() == vocab_size - 1  # the end-of-text token, the highest id
    train = [text for text in DOCUMENTS if not in_validation(text, 0.2)]
    assert (prepared.train.astype(np.int64) - shift).tolist() == by_hand(train, tokenizer)


def test_files_are_mapped_and_not_read(tmp_path, tokenizer):
    prepared = prepare(DOCUMENTS, tokenizer, tmp_path / "tokens", val_fraction=0.2)
    assert isinstance(prepared.train, np.memmap) and not prepared.train.flags.writeable
    assert Path(prepared.train.filename) == tmp_path / "tokens" / "train.bin"
    tokens = 2**32  # a sparse file of 8 GiB
    with (tmp_path / "tokens" / "train.bin").open("r+b") as file:
        file.truncate(2 * tokens)
    meta = json.loads((tmp_path / "tokens" / "meta.json").read_text())
    meta["train"]["tokens"] = tokens
    (tmp_path / "tokens" / "meta.json").write_text(json.dumps(meta))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge = TokenData.load(tmp_path / "tokens").train
    assert len(huge) == tokens and huge[-1] == 0 and huge[0] == prepared.train[0]
    cut_blocks(huge, np.array([-3, 2**31]), 5)
    assert next(validation_batches(huge, 2, 5))[1].shape == (2, 5)
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 2**27


def test_damage_is_noticed_and_repaired(tmp_path, tokenizer):
    directory = tmp_path / "tokens"
    prepare(CountedSource(), tokenizer, directory, val_fraction=0.2)
    clean = tree(directory)

    def cut(name):
        (directory / name).write_bytes(clean[name][:-1])

    damages = [
        (
            lambda: cut("train.bin"),
            False,
            r"train.bin has [\d,]+ bytes, but [\d,]+ tokens of uint16 take [\d,]+: .*cut off",
        ),
        (lambda: (directory / "val.bin").unlink(), False, "val.bin has 0 bytes"),
        (lambda: cut("tokenizer.json"), False, "is not the tokenizer"),
        (lambda: (directory / "val.bin").write_bytes(clean["val.bin"][::-1]), True, "SHA-256"),
    ]
    for damage, verify, message in damages:
        damage()
        with pytest.raises(ValueError, match=message):
            TokenData.load(directory, verify=verify)
        if not verify:  # prepare looks at sizes too, and does the work again
            prepare(CountedSource(), tokenizer, directory, val_fraction=0.2)
            assert tree(directory) == clean
    for content, message in [
        (clean["meta.json"][:-1], "is not JSON"),
        (b'{"version": 3}', "is not what prepare"),
    ]:
        (directory / "meta.json").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            TokenData.load(directory)
        with pytest.raises(ValueError, match="something else"):
            prepare(CountedSource(), tokenizer, directory, val_fraction=0.2)
    (directory / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="no prepared data"):
        TokenData.load(directory)


def test_an_identical_preparation_is_reused(tmp_path, tokenizer):
    directory = tmp_path / "tokens"
    source = CountedSource()
    for reads, fraction, used in [
        (1, 0.2, source),
        (1, 0.2, source),
        (2, 0.3, source),
        (2, 0.3, source),
        (3, 0.2, source),
    ]:
        prepare(used, tokenizer, directory, val_fraction=fraction)
        assert source.reads == reads
    other = BPETokenizer.train(DOCUMENTS, 290)
    assert (
        prepare(source, other, directory, val_fraction=0.2).tokenizer.vocab_size == 290 and source.reads == 4
    )
    renamed = CountedSource(name="renamed")
    prepare(renamed, other, directory, val_fraction=0.2)
    assert renamed.reads == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens", "tokens.lock"]


def test_a_changed_file_is_prepared_again(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text}) for text in DOCUMENTS]
    path.write_text("\n".join(lines))
    first = prepare(FileSource(path), tokenizer, tmp_path / "tokens", val_fraction=0.2)
    path.write_text("\n".join([*lines, json.dumps({"text": "one more"})]))
    second = prepare(FileSource(path), tokenizer, tmp_path / "tokens", val_fraction=0.2)
    documents = [prepared.train_documents + prepared.val_documents for prepared in (first, second)]
    assert documents == [240, 241]
    assert first.train[:5].tolist() == second.train[:5].tolist()  # the old map stays readable


def test_without_a_fingerprint_nothing_is_reused(tmp_path, tokenizer):
    prepare(DOCUMENTS, tokenizer, tmp_path / "tokens", val_fraction=0.2)
    assert prepare(DOCUMENTS[:100], tokenizer, tmp_path / "tokens", val_fraction=0.2).train_documents < 100


def test_other_peoples_folders_are_left_alone(tmp_path, tokenizer):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.txt").write_text("ten years of work")
    with pytest.raises(ValueError, match="holds something else than prepared data"):
        prepare(DOCUMENTS, tokenizer, tmp_path / "thesis")
    assert tree(tmp_path / "thesis") == {"final.txt": b"ten years of work"}


@pytest.mark.parametrize(
    ("documents", "fraction", "message"),
    [
        (["one document"], 0.05, r"Of 1 documents, 0 fell into the validation set at val_fraction=0.05"),
        ([], 0.5, "Of 0 documents"),
        (DOCUMENTS, 0.0, "val_fraction is 0.0; it should be between 0 and 1"),
        (DOCUMENTS, 5, "val_fraction is 5"),
        ([*DOCUMENTS, "half a \ud800 pair"], 0.2, "surrogate"),
    ],
)
def test_what_cannot_be_prepared(tmp_path, tokenizer, documents, fraction, message):
    with pytest.raises(ValueError, match=message):
        prepare(documents, tokenizer, tmp_path / "tokens", val_fraction=fraction)
    assert not (tmp_path / "tokens").exists() and not (tmp_path / "tokens.partial").exists()


def test_no_progress_bar_where_nobody_watches(tmp_path, tokenizer, capfd):
    prepare(DOCUMENTS, tokenizer, tmp_path / "tokens", val_fraction=0.2)
    assert capfd.readouterr() == ("", "")


KILLER = """
import os, pathlib, random, signal, sys, time
import gptoss_lib.data as data
from tests.test_data import CountedSource, DOCUMENTS

root = pathlib.Path(sys.argv[1])
tokenizer = data.BPETokenizer.load(root / "tokenizer.json")
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

class Killed(CountedSource):
    def __init__(self, at):
        super().__init__(DOCUMENTS, "new")
        self.at = at
    def __iter__(self):
        for number, document in enumerate(DOCUMENTS):
            if number == self.at:
                die()
            time.sleep(0.001)
            yield document

def dying_on_call(function, call):
    def run(*args, **options):
        nonlocal call
        if call == 0:
            die()
        call -= 1
        return function(*args, **options)
    return run

def child(moment, directory):
    source = Killed(moment if isinstance(moment, int) else -1)
    if moment == "before meta":
        data.json.dumps = dying_on_call(data.json.dumps, 1)  # the first call writes the tokenizer
    elif moment == "before the first rename":
        data.os.replace = dying_on_call(data.os.replace, 1)  # the first call saves the tokenizer
    elif moment == "between the renames":
        data.os.replace = dying_on_call(data.os.replace, 2)
    elif moment == "after the renames":
        data.shutil.rmtree = dying_on_call(data.shutil.rmtree, 1)
    data.prepare(source, tokenizer, directory, 0.2)

random.seed(1)
moments = [0, 1, 100, 239, "before meta"]
moments += ["before the first rename", "between the renames", "after the renames"]
for index, moment in enumerate([*moments, *["any"] * 6]):
    pid = os.fork()
    if pid == 0:
        child(moment, root / str(index))
        os._exit(0)
    if moment == "any":
        time.sleep(random.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    print(index, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, moment)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_preparation_leaves_nothing_that_looks_complete(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    old = CountedSource(DOCUMENTS[:120], "old")
    new = CountedSource(DOCUMENTS, "new")
    prepare(old, tokenizer, tmp_path / "old", val_fraction=0.2)
    prepare(new, tokenizer, tmp_path / "new", val_fraction=0.2)
    states = [tree(tmp_path / "old"), tree(tmp_path / "new")]
    for index in range(14):
        if index != 2:  # all but one replace an older preparation
            prepare(old, tokenizer, tmp_path / str(index), val_fraction=0.2)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(lines) == 14
    for index, status, moment in lines:
        assert moment == "any" or int(status) == signal.SIGKILL, moment
        directory = tmp_path / index
        if directory.exists():
            assert tree(directory) in states, moment
        else:
            with pytest.raises(FileNotFoundError):
                TokenData.load(directory)
        prepare(new, tokenizer, directory, val_fraction=0.2)
        assert tree(directory) == states[1], moment
        assert not directory.with_name(f"{index}.partial").exists()


PARALLEL = """
import os, pathlib, sys, time
import gptoss_lib.data as data
from tests.test_data import CountedSource

root = pathlib.Path(sys.argv[1])
tokenizer = data.BPETokenizer.load(root / "tokenizer.json")

class Slow(CountedSource):
    def __iter__(self):
        with (root / "reads").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return super().__iter__()

children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        prepared = data.prepare(Slow(), tokenizer, root / "tokens", 0.2)
        os._exit(0 if prepared.val_documents else 1)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_prepare_at_the_same_time_do_the_work_once(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    subprocess.run([sys.executable, "-c", PARALLEL, str(tmp_path)], check=True, cwd=Path(__file__).parents[1])
    assert (tmp_path / "reads").read_text() == "x"


# Blocks and batches


def test_cut_blocks_shifts_by_one_and_joins_the_ends():
    tokens = np.arange(23, dtype=np.uint16)
    inputs, labels = cut_blocks(tokens, np.array([-1, 0, 7, 20, 46]), 5)
    assert inputs.tolist() == [
        [22, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [7, 8, 9, 10, 11],
        [20, 21, 22, 0, 1],
        [0, 1, 2, 3, 4],
    ]
    assert labels.equal((inputs + 1) % 23)
    assert inputs.dtype == labels.dtype == torch.int64 and inputs.is_contiguous() and labels.is_contiguous()


@pytest.mark.parametrize(
    ("length", "batch_size", "seq_len"), [(103, 4, 7), (70, 3, 7), (29, 11, 5), (9, 2, 9)]
)
def test_an_epoch_has_every_block_once(length, batch_size, seq_len):
    batches = Batches(np.arange(length), batch_size, seq_len, seed=3)
    blocks = length // seq_len
    assert batches.blocks_per_epoch == blocks
    rows = [row for _ in range(5 * blocks) for row in zip(*next(batches), strict=True)]
    offsets = set()
    for epoch in range(5):
        mine = rows[epoch * blocks : (epoch + 1) * blocks]
        assert all(labels.equal((inputs + 1) % length) for inputs, labels in mine)
        targets = torch.cat([labels for _, labels in mine]).tolist()
        assert len(set(targets)) == len(targets) == blocks * seq_len
        starts = {int(inputs[0]) for inputs, _ in mine}
        offsets.add(
            min(start % seq_len for start in starts) if length % seq_len == 0 else tuple(sorted(starts))
        )
    assert len(offsets) > 1  # the cuts move


def test_batches_depend_on_the_seed_and_are_shuffled():
    tokens = np.arange(1_003)
    first = [next(Batches(tokens, 6, 10, seed=seed))[0] for seed in (0, 0, 1)]
    assert first[0].equal(first[1]) and not first[0].equal(first[2])
    starts = (first[0][:, 0] - first[0][0, 0]) % 1_003
    assert starts.tolist() != sorted(starts.tolist())
    assert next(iter(Batches(tokens, 6, 10)))[0].shape == (6, 10)


@pytest.mark.parametrize("step", [0, 1, 8, 9, 10, 57, 3_000])
def test_resuming_gives_exactly_the_following_batches(step):
    tokens = np.random.default_rng(0).integers(0, 999, 407).astype(np.uint16)
    whole = Batches(tokens, 6, 7, seed=5)
    for _ in range(step):
        next(whole)
    state = json.loads(json.dumps(whole.state_dict()))
    expected = [next(whole) for _ in range(30)]
    resumed = Batches(tokens, 6, 7, seed=5)
    for _ in range(25):
        next(resumed)  # what it did before, in a later epoch even, must not matter
    resumed.load_state_dict(state)
    for inputs, labels in expected:
        again = next(resumed)
        assert again[0].equal(inputs) and again[1].equal(labels)
    assert resumed.state_dict() == whole.state_dict()


def test_resuming_is_exact_where_floats_are_not():
    tokens = np.arange(407)
    step = 2**60 + 1
    batches = Batches(tokens, 6, 7, seed=5)
    batches.load_state_dict(batches.state_dict() | {"step": step})
    far = torch.cat([next(batches)[1] for _ in range(58)])
    first = 6 * step
    skip = -first % batches.blocks_per_epoch
    epochs = far[skip : skip + 4 * batches.blocks_per_epoch].view(4, -1)
    for epoch in epochs:
        assert len(epoch.unique()) == len(epoch) == 406
    assert not any(epochs[i].equal(epochs[i + 1]) for i in range(3))


def test_a_state_of_other_batches_is_refused():
    state = Batches(np.arange(100), 2, 7, seed=1).state_dict()
    for other in (
        Batches(np.arange(101), 2, 7, 1),
        Batches(np.arange(100), 3, 7, 1),
        Batches(np.arange(100), 2, 8, 1),
        Batches(np.arange(100), 2, 7, 2),
    ):
        with pytest.raises(ValueError, match="make them equal to resume"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("tokens", "batch_size", "seq_len", "seed", "message"),
    [
        (np.arange(6), 2, 7, 0, "6 tokens are less than one block of seq_len=7"),
        (np.arange(60), 0, 7, 0, "batch_size=0"),
        (np.arange(60), 2, 0, 0, "seq_len=0"),
        (np.arange(60), 2, 7, -1, "seed is -1"),
        (np.arange(60.0), 2, 7, 0, "one-dimensional array of integers"),
        (np.arange(60).reshape(6, 10), 2, 7, 0, "one-dimensional array of integers"),
        (np.arange(0), 2, 7, 0, "empty"),
    ],
)
def test_batches_that_make_no_sense(tokens, batch_size, seq_len, seed, message):
    with pytest.raises(ValueError, match=message):
        Batches(tokens, batch_size, seq_len, seed)


@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 48, 49, 101])
@pytest.mark.parametrize(
    ("batch_size", "seq_len", "stride"), [(3, 12, None), (2, 12, 12), (4, 12, 5), (1, 12, 1), (5, 1, 1)]
)
def test_every_validation_token_is_predicted_once(length, batch_size, seq_len, stride):
    tokens = np.arange(length, dtype=np.uint16)
    predicted = []
    for inputs, labels in validation_batches(tokens, batch_size, seq_len, stride):
        assert inputs.shape == labels.shape == (len(inputs), seq_len) and 1 <= len(inputs) <= batch_size
        assert inputs.dtype == labels.dtype == torch.int64
        scored = labels != -100
        assert scored.any(dim=1).all(), "a row that scores nothing is wasted"
        assert inputs[scored].equal((labels[scored] - 1) % length)
        for row, mask in zip(inputs, scored, strict=True):
            assert row.equal((row[0] + torch.arange(seq_len)) % length)  # the context has no gap
            if predicted:
                context = int(mask.nonzero()[0]) + 1
                assert context >= seq_len - (stride or seq_len) + 1
            predicted += ((row + 1) % length)[mask].tolist()
    assert predicted == list(range(length))


@pytest.mark.parametrize("stride", [0, 13, -1])
def test_strides_that_make_no_sense(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}; it should be between 1 and seq_len=12"):
        next(validation_batches(np.arange(50), 2, 12, stride))


# Bits per byte and the floor


def test_bits_per_byte():
    assert bits_per_byte(math.log(2) * 24, 3) == pytest.approx(8)
    assert bits_per_byte(100.0, 50) == pytest.approx(2 / math.log(2))
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"total_bytes is {size}"):
            bits_per_byte(1.0, size)


def test_bits_per_byte_do_not_depend_on_the_tokenizer():
    """A model of bytes, read through any tokenizer, costs the same bits."""
    text = " ".join(DOCUMENTS)
    raw = np.frombuffer(text.encode(), np.uint8)
    surprise = -np.log(np.bincount(raw, minlength=256)[raw] / len(raw))
    found = []
    for vocab_size in (257, 280, 300):
        tokenizer = BPETokenizer.train(DOCUMENTS, vocab_size)
        lengths = [len(tokenizer.decode_bytes([token])) for token in tokenizer.encode(text)]
        per_token = np.add.reduceat(surprise, np.cumsum([0, *lengths[:-1]]))
        found.append((per_token.mean(), bits_per_byte(per_token.sum(), len(raw))))
    losses, bits = zip(*found, strict=True)
    assert losses[0] < 0.9 * losses[2] and bits == pytest.approx([bits[0]] * 3, rel=1e-12)


# The course's corpora


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPTOSS_DATA", raising=False)
    return tmp_path / "home"


def test_story_data_knows_its_floor_and_is_prepared_once(home, monkeypatch):
    first = story_data(stories=300, vocab_size=400, seed=2, val_fraction=0.1)
    assert first.tokenizer.vocab_size == 400 and first.directory.is_relative_to(home)
    stories = list(StoryGrammar().stories(seed=2, count=300))
    held_out = [story for story in stories if in_validation(story.text, 0.1)]
    assert first.val.tolist() == by_hand([story.text for story in held_out], first.tokenizer)
    assert first.val_floor_nats == pytest.approx(-sum(story.log_prob for story in held_out), rel=1e-12)
    assert first.train_documents + first.val_documents == 300

    def never(*_):
        raise AssertionError("tokenised or trained again")

    with monkeypatch.context() as patch:
        patch.setattr(data_module, "_tokenise", never)
        patch.setattr(BPETokenizer, "train", never)
        again = story_data(stories=300, vocab_size=400, seed=2, val_fraction=0.1)
    assert again.directory == first.directory and again.val.tolist() == first.val.tolist()
    assert story_data(stories=301, vocab_size=400, seed=2, val_fraction=0.1).directory != first.directory


def test_no_counting_model_beats_the_floor(home):
    small = story_data(stories=300, vocab_size=400, val_fraction=0.1)
    counts = np.bincount(small.val, minlength=400)  # it may even look at the validation set
    nats = -(counts[counts > 0] * np.log(counts[counts > 0] / counts.sum())).sum()
    assert nats > 1.2 * small.val_floor_nats


def test_the_tokenizer_never_sees_validation_text(home):
    training = [text for text in DOCUMENTS if not in_validation(text, 0.5)]
    held_out = [
        text for text in (f"zebra zebra {number}" for number in range(500)) if in_validation(text, 0.5)
    ]
    path = home / "tokenizer.json"
    learned = train_tokenizer([*held_out, *training], 300, path, val_fraction=0.5)
    clean = BPETokenizer.train(training, 300)
    for text in [DOCUMENTS[5], "zebra zebra"]:
        assert learned.encode(text) == clean.encode(text)
    before = path.read_bytes()
    assert train_tokenizer(["never read"], 999, path).vocab_size == 300 and path.read_bytes() == before


def test_course_data_reads_what_the_environment_names(home, tmp_path, monkeypatch, hub_cache):
    monkeypatch.setenv("GPTOSS_PROFILE", "quick")
    monkeypatch.setattr(data_module, "story_data", lambda: "the stories")
    assert course_data() == "the stories"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
    hub_cache.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "saved")
    found = []
    for profile, path in [("quick", corpus), ("full", corpus), ("full", tmp_path / "saved")]:
        monkeypatch.setenv("GPTOSS_PROFILE", profile)
        monkeypatch.setenv("GPTOSS_DATA", str(path))
        found.append(course_data(vocab_size=300, val_fraction=0.2))
    assert found[0].directory == found[1].directory != found[2].directory
    assert found[0].train.tolist() == found[2].train.tolist()
    assert found[0].directory.is_relative_to(settings.home())

    def loads(self):
        raise ConnectionError("asked for TinyStories")

    monkeypatch.setattr(TinyStoriesSource, "_load", loads)
    monkeypatch.delenv("GPTOSS_DATA")
    with pytest.raises(ConnectionError, match="asked for TinyStories"):
        course_data()


def test_importing_is_quick():
    script = textwrap.dedent(
        """
        import sys
        import gptoss_lib.data
        slow = {"datasets", "pyarrow", "matplotlib", "transformers", "pandas"} & set(sys.modules)
        assert not slow, slow
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
