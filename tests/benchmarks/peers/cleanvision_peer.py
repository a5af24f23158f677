"""cleanvision's nine checks over a folder, in two processes. Prints what it cost as JSON."""

import json
import resource
import sys
import time


def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    from cleanvision import Imagelab

    lab = Imagelab(data_path=sys.argv[1])
    before, began = cpu(), time.perf_counter()
    lab.find_issues(n_jobs=2, verbose=False)
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": cpu() - before}))
