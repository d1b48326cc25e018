"""Names for systems that take ASCII alone, such as Ray's metrics, runs and actors."""

from __future__ import annotations

import hashlib
import unicodedata


def ascii_name(name: str) -> str:
    """The name itself where it is printable ASCII; else its nearest ASCII and 8 digits of a hash.

    Names that differ stay different, and the same name gives the same result everywhere.

    Args:
        name: any text.
    """
    if name.isascii() and name.isprintable():
        return name
    decomposed = unicodedata.normalize("NFKD", name)
    near = "".join(c for c in decomposed if c.isascii() and (c.isalnum() or c in " ._=+@%-"))
    # A path that is no UTF-8 has characters that cannot be encoded.
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{near}-{digest}" if near else digest
