"""Who asks: a role for every request, set by the guard before the application, asked for by the routes.

@router.put("/api/loras", dependencies=[needs(Role.ADMIN)])
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from starlette.requests import HTTPConnection

from web.errors import RefusalError

SCOPE = "livebrush.role"  # where the guard leaves it in the ASGI scope


class Role(IntEnum):
    """What somebody may do; each includes those before it."""

    NOBODY = 0
    VIEW = 1  # look at pictures, read facts
    CONTROL = 2  # begin sessions, publish, change settings
    ADMIN = 3  # open sources and outputs of this machine, everybody's things


def role_of(connection: HTTPConnection) -> Role:
    """The role of whoever asks. Without a guard before the application (tests) everybody may do everything."""
    return Role(connection.scope.get(SCOPE, Role.ADMIN))


def needs(least: Role) -> Any:
    """A dependency that refuses whoever may do less: 401 where nobody is known, 403 where the role is too small."""
    from fastapi import Depends  # heavy, and not for those who only want to know what a role is

    def check(connection: HTTPConnection) -> Role:
        role = role_of(connection)
        if role < least:
            raise refusal(role, least)
        return role

    return Depends(check)


def refusal(role: Role, least: Role) -> RefusalError:
    """What somebody is told whose role is too small."""
    needed = f"this needs the role {least.name.lower()}"
    if role is Role.NOBODY:
        headers = {"WWW-Authenticate": 'Bearer realm="livebrush"'}
        return RefusalError(401, f"{needed}: send a token (Authorization: Bearer ...)", headers=headers)
    return RefusalError(403, f"{needed}, and yours is {role.name.lower()}: use another token")
