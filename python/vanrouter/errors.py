"""
Everything vanrouter raises on purpose. The class says whose fault it is, and log level and retry follow from the class.

* VanrouterError
  x ConfigError               the operator can fix it; nothing was started or changed
    + InvalidResource         a resource is malformed; carries the path of what is wrong
  x LocalProtocolError        we broke our own rules: a bug, never retried
    + StaleGeneration         changes were made on a generation that is not in force: send a snapshot
  x LinkError                 one link is unusable; others are unaffected
    + RemoteProtocolError     the peer broke the rules: close, back off, redial
    + PeerRejected            its certificate, identity or version is unacceptable; redialling cannot help
  x TokenError                an access token cannot be made, read or redeemed
  x StoreError                state could not be read or written; the old state is intact
  x StreamError               one stream failed
    + NoSuchKey               nobody serves this routing key
    + StreamRefused           opened nowhere: the targets refused, or nothing answered in time; carries the class
      + StreamDenied          the policy of a site on the way forbids it: asking again cannot help
    + StreamReset             ended by a reset; carries its class
  x UsageError                the embedding API was called where it cannot be: another thread or loop, after its end, in a fork
  x NotReady                  the site, or what was waited for, is not there yet (exit code 3)
  x DeadlineExceeded          what was waited for did not happen in time (exit code 4)
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DeadlineExceeded",
    "InvalidResource",
    "LinkError",
    "LocalProtocolError",
    "NoSuchKey",
    "NotReady",
    "PeerRejected",
    "RemoteProtocolError",
    "StaleGeneration",
    "StoreError",
    "StreamDenied",
    "StreamError",
    "StreamRefused",
    "StreamReset",
    "TokenError",
    "UsageError",
    "VanrouterError",
    "refusal",
]


class VanrouterError(Exception):
    """Base of everything raised on purpose. ``str()`` says what failed and why; ``hint`` what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(VanrouterError):
    """The operator can fix it; nothing was started or changed."""


class InvalidResource(ConfigError):
    """A resource is malformed. ``path`` is like ``Listener/hello: spec.port``."""

    def __init__(self, path: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {message}", hint=hint)
        self.path = path


class LocalProtocolError(VanrouterError):
    """We broke our own rules: a bug."""


class StaleGeneration(LocalProtocolError):
    """Changes name a base generation that is not in force. Send a complete snapshot."""


class LinkError(VanrouterError):
    """One link failed. ``retryable`` is the supervisor's whole retry policy."""

    retryable = True


class RemoteProtocolError(LinkError):
    """The peer broke the rules of the protocol: close, back off, redial."""


class PeerRejected(LinkError):
    """Redialling cannot help until credentials, identities or versions change."""

    retryable = False


class TokenError(VanrouterError):
    """An access token cannot be made, read or redeemed. ``reason`` is the word for programs; the message is for people.

    About the file: ``malformed``, ``mode``, ``exists``. Known before asking: ``own`` (issued by this very site), ``used`` (by this site
    already). From asking: ``refused`` (bad, used or expired), ``later``, ``unreachable``, ``expired`` (long ago, and
    unreachable), ``wrong_ca``, ``clock``, ``reply`` (the answer was nonsense).
    """

    def __init__(self, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Whether asking again with the same pending redemption can help."""
        return self.reason in {"later", "unreachable", "clock", "reply"}


class StoreError(VanrouterError):
    """State could not be read or written; what was there before is intact."""


class StreamError(VanrouterError):
    """One stream failed."""


class NoSuchKey(StreamError):
    """No site of the network serves this routing key."""


class StreamRefused(StreamError):
    """The stream was opened nowhere: every target refused, or none answered in time.

    ``stream_class``: ``refused`` (the message has the last reason; later it may be taken), ``policy``, ``drain`` (this router is leaving).
    """

    def __init__(self, message: str, *, stream_class: str = "refused", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stream_class = stream_class


class StreamDenied(StreamRefused):
    """A site's policy forbids this stream. Asking again cannot help until the policy changes."""

    def __init__(self, message: str, *, stream_class: str = "policy", hint: str = "") -> None:
        super().__init__(message, stream_class=stream_class, hint=hint)


class StreamReset(StreamError):
    """Ended by a reset. ``stream_class`` is one of ``vanrouter.model.StreamClass``."""

    def __init__(self, message: str, *, stream_class: str = "link", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stream_class = stream_class


class UsageError(VanrouterError, RuntimeError):
    """The program called where it cannot: from another thread or loop, after the block's end, or in a fork of the process."""


class NotReady(VanrouterError):
    """What is asked for is not there yet."""


class DeadlineExceeded(VanrouterError):
    """What was waited for did not happen in time. The message says what was waited for."""


def refusal(message: str, stream_class: str) -> StreamRefused:
    """The error for a stream that was opened nowhere, by the class of the last answer."""
    return StreamDenied(message) if stream_class == "policy" else StreamRefused(message, stream_class=stream_class)
