"""What of the one lock an image installs: `python lock.py <requirements.txt> <pyproject.toml> [services|jobs]`.

Development's packages go, by the "via" comments of the lock; for services also the libraries of the GPU: they start
and watch jobs, and compute nothing. mosaicml-streaming stays: a takedown rewrites shards, which needs no torch.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

#: What a services image has no use for: 5 GB.
COMPUTE = re.compile(r"nvidia-.*|triton|torch|torch-.*|torchvision|torchmetrics|mosaicml")


def chosen(lock: str, project: str, image: str) -> str:
    """The part of the lock, to be installed with --no-deps; the versions and hashes are the lock's own."""
    blocks = {_name(block): block for block in re.split(r"\n(?=\S)", lock.strip()) if "==" in block.split("\n")[0]}
    wanted = {_name(line) for line in tomllib.loads(project)["project"]["dependencies"]}
    if missing := wanted - blocks.keys():
        raise ValueError(f"the lock has no {', '.join(sorted(missing))}: run `make lock`")
    while more := {name for name, block in blocks.items() if name not in wanted and wanted & _parents(block)}:
        wanted |= more
    if image == "services":
        wanted = {name for name in wanted if not COMPUTE.fullmatch(name)}
    return "\n".join(blocks[name] for name in sorted(wanted)) + "\n"


def _name(line: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def _parents(block: str) -> set[str]:
    """Who asked for a package: the names in the comment below it."""
    comments = re.findall(r"^ +# +(?:via )?(\S+)", block, re.MULTILINE)
    return {_name(name) for name in comments if name != "via"}


if __name__ == "__main__":
    sys.stdout.write(chosen(Path(sys.argv[1]).read_text(), Path(sys.argv[2]).read_text(), sys.argv[3]))
