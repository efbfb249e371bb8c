"""The recorded results as a table in the book's page."""

import json
import statistics
from pathlib import Path

FAST = 60  # gigabytes a second: the machine of the results has two states, one on either side
RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).resolve().parents[2] / "book" / "benchmarks.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"


def table(records: list[dict]) -> str:
    """Return the machine and the results, the first of which describes it, as Markdown."""
    machine, *results = records
    products = "oneDNN" if machine["onednn_products"] else "PyTorch's default library"
    lines = [
        f"Measured on {machine['threads']} cores of an {machine['processor']}, with torch "
        f"{machine['torch']} and transformers {machine['transformers']}; our 32-bit products came from "
        f"{products}.",
        "",
        "| What | Ours | Theirs | Ratio | Goal |",
        "|---|--:|--:|--:|---|",
    ]
    for result in results:
        ours, theirs = (_amount(result.get(side), result.get("unit")) for side in ("ours", "theirs"))
        same = {True: "; same tokens", False: "; other tokens", None: ""}[result.get("same_tokens")]
        goal = "" if result["goal"] is None else f"{result['goal']:.2f}"
        if goal and result["ratio"] < result["goal"]:
            goal += ", not reached"
        lines.append(f"| {result['case']}{same} | {ours} | {theirs} | {result['ratio']:.2f} | {goal} |")
    return "\n".join([*lines, *_by_memory(results)]) + "\n"


def _by_memory(results: list[dict]) -> list[str]:
    """Return the lines of a second table: decoding in rounds in which the memory was slow, and fast."""
    lines = [
        "",
        "Decoding again, by how many gigabytes a second the memory delivered in a round:",
        "",
        f"| What | Below {FAST} GB/s: rounds | Ratio | {FAST} GB/s and more: rounds | Ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    for result in results:
        if "rounds" in result:
            ratios = [[], []]
            for each in result["rounds"]:
                ratios[each["memory"] >= FAST].append(each["ratio"])
            cells = (f"{len(some)} | {statistics.median(some):.2f}" if some else "0 | " for some in ratios)
            lines.append(f"| {result['case']} | {' | '.join(cells)} |")
    return lines if len(lines) > 5 else []


def _amount(value: float | None, unit: str | None) -> str:
    if value is None:
        return ""
    return f"{1000 * value:,.0f}&nbsp;ms" if unit == "seconds" else f"{value:,.0f}&nbsp;MB"


def page_with(records: list[dict]) -> str:
    """Return the page with these results in it."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + table(records) + END + rest.split(END)[1]


def read_results() -> list[dict]:
    """Return the recorded results, the machine first."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def record_results(machine: dict, found: dict[str, dict]) -> None:
    """Keep results by the names of their cases, and write the page.

    Older results of other cases stay, unless they come from another machine.
    """
    old = read_results() if RESULTS.exists() else [machine]
    kept = {record["case"]: record for record in old[1:]} if old[0] == machine else {}
    records = [machine, *(kept | found).values()]
    RESULTS.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    PAGE.write_text(page_with(records), encoding="utf-8")
