"""`python -m assets.curation <verb> --spec <uri>`."""

from __future__ import annotations

import sys

from infra.jobs.program import Verb, main

SPECS = "assets.curation.specs"
VERBS = {
    "ingest": Verb(f"{SPECS}:IngestSpec", "assets.curation.ingest:run", "read a delivery into the catalog"),
    "scan": Verb(f"{SPECS}:FilterSpec", "assets.curation.filter:scan_part", "judge one part of a delivery"),
    "decide": Verb(f"{SPECS}:FilterSpec", "assets.curation.filter:decide_whole", "find copies, write the keep list"),
    "pack": Verb(f"{SPECS}:FilterSpec", "assets.curation.filter:pack_part", "pack one part of a keep list"),
    "filter": Verb(f"{SPECS}:FilterSpec", "assets.curation.filter:run", "judge pictures and pack the good ones"),
}

if __name__ == "__main__":
    sys.exit(main("assets.curation", VERBS))
