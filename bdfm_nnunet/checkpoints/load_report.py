"""What became of every tensor of a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass
class LoadReport:
    """What became of every tensor.

    Attributes:
        path: the checkpoint.
        sha256: its digest.
        kind: the project that wrote it, as in `Checkpoint`.
        exposure: the cases it was trained on, as in `Checkpoint`.
        notes: sentences of its reader, as in `Checkpoint`.
        loaded: names of the network whose tensors were loaded as they are.
        adapted: names of the network whose tensors were loaded in another shape, and how.
        new: names of the network for which the checkpoint holds nothing usable, and why.
        ignored: names of the checkpoint that were not loaded, and why.
        encoder_share: share of the encoder's parameters that were loaded or adapted, 0 to 1.
        stem_share: the same for the full-resolution stem beside a Swin encoder; 0 for a network without.
        source_share: share of the checkpoint's encoder that found a place, 0 to 1.
        buffers: number of names in `loaded` that are buffers, such as statistics.
        behind: names of tensors behind a gap, which were loaded because it was asked for.
        differences: what the checkpoint's network computes otherwise, as far as the file tells.
        assumed: what the file does not say, and what was taken for it.
        checked: how far each stage is from the checkpoint's network on a random image, or why that was not looked at.
        trainer: the trainer of the checkpoint.
        licence: of the weights, as in `Checkpoint`.
        citations: what their authors ask to cite, as in `Checkpoint`.

    Example:
        >>> report = LoadReport(Path("a.pth"), "0" * 64, new={"head.weight": "not in the checkpoint"})
        >>> print(report)
        weights from a.pth (sha256 000000000000): 0.0% of the encoder; 0 tensors loaded, 0 adapted,
        1 left new, 0 ignored, 0.0% of the checkpoint's encoder used
          left new: not in the checkpoint: head.weight
        Of this network's encoder 0% starts from a.pth (trained by weights on data that the file does not name);
        the decoder starts anew. Licence: not stated by the file.
    """

    path: Path
    sha256: str
    kind: str = "weights"
    exposure: Any = None
    notes: tuple[str, ...] = ()
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    encoder_share: float = 0.0
    stem_share: float = 0.0
    source_share: float = 0.0
    buffers: int = 0
    behind: list[str] = field(default_factory=list)
    differences: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    trainer: str | None = None
    licence: str = ""
    citations: tuple[str, ...] = ()

    def note(self, name: str, fits: bool, how: str) -> None:
        """Enter a tensor of the network for which the checkpoint holds a candidate.

        Args:
            name: in the network.
            fits: whether it is loaded.
            how: how its shape was changed, or why it is not loaded; empty where it was loaded as it is.
        """
        if not fits:
            self.new[name] = how
        elif how:
            self.adapted[name] = how
        else:
            self.loaded.append(name)

    def drop(self, name: str, why: str) -> None:
        """Take back that a tensor of the network is loaded: it stays new."""
        self.adapted.pop(name, None)
        if name in self.loaded:
            self.loaded.remove(name)
        self.new[name] = why

    @property
    def sentence(self) -> str:
        """All of it in one sentence, and the licence."""
        adapted = "; ".join(dict.fromkeys(self.adapted.values()))
        adapted = f", adapted: {adapted}" if 0 < len(adapted) < 200 else f", {len(self.adapted)} tensors adapted"
        taken = sum(name.startswith("decoder.") for name in (*self.loaded, *self.adapted))
        decoder = "the decoder comes from there too" if taken else "the decoder starts anew"
        return (
            f"Of this network's encoder {self.encoder_share:.0%} starts from {self.path.name} (trained by "
            f"{self.trainer or self.kind} on {_data_of(self.exposure)}){adapted if self.adapted else ''}; {decoder}. "
            f"Licence: {self.licence or 'not stated by the file'}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the exposure, for a JSON file."""
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "exposure"}
        return {"sentence": self.sentence, **content, "path": str(self.path)}

    def __str__(self) -> str:
        stem = f" and {self.stem_share:.1%} of the stem" if self.stem_share else ""
        counted = f" (of which {self.buffers} are buffers)" if self.buffers else ""
        lines = [
            f"weights from {self.path} (sha256 {self.sha256[:12]}): {self.encoder_share:.1%} of the encoder{stem}; "
            f"{len(self.loaded)} tensors loaded{counted}, {len(self.adapted)} adapted, {len(self.new)} left new, "
            f"{len(self.ignored)} ignored, {self.source_share:.1%} of the checkpoint's encoder used"
        ]
        lines += [f"  {self.kind}: {note}" for note in self.notes]
        lines += [f"  differs: {each}" for each in self.differences] + [f"  assumed: {each}" for each in self.assumed]
        if self.behind:
            lines.append(f"  behind a gap, as asked for: {_some(self.behind)}")
        for title, entries in (("adapted", self.adapted), ("left new", self.new), ("ignored", self.ignored)):
            lines += [f"  {title}: {line}" for line in _grouped(entries)]
        lines += [f"  check: {each}" for each in self.checked] + [f"  please cite: {each}" for each in self.citations]
        lines.append(self.sentence)
        return "\n".join(lines)


def _data_of(exposure: Any) -> str:
    """Return the names of the data sets of a record of exposure, which may be of any kind."""
    runs = exposure.get("runs") if isinstance(exposure, Mapping) else None
    found = [run.get("dataset") for run in runs if isinstance(run, Mapping)] if isinstance(runs, (list, tuple)) else []
    names = [name for name in dict.fromkeys(found) if isinstance(name, str) and name]
    return ", ".join(names) or "data that the file does not name"


def _grouped(entries: Mapping[str, str]) -> list[str]:
    """One line a reason, with the names it holds for."""
    groups: dict[str, list[str]] = {}
    for name, reason in entries.items():
        groups.setdefault(reason, []).append(name)
    return [f"{reason}: {_some(names)}" for reason, names in groups.items()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
