"""
The state of a site in Secrets: its identity key, its CA, the credentials of its links, admissions. The same words as ``stores.state``.

For threads. Each file is a key of a Secret; a credential is a Secret of its own, replaced as a whole (one write of the API server is
atomic). ``van-identity`` may be read by the routers, ``van-ca`` by the controller alone: hence two. What must exist once (the identity, the
CA) is made by ``establish``: of two controllers that start at the same time, both get what one of them made.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vanrouter.errors import ConfigError, StoreError
from vanrouter.kube.calls import Object, apply, create, delete, get, merge_patch
from vanrouter.kube.errors import AlreadyExists, NotFound
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import (
    ADMISSION,
    CA_SECRET,
    CREDENTIAL,
    IDENTITY_SECRET,
    STATE,
    STATE_SECRET,
    admission_secret,
    credential_secret,
    labelled,
    selector,
)
from vanrouter.model import parse_name

if TYPE_CHECKING:
    from vanrouter.kube.blocking import BlockingClient

__all__ = ["StateSecrets", "files_in", "secret_of"]

NAME: Final = "vanrouter.io/name"  # annotation: the name that we know it by
_HOLDER: Final = {"identity.key": IDENTITY_SECRET, "ca.key": CA_SECRET, "ca.crt": CA_SECRET}
ADMISSION_KEY: Final = "admission"
MAX_FILES: Final = 1 << 20


class StateSecrets:
    def __init__(self, client: BlockingClient, namespace: str, *, owners: tuple[Object, ...] = ()) -> None:
        self.namespace = namespace
        self._client, self._owners = client, owners

    # ---- Files of the site ---------------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """A file of the state, or None."""
        return (self._files(_HOLDER.get(name, STATE_SECRET)) or {}).get(name)

    def write(self, name: str, data: bytes) -> None:
        """Replace one file; others in the same Secret stay."""
        holder = _HOLDER.get(name, STATE_SECRET)
        if self._establish(holder, {name: data}) is None:
            self._client.call(merge_patch(SECRETS, self.namespace, holder, {"data": {name: _encode(data)}}))

    def establish(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Make these files (of one Secret) if there is none, and return those that are there now: ours, or another's who was first."""
        holders = {_HOLDER.get(name, STATE_SECRET) for name in files}
        if len(holders) != 1:
            raise ConfigError(f"{', '.join(files)} are not kept in one Secret")
        holder = holders.pop()
        made = self._establish(holder, files)
        found = made if made is not None else self._files(holder)
        if found is None or not all(name in found for name in files):
            raise StoreError(
                f"Secret/{holder} in {self.namespace} lacks {', '.join(n for n in files if n not in (found or {}))}",
                hint="restore it from a backup; what it held cannot be made again",
            )
        return {name: found[name] for name in files}

    # ---- Credentials ---------------------------------------------------------------------------------------------------------------------

    def credential_names(self) -> list[str]:
        return sorted(_name_of(o) for o in self._client.pages(SECRETS, self.namespace, labels=selector(CREDENTIAL), metadata_only=True))

    def read_credential(self, name: str) -> dict[str, bytes] | None:
        """Its files by name, or None."""
        return self._files(credential_secret(parse_name(name, "credential name")))

    def write_credential(self, name: str, files: Mapping[str, bytes]) -> None:
        """Replace a credential as a whole."""
        parse_name(name, "credential name")
        for file in files:
            if "/" in file or file.startswith("."):
                raise ConfigError(f"{file!r} is not a name for a file of a credential")
        value = secret_of(credential_secret(name), CREDENTIAL, files, owners=self._owners, name=name)
        self._client.call(apply(SECRETS, self.namespace, value))

    def delete_credential(self, name: str) -> None:
        self._remove(credential_secret(parse_name(name, "credential name")))

    # ---- Admissions ----------------------------------------------------------------------------------------------------------------------

    def write_admission(self, name: str, data: bytes) -> None:
        value = secret_of(
            admission_secret(parse_name(name, "admission name")), ADMISSION, {ADMISSION_KEY: data}, owners=self._owners, name=name
        )
        self._client.call(apply(SECRETS, self.namespace, value))

    def read_admissions(self) -> dict[str, bytes]:
        found = self._client.pages(SECRETS, self.namespace, labels=selector(ADMISSION))
        return dict(sorted((_name_of(o), files_in(o).get(ADMISSION_KEY, b"")) for o in found))

    def delete_admission(self, name: str) -> None:
        self._remove(admission_secret(parse_name(name, "admission name")))

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _files(self, secret: str) -> dict[str, bytes] | None:
        try:
            return files_in(self._client.call(get(SECRETS, self.namespace, secret)))
        except NotFound as exc:
            if "namespace" in exc.hint:
                raise
            return None

    def _establish(self, secret: str, files: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """None: there is one already."""
        try:
            self._client.call(create(SECRETS, self.namespace, secret_of(secret, STATE, files, owners=self._owners)))
        except AlreadyExists:
            return None
        return dict(files)

    def _remove(self, secret: str) -> None:
        try:
            self._client.call(delete(SECRETS, self.namespace, secret))
        except NotFound:
            return


def secret_of(secret: str, type_: str, files: Mapping[str, bytes], *, owners: tuple[Object, ...] = (), name: str = "") -> Object:
    """A Secret with these files. Raises StoreError when it is more than Kubernetes keeps."""
    if sum(map(len, files.values())) > MAX_FILES:
        raise StoreError(f"Secret/{secret} would have more than the {MAX_FILES} bytes that Kubernetes keeps")
    metadata = labelled(secret, type_, owners=owners)
    if name:
        metadata["annotations"] = {NAME: name}
    return {"metadata": metadata, "type": "Opaque", "data": {file: _encode(data) for file, data in files.items()}}


def files_in(value: Object) -> dict[str, bytes]:
    name = value.get("metadata", {}).get("name", "?")
    try:
        return {file: base64.b64decode(data, validate=True) for file, data in (value.get("data") or {}).items()}
    except (binascii.Error, ValueError, TypeError):
        raise StoreError(f"Secret/{name} holds what is not base64", hint="restore it") from None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _name_of(value: Object) -> str:
    metadata = value["metadata"]
    return str((metadata.get("annotations") or {}).get(NAME) or metadata["name"])
