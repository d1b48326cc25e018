"""Ray actors that score, dispatch to them, and how jobs share them."""
