"""Masks from positions, grouped heads without copies, documents and padding."""

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib.masks import (
    attention_mask,
    causal_mask,
    document_ids,
    document_mask,
    grouped_attention,
    grouped_mix,
    grouped_scores,
    hide,
    padded_positions,
    repeat_kv,
    sliding_mask,
)

B, H, KV, T, S, hd = 2, 6, 3, 5, 7, 8


def heads(count, length, seed):
    return torch.randn(B, count, length, hd, generator=torch.Generator().manual_seed(seed))


def test_neighbours_share_a_key_head():
    key = heads(KV, S, 0)
    repeated = repeat_kv(key, H // KV)
    assert repeated.shape == (B, H, S, hd)
    for head in range(H):
        assert torch.equal(repeated[:, head], key[:, head // 2])


def test_grouped_products_equal_those_with_copies():
    query, key, value = heads(H, T, 1), heads(KV, S, 2), heads(KV, S, 3)
    scores = grouped_scores(query, key)
    expected = query @ repeat_kv(key, 2).transpose(-2, -1) / hd**0.5
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-6)
    weights = torch.rand(B, H, T, S, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        grouped_mix(weights, value), weights @ repeat_kv(value, 2), atol=1e-6, rtol=1e-6
    )


def test_grouped_products_take_views_of_any_layout():
    query, key = heads(H, T, 1), heads(KV, S, 2)
    strided = query.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(grouped_scores(strided, key), grouped_scores(query, key))


def test_uneven_groups_are_refused():
    with pytest.raises(ValueError, match="5 query heads cannot share 3"):
        grouped_scores(heads(5, T, 0), heads(KV, S, 0))


def test_causal_mask_compares_positions():
    for length in (1, 4, 9):
        line = torch.arange(length)
        assert torch.equal(causal_mask(line, line), torch.ones(length, length).tril().bool())
    order = torch.tensor([3, 0, -1, 7, 5])
    mask = causal_mask(torch.tensor([4, 5]), order)
    assert mask.tolist() == [[True, True, False, False, False], [True, True, False, False, True]]


@pytest.mark.parametrize("window", [1, 2, 3, 128])
def test_a_window_is_exactly_that_many_keys(window):
    length = 2 * window + 3
    line = torch.arange(length)
    mask = sliding_mask(line, line, window)
    assert mask.sum(-1).tolist() == [min(i + 1, window) for i in range(length)]
    assert mask.diagonal().all()
    assert mask[-1].nonzero().min() == length - window


def test_sliding_mask_as_the_reference_builds_it():
    # gpt_oss/torch/model.py adds two triangles of minus infinity.
    length, window = 300, 128
    hidden = torch.ones(length, length).triu(1) + torch.ones(length, length).tril(-window)
    assert torch.equal(sliding_mask(torch.arange(length), torch.arange(length), window), hidden == 0)


def test_rows_of_a_cached_mask_are_the_last_rows_of_the_whole():
    line = torch.arange(13)
    for window in (None, 4):
        whole = attention_mask(line, line, window)
        assert torch.equal(attention_mask(line[9:], line, window), whole[9:])
        shuffled = torch.randperm(13, generator=torch.Generator().manual_seed(0))
        assert torch.equal(attention_mask(line[9:], shuffled, window), whole[9:][:, shuffled])


def test_positions_of_each_text():
    queries, keys = torch.tensor([[7], [2]]), torch.tensor([[5, 6, 7], [0, 1, 2]])
    mask = sliding_mask(queries, keys, 2)
    assert mask.shape == (2, 1, 3)
    assert mask.tolist() == [[[False, True, True]], [[False, True, True]]]
    assert sliding_mask(torch.tensor([7]), keys, 2).tolist() == [[[False, True, True]], [[False] * 3]]


@pytest.mark.parametrize("window", [0, -3])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match=f"window is {window}"):
        sliding_mask(torch.arange(3), torch.arange(3), window)


def test_documents():
    ids = torch.tensor([[5, 0, 7, 8, 0, 0, 3], [0, 1, 2, 3, 4, 5, 6]])
    documents = document_ids(ids, eot_id=0)
    assert documents.tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]
    line = torch.arange(7)
    mask = attention_mask(line, line, None, documents, documents)
    assert mask.shape == (2, 7, 7)
    for row, numbers in enumerate(documents.tolist()):
        for q in range(7):
            for k in range(7):
                assert mask[row, q, k] == (k <= q and numbers[q] == numbers[k])
    assert torch.equal(mask, document_mask(documents, documents) & causal_mask(line, line))
    narrow = attention_mask(line, line, 2, documents, documents)
    assert torch.equal(narrow, mask & sliding_mask(line, line, 2))
    with pytest.raises(ValueError, match="Only one of"):
        attention_mask(line, line, None, documents)


def test_padding():
    positions = padded_positions(torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]]))
    assert positions.tolist() == [[0, 1, 2, 3], [-1, -1, 0, 1], [0, 1, -1, -1]]
    mask = attention_mask(positions, positions, 3)
    assert not mask[1, :2].any() and not mask[1, :, :2].any()
    assert mask[1, 2:, 2:].tolist() == [[True, False], [True, True]]
    assert not mask[2, 2:].any()


@pytest.mark.parametrize("kv", [1, 3, 6])
def test_grouped_attention_is_pytorchs(kv):
    query, key, value = heads(H, 9, 1), heads(kv, 9, 2), heads(kv, 9, 3)
    mask = sliding_mask(torch.arange(9), torch.arange(9), 4)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(grouped_attention(query, key, value, mask), theirs, atol=1e-5, rtol=1e-5)


def test_a_query_that_sees_nothing_stays_finite():
    query, key, value = (heads(count, 4, seed).requires_grad_() for count, seed in ((H, 1), (KV, 2), (KV, 3)))
    positions = padded_positions(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
    out = grouped_attention(query, key, value, causal_mask(positions, positions))
    out.sum().backward()
    for tensor in (out, query.grad, key.grad, value.grad):
        assert tensor.isfinite().all()
    weights = hide(torch.zeros(1, 1, 2, 3), torch.tensor([[True, False, True], [True, True, True]])).softmax(
        -1
    )
    assert weights[0, 0, 0].tolist() == [0.5, 0.0, 0.5], "hidden keys get exactly nothing"
