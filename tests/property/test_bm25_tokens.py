from __future__ import annotations

import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.retrieval.bm25 import _STOP_WORDS, bm25_tokens

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_NAMES = (
    "CJK",
    "KATAKANA",
    "HIRAGANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "MYANMAR",
    "KHMER",
    "HALFWIDTH KATAKANA",
    "IDEOGRAPHIC",
)
SPACED = st.characters(exclude_categories=["Cs", "Cn", "Co"]).filter(
    lambda character: not any(name in unicodedata.name(character, "") for name in _NAMES)
)


def _words_alone(text: str) -> list[str]:
    """What tokens were before unspaced scripts had their own: the published numbers are measured with these."""
    tokens = []
    for word in re.findall(r"\w+", text):
        tokens.append(word.lower())
        if word.isascii() and not (word.isalpha() and word[1:].islower()):
            parts = _PART.findall(word)
            tokens += [part.lower() for part in parts] if len(parts) > 1 else []
    return [token for token in tokens if token not in _STOP_WORDS]


@settings(max_examples=300, deadline=None)
@given(st.text(SPACED) | st.text(st.sampled_from("aZ_9 -éßЖяΩעب한é́’“🎉")))
def test_text_with_spaces_keeps_its_tokens(text: str) -> None:
    assert list(bm25_tokens(text)) == _words_alone(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("a 猫犬々カガ\u3099がｶﾞที่นำຂໍខ្មមြန်\u1039\U000e0100。ー1")))
def test_each_letter_is_in_some_token(text: str) -> None:
    """Unspaced runs lose no letter, and no token is longer than two letters with their marks."""
    joined = "".join(bm25_tokens(text))
    for character in unicodedata.normalize("NFKC", text):
        if unicodedata.category(character)[0] in "LN" and character != "a":
            assert character in joined
