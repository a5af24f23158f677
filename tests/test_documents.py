"""The documents name what the code reads, and nothing else."""

from __future__ import annotations

import re

from infra.settings import REPOSITORY, Settings


def test_every_setting_is_documented() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `(BACKDROP_\w+)`", text, re.MULTILINE))
    assert documented == {f"BACKDROP_{name.upper()}" for name in Settings.model_fields}


def test_the_readme_names_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert named <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
