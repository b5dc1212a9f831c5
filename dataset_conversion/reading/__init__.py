"""Reading downloads: which files there are, to which case each belongs, and what tables say of the cases."""
