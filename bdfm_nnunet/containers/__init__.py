"""`bdfm container`: trained models as containers that challenges run, and attacks on them before anybody else does."""
