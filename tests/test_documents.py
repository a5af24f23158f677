"""The documents name what is there: settings, links, commands that exist and are tested; the glossary is in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY, Settings
from tests.documented import (
    OTHERS,
    TESTED,
    app,
    commands_of,
    paths_of,
    problem_of,
    split,
    words_of_test,
)

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


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


@pytest.mark.parametrize("command", sorted(TESTED))
def test_the_test_that_is_named_for_a_command_runs_it(command: str) -> None:
    assert set(command.split()[1:]) <= words_of_test(TESTED[command]), f"{TESTED[command]} does not say {command}"


def test_a_command_that_its_test_does_not_run_is_found() -> None:
    assert "rollback" not in words_of_test("tests/line/test_small_line.py::test_a_second_run_trains_nothing")


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
        found = list(split(example[1].strip(), False))
        assert [why for one in found if (why := problem_of(one)) and "no test is named" not in why] == [], example[1]


def test_the_command_itself_answers() -> None:
    for words in (["--help"], ["history", "--help"]):
        command = [sys.executable, "-m", "orchestration.cli", *words]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout


def test_the_glossary_is_in_order_and_each_word_is_one_sentence() -> None:
    text = (REPOSITORY / "docs" / "glossary.md").read_text()
    entries = re.findall(r"^\* \*\*(.+?)\*\*: (.*)$", text, re.MULTILINE)
    words = [word.lower() for word, _ in entries]
    assert words == sorted(set(words))
    assert len(entries) == text.count("\n* ")
    assert [word for word, meaning in entries if not meaning.endswith(".") or re.search(r"\. [A-Z]", meaning)] == []
