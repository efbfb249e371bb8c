"""Every sampler equals transformers' processor, on full tensors, and greedy text equals theirs."""

import math

import pytest
import torch

from gptoss_lib.generation import (
    apply_temperature,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    warp,
)
from gptoss_lib.gpt2 import GPT2, GPT2Config, from_huggingface

transformers = pytest.importorskip("transformers")


def rows(count, size, seed=0, scale=3.0):
    return scale * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


NONE = torch.zeros(1, 1, dtype=torch.long)  # processors take the tokens so far, which most ignore


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 3.5])
def test_temperature(temperature, record_property):
    logits = rows(5, 1013)
    theirs = transformers.TemperatureLogitsWarper(temperature)(NONE, logits)
    assert torch.equal(apply_temperature(logits, temperature), theirs)
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("k", [1, 3, 50, 1013, 5000])
def test_top_k(k, record_property):
    logits = rows(9, 1013, seed=1)
    assert torch.equal(keep_top_k(logits, k), transformers.TopKLogitsWarper(k)(NONE, logits))
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("k", [1, 2, 7, 31])
def test_top_k_with_ties(k, record_property):
    logits = rows(200, 31, seed=2).round()
    assert torch.equal(keep_top_k(logits, k), transformers.TopKLogitsWarper(k)(NONE, logits))
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("scale", [0.3, 3.0, 12.0])
def test_top_p(p, scale, record_property):
    logits = rows(40, 1013, seed=3, scale=scale)
    assert torch.equal(keep_top_p(logits, p), transformers.TopPLogitsWarper(p)(NONE, logits))
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("p", [0.2, 0.55, 0.83, 1.0])
def test_top_p_with_ties(p, record_property):
    """They keep some of the tokens that tie for the last place, we keep all of them; else equal."""
    logits = rows(200, 31, seed=4).round()
    ours, theirs = keep_top_p(logits, p), transformers.TopPLogitsWarper(p)(NONE, logits)
    extra = torch.isfinite(ours) & ~torch.isfinite(theirs)
    assert not (torch.isfinite(theirs) & ~torch.isfinite(ours)).any()
    assert p == 1 or extra.any(), "the test is only worth something if there are such ties"
    border = theirs.masked_fill(theirs.isinf(), math.inf).amin(-1, keepdim=True)
    assert (logits[extra] == border.expand_as(logits)[extra]).all()
    assert torch.equal(ours.masked_fill(extra, -math.inf), theirs)
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("p", [0.0, 0.001, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_min_p(p, tied, record_property):
    logits = rows(200, 31, seed=5)
    logits = logits.round() if tied else logits
    assert torch.equal(keep_min_p(logits, p), transformers.MinPLogitsWarper(p)(NONE, logits))
    record_property("component", "samplers")
    record_property("largest difference", "equal")


@pytest.mark.parametrize("penalty", [0.4, 1.0, 1.2, 5.0])
def test_repetition_penalty(penalty, record_property):
    logits = rows(7, 101, seed=6)
    logits[:, 3] = 0.0
    previous = torch.randint(101, (7, 60), generator=torch.Generator().manual_seed(6))
    previous[:, 0] = 3
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(previous, logits.clone())
    assert torch.equal(penalize_repetition(logits, previous, penalty), theirs)
    record_property("component", "samplers")
    record_property("largest difference", "equal")


def test_the_whole_chain_in_generate_order(record_property):
    logits = rows(50, 211, seed=7)
    previous = torch.randint(211, (50, 30), generator=torch.Generator().manual_seed(7))
    config = transformers.GenerationConfig(
        do_sample=True, temperature=1.6, top_k=40, top_p=0.8, min_p=0.05, repetition_penalty=1.3
    )
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=211, n_positions=8, n_embd=12, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )
    processors = model._get_logits_processor(generation_config=config, input_ids_seq_length=30, device="cpu")
    assert len(processors) == 5
    ours = warp(logits, previous, temperature=1.6, top_k=40, top_p=0.8, min_p=0.05, repetition_penalty=1.3)
    theirs = processors(previous, logits)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-6)
    kept = theirs.isfinite()
    record_property("component", "all samplers in a chain")
    record_property("tolerance", 1e-6)
    record_property("largest difference", (ours[kept] / theirs[kept] - 1).abs().max().item())


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_text_equals_theirs(penalty, record_property):
    sizes = {"vocab_size": 59, "n_positions": 40, "n_embd": 42, "n_layer": 2, "n_head": 7}
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, initializer_range=0.3, bos_token_id=57, eos_token_id=58)
    ).eval()
    config = GPT2Config(**sizes)
    ours = GPT2(config)
    ours.load_state_dict(from_huggingface(reference.state_dict(), config))
    ids = torch.randint(57, (6, 5), generator=torch.Generator().manual_seed(8))
    theirs = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=35,
        do_sample=False,
        repetition_penalty=penalty,
        eos_token_id=[58, 3],
        pad_token_id=58,
    )
    mine = generate(ours, ids, 35, temperature=0, repetition_penalty=penalty, eos_id=[58, 3])
    assert mine.shape == theirs.shape
    for row in range(6):
        ends = [i for i, token in enumerate(theirs[row, 5:].tolist()) if token in (58, 3)]
        stop = 5 + ends[0] + 1 if ends else theirs.shape[1]
        assert mine[row, :stop].tolist() == theirs[row, :stop].tolist()
    record_property("component", "greedy text")
    record_property("largest difference", "equal")
