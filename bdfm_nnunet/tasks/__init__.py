"""What a training learns: one file per task. The trainer knows none of them."""
