from __future__ import annotations

import base64

from llmos.security.signatures import SECRET_BYTES, new_secret, signed_headers


def test_a_message_is_signed_as_in_the_specifications_own_example() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, the libraries' shared test."""
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_is_of_32_random_bytes() -> None:
    secrets = {new_secret() for _ in range(10)}
    assert len(secrets) == 10
    for secret in secrets:
        prefix, _, encoded = secret.partition("_")
        assert (prefix, len(base64.b64decode(encoded))) == ("whsec", SECRET_BYTES)
