"""One contender in a process of its own: prepares itself, then does its work once for every line it reads."""

import hashlib
import json
import resource
import sys
import time

from tests.benchmarks.contenders import CONTENDERS


def main() -> None:
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    work = CONTENDERS[name](**arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": seconds, "peak_megabytes": (peak - before) / 1024}
        if isinstance(result, list):
            answer["tokens"] = hashlib.sha256(json.dumps(result).encode()).hexdigest()[:8]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
