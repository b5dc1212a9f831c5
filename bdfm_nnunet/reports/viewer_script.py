"""NiiVue, the viewer in the browser: found where it is installed, never part of this package.

https://github.com/niivue/niivue, BSD 2-Clause licence. The package `ipyniivue` brings it as one file of JavaScript, so
`pip install 'bdfm-nnunet[report]'` is all that a page with a viewer needs; `index.js` of the npm package
`@niivue/niivue` does as well.
"""

import logging
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_regular

logger = logging.getLogger(__name__)

PACKAGE = "ipyniivue"
HOW = "pip install 'bdfm-nnunet[report]'"
KNOWN = f"pip install {PACKAGE}==2.4.4, or name NiiVue's index.js with --viewer"
_SCRIPT = "ipyniivue/static/widget.js"
_CREATED = re.compile(r"Creating new Niivue instance.{1,200}?=new ([A-Za-z_$][\w$]*)\(", re.DOTALL)
_EXPORTED = re.compile(r"export\s*\{[^}]*\bNiivue\b[^}]*\}")
_ALIAS = "export{%s as Niivue};"


@dataclass(frozen=True)
class ViewerScript:
    """A script that exports the class `Niivue`.

    Attributes:
        source: a module of JavaScript.
        version: where it is from, in words.
        licence: its licence in full, where the package has it.
    """

    source: str
    version: str
    licence: str


def installed_viewer() -> ViewerScript | None:
    """Return the viewer of the installed package; None where there is none, or one that cannot be taken apart.

    The package's script exports a widget for notebooks. The class inside, whose name the bundler shortened, is the one
    that the widget makes an instance of; a line at the end exports it too.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return None
    try:
        source = read_regular(Path(str(package.locate_file(_SCRIPT)))).decode("utf-8")
    except (InputError, UnicodeDecodeError):
        return None
    licences = [path for path in package.files or () if path.name.startswith("LICENSE")]
    licence = Path(str(licences[0].locate())).read_text(encoding="utf-8", errors="replace") if licences else ""
    found = _CREATED.search(source)
    if found is None:
        logger.warning("%s %s is built in a way that this version does not know: %s", PACKAGE, package.version, KNOWN)
        return None
    return ViewerScript(f"{source}\n{_ALIAS % found[1]}\n", f"NiiVue of {PACKAGE} {package.version}", licence)


def read_viewer(path: Path) -> ViewerScript:
    """Read the viewer from a file, `dist/index.js` of the npm package `@niivue/niivue`.

    Raises:
        InputError: it cannot be read, or exports no class `Niivue`.
    """
    try:
        source = read_regular(path).decode("utf-8")
    except UnicodeDecodeError:
        source = ""
    if not _EXPORTED.search(source):
        raise InputError(f"{path} is no NiiVue module: name dist/index.js of the npm package @niivue/niivue, or {HOW}")
    return ViewerScript(source, f"NiiVue of {path.name}", "")
