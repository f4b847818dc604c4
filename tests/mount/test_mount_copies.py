"""Copies that an ordinary user makes of what is mounted: to be written over, added to, and deleted."""

from collections.abc import Callable

import pytest
from support.fixture_tree import DEEP
from support.mounting import Mount

# each copies the directory $1 to $2, which may be there from before
COPYING = {
    "cp -r": 'mkdir -p "$2" && cp -r "$1/." "$2"',
    "cp -a": 'mkdir -p "$2" && cp -a "$1/." "$2"',
    "cp --parents": 'mkdir -p "$2" && cd "$1" && cp -r --parents . "$2"',
    "tar": 'mkdir -p "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf -',
    "tar -p": 'mkdir -p "$2" && tar -C "$1" -cf - . | tar -C "$2" -xpf - --overwrite',
    "rsync -a": 'rsync -a --ignore-times "$1/" "$2"',
}
# each of these is what a user does with a copy, and fails where modes of a read-only medium were copied
USES = f"""\
echo more >> "$2/{DEEP}/bottom.txt"
echo new > "$2/{DEEP}/new.txt"
mkdir "$2/deep/2/made"
mv "$2/plain.mrc" "$2/deep/moved.mrc"
rm "$2/with space.mrc"
sed -i s/bottom/top/ "$2/{DEEP}/bottom.txt"
grep -q more "$2/{DEEP}/bottom.txt"
"""


@pytest.fixture
def mounted_by_user(shared_mounts: Callable[[str, str], Mount], binding: str) -> Mount:
    """The tree, mounted by an ordinary user: root may do everything with any copy."""
    return shared_mounts(binding, "user")


@pytest.mark.promise(
    "Files are 0644, directories 0755, all owned by the user who mounted: a copy has these modes, and its "
    "owner can overwrite and delete it."
)
@pytest.mark.parametrize("program", COPYING)
def test_a_copy_is_its_makers(mounted_by_user: Mount, program: str) -> None:
    """A copy equals the original, and its owner can change it at any depth, overwrite it and delete it."""
    made = mounted_by_user
    source, copy = made / "10001/data", made.account.home / f"copy by {program}"
    script = f"""\
set -e -o pipefail
copy() {{ ({COPYING[program]}); }}
copy "$1" "$2"
diff -r "$1" "$2"
{USES}
copy "$1" "$2"
cmp "$1/{DEEP}/bottom.txt" "$2/{DEEP}/bottom.txt"
cmp "$1/plain.mrc" "$2/plain.mrc"
rm -rf "$2"
test ! -e "$2"
"""
    done = made.run("bash", "-c", script, "bash", source, copy)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def test_a_single_file_is_copied_over_a_copy(mounted_by_user: Mount) -> None:
    """`cp FILE COPY` works a second time over the first copy."""
    made = mounted_by_user
    copy = made.account.home / "single.mrc"
    for _ in range(2):
        assert made.run("cp", made / "10028/data/micrograph.mrc", copy).returncode == 0
    made.run("rm", copy)
