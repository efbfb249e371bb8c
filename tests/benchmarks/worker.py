"""One contender in a process of its own: prepares itself, then does its work once for every line it reads."""

import hashlib
import json
import sys
import time
from itertools import accumulate

from torch.profiler import profile

from gptoss_lib.settings import keep_memory
from tests.benchmarks.contenders import CONTENDERS


def peak_megabytes(work) -> float:
    """Return the most that PyTorch's tensors took at once, beyond those that were there before."""
    with profile(profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 1e6


def main() -> None:
    name, arguments, measure = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    if "--keep-memory" in sys.argv:
        keep_memory(large_pages=name == "decoding")
    work = CONTENDERS[name](**arguments)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        if measure == "peak_megabytes":
            answer = {measure: peak_megabytes(work)}
        else:
            begin = time.perf_counter()
            result = work()
            answer = {measure: time.perf_counter() - begin}
            if isinstance(result, list):
                answer["tokens"] = hashlib.sha256(json.dumps(result).encode()).hexdigest()[:8]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
