"""Plans of a small network, which a processor trains in minutes, for benchmarks of what is learned.

    python benchmarks/narrow_plans.py 711 --plans Known --name KnownNarrow [--patch 48 48 40]

A residual encoder of 8 to 64 channels with one block in each of four stages; everything else is that of the plans.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder

WIDTHS = (8, 16, 32, 64)


def narrow(dataset: str, plans: str, name: str, *, patch_size: Sequence[int] = (32, 32, 32)) -> None:
    """Write plans of a small network beside the plans of a data set that have a residual encoder.

    Args:
        dataset: its folder's name.
        plans: name of the plans that it has.
        name: of the new ones.
        patch_size: voxels per axis, multiples of 8.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    content = json.loads((folder / f"{plans}.json").read_text(encoding="utf-8"))
    configuration = content["configurations"]["3d_fullres"]
    configuration |= {"patch_size": list(patch_size), "batch_size": 2}
    configuration.pop("costs", None)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": len(WIDTHS),
        "features_per_stage": list(WIDTHS),
        "kernel_sizes": [[3] * 3] * len(WIDTHS),
        "strides": [[1] * 3, *[[2] * 3] * (len(WIDTHS) - 1)],
        "n_blocks_per_stage": [1] * len(WIDTHS),
        "n_conv_per_stage_decoder": [1] * (len(WIDTHS) - 1),
    }
    write_json(folder / f"{name}.json", content | {"plans_name": name})


def main() -> int:
    """Narrow the plans of a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=int)
    parser.add_argument("--plans", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 32, 32))
    options = parser.parse_args()
    narrow(dataset_name(options.dataset), options.plans, options.name, patch_size=options.patch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
