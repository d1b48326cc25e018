"""`evo quickstart`: its settings, its way, and what it shows at the end."""
