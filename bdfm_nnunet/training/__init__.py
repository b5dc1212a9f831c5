"""Training: one subclass of nnU-Net's trainer, and the plain objects that it is made of."""
