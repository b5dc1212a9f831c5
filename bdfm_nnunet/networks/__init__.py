"""Networks: the Swin encoder and U-Net, one view over encoders, and the decoders of masked image modelling."""

from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.networks.swin_unet import SwinUNet

__all__ = ["EncoderView", "SwinEncoder", "SwinUNet", "encoder_of"]
