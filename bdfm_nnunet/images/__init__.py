"""Medical images as files: reading them whole, on the grid that nnU-Net sees, or saying why not."""
