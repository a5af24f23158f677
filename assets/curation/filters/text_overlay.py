"""Drops pictures with text laid over them: a banner, a subtitle, a credit, a watermark; print on a product is left
alone.

A cheap test for detail comes first; then RapidOCR finds the lines, reads those that might matter, and `overlay`
decides. Pictures too small to read, and lines without OCR, are judged by their strokes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from assets.curation.filters.base import DROP, KEEP, Judgement, Picture
from assets.curation.filters.ocr import Line, TextReader
from assets.curation.filters.overlay import LETTERS, Text, find_overlay
from assets.curation.filters.settings import TextSection
from assets.curation.filters.strokes import longest_line, worth_reading

_READABLE = 128  # pixels of the longer side: letters of a legible line are then ten pixels high
_MOST_READ = 16  # lines: a page of print has more, and its largest ones say as much


@dataclass(frozen=True)
class TextOverlayFilter:
    """Score: lines of text that were read; without OCR, letters in the best line."""

    section: TextSection
    name: str = "text overlay"
    version: str = "2"

    def judge(self, picture: Picture) -> Judgement:
        if not self.section.ocr or max(picture.pixels.shape) < _READABLE:
            return self._by_strokes(picture)
        texts = self._texts(picture) if worth_reading(picture) else []
        reason = find_overlay(picture.pixels, texts)
        said = {"lines": [text.words for text in texts]}
        if reason:
            return Judgement(self.name, self.version, DROP, len(texts), f"text overlay: {reason}", said)
        return Judgement(self.name, self.version, KEEP, len(texts), "", said if texts else None)

    def _by_strokes(self, picture: Picture) -> Judgement:
        found = longest_line(picture.pixels)
        # In a very small picture nothing but text has three strokes of one height and colour in a row.
        needed = self.section.glyphs - (max(picture.pixels.shape) <= _READABLE)
        if found >= needed:
            reason = f"text overlay: {found} letters of one size and colour on one line"
            return Judgement(self.name, self.version, DROP, found, reason)
        return Judgement(self.name, self.version, KEEP, found)

    def _texts(self, picture: Picture) -> list[Text]:
        lines = sorted(self._reader.find(picture.pixels), key=_width, reverse=True)[:_MOST_READ]
        read = self._reader.read(picture.pixels, lines)
        texts = [Text(line.corners, words, sure) for line, (words, sure) in zip(lines, read, strict=True)]
        return [text for text in texts if text.letters >= LETTERS and text.confidence >= self.section.min_confidence]

    @cached_property
    def _reader(self) -> TextReader:
        """Loaded with the first picture that needs it."""
        return TextReader(self.section.ocr_side)


def _width(line: Line) -> float:
    return float(line.corners[:, 0].max() - line.corners[:, 0].min())
