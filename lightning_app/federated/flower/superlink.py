"""Flower's SuperLink whose control is for its own host alone: `python -m lightning_app.federated.flower.superlink …`.

Flower 1.41 serves three interfaces on one port: `fleet`, to which owners connect, signed with their keys; `control`,
which starts runs and registers keys; and `runtime`, for the processes of a run. Without Flower's own accounts the
latter two ask nobody who he is. As a run is code that Flower executes, whoever reaches the port could run his at the
server. Here `fleet` is open to others, and everything else answers only to this host.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv6Address, ip_address

import uvicorn
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lightning_app.federated.flower.hooks import replace_in_flower

_OPEN = "/v1/fleet/"


class ControlFromHere:
    """Refuse every request from another host, unless it is an owner's.

    Args:
        app: what answers the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request with 403, or let it pass."""
        if scope["type"] == "lifespan" or scope["path"].startswith(_OPEN) or _is_here(scope.get("client")):
            await self.app(scope, receive, send)
            return
        words = "FaceVeil: runs are started, and owners registered, on the server's own host (run.sh)\n"
        await PlainTextResponse(words, status_code=403)(scope, receive, send)


def middleware() -> tuple[Middleware, ...]:
    """Return what Flower puts around its interfaces, outermost."""
    return (Middleware(ControlFromHere),)


def main() -> None:
    """Run `flower-superlink`, guarded, with the command line's arguments."""
    replace_in_flower("flwr.superlink.extensions", "get_middleware", middleware)
    # else a log that somebody follows (run.sh) keeps it from ending
    replace_in_flower("uvicorn", "run", partial(uvicorn.run, timeout_graceful_shutdown=5))
    from flwr.superlink.cli import flower_superlink

    flower_superlink()


def _is_here(client: tuple[str, int] | None) -> bool:
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


if __name__ == "__main__":
    main()
