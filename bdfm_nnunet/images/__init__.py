"""Medical image files: read whole, on the grid that nnU-Net sees, or refused with the reason."""
