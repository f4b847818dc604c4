"""Shell completion: paths that the index knows, and mount points; sends no request."""

import os
from collections.abc import Iterator

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, add_completion_class

from empiarfs.cli import options
from empiarfs.model import Directory, Node, base_name, is_entry_number
from empiarfs.paths import entry_of
from empiarfs.settings import SAMPLE, BadSetting, Settings, archive_name
from empiarfs.storage.index import SqliteIndex, index_file

_FILES_OF_THE_SHELL = ("/", ".", "~")
_EXPANDED = frozenset("$`")  # bash would insert them without quotes, and then run what a server has written
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line type value
    local words="${COMP_WORDS[*]}"
    COMPREPLY=()
    while IFS= read -r line; do
        type=${line%%%%,*} value=${line#*,}
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) compopt -o filenames; COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="$words" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Completion in bash, which quotes what it inserts; click's inserts names as they are, and expands patterns."""

    source_template = _BASH


class _Fish(FishComplete):
    """Completion in fish, with names that hold a comma; click's ends there."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","')


add_completion_class(_Bash)
add_completion_class(_Fish)


def archive_paths(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the paths that begin with `incomplete`, of those that were ever listed."""
    if incomplete.startswith(_FILES_OF_THE_SHELL):
        return [CompletionItem(incomplete, type="file")]  # inside a mount
    return [CompletionItem(path) for path in _paths(context, incomplete)]


def entries(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the entries that begin with `incomplete`, of those that were ever listed."""
    return [CompletionItem(path[:-1]) for path in _paths(context, incomplete) if path.find("/") == len(path) - 1]


def mount_points(_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the mounts of empiarfs that begin with `incomplete`; directories if none does."""
    from empiarfs.mount import mount_table  # noqa: PLC0415 - Linux alone has the table it reads

    ours = [one.point for one in mount_table.table() if one.kind == mount_table.KIND]
    begun = os.path.abspath(incomplete)  # noqa: PTH100 - a Path keeps ".."
    found = [CompletionItem(point) for point in ours if point.startswith(begun)]
    return found or [CompletionItem(incomplete, type="dir")]


def _paths(context: click.Context, incomplete: str) -> Iterator[str]:
    directory, slash, begun = incomplete.rpartition("/")
    first, *rest = directory.split("/")
    known = _children(context, "/".join([entry_of(first) or first, *rest]))
    matching = [node for node in known if base_name(node.path).startswith(begun)]
    for node in matching:
        shown = f"{directory}{slash}{base_name(node.path)}"
        if not isinstance(node, Directory):
            yield shown
            continue
        yield f"{shown}/"
        if len(matching) == 1:  # else zsh puts a space behind the only match
            yield from (f"{shown}/{base_name(child.path)}" for child in _children(context, node.path))


def _children(context: click.Context, directory: str) -> list[Node]:
    """Return the known children of `directory` whose names a shell can quote; none if there is no index."""
    try:
        chosen = options.load(context.params, Settings())
    except BadSetting:
        return []
    name = SAMPLE if context.params.get("sample") else archive_name(chosen.base_url)
    file = index_file(chosen.cache_dir, name)
    if not file.exists():
        return []
    index = SqliteIndex(file)
    known = index.directory(directory)
    index.close()
    return [node for node in known.nodes.values() if _is_fit(node)] if known else []


def _is_fit(node: Node) -> bool:
    """Return whether a shell can quote the name of `node`, which at the root is that of an entry."""
    name = base_name(node.path)
    return name.isprintable() and _EXPANDED.isdisjoint(name) and ("/" in node.path or is_entry_number(name))
