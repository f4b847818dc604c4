"""Each promise of SEMANTICS.md is quoted above a test that keeps it, and nothing else is quoted."""

from pathlib import Path

import pytest
from support import promises
from support.promises import Quotation

TESTS = Path(__file__).resolve().parent.parent
DOCUMENT = TESTS.parent / "SEMANTICS.md"

ADVICE = """
A promise without a test: find or write the test that keeps it, and put above it, word by word,
    @pytest.mark.promise("the sentence")
A quotation that is no promise: SEMANTICS.md says it otherwise now. See whether the test keeps what it says."""


def test_every_promise_is_quoted_above_a_test() -> None:
    """A test quotes each promise of SEMANTICS.md, and no test quotes anything else."""
    found = promises.mistakes(DOCUMENT.read_text(encoding="utf-8"), promises.quoted(TESTS))
    assert not found, "\n\n".join(["", *found, ADVICE])


def test_the_document_is_read_whole() -> None:
    """Every line that is neither a title nor the preface belongs to a promise."""
    text = DOCUMENT.read_text(encoding="utf-8")
    body = text[text.index("\n## ") :]
    lines = [line for line in body.splitlines() if line and not line.startswith("## ")]
    bullets = " ".join(" ".join(line.removeprefix("* ").split()) for line in lines)
    assert " ".join(promises.promised(text)) == bullets


def quoting(*texts: str) -> list[Quotation]:
    """Return quotations of `texts`."""
    return [Quotation(text, "test_a.py:7: test_it") for text in texts]


TEXT = """\
# Title

A preface promises nothing.

* Files are `0644`, and so
  on. `ls` is cheap (mostly). Sizes, e.g. of a file, are exact.
- Names stay.
"""


def test_a_promise_is_a_sentence_of_a_bullet() -> None:
    """A promise is a sentence of a bullet, its lines joined, and no abbreviation or code ends it."""
    assert promises.promised(TEXT) == [
        "Files are `0644`, and so on.",
        "`ls` is cheap (mostly).",
        "Sizes, e.g. of a file, are exact.",
        "Names stay.",
    ]


def test_a_promise_that_no_test_quotes_is_reported() -> None:
    """A promise that no test quotes is reported with its text."""
    found = promises.mistakes(TEXT, quoting("Files are `0644`, and so on. `ls` is cheap (mostly).", "Names stay."))
    assert found == ["no test quotes this promise:\n    Sizes, e.g. of a file, are exact."]


def test_a_quotation_that_is_no_promise_is_reported() -> None:
    """A quotation that is no promise is reported with its place and the nearest promise."""
    (found,) = promises.mistakes("* Names stay.", quoting("Names stay.", "Names stay put."))
    assert "test_a.py:7: test_it quotes what is not promised:\n    Names stay put." in found
    assert "the nearest promise is:\n    Names stay." in found


@pytest.mark.parametrize("words", ["stay.", "Names", "Names stay. Or not."])
def test_a_part_of_a_promise_is_not_enough(words: str) -> None:
    """A part of a sentence is no quotation of it."""
    assert any("not promised" in one for one in promises.mistakes("* Names stay.", quoting(words)))


def test_quotations_are_found_above_tests_alone(tmp_path: Path) -> None:
    """Quotations, written out or as a constant, are found above tests of any folder, and not above helpers."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_it.py").write_text(
        "@pytest.mark.promise('One.')\n@pytest.mark.promise('Tw' 'o.', 'Three.')\ndef test_it() -> None: ...\n"
        "@pytest.mark.promise('Four.')\ndef helper() -> None: ...\n"
        "FIVE = 'Fi' 've.'\n@pytest.mark.promise(FIVE)\ndef test_five() -> None: ...\n"
    )
    assert [one.text for one in promises.quoted(tmp_path)] == ["One.", "Two.", "Three.", "Five."]
