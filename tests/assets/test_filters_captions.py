"""Cleaning captions: what is repaired, what goes, and what stays letter for letter."""

from __future__ import annotations

import numpy as np
import pytest

from assets.curation.filters.base import FIX, KEEP, Picture
from assets.curation.filters.captions import CaptionFilter, clean_captions
from assets.curation.filters.settings import CaptionTextSection

SECTION = CaptionTextSection()


def judge(*captions: str):  # type: ignore[no-untyped-def]
    return CaptionFilter(SECTION).judge(Picture("0", np.zeros((8, 8, 3), np.uint8), captions))


@pytest.mark.parametrize(
    "caption",
    [
        "a red chair",
        "Café au lait, 3 €, on a table",
        "x < y and a > b",
        "AT&T store in 1999-2003",
        "赤い椅子",
        "ein großer Stuhl „alt“",
        "a 3.5 mm jack; Nestlé® 2 × 1,000 beads",
        "iPhone 12 on a desk",
        "image of a dog",
        "Привет, мир",
        "a mug from Etsy.com",
    ],
)
def test_good_captions_stay_letter_for_letter(caption: str) -> None:
    assert clean_captions((caption,), SECTION) == ([caption], [])
    assert judge(caption).decision == KEEP


@pytest.mark.parametrize(
    ("caption", "clean", "problem"),
    [
        ("CafÃ© au lait", "Café au lait", "mojibake"),
        ("a â€œsmallâ€\x9d chair", "a “small” chair", "mojibake"),
        ("<p>A &amp; B <b>mug</b></p>", "A & B mug", "html"),
        ("&lt;b&gt;chair&lt;/b&gt; on grass", "chair on grass", "html"),
        ("mug<br>on a table<script>alert(1)</script>", "mug on a table", "html"),
        ("a\u200b red\u202e chair", "a red chair", "hidden characters"),
        ("  a   red\n chair ", "a red chair", "white space"),
    ],
)
def test_repairs(caption: str, clean: str, problem: str) -> None:
    found = judge(caption)
    assert (found.decision, found.reason, found.detail) == (FIX, problem, {"captions": [clean]})


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("...", "empty"),
        ("NULL", "empty: a word for nothing"),
        ("N/A", "empty: a word for nothing"),
        ("No caption", "empty: a word for nothing"),
        ("IMG_2034.JPG", "file name"),
        ("DSC00123", "file name"),
        ("final version (2).png", "file name"),
        ("C:\\photos\\chair.jpeg", "file name"),
        ("9f86d081884c7d659a2feaa0c55ad015", "file name"),
        ("12345 67", "no words"),
        ("Nice chair https://shop.example/x", "spam: an address or a telephone number"),
        ("write to me@example.com", "spam: an address or a telephone number"),
        ("call +44 20 7946 0958", "spam: an address or a telephone number"),
        ("Buy now and get free shipping", "spam: a sales pitch"),
        ("shoes shoes shoes shoes shoes cheap", "spam: one word over and over"),
        ("#chair #red #home #deco", "spam: hashtags"),
    ],
)
def test_useless_captions_ask_for_a_new_one(caption: str, problem: str) -> None:
    found = judge(caption)
    assert found.decision == FIX
    assert found.reason == f"recaption: {problem}"
    assert found.detail == {"captions": [], "recaption": True}


def test_no_caption_at_all_asks_for_one() -> None:
    assert judge().reason == "recaption: no caption came with it"


def test_the_good_one_of_several_stays_in_order_and_once() -> None:
    found = judge("a mug", "IMG_1.JPG", "a &amp; b mugs", "a mug")
    assert found.detail == {"captions": ["a mug", "a & b mugs"]}
    assert found.reason == "file name; html; repeated"
    assert found.score == 0.5


def test_long_captions_end_with_a_sentence_or_a_word() -> None:
    section = CaptionTextSection(max_characters=40)
    (cut,), problems = clean_captions(("A red chair stands here. Behind it, a long wall.",), section)
    assert (cut, problems) == ("A red chair stands here.", ["too long: cut to 40 characters"])
    (word,), _ = clean_captions(("a red chair beside a very long and very blue wall",), section)
    assert word == "a red chair beside a very long and very"
