"""
Which rights the user of a command lacks in a namespace: the API server is asked for each, several at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vanrouter.cli.namespace import NamespaceSite
from vanrouter.kube.rights import Right, ask, is_allowed

__all__ = ["lacking"]


def lacking(site: NamespaceSite, rights: Sequence[Right]) -> list[Right]:
    with ThreadPoolExecutor(8) as at_once:
        answers = list(at_once.map(lambda right: site.client.call(ask(right, site.namespace)), rights))
    return [right for right, answer in zip(rights, answers, strict=True) if not is_allowed(answer)]
