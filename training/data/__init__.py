"""Which blocks of the text form which step, and how they are read ahead."""
