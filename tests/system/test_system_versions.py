"""A router that speaks another version of the link protocol: named at the end that dials, with what to do, and it disturbs nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from linked import Linked, until

LATER = """\
import sys, vanrouter.baseline.handshake as handshake
from vanrouter.sites.process import run_process
handshake.VERSION = 2
sys.exit(run_process(sys.argv[1], "baseline"))
"""


def test_a_router_of_another_protocol_version_is_named_with_what_to_do_and_comes_back_with_the_right_one(linked: Linked) -> None:
    linked.set_up()
    directory = linked.host.home / "north"
    os.kill(linked.host.router("north"), signal.SIGKILL)
    with (directory / "run" / "router.log").open("ab") as log:
        later = subprocess.Popen([sys.executable, "-P", "-c", LATER, str(directory)], stdout=log, stderr=log, cwd="/")
    try:

        def named() -> Any:
            said = linked.operational("south")
            return said["status"] == "False" and "version" in said["message"] and said

        said = until("south names the version", named, seconds=30)
        assert "version 2" in said["message"]
        assert "van" in said["next"]
        assert "version" in said["next"]
        shown = linked.host.run("van", "-p", "linux", "-n", "south", "status").stdout
        assert "link" in shown
        assert "version" in shown
        assert linked.status("south")["site"]["ready"]
    finally:
        later.terminate()
        later.wait(10)
    linked.van("-n north init")
    linked.until_linked(seconds=60)
    until("hello answers again", linked.answers)
