"""nnU-Net's prediction commands with our predictor."""

import sys
from collections.abc import Sequence
from functools import partial

from nnunetv2.inference import predict_from_raw_data as nnunet

from bdfm_nnunet.prediction.argument_checks import check_dataset
from bdfm_nnunet.prediction.predictor import Options, Predictor


def run_command(arguments: Sequence[str], options: Options) -> None:
    """Run nnUNetv2_predict, or with -m nnUNetv2_predict_from_modelfolder, with this predictor.

    Args:
        arguments: of nnU-Net's command.
        options: ours.

    Raises:
        InputError: the model or the images cannot be used.
    """
    if "-d" in arguments[:-1]:
        check_dataset(arguments[arguments.index("-d") + 1])
    from_folder = "-m" in arguments
    name = "nnUNetv2_predict_from_modelfolder" if from_folder else "nnUNetv2_predict"
    command = nnunet.predict_entry_point_modelfolder if from_folder else nnunet.predict_entry_point
    sys.argv = [name, *arguments]
    stock = nnunet.nnUNetPredictor
    nnunet.nnUNetPredictor = partial(Predictor, options=options)  # the commands look the name up when they run
    try:
        command()
    finally:
        nnunet.nnUNetPredictor = stock
