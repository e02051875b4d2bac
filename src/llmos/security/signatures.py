"""Signatures by which a receiver knows that a webhook's message is from this llmos, and whole.

As Standard Webhooks has them (https://www.standardwebhooks.com): HMAC-SHA256 over
``id.timestamp.body``, the secret and the signature in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

SECRET_BYTES = 32
PREFIX = "whsec_"


def new_secret() -> str:
    """Return a secret for one receiver."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, at: float, body: bytes) -> dict[str, str]:
    """Return the headers that a message is sent with.

    Args:
        secret: from `new_secret`.
        message_id: the same each time that this message is sent.
        at: Unix seconds of this time; receivers refuse what is far off their own clock.
    """
    timestamp = str(int(at))
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
