"""Byte-level BPE: training, both encoders, special tokens, files, and what each says when it goes wrong."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gptoss_lib.tokenizer as module
from gptoss_lib.tokenizer import (
    PATTERN,
    BPETokenizer,
    count_pairs,
    count_words,
    encode_word,
    get_tokenizer,
    learn_merges,
    learn_merges_slowly,
    merge_pair,
    token_bytes,
)

TEXTS = [
    "A mouse can help a lion. \"You laughed,\" said the mouse, don't they?\n\n  DON'T! 12345 + 67\n",
    "naïve café, un élève; 一只小猫在阳光下睡觉。 кошка спит 🙂👩‍👩‍👧 e\u0301\t\t x\r\n",
    "the the the cat and the hat and the bat sat at the end of the end",
]
SPECIALS = ("<|endoftext|>", "<|start|>", "<|end|>")


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 331, SPECIALS)


def random_words(seed: int) -> dict[bytes, int]:
    """Words of few letters, so that overlaps and ties are everywhere."""
    rng = random.Random(seed)
    letters = b"ab" if seed % 3 == 0 else b"abcde"
    return {
        bytes(rng.choices(letters, k=rng.randint(1, 9))): rng.randint(1, 4) for _ in range(rng.randint(1, 30))
    }


# --- training ---


def test_pairs_overlap_when_counted_and_not_when_merged():
    assert count_pairs({(1, 1, 1): 3, (2, 1): 5}) == {(1, 1): 6, (2, 1): 5}
    assert merge_pair((1, 1, 1), (1, 1), 7) == (7, 1)
    assert merge_pair((1, 2, 1, 2, 2), (1, 2), 7) == (7, 7, 2)


def test_a_tie_goes_to_the_smaller_ids():
    assert learn_merges({b"zy": 2, b"bc": 2, b"bd": 2}, 2) == [(98, 99), (98, 100)]


@pytest.mark.parametrize("seed", range(60))
def test_fast_training_equals_the_obvious_one(seed):
    words = random_words(seed)
    merges = learn_merges(words, 200)  # more than there are: until nothing is left
    assert merges == learn_merges_slowly(words, 200)
    assert all(len(encode_word(word, ranks_of(merges))) == 1 for word in words)
    shuffled = dict(random.Random(seed).sample(sorted(words.items()), len(words)))
    assert learn_merges(shuffled, 200) == merges, "the order of the words must not matter"
    assert learn_merges(words, 5) == merges[:5], "fewer merges are the beginning of more"
    tokens = token_bytes(merges)
    assert len(set(tokens)) == len(tokens), "no two merges make the same bytes"


def ranks_of(merges):
    return {token: rank for rank, token in enumerate(token_bytes(merges))}


def test_two_megabytes_to_4096_tokens_in_under_30_seconds(shared):
    text = (shared / "data" / "tinystories_sample.txt").read_text(encoding="utf-8")
    started = time.process_time()
    tokenizer = BPETokenizer.train([text], 4096)
    assert time.process_time() - started < 30
    assert tokenizer.vocab_size == 4096
    assert b"<|" not in {tokenizer.decode_bytes([i])[:2] for i in range(4095)}, "learned from a special token"
    sample = text[:100_000]
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
    words = count_words([text], special_tokens=["<|endoftext|>"])
    slow = learn_merges_slowly(words, 12)
    assert learn_merges(words, 12) == slow


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer):
    assert tokenizer.vocab_size == 331
    assert [tokenizer.decode_bytes([i]) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.special_tokens == {"<|endoftext|>": 328, "<|start|>": 329, "<|end|>": 330}
    assert tokenizer.eot_id == 328
    assert "331" in repr(tokenizer)


def test_words_are_cut_before_they_are_counted():
    assert count_words(["a dog, a dog"]) == {b"a": 1, b" dog": 2, b",": 1, b" a": 1}
    merges = learn_merges(count_words(TEXTS), 80)
    assert not any(b"." in token[:-1] or b" " in token.lstrip() for token in token_bytes(merges)[256:])


def test_the_pattern_cuts_as_o200k_does():
    line = "In 2024 we DON'T mind:\n    x += 12345  # naïve"
    pieces = ["In", " ", "202", "4", " we", " DON'T", " mind", ":\n", "   ", " x", " +=", " ", "123", "45"]
    assert regex.findall(PATTERN, line) == [*pieces, " ", " #", " naïve"]


def test_special_tokens_are_not_learned_from():
    text = "<|endoftext|>" * 50 + "ab"
    assert count_words([text], special_tokens=SPECIALS) == {b"ab": 1}
    assert sum(count_words([text]).values()) > 50


def test_only_bytes_and_special_tokens():
    smallest = BPETokenizer.train([], 256 + len(SPECIALS), SPECIALS)
    assert smallest.encode("é") == [0xC3, 0xA9]
    assert BPETokenizer.train([], 256, ()).encode("é 猫", ()) == list("é 猫".encode())


@pytest.mark.parametrize("texts", [[], [""], iter(["", ""])])
def test_no_text_is_an_error(texts):
    with pytest.raises(ValueError, match="no text"):
        BPETokenizer.train(texts, 300)


@pytest.mark.parametrize("vocab_size", [0, 256, 258])
def test_too_small_a_vocabulary_is_an_error(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size is {vocab_size}.*at least 259"):
        BPETokenizer.train(TEXTS, vocab_size, SPECIALS)


def test_fewer_merges_than_asked_is_a_warning():
    with pytest.warns(UserWarning, match=r"only 3 pairs.*260 tokens, not 400") as caught:
        small = BPETokenizer.train(["abcd"], 400)
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert small.vocab_size == 260
    assert small.eot_id == 259
    assert small.encode("abcd") == [258]


@pytest.mark.parametrize("arguments", [("text", 300), (["text"], 300, "<|endoftext|>")])
def test_a_single_string_is_not_a_list(arguments):
    with pytest.raises(ValueError, match="in a list"):
        BPETokenizer.train(*arguments)


@pytest.mark.parametrize("specials", [("<|a|>", "<|a|>"), ("",)])
def test_special_tokens_differ_and_are_not_empty(specials):
    with pytest.raises(ValueError, match="special_tokens"):
        BPETokenizer.train(TEXTS, 300, specials)


def test_a_pattern_that_drops_text_is_an_error():
    with pytest.raises(ValueError, match="leaves out"):
        BPETokenizer.train(["two words"], 300, pattern=r"\w+")


def test_another_pattern_is_used_for_training_and_encoding():
    lines = BPETokenizer.train(["ab cd", "ab cd", "ab"], 260, (), pattern=r"[\s\S]+")
    assert b"ab cd" in {lines.decode_bytes([i]) for i in range(lines.vocab_size)}
    assert len(lines.encode("ab cd")) == 1


# --- encoding and decoding ---


def obvious(tokenizer: BPETokenizer, text: str) -> list[int]:
    ordinary = tokenizer.vocab_size - len(tokenizer.special_tokens)
    ranks = {tokenizer.decode_bytes([i]): i for i in range(ordinary)}
    return [i for piece in regex.findall(PATTERN, text) for i in encode_word(piece.encode(), ranks)]


# Characters that Python's tables know: newer ones may be cut differently by two regular-expression engines.
KNOWN = st.characters(exclude_categories=("Cs", "Cn"))


@settings(deadline=None, max_examples=150)
@given(text=st.text(KNOWN) | st.text("the catndb '\n1.🙂é") | st.text("<|>endoftextstart"))
def test_tiktoken_equals_the_obvious_encoder(tokenizer, text):
    assert tokenizer.encode(text) == obvious(tokenizer, text)


def test_lowest_rank_comes_before_the_longest_token():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"cd": 258}
    assert encode_word(b"abcd", ranks) == [97, 256, 100]
    assert encode_word(b"", ranks) == []
    sparse = {bytes([byte]): byte for byte in range(256)} | {b"ab": 9000, b"cd": 8000, b"abcd": 9001}
    assert encode_word(b"abcdx", sparse) == [9001, 120]


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary()
    | st.text().map(str.encode)
    | st.lists(st.sampled_from([b"\xff", b"\xf0\x9f", b"the", b"\xc3", b"\xa9"])).map(b"".join)
)
def test_every_byte_sequence_comes_back(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    assert all(0 <= i < 328 for i in ids), "bytes never make a special token"


@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_bytes(text.encode()) == ids


@settings(deadline=None)
@given(text=st.text(st.characters()), bad=st.characters(categories=["Cs"]))
def test_half_a_surrogate_pair_is_an_error(tokenizer, text, bad):
    for call in (
        tokenizer.encode,
        lambda t: tokenizer.encode_batch([t]),
        lambda t: BPETokenizer.train([t], 300),
    ):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            call(text.replace("<", "") + bad)


def test_an_endless_run_of_spaces_is_explained(tokenizer):
    text = "a" + " " * 1_100_000 + "b"
    for call in (tokenizer.encode, lambda t: tokenizer.encode_batch([t])):
        with pytest.raises(ValueError, match="split the text there"):
            call(text)
    halves = text[:550_000], text[550_000:]
    assert "".join(tokenizer.decode(tokenizer.encode(half)) for half in halves) == text


def test_a_batch_equals_one_by_one(tokenizer):
    assert tokenizer.encode_batch(iter(TEXTS)) == [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode_batch(["<|end|>"]) == [tokenizer.encode("<|end|>")]


@pytest.mark.parametrize("kind", [list, tuple, iter, torch.tensor, lambda ids: torch.tensor(ids).numpy()])
def test_ids_come_in_many_forms(tokenizer, kind):
    assert tokenizer.decode(kind(tokenizer.encode(TEXTS[1]))) == TEXTS[1]


@pytest.mark.parametrize("ids", [[331], [-1], [2**40], [1.5], [[1, 2]], ["a"]])
def test_an_unknown_id_is_an_error(tokenizer, ids):
    with pytest.raises(ValueError, match="from 0 to 330"):
        tokenizer.decode(ids)


def test_a_cut_character_becomes_the_replacement_sign(tokenizer):
    assert tokenizer.decode(list("猫".encode()[:2])) == "\ufffd"


# --- special tokens ---


def test_special_tokens_in_text_are_text(tokenizer):
    text = "hi<|end|><|start|>system"
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text


def test_only_the_special_tokens_asked_for_are_recognised(tokenizer):
    ids = tokenizer.encode("hi<|end|><|start|>you", allowed_special=["<|end|>"])
    assert [i for i in ids if i >= 328] == [330]
    assert tokenizer.encode("<|end|>", allowed_special=SPECIALS) == [330]
    assert tokenizer.decode_bytes([330, 329]) == b"<|end|><|start|>"


@pytest.mark.parametrize("allowed", [["<|other|>"], "all", ["<|end|>", "x"]])
def test_an_unknown_special_token_is_an_error(tokenizer, allowed):
    with pytest.raises(ValueError, match="allowed_special"):
        tokenizer.encode("text", allowed_special=allowed)


def test_no_end_of_text_is_an_error():
    with pytest.raises(ValueError, match=r"no <\|endoftext\|>"):
        _ = BPETokenizer.train([], 256, ()).eot_id


# --- files ---


@pytest.fixture
def saved(tokenizer, tmp_path):
    path = tmp_path / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    return path


def test_a_saved_tokenizer_is_the_same(tokenizer, saved):
    again = BPETokenizer.load(saved)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (again.special_tokens, again.vocab_size) == (tokenizer.special_tokens, 331)
    assert again.decode_bytes(range(331)) == tokenizer.decode_bytes(range(331))
    assert get_tokenizer(str(saved)).encode(TEXTS[0]) == get_tokenizer(saved).encode(TEXTS[0])
    before = saved.read_bytes()
    again.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["tokenizer.json"]


def test_the_pattern_is_saved_too(tmp_path):
    digits = BPETokenizer.train(["1234 1234"], 259, (), pattern=r"\d+|\D+")
    digits.save(tmp_path / "digits.json")
    assert BPETokenizer.load(tmp_path / "digits.json").encode("1234") == digits.encode("1234")
    assert len(digits.encode("1234")) == 1


def test_a_write_that_fails_leaves_the_old_file(tokenizer, saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(module.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        BPETokenizer.train([], 257).save(saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("length", [0, 1, 100, 2000, -3])
def test_a_truncated_file_is_an_error(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated or not JSON"):
        BPETokenizer.load(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": {"type": "BPE"}}', '"text"', "3"])
def test_a_foreign_file_is_an_error(saved, content):
    saved.write_text(content)
    with pytest.raises(ValueError, match=r"is not a file that BPETokenizer.save wrote"):
        BPETokenizer.load(saved)


def test_a_binary_file_is_an_error(saved):
    saved.write_bytes(b"\x80\xff\x00")
    with pytest.raises(ValueError, match="not JSON"):
        BPETokenizer.load(saved)


DAMAGE = {
    "no pattern": lambda c: c.pop("pattern"),
    "no tokens": lambda c: c.pop("tokens"),
    "broken pattern": lambda c: c.update(pattern="(["),
    "pattern is a number": lambda c: c.update(pattern=3),
    "a token twice": lambda c: c["tokens"].__setitem__(-1, c["tokens"][-2]),
    "a byte is missing": lambda c: c["tokens"].pop(97),
    "a token beyond a byte": lambda c: c["tokens"].append("猫"),
    "a token is a number": lambda c: c["tokens"].append(7),
    "special tokens are a list": lambda c: c.update(special_tokens=["<|end|>"]),
    "a special id is taken": lambda c: c["special_tokens"].update({"<|end|>": 300}),
    "a special id is a word": lambda c: c["special_tokens"].update({"<|end|>": "last"}),
    "a special id is missing": lambda c: c["special_tokens"].update({"<|end|>": None}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_an_error(saved, what):
    content = json.loads(saved.read_text())
    DAMAGE[what](content)
    saved.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged"):
        BPETokenizer.load(saved)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no tokenizer file"):
        BPETokenizer.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="neither a saved tokenizer nor one of o200k_harmony"):
        get_tokenizer("gpt5")


# --- published vocabularies without their files ---

OFFLINE = """
import time
from gptoss_lib.tokenizer import get_tokenizer
started = time.monotonic()
try:
    get_tokenizer({name!r})
