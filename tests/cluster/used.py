"""Which namespaces a test used: what is in them is shown when it fails. (Not in conftest.py: by that name another one may be imported.)"""

from __future__ import annotations

import pytest
from clusters import Namespace

__all__ = ["USED"]

USED = pytest.StashKey[list[Namespace]]()
