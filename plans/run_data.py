"""The runs of a data set as preprocessed data: the same files under another name, so that they take no room twice."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from bdfm_nnunet.checksums import Checksums, write_checksums
from bdfm_nnunet.files import cannot_read, cannot_write, unfinished, write_json
from bdfm_nnunet.images.sequence_files import PREPROCESSED
from bdfm_nnunet.plans.prepared_files import RECORD_FILE, forget, read_record

logger = logging.getLogger(__name__)


def place_runs(runs: Mapping[str, list[Path]], folder: Path, state: str, *, workers: int) -> None:
    """Put the files of all runs into a folder of preprocessed data, unless they are there, and note their checksums.

    Files are hard links where the file system can have them, else copies. The folder gets its name when it is complete.

    Args:
        runs: id of a run to its files.
        folder: that of the data set in nnUNet_preprocessed.
        state: what the data is made from; where it is recorded already, nothing is done.
        workers: number of threads.

    Raises:
        InputError: a file cannot be read or written.
    """
    target, record = folder / PREPROCESSED, read_record(folder)
    checksums = Checksums.of(target) if target.is_dir() else None
    if record.get("data", {}).get(PREPROCESSED) == state and _is_complete(runs, target, checksums):
        logger.info("the preprocessed data in %s is up to date", target)
        if checksums is None:
            write_checksums(target, {}, workers=workers)
        return
    with _made_aside(target) as partial:
        files = [path for paths in runs.values() for path in paths]
        with ThreadPoolExecutor(workers) as pool:
            placed = pool.map(lambda path: _place(path, partial / path.name), files)
            copies = sum(tqdm(placed, total=len(files), desc="placing runs", unit="file", disable=None))
        forget(folder, record, PREPROCESSED)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    logger.info("%s holds %d runs, %d files of them copied", target, len(runs), copies)
    write_checksums(target, {}, workers=workers)
    write_json(folder / RECORD_FILE, record | {"data": record.get("data", {}) | {PREPROCESSED: state}})


@contextmanager
def _made_aside(target: Path) -> Iterator[Path]:
    """Give a folder that is filled in this block; what is left of it after an error is removed."""
    partial = unfinished(target)
    try:
        partial.mkdir()
        yield partial
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _place(source: Path, target: Path) -> bool:
    """Link or copy a file; return whether it was copied."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            blamed = cannot_read if error.filename == os.fspath(source) else cannot_write
            raise blamed(Path(error.filename or target), error) from error
        return True
    return False


def _is_complete(runs: Mapping[str, list[Path]], target: Path, checksums: Checksums | None) -> bool:
    there = {path.name for path in target.iterdir()} if target.is_dir() else set()
    complete = there == {path.name for paths in runs.values() for path in paths}
    return complete and (checksums is None or checksums.sizes_fit())
