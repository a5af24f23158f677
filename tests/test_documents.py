"""The documents name what is there: settings, links, commands that exist and are tested, recipes that work."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.settings import PREFIX, REPOSITORY, Settings

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OURS = ("backdrop", "make", "python")

LEDGER = "tests/orchestration/test_promoting.py::test_from_the_first_champion_to_a_rollback"
HUMANS = "tests/orchestration/test_promoting.py::test_a_policy_that_asks_for_a_human"
TUTORIAL = "tests/line/test_tutorial.py::test_the_tutorial_goes_as_it_is_written"
DOCTOR = "tests/orchestration/test_doctor.py"
CLI = "tests/orchestration/test_cli.py"
OVERLAYS = "tests/infra/test_kubernetes_overlays.py::test_an_overlay_is_whole"

#: Where a command is run for real. Here each is only parsed, and asked for its help.
TESTED = {
    "backdrop run": "tests/line/test_small_line.py::test_every_asset_is_made",
    "backdrop ui": "tests/line/test_web_ui.py::test_a_person_sees_the_line_and_materialises_an_asset",
    "backdrop studio": "tests/deploy/studio/test_studio.py::test_without_a_champion_it_says_what_to_do",
    "backdrop clean": TUTORIAL,
    "backdrop personalise": "tests/line/test_personalise.py::test_a_subject_becomes_a_partition_and_is_not_made_twice",
    "backdrop quarantine": TUTORIAL,
    "backdrop trace": TUTORIAL,
    "backdrop takedown": TUTORIAL,
    "backdrop promote": LEDGER,
    "backdrop rollback": LEDGER,
    "backdrop history": LEDGER,
    "backdrop approve": HUMANS,
    "backdrop reject": HUMANS,
    "backdrop sign": HUMANS,
    "backdrop plan": "tests/orchestration/test_automation_line.py::test_the_dry_run_says_the_same",
    "backdrop status": f"{CLI}::test_the_line_with_its_services",
    "backdrop jobs list": f"{CLI}::test_a_job_is_listed_read_and_cancelled",
    "backdrop jobs show": f"{CLI}::test_a_job_is_listed_read_and_cancelled",
    "backdrop jobs log": f"{CLI}::test_a_job_is_listed_read_and_cancelled",
    "backdrop jobs cancel": f"{CLI}::test_a_job_is_listed_read_and_cancelled",
    "backdrop jobs reap": "tests/cluster/test_launcher.py::test_the_reaper_ends_what_a_killed_worker_could_not",
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
                yield from _split(line, False)
    for span in re.findall(r"`([^`]+)`", fence.sub("", text)):
        if span.split()[:1] and span.split()[0] in known and (" " in span.strip()):
            yield from _split(" ".join(span.split()), True)


def _split(line: str, named: bool) -> Iterator[Command]:
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


# ── what is held ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_setting_is_documented() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `(BACKDROP_\w+)`", text, re.MULTILINE))
    assert documented == {f"BACKDROP_{name.upper()}" for name in Settings.model_fields}


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target, place in re.findall(r"\]\((?!http)([^)#]*)(#[^)]+)?\)", page.read_text()):
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name} links to {target}"
            if place:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert place[1:] in slugs, f"{page.name} links to {target}{place}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    problems = [f"{one}: {why}" for one in set(commands_of(page.read_text())) if (why := problem_of(one))]
    assert not problems, "\n".join(problems)


def test_the_pages_have_commands_of_every_kind() -> None:
    found = {str(command) for page in PAGES for command in commands_of(page.read_text())}
    for beginning in ("make run", "make bench", "backdrop takedown", "backdrop doctor", "python -m", "kubectl apply"):
        assert any(text.startswith(beginning) for text in found), beginning


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("backdrop personalize my-mug --images ~/mug --word mug", "no command 'personalize'"),
        ("backdrop trace --modell backdrop-engine@champion", "--modell"),
        ("backdrop takedown s3://shop/spring/", "--reason"),
        ("backdrop history --limit many", "--limit"),
        ("backdrop jobs weep", "no command 'weep'"),
        ("backdrop doctor twice", "twice"),
        ("kubectl exec deploy/x -- backdrop take …", "no command 'take'"),
        ("BACKDROP_PRESETT=tiny backdrop run", "BACKDROP_PRESETT"),
        ("make runn", "runn"),
        ("make run IMAGE=pictures", "IMAGE"),
        ("make bench NAME=nothing", "nothing"),
        ("python -m training.nowhere", "training.nowhere"),
        ("python -m training sweeep --spec x", "sweeep"),
        ("wget http://127.0.0.1", "no test is named"),
        ("true && backdrop runs", "no command 'runs'"),
    ],
)
def test_a_wrong_command_is_found(line: str, said: str) -> None:
    found = [problem_of(command) for command in commands_of(f"Look:\n\n```sh\n{line}  # why\n```\n")]
    assert any(said in why for why in found), found


def test_commands_are_taken_from_blocks_and_sentences() -> None:
    page = """Say `backdrop takedown` or `make test`, not `make`; in a list:
   ```sh
   openssl genpkey -algorithm ed25519 |
     kubectl create secret generic x --from-literal=a='b c'   # a | comment
   backdrop promote [4] --reason "…" && backdrop trace \\
     <image id or file>
   ```
