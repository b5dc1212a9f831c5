import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from bdfm_nnunet.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(50_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

taken = keep_freed_memory() if {keep} else False
faults()
print(taken, faults())
"""


def _run(keep: bool) -> tuple[bool, int]:
    script = SCRIPT.replace("{keep}", str(keep))
    taken, faults = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    return taken == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_buffers_are_reused() -> None:
    (_, before), (taken, after) = _run(False), _run(True)
    if not taken:
        pytest.skip("the C library is not glibc")
    assert before >= 10 * 90  # with pages of 512 kB even
    assert after < before / 20
