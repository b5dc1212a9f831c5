"""The devices on which networks run, for the record of a run."""

import platform

import torch

from bdfm_nnunet.results import UsedDevice


def used_device(device: torch.device) -> UsedDevice:
    """Return the model and the identity of a device.

    Example:
        >>> used_device(torch.device("cpu")).name
        'cpu'
    """
    if device.type != "cuda":
        return UsedDevice(name=device.type, machine=platform.node())
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    identity = None if uuid is None else f"GPU-{uuid}"
    return UsedDevice(name=torch.cuda.get_device_name(device), uuid=identity, machine=platform.node())


def device_of_prediction(kind: str) -> UsedDevice:
    """Return the device of a prediction on "cpu", "cuda" or "mps"; one that is not there, the prediction will tell of.

    Example:
        >>> device_of_prediction("cpu").name
        'cpu'
    """
    there = kind != "cuda" or torch.cuda.is_available()
    return used_device(torch.device(kind)) if there else UsedDevice(name=kind)
