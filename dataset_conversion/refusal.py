"""How a case says that it cannot be used."""


class Refusal(Exception):
    """Why a case cannot be used: one sentence that names the file and the remedy."""
