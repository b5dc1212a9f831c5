"""Networks: the Swin encoder and U-Net, a common view of encoders, and the costs of networks."""

from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.networks.swin_unet import SwinUNet

__all__ = ["EncoderView", "SwinEncoder", "SwinUNet", "encoder_of"]
