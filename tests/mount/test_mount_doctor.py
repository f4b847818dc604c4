"""`empiarfs doctor` where mounts are made: the same users, the same bindings, a real server."""

from support.apache import Apache
from support.mounting import Mounts


def test_where_mounts_work_all_is_well(mount: Mounts, apache: Apache, binding: str, user: str) -> None:
    """`doctor` reports no problem for both users and bindings, and a mount works afterwards."""
    account = mount.account(user, binding)
    there = account.home / "there"
    done = account.empiarfs("doctor", there, f"--base-url={mount.base_url}", timeout=60)
    lines = done.stdout.decode().splitlines()
    problems = [line for line in lines if line.startswith(("bad", "warn")) and "updatedb" not in line]
    assert (done.returncode, problems) == (0, [])
    assert done.stderr == b""
    assert any(binding in line and "libfuse" in line for line in lines)
    assert sum(line.endswith(" works") for line in lines) == 2
    assert f"a mount on {there} works" in done.stdout.decode()
    assert not there.exists()
    assert any("one connection transfers" in line for line in lines)
    assert len(apache.requests()) <= 15
    mount("10028", account=account)
