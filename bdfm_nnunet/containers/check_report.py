"""The report of a check: a table of inputs, and what a container did with each."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from bdfm_nnunet.files import write_atomically, write_json
from bdfm_nnunet.safe_names import printable

LONGEST = 200
"""Letters of a cell."""


@dataclass(frozen=True)
class CheckedInput:
    """A row of the table.

    Attributes:
        what: the input.
        right: what is right to do with it.
        did: what the container did.
        passed: whether that was right.
    """

    what: str
    right: str
    did: str
    passed: bool


@dataclass
class CheckReport:
    """What a check has found.

    Attributes:
        container: name of the challenge.
        sandbox: how the container was run, in words.
        rows: one for each input.
        seconds_per_case: of a case of the usual size; None where it was not measured.
        minutes: for the challenge's number of cases, at that; None where one is not known.
        peak_mib: largest memory of a run; None where it was not measured.
        device: on which it ran.
    """

    container: str
    sandbox: str
    rows: list[CheckedInput] = field(default_factory=list)
    seconds_per_case: float | None = None
    minutes: float | None = None
    peak_mib: float | None = None
    device: str = "cpu"

    @property
    def failed(self) -> list[CheckedInput]:
        """The rows in which the container did something wrong."""
        return [row for row in self.rows if not row.passed]

    def add(self, what: str, right: str, did: str, passed: bool) -> None:
        """Add a row."""
        shown = printable(did)
        self.rows.append(CheckedInput(what, right, shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}...", passed))

    def table(self) -> str:
        """Return the table in Markdown."""
        lines = ["| input | right is | what it did | |", "|---|---|---|---|"]
        for row in self.rows:
            cells = [text.replace("|", "\\|") for text in (row.what, row.right, row.did)]
            lines.append(f"| {' | '.join(cells)} | {'pass' if row.passed else 'FAIL'} |")
        return "\n".join(lines)

    def write(self, folder: Path, name: str) -> None:
        """Write it as NAME.json and NAME.md.

        Args:
            folder: where; it is made.
            name: of the sandbox.

        Raises:
            InputError: they cannot be written.
        """
        write_json(folder / f"{name}.json", {**asdict(self), "failed": len(self.failed)})
        with write_atomically(folder / f"{name}.md") as temporary:
            text = f"# {self.container}, run {name}: {self.sandbox}\n\n{self.table()}\n"
            temporary.write_text(text, encoding="utf-8")
