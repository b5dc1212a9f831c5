"""Networks: Swin, ResNet-18 and NeuroSTORM encoders, U-Nets, a common view of encoders, and costs of networks."""

from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.neurostorm_network import NeuroSTORM
from bdfm_nnunet.networks.projector import Projector
from bdfm_nnunet.networks.resnet import ResNet18
from bdfm_nnunet.networks.resnet_unet import ResNet18UNet
from bdfm_nnunet.networks.state_space_scan import selective_scan
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.networks.swin_unet import SwinUNet

__all__ = [
    "EncoderView",
    "NeuroSTORM",
    "NeurostormEncoder",
    "Projector",
    "ResNet18",
    "ResNet18UNet",
    "SwinEncoder",
    "SwinUNet",
    "encoder_of",
    "selective_scan",
]
