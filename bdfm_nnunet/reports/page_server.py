"""`bdfm report --serve`: the page for this machine's browser, with pictures and volumes of every case on request.

The server listens on the loopback address alone. It answers only requests that name it so, which keeps other web sites
out, and that know the key of its address, which is drawn anew each time and keeps other users of the machine out. A
request chooses a case by its number in the table; nothing in it becomes a path.
"""

import logging
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.reports.case_comparison import Comparison
from bdfm_nnunet.reports.case_pictures import CaseImages, read_case
from bdfm_nnunet.reports.case_sections import ShownCases
from bdfm_nnunet.reports.reported_runs import ReportedRun
from bdfm_nnunet.reports.run_page import (
    HOW_TO_NAME,
    PageSettings,
    comparison_of,
    folders_told,
    label_names,
    page_text,
    place_told,
    scored,
)
from bdfm_nnunet.reports.viewer_script import ViewerScript
from bdfm_nnunet.safe_names import printable

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_PICTURE = re.compile(r"/pictures/([0-9]{1,9})/([0-9]{1,3})")
_VOLUME = re.compile(r"/volumes/([0-9]{1,9})/(?:(image|reference)|(prediction|disagreement)-([0-9]{1,3}))")
_MOST_VOXELS = 20_000_000
_KEPT = 4
Answer = tuple[HTTPStatus, str, bytes]


class ServedPage:
    """The answers to requests.

    Args:
        runs: at least one.
        settings: title, measure and channel of the page.
        viewer: None where it is not installed.

    Raises:
        InputError: runs cannot be compared.
    """

    def __init__(
        self, runs: Sequence[ReportedRun], settings: PageSettings, *, viewer: ViewerScript | None = None
    ) -> None:
        self.found = comparison_of(runs, settings.measure)
        shown = _addresses(self.found, runs) if self.found else None
        text = page_text(runs, settings, self.found, shown, viewer, served=True)
        self._page = text.encode("utf-8")
        self._runs = scored(runs, self.found) if self.found else []
        self._lock = Lock()
        self._read = lru_cache(_KEPT)(lambda case: read_case(case, self._runs, channel=settings.channel))

    def answer(self, path: str) -> Answer:
        """Return status, type and content for the path of a request."""
        if path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", self._page
        try:
            if asked := _PICTURE.fullmatch(path):
                run = self._run_of(int(asked[2]) - 1) if int(asked[2]) else None
                return HTTPStatus.OK, "image/png", self._case(int(asked[1])).picture(run)[0]
            if asked := _VOLUME.fullmatch(path):
                case = self._case(int(asked[1])).smaller(_MOST_VOXELS)
                content = case.volume(asked[2]) if asked[2] else case.volume(asked[3], self._run_of(int(asked[4])))
                return HTTPStatus.OK, "application/octet-stream", content
        except InputError as error:
            return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", printable(str(error)).encode()
        except IndexError:
            pass
        return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"nothing is there"

    def _case(self, number: int) -> CaseImages:
        if self.found is None:
            raise IndexError
        case = self.found.cases[number]
        with self._lock:
            return self._read(case)

    def _run_of(self, number: int) -> str:
        return self._runs[number].name


def _addresses(found: Comparison, runs: Sequence[ReportedRun]) -> ShownCases:
    """Return every case with the addresses of its pictures and volumes."""
    with_scores = scored(runs, found)
    folders = with_scores[0].folders
    if not (folders.images and folders.reference and all(run.folders.predictions for run in with_scores)):
        return ShownCases(found.cases, notes=[f"There are no pictures. {HOW_TO_NAME}."])
    told = ["its reference", *(f"prediction of {run} against the reference" for run in found.runs)]
    pictures = {
        case: [(f"pictures/{at}/{number}", words) for number, words in enumerate(told)]
        for at, case in enumerate(found.cases)
    }
    viewed: list[dict[str, Any]] = [
        {"case": case, "told": place_told(found, case, at), "address": f"volumes/{at}"}
        for at, case in enumerate(found.cases)
    ]
    return ShownCases(found.cases, pictures, viewed, folders_told(with_scores), label_names(runs))


class _Handler(BaseHTTPRequestHandler):
    """Hands GET requests that name the loopback address to the page."""

    server: "PageServer"

    def do_GET(self) -> None:
        """Answer a request."""
        port = self.server.server_address[1]
        named = self.headers.get("Host") in (f"{LOOPBACK}:{port}", f"localhost:{port}")
        _, key, rest = (self.path.split("/", 2) + ["", ""])[:3]
        if named and secrets.compare_digest(key.encode("utf-8", "replace"), self.server.key.encode()):
            self._send(self.server.page.answer(f"/{rest}"))
        else:
            self._send((HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"take the address as it was shown"))

    def _send(self, answer: Answer) -> None:
        status, kind, content = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep requests out of the terminal."""
        logger.debug(format, *arguments)


class PageServer(ThreadingHTTPServer):
    """A server of one page on the loopback address.

    Args:
        page: what it answers.
        port: 0 takes any that is free.

    Raises:
        InputError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, page: ServedPage, port: int = 0) -> None:
        self.page = page
        self.key = secrets.token_urlsafe(16)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port} cannot be had ({error}): name another with --port, or none") from None

    @property
    def address(self) -> str:
        """Address of the page, with its key."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.key}/"
