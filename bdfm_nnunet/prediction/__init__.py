"""`bdfm predict`: nnU-Net's prediction, faster, with the same segmentations."""
