"""Reading of splits_final.json and splits_table.json; their content is checked before it is used."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.safe_names import check_name

SPLITS = "splits_final.json"
SPLITS_TABLE = "splits_table.json"
DRAWN = "test=drawn"
"""Name of a test list that was drawn (`bdfm splits --test`), beside sites that are kept out."""
Split = dict[str, list[str]]
"""Case ids of a fold: `train` and `val`."""
_SHAPE = [{"train": [str], "val": [str]}]


def read_splits(path: str | os.PathLike[str]) -> list[Split]:
    """Return the folds of a splits_final.json, at least one.

    Raises:
        InputError: as `read_json`; or the file is not a list of train and val cases, or a case name cannot be a file
            name.

    Example:
        >>> from bdfm_nnunet.files import write_json
        >>> write_json("splits_final.json", [{"train": ["case_1"], "val": ["case_2"]}])
        >>> read_splits("splits_final.json")[0]["val"]
        ['case_2']
    """
    content = read_json(path)
    fault = fault_of(content, _SHAPE) or ("" if content else "it has no fold")
    if fault:
        raise InputError(
            f"{path} is no list of train and val cases ({fault}): make it anew with `bdfm splits --overwrite`"
        )
    splits = [{part: list(fold[part]) for part in ("train", "val")} for fold in content]
    for case in dict.fromkeys(case for fold in splits for part in fold.values() for case in part):
        check_name(case, f"case id in {Path(path)}")
    return splits


@dataclass(frozen=True)
class KeptOut:
    """Training cases that are in no fold on purpose.

    Attributes:
        sites: sites that were kept out (`bdfm splits --external`), as `GROUPING=VALUE`, to their cases: a test set
            outside the distribution. Under `DRAWN` a test list from the same population.
        without_target: of which no target is known that the splits are stratified by.
    """

    sites: Mapping[str, frozenset[str]] = field(default_factory=dict)
    without_target: frozenset[str] = frozenset()

    @property
    def external(self) -> frozenset[str]:
        """The cases of all sites that were kept out, and of the test list."""
        return self.outside | self.test_list

    @property
    def outside(self) -> frozenset[str]:
        """The cases of all sites that were kept out: those outside the distribution."""
        return frozenset[str]().union(*(cases for site, cases in self.sites.items() if site != DRAWN))

    @property
    def test_list(self) -> frozenset[str]:
        """The cases that were drawn for a test, of the same population as the folds."""
        return self.sites.get(DRAWN, frozenset())

    def of_sites(self, wanted: Sequence[str]) -> list[str]:
        """Return the cases of some sites that were kept out, sorted.

        Args:
            wanted: `GROUPING=VALUE` or `VALUE` alone, in small letters or capitals; without any, those of all sites.

        Raises:
            InputError: nothing was kept out, or not that site.

        Example:
            >>> KeptOut({"site=Ulm": frozenset({"case_3"})}).of_sites(["ulm"])
            ['case_3']
        """
        if not self.external:
            raise InputError(
                f"no site is kept out of the folds by {SPLITS_TABLE}: make the splits with `bdfm splits --external "
                "SITE` and train, or give the images with -i"
            )
        found: set[str] = set()
        for text in wanted or self.sites:
            fitting = [site for site in self.sites if text.casefold() in (site.casefold(), _value_of(site))]
            if not fitting:
                raise InputError(f"--external {text} was not kept out: name one of {', '.join(sorted(self.sites))}")
            found.update(*(self.sites[site] for site in fitting))
        return sorted(found)

    @property
    def cases(self) -> frozenset[str]:
        """All of them."""
        return self.external | self.without_target


def _value_of(site: str) -> str:
    return site.partition("=")[2].casefold()


_TABLE = {"external?": {str: [str]}, "without_target?": [str]}


def read_kept_out(*folders: Path) -> KeptOut:
    """Return the cases that the first splits_table.json of some folders of a data set keeps out of all folds.

    Raises:
        InputError: it cannot be read.

    Example:
        >>> from bdfm_nnunet.files import write_json
        >>> write_json("splits_table.json", {"folds": [], "external": {"site=Ulm": ["case_3"]}})
        >>> read_kept_out(Path(".")).external
        frozenset({'case_3'})
    """
    for folder in folders:
        if os.path.lexists(folder / SPLITS_TABLE):
            content = read_json(folder / SPLITS_TABLE, _TABLE)
            sites = {site: frozenset(cases) for site, cases in content.get("external", {}).items()}
            found = KeptOut(sites, frozenset(content.get("without_target", ())))
            for case in sorted(found.cases):
                check_name(case, f"case id in {folder / SPLITS_TABLE}")
            return found
    return KeptOut()
