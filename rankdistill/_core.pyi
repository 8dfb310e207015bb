"""The Rust extension: score files and stores, token stores, seekable shuffling."""

__version__: str
DEBUG_BUILD: bool