except FileNotFoundError as error:
    print(error)
print(time.monotonic() - started)
"""


@pytest.mark.parametrize("name", ["o200k_harmony", "cl100k_base", "gpt2"])
def test_a_missing_vocabulary_says_where_to_get_it(name, tmp_path):
    # A proxy that refuses connections stands for a closed network, wherever the test runs.
    closed = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    environment = os.environ | closed | {"TIKTOKEN_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    message, seconds = run.stdout.splitlines()
    assert "https://openaipublic.blob.core.windows.net/encodings/" in message
    assert "TIKTOKEN_CACHE_DIR" in message
    assert message.count(". ") == 0, "one sentence"
    assert float(seconds) < 20
    assert not list(tmp_path.iterdir())


def test_a_silent_network_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match="could not be downloaded"):
            get_tokenizer("o200k_harmony")
        assert time.monotonic() - started < 30


def test_a_wrong_download_is_not_kept(tmp_path, monkeypatch):
    import requests

    class LoginPage:
        content = b"<html>Please log in</html>"

        def raise_for_status(self):
            pass

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "get", lambda url, timeout: LoginPage())
    with pytest.raises(ValueError, match=r"is not cl100k_base\.tiktoken as published"):
        get_tokenizer("cl100k_base")
    assert not list(tmp_path.iterdir())


def test_a_damaged_vocabulary_is_named_and_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790"
    path.write_bytes(b"IQ== 0\n")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"is not o200k_base\.tiktoken as published"):
        get_tokenizer("o200k_harmony")
    assert path.exists()


# --- what the class relies on ---


def test_neighbouring_tokens_are_never_left_unjoined(tokenizer):
    ranks = tokenizer._encoding._mergeable_ranks
    for piece in regex.findall(PATTERN, TEXTS[0]):
        parts = [tokenizer.decode_bytes([i]) for i in tokenizer.encode(piece)]
        assert not any(left + right in ranks for left, right in pairwise(parts))


def test_wraps_any_tiktoken_encoding():
    encoding = tiktoken.Encoding(
        "reversed",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([255 - i]): i for i in range(256)},
        special_tokens={},
    )
    assert BPETokenizer(encoding).encode_bytes(b"\xff\xfe a") == [0, 1, 223, 158]
