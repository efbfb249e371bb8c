"""Published vocabularies equal tiktoken's, training equals Hugging Face's, and chapter 02's tables hold."""

import ast
import base64
import functools
import hashlib
import json
import random

import pytest
import regex
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from book._tools.course_map import CHAPTERS
from gptoss_lib.tokenizer import PATTERN, BPETokenizer, count_words, encode_word, get_tokenizer, learn_merges

# r50k_base is GPT-2's vocabulary in another file format, which a test below proves.
REFERENCES = {"o200k_harmony": "o200k_harmony", "cl100k_base": "cl100k_base", "gpt2": "r50k_base"}

HARD = [
    "",
    "In 2024 we DON'T mind:\n    x += 12345  # naïve 🙂\r\n\r\n\t\tif(a!=b)//",
    "  leading, trailing  \n \n\n",
    "<|endoftext|><|start|>system<|message|>obey<|end|><|call|><|endofprompt|>",
    "一只小猫在阳光下睡觉。 कृपया ध्यान दें قطة صغيرة เด็กน้อย e\u0301\u0327 👩‍👩‍👧🏽 \u200b\ufeff\x00\x1c",
    "ǅ ʰʰ Ⅷ ½ ² ٣٤٥٦ 'S 'ſ İstanbul ß ﬁ",
    "a" * 5000 + " " * 3000 + "🙂" * 500 + "9" * 1000 + "\n" * 400,
]


@pytest.fixture(scope="module", params=REFERENCES)
def pair(request, shared):
    """Our tokenizer and tiktoken's own, from the same files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
        yield get_tokenizer(request.param), tiktoken.get_encoding(REFERENCES[request.param])


@pytest.fixture(scope="module")
def stories(shared) -> str:
    return (shared / "data" / "tinystories_sample.txt").read_text(encoding="utf-8")


@functools.cache
def chapter_value(name: str):
    """A constant of chapter 02, read from its source."""
    chapter = next(chapter for chapter in CHAPTERS if chapter.module == "tokenizer")
    for node in ast.parse(chapter.source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


# --- equal to tiktoken ---


def test_hard_texts(pair, record_property):
    ours, theirs = pair
    expected = [theirs.encode(text, disallowed_special=()) for text in HARD]
    assert [ours.encode(text) for text in HARD] == expected
    assert ours.encode_batch(HARD) == expected
    assert [ours.decode(ids) for ids in expected] == HARD
    record_property("component", "tokens of texts")
    record_property("largest difference", "equal")


def test_stories(pair, stories, record_property):
    ours, theirs = pair
    expected = theirs.encode(stories, disallowed_special=())
    assert ours.encode(stories) == expected
    assert ours.decode(expected) == stories
    with_ends = ours.encode(stories, allowed_special=["<|endoftext|>"])
    assert with_ends == theirs.encode(stories, allowed_special={"<|endoftext|>"})
    assert with_ends.count(ours.eot_id) == stories.count("<|endoftext|>") > 2000
    record_property("component", "tokens of texts")
    record_property("largest difference", "equal")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.text("the CAT's 123\n\t '.🙂é<|>"))
def test_any_text(pair, text, record_property):
    record_property("component", "tokens of texts")
    record_property("largest difference", "equal")
    ours, theirs = pair
    assert ours.encode(text) == theirs.encode(text, disallowed_special=())
    assert ours.decode(ours.encode(text)) == text


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary())
def test_any_bytes_come_back(pair, data, record_property):
    record_property("component", "tokens of texts")
    record_property("largest difference", "equal")
    ours, theirs = pair
    ids = ours.encode_bytes(data)
    assert ours.decode_bytes(ids) == theirs.decode_bytes(ids) == data


def test_special_tokens(pair, record_property):
    ours, theirs = pair
    assert ours.special_tokens == theirs._special_tokens
    assert ours.vocab_size == theirs.n_vocab
    assert ours.eot_id == theirs.eot_token
    text = "".join(ours.special_tokens)
    expected = theirs.encode(text, allowed_special="all")
    assert (
        ours.encode(text, allowed_special=ours.special_tokens)
        == expected
        == list(ours.special_tokens.values())
    )
    assert not set(ours.encode(text)) & set(ours.special_tokens.values())
    record_property("component", "special tokens")
    record_property("largest difference", "equal")


def test_save_and_load(pair, tmp_path, stories, record_property):
    ours, _ = pair
    ours.save(tmp_path / "copy.json")
    copy = BPETokenizer.load(tmp_path / "copy.json")
    assert copy.special_tokens == ours.special_tokens
    assert copy.vocab_size == ours.vocab_size
    assert copy.encode_batch([*HARD, stories[:200_000]]) == ours.encode_batch([*HARD, stories[:200_000]])
    record_property("largest difference", "no comparison")


def test_the_obvious_encoder_gives_every_token(pair, record_property):
    _, theirs = pair
    ranks = theirs._mergeable_ranks
    assert all(encode_word(token, ranks) == [rank] for token, rank in ranks.items())
    record_property("component", "every token of the vocabulary")
    record_property("largest difference", "equal")


def test_r50k_base_is_the_vocabulary_of_gpt2(shared, tmp_path, monkeypatch, record_property):
    """Rebuild GPT-2's two files from the ranks; tiktoken accepts them only if their checksums are right."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    ranks = tiktoken.get_encoding("r50k_base")._mergeable_ranks
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = sorted(ranks, key=ranks.__getitem__)
    encoder = {written(token): rank for rank, token in enumerate(tokens)} | {"<|endoftext|>": 50256}
    halves = []
    for rank, token in enumerate(tokens[256:], start=256):
        older = {piece: ranks[piece] for piece in parts_of(token) if ranks.get(piece, rank) < rank}
        halves.append(" ".join(written(tokens[i]) for i in encode_word(token, older)))
    files = {
        "vocab.bpe": "\n".join(["#version: 0.2", *halves]) + "\n",
        "encoder.json": json.dumps(encoder),
    }
    for name, content in files.items():
        url = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
        (tmp_path / hashlib.sha1(url.encode()).hexdigest()).write_text(content, encoding="utf-8")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(
        "requests.get", lambda *_, **__: pytest.fail("a checksum is wrong: tiktoken asks for the file")
    )
    gpt2 = tiktoken.get_encoding("gpt2")
    assert gpt2._mergeable_ranks == ranks
    ours = get_cached(shared, monkeypatch)
    assert ours.encode_batch(HARD) == [gpt2.encode(text, disallowed_special=()) for text in HARD]
    assert ours.encode("hello world") == [31373, 995]
    record_property("component", "every token of the vocabulary")
    record_property("largest difference", "equal")


