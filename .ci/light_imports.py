"""
What `van` loads before it knows the command: no Rust core, no heavy library, nothing that only Linux has.

`van` also serves laptops of any kind, and `van --help` has 200 ms. The import contracts see what is written; this sees what is loaded.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

MODULES: Final = ("vanrouter", "vanrouter.cli.main")
OURS: Final = ("vanrouter._core", "vanrouter.native", "vanrouter.baseline", "vanrouter.sites")
HEAVY: Final = ("cryptography", "trio", "yaml")
UNIX_ONLY: Final = ("fcntl", "grp", "pwd", "resource", "termios")
PROBE: Final = "import sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", PROBE.format(module=module)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def main() -> int:
    broken = [(module, name) for module in MODULES for name in sorted(loaded_by(module) & {*OURS, *HEAVY, *UNIX_ONLY})]
    for module, name in broken:
        print(f"importing {module} loads {name}: import it inside the command that needs it")
        print(f"  (python -X importtime -c 'import {module}' shows where)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
