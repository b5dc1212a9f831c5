"""Tasks: what a training learns, one file each. The trainer knows none of them."""
