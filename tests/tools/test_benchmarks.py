"""The benchmarks' machinery: turns, ratios, a contender that fails, and the page of what was recorded."""

import pytest

pytest.importorskip("transformers")
from tests.benchmarks.__main__ import CASES, Case, compare
from tests.benchmarks.contenders import CONTENDERS, SHAPES, _gpt2
from tests.benchmarks.page import PAGE, page_with, read_results, table


def test_a_ratio_is_theirs_by_ours():
    case = Case("read", "memory_bandwidth", {"gigabytes": 0.002}, {"gigabytes": 0.2}, goal=2.0, rounds=3)
    result = compare(case)
    assert result["ratio"] > 5, "reading a hundred times as much takes longer"
    assert result["ours"] < result["theirs"] and result["unit"] == "seconds"


def test_a_contender_that_fails_ends_the_run():
    case = Case("wrong", "memory_bandwidth", {"gigabytes": -1}, {"gigabytes": 0.01}, goal=1.0)
    with pytest.raises(RuntimeError, match="ended before it answered"):
        compare(case)


def test_every_case_has_a_contender_and_a_name_of_its_own():
    assert {case.function for case in CASES} <= set(CONTENDERS)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpt2_has_as_many_weights_at_work(shape):
    config, _, length = SHAPES[shape]
    gpt2 = _gpt2(config, length)
    weights = sum(p.numel() for n, p in gpt2.h[0].named_parameters() if p.ndim == 2)
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    ours = config.hidden_size * (
        heads * config.head_dim + 3 * config.intermediate_size * config.num_experts_per_tok
    )
    assert abs(weights / ours - 1) < 0.01


def test_the_page_shows_the_recorded_results():
    records = read_results()
    assert PAGE.read_text(encoding="utf-8") == page_with(records)
    assert {case.name for case in CASES} <= {record["case"] for record in records[1:]}


def test_a_missed_goal_is_said():
    machine = {"threads": 2, "processor": "chip", "torch": "2", "transformers": "5", "onednn_products": False}
    result = {"case": "x", "ratio": 0.5, "goal": 1.0, "ours": 0.2, "theirs": 0.1, "unit": "seconds"}
    text = table([machine, result | {"same_tokens": True}, {"case": "y", "ratio": 0.9, "goal": 0.85}])
    assert "| x; same tokens | 200&nbsp;ms | 100&nbsp;ms | 0.50 | 1.00, not reached |" in text
    assert "| y |  |  | 0.90 | 0.85 |" in text


def test_decoding_is_shown_by_the_speed_of_the_memory():
    machine = {"threads": 2, "processor": "chip", "torch": "2", "transformers": "5", "onednn_products": False}
    rounds = [
        {"memory": memory, "ratio": ratio} for memory, ratio in [(40, 2.0), (80, 4.0), (70, 3.0), (90, 5.0)]
    ]
    result = {"case": "x", "ratio": 3.5, "goal": None}
    assert "| x | 1 | 2.00 | 3 | 4.00 |" in table([machine, result | {"rounds": rounds}])
    assert "| x | 0 |  | 1 | 4.00 |" in table([machine, result | {"rounds": rounds[1:2]}])
    assert "gigabytes a second" not in table([machine, result])
