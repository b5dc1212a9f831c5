"""Self-supervised pre-training and fine-tuning for brain MRI, native to nnU-Net v2."""

__version__ = "0.1.0"
