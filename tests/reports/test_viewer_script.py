"""The viewer is found where it is installed, made to export its class, and refused where it is another script."""

from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.reports import viewer_script
from bdfm_nnunet.reports.viewer_script import installed_viewer, read_viewer

WIDGET = 'var t2=class{};var n={render(){console.log("Creating new Niivue instance");let B={},C=f(B);v=new t2(C)}};'


class Package:
    """An installed package with one script and a licence."""

    version = "9.9"

    def __init__(self, root: Path, script: str) -> None:
        self.root = root
        (root / "ipyniivue" / "static").mkdir(parents=True)
        (root / "ipyniivue" / "static" / "widget.js").write_text(script)
        (root / "LICENSE").write_text("BSD 2-Clause License")
        self.files = [self.File("LICENSE", root)]

    def locate_file(self, name: str) -> Path:
        return self.root / name

    class File:
        def __init__(self, name: str, root: Path) -> None:
            self.name, self.root = name, root

        def locate(self) -> Path:
            return self.root / self.name


def test_the_class_inside_the_package_is_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(viewer_script, "distribution", lambda name: Package(tmp_path, WIDGET + "export{n as default};"))
    found = installed_viewer()
    assert found is not None
    assert found.source.endswith("export{n as default};\nexport{t2 as Niivue};\n")
    assert (found.version, found.licence) == ("NiiVue of ipyniivue 9.9", "BSD 2-Clause License")


def test_a_package_built_in_another_way_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(viewer_script, "distribution", lambda name: Package(tmp_path, "export default 1;"))
    assert installed_viewer() is None
    assert "ipyniivue 9.9 is built in a way that this version does not know: pip install ipyniivue==" in caplog.text


def test_the_installed_version_is_known():
    pytest.importorskip("ipyniivue")
    found = installed_viewer()
    assert found is not None and found.source.rstrip().endswith("as Niivue};") and "Redistribution" in found.licence


@pytest.mark.parametrize("content", [b"\xff\xfe", b"alert(1)", b"export { NotNiivue };", b""])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "index.js").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.js is no NiiVue module: name dist/index\.js of the npm package"):
        read_viewer(tmp_path / "index.js")


def test_the_module_of_the_npm_package_is_taken_as_it_is(tmp_path):
    text = "class Niivue {}\nexport {\n  NVImage,\n  Niivue,\n};\n//# sourceMappingURL=index.js.map"
    (tmp_path / "index.js").write_text(text)
    assert read_viewer(tmp_path / "index.js").source == text
