"""Compare contenders in one run: ``python -m tests.benchmarks [CASE …]`` prints how often we are faster.

Every contender is a process of its own. They take turns, round after round, so that a machine that is
slow for a moment is slow for all of them; a ratio is the median over rounds. ``--record`` keeps the
results and writes them into the book's page.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch

from gptoss_lib.config import count_parameters
from gptoss_lib.pretraining import processor_name
from gptoss_lib.products import ONEDNN_IS_FASTER
from tests.benchmarks.contenders import NEW, SHAPES
from tests.benchmarks.page import record_results

GIGABYTES = 5.0  # what is read to learn how fast the memory is
NUMBERS_READ = count_parameters(SHAPES["C"][0]).active  # weights at work on a token


class Case(NamedTuple):
    """One comparison: how often the second contender's time (or memory) is that of the first."""

    name: str
    function: str
    ours: dict
    theirs: dict
    goal: float | None  # decided before anything was measured
    rounds: int = 7
    measure: str = "seconds"


def _training(shape: str, precision: str, compiled: bool, goal: float, who: str = "transformers") -> Case:
    arguments = {"shape": shape, "precision": precision, "compiled": compiled}
    mode = f"{precision}{', compiled' if compiled else ''}"
    name = f"training step {shape}, {mode}, against {who}"
    return Case(name, "training_step", {"who": "ours"} | arguments, {"who": who} | arguments, goal)


def _decoding(precision: str, compiled: bool, goal: float | None, against: str = "fp32") -> Case:
    ours = {"who": "ours", "precision": precision, "compiled": compiled}
    theirs = {"who": "transformers", "precision": against, "compiled": False}
    mode = f"{precision}{', compiled' if compiled else ''}"
    name = f"decoding C, 64 + 128 tokens, {mode}, against transformers in {against}"
    return Case(name, "decoding", ours, theirs, goal, rounds=25)


CASES = [
    _training("S", "fp32", False, 1.25),
    _training("S", "fp32", True, 1.4),
    _training("S", "bf16", True, 1.9),
    _training("C", "fp32", False, 1.35),
    _training("C", "fp32", True, 1.4),
    _training("C", "bf16", True, 2.1),
    _training("S", "fp32", False, 1.0, who="gpt2"),
    _training("C", "fp32", False, 1.0, who="gpt2"),
    Case(
        "whole run of 20 updates S, fp32, with validation and checkpoints, against a loop of transformers",
        "whole_run",
        {"who": "ours"},
        {"who": "transformers"},
        1.25,
        rounds=3,
    ),
    _decoding("fp32", False, 1.8),
    _decoding("fp32", True, 3.3),
    _decoding("bf16", True, 5.0),
    _decoding("bf16", True, None, against="bf16"),
    Case("prefill C, 4,096 tokens", "prefill", {"who": "ours"}, {"who": "transformers"}, 3.5, rounds=3),
    Case("window of 128 in 2,048 tokens", "attention", {"who": "fast"}, {"who": "masked"}, 12.0),
    Case(
        "peak memory of attention with sinks, 4,096 tokens, against scaled_dot_product_attention",
        "attention",
        {"who": "fast", "length": 4096, "window": None},
        {"who": "sdpa", "length": 4096, "window": None},
        1 / 1.1,
        rounds=3,
        measure="peak_megabytes",
    ),
]


class _Contender:
    def __init__(self, function: str, arguments: dict, *options: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.worker", function, json.dumps(arguments), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def work(self) -> dict:
        """Let the contender do its work once and return what it measured."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[3:]} ended before it answered; its error is above.")
        return json.loads(line)


def compare(case: Case, keep_memory: bool = False) -> dict:
    """Run one case and return its ratio, the medians, and whether both wrote the same tokens.

    Args:
        case: what is compared.
        keep_memory: both contenders keep the memory that they free (there are no goals for this).
    """
    options = [case.measure, "--keep-memory"] if keep_memory else [case.measure]
    contenders = [_Contender(case.function, arguments, *options) for arguments in (case.ours, case.theirs)]
    if case.function == "decoding":
        contenders.append(_Contender("decoding", case.ours | {"new": 1}, *options))
        contenders.append(_Contender("memory_bandwidth", {"gigabytes": GIGABYTES}, case.measure))
    for contender in contenders * 2:  # compiling, and filling memory pools
        contender.work()
    rounds = [[contender.work() for contender in contenders] for _ in range(case.rounds)]
    for contender in contenders:
        contender.close()
    values = [[answer[case.measure] for answer in answers] for answers in rounds]
    ours, theirs, *beside = zip(*values, strict=True)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    result = {
        "case": case.name + (", freed memory kept" if keep_memory else ""),
        "ratio": statistics.median(ratios),
        "goal": None if keep_memory else case.goal,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": case.measure,
    }
    if "tokens" in rounds[0][0] and case.ours["precision"] == case.theirs["precision"]:
        result["same_tokens"] = len({answer["tokens"] for answers in rounds for answer in answers[:2]}) == 1
    if beside:
        until_first, reading = beside
        gigabytes = NUMBERS_READ * bytes_a_number(case) / 1e9
        result["rounds"] = [
            {
                "ratio": ratio,
                "memory": GIGABYTES / read,
                "ours": gigabytes * (NEW - 1) / (whole - first),
            }
            for ratio, read, whole, first in zip(ratios, reading, ours, until_first, strict=True)
        ]
    return result


def bytes_a_number(case: Case) -> int:
    """Return how many bytes our weights have in a case of decoding."""
    return 2 if case.ours["precision"] == "bf16" else 4


def bandwidth_share(case: Case, rounds: list[dict]) -> dict:
    """Return which share of the memory's read bandwidth decoding reaches, after the first token."""
    return {
        "case": f"decoding C: share of the memory's read bandwidth, {8 * bytes_a_number(case)}-bit weights",
        "ratio": statistics.median(each["ours"] / each["memory"] for each in rounds),
        "goal": 0.85,
    }


def results(names: list[str], keep_memory: bool = False) -> Iterator[dict]:
    """Run the cases whose names contain one of ``names``, or all."""
    for case in CASES:
        if names and not any(name in case.name for name in names):
            continue
        result = compare(case, keep_memory)
        yield result
        if case.function == "decoding" and case.ours["compiled"] and result["goal"]:
            yield bandwidth_share(case, result["rounds"])


def machine() -> dict:
    """Return what the ratios depend on."""
    import transformers

    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onednn_products": ONEDNN_IS_FASTER,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Compare our speed and memory with those of transformers, in one run.",
    )
    parser.add_argument("case", nargs="*", help="a part of a case's name; all cases by default")
    parser.add_argument(
        "--record", action="store_true", help="keep the results for the book's page, in place of older ones"
    )
    parser.add_argument("--keep-memory", action="store_true", help="let both keep the memory that they free")
    arguments = parser.parse_args()
    here, found = machine(), {}
    print(json.dumps(here), flush=True)
    for record in results(arguments.case, arguments.keep_memory):
        found[record["case"]] = record
        print(f"{record['ratio']:6.2f}  (goal {record['goal']})  {record['case']}", flush=True)
    if arguments.record:
        record_results(here, found)


if __name__ == "__main__":
    main()