```
a picture ─► of nothing
composer -n 8 -m training
```
"""
    assert [(str(command), command.named) for command in commands_of(page)] == [
        ("openssl genpkey -algorithm ed25519", False),
        ("kubectl create secret generic x --from-literal=a=b c", False),
        ("backdrop promote 4 --reason …", False),
        ("backdrop trace placeholder", False),
        ("composer -n 8 -m training", False),
        ("backdrop takedown", True),
        ("make test", True),
    ]


@pytest.mark.parametrize("node", sorted({*TESTED.values(), *OTHERS.values()}))
def test_a_test_that_is_named_exists(node: str) -> None:
    path, _, name = node.partition("::")
    text = (REPOSITORY / path).read_text()
    assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), node


def paths_of(command: Any, path: tuple[str, ...] = ("backdrop",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the command line with the words that lead to it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths_of(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


def test_every_command_has_help_whose_example_parses() -> None:
    from typer.testing import CliRunner

    from orchestration.cli import app as ours

    every = {" ".join(path): (path, command) for path, command in paths_of(app())}
    assert set(TESTED) <= set(every), "TESTED names commands that are no more"
    for path, command in every.values():
        answer = CliRunner().invoke(ours, [*path[1:], "--help"])
        assert answer.exit_code == 0, answer.output
        example = re.search(r"Example: (backdrop .*)", command.help or "")
        assert example is not None, f"{' '.join(path)} has no example"
        found = list(_split(example[1].strip(), False))
        assert [why for one in found if (why := problem_of(one)) and "no test is named" not in why] == [], example[1]


def test_the_command_itself_answers() -> None:
    for words in (["--help"], ["history", "--help"]):
        command = [sys.executable, "-m", "orchestration.cli", *words]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────

ROOMS = ("assets", "deploy", "evaluation", "infra", "orchestration", "training")
RECIPES = ("A filter", "A metric", "A preset", "A source of captions", "A reader")


@dataclass(frozen=True)
class Recipe:
    """The blocks of one section: files by path, changes as git takes them, and lines that try it."""

    files: dict[str, str]
    changes: str
    trials: list[str]


def recipe(title: str) -> Recipe:
    sections = re.split(r"^## ", (REPOSITORY / "docs" / "recipes.md").read_text(), flags=re.MULTILINE)
    text = next(part for part in sections if part.startswith(f"{title}\n"))
    files: dict[str, str] = {}
    changes, trials = "", []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        path = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", body)
        if path is not None:
            files[path[1]] = body[path.end() :]
        elif language == "diff":
            changes += body
        elif language == "python":
            trials.append(body)
    return Recipe(files, changes, trials)


def run(command: list[str], folder: Path, text: str = "") -> str:
    mine = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "GIT_"))}
    done = subprocess.run(command, cwd=folder, env=mine, input=text, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, f"{' '.join(command[:3])}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms' sources in a folder of their own."""
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_page_of_recipes_has_these() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == RECIPES


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_is_written(title: str, copy: Path) -> None:
    found = recipe(title)
    assert found.files
    assert found.trials
    for path, text in found.files.items():
        assert not (copy / path).exists(), f"{path} is there already"
        (copy / path).write_text(text)
    if found.changes:
        run(["git", "apply", "-"], copy, found.changes)
    changed = [*found.files, *re.findall(r"^\+\+\+ b/(\S+)", found.changes, re.MULTILINE)]
    sources = [path for path in changed if path.endswith(".py")]
    if sources:
        run([sys.executable, "-m", "ruff", "check", "--no-cache", *sources], copy)
        run([sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *sources], copy)
    for number, trial in enumerate(found.trials):
        (copy / f"trial_{number}.py").write_text(trial)
        run([sys.executable, f"trial_{number}.py"], copy)


def test_a_trial_fails_where_the_recipe_was_not_followed(copy: Path) -> None:
    with pytest.raises(AssertionError, match="min_colour"):
        run([sys.executable, "-"], copy, recipe("A filter").trials[0])


# ── glossary ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_glossary_is_in_order_and_each_word_is_one_sentence() -> None:
    text = (REPOSITORY / "docs" / "glossary.md").read_text()
    entries = re.findall(r"^\* \*\*(.+?)\*\*: (.*)$", text, re.MULTILINE)
    words = [word.lower() for word, _ in entries]
    assert words == sorted(set(words))
    assert len(entries) == text.count("\n* ")
    assert [word for word, meaning in entries if not meaning.endswith(".") or re.search(r"\. [A-Z]", meaning)] == []


# ── scaling ──────────────────────────────────────────────────────────────────────────────────────────────────────


def programs() -> tuple[str, list[str]]:
    """(the page, its programs in order): counted operations, the arithmetic, the measurement."""
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    return page, re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_plan_for_scaling_says_what_its_programs_print(number: int) -> None:
    page, found = programs()
    printed = run([sys.executable, "-"], REPOSITORY, found[number]).splitlines()
    assert len(printed) >= 3
    assert [line for line in printed if line not in page] == []


@pytest.mark.integration
def test_the_measurement_of_the_plan_for_scaling_runs(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(programs()[1][2])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "BENCH_IMAGES": "12"}
    command = [sys.executable, "measure.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d.]+ pictures a second and core, \d+ of 12 kept", done.stdout)
    assert re.search(r"[\d,]+ bytes of the catalog and [\d.]+ verdicts per picture", done.stdout)
