"""Commands that the documents name: taken from pages, judged without being run, and which test runs each."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from infra.settings import PREFIX, REPOSITORY, Settings

OURS = ("backdrop", "make", "python")

HUMANS = "tests/orchestration/test_promoting.py::test_a_policy_that_asks_for_a_human"
TUTORIAL = "tests/line/test_tutorial.py::test_the_tutorial_goes_as_it_is_written"
DOCTOR = "tests/orchestration/test_doctor.py"
CLI = "tests/orchestration/test_cli.py"
JOBS = "tests/orchestration/test_cli_jobs.py::test_a_job_is_listed_read_and_cancelled"
SERVICES = f"{CLI}::test_the_line_with_its_services"
OVERLAYS = "tests/infra/test_kubernetes_overlays.py::test_an_overlay_is_whole"

#: Where a command is run for real. Here each is only parsed, and asked for its help.
TESTED = {
    "backdrop run": "tests/line/test_small_line.py::test_a_second_run_trains_nothing",
    "backdrop ui": "tests/line/test_web_ui.py::test_a_person_sees_the_line_and_materialises_an_asset",
    "backdrop studio": "tests/deploy/studio/test_command.py::test_the_command_serves_until_it_is_told_to_end",
    "backdrop clean": TUTORIAL,
    "backdrop personalise": "tests/line/test_personalise.py::test_a_subject_becomes_a_partition_and_is_not_made_twice",
    "backdrop quarantine": TUTORIAL,
    "backdrop trace": TUTORIAL,
    "backdrop takedown": TUTORIAL,
    "backdrop promote": SERVICES,
    "backdrop rollback": SERVICES,
    "backdrop history": SERVICES,
    "backdrop approve": SERVICES,
    "backdrop reject": SERVICES,
    "backdrop sign": SERVICES,
    "backdrop plan": SERVICES,
    "backdrop status": SERVICES,
    "backdrop jobs list": JOBS,
    "backdrop jobs show": JOBS,
    "backdrop jobs log": JOBS,
    "backdrop jobs cancel": JOBS,
    "backdrop jobs reap": f"{CLI}::test_a_job_that_no_run_wants_is_reaped",
    "backdrop alerts": "tests/orchestration/test_alerts.py::test_the_command_lists_and_tries",
    "backdrop migrate": f"{DOCTOR}::test_migrating_brings_all_three_databases_up_and_again_changes_nothing",
    "backdrop doctor": f"{DOCTOR}::test_the_exit_code_says_whether_something_failed",
}

#: Programs of others: what of ours a command hands to them, and the test that holds that. The programs are not run.
OTHERS = {
    "curl": "tests/deploy/studio/test_documents.py::test_every_curl_of_the_page_works",
    "docker build": "tests/infra/test_kubernetes_images.py::test_what_is_copied_exists_and_is_let_through",
    "kubectl apply": OVERLAYS,
    "kubectl create": "tests/infra/test_kubernetes_manifests.py::test_no_secret_is_in_the_repository",
    "kubectl delete": OVERLAYS,
    "kubectl exec": "tests/orchestration/test_doctor_cluster.py::test_a_cluster_that_is_well",
    "kubectl logs": OVERLAYS,
    "kubectl port-forward": OVERLAYS,
    "kubectl rollout": OVERLAYS,
    "kubectl wait": OVERLAYS,
    "openssl genpkey": "tests/deploy/test_signing.py",
    "chmod": HUMANS,
    "export": "tests/infra/test_settings.py",
    "torchrun": "tests/training/test_ranks.py::test_the_place_is_what_torchrun_and_composer_say",
    "composer": "tests/training/test_ranks.py::test_the_place_is_what_torchrun_and_composer_say",
}


# ── taking commands from pages ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Command:
    """Words of one command. `named`: it stands in a sentence, where a bare name is no order to run it."""

    words: tuple[str, ...]
    named: bool = False

    def __str__(self) -> str:
        return " ".join(self.words)


def commands_of(text: str) -> Iterator[Command]:
    """Of blocks marked sh all; of blocks of text and of sentences those of programs that are known."""
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    known = {*OURS, *(name.split()[0] for name in OTHERS)}
    for language, body in fence.findall(text):
        lines = re.sub(r"\\\n", " ", re.sub(r"\|\n", "| ", body)).splitlines()
        for line in lines:
            if language == "sh" or (language in ("", "text") and line.split()[:1] and line.split()[0] in known):
                yield from split(line, False)
    for span in re.findall(r"`([^`]+)`", fence.sub("", text)):
        if span.split()[:1] and span.split()[0] in known and (" " in span.strip()):
            yield from split(" ".join(span.split()), True)


def split(line: str, named: bool) -> Iterator[Command]:
    """The commands of one line, without comments; what is optional is there, and placeholders are words."""
    line = re.sub(r"<[^<>]*>", "placeholder", line)
    line = re.sub(r"(?<= )\[([^\]]*)\]", r"\1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            yield from _commands(words, named)
            words = []
        else:
            words.append(word)


def _commands(words: list[str], named: bool) -> Iterator[Command]:
    if not words:
        return
    yield Command(tuple(words), named)
    if "--" in words and words[words.index("--") + 1 :][:1] == ["backdrop"]:  # inside a pod
        yield Command(tuple(words[words.index("--") + 1 :]), named)


# ── judging them ─────────────────────────────────────────────────────────────────────────────────────────────────


def problem_of(command: Command) -> str:
    """What is wrong with a command, "" where nothing is; it is not carried out."""
    words = list(command.words)
    while re.fullmatch(r"\w+=.*", words[0]):
        name = words.pop(0).partition("=")[0]
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in Settings.model_fields:
            return f"there is no setting {name}"
        if not words:
            return ""
    program = Path(words[0]).name
    if program == "backdrop":
        return _problem_of_ours(words[1:], command.named)
    if program == "make":
        return _problem_of_make(words[1:])
    if program == "python":
        return _problem_of_module(words[1:])
    known = [name for name in OTHERS if _is(name, words)]
    return "" if known else "no test is named for it: add it to OTHERS, or make it a command of ours"


def _is(name: str, words: Sequence[str]) -> bool:
    program, *rest = name.split()
    return words[0] == program and (not rest or rest[0] in words)


def app() -> Any:
    """The real command line, as click's object."""
    from orchestration.cli import app as ours

    return typer.main.get_command(ours)


