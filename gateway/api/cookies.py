"""The cookies of a login session."""

from __future__ import annotations

from typing import Final, Literal

from litestar.datastructures import Cookie

from gateway.identity import CookieNames

REFRESH_PATH: Final = "/v1/auth"


class SessionCookies:
    """Access and refresh token for the browser's eyes only, the CSRF token for the page's."""

    def __init__(self, https: bool, access_s: int, refresh_s: int) -> None:
        self._https = https
        self._names = CookieNames.of(https)
        self._access_s = access_s
        self._refresh_s = refresh_s

    def given(self, access: str, refresh: str, csrf: str) -> list[Cookie]:
        return [
            self._cookie(self._names.session, access, self._access_s, "/"),
            self._cookie(self._names.refresh, refresh, self._refresh_s, REFRESH_PATH),
            self._cookie(self._names.csrf, csrf, self._refresh_s, "/", httponly=False),
        ]

    def cleared(self) -> list[Cookie]:
        return [
            self._cookie(self._names.session, "", 0, "/"),
            self._cookie(self._names.refresh, "", 0, REFRESH_PATH),
            self._cookie(self._names.csrf, "", 0, "/", httponly=False),
        ]

    def _cookie(self, name: str, value: str, max_age: int, path: str, httponly: bool = True) -> Cookie:
        samesite: Literal["strict"] = "strict"
        return Cookie(
            key=name,
            value=value,
            max_age=max_age,
            path=path,
            secure=self._https,
            httponly=httponly,
            samesite=samesite,
        )
