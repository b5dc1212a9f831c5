"""The folder that `nnUNet_extTrainer` points at (`bdfm env` prints the line)."""
