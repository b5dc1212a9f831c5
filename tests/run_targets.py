"""The tiny cohort of 4-D runs with targets: group, age, survival and what was done in a run."""

import shutil
from pathlib import Path

from bdfm_nnunet.cli import main
from bdfm_nnunet.table_files import read_table, write_table
from tests.conftest import Prepared
from tests.sequence_cohort import GROUPS, NUMBER, RUNS

TASKS = ("rest", "motor")
SURVIVAL = {subject: (100.0 * (number + 1), int(number != 3)) for number, subject in enumerate(RUNS)}
"""Subject -> days, and whether they ended in death."""
AGES = {subject: 20.0 + 5 * number for number, subject in enumerate(RUNS)}


def with_run_targets(prepared: Prepared, root: Path) -> Prepared:
    """Copy the data set to a folder of one's own, which the environment must point at, and install targets."""
    own = Prepared(root, labelled=NUMBER, unlabelled=NUMBER)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        folder = prepared.folder(variable, NUMBER)
        shutil.copytree(folder, root / variable / folder.name)
    table = own.folder("nnUNet_raw", NUMBER) / "runs.csv"
    rows = read_table(table)
    at = rows[0].index("task")
    for number, row in enumerate(rows[1:]):
        row[at] = TASKS[number % 2]
    write_table(table, rows)
    words = ["targets", "-d", str(NUMBER)]
    assert main([*words, "--column", "task"]) == 0  # of runs.csv
    people = [["participant_id", "group", "age", "time", "dead"]]
    people += [
        [f"sub-{subject}", GROUPS[n % 2], str(AGES[subject]), *map(str, SURVIVAL[subject])]
        for n, subject in enumerate(RUNS)
    ]
    write_table(root / "people.csv", people)
    columns = ["--column", "group:binary", "--positive", "group=linked", "--column", "age:continuous"]
    columns += ["--column", "os:survival=time/dead", "--unit", "age=years", "--unit", "os=days"]
    assert main([*words, str(root / "people.csv"), *columns, "--add"]) == 0
    return own
