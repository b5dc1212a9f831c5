"""`bdfm report`: a page of runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import command, each_once, pair, whole
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.reports.reported_runs import ReportedRun
    from bdfm_nnunet.reports.run_page import PageSettings
    from bdfm_nnunet.reports.viewer_script import ViewerScript


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "report", report, "write runs, their cases and how they compare as one page to look at")
    add("runs", nargs="+", metavar="RUN",
        help="file of a result or folder of a run, or NAME=PATH; of several, the first is compared with")  # fmt: skip
    add("-o", "--out", type=Path, metavar="DIR", help="folder of report.html, a file that needs no internet")
    add("--serve", action="store_true", help="show it to this machine's browser instead, with pictures of all cases")
    add("--port", type=whole, metavar="N", help="of --serve (default: any that is free)")
    add("--images", type=Path, metavar="DIR", help="folder of the images (default: imagesTr beside labelsTr)")
    add("--reference", type=Path, metavar="DIR", help="folder of the references (default: as the results say)")
    add("--predictions", action="append", type=pair, default=[], metavar="NAME=DIR",
        help="folder of a run's predictions (default: as its result says); may be repeated")  # fmt: skip
    add("--measure", metavar="NAME", help="score that sorts cases (default: Dice)")
    add("--channel", type=whole, default=0, metavar="N", help="number of the image to show (default: %(default)s)")
    add("--pictures", type=whole, default=40, metavar="N", help="cases with small pictures (default: %(default)s)")
    add("--viewer-cases", type=whole, default=6, metavar="N", help="worst and best cases in the viewer "
        "(default: %(default)s)")  # fmt: skip
    add("--viewer", type=Path, metavar="FILE", help="NiiVue's index.js (default: that of the report extra)")
    add("--title", default="", metavar="TEXT", help="heading of the page (default: the names of the runs)")


def report(settings: argparse.Namespace) -> int:
    """Write or serve the page."""
    from bdfm_nnunet.reports.reported_runs import read_runs
    from bdfm_nnunet.reports.run_page import PageSettings, write_page

    _check_mode(settings)
    predictions = {name: Path(path) for name, path in each_once(settings.predictions, "--predictions", "run").items()}
    for folder in filter(None, (settings.images, settings.reference, *predictions.values())):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: name the folder that holds the files of the cases")
    runs = read_runs(settings.runs, images=settings.images, reference=settings.reference, predictions=predictions)
    page = PageSettings(
        title=settings.title,
        measure=settings.measure,
        channel=settings.channel,
        pictures=settings.pictures,
        viewed=settings.viewer_cases,
    )
    viewer = _viewer(settings.viewer)
    if settings.serve:
        return _serve(runs, page, viewer, settings.port or 0)
    path = write_page(settings.out, runs, page, viewer=viewer)
    print(f"{path} ({path.stat().st_size / 2**20:.1f} MB): open it in a browser; it needs no internet")
    if viewer is None:
        from bdfm_nnunet.reports.viewer_script import HOW

        print(f"it is without the viewer; to have it: {HOW}")
    return 0


def _serve(runs: "list[ReportedRun]", page: "PageSettings", viewer: "ViewerScript | None", port: int) -> int:
    """Serve the page until Ctrl-C."""
    from bdfm_nnunet.reports.page_server import PageServer, ServedPage

    with PageServer(ServedPage(runs, page, viewer=viewer), port) as server:
        print(f"{server.address} shows the page, to this machine only; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0


def _viewer(path: Path | None) -> "ViewerScript | None":
    from bdfm_nnunet.reports.viewer_script import installed_viewer, read_viewer

    return installed_viewer() if path is None else read_viewer(path)


def _check_mode(settings: argparse.Namespace) -> None:
    if settings.serve == (settings.out is not None):
        raise InputError("a page is written with -o DIR or shown with --serve: give one of the two")
    if settings.port is not None and settings.port > 65535:
        raise InputError(f"--port {settings.port} is no port: name one from 1 to 65535, or none")
    if settings.port is not None and not settings.serve:
        raise InputError("--port belongs to --serve: leave it out, or show the page with --serve")
