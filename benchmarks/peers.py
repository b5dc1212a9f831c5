"""One training step of our default pre-training beside whole networks of others.

MONAI's SwinUNETR (48 features) and nnU-Net's residual U-Net (the stages of ResEnc-M for this patch) segment 4 channels
into 3 classes: forward, backward and AdamW on one made-up image. Every network lives in a separate process and takes
turns with ours; all have the same fused AdamW and keep freed memory. This places the cost; it is no race, as they do
another thing.

    python benchmarks/peers.py [--quick]
"""

from itertools import product
from pathlib import Path
from typing import Any

import step
import torch
from torch import nn

from bdfm_nnunet.allocator import keep_freed_memory
from floors import left_out, types_for
from harness import Result, Spread, Table, options, parse, peak_memory, prose

PEERS = ("SwinUNETR", "ResEnc-M")


def peer(kind: str) -> nn.Module:
    """Return a segmentation network of others, 4 channels to 3 classes."""
    if kind == "SwinUNETR":
        from monai.networks.nets import SwinUNETR

        network: nn.Module = SwinUNETR(in_channels=4, out_channels=3, feature_size=48)
        return network
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    return ResidualEncoderUNet(
        4, 5, [32, 64, 128, 256, 320], nn.Conv3d, 3, [1, 2, 2, 2, 2], [1, 3, 4, 6, 6], 3, [1, 1, 1, 1],
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip


def serve_peer(name: str, size: int, device: str) -> None:
    """Run one training step of a peer whenever the other process asks for it."""
    kind, precision = name.split()
    libraries = peak_memory()
    keep_freed_memory()
    network, images = peer(kind).to(device), step.images_for(1, size, device, channels=4)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-4, fused=True)
    step.serve_step(
        lambda: network(images).float().square().mean(), optimizer, precision, device, clip=False, libraries=libraries
    )


def main() -> None:
    """Compare every peer with ours in the same precision and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    step.add_arm_options(parser)
    settings = parse(parser, quick={"rounds": 1, "processes": ["ResEnc-M"], "precisions": ["fp32"]})
    if settings.arm:
        if settings.arm.startswith(PEERS):
            serve_peer(settings.arm, settings.size, settings.device)
        else:
            step.serve_arm(settings.arm, settings.batch, settings.size, settings.device)
        return
    shown = {name: value for name, value in vars(settings).items() if name not in ("arm", "batch")}
    result = Result(
        "Beside networks of others", prose(__doc__), shown, ("torch", "monai", "dynamic-network-architectures")
    )
    table = Table(f"{settings.size}^3 voxels, batch of 1", ["network", "s", "ours s", "ratio", "GiB", "ours GiB"])
    table.note = left_out(settings.device) if "bf16" in settings.precisions else ""
    precisions = [name for name in settings.precisions if name in types_for(settings.device)]
    for kind, precision in product(settings.peers, precisions):
        name, ours = f"{kind} {precision}", f"default {precision}"
        times, ends = step.compare(Path(__file__), [ours, name], settings, 1)
        ratio = Spread.of([a / b for a, b in zip(times.seconds[name], times.seconds[ours], strict=True)])
        memory: list[Any] = [f"{ends[arm]['memory'] / 2**30:.2f}" for arm in (name, ours)]
        table.rows.append([name, str(times.of(name)), str(times.of(ours)), str(ratio), *memory])
        result.raw[name] = {"seconds": times.seconds, "ends": ends}
    result.tables.append(table)
    result.write(settings.json)


if __name__ == "__main__":
    main()
