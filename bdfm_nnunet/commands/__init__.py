"""The subcommands of `bdfm`, by topic: each module adds its parsers and holds their handlers.

Handlers import what they need when they run, so that `bdfm --help` is instant.
"""
