"""``python -m fixture_room <verb> --spec <uri>``."""

import sys

from infra.jobs.program import Verb, main

VERBS = {
    "count": Verb("fixture_room.specs:CountSpec", "fixture_room.verbs:count", "Count steps, with a save."),
    "team": Verb("fixture_room.specs:TeamSpec", "fixture_room.verbs:team", "Compute in several processes."),
    "tally": Verb("fixture_room.specs:TallySpec", "fixture_room.cluster:tally", "Count with ranks on many nodes."),
    "part": Verb("fixture_room.specs:PartSpec", "fixture_room.cluster:part", "Do one part of many."),
    "fail": Verb("fixture_room.specs:FailSpec", "fixture_room.verbs:fail", "End badly, in a chosen way."),
}

if __name__ == "__main__":
    sys.exit(main("fixture_room", VERBS))
