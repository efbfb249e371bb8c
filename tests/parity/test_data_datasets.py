"""Our readers against the ``datasets`` library, our token files against tiktoken."""

import json

import numpy as np
import pytest
import tiktoken

from gptoss_lib.data import END_OF_TEXT, FileSource, TinyStoriesSource, in_validation, prepare
from gptoss_lib.tokenizer import get_tokenizer

datasets = pytest.importorskip("datasets")

STORIES = 400


@pytest.fixture
def sample(shared, tmp_path, monkeypatch):
    """The first stories of the TinyStories sample, and caches that stay in the test's folder."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    text = (shared / "data" / "tinystories_sample.txt").read_text(encoding="utf-8")
    return [part.strip() for part in text.split(END_OF_TEXT)[:STORIES]]


@pytest.mark.parametrize("kind", ["json", "parquet", "text"])
def test_readers_give_the_documents_that_datasets_gives(tmp_path, sample, kind, record_property):
    path = tmp_path / {"json": "a.jsonl", "parquet": "a.parquet", "text": "a.txt"}[kind]
    options = {}
    if kind == "json":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sample), encoding="utf-8")
    elif kind == "parquet":
        datasets.Dataset.from_dict({"text": sample}).to_parquet(path)
    else:
        path.write_text(sample[0], encoding="utf-8")
        options = {"sample_by": "document"}
    theirs = datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    assert list(FileSource(path)) == list(theirs["text"])
    record_property("component", "documents")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("streaming", [False, True])
def test_tinystories_source_is_load_dataset(tmp_path, sample, streaming, record_property):
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict({"text": sample}).to_parquet(tmp_path / "hub" / "train.parquet")
    theirs = datasets.load_dataset(str(tmp_path / "hub"), split="train", streaming=streaming)
    assert list(TinyStoriesSource(path=tmp_path / "hub", streaming=streaming)) == [
        row["text"] for row in theirs
    ]
    record_property("component", "documents")
    record_property("largest difference", "equal")


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", np.uint16), ("cl100k_base", np.uint32)])
def test_token_files_are_tiktokens_tokens(tmp_path, sample, name, dtype, record_property):
    prepared = prepare(sample, get_tokenizer(name), tmp_path / name, val_fraction=0.2)
    encoding = tiktoken.get_encoding("r50k_base" if name == "gpt2" else name)  # the same tokens
    for split, held_out in (("train", False), ("val", True)):
        expected = []
        for text in sample:
            if in_validation(text, 0.2) == held_out:
                expected += [*encoding.encode_ordinary(text), encoding.eot_token]
        stream = getattr(prepared, split)
        assert stream.dtype == dtype
        assert stream.tolist() == expected
    record_property("component", "token files")
    record_property("reference", "tiktoken")
    record_property("largest difference", "equal")
