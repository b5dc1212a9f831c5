"""The known releases: one table entry each. A new release is an entry in one of these files."""

from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.releases.anatomy import ANATOMY
from bdfm_nnunet.dataset_conversion.releases.brats import BRATS
from bdfm_nnunet.dataset_conversion.releases.lesions import LESIONS
from bdfm_nnunet.dataset_conversion.releases.tumours import TUMOURS
from bdfm_nnunet.dataset_conversion.releases.vessels import VESSELS

__all__ = ["KNOWN_RELEASES"]

KNOWN_RELEASES: dict[str, Release] = {**BRATS, **TUMOURS, **LESIONS, **ANATOMY, **VESSELS}
"""Every known release by name, in the order of the lists."""
