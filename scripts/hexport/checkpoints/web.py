"""This module makes HTTPS requests as every download needs them.

No step of a redirection goes over http, answers that are read into memory have a limit in size, and each fault is one
line.
"""

import contextlib
import time
from collections.abc import Iterator

import httpx2
from huggingface_hub import constants, get_session, logging, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import hf_raise_for_status

from hexport.errors import HexportError, one_line

logging.set_verbosity_error()  # it warns of retries, and of tokens that are not needed

MAX_SECONDS = 60  # that an answer may take that is read into memory


def _client() -> httpx2.Client:
    """Return the client, which huggingface_hub uses too. The usual variables set its proxy and certificates."""
    return httpx2.Client(event_hooks={"request": [_check_request]}, follow_redirects=True, max_redirects=10)


def _check_request(request: httpx2.Request) -> None:
    """Check each step of a redirection before anything is sent. Raises HexportError where it is not https."""
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled
    if request.url.scheme != "https":
        raise HexportError(
            f"{request.url}: the server leads to {request.url.scheme}://, which anyone on the way can change; "
            "use another address"
        )


set_client_factory(_client)


@contextlib.contextmanager
def open_url(url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """Yield the answer of a server, to be read as a stream.

    Raises HfHubHTTPError where the server refuses, OfflineModeIsEnabled where HF_HUB_OFFLINE is set, and HexportError
    for a redirection to http.
    """
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        if response.is_error:
            # The body of a refusal stays unread, as it may have any size and form.
            said = {key: value for key, value in response.headers.items() if key.startswith("x-")}
            response = httpx2.Response(response.status_code, headers=said, request=response.request)
        hf_raise_for_status(response)
        yield response


def read_url(url: str, headers: dict[str, str], limit: int) -> bytes:
    """Return the body of an answer.

    Raises HexportError where it has more than `limit` bytes or takes longer than MAX_SECONDS, and what `open_url`
    raises.
    """
    body, end = bytearray(), time.monotonic() + MAX_SECONDS
    with open_url(url, headers) as response:
        for chunk in response.iter_bytes(1 << 16):
            body += chunk
            if len(body) > limit:
                raise HexportError(f"{url}: an answer of more than {limit / 1e6:.1f} MB; is this the server you mean?")
            if time.monotonic() > end:
                raise HexportError(f"{url}: an answer that takes more than {MAX_SECONDS} seconds; run again later")
    return bytes(body)


@contextlib.contextmanager
def one_line_http_errors(uri: str) -> Iterator[None]:
    """Turn what goes wrong between this machine and a server into a HexportError of one line."""
    try:
        yield
    except HfHubHTTPError as error:
        response = error.response
        raise HexportError(
            f"{uri}: {response.url.host} answers {response.status_code} {response.reason_phrase}; "
            "check the address, or run again later to continue"
        ) from None
    except OfflineModeIsEnabled:
        raise HexportError(f"{uri}: HF_HUB_OFFLINE is set; unset it to download") from None
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise HexportError(f"{uri}: not an address: {error}") from None
    except httpx2.HTTPError as error:
        reason = one_line(error)
        raise HexportError(f"{uri}: no connection: {reason}; check the network, and run again to continue") from None
