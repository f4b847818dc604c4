"""The promises of a document, the quotations above tests, and what is missing of either.

A promise is one sentence of a bullet of the document. A test quotes one or several, word by word:
`@pytest.mark.promise("Inode numbers are the same at every mount.")`.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BULLET = re.compile(r"^[*-] (.*(?:\n(?:[ \t]+\S.*))*)", re.MULTILINE)
# a sentence ends before a space and a capital, code, or a bracket
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(])|(?<=[.!?]\))\s+(?=[A-Z`(])")


@dataclass(frozen=True, slots=True)
class Quotation:
    """What stands above a test.

    Attributes:
        text: as it is written there.
        where: file, line and test.
    """

    text: str
    where: str


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`, with single spaces."""
    return [" ".join(one.split()) for one in _END.split(text.strip())]


def promised(document: str) -> list[str]:
    """Return the promises of `document`, in order."""
    return [one for bullet in _BULLET.findall(document) for one in sentences(bullet)]


def quoted(folder: Path) -> Iterator[Quotation]:
    """Yield the quotations above the tests below `folder`, whichever of them are run; nothing is imported."""
    for file in sorted(folder.rglob("test_*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        constants = dict(_constants(module))
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for decorator in node.decorator_list:
                    for text in _quotations(decorator, constants):
                        yield Quotation(text, f"{file.relative_to(folder)}:{decorator.lineno}: {node.name}")


def _constants(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() as value):
                yield name, value


def _quotations(decorator: ast.expr, constants: Mapping[str, ast.expr]) -> list[str]:
    match decorator:
        case ast.Call(func=ast.Attribute(attr="promise"), args=args):
            values = [constants.get(one.id, one) if isinstance(one, ast.Name) else one for one in args]
            return [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return []


def mistakes(document: str, quotations: Iterable[Quotation]) -> list[str]:
    """Return a line for each promise that no test quotes, and for each sentence quoted that is no promise."""
    promises = promised(document)
    missing = dict.fromkeys(promises)
    found = []
    for quotation in quotations:
        for one in sentences(quotation.text):
            missing.pop(one, None)
            if one not in promises:
                found.append(f"{quotation.where} quotes what is not promised:\n    {one}{_nearest(one, promises)}")
    return [*(f"no test quotes this promise:\n    {one}" for one in missing), *found]


def _nearest(text: str, promises: list[str]) -> str:
    near = difflib.get_close_matches(text, promises, n=1)
    return f"\n  the nearest promise is:\n    {near[0]}" if near else ""
