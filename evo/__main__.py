"""`python -m evo`: the `evo` command."""

from evo.cli import main

raise SystemExit(main())
