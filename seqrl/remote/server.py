"""Which Hub is talked to, and as whom: read from the environment when it is needed, so that it counts whenever it is set."""

import ipaddress
import os
import re
import urllib.parse


def endpoint() -> str:
    """The server that is talked to: ``HF_ENDPOINT``, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def address() -> str:
    """The endpoint as it may be shown: without the password that may stand in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", endpoint())


def host() -> str:
    """The endpoint's name and port, for messages."""
    return urllib.parse.urlsplit(address()).netloc or address()


def is_loopback() -> bool:
    """Whether the endpoint is on this machine."""
    name = urllib.parse.urlsplit(endpoint()).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def token() -> str | None:
    """The access token that requests carry, from ``HF_TOKEN`` or ``hf auth login``; None without one."""
    from huggingface_hub import get_token

    return get_token()


def offline() -> bool:
    """Whether somebody has forbidden requests (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return constants.is_offline_mode()
