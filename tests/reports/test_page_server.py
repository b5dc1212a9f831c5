"""The server of a page answers what the page asks, to this machine, and nothing else."""

import gzip
import http.client
import socket
import threading

import nibabel
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.reports.page_server import PageServer, ServedPage
from bdfm_nnunet.reports.reported_runs import read_runs
from bdfm_nnunet.reports.run_page import PageSettings
from bdfm_nnunet.reports.viewer_script import ViewerScript
from tests.reports.page_cohort import CASES, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs):
    viewer = ViewerScript("export class Niivue {}", "made up", "")
    return ServedPage(read_runs([str(runs["scratch"]), str(runs["tuned"])]), PageSettings(), viewer=viewer)


@pytest.fixture(scope="module")
def server(page):
    with PageServer(page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def ask(server, path, *, host=None, method="GET", key=None):
    path = f"/{server.key if key is None else key}{path}"
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{server.server_address[1]}" if host is None else host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read()
    finally:
        connection.close()


def test_page_holds_addresses_of_all_cases_in_the_place_of_volumes(server, page):
    status, kind, content = ask(server, "/")
    text = content.decode()
    assert (status, kind) == (200, "text/html; charset=utf-8") and len(page.found.cases) == len(CASES)
    for number in range(len(CASES)):
        assert f'src="pictures/{number}/2"' in text and f'"address": "volumes/{number}"' in text
    assert "connect-src data: blob: &#x27;self&#x27;" in text and "data:image/png" not in text


def test_pictures_and_volumes_are_those_of_the_case(server, page, runs):
    for number, case in enumerate(page.found.cases):
        assert all(ask(server, f"/pictures/{number}/{which}")[2].startswith(b"\x89PNG") for which in (0, 1, 2))
        status, kind, content = ask(server, f"/volumes/{number}/prediction-1")
        assert (status, kind) == (200, "application/octet-stream")
        shown = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
        there = nibabel.load(runs["tuned"].parent / "tuned" / f"{case}.nii.gz")
        assert (shown.get_fdata() > 0).sum() == (there.get_fdata() > 0).sum()


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/pictures/../../../etc/passwd",
        "/pictures/0/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/volumes/0/..%2f..%2f",
        "/volumes/0/image/../../../../etc/passwd",
        "/volumes/99/image",
        "/volumes/0/prediction-7",
        "/volumes/0/prediction",
        "/volumes/-1/image",
        "/volumes/\u0660/image",
        "/pictures/0/9",
        "/?file=/etc/passwd",
        "//etc/passwd",
        "/report.html",
    ],
)
def test_nothing_else_is_there(server, page, path):
    status, _, content = page.answer(path)
    assert (status, content) == (404, b"nothing is there")
    if path.isascii():
        assert ask(server, path)[::2] == (404, b"nothing is there")


def test_other_names_and_methods_are_refused(server):
    port = server.server_address[1]
    assert ask(server, "/", host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", ""):
        assert ask(server, "/", host=host)[0] == 403
    assert ask(server, "/", method="POST")[0] == 501


def test_without_its_key_nothing_is_told(server):
    for key in ("", "x", server.key[:-1], f"{server.key}x", f"x/{server.key}"):
        assert ask(server, "/", key=key)[0] == 403
    with PageServer(server.page) as other:
        assert len(server.key) >= 20 and other.key != server.key


def test_only_the_loopback_address_listens(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_address[1]}/{server.key}/"


def test_a_case_that_cannot_be_read_is_told(runs, tmp_path):
    for path in (runs["tuned"].parent / "imagesTr").iterdir():
        (tmp_path / path.name).write_bytes(b"no image")
    page = ServedPage(read_runs([str(runs["tuned"])], images=tmp_path), PageSettings())
    status, _, content = page.answer("/volumes/0/image")
    assert status == 404 and b"case_1_0000.nii.gz cannot be read as NIfTI" in content


def test_a_port_that_is_taken_is_one_sentence(page):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match=r"port \d+ cannot be had .*: name another with --port"):
            PageServer(page, other.getsockname()[1])
