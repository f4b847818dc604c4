"""Backups that took the cache along, since nothing marked it as one."""

import pytest
from support.mounting import Mounts


@pytest.mark.promise("It is marked with `CACHEDIR.TAG`, so that backups can leave it out.")
def test_the_cache_is_marked(mount: Mounts) -> None:
    """`tar --exclude-caches` leaves the cache out, and `cache verify` takes the mark for a part of it."""
    made = mount("10028")
    made.umount()
    cache = made.account.home / "cache"
    tag = next(cache.rglob("CACHEDIR.TAG"))
    assert tag.read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    listed = made.run("bash", "-c", f"tar -C {cache} --exclude-caches -cf - . | tar -t").stdout.decode()
    assert "sqlite" not in listed
    done = made.account.empiarfs("cache", "verify")
    assert "CACHEDIR" not in done.stdout.decode() + done.stderr.decode()