def _problem_of_ours(words: list[str], named: bool) -> str:
    """The parser's own complaint. `…` at the end stands for arguments that the page leaves out."""
    command, context = app(), None
    path = ["backdrop"]
    open_ended = words[-1:] == ["…"] and not words[-2].startswith("--")
    words = words[:-1] if open_ended else words
    while hasattr(command, "commands"):
        context = type(command).context_class(command, info_name=path[-1], parent=context)
        if not words:
            return "" if named else f"{' '.join(path)} needs a command"
        if words[0] not in command.commands:
            return f"{' '.join(path)} has no command {words[0]!r}"
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    if " ".join(path) not in TESTED:
        return f"no test is named for {' '.join(path)}: add it to TESTED"
    try:
        command.make_context(path[-1], list(words), parent=context)
    except Exception as error:  # click's errors, of whichever click typer uses
        if not hasattr(error, "format_message"):
            raise
        missing = type(error).__name__ == "MissingParameter"
        return "" if missing and (open_ended or (named and not words)) else error.format_message()
    return ""


def _problem_of_make(words: list[str]) -> str:
    """`make -n` knows the target, and the value of every variable is in what it would run."""
    given = [word.partition("=") for word in words if "=" in word]
    targets = [word for word in words if "=" not in word]
    marked = [f"{name}=value-of-{name}" for name, _, _ in given]
    command = ["make", "--no-print-directory", "-n", "-B", *targets, *marked]
    planned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if planned.returncode:
        return planned.stderr.strip().splitlines()[-1]
    unread = [name for name, _, _ in given if f"value-of-{name}" not in planned.stdout]
    if unread:
        return f"make {' '.join(targets)} does not read {unread[0]}"
    wrong = [value for name, _, value in given if name == "NAME" and value not in _benchmarks()]
    return f"there is no benchmark {wrong[0]}" if wrong else ""


def _benchmarks() -> dict[str, list[str]]:
    from tests.benchmarks.__main__ import BENCHMARKS

    return BENCHMARKS


def _problem_of_module(words: list[str]) -> str:
    """The module is there, and a verb after it is one of its `VERBS`."""
    if words[:1] != ["-m"] or len(words) < 2:
        return "only `python -m <module>` is understood here"
    module, rest = words[1], words[2:]
    if module == "placeholder":  # any room and any verb
        return ""
    try:
        spec = importlib.util.find_spec(module)
        entry = importlib.util.find_spec(f"{module}.__main__") if spec and spec.submodule_search_locations else spec
    except ModuleNotFoundError:
        spec = entry = None
    if spec is None or entry is None:
        return f"there is no program {module}"
    if not rest or rest[0].startswith("-"):
        return ""
    verbs = getattr(importlib.import_module(entry.name), "VERBS", None)
    return "" if verbs is None or rest[0] in verbs else f"{module} has no verb {rest[0]!r}"


def paths_of(command: Any, path: tuple[str, ...] = ("backdrop",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line with the words that lead to it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths_of(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


# ── tests ────────────────────────────────────────────────────────────────────────────────────────────────────────


def words_of_test(node: str) -> set[str]:
    """What stands in quotes in a test, and in what of its own file it names: fixtures, helpers, constants."""
    path, _, name = node.partition("::")
    there: dict[str, ast.stmt] = {}
    for one in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(one, (ast.FunctionDef, ast.ClassDef)):
            there[one.name] = one
        for target in one.targets if isinstance(one, ast.Assign) else ():
            there.update({inner.id: one for inner in ast.walk(target) if isinstance(inner, ast.Name)})
    words: set[str] = set()
    todo, seen = [name], {name}
    while todo:
        for inner in ast.walk(there[todo.pop()]):
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                words.add(inner.value)
            named = inner.id if isinstance(inner, ast.Name) else inner.arg if isinstance(inner, ast.arg) else ""
            if named in there and named not in seen:
                seen.add(named)
                todo.append(named)
    return words


# ── programs of pages ──────────────────────────────────────────────────────────────────────────────────────────


def output_of(command: list[str], folder: Path, text: str = "") -> str:
    """What a program of a page prints; it has to end well."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "GIT_"))}
    done = subprocess.run(command, cwd=folder, env=mine, input=text, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, f"{' '.join(command[:3])}:\n{done.stdout}{done.stderr}"
    return done.stdout
