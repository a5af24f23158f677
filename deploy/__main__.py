"""`python -m deploy <verb> --spec <uri>`: build an engine, or measure one."""

from infra.jobs.program import Verb, main

VERBS = {
    "export": Verb("deploy.specs:ExportSpec", "deploy.export:run", "export the student and check it against PyTorch"),
    "evaluate": Verb("deploy.specs:EvaluateSpec", "deploy.evaluate:run", "measure an engine and write the report"),
}

if __name__ == "__main__":
    raise SystemExit(main("deploy", VERBS))
