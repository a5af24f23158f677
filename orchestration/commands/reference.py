"""docs/commands.md, written from the commands themselves: `python -m orchestration.commands.reference`.

A test compares the two, and the keys that are named here with those that commands answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infra.settings import REPOSITORY
from orchestration.ending import EXIT_CODES

PAGE = REPOSITORY / "docs" / "commands.md"

_PROMOTION = {
    "action": "what was asked for",
    "model": "the registered model",
    "said": "what came of it, in words",
    "entry": "the row of the ledger, as in `history`; null where nothing had to change",
    "noticed": "rows that the ledger had not known until now: an alias moved by hand, a promotion that was killed",
}
KEYS: Mapping[str, Mapping[str, str]] = {
    "backdrop run": {
        "seconds": "how long it took",
        "made": "assets that were made",
        "reused": "assets whose committed result was used again",
        "report": "where the report lies",
        "metadata": "asset → its metadata without pictures; a partition is in brackets",
    },
    "backdrop personalise": {
        "subject": "its name",
        "method": "how it was learned",
        "phrase": "what captions call it",
        "photographs": "how many were used",
        "seconds": "how long the training took",
    },
    "backdrop clean": {"removed": "the folder"},
    "backdrop takedown": {
        "target": "what was asked for",
        "reason": "why",
        "dry_run": "whether nothing was changed",
        "images": "ids of the images",
        "unread": "URIs at the target that were never scanned and cannot be read",
        "held": "what holds them: slices, versions, trained, pictures, quarantine, masks, captions, sightings, alike",
        "order": "its number; null for a dry run",
        "report": "what was done; null for a dry run",
        "training_set": "what became of it, in words; null for a dry run",
    },
    "backdrop trace": {
        "image": "its id",
        "takedown": "at, reason, done; null without one",
        "facts": "format, width, height, bytes",
        "where_from": "delivery, uri, source, licence, split",
        "verdicts": "delivery, filter, filter_version, decision, score, reason",
        "quarantine": "delivery, reason, detail, key",
        "copies": "delivery, image_id, of, distance, similarity",
        "slices": "delivery, id, split, bucket, state, shard, place",
        "dataset_versions": "version, samples, withdrawn, trained (false: held out there)",
        "models": "asset, id, dataset_version, mlflow_run",
        "subjects": "subjects that it is a photograph of",
        "pictures": "URIs of pictures that show it",
    },
    "backdrop trace --model": {
        "model": "the registered model",
        "alias": "the alias",
        "version": "its version",
        "bundle": "the hash of its files",
        "made_from": "its ancestors: asset, id, dataset_version, mlflow_run",
        "datasets": "version, withdrawn, origins (delivery, kind, split, licence, source, images)",
        "list": "the file that --list wrote",
    },
    "backdrop quarantine": {
        "deliveries": "delivery, images (reason, detail, uri, image_id, bytes, key), retried (how many)",
    },
    "backdrop promote": _PROMOTION,
    "backdrop approve": _PROMOTION,
    "backdrop reject": _PROMOTION,
    "backdrop rollback": _PROMOTION,
    "backdrop history": {
        "model": "the registered model",
        "aliases": "alias → version",
        "rows": "newest first: id, at, kind, model, alias, from_version, to_version, bundle, actor, verified, reason, "
        "evidence, run, intent",
        "noticed": _PROMOTION["noticed"],
    },
    "backdrop sign": {"public_key": "yours", "token": "to be pasted"},
    "backdrop status": {
        "at": "when it was asked",
        "state": "the state folder",
        "preset": "of the last run",
        "launcher": "local or kubernetes",
        "services": "name, up, where, given (by a URL, so that nobody here starts it), said (what is wrong with it)",
        "start": "how to start what is down; empty where all is up",
        "live": "whether what follows is of now; else it is remembered",
        "as_of": "of when it is; null where nothing is remembered, and then what follows is null",
        "problem": "why it could not be asked though it is up, or the cluster's jobs not; else empty",
        "run": "the newest: id, job, partition, state, started_at, ended_at",
        "assets": "in lineage order: asset, state (fresh, stale, missing), why, at, data_version, dataset_version, "
        "run, partitions (made, of), checks_failed, checks_warned",
        "champion": "model, version, since, by, bundle, tainted (by which takedowns); null without one",
        "challenger": "the same",
        "budget": "allowed, spent (GPU-hours in seven days), paused (why automation rests)",
        "automation": "daemon (whether it runs), on, off (schedules and sensors)",
        "alerts": "the newest three: since, ended_at, kind, title",
        "jobs": "those that have not ended, as in `jobs list`",
        "problems": "what is not well, in sentences; with --check the command ends with 1 where there is one",
    },
    "backdrop plan": {
        "gpu_hours": "allowed, spent, paused",
        "automations": "automation, would_run, why, notes, requests",
    },
    "backdrop alerts": {
        "[]": "a list, newest first: cause, kind, title, detail, since, ended_at, links, told",
    },
    "backdrop migrate": {"current": "true"},
    "backdrop doctor": {
        "findings": "what, state (ok, failed, not checked), text, remedy",
        "failed": "how many of them failed",
    },
    "backdrop jobs list": {
        "jobs": "newest first: key, where (here, cluster), state (queued, starting, running, succeeded, failed, "
        "killed, unreadable), what, attempt, started_at, run, process, code, said, watched, log",
        "total": "how many there are",
    },
    "backdrop jobs show": {
        "key": "and all else that `jobs list` says of it",
        "log_end": "its log's last lines",
    },
    "backdrop jobs log": {"key": "the job's", "log": "where it lies", "lines": "the last of it"},
    "backdrop jobs cancel": {"key": "the job's", "was": "its state before", "state": "cancelled"},
    "backdrop jobs reap": {"removed": "job, key, run, why"},
}
"""Command → key of its document → what it means."""


def page() -> str:
    """The text of docs/commands.md."""
    return "\n".join([*_introduction(), *(line for path, command in leaves() for line in _section(path, command))])


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, in the order of the help."""
    import typer

    from orchestration.cli import app

    yield from _below("backdrop", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, one in command.commands.items():
        yield from _below(f"{path} {name}", one)


def _introduction() -> list[str]:
    codes = [f"| {code} | {meaning} |" for code, meaning in sorted(EXIT_CODES.items())]
    return [
        "# Commands",
        "",
        "Written from the commands themselves by `python -m orchestration.commands.reference`; a test compares.",
        "`backdrop` is `.venv/bin/backdrop`. What a command reads beside its options are the settings in",
        "[configuration](configuration.md).",
        "",
        "**Programs** add `--json`: one JSON document on stdout and nothing else there. Words, progress and errors go",
        'to stderr. An error is a document too, `{"error", "remedy", "exit_code"}`, on stdout, whatever went wrong.',
        "Moments are ISO 8601 in UTC. Keys stay; new ones may come.",
        "",
        "**Exit codes** mean the same everywhere:",
        "",
        "| code | meaning |",
        "|---|---|",
        *codes,
        "",
        "**Completion** of commands, options, presets, actions, models and jobs: `--install-completion`, once, in",
        "bash, zsh or fish; then a new shell. A command whose reader has gone (`| head`) does its work to the end.",
        "",
        "`backdrop status` calls an asset stale where its inputs are others than it was made of, or its filters where",
        "they would decide anew; what changed code or configuration would make again, `backdrop plan` says.",
        "",
    ]


def _section(path: str, command: Any) -> list[str]:
    about, _, example = (command.help or "").strip().partition(" Example: ")
    lines = [f"## {path}", "", about, "", "```sh", example.strip(), "```", ""]
    options = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    if options:
        lines += ["| option | meaning |", "|---|---|", *(_option(one) for one in options), ""]
    for name in (path, f"{path} --model"):
        if name in KEYS:
            what = "The document's keys" if name == path else "With `--model`"
            keys = [f"* `{key}`: {meaning}" for key, meaning in KEYS[name].items()]
            lines += [f"{what}:", "", *keys, ""]
    return lines


def _option(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(one.opts, key=len)) if one.param_type_name == "option" else (
        f"`{(one.metavar or one.name).upper()}`"
    )  # fmt: skip
    default = one.default
    told = "; needed" if one.required else f"; {default}" if default not in (None, "", False) else ""
    text = re.sub(r"\s+", " ", one.help or "").rstrip(".").replace("|", "\\|").replace("<", "\\<")
    return f"| {names} | {text}{told} |"


if __name__ == "__main__":
    PAGE.write_text(page())