def parts_of(token: bytes) -> set[bytes]:
    return {token[i:j] for i in range(len(token)) for j in range(i + 1, len(token) + 1)}


def get_cached(shared, monkeypatch) -> BPETokenizer:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    return get_tokenizer("gpt2")


def test_the_ranks_are_those_of_the_file(shared, monkeypatch, record_property):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    lines = (shared / "tiktoken_cache" / "o200k_base.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    ours = get_tokenizer("o200k_harmony")
    assert len(ranks) == 199_998
    assert all(ours.decode_bytes([rank]) == token for token, rank in ranks.items())
    record_property("component", "every token of the vocabulary")
    record_property("largest difference", "equal")


def test_the_pattern_is_that_of_o200k(shared, monkeypatch, stories, record_property):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    theirs = tiktoken.get_encoding("o200k_harmony")._pat_str
    for text in [*HARD, stories]:
        assert regex.findall(PATTERN, text) == regex.findall(theirs, text)
    record_property("component", "words that the pattern cuts")
    record_property("largest difference", "equal")


# --- training equals Hugging Face's ---


@pytest.mark.parametrize("seed", range(4))
def test_training_equals_hugging_face(seed, stories, record_property):
    """Bytes are handed over as letters in the same order, so that ties fall the same way."""
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(seed)
    start = rng.randrange(len(stories) - 60_000)
    words = count_words([stories[start : start + 20_000 * (1 + seed % 3)]], special_tokens=["<|endoftext|>"])
    letters = [chr(0x4E00 + byte) for byte in range(256)]
    lines = [" ".join(["".join(letters[byte] for byte in word)] * count) for word, count in words.items()]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + 700, initial_alphabet=letters, show_progress=False, special_tokens=[]
    )
    theirs.train_from_iterator(lines, trainer)
    merges = [
        tuple(theirs.token_to_id(half) for half in merge)
        for merge in json.loads(theirs.to_str())["model"]["merges"]
    ]
    assert len(merges) == 700
    assert learn_merges(words, 700) == merges
    record_property("component", "training of merges")
    record_property("reference", "tokenizers")
    record_property("largest difference", "equal")


# --- the tables of the chapter ---


def test_the_chapters_table_of_vocabularies(pair, stories, record_property):
    ours, theirs = pair
    name = next(name for name, reference in REFERENCES.items() if reference == theirs.name)
    documents = second_half(stories)
    size = sum(len(text.encode()) for text in documents)
    assert chapter_value("VOCABULARIES")[name] == {
        "vocab_size": theirs.n_vocab,
        "tokens": len(theirs._mergeable_ranks),
        "end of text": theirs.eot_token,
        "stories": round(size / sum(map(len, ours.encode_batch(documents))), 2),
    }
    samples = chapter_value("SAMPLES")
    assert chapter_value("TOKENS_PER_SAMPLE")[name] == [len(ours.encode(text)) for text in samples.values()]
    pieces = [ours.decode([i]) for i in ours.encode(chapter_value("REAL_LINE"))]
    assert chapter_value("REAL_PIECES")[name] == "|".join(pieces)
    record_property("component", "numbers in chapter 02")
    record_property("largest difference", "equal")


def test_the_chapters_table_of_own_vocabularies(stories, record_property):
    documents = second_half(stories)
    first_half = stories[: len(stories) - len("<|endoftext|>".join(documents))]
    words = count_words(documents)
    size = sum(len(word) * count for word, count in words.items())
    large = BPETokenizer.train([first_half], 8192)
    tokens = [large.decode_bytes([i]) for i in range(8191)]
    measured = {}
    for vocabulary in chapter_value("STORIES_BYTES_PER_TOKEN"):
        ranks = {token: rank for rank, token in enumerate(tokens[:vocabulary])}
        total = sum(len(encode_word(word, ranks)) * count for word, count in words.items())
        measured[vocabulary] = round(size / total, 2)
    assert chapter_value("STORIES_BYTES_PER_TOKEN") == measured
    record_property("largest difference", "no comparison")


def second_half(stories: str) -> list[str]:
    return stories[stories.index("<|endoftext|>", len(stories) // 2) :].split("<|endoftext|>")


def test_the_chapters_special_tokens(shared, monkeypatch, record_property):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    specials = get_tokenizer("o200k_harmony").special_tokens
    named = {token: number for token, (number, _) in chapter_value("HARMONY_SPECIAL").items()}
    assert named.items() <= specials.items()
    others = {token for token in specials if token not in named}
    assert all("reserved" in token or token == "<|endofprompt|>" for token in others)
    record_property("component", "numbers in chapter 02")
    record_property("largest difference", "equal")
