"""One exchange with the endpoint: a picture goes out, an answer comes back. Failures are answers too.

Only what no other picture can change is an exception: a key that is not accepted, a model that is not there.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import TYPE_CHECKING

from assets.curation.captions.chat import Answer, read_answer, request_body, said
from assets.curation.captions.pace import retry_after
from assets.curation.captions.settings import CaptionSection
from infra.errors import BackdropError

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

_LARGEST = 1 << 20  # bytes of an answer: a caption has a few hundred
_CHUNK = 1 << 16
_BUSY, _TIMEOUT, _EARLY = 429, 408, 425


class Endpoint:
    """A chat endpoint with connections of its own, for any number of threads. Close it, or use it in a `with`.

    Raises BackdropError when the environment variable that is to hold the key is missing or holds no key.
    """

    def __init__(self, section: CaptionSection) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self._section = section
        self._bearer = Bearer(section.api_key_env)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=section.concurrency, max_retries=0))

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def ask(self, data: bytes) -> Answer:
        """A caption for an encoded picture. Raises BackdropError for a refused key and an unknown model."""
        import requests
        import urllib3

        from infra.images import BadImage

        try:
            body = json.dumps(request_body(self._section, data)).encode()
        except BadImage as error:
            return Answer(problem=f"not sent: {error.what}", refused=True)
        limit = self._section.timeout_s
        deadline = time.monotonic() + limit
        try:
            with self._session.post(
                self._section.endpoint,
                data=body,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                auth=self._bearer,  # an `auth` wins over a ~/.netrc, a header does not
                timeout=limit,
                stream=True,
                allow_redirects=False,  # a key goes to the host that was named, and nowhere else
            ) as response:
                return self._judge(response, _read(response, deadline))
        # What these exceptions hold (a prepared request, with its headers) must not travel on with a traceback.
        except (TimeoutError, requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
            return Answer(problem=f"no whole answer within {limit:g} s", again=True)
        except requests.RequestException as error:
            kind = type(error).__name__
            return Answer(problem=f"the connection failed ({kind})", again=True, reached=not _nobody(error))
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            return Answer(problem=f"the answer broke off ({type(error).__name__})", again=True)

    def _judge(self, response: Response, body: bytes | None) -> Answer:
        status = response.status_code
        if status == 200:
            if body is None:
                return Answer(problem=f"the answer is larger than {_LARGEST} bytes", again=True)
            return read_answer(body)
        if status == 401:  # its body may repeat the key: not shown
            raise BackdropError(
                f"the captioner at {self._section.endpoint} does not accept the API key (401)", self._bearer.remedy
            )
        words = said(body or b"", self._bearer.secret)
        problem = f"the service answered {status}" + (f": {words}" if words else "")
        if status == 404:
            raise BackdropError(
                f"there is no model '{self._section.model}' at {self._section.endpoint}: {problem}",
                "check url and model of the captions section against what the server serves (GET …/v1/models)",
            )
        if status in (_BUSY, _TIMEOUT, _EARLY) or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"), time.time())
            return Answer(problem=problem, again=True, wait=wait, busy=status == _BUSY or wait > 0)
        # 400, 413, 422 … are about this picture; 403 and redirects may be about all of them.
        return Answer(problem=problem, refused=status in (400, 413, 415, 422))


class Bearer:
    """Puts the key of the environment variable `name` on a request; the key shows in no repr and no message."""

    def __init__(self, name: str | None) -> None:
        self.secret = os.environ.get(name, "").strip() if name else ""
        self.remedy = f"check the environment variable {name}" if name else "name the key's variable in api_key_env"
        # A header with other characters is refused by exceptions that quote it.
        sound = self.secret.isascii() and self.secret.isprintable() and " " not in self.secret
        if name and not (self.secret and sound):
            state = "holds something that is no key" if self.secret else "is not set"
            raise BackdropError(
                f"the environment variable {name} (api_key_env of the captions) {state}",
                f"put the API key into {name} where the job runs, or unset api_key_env for a server without keys",
            )

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self.secret:
            request.headers["Authorization"] = f"Bearer {self.secret}"
        return request

    def __repr__(self) -> str:
        return "Bearer(…)"


def _read(response: Response, deadline: float) -> bytes | None:
    """The body; None when it is too large. Raises TimeoutError past the deadline, however slowly the bytes drip."""
    body = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > _LARGEST:
            return None
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _nobody(error: Exception) -> bool:
    """Whether no connection came about at all: refused, no such host, no route, no trusted certificate."""
    import requests
    import urllib3

    unreachable = (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    cause = error.args[0] if error.args else None
    return isinstance(error, unreachable) or isinstance(cause, urllib3.exceptions.MaxRetryError)
