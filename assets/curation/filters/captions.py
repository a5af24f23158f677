"""Cleans captions: mojibake and HTML are repaired, spam and file names go. A bad caption never costs the picture its
place.

When no caption is left, the verdict asks for a new one (`detail["recaption"]`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser

from assets.curation.filters.base import FIX, KEEP, Judgement, Picture
from assets.curation.filters.settings import CaptionTextSection

_NOTHING = frozenset(
    "none|null|nil|nan|n/a|na|undefined|unknown|untitled|empty|default|placeholder|todo|tbd|test|image|photo|picture|img|"
    "caption|description|title|alt text|missing value|no caption|no description|no title|no alt text|lorem ipsum|"
    "not available".split("|")
)
_SUFFIX = r"\.(?:jpe?g|png|gif|webp|tiff?|bmp|heic|heif|avif|svg|psd|raw|cr2|nef|dng)"
_FILE_NAME = re.compile(rf"(?:[\w./\\:()~@+-]+|[^/\\]{{1,80}}){_SUFFIX}", re.I)
_CAMERA_NAME = re.compile(
    r"(?:img|dsc[nf]?|pict?|pxl|mvi|gopr|p|cimg|photo|image|screenshot|untitled|wa)[ _-]*\d[\d _-]*(?:\(\d+\))?", re.I
)
_HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_ADDRESS = re.compile(
    r"https?://|www\.\w|\b[\w.+-]+@[\w-]+\.\w{2,}"  # a URL, an e-mail address
    r"|\b(?:visit|shop at|buy at|order at|check out)\s+\S+\.[a-z]{2,4}\b"
    r"|\b[\w-]{2,}\.(?:com|net|org|shop|store|info|biz|io)/\w",
    re.I,
)
_PHONE = re.compile(
    r"(?:\+|\b00)\d[\d ()./-]{6,}\d|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"
    r"|\b(?:tel|phone|call|whats ?app)\b\D{0,12}\d[\d ()./-]{5,}",
    re.I,
)
_PITCH = re.compile(
    r"\b(?:click here|buy (?:it )?now|order now|shop now|free shipping|best price|lowest price|limited (?:time )?offer|"
    r"subscribe now|follow us|link in bio|add to cart|act now|100 ?% (?:free|guaranteed)|work from home|make money)\b",
    re.I,
)
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"  # control characters
    "\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\ufeff\ufffd]"  # of no width, of direction, of failed decoding
)
_MARKUP = re.compile(r"<(?:!--|!doctype|/?[a-z][a-z0-9]*(?:\s[^<>]*)?/?)>?", re.I)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,6});", re.I)
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$)|[。！？]")


@dataclass(frozen=True)
class CaptionFilter:
    """Score: share of the captions that are usable after cleaning, 0 … 1."""

    section: CaptionTextSection
    name: str = "caption"
    version: str = "1"

    def judge(self, picture: Picture) -> Judgement:
        kept, problems = clean_captions(picture.captions, self.section)
        score = round(len(kept) / max(1, len(picture.captions)), 4)
        if not kept:
            why = "; ".join(problems) if problems else "no caption came with it"
            return Judgement(
                self.name, self.version, FIX, score, f"recaption: {why}", {"captions": [], "recaption": True}
            )
        if problems:
            return Judgement(self.name, self.version, FIX, score, "; ".join(problems), {"captions": kept})
        return Judgement(self.name, self.version, KEEP, score)


def clean_captions(captions: tuple[str, ...], section: CaptionTextSection) -> tuple[list[str], list[str]]:
    """The usable captions in order, each once, and what was wrong with the delivered ones (each kind once, in
    order)."""
    kept: list[str] = []
    problems: dict[str, None] = {}
    for caption in captions:
        text, repairs = repair(caption)
        problem = fault(text, section)
        problems.update(dict.fromkeys(repairs))
        if problem:
            problems[problem] = None
            continue
        if len(text) > section.max_characters:
            problems[f"too long: cut to {section.max_characters} characters"] = None
            text = _cut(text, section.max_characters)
        if text in kept:
            problems["repeated"] = None
        else:
            kept.append(text)
    return kept, list(problems)


def repair(caption: str) -> tuple[str, list[str]]:
    """The caption without mojibake, markup, hidden characters and needless space, and the names of what was
    repaired."""
    from ftfy import fix_encoding

    repairs = []
    text = fix_encoding(caption)
    if text != caption:
        repairs.append("mojibake")
    if _MARKUP.search(text) or _ENTITY.search(text):
        plain = _strip_markup(text)
        if plain != text:
            text = plain
            repairs.append("html")
    seen = _HIDDEN.sub("", text)
    if seen != text:
        repairs.append("hidden characters")
    tidy = " ".join(unicodedata.normalize("NFC", seen).split())
    if tidy and tidy != seen and not repairs:
        repairs.append("white space")
    return tidy, repairs


def fault(text: str, section: CaptionTextSection) -> str:
    """Why a repaired caption is of no use; "" for a usable one."""
    bare = text.strip(" \t\"'`.,;:!?-_*#()[]{}<>|/\\").lower()
    words = re.findall(r"[^\W_]+", text.lower())
    if not bare:
        return "empty"
    if bare in _NOTHING:
        return "empty: a word for nothing"
    if any(pattern.fullmatch(text.strip("\"' ")) for pattern in (_FILE_NAME, _CAMERA_NAME, _HASH)):
        return "file name"
    if sum(letter.isalpha() for letter in text) < (1 if _ideographs(text) else section.min_letters):
        return "no words"
    if _ADDRESS.search(text) or _PHONE.search(text):
        return "spam: an address or a telephone number"
    if _PITCH.search(text):
        return "spam: a sales pitch"
    if len(words) >= 6 and max(words.count(word) for word in set(words)) > len(words) / 2:
        return "spam: one word over and over"
    if text.count("#") >= 4 and 2 * text.count("#") >= len(words):
        return "spam: hashtags"
    return ""


def _ideographs(text: str) -> bool:
    """Whether a single character may be a word."""
    return any("\u3040" <= letter <= "\u9fff" or "\uac00" <= letter <= "\ud7af" for letter in text)


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters: up to the last whole sentence in the second half, else the last whole word."""
    head = text[:limit]
    ends = [match.end() for match in _SENTENCE_END.finditer(head) if match.end() > limit // 2]
    if ends:
        return head[: ends[-1]]
    space = head.rfind(" ")
    return head[:space] if space > limit // 2 else head


def _strip_markup(text: str) -> str:
    stripper = _Text()
    # Escaped markup is markup too, also where it was escaped twice.
    for _ in range(2):
        text = unescape(text)
    stripper.feed(text)
    stripper.close()
    return "".join(stripper.parts)


class _Text(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in ("script", "style")
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in ("script", "style")))
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)
